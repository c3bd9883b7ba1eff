"""``automl-prune launch``: the launcher by itself, where the HTTP service runs elsewhere (``serve --no-launcher``)."""

from typing import Annotated

import typer

from services.cli.database import answering
from services.cli.failures import FAILED
from services.cli.options import DataRoot, Home, WeightsRoot
from services.settings import Settings, load_settings


def launch(
    home: Home = None,
    data_root: DataRoot = None,
    weights_root: WeightsRoot = None,
    ray_address: Annotated[str | None, typer.Option(help="A Ray cluster, HOST:PORT; none: a local one.")] = None,
    max_running: Annotated[int | None, typer.Option(min=1, help="Searches at once.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether this machine's launcher works.")] = False,
) -> None:
    """Run the searches that wait in the database; Ctrl-C stops and queues them again. Several machines may."""
    settings = load_settings(
        home=home, data_root=data_root, weights_root=weights_root, ray_address=ray_address, max_running=max_running
    )
    if check:
        _check(settings)
        return
    from services.launcher.__main__ import main

    with answering():
        main(settings)


def _check(settings: Settings) -> None:
    """Succeed when the launcher reached the database a moment ago."""
    from services.launcher.liveness import STALE_SECONDS, Mark

    age = Mark(settings).age()
    typer.echo("No launcher runs here." if age is None else f"The launcher reached the database {age:.0f} seconds ago.")
    if age is None or age > STALE_SECONDS:
        raise typer.Exit(FAILED)
