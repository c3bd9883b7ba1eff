"""Commands about API keys; they work on the database itself, so that there can be a key before anybody listens."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import text
from services.cli.database import answering
from services.cli.options import AsJson, Home
from services.cli.text import Json, echo_json
from services.settings import Settings, load_settings

if TYPE_CHECKING:
    from automl_prune.storage.keys import ApiKey, ApiKeys

app = typer.Typer(help="API keys, in the database of the settings.", no_args_is_help=True)

SCOPES = ("search:read", "search:write", "devices", "metrics", "admin")

Name = Annotated[str, typer.Argument(help="What the key is for.")]
Tenant = Annotated[str, typer.Option(help="Whose searches the key sees, and no others.")]
Scopes = Annotated[
    list[str] | None, typer.Option("--scope", help=f"{', '.join(SCOPES)} (all but metrics); may be repeated.")
]
Days = Annotated[float | None, typer.Option(min=0, help="Days until the key expires; without, it does not.")]
Most = Annotated[int | None, typer.Option(min=0, help="Most at once, or of one search; without, no limit.")]


@app.command()
def create(
    name: Name,
    tenant: Tenant = "default",
    scope: Scopes = None,
    expires: Days = None,
    max_queued: Most = None,
    max_running: Most = None,
    max_trials: Most = None,
    max_parallel: Most = None,
    max_priority: Annotated[
        int,
        typer.Option(min=0, max=100, help="Highest priority of its searches; above 0 they go before all other tenants'."),
    ] = 0,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Make a key for search:read and search:write, or the given scopes, and show it, once."""
    from automl_prune.errors import UnknownNameError
    from automl_prune.storage.keys import KeyLimits, Scope

    wanted = scope or [Scope.READ, Scope.WRITE]
    if unknown := [s for s in wanted if s not in SCOPES]:
        raise UnknownNameError("scope", unknown[0], SCOPES)
    limits = KeyLimits(max_queued, max_running, max_trials, max_parallel, max_priority)
    with opened(load_settings(home=home)) as keys:
        key, token = keys.create(
            name,
            tenant=tenant,
            scopes=[Scope(s) for s in wanted],
            expires_in=None if expires is None else timedelta(days=expires),
            limits=limits,
        )
    if as_json:
        echo_json(_json(key) | {"key": token})
        return
    typer.echo(token)
    notes = text.console(stderr=True)
    notes.print(
        f"{key.id} for tenant {key.tenant}: {', '.join(sorted(key.scopes))}; expires {_when(key.expires_at) or 'never'}."
    )
    notes.print("It is not shown again. Send it as 'Authorization: Bearer …', or set AUTOML_PRUNE_KEY for the commands.")


@app.command("list")
def list_keys(home: Home = None, as_json: AsJson = False) -> None:
    """List the keys, without what opens anything."""
    with opened(load_settings(home=home)) as keys:
        found = list(keys.known())
    if as_json:
        echo_json({"items": [_json(key) for key in found], "next_page_token": None})
        return
    headings = ("id", "name", "tenant", "scopes", "ends in", "created", "expires", "last used", "state")
    text.console().print(text.table(*headings, rows=map(_row, found)))


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID")], home: Home = None, as_json: AsJson = False) -> None:
    """Let a key open nothing any more."""
    with opened(load_settings(home=home)) as keys:
        key = keys.revoke(key_id)
    if as_json:
        echo_json(_json(key))
    else:
        text.console().print(f"{key.id} ({key.name}) opens nothing any more.")


@app.command()
def token() -> None:
    """Print a new API key that is kept nowhere, for the file that AUTOML_PRUNE_BOOTSTRAP_KEY_FILE names."""
    from automl_prune.storage.tokens import new_token

    typer.echo(new_token())


def let_in(settings: Settings) -> None:
    """See that the key in the settings' file, if they name one, is known; raises UserError when it is none."""
    from automl_prune.storage.keys import Scope
    from services.database import secret

    if settings.bootstrap_key_file is not None:
        found = secret("bootstrap_key_file", settings.bootstrap_key_file)
        with opened(settings) as keys:
            keys.adopt(found, "bootstrap", scopes=list(Scope))


@contextmanager
def opened(settings: Settings) -> "Iterator[ApiKeys]":
    """The keys in the database of the settings, created or upgraded where needed."""
    from automl_prune.storage.keys import ApiKeys
    from services.wiring import open_store

    with answering():
        store = open_store(settings)
        try:
            yield ApiKeys(store.database)
        finally:
            store.close()


def _json(key: "ApiKey") -> Json:
    shown = {**asdict(key), "scopes": sorted(key.scopes), "limits": asdict(key.limits)}
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in shown.items()}


def _row(key: "ApiKey") -> tuple[object, ...]:
    moments = (_when(key.created_at), _when(key.expires_at) or "never", _when(key.last_used_at) or "never")
    scopes = ", ".join(sorted(key.scopes))
    return key.id, key.name, key.tenant, scopes, f"…{key.hint}", *moments, "revoked" if key.revoked_at else ""


def _when(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""
