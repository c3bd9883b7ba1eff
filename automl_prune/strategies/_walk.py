"""A network as AMC walks it: layer by layer, each step deciding what the layer takes in.

Convolutions (not depthwise ones) and linear layers are visited in order of execution. A layer whose input channels are not
decided yet decides them, one step per group; one whose input is fixed, or was decided for another layer that shares it, has
a step without a decision. Channels that no visited layer takes in are decided last.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from automl_prune.architecture import Architecture
from automl_prune.architecture.model import Layer
from automl_prune.problem import IntArray, Problem
from automl_prune.space import Candidate

FloatArray = npt.NDArray[np.float64]
States = npt.NDArray[np.float32]
Policy = Callable[[States], float]

FEATURES = ("t", "n", "c", "h", "w", "stride", "k", "cost", "reduced", "rest", "previous")
"""The eleven of the paper: the layer's place, outputs, inputs, their height and width, stride, kernel and MACs; MACs removed
by the decisions so far and those of all later layers, as parts of the full network's; the last realised preserve ratio."""
VISITED = ("conv", "linear", "recurrent")


@dataclass(frozen=True)
class Step:
    """One step of an episode.

    Attributes:
        layer: The layer that is visited.
        group: Column of the group whose width is decided here, or None.
        shape: n, c, h, w, stride and k.
        cost: Its share of the layer's MACs in the full network, with those of depthwise layers before it.
        taken_in: How much of what the layer takes in is of each column, ``[1 + groups]``; the first is fixed.
    """

    layer: str
    group: int | None
    shape: tuple[float, ...]
    cost: float
    taken_in: FloatArray


class Walk:
    """The steps through a problem's network, what is seen at each, and which widths the budgets leave.

    Args:
        problem: Its cost function tells the layers when it is a cost model of an architecture. Of any other, each group
            counts as a layer of its own that costs what widening it adds.
        lower_bound: Part of its width that every group keeps at least; more where that alone meets the budgets, as it may
            with costs that do not grow with widths.
        named: Whether each step also has a feature of its own, so that an agent can tell them apart from the start.
    """

    def __init__(self, problem: Problem, lower_bound: float, *, named: bool = False) -> None:
        self.problem, self.space = problem, problem.space
        self.full = np.array(problem.space.full.widths, dtype=np.int64)
        bounds = Candidate(tuple(self.rounded(g, lower_bound) for g in range(len(self.full))))
        self.lowest = np.array(problem.eased(bounds).widths, dtype=np.int64)
        architecture: Any = getattr(problem.cost, "architecture", None)
        costs = problem.costs(problem.space.full)
        self.metric = "macs" if "macs" in costs else next(iter([*(b.metric for b in problem.budgets), *costs]))
        self.whole = max(costs[self.metric], np.finfo(np.float64).tiny)
        traced = isinstance(architecture, Architecture)
        self.steps = tuple(_layers(architecture, problem.space.names) if traced else self._groups())
        rest = self.whole - sum(step.cost for step in self.steps)  # of no layer that is visited; paid for before the first
        own = np.array([step.cost for step in self.steps]) / self.whole
        own[0] += rest / self.whole
        self.own = own
        self.rest = np.append(np.cumsum(own[::-1])[::-1][1:], 0.0)
        table = np.array([(t, *s.shape, c) for t, (s, c) in enumerate(zip(self.steps, own, strict=True))], dtype=np.float64)
        self._table = np.concatenate([_scaled(table), np.zeros((len(table), 3))], axis=1)
        self._table[:, FEATURES.index("rest")] = np.clip(self.rest, 0, 1)
        if named:
            self._table = np.concatenate([self._table, np.eye(len(table))], axis=1)
        self.features = self._table.shape[1]

    def lower_to_budget(self) -> None:
        """Where the lower bounds themselves exceed a maximum: scale them down until they do not."""
        self.lowest = np.array(self.problem.fit(Candidate(tuple(self.lowest.tolist()))).widths, dtype=np.int64)

    def rounded(self, group: int, ratio: float) -> int:
        """The group's width at a preserve ratio: to whole channels, then up to the next allowed width (as published)."""
        choices = self.space.choices[group]
        wanted = round(ratio * choices[-1])
        return next((w for w in choices if w >= wanted), choices[-1])

    def state(self, t: int, widths: IntArray, previous: float) -> States:
        """What is seen at step ``t`` when undecided ``widths`` ``[groups]`` are full, ``[features]``."""
        row: States = self._seen(np.array([t]), widths[None], np.array([previous]))[0]
        return row

    def states(self, widths: Sequence[int]) -> States:
        """What was seen at every step of an episode that ended with ``widths``, ``[steps, features]``."""
        rows = np.tile(self.full, (len(self.steps), 1))
        for t, step in enumerate(self.steps[:-1]):
            if step.group is not None:
                rows[t + 1 :, step.group] = widths[step.group]
        ended = np.asarray(widths, dtype=np.int64)
        previous = np.array([1.0, *(self.realised(t, ended) for t in range(len(self.steps) - 1))])
        return self._seen(np.arange(len(self.steps)), rows, previous)

    def realised(self, t: int, widths: IntArray) -> float:
        """Part of what the layer of step ``t`` takes in that is kept; of its group alone where it decides one."""
        group = self.steps[t].group
        ratios = widths / self.full
        if group is not None:
            return float(ratios[group])
        return float(self.steps[t].taken_in @ np.concatenate([[1.0], ratios]))

    def episode(self, policy: Policy) -> tuple[Candidate, list[float]]:
        """The candidate that a policy makes, and its actions before any bound, ``[steps]``."""
        widths, undecided = self.full.copy(), np.ones(len(self.full), dtype=bool)
        actions: list[float] = []
        previous = 1.0
        for t, step in enumerate(self.steps):
            actions.append(policy(self.state(t, widths, previous)))
            if step.group is not None:
                undecided[step.group] = False
                widths[step.group] = self._bounded(step.group, actions[-1], widths, undecided)
            previous = self.realised(t, widths)
        return Candidate(tuple(widths.tolist())), actions

    def _bounded(self, group: int, action: float, widths: IntArray, undecided: npt.NDArray[np.bool_]) -> int:
        """The width that an action gets: what it asks for, unless the budgets could not be met any more.

        A maximum must hold with all that is undecided at its lower bound, a minimum with all of that full.
        """
        wanted = max(self.rounded(group, action), int(self.lowest[group]))
        narrow = np.where(undecided, self.lowest, widths)
        chosen = self._widest(group, wanted, narrow)
        if any(b.min > 0 for b in self.problem.budgets):
            wide = np.where(undecided, self.full, widths)
            wider = np.array([w for w in self.space.choices[group] if w >= chosen])
            enough = self.problem.shortfall(_with(wide, group, wider)) <= 0
            allowed = self.problem.excess(_with(narrow, group, wider)) <= 0
            return int(next(iter(wider[enough & allowed]), chosen))
        return chosen

    def _widest(self, group: int, wanted: int, narrow: IntArray) -> int:
        """The widest choice up to ``wanted`` at which no maximum is exceeded."""
        if self.problem.excess(_with(narrow, group, np.array([wanted])))[0] <= 0:
            return wanted
        lowest = int(self.lowest[group])
        choices = np.array([w for w in self.space.choices[group] if lowest <= w < wanted] or [lowest])
        fitting = choices[self.problem.excess(_with(narrow, group, choices)) <= 0]
        return int(fitting[-1]) if len(fitting) else lowest

    def _seen(self, t: IntArray, rows: IntArray, previous: FloatArray) -> States:
        seen = self._table[t]
        seen[:, FEATURES.index("reduced")] = np.clip(1 - self.problem.cost(rows)[self.metric] / self.whole, 0, 1)
        seen[:, FEATURES.index("previous")] = previous
        return seen.astype(np.float32)

    def _groups(self) -> Iterator[Step]:
        """A step for each group, in order; it costs what the network grows by when the group does, the others before it."""
        order = np.tril(np.ones((len(self.full), len(self.full)), dtype=bool))
        narrow = np.array(self.space.narrowest.widths)
        costs = self.problem.cost(np.where(np.vstack([np.zeros_like(order[:1]), order]), self.full, narrow))[self.metric]
        following = [*self.full[1:], 1]
        for g, width in enumerate(self.full):
            shape = (float(following[g]), float(width), 1.0, 1.0, 0.0, 1.0)
            taken_in = np.eye(1, len(self.full) + 1, g + 1)[0]
            yield Step(self.space.names[g], g, shape, float(costs[g + 1] - costs[g]), taken_in)


def _layers(architecture: Architecture, names: Sequence[str]) -> Iterator[Step]:
    """The steps through an architecture's layers."""
    column = {architecture.group(name).name: i for i, name in enumerate(names)}
    columns = np.array([1 + column[g.name] if g.name in column else 0 for g in architecture.groups])[architecture.owner]
    decided: set[int] = set()
    before = 0.0
    for layer in architecture.layers:
        tensor = architecture.tensor.get(layer.weight)
        if tensor is None:
            continue
        macs = float(layer.positions * prod(tensor.shape))
        axis = next((a.dim for a in tensor.axes if a.role == "in"), None)
        if layer.kind not in VISITED or axis is None:
            before += macs
            continue
        counts = np.bincount(columns[architecture.axis_ids[layer.weight, axis]], minlength=1 + len(names))
        taken_in = counts / counts.sum()
        shape = _shape(layer, tensor.shape, axis)
        new = [g for g in range(len(names)) if counts[1 + g] and g not in decided]
        if not new:
            yield Step(layer.name, None, (shape[0], float(counts.sum()), *shape[1:]), macs + before, taken_in)
            before = 0.0
        for g in new:
            share = taken_in[1 + g] / sum(taken_in[1 + h] for h in new)
            yield Step(layer.name, g, (shape[0], float(counts[1 + g]), *shape[1:]), share * macs + before, taken_in)
            before = 0.0
        decided.update(new)
    for g in sorted(set(range(len(names))) - decided):
        width = float(architecture.group(names[g]).width)
        yield Step(names[g], g, (1.0, width, 1.0, 1.0, 0.0, 1.0), before, np.eye(1, len(names) + 1, g + 1)[0])
        before = 0.0


def _shape(layer: Layer, weight: tuple[int, ...], axis: int) -> tuple[float, ...]:
    """n, h, w, stride and k of a layer; those of a linear layer are as the released code has them (stride 0, k 1)."""
    outputs = float(weight[1 - axis]) if len(weight) > 1 else 1.0
    height, width = (layer.size[0], prod(layer.size[1:])) if layer.size else (1, 1)
    kernel = prod(weight[2:]) ** (1 / max(1, len(weight) - 2))
    stride = prod(layer.stride) ** (1 / len(layer.stride)) if layer.stride else 0.0
    return outputs, float(height), float(width), stride, kernel


def _scaled(table: FloatArray) -> FloatArray:
    """Columns from 0 to 1; one that is the same everywhere is at most 1."""
    low, high = table.min(axis=0), table.max(axis=0)
    varies = high > low
    return np.where(varies, (table - low) / np.where(varies, high - low, 1), np.minimum(table, 1))


def _with(widths: IntArray, group: int, choices: IntArray) -> IntArray:
    """One row of ``widths`` for each choice of a group, ``[choices, groups]``."""
    rows = np.tile(widths, (len(choices), 1))
    rows[:, group] = choices
    return rows
