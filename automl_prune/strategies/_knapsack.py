"""The best widths under the budgets for given losses per group and width: a knapsack whose costs are not additive.

Each group takes one of its widths, losses add up over groups, and every budget holds the true cost of the whole network,
which couples neighbouring groups. :meth:`WidthSolver.knapsack` linearises the cost around the best network so far, solves
the multiple-choice knapsack of that by dynamic programming (Kellerer, Pferschy and Pisinger 2004, chapter 11), brings the
answer into the true budgets, and repeats with the room corrected by what the linearisation got wrong; what is left is found
by exchanges on the true cost. :meth:`WidthSolver.threshold` is the rule of NVIDIA's FastNAS: one loss that no group may
exceed. Every answer was checked against the true cost.

Costs need not grow with widths (latencies do not). Pairs of exchanges are then preselected by an estimate only, and those in
which widening pays for widening are left to single ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from automl_prune.problem import BoolArray, FloatArray, IntArray, Problem
from automl_prune.space import Candidate

Losses = Sequence[FloatArray]
"""Loss of every width of every group, ascending in width: ``[groups][choices]``."""

BINS = 400
"""Steps that dynamic programming divides the room into; exchanges repair what they round."""
WIDTHS = 32
"""Widths of a group that dynamic programming chooses from; exchanges look at all."""
LINEARISATIONS = 6
"""Knapsacks solved at most; they repeat themselves after two or three as a rule."""
CHAINS = 800
"""Changes times groups that are forced once no exchange helps, while the rest of the network adapts to them."""
ROUNDS = 200
"""Exchanges, or forced changes that helped, in a row."""
NEAR = 96
"""Choices times groups to either side that exchanges look at one by one; beyond, they look twice as far each time."""
VERIFIED = 256
"""Exchanges whose true cost is worked out at once."""
_REACH = 1e-9
_GAIN = 1e-12


@dataclass(frozen=True)
class Moves:
    """Single changes of one network: the group, its new choice, and what that adds to width and loss, each ``[moves]``."""

    group: IntArray
    choice: IntArray
    width: IntArray
    loss: FloatArray


class WidthSolver:
    """Solves one problem for any losses.

    Args:
        problem: Its space, costs and budgets; what objectives it has does not matter.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._choices = [np.asarray(c, dtype=np.int64) for c in problem.space.choices]
        self._sizes = np.array([len(c) for c in self._choices])
        self._table = np.array([[*c, *[c[-1]] * (int(self._sizes.max()) - len(c))] for c in problem.space.choices])
        self._caps = [b for b in problem.budgets if b.max < float("inf")]

    # Answers ---------------------------------------------------------------------------------------------------------

    def threshold(self, losses: Losses) -> Candidate:
        """The narrowest widths that lose at most τ each, for the smallest τ at which they fit: FastNAS's search.

        Where costs do not grow with widths, every τ is tried, the smallest first, as narrower ones need not be cheaper.
        """
        table = self._padded(losses)
        levels = np.unique(table[np.isfinite(table)])
        if not self.problem.monotone:
            found = self.problem.first_fitting(lambda some: self._all_within(table, some), levels)
            return self.feasible(found or self._candidate(self._within(table, float(levels[-1]))))
        low, high = 0, len(levels) - 1
        while low < high:
            middle = (low + high) // 2
            fits = self.problem.excess(self._widths(self._within(table, float(levels[middle])))[None])[0] <= 0
            low, high = (low, middle) if fits else (middle + 1, high)
        return self.feasible(self._candidate(self._within(table, float(levels[low]))))

    def knapsack(self, losses: Losses) -> Candidate:
        """The widths of least total loss, near-exactly; never worse than :meth:`threshold` or the uniform width."""
        starts = [self.threshold(losses), self.feasible(self.problem.widest_uniform)]
        if not self._caps:
            starts.append(self.feasible(self.problem.space.full))
        best = min(starts, key=lambda c: self.loss(c, losses))
        for start in self._linearised(best, self._padded(losses)) if self._caps else []:
            best = min(best, self.improve(start, losses), key=lambda c: self.loss(c, losses))
        return self._chained(self.improve(best, losses), losses)

    def improve(self, candidate: Candidate, losses: Losses, rounds: int = ROUNDS) -> Candidate:
        """A feasible candidate after up to ``rounds`` best exchanges: one group changes, or one widens and one narrows."""
        return self._candidate(self._exchanged(self._indices(candidate), self._padded(losses), rounds))

    def adapted(self, candidate: Candidate, group: int, width: int, losses: Losses, rounds: int = ROUNDS) -> Candidate:
        """A feasible candidate in which one group takes ``width`` and the others pay for it, or use what it leaves."""
        at, table = self._indices(candidate), self._padded(losses)
        at[group] = int(np.searchsorted(self._choices[group], width))
        at = self._exchanged(self._narrowed(at, table, hold=group), table, rounds, hold=group)
        return self.feasible(self._candidate(at))

    def feasible(self, candidate: Candidate) -> Candidate:
        """The candidate, moved into every budget if it is not there; the uniform width as a last resort."""
        problem = self.problem
        if problem.is_feasible(candidate):
            return candidate
        for moved in (problem.fill(problem.fit(candidate)), problem.widest_uniform):
            if problem.is_feasible(moved):
                return moved
        return problem.sample(np.random.default_rng(0))[1]

    def loss(self, candidate: Candidate, losses: Losses) -> float:
        """Total loss of a candidate."""
        return float(sum(loss[i] for loss, i in zip(losses, self._indices(candidate), strict=True)))

    def _within(self, table: FloatArray, level: float) -> IntArray:
        """The narrowest choice of each group that loses at most ``level``, the full width where none does; ``[groups]``."""
        fits = table <= level
        return np.where(fits.any(axis=1), fits.argmax(axis=1), self._sizes - 1)

    def _all_within(self, table: FloatArray, levels: FloatArray) -> IntArray:
        """The widths of :meth:`_within` for each level, ``[levels, groups]``."""
        return np.array([self._widths(self._within(table, float(level))) for level in levels], dtype=np.int64)

    # Linearised knapsack ---------------------------------------------------------------------------------------------

    def _linearised(self, start: Candidate, table: FloatArray) -> list[Candidate]:
        """Feasible answers of knapsacks linearised around one another, without repetitions."""
        at, found = self._indices(start), [start]
        weights, error = np.full(len(self._caps), 1 / len(self._caps)), 0.0
        for _ in range(LINEARISATIONS):
            here, prices = self._prices(at, weights)
            chosen = self._additive(prices, 1 - here + error, table)
            usage = self._usage(self._widths(chosen)[None])[0]
            predicted = here + sum(float(p[c]) for p, c in zip(prices, chosen, strict=True))
            error += predicted - float(usage @ weights)
            weights = weights * np.exp(8 * (usage - usage.max()))
            weights /= weights.sum()
            at = self._narrowed(chosen, table)
            candidate = self.feasible(self._candidate(at))
            if candidate in found:
                break
            found.append(candidate)
        return found

    def _prices(self, at: IntArray, weights: FloatArray) -> tuple[float, list[FloatArray]]:
        """Weighted usage of the budgets now, and what each choice of each group alone would add to it."""
        widths, sizes = self._widths(at), [len(c) for c in self._choices]
        rows = np.repeat(widths[None], sum(sizes) + 1, axis=0)
        rows[np.arange(sum(sizes)), np.repeat(np.arange(len(sizes)), sizes)] = np.concatenate(self._choices)
        usage = self._usage(rows) @ weights
        return float(usage[-1]), np.split(usage[:-1] - usage[-1], np.cumsum(sizes)[:-1])

    def _additive(self, prices: Sequence[FloatArray], room: float, table: FloatArray) -> IntArray:
        """Choices of least loss whose prices sum up to at most ``room``, in ``BINS`` steps; ``[groups]``."""
        lowest = [float(p.min()) for p in prices]
        step = max(room - sum(lowest), 0.0) / BINS
        if step == 0:
            return np.array([int(np.argmin(p)) for p in prices])
        best, taken = np.zeros(BINS + 1), []
        for g, (price, least) in enumerate(zip(prices, lowest, strict=True)):
            kept = np.unique(np.linspace(0, len(price) - 1, min(len(price), WIDTHS)).round().astype(np.int64))
            bins = np.minimum(np.rint((price[kept] - least) / step), BINS + 1).astype(np.int64)
            left = np.arange(BINS + 1)[None] - bins[:, None]
            totals = np.where(left >= 0, best[left], np.inf) + table[g, kept][:, None]
            pick = totals.argmin(axis=0)
            best = totals.min(axis=0)
            taken.append((kept[pick], bins[pick]))
        at, rest = np.zeros(len(table), dtype=np.int64), BINS
        for g in range(len(table) - 1, -1, -1):
            at[g], spent = taken[g][0][rest], taken[g][1][rest]
            rest -= int(spent)
        return at

    def _narrowed(self, at: IntArray, table: FloatArray, *, hold: int = -1) -> IntArray:
        """Narrowed a step at a time, each the least loss per cost that it saves, until no maximum is exceeded.

        Where costs do not grow with widths, a step may widen too.
        """
        while self._caps and (usage := self._usage(self._widths(at)[None])[0]).max() > 1:
            moves = self._moves(at, table, hold=hold, down_only=self.problem.monotone)
            if not len(moves.group):
                break
            over = np.maximum(usage - 1, 0)
            saved = (over - np.maximum(self._usage(self._rows(at, moves)) - 1, 0)).sum(axis=1)
            if saved.max() <= 0:
                break
            useful = np.flatnonzero(saved > 0)
            chosen = useful[np.argmin(np.maximum(moves.loss[useful], 0) / saved[useful])]
            at = at.copy()
            at[moves.group[chosen]] = moves.choice[chosen]
        return at

    # Exchanges -------------------------------------------------------------------------------------------------------

    def _chained(self, candidate: Candidate, losses: Losses) -> Candidate:
        """Force a change, let all other groups adapt to it, then exchange freely; kept, and repeated, while that helps."""
        best = candidate
        for _ in range(ROUNDS):
            moves = self._moves(self._indices(best), self._padded(losses))
            order = np.argsort(np.abs(moves.loss), kind="stable")[: CHAINS // len(self._choices)]
            changes = [
                (int(g), int(self._choices[g][c])) for g, c in zip(moves.group[order], moves.choice[order], strict=True)
            ]
            tried = (self.improve(self.adapted(best, g, width, losses), losses) for g, width in changes)
            better = next((c for c in tried if self.loss(c, losses) < self.loss(best, losses) - _GAIN), None)
            if better is None:
                break
            best = better
        return best

    def _exchanged(self, at: IntArray, table: FloatArray, rounds: int, *, hold: int = -1) -> IntArray:
        """Choices after exchanges that leave group ``hold`` alone."""
        for _ in range(rounds):
            if (moved := self._exchange(at, table, hold)) is None:
                break
            at = moved
        return at

    def _exchange(self, at: IntArray, table: FloatArray, hold: int) -> IntArray | None:
        """After the change of one group, or of a pair, that lowers the loss most; None when none does."""
        moves = self._moves(at, table, hold=hold)
        if not len(moves.group):
            return None
        rows = self._rows(at, moves)
        single = np.where(self.problem.feasible(rows), moves.loss, np.inf)
        first = int(np.argmin(single))
        pair = self._pair(at, moves, rows, below=min(float(single[first]), -_GAIN))
        picked = pair if pair is not None else (first,) if single[first] < -_GAIN else None
        if picked is None:
            return None
        moved = at.copy()
        for i in picked:
            moved[moves.group[i]] = moves.choice[i]
        return moved

    def _pair(self, at: IntArray, moves: Moves, rows: IntArray, *, below: float) -> tuple[int, int] | None:
        """The feasible pair, one gaining loss and one narrowing, of least total; None when none is below ``below``."""
        ups, downs = np.flatnonzero(moves.loss < below), np.flatnonzero(moves.width < 0)
        if not len(ups) or not len(downs):
            return None
        total = moves.loss[ups][:, None] + moves.loss[downs][None]
        up, down = np.nonzero((total < below - _GAIN) & (moves.group[ups][:, None] != moves.group[downs][None]))
        likely = self._estimated_to_fit(at, moves, rows, ups[up], downs[down])
        up, down = up[likely], down[likely]
        order = np.argsort(total[up, down], kind="stable")
        for start in range(0, len(order), VERIFIED):
            some = order[start : start + VERIFIED]
            first, second = ups[up[some]], downs[down[some]]
            both = rows[first].copy()
            both[np.arange(len(both)), moves.group[second]] += moves.width[second]
            fits = np.flatnonzero(self.problem.feasible(both))
            if len(fits):
                return int(first[fits[0]]), int(second[fits[0]])
        return None

    def _estimated_to_fit(self, at: IntArray, moves: Moves, rows: IntArray, ups: IntArray, downs: IntArray) -> BoolArray:
        """Which ``[pairs]`` of moves stay within the maxima: exact where costs are quadratic in the widths."""
        fits = np.ones(len(ups), dtype=np.bool_)
        if not self._caps:
            return fits
        here, alone = self._usage(self._widths(at)[None])[0], self._usage(rows)
        areas = moves.width[ups] * moves.width[downs]
        for b, coupling in enumerate(self._couplings):
            together = coupling[moves.group[ups], moves.group[downs]] * areas
            fits &= alone[ups, b] + alone[downs, b] + together <= 1 + here[b] + _REACH
        return fits

    @cached_property
    def _couplings(self) -> list[FloatArray]:
        """Each budget's mixed second differences between the full and the narrowest widths, ``[groups, groups]``."""
        full, low = (np.array(c.widths) for c in (self.problem.space.full, self.problem.space.narrowest))
        groups, cut = len(full), np.maximum(full - low, 1)
        single = np.repeat(full[None], groups, axis=0)
        single[np.arange(groups), np.arange(groups)] = low
        first, second = np.triu_indices(groups, 1)
        double = single[first].copy()
        double[np.arange(len(first)), second] = low[second]
        usages = [self._usage(rows) for rows in (full[None], single, double)]
        found = []
        for b in range(len(self._caps)):
            whole, one, two = (u[:, b] for u in usages)
            matrix = np.zeros((groups, groups))
            matrix[first, second] = (whole[0] - one[first] - one[second] + two) / (cut[first] * cut[second])
            found.append(matrix + matrix.T)
        return found

    def _moves(self, at: IntArray, table: FloatArray, *, hold: int = -1, down_only: bool = False) -> Moves:
        """Changes of one group, except of group ``hold``."""
        steps = self._steps[: len(self._steps) // 2] if down_only else self._steps
        to = at[:, None] + steps
        allowed = (to >= 0) & (to < self._sizes[:, None])
        if hold >= 0:
            allowed[hold] = False
        group, step = np.nonzero(allowed)
        choice, here = to[group, step], at[group]
        width = self._table[group, choice] - self._table[group, here]
        return Moves(group, choice, width, table[group, choice] - table[group, here])

    @cached_property
    def _steps(self) -> IntArray:
        """How many choices a group moves at once, the ways down first."""
        near, most = max(1, NEAR // len(self._choices)), int(self._sizes.max())
        far = 2 * near * 2 ** np.arange(most.bit_length())
        reach = np.concatenate([np.arange(1, near + 1), far[far < most]])
        return np.concatenate([-reach, reach]).astype(np.int64)

    # Indices and costs -----------------------------------------------------------------------------------------------

    def _usage(self, rows: IntArray) -> FloatArray:
        """Cost as part of each maximum, ``[candidates, maxima]``."""
        costs = self.problem.cost(rows)
        return np.stack([costs[b.metric] / b.max for b in self._caps], axis=1) if self._caps else np.zeros((len(rows), 0))

    def _rows(self, at: IntArray, moves: Moves) -> IntArray:
        """Widths after each move, ``[moves, groups]``."""
        rows = np.repeat(self._widths(at)[None], len(moves.group), axis=0)
        rows[np.arange(len(rows)), moves.group] += moves.width
        return rows

    def _padded(self, losses: Losses) -> FloatArray:
        """Losses as a table, ``[groups, choices]``, infinite where a group has fewer choices."""
        table = np.full(self._table.shape, np.inf)
        for g, loss in enumerate(losses):
            table[g, : len(loss)] = loss
        return table

    def _indices(self, candidate: Candidate) -> IntArray:
        at: IntArray = (self._table < np.array(candidate.widths)[:, None]).sum(axis=1)
        return at

    def _widths(self, at: IntArray) -> IntArray:
        widths: IntArray = self._table[np.arange(len(at)), at]
        return widths

    def _candidate(self, at: IntArray) -> Candidate:
        return Candidate(tuple(self._widths(at).tolist()))
