"""Commands that look at searches and trials."""

from typing import Annotated

import typer

from automl_prune.report.numbers import amount, quality
from services.cli import text
from services.cli.client import Client
from services.cli.options import SERVER, AsJson, Key, SearchId, Server
from services.cli.orders import page
from services.cli.progress import evaluated, stage
from services.cli.text import Json, echo_json


def list_searches(
    state: Annotated[list[str] | None, typer.Option(help="Only in this state; may be repeated.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Only of this strategy.")] = None,
    label: Annotated[str | None, typer.Option(help="Only with this label, as in team:edge.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most searches to list.")] = 20,
    as_json: AsJson = False,
    server: Server = SERVER,
    key: Key = None,
) -> None:
    """List searches, newest first."""
    with Client(server, key) as client:
        items = client.searches(limit, {"state": state, "strategy": strategy, "label": label})
    if as_json:
        echo_json({"items": items})
        return
    headings = ("id", "name", "state", "space", "strategy", "evaluated", "best", "created")
    text.console().print(text.table(*headings, rows=map(_row, items), right=("evaluated", "best")))


def show(
    search_id: SearchId,
    attempts: Annotated[bool, typer.Option("--attempts", help="Also who drove it, and why each of them ended.")] = False,
    as_json: AsJson = False,
    server: Server = SERVER,
    key: Key = None,
) -> None:
    """Show one search: its state, how far it is, and the best so far next to its controls."""
    with Client(server, key) as client:
        search = client.search(search_id)
        found = client.attempts(search_id) if attempts else []
        where = page(client, search)
    if as_json:
        echo_json({**search, "attempts": found} if attempts else search)
        return
    screen = text.console()
    screen.print(text.facts([*_facts(search), ("page", where)]))
    if attempts:
        screen.print()
        headings = ("attempt", "worker", "started", "ended", "lost", "reason")
        screen.print(text.table(*headings, rows=map(_attempt, found), right=("attempt",)))


def trials(
    search_id: SearchId,
    arm: Annotated[str | None, typer.Option(help="Only of this arm: search, uniform, random …")] = None,
    state: Annotated[str | None, typer.Option(help="Only in this state.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most trials to list; all when not given.")] = None,
    as_json: AsJson = False,
    server: Server = SERVER,
    key: Key = None,
) -> None:
    """List a search's trials."""
    with Client(server, key) as client:
        metric = client.search(search_id)["spec"]["objective"]
        items = client.trials(search_id, limit, {"arm": arm, "state": state})
    if as_json:
        echo_json({"items": items})
        return
    headings = ("trial", "arm", "state", metric, "macs", "params", "seconds", "reason")
    right = ("trial", metric, "macs", "params", "seconds")
    text.console().print(text.table(*headings, rows=(_trial(t, metric) for t in items), right=right))


def _row(search: Json) -> tuple[object, ...]:
    spec = search["spec"]
    return (
        search["id"],
        search["name"],
        search["state"],
        spec["search_space"]["name"],
        spec["strategy"]["name"],
        "{}/{}".format(*evaluated(search)),
        _score(search["best"], spec["objective"]),
        _moment(search["created_at"]),
    )


def _facts(search: Json) -> list[tuple[str, object]]:
    spec, info = search["spec"], search["info"]
    found = {"best": search["best"]} | {f"control: {arm}": trial for arm, trial in search["controls"].items()}
    return [
        ("id", search["id"]),
        ("name", search["name"]),
        ("state", stage(search)),
        ("space", spec["search_space"]["name"]),
        ("strategy", spec["strategy"]["name"]),
        ("budgets", text.budgets(info["budgets"]) if "budgets" in info else None),
        ("full network", text.costs(info["base"]) if "base" in info else None),
        ("evaluated", "{} of {} candidates".format(*evaluated(search))),
        *((name, _with_costs(trial, spec["objective"])) for name, trial in found.items() if trial),
        ("Ray dashboard", search["links"]["ray_dashboard"]),
    ]


def _trial(trial: Json, metric: str) -> tuple[object, ...]:
    metrics, seconds = trial["metrics"], trial["cost"].get("seconds")
    return (
        trial["number"],
        trial["arm"],
        trial["state"],
        quality(metric, metrics.get(metric)),
        amount(metrics.get("macs")),
        amount(metrics.get("params")),
        "–" if seconds is None else f"{seconds:.2f}",
        trial["reason"],
    )


def _attempt(attempt: Json) -> tuple[object, ...]:
    who = attempt["worker"]
    return (
        attempt["number"],
        f"{who['name']} ({who['host']}, process {who['pid']})" if who else "",
        _moment(attempt["started_at"]),
        _moment(attempt["ended_at"] or ""),
        "yes" if attempt["lost"] else "",
        attempt["reason"],
    )


def _moment(time: str) -> str:
    return time[:19].replace("T", " ")


def _score(trial: Json | None, metric: str) -> str:
    return quality(metric, trial["metrics"].get(metric) if trial else None)


def _with_costs(trial: Json, metric: str) -> str:
    return f"{metric} {_score(trial, metric)}, {text.costs(trial['metrics'])} (trial {trial['number']})"
