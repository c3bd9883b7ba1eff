"""Commands that fetch what a search found."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from services.cli import text
from services.cli.client import Client
from services.cli.options import SERVER, AsJson, Key, SearchId, Server
from services.cli.text import Json, echo_json

WEIGHTS = "model.safetensors"

Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")]
Format = Annotated[Literal["safetensors", "state_dict"], typer.Option(help="safetensors, or a dict for torch.load.")]


def best(
    search_id: SearchId,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the architecture JSON to this file.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Write the weights (safetensors) to this file.")] = None,
    as_json: AsJson = False,
    server: Server = SERVER,
    key: Key = None,
) -> None:
    """Show or save the best architecture of a finished search."""
    with Client(server, key) as client:
        result = client.best(search_id)
        if weights is not None:
            client.download(search_id, WEIGHTS, weights)
    if output is not None:
        write_json(output, result)
    if as_json:
        echo_json(result)
    else:
        screen = text.console()
        screen.print(text.groups(result))
        screen.print()
        screen.print(text.results(result))


def export(
    search_id: SearchId, output: Output, format: Format = "safetensors", server: Server = SERVER, key: Key = None
) -> None:
    """Save the weights of the best network of a finished search."""
    with Client(server, key) as client:
        client.download(search_id, WEIGHTS, output)
    if format == "state_dict":
        _save_as_state_dict(output)
    text.console().print(f"wrote {output}: {format}, {output.stat().st_size:,} bytes")


def report(
    search_id: SearchId,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write it into.")],
    pictures: Annotated[Literal["svg", "png", "pdf"], typer.Option(help="Format of the drawings.")] = "svg",
    server: Server = SERVER,
    key: Key = None,
) -> None:
    """Write a report of a search, also of one that still runs: tables, drawings, and every trial as CSV."""
    with Client(server, key) as client:
        search = client.search(search_id)
        trials = client.trials(search_id, None, {})
        result = client.best(search_id) if search["result_ready"] else None
    from automl_prune.report.told import Told
    from automl_prune.report.writing import write_report

    output.mkdir(parents=True, exist_ok=True)
    for file in write_report(output, Told(search, trials, result), pictures=pictures):
        text.console().print(f"wrote {file}")


def write_json(file: Path, data: Json) -> None:
    """Write JSON for programs and people."""
    file.write_text(json.dumps(data, indent=1, allow_nan=False), encoding="utf-8")


def _save_as_state_dict(file: Path) -> None:
    import safetensors.torch
    import torch

    torch.save(safetensors.torch.load(file.read_bytes()), file)
