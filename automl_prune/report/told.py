"""What a service tells of a search, as a report needs it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Json = Mapping[str, Any]

ARMS = {
    "search": "search",
    "random": "control: random",
    "uniform": "control: uniform",
    "global": "control: global",
}
"""The arms that compete, and what they are called."""
LATENCY = "latency_ms"
Span = tuple[str, float, float, int]
"""A trial's state, its start and its end in seconds since the search's, and its row."""


@dataclass(frozen=True)
class Bound:
    """A budget in absolute terms; None: not on this side."""

    metric: str
    least: float | None
    most: float | None

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Whether a trial's costs are within it; one that does not know the metric is."""
        value = metrics.get(self.metric)
        return value is None or (self.least or 0) <= value <= (float("inf") if self.most is None else self.most)


@dataclass(frozen=True)
class Network:
    """One network of the result, its scores by where they come from.

    Attributes:
        before: Score on the report split before recovery; None where there was none.
        report: The same after it.
        searched: Score that the search saw.
    """

    name: str
    searched: float | None
    before: float | None
    report: float | None
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Told:
    """A search in the JSON of the REST interface.

    Attributes:
        search: ``GET /v1/searches/{id}``.
        trials: Items of ``GET /v1/searches/{id}/trials``, all of them.
        result: ``GET /v1/searches/{id}/best``; None before the search has succeeded.
    """

    search: Json
    trials: Sequence[Json]
    result: Json | None = None

    @property
    def metric(self) -> str:
        """What is optimised."""
        return str(self.search["spec"]["objective"])

    @property
    def base(self) -> Mapping[str, float]:
        """Costs of the full network, and its score on the select split once it has one."""
        return flat(self.search["base"])

    @property
    def bounds(self) -> list[Bound]:
        """The budgets; empty before the search has begun."""
        items = self.search["info"].get("budgets", ())
        return [Bound(key(item), item.get("min"), item.get("max")) for item in items]

    @property
    def cost(self) -> str:
        """The first budget's metric."""
        return key(self.search["spec"]["budgets"][0])

    @property
    def devices(self) -> Mapping[str, Json]:
        """How well latencies are predicted, by device."""
        found: Mapping[str, Json] = self.search["info"].get("latency") or {}
        return found

    def scored(self, arm: str) -> list[Json]:
        """Complete trials of an arm that have a score, in the order in which they ended."""
        found = [t for t in self.trials if t["arm"] == arm and t["state"] == "complete" and self.metric in t["metrics"]]
        return sorted(found, key=lambda t: str(t["ended_at"]))

    def unscored(self, state: str) -> list[Json]:
        """Trials of the arms that compete that ended in a state without a score."""
        return [t for t in self.trials if t["arm"] in ARMS and t["state"] == state]

    def source(self, metric: str) -> str:
        """How trials know a device's latency: predicted or measured; empty for any other metric."""
        about = self.devices.get(metric.partition("@")[2])
        return "" if about is None else "predicted" if about["trusted"] else "measured"

    def spans(self) -> list[Span]:
        """Trials that ended, by when they were started, each in the first parallel row that was free by then."""
        origin = datetime.fromisoformat(self.search["started_at"] or self.search["created_at"])
        ended = sorted((t for t in self.trials if t.get("started_at") and t["ended_at"]), key=lambda t: str(t["started_at"]))
        free: list[float] = []
        found = []
        for trial in ended:
            start, end = (
                (datetime.fromisoformat(trial[moment]) - origin).total_seconds() for moment in ("started_at", "ended_at")
            )
            row = next((row for row, until in enumerate(free) if until <= start), len(free))
            free[row : row + 1] = [end]
            found.append((str(trial["state"]), start, end, row))
        return found

    def is_better(self, one: float, than: float) -> bool:
        """Whether a score beats another."""
        return one < than if self.metric == "loss" else one > than

    def best_so_far(self, arm: str) -> list[tuple[int, float]]:
        """The best score within the budgets after each evaluation, from the first that is within them."""
        best, line = None, []
        for count, trial in enumerate(self.scored(arm), start=1):
            score = trial["metrics"][self.metric]
            if all(bound.holds(trial["metrics"]) for bound in self.bounds) and (best is None or self.is_better(score, best)):
                best = score
            if best is not None:
                line.append((count, best))
        return line

    def networks(self) -> Iterator[Network]:
        """The full network, the best, and the controls; nothing before there is a result."""
        if self.result is None:
            return
        base, best = self.result["base_metrics"], self.result["metrics"]
        searched = (base.get("select") or {}).get(self.metric)
        yield Network("full network", searched, None, base.get(self.metric), flat(base))
        rows = {"search": best, **self.result["controls"]}
        for arm, row in rows.items():
            before = row.get(f"{self.metric}_before_recovery")
            name = "best of the search" if arm == "search" else ARMS.get(arm, arm)
            yield Network(name, row["search"].get(self.metric), before, row.get(self.metric), flat(row))


def key(budget: Json) -> str:
    """The name under which trials report what a budget bounds."""
    return f"{LATENCY}@{budget.get('device') or 'local'}" if budget["metric"] == LATENCY else str(budget["metric"])


def flat(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by name; a result tells latencies by device, trials know each by a name of its own."""
    named = {f"{LATENCY}@{device}": ms for device, ms in (metrics.get(LATENCY) or {}).items()}
    return named | {name: v for name, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool)}
