"""``automl-prune audit``: who changed what, from the database itself, as whoever may read that may read everything."""

from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import text
from services.cli.database import answering
from services.cli.options import AsJson, Home
from services.cli.text import echo_json
from services.settings import load_settings

if TYPE_CHECKING:
    from automl_prune.loop.audit import AuditEntry


def audit(
    tenant: Annotated[str | None, typer.Option(help="Only what this tenant's keys changed.")] = None,
    object_id: Annotated[
        str | None, typer.Option("--object", metavar="ID", help="Only of this search, webhook, key or device (its name).")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most changes to list.")] = 50,
    page_token: Annotated[str | None, typer.Option(help="The next_page_token of the previous page.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List who changed what, newest first: from the database of the settings, of every tenant."""
    from services.api.paging import page, read_search_token
    from services.api.views import audit_entry
    from services.wiring import open_store

    before = read_search_token(page_token)
    with answering():
        store = open_store(load_settings(home=home))
        try:
            found = store.audit(object_id=object_id, limit=limit + 1, before=before, tenant=tenant)
        finally:
            store.close()
    shown = page(found, limit, audit_entry, lambda entry: entry.id)
    if as_json:
        echo_json(shown)
        return
    headings = ("at", "tenant", "action", "object", "result", "key", "ip", "request")
    text.console().print(text.table(*headings, rows=map(_row, found[:limit])))
    if shown["next_page_token"]:
        text.console(stderr=True).print(f"There is more: --page-token {shown['next_page_token']}")


def _row(entry: "AuditEntry") -> tuple[object, ...]:
    who = entry.origin
    what = (entry.tenant, entry.action, entry.object_id, entry.result)
    return f"{entry.at:%Y-%m-%d %H:%M:%S}", *what, who.key_id, who.ip, who.request_id
