"""The commands by name."""

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Annotated

import typer

from services.cli import (
    audit,
    database,
    demo,
    devices,
    keys,
    launch,
    listings,
    local,
    names,
    orders,
    results,
    serve,
    spaces,
    streams,
)
from services.cli.failures import Guarded

COMMANDS: Mapping[str, Mapping[str, Callable[..., None]]] = {
    "Start here": {
        "demo": demo.demo,
        "serve": serve.serve,
        "launch": launch.launch,
        "run": local.run,
        "audit": audit.audit,
    },
    "Searches": {
        "submit": orders.submit,
        "validate": orders.validate,
        "watch": orders.watch,
        "list": listings.list_searches,
        "show": listings.show,
        "trials": listings.trials,
        "best": results.best,
        "export": results.export,
        "report": results.report,
        "events": streams.events,
        "logs": streams.logs,
        "cancel": orders.cancel,
        "pause": orders.pause,
        "resume": orders.resume,
    },
    "Devices": {"agent": devices.agent},
    "What a SearchSpec can name": {
        "spaces": spaces.spaces,
        "strategies": names.strategies,
        "criteria": names.criteria,
        "datasets": names.datasets,
    },
}

app = typer.Typer(
    cls=Guarded,
    help="Channel pruning as architecture search over widths.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for panel, commands in COMMANDS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(command)
app.add_typer(keys.app, name="keys", rich_help_panel="Start here")
app.add_typer(devices.app, name="devices", rich_help_panel="Devices")
app.add_typer(database.app, name="db", rich_help_panel="Start here")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"automl-prune {version('automl-prune')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Channel pruning as architecture search over widths."""


def main() -> None:
    """Run the command line; exits the process."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may lack a character or two
    app()
