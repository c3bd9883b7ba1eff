"""``automl-prune demo``: the main job from start to end, over HTTP, with a service of its own."""

import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from automl_prune.errors import UserError
from services.cli import children, text
from services.cli.client import Client, RefusedError, UnreachableError
from services.cli.options import DataRoot
from services.cli.orders import conclude, page
from services.cli.progress import follow, shown
from services.cli.results import WEIGHTS, write_json
from services.cli.text import Json
from services.home import make_home
from services.settings import Settings, load_settings

BEST, LOG = "best.json", "service.log"
SERVICE_GRACE_SECONDS = 60.0

Space = Annotated[str | None, typer.Option(help="Network to search; digits_resnet where the dataset is digits.")]
Weights = Annotated[Path | None, typer.Option(help="Weights of the full network; without, it is trained first.")]
Trials = Annotated[int, typer.Option(min=1, help="Candidates that the strategy may evaluate, and the random control too.")]
Share = Annotated[float, typer.Option(min=0.01, max=1, help="Share of the full network's MACs that may be kept.")]


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service running until Ctrl-C.")] = False,
    dataset: Annotated[str, typer.Option(help="Dataset to score on.")] = "digits",
    space: Space = None,
    weights: Weights = None,
    data_root: DataRoot = None,
    trials: Trials = 40,
    budget: Share = 0.5,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the service; 0 takes a free one.")] = 0,
    home: Annotated[Path | None, typer.Option(help="Folder for everything; else a new one below the user's data.")] = None,
) -> None:
    """Start a service, search digits_resnet on digits at half its MACs, and show what came out."""
    spec = order(dataset, space, weights, trials, budget)
    settings = demo_settings(home, data_root, weights)
    screen = text.console()
    screen.print("starting the service …")
    with children.stoppable(), service(settings, port) as (child, server), Client(server) as client:
        screen.print(f"{server} answers; ordering a search of {spec['search_space']['name']} on {dataset}")
        search = ordered(client, spec, screen)
        finish(client, search, settings.home, screen)
        if keep:
            screen.print(f"page:    {page(client, search)}\nStill serving; Ctrl-C stops it.")
            wait_for_interrupt(child, settings)
        else:
            again = f"automl-prune serve --home {shlex.quote(str(settings.home))}"
            screen.print(f"page:    http://127.0.0.1:{settings.port}/searches/{search['id']} once you run: {again}")


def wait_for_interrupt(child: children.Child, settings: Settings) -> None:
    """Wait for Ctrl-C; raises UnreachableError when the service ends before."""
    with suppress(KeyboardInterrupt):
        child.wait()
        raise UnreachableError(f"The service ended by itself; see {settings.home / LOG}.")


def order(dataset: str, space: str | None, weights: Path | None, trials: int, budget: float) -> Json:
    """The demo's SearchSpec; raises UserError when it cannot know which network to search."""
    digits = dataset == "digits"
    if space is None and not digits:
        raise UserError(f"Name the network to search on {dataset!r} with --space; 'automl-prune spaces' lists them.")
    if weights is not None and not weights.is_file():
        raise UserError(f"There is no weight file {weights}.")
    return {
        "name": f"demo: {space or 'digits_resnet'} on {dataset}",
        "labels": {"from": "demo"},
        "search_space": {"name": space or "digits_resnet"},
        "weights": weights.resolve().name if weights else None,
        "base_training": {"epochs": 20, "lr": 0.1},
        "dataset": {"name": dataset, "select_size": 400, "batch_size": 64} if digits else {"name": dataset},
        "strategy": {"name": "auto"},
        "budgets": [{"metric": "macs", "max_ratio": budget}],
        "controls": ["uniform", "random"],
        "finish": {"top_k": 3 if digits else 1, "recovery": "fine_tune", "epochs": 5 if digits else 0.25, "lr": 0.02},
        "trials": {"max": trials, "parallel": 2},
    }


def demo_settings(home: Path | None, data_root: Path | None, weights: Path | None) -> Settings:
    """Settings of the demo's own service, which shares nothing with any other; trained networks are kept for the next."""
    usual = load_settings()
    below = usual.home / "automl-prune-demo"
    if home is None:
        make_home(usual.home)
        make_home(below)
        new = Path(tempfile.mkdtemp(prefix=f"{datetime.now():%Y%m%d-%H%M%S}-", dir=below))
    folder = (home or new).absolute()
    return load_settings(
        home=folder,
        database_url=f"sqlite:///{folder / 'automl-prune.sqlite3'}",
        artifacts_root=folder / "artifacts",
        cache_dir=below / "cache" if home is None else folder / "cache",
        data_root=data_root,
        weights_root=weights.resolve().parent if weights else None,
        host="127.0.0.1",
    )


@contextmanager
def service(settings: Settings, port: int) -> Iterator[tuple[children.Child, str]]:
    """The service as a child process, with its address; raises UnreachableError when it does not start."""
    make_home(settings.home)
    log = settings.home / LOG
    with log.open("ab") as stream:
        child = children.start(
            "services.cli", "serve", "--port", str(port), settings=settings, stdout=subprocess.PIPE, stderr=stream
        )
    try:
        yield child, _address(child, log)
    finally:
        children.end(child, SERVICE_GRACE_SECONDS)


def _address(child: children.Child, log: Path) -> str:
    first = child.stdout.readline().decode() if child.stdout else ""
    found = re.search(r"http://\S+", first)
    if found is None:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise UnreachableError(f"The service did not start: {last[0] if last else 'it said nothing'} (see {log}).")
    return found[0]


def ordered(client: Client, spec: Json, screen: Console) -> Json:
    """Order a search and follow it to its end; on Ctrl-C it is cancelled."""
    search = client.submit(spec)
    screen.print(f"page: {page(client, search)}")
    try:
        with shown(screen) as display:
            return follow(lambda: client.search(search["id"]), display, pause=0.5)
    except KeyboardInterrupt:
        with suppress(RefusedError, UnreachableError):
            client.cancel(search["id"])
        raise


def finish(client: Client, search: Json, folder: Path, screen: Console) -> None:
    """Save and show the result; exits with 1 when there is none."""
    result: Any = client.best(search["id"]) if search["result_ready"] else None
    if result is None:
        screen.print(f"logs: {folder / 'artifacts' / search['id'] / 'search.log'}, {folder / LOG}")
    else:
        write_json(folder / BEST, result)
        client.download(search["id"], WEIGHTS, folder / WEIGHTS)
        screen.print(text.groups(result))
        screen.print()
    conclude(search, result, screen)
    screen.print(f"\nJSON:    {folder / BEST}\nweights: {folder / WEIGHTS}")
