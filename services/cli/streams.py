"""Commands that follow what a search says of itself: its events, and its log."""

import time
from typing import Annotated

import typer

from services.cli.client import Client, UnreachableError
from services.cli.options import SERVER, Key, SearchId, Server
from services.cli.progress import ENDED, PATIENCE_SECONDS
from services.cli.text import clean, echo_line

After = Annotated[str | None, typer.Option(help="Only those after the event of this id; 'latest': only what is to come.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the search has ended.")]

_PAUSE_SECONDS = 1.0


def events(search_id: SearchId, after: After = None, server: Server = SERVER, key: Key = None) -> None:
    """Print what happens to a search as one JSON object per line, until it has ended."""
    heard = time.monotonic()
    with Client(server, key) as client:
        while True:
            try:
                for event in client.events(search_id, after):
                    heard = time.monotonic()
                    if "id" in event:
                        echo_line(event)
                        after = str(event["id"])
                if client.search(search_id)["state"] in ENDED:
                    return
                heard = time.monotonic()
            except UnreachableError:
                if time.monotonic() - heard > PATIENCE_SECONDS:
                    raise
            time.sleep(_PAUSE_SECONDS)


def logs(search_id: SearchId, follow: Follow = False, server: Server = SERVER, key: Key = None) -> None:
    """Print the end of a search's log."""
    with Client(server, key) as client:
        piece, offset = client.log(search_id, None)
        while True:
            for line in piece.splitlines():
                typer.echo(clean(line))
            if not follow or (not piece and client.search(search_id)["state"] in ENDED):
                return
            if not piece:
                time.sleep(_PAUSE_SECONDS)
            piece, offset = client.log(search_id, offset)
