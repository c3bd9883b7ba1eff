"""Latencies of a search's candidates: predicted for all, measured where it matters, and judged by the ordered budgets."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from automl_prune.errors import MeasurementError
from automl_prune.latency.building import DeviceLatency
from automl_prune.latency.cost import LATENCY, metric_on
from automl_prune.latency.gauge import Gauge
from automl_prune.latency.timing import Timing
from automl_prune.loop.fresh import Fresh, time_afresh
from automl_prune.loop.standing import SEARCH
from automl_prune.problem import Budget
from automl_prune.space import Candidate
from automl_prune.strategies.base import MEASURES
from automl_prune.trial import Outcome, Trial, TrialState

log = logging.getLogger(__name__)

MOST_MEASURED = 40
"""Leaders of one arm that are measured at most while those within the budgets are looked for; where none of them is, the
same number of those that are predicted to be the fastest."""

LOOKS, APART = 3, 0.01
"""How often the full network is timed at the end where it takes another time than before, and by which part that counts."""

MEASURED_ARMS = (SEARCH, "random")
"""Arms of many candidates, of which too slow ones are left out; single networks go on, and are told as measured."""


@dataclass
class Latencies:
    """The devices that budget one search.

    Attributes:
        budgets: The ordered ones, with their devices; the search itself keeps a margin to them.
        gauges, devices: What measures, and what predicts, by device.
        in_ms: Devices whose budget was ordered in milliseconds, and not as a part of what the full network takes.
    """

    budgets: Mapping[str, Budget]
    gauges: Mapping[str, Gauge]
    devices: Mapping[str, DeviceLatency]
    in_ms: frozenset[str] = frozenset()
    _full_now: dict[str, float] = field(default_factory=dict, repr=False)
    _fresh: dict[Candidate, dict[str, Fresh]] = field(default_factory=dict, repr=False)
    _failed: dict[Candidate, str] = field(default_factory=dict, repr=False)

    # Milliseconds ----------------------------------------------------------------------------------------------------

    def measure(self, candidate: Candidate, names: Iterable[str] | None = None) -> dict[str, float]:
        """Milliseconds by device; measured once, however often it is asked for.

        Args:
            candidate: Of the space.
            names: The devices; None: all.

        Raises:
            MeasurementError: One of them cannot time it.
        """
        names = list(self.gauges if names is None else names)
        if candidate in self._fresh:
            return {name: self._fresh[candidate][name].ms for name in names}
        return {name: timing.ratio * self._full_ms(name) for name, timing in self._timings(candidate, names).items()}

    def predict(self, candidate: Candidate) -> dict[str, float]:
        """Milliseconds by device, from the tables."""
        return {
            name: float(found.model(self.gauges[name].space.array([candidate]))[0]) for name, found in self.devices.items()
        }

    def predicted_part(self, candidate: Candidate) -> float:
        """Which part of the tightest maximum a candidate is predicted to take."""
        return max(ms / self.budgets[name].max for name, ms in self.predict(candidate).items())

    def _timings(self, candidate: Candidate, names: Iterable[str]) -> Mapping[str, Timing]:
        if candidate in self._failed:
            raise MeasurementError(self._failed[candidate])
        if candidate in self._fresh:
            return {name: self._fresh[candidate][name].timing for name in names}
        try:
            return {name: self.gauges[name].time([self.gauges[name].work(candidate)])[0] for name in names}
        except MeasurementError as error:
            self._failed[candidate] = str(error)
            raise

    def _full_ms(self, name: str) -> float:
        return self._full_now.get(name, self.devices[name].full_ms)

    # Before and after evaluation -------------------------------------------------------------------------------------

    @property
    def doubted(self) -> list[str]:
        """Devices whose predictions are not trusted: candidates are measured there before they are evaluated."""
        return [name for name, found in self.devices.items() if not found.trusted]

    def awaited(self, trial: Trial) -> list[str]:
        """Devices that have to be asked before a trial is handed out."""
        if trial.arm not in MEASURED_ARMS or trial.candidate in self._failed:
            return []
        return [name for name in self.doubted if not self.gauges[name].is_known(trial.candidate)]

    def foresee(self, trial: Trial) -> Outcome | None:
        """The outcome of a trial that need not be evaluated: it was measured to be too slow, or cannot be measured."""
        if trial.arm not in MEASURED_ARMS or not self.doubted:
            return None
        try:
            measured = self.measure(trial.candidate, self.doubted)
        except MeasurementError as error:
            return Outcome.failed(str(error))
        slow = [name for name, ms in measured.items() if ms > self.budgets[name].max]
        if not slow or MEASURES in trial.origin:
            return None
        said = f"It takes {measured[slow[0]]:.4g} ms on {slow[0]!r}, measured; {self._ordered(slow[0])}."
        return Outcome(TrialState.INFEASIBLE, metrics=_by_metric(measured), reason=said)

    def judge(self, trial: Trial, outcome: Outcome) -> Outcome:
        """An outcome with the candidate's latencies among its metrics, predicted or, where that is not trusted, measured.

        Also that of a trial that was stopped early, which has no score.
        """
        if outcome.state not in (TrialState.COMPLETE, TrialState.STOPPED):
            return outcome
        taken = self.predict(trial.candidate)
        if self.doubted:
            try:
                taken |= self.measure(trial.candidate, self.doubted)
            except MeasurementError as error:
                return Outcome.failed(str(error), outcome.cost)
        return replace(outcome, metrics={**outcome.metrics, **_by_metric(taken)})

    # Leaders ---------------------------------------------------------------------------------------------------------

    def is_measurable(self, candidate: Candidate) -> bool:
        """Whether every device can time a candidate; what cannot be told of with milliseconds is not handed out."""
        try:
            self._timings(candidate, self.gauges)
        except MeasurementError as error:
            log.warning("a leader is passed over: %s", error)
            return False
        return True

    def within(self, candidate: Candidate) -> bool:
        """Whether what was measured of a candidate meets every ordered budget; what cannot be measured does not."""
        return self.is_measurable(candidate) and self._meets(self.measure(candidate))

    def confirm(self, candidate: Candidate) -> bool:
        """The same by new timings, of the candidate and, where milliseconds were ordered, of the full network too."""
        if not self.within(candidate):
            return False
        for name in self.in_ms - self._full_now.keys():
            self._full_now[name] = self._time_full(name)
        if candidate not in self._fresh:
            try:
                self._fresh[candidate] = {
                    name: time_afresh(gauge, candidate, self.budgets[name], self._full_ms(name))
                    for name, gauge in self.gauges.items()
                }
            except MeasurementError as error:
                self._failed[candidate] = str(error)
        return self.within(candidate)

    def record(self, candidate: Candidate) -> dict[str, Any]:
        """New timings of a candidate as JSON data, by device; :meth:`recall` reads them back."""
        return {name: fresh.to_json() for name, fresh in self._fresh.get(candidate, {}).items()}

    def recall(self, candidate: Candidate, recorded: Mapping[str, Any]) -> None:
        """Take over what an earlier driver measured of a candidate that it handed out; it decides now as it did then."""
        if recorded.keys() == self.gauges.keys():
            found = {name: Fresh.from_json(data) for name, data in recorded.items()}
            self._full_now |= {name: found[name].full_ms for name in self.in_ms}
            self._fresh[candidate] = {name: replace(fresh, full_ms=self._full_ms(name)) for name, fresh in found.items()}

    def _time_full(self, name: str) -> float:
        """Milliseconds of the full network now; the median of a few timings where they seem to have changed.

        Where it cannot be timed any more, what it took before: by now every trial of the search is paid for.
        """
        gauge, before = self.gauges[name], self.devices[name].full_ms
        found: list[float] = []
        for _ in range(LOOKS):
            try:
                now = gauge.afresh(gauge.space.full)
            except MeasurementError as error:
                log.warning("the full network is taken to need %.4g ms on %r, as before: %s", before, name, error)
                return before
            found.append((now.ms + now.reference_ms) / 2)
            if len(found) == 1 and abs(found[0] / before - 1) <= APART:
                break
        return median(found)

    def why_none(self, candidates: Sequence[Candidate]) -> str | None:
        """How far off the nearest of some candidates is, if all that were measured miss the budgets."""
        anew = [candidate for candidate in candidates if candidate in self._fresh]  # where some were, that decided
        known = [self._known(candidate) for candidate in anew or candidates if candidate not in self._failed]
        decided = [taken for taken in known if len(taken) == len(self.gauges) or not self._meets(taken)]
        if not decided or any(map(self._meets, decided)):
            return None
        _, name, ms = min(map(self._miss, decided))
        return (
            f"None of the {len(decided)} candidates that were measured is within the budgets: the nearest takes {ms:.4g} ms "
            f"on {name!r}; {self._ordered(name)}. Change the budget, or raise trials.max."
        )

    def _known(self, candidate: Candidate) -> dict[str, float]:
        """Milliseconds on the devices that need not be asked for them."""
        return self.measure(candidate, [name for name, gauge in self.gauges.items() if gauge.is_known(candidate)])

    def _meets(self, taken: Mapping[str, float]) -> bool:
        return all(self.budgets[name].holds(ms) for name, ms in taken.items())

    def _miss(self, taken: Mapping[str, float]) -> tuple[float, str, float]:
        """By how much the worst budget is missed, on which device, and what was measured there."""
        return max((max(ms / self.budgets[n].max, self.budgets[n].min / ms), n, ms) for n, ms in taken.items())

    def _ordered(self, name: str) -> str:
        budget = self.budgets[name]
        least = f"at least {budget.min:.4g} ms" if budget.min > 0 else ""
        most = f"at most {budget.max:.4g} ms" if budget.max < float("inf") else ""
        return f"the budget is {' and '.join(filter(None, [least, most]))}"

    # Results ---------------------------------------------------------------------------------------------------------

    def row(self, candidate: Candidate) -> dict[str, Any]:
        """What a result says of one network: measured milliseconds by device, and the measurement with its prediction."""
        measured, predicted, details = self.measure(candidate), self.predict(candidate), {}
        for name, timing in self._timings(candidate, self.gauges).items():
            fresh = self._fresh[candidate][name] if candidate in self._fresh else Fresh(timing, timing.error, 1, 0.0)
            sure = {"error": fresh.error, "timings": fresh.timings}
            details[name] = {"measured_ms": measured[name], "predicted_ms": predicted[name], **timing.to_json(), **sure}
        return {LATENCY: measured, "latency": details}

    def describe(self) -> dict[str, Any]:
        """The devices with their tables' checks, as JSON data."""
        return {name: found.to_json() for name, found in self.devices.items()}


def first_within(
    latencies: Latencies | None,
    trials: Sequence[Trial],
    keep: int,
    *,
    afresh: bool = False,
    after: Collection[Candidate] = (),
) -> list[Trial]:
    """The first of some trials, best first, whose measured latencies meet the budgets.

    Args:
        latencies: What measures; None: nothing has to be measured.
        trials: Of distinct candidates.
        keep: How many.
        afresh: Whether they are timed once more for this, whatever is known of them.
        after: Candidates that were decided for before; the search goes on behind the last of them.
    """
    left = trials[max((i for i, trial in enumerate(trials) if trial.candidate in after), default=-1) + 1 :]
    if latencies is None:
        return list(left[:keep])
    meets = latencies.confirm if afresh else latencies.within
    fastest = sorted(left[MOST_MEASURED:], key=lambda trial: latencies.predicted_part(trial.candidate))
    found: list[Trial] = []
    for some in (left[:MOST_MEASURED], fastest[:MOST_MEASURED]):
        for trial in some:
            if len(found) == keep:
                return found
            if meets(trial.candidate):
                found.append(trial)
        if found:
            break
    return found


def drop_flat(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics without the latencies, which results tell by device."""
    return {name: value for name, value in metrics.items() if not name.startswith(f"{LATENCY}@")}


def _by_metric(taken: Mapping[str, float]) -> dict[str, float]:
    return {metric_on(name): ms for name, ms in taken.items()}
