"""Trade-offs between several losses: who is dominated, in which front, how crowded a front is, and how much it covers."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def dominates(first: FloatArray, second: FloatArray) -> BoolArray:
    """Where losses ``[…, m]`` are nowhere above others ``[…, m]`` and somewhere below, ``[…]``."""
    return np.logical_and((first <= second).all(axis=-1), (first < second).any(axis=-1), dtype=np.bool_)


def non_dominated(losses: npt.ArrayLike) -> BoolArray:
    """Which rows of ``losses`` ``[n, m]``, all to be minimised, no other row dominates, ``[n]``.

    A row dominates another when it is nowhere worse and somewhere better, so equal rows stay together.

    Raises:
        ValueError: ``losses`` is not a matrix, or holds NaN.
    """
    points = _matrix(losses)
    keep = np.zeros(len(points), dtype=bool)
    front = np.empty_like(points)
    count = 0
    # In lexicographic order a row can only be dominated by an earlier one.
    for i in np.lexsort(points.T[::-1]):
        rivals = front[:count]
        if not dominates(rivals, points[i]).any():
            keep[i] = True
            front[count] = points[i]
            count += 1
    return keep


def ranks(losses: npt.ArrayLike) -> IntArray:
    """Front of each row of ``losses`` ``[n, m]``, ``[n]``: 0 is non-dominated, 1 is so once front 0 is gone, and so on."""
    points = _matrix(losses)
    rank = np.zeros(len(points), dtype=np.int64)
    left = np.arange(len(points))
    level = 0
    while len(left):
        front = non_dominated(points[left])
        rank[left[front]] = level
        left = left[~front]
        level += 1
    return rank


def crowding(losses: npt.ArrayLike) -> FloatArray:
    """Crowding distance of each row of one front ``[n, m]``, ``[n]``: how far apart its neighbours are, loss by loss.

    Gaps are parts of the front's range in that loss; the ends of every loss are infinitely far (Deb et al., section III-B).
    """
    points = np.asarray(losses, dtype=np.float64)
    distance = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        if (span := ordered[-1] - ordered[0]) > 0:
            distance[order[1:-1]] += (ordered[2:] - ordered[:-2]) / span
        distance[order[[0, -1]]] = np.inf
    return distance


def hypervolume(losses: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Area that ``losses`` ``[n, 2]`` dominate up to ``reference`` ``[2]``, exactly; rows beyond the reference add nothing.

    Raises:
        ValueError: There are more or fewer than two losses, or a value is NaN.
    """
    points, corner = _matrix(losses), np.asarray(reference, dtype=np.float64)
    if points.shape[1] != 2 or corner.shape != (2,):
        raise ValueError(
            f"The hypervolume takes two losses; came: losses of shape {points.shape}, reference of shape {corner.shape}."
        )
    if np.isnan(corner).any():
        raise ValueError("The reference must not hold NaN.")
    inside = points[(points < corner).all(axis=1)]
    front = inside[non_dominated(inside)]
    front = front[np.argsort(front[:, 0], kind="stable")]
    ceilings = np.concatenate([corner[1:], front[:-1, 1]])
    return float(((corner[0] - front[:, 0]) * (ceilings - front[:, 1])).sum())


def _matrix(losses: npt.ArrayLike) -> FloatArray:
    points = np.asarray(losses, dtype=np.float64)
    if points.ndim != 2:
        raise ValueError(f"Losses are a matrix [points, losses]; came: shape {points.shape}.")
    if np.isnan(points).any():
        raise ValueError("Losses must not hold NaN; leave failed trials out.")
    return points
