"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

SERVER = "http://127.0.0.1:8422"

Server = Annotated[str, typer.Option(envvar="AUTOML_PRUNE_SERVER", help="Address of the service.")]
Key = Annotated[str | None, typer.Option(envvar="AUTOML_PRUNE_KEY", help="API key, where the service asks for one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
SearchId = Annotated[str, typer.Argument(metavar="ID", help="The search.")]
SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="A SearchSpec as .json or .yaml.")]
Home = Annotated[Path | None, typer.Option(help="Where the service keeps what it writes.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder that datasets lie below.")]
WeightsRoot = Annotated[Path | None, typer.Option(help="Folder that weight files lie below.")]
