"""Which networks of a space are timed to learn how fast a device is: random ones of all sizes, and the fastest."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from automl_prune.space import Candidate, ChannelSpace

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

FITTED, CHECKED = 36, 12
"""Random networks that factors are fitted to, and that predictions are then checked on."""
LEAST_CHECKED = 10
"""Networks that predictions must have been checked on to be trusted. Spaces that have too few for that lose nothing: most of
their networks are timed by then, and all others when it is their turn."""
SEED = 0
"""Of these networks: the same for all searches, so that what one has timed serves the next."""
_SWEEPS = 4


def network_sample(space: ChannelSpace, count: int = FITTED + CHECKED) -> list[Candidate]:
    """The random networks that are timed; the full one where a space has no other."""
    return random_candidates(space, count, SEED) or [space.full]


def random_candidates(space: ChannelSpace, count: int, seed: int) -> list[Candidate]:
    """Distinct candidates of all sizes but the full one, fewer where the space is small.

    A ratio is drawn for the network, and around it one for each group.
    """
    rng = np.random.default_rng((seed, 5))
    full = np.array(space.full.widths, dtype=np.float64)
    found: dict[Candidate, None] = {}
    for _ in range(20 * count):
        ratio = rng.uniform(0.1, 1) * np.exp(rng.uniform(-0.4, 0.4, len(full)))
        drawn = space.snap(full * np.minimum(ratio, 1))
        if drawn != space.full:
            found.setdefault(drawn)
        if len(found) == count:
            break
    return list(found)


def held_out(count: int) -> int:
    """How many of so many networks predictions are checked on, and not fitted to: a third, ``CHECKED`` at most.

    Up to half of them where a third is too few to trust what they say.
    """
    return max(1, min(CHECKED, max(count // 3, min(LEAST_CHECKED, count // 2))))


def fastest_candidates(space: ChannelSpace, predict: Callable[[IntArray], FloatArray]) -> list[Candidate]:
    """The narrowest candidate, and the one that is predicted to be the fastest of those around it.

    Devices are faster with some widths than with lesser ones, so the two may differ: from the fastest on of the narrowest
    candidates of all widths, of multiples of 4 and of multiples of 16, one group after the other takes the width at which
    the network is predicted to be fastest, for as long as that helps.
    """
    starts = np.array([[_least_multiple(choices, step) for choices in space.choices] for step in (1, 4, 16)], dtype=np.int64)
    times = predict(starts)
    widths, least = starts[int(np.argmin(times))], float(times.min())
    for _ in range(_SWEEPS):
        before = least
        for group, choices in enumerate(space.choices):
            rows = np.tile(widths, (len(choices), 1))
            rows[:, group] = choices
            times = predict(rows)
            widths, least = rows[int(np.argmin(times))], float(times.min())
        if least >= before:
            break
    return list(dict.fromkeys([space.narrowest, Candidate(tuple(widths.tolist()))]))


def _least_multiple(choices: Sequence[int], step: int) -> int:
    """The least of ascending choices that the step divides; the least of all where it divides none."""
    return next((width for width in choices if width % step == 0), choices[0])
