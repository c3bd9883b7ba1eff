"""``automl-prune run``: a whole search without a server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from automl_prune import plugins
from automl_prune.errors import UserError
from services.cli import text
from services.cli.children import stoppable
from services.cli.options import AsJson, DataRoot, Home, SpecFile, WeightsRoot
from services.cli.orders import conclude
from services.cli.progress import Display, shown
from services.cli.specs import read_spec
from services.cli.text import Json, echo_json
from services.settings import Settings, load_settings

if TYPE_CHECKING:
    from automl_prune.loop.latencies import Progress
    from automl_prune.loop.plan import Plan

Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="A new folder for the result files.")]

_FOREVER = 1e9


def run(
    spec: SpecFile,
    output: Output = None,
    home: Home = None,
    data_root: DataRoot = None,
    weights_root: WeightsRoot = None,
    as_json: AsJson = False,
) -> None:
    """Run a search here, without a server; exits with 1 unless it succeeds."""
    from automl_prune.loop.plan import make_plan
    from automl_prune.loop.spec import SearchSpec
    from services.admission import Admissions
    from services.wiring import roots

    settings = load_settings(home=home, data_root=data_root, weights_root=weights_root)
    plugins.allow(settings.plugins)
    screen = text.console(stderr=as_json)
    order = SearchSpec.parse(read_spec(spec))
    plan = make_plan(order, roots(settings), admit=Admissions(settings), progress=timing_on(screen))
    folder = new_folder(output or Path(f"automl-prune-{spec.stem}"))
    with stoppable(), shown(screen) as display:
        search = search_here(plan, settings, folder, display)
    if as_json:
        echo_json(search["result"])
    conclude(search, search["result"], screen)
    screen.print(f"files: {folder}")


def timing_on(screen: Console) -> "Progress":
    """Says how far devices are: a line for every tenth of the way."""
    last: dict[str, int] = {}

    def tell(device: str, done: int, of: int) -> None:
        if last.get(device) != (tenth := 10 * done // of):
            last[device] = tenth
            screen.print(f"timing blocks on {device}: {done} of {of}")

    return tell


def new_folder(path: Path) -> Path:
    """The folder, absolute, made if need be; raises UserError when it already holds something."""
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise UserError(f"{path} is not empty; name a new folder with -o.")
    return path.absolute()


def search_here(plan: "Plan", settings: Settings, folder: Path, display: Display) -> Json:
    """Run a checked order in this process tree; returns the search as a server would show it, and its ``result``.

    Raises:
        EvaluationError: Nothing could be evaluated.
    """
    from automl_prune.loop.run import run_search
    from automl_prune.storage.memory import MemoryStore
    from services.api.standings import Standings
    from services.api.views import search as view
    from services.wiring import cluster, make_executor

    spec, store = plan.spec, MemoryStore()
    store.add_search(spec.model_dump(mode="json"), name=spec.name, labels=spec.labels)
    job = store.claim(lease_seconds=_FOREVER)
    assert job is not None  # it was added just now, and nobody else knows the store
    search_id, standings = job.id, Standings(store)

    def seen() -> Json:
        now, progress = store.get_search(search_id), store.progress(search_id)
        return view(now, progress, standings.best_by_arm(now), base_url=None)

    executor = make_executor(plan, search_id, settings)
    with cluster(executor, settings):
        ended = run_search(plan, job, store, executor, folder, on_trial=lambda _: display.update(seen()))
    return seen() | {"result": ended.result}
