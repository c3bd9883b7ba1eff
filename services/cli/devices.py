"""Commands about devices: list them, and be the agent of one."""

from pathlib import Path
from typing import Annotated

import typer

from services.cli import text
from services.cli.children import stoppable
from services.cli.client import Client, RefusedError
from services.cli.options import SERVER, AsJson, Key, Server
from services.cli.text import Json, echo_json

app = typer.Typer(invoke_without_command=True)

Name = Annotated[str, typer.Option("--name", help="What this device is called, as in device: NAME of a budget.")]
DeviceName = Annotated[str, typer.Argument(help="As it is listed.")]
KeyFile = Annotated[
    Path | None, typer.Option(envvar="AUTOML_PRUNE_KEY_FILE", help="A file that holds the key, instead of --key.")
]


def agent(name: Name, server: Server = SERVER, key: Key = None, key_file: KeyFile = None) -> None:
    """Measure latency on this machine for a service, until Ctrl-C; needs a key with the scope devices."""
    from automl_prune import plugins
    from services import logs
    from services.agent.agent import Agent
    from services.agent.link import Link
    from services.measuring import Measuring
    from services.settings import load_settings

    settings = load_settings()
    logs.configure(settings.log_format)
    plugins.allow(settings.plugins)
    if key_file is not None:
        key = key_file.expanduser().read_text().strip()
    try:
        with stoppable(), Link(server, key) as link, Measuring(settings) as measuring:
            Agent(link, name, measuring.time).run()
    except KeyboardInterrupt:
        typer.echo(f"{name} stopped.", err=True)
    except RefusedError as error:
        if error.status in (401, 403):
            raise RefusedError(error.status, f"{server} does not let this agent in: {error}") from None
        raise


@app.callback()
def devices(context: typer.Context, as_json: AsJson = False, server: Server = SERVER, key: Key = None) -> None:
    """List what latency can be measured on, or remove a device."""
    if context.invoked_subcommand is not None:
        return
    with Client(server, key) as client:
        items = client.devices()
    if as_json:
        echo_json({"items": items})
        return
    headings = ("name", "state", "last heard of", "processor", "runtimes", "measured", "failed", "noise")
    text.console().print(text.table(*headings, rows=map(_row, items), right=("measured", "failed", "noise")))


@app.command()
def remove(name: DeviceName, server: Server = SERVER, key: Key = None) -> None:
    """Forget a device whose agent has ended; needs a key with the scope devices."""
    with Client(server, key) as client:
        client.remove_device(name)
    typer.echo(f"{name} is forgotten.")


def _row(device: Json) -> tuple[object, ...]:
    from automl_prune.latency.remote import ago

    built_in = device["kind"] == "built-in"
    noise = device["noise"]
    return (
        device["name"],
        "built in" if built_in else "alive" if device["alive"] else "silent",
        "" if built_in else ago(device["silent_seconds"]),
        device["fingerprint"].get("processor", ""),
        ", ".join(f"{name} {version}" for name, version in sorted(device["runtimes"].items())),
        device["measured"],
        device["failed"],
        "" if noise is None else f"{100 * noise:.2f} %",
    )
