"""The page, drawn by a real browser from a real server."""

import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from PIL import Image
from scipy.stats import spearmanr
from sqlalchemy import insert
from starlette.middleware.base import RequestResponseEndpoint

from automl_prune.execution.inline import InlineExecutor
from automl_prune.latency.stopwatch import TracedNetwork
from automl_prune.loop.job import SearchState
from automl_prune.loop.ports import Store
from automl_prune.loop.run import run_search
from automl_prune.storage import rows, rules
from automl_prune.storage.keys import ApiKeys
from automl_prune.storage.sql import SqlStore
from automl_prune.storage.tables import TrialRow
from automl_prune.trial import Outcome, Trial, TrialState
from tests.latency.clockwork import Clockwork
from tests.loop.test_latencies import ORDER as UNDER_LATENCY
from tests.loop.test_latencies import plan_of
from tests.loop.test_latency_trials import Halting
from tests.services.browser import opened
from tests.services.conftest import SPACE
from tests.services.waiting import until

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
]
AT_ONCE = "--virtual-time-budget=4500"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")

SLOW_ON_POSTGRESQL = True

Fill = Callable[[Store], str]
Browse = Callable[..., str]


@pytest.fixture
def browse(app: FastAPI, serve: Callable[[FastAPI], str], tmp_path: Path) -> Browse:
    """Opens a path of the app in a browser, checks that nothing was refused or raised, and returns the document."""
    app.state.feed.close()  # the browser's virtual time stands still while a stream is open: without one, the page polls
    address = serve(app)

    def run(path: str, *flags: str, refused: bool = False) -> str:
        assert BROWSER is not None
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [BROWSER, *QUIET, AT_ONCE, profile, *(flags or ["--dump-dom"]), address + path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line and not (refused and "status of 401" in line)]
        assert not said, said
        return done.stdout

    return run


def marks(document: str, kind: str) -> int:
    """Marks in plots; those in legends have no title."""
    return len(re.findall(f'<g class="mark {kind}"[^>]*><title>', document))


def test_a_search_is_drawn(browse: Browse, store: SqlStore, fill: Fill) -> None:
    job_id = fill(store)
    document = browse(f"/searches/{job_id}")
    assert {kind: marks(document, kind) for kind in ("search", "random", "uniform", "best")} == {
        "search": 7,
        "random": 3,
        "uniform": 1,
        "best": 1,
    }
    assert document.count('<line class="budget"') == 1
    assert "budget ≤ " in document
    assert 'class="base-label"' in document
    for arm in ("search", "random", "uniform"):
        assert re.search(f'<path class="line {arm}" d="M[0-9.]+ [0-9.]+H', document)
    assert document.count('<g class="group">') == 2
    assert len(re.findall('role="img" aria-label="[^"]{20,}"', document)) == 6
    assert len(re.findall('<path class="line fifth-[0-4]"[^>]*><title>', document)) == 11
    assert document.count('<path class="line of-best"') == 1
    assert Counter(re.findall('<rect class="span ([a-z]+)"[^>]*><title>', document)) == {"complete": 11, "failed": 1}
    assert "1 failed trial has no score" in document
    assert 'href="http://127.0.0.1:8265"' in document
    assert f'href="/v1/searches/{job_id}/artifacts/model.safetensors"' in document
    assert "0 of 2 slots busy" in document
    assert "Cancel search" in document


def test_importances_are_rank_correlations(browse: Browse, store: SqlStore, fill: Fill) -> None:
    document = browse(f"/searches/{fill(store)}")
    job_id = store.list_searches()[0].id
    scored = [t.trial for t in store.trials(job_id) if t.trial.arm != "base" and "top1" in t.trial.metrics]
    told = dict(re.findall(r'<rect class="share [a-z]+"[^>]*><title>(\S+) ([+−][0-9.]+)</title>', document))
    assert told.keys() == set(SPACE.names)
    for i, name in enumerate(SPACE.names):
        widths, scores = [t.candidate.widths[i] for t in scored], [t.metrics["top1"] for t in scored]
        assert float(told[name].replace("−", "-")) == pytest.approx(spearmanr(widths, scores).statistic, abs=0.0051)


def test_of_very_many_trials_a_part_is_drawn(browse: Browse, store: SqlStore, fill: Fill) -> None:
    job_id = fill(store)
    body = rules.outcome_to_json(Outcome(TrialState.COMPLETE, {"top1": 0.5, "macs": 1e5}))
    now = datetime.now(UTC)
    ended = {"state": "complete", "outcome": body, "asked_at": now, "started_at": now, "ended_at": now}
    many = [rows.asked(job_id, Trial(n, SPACE.narrowest), n) | ended for n in range(14, 1214)]
    with store.database.write() as session:
        session.execute(insert(TrialRow), many)
    document = browse(f"/searches/{job_id}")
    assert len(re.findall('<rect class="span [^>]*><title>', document)) == 1000
    assert "The last 1000 of 1212 trials." in document
    assert len(re.findall('<path class="line fifth-[0-4]"[^>]*><title>', document)) == 150
    assert "150 of 1211 scored trials, evenly by rank." in document


def test_trials_are_listed_and_their_text_stays_text(browse: Browse, store: SqlStore, fill: Fill) -> None:
    document = browse(f"/searches/{fill(store)}")
    table = document[document.index('<table class="trials">') :]
    assert len(re.findall('<tr[^>]*><th scope="row"', table)) == 14
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in table
    assert "<script>alert" not in document
    assert table.count("★") == 1


def test_a_finished_search_shows_what_was_reported(browse: Browse, store: SqlStore, fill: Fill) -> None:
    job_id = fill(store)
    job = store.get_search(job_id)
    base = job.info["base"]
    result: dict[str, Any] = {
        "metrics": {"top1": 0.7777, "macs": base["macs"] / 4},
        "base_metrics": {**base, "top1": 0.8},
        "controls": {"uniform": {"top1": 0.75}, "random": {"top1": 0.79}},
        "groups": [{"name": "conv1", "width": 4, "full_width": 16, "members": ["conv1"]}],
    }
    store.set_state(job_id, job.attempt, SearchState.SUCCEEDED, reason="Done as ordered.", result=result)
    document = browse(f"/searches/{job_id}").replace("\N{NO-BREAK SPACE}", " ").replace("&nbsp;", " ")
    for shown in (
        "Reported top-1",
        "77.77 %",
        "−2.23 points",
        "+2.77 points",
        "−1.23 points",
        "25.0 % of full",
        "Done as ordered.",
    ):
        assert shown in document, shown
    assert "conv1: 4 of 16 channels kept (25.0 %)" in document
    assert f'href="/v1/searches/{job_id}/best"' in document
    assert "Cancel search" not in document


def test_searches_are_listed(browse: Browse, store: SqlStore, fill: Fill) -> None:
    job_id = fill(store)
    document = browse("/")
    assert f'href="/searches/{job_id}">toy search</a>' in document
    assert "pill running" in document
    assert "1 running, 0 queued" in document
    assert re.search(r'<progress max="24" value="12" aria-label="12 of 24 evaluations">', document)
    assert "team: edge" in document


def test_an_empty_list_tells_how_to_begin(browse: Browse) -> None:
    document = browse("/")
    assert "No searches yet" in document
    assert "automl-prune submit spec.yaml" in document
    assert re.search(r"curl -X POST http://127\.0\.0\.1:\d+/v1/searches", document)


def test_an_unknown_search_says_so(browse: Browse) -> None:
    document = browse("/searches/srch_unknown")
    assert "There is nothing here" in document
    assert "There is no search 'srch_unknown'." in document


def test_the_api_page_lists_every_operation(browse: Browse, app: FastAPI) -> None:
    document = browse("/docs")
    assert document.count('class="verb ') == sum(len(verbs) for verbs in app.openapi()["paths"].values())
    assert 'id="schema-SearchSpec"' in document


@pytest.mark.parametrize("width", [1300, 420])
def test_colours_reach_the_screen(browse: Browse, store: SqlStore, fill: Fill, tmp_path: Path, width: int) -> None:
    picture = tmp_path / "page.png"
    browse(f"/searches/{fill(store)}", f"--screenshot={picture}", f"--window-size={width},1600")
    with Image.open(picture) as image:
        assert image.size == (width, 1600)
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or []}
    budget, best, uniform, kept = (0xA1, 0x1D, 0x2B), (0xB0, 0x12, 0x6F), (0x16, 0x7A, 0x54), (0x0B, 0x63, 0xCE)
    assert {budget, best, uniform, kept} <= colours


def test_the_page_asks_for_a_key_where_one_is_needed(browse: Browse, store: SqlStore, fill: Fill) -> None:
    job_id = fill(store)
    ApiKeys(store.database).create("test")
    for path in ("/", f"/searches/{job_id}", "/docs"):
        document = browse(path, refused=True)
        assert "This service asks for an API key" in document
        assert '<input type="password" id="key"' in document
        assert "toy search" not in document


def evaluate(store: SqlStore, job_id: str, number: int) -> None:
    store.record_ask(job_id, 1, Trial(number, SPACE.narrowest))
    store.record_start(job_id, 1, number)
    store.record_outcome(job_id, 1, number, Outcome(TrialState.COMPLETE, {"top1": 0.5, "macs": 1.0}))


def test_a_trial_appears_without_asking_again_and_again(
    app: FastAPI, serve: Callable[[FastAPI], str], store: SqlStore, fill: Fill, tmp_path: Path
) -> None:
    """Also after the server was gone: the page polls, finds the stream again, and goes on from its last event."""
    assert BROWSER is not None
    job_id, asked = fill(store), Counter[str]()

    @app.middleware("http")
    async def count(request: Request, call_next: RequestResponseEndpoint) -> Response:
        asked[request.url.path.rpartition("/")[2]] += 1
        return await call_next(request)

    rows = "document.querySelectorAll('table.trials tbody tr').length"
    with opened(BROWSER, QUIET, tmp_path / "profile") as tab:
        tab.open(f"{serve(app)}/searches/{job_id}")
        tab.wait(f"{rows} === 14")

        def quiet() -> bool:
            so_far = asked.copy()
            time.sleep(4)
            return asked == so_far

        until(lambda: app.state.feed.streams == 1 and quiet(), why=lambda: f"nothing happens, and yet it asks: {asked}")
        before = asked.copy()
        for number in (20, 21):
            evaluate(store, job_id, number)
            tab.wait(f"{rows} === {number - 5}")
        assert asked["events"] == 1
        assert 1 <= asked["trials"] - before["trials"] <= 8

        for listener in list(app.state.feed._listeners):
            listener.stop()
        evaluate(store, job_id, 22)
        tab.wait(f"{rows} === 17")
        store.set_state(job_id, 1, SearchState.SUCCEEDED, reason="finished")
        tab.wait("document.querySelector('.pill').textContent === 'succeeded'")
        assert asked["events"] == 2


@pytest.mark.parametrize("trusted", [True, False])
def test_a_latency_budget_is_drawn_with_what_was_measured(
    browse: Browse, store: SqlStore, tmp_path: Path, trusted: bool
) -> None:
    fault, how = ((1.0,), "predicted") if trusted else ((1.0, 1.6, 0.6), "measured")
    clock = Clockwork("pi4", TracedNetwork.registered("digits_resnet", 10), fault=fault)
    budgets = [{"metric": "latency_ms", "max_ratio": 0.6, "device": "pi4"}]
    plan = plan_of(UNDER_LATENCY | {"budgets": budgets}, tmp_path / "search", clock)
    store.add_search(plan.spec.model_dump(mode="json"), name=None, labels={})
    job = store.claim(lease_seconds=600)
    assert job is not None
    run_search(plan, job, store, InlineExecutor(), tmp_path / "artifacts", make_evaluator=Halting)
    document = browse(f"/searches/{job.id}").replace("\N{NO-BREAK SPACE}", " ").replace("&nbsp;", " ")
    for shown in (
        "stopped early, so not scored",
        f"latency on pi4 (ms), {how} →",
        "; 0 did not settle.",
        "pi4: torch 1, batch 1, 1 thread, float32",
        "of 12 other networks",
        "R² ",
    ):
        assert shown in document
    labels = re.findall('role="img" aria-label="([^"]+)"', document)
    assert "Scatter plot of measured against predicted latency of 12 networks on pi4." in labels
    assert any(label.startswith("Scatter plot of latency on pi4 against MACs of ") for label in labels)
    assert f"↑ latency, ms, {how}" in document
    assert ("too slow, so not scored" in document) is not trusted
    assert ("Predictions miss by more than 10.0 %, so every candidate is measured." in document) is not trusted
    assert "budget ≤ " in document
