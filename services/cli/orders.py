"""Commands that order searches, follow them, and stop them."""

from typing import Annotated
from urllib.parse import urljoin

import typer
from rich.console import Console

from services.cli import spaces, text
from services.cli.client import Client
from services.cli.failures import FAILED
from services.cli.news import News
from services.cli.options import SERVER, AsJson, Key, SearchId, Server, SpecFile
from services.cli.progress import follow, shown, stage
from services.cli.spaces import All
from services.cli.specs import read_spec
from services.cli.text import Json, echo_json


def submit(
    spec: SpecFile,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the search to its end.")] = False,
    as_json: AsJson = False,
    server: Server = SERVER,
    key: Key = None,
) -> None:
    """Order a search."""
    data = read_spec(spec)
    with Client(server, key) as client:
        search = client.submit(data)
        if watch:
            follow_to_end(client, search["id"], as_json)
        elif as_json:
            echo_json(search)
        else:
            text.console().print(f"{search['id']} is {search['state']}; see {page(client, search)}")


def validate(
    spec: SpecFile, everything: All = False, as_json: AsJson = False, server: Server = SERVER, key: Key = None
) -> None:
    """Check an order on the server without placing it."""
    data = read_spec(spec)
    with Client(server, key) as client:
        summary = client.validate(data)
    if as_json:
        echo_json(summary)
        return
    screen = text.console()
    if everything:
        spaces.show_groups(summary, screen, everything)
        screen.print()
    rows = [
        *spaces.facts(summary),
        ("full network", text.costs(summary["base"])),
        ("narrowest", text.costs(summary["narrowest"])),
        ("uniform control", text.costs(summary["uniform"])),
        ("budgets", text.budgets(summary["budgets"])),
        ("evaluations", f"at most {summary['evaluations']}, controls included"),
        ("time", text.estimate(summary["time"])),
    ]
    screen.print(text.facts(rows))


def watch(search_id: SearchId, as_json: AsJson = False, server: Server = SERVER, key: Key = None) -> None:
    """Follow a search to its end; exits with 1 unless it succeeds."""
    with Client(server, key) as client:
        client.search(search_id)  # what does not exist is refused before anything is shown
        follow_to_end(client, search_id, as_json)


def cancel(search_id: SearchId, as_json: AsJson = False, server: Server = SERVER, key: Key = None) -> None:
    """Stop a search."""
    with Client(server, key) as client:
        search = client.cancel(search_id)
    _say(search, as_json, "" if search["state"] == "cancelled" else "; it stops within some seconds")


def pause(search_id: SearchId, as_json: AsJson = False, server: Server = SERVER, key: Key = None) -> None:
    """Let a search rest; it keeps everything, and frees its workers."""
    with Client(server, key) as client:
        search = client.pause(search_id)
    _say(search, as_json, "" if search["state"] == "paused" else "; it pauses after the trials in flight")


def resume(search_id: SearchId, as_json: AsJson = False, server: Server = SERVER, key: Key = None) -> None:
    """Let a paused search go on where it was."""
    with Client(server, key) as client:
        search = client.resume(search_id)
    _say(search, as_json, "")


def _say(search: Json, as_json: bool, note: str) -> None:
    if as_json:
        echo_json(search)
    else:
        text.console().print(f"{search['id']} is {search['state']}{note}")


def follow_to_end(client: Client, search_id: str, as_json: bool) -> None:
    """Show a search's progress and how it ended; exits with 1 unless it succeeded."""
    screen = text.console(stderr=as_json)
    with shown(screen) as display, News(client, search_id) as news:
        search = follow(lambda: client.search(search_id), display, wait=news.wait)
    if as_json:
        echo_json(search)
    conclude(search, client.best(search_id) if search["result_ready"] else None, screen)


def conclude(search: Json, result: Json | None, screen: Console) -> None:
    """Say how a search ended; exits with 1 unless it has a result."""
    screen.print(f"{search['id']} {stage(search)}")
    if result is None:
        raise typer.Exit(FAILED)
    screen.print(text.results(result))


def page(client: Client, search: Json) -> str:
    """The search's page, absolute."""
    return urljoin(f"{client.server}/", str(search["links"]["page"]))
