"""Pareto fronts: pure functions of values (n, m), every objective minimised.

A row with NaN is a failed candidate: it is never on a front, covers nothing and has no crowding distance.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hwnas.errors import InputError
from hwnas.space import FloatArray

BoolArray: TypeAlias = npt.NDArray[np.bool_]


def non_dominated(values: FloatArray) -> BoolArray:
    """Mask (n,) of the rows that no other row beats: none is as good everywhere and better somewhere. Equal rows stay together."""
    values = _matrix(values)
    valid = np.flatnonzero(~np.isnan(values).any(axis=1))
    mask = np.zeros(len(values), np.bool_)
    if len(valid) == 0:
        return mask
    distinct, inverse = np.unique(values[valid], axis=0, return_inverse=True)  # sorted by the first objective, then the second, ...
    if values.shape[1] == 1:
        kept = np.arange(len(distinct)) == 0
    elif values.shape[1] == 2:
        best_before = np.concatenate(([np.inf], np.minimum.accumulate(distinct[:-1, 1])))
        kept = distinct[:, 1] < best_before
        kept[0] = True
    else:
        kept = np.ones(len(distinct), np.bool_)
        for row in range(len(distinct)):
            if kept[row]:  # only rows after it can be beaten by it, for the rows are sorted and distinct
                kept[row + 1 :] &= (distinct[row + 1 :] < distinct[row]).any(axis=1)
    mask[valid] = kept[inverse.reshape(-1)]
    return mask


def domination_ranks(values: FloatArray) -> npt.NDArray[np.intp]:
    """Number of the front each row is on, (n,): 0 is not beaten, 1 only by rows of 0, and so on (non-dominated sorting, Deb et al., 2002).

    Rows with NaN share the number after the last front.
    """
    values = _matrix(values)
    ranks, rank = np.full(len(values), -1, np.intp), 0
    left = np.flatnonzero(~np.isnan(values).any(axis=1))
    while len(left):
        front = non_dominated(values[left])
        ranks[left[front]] = rank
        left, rank = left[~front], rank + 1
    ranks[ranks < 0] = rank
    return ranks


def hypervolume(values: FloatArray, reference: npt.ArrayLike) -> float:
    """Volume covered by the rows up to the reference point (m,), exact; rows that are not better than it everywhere cover nothing.

    A sweep in two dimensions, slices along the last objective above (Zitzler & Thiele, 1998): meant for fronts of up to a few
    hundred points in up to five objectives. Raises InputError where the reference has another length or is not finite.
    """
    values = _matrix(values)
    corner = np.asarray(reference, np.float64)
    if corner.shape != (values.shape[1],) or not np.isfinite(corner).all():
        raise InputError(f"the reference point needs {values.shape[1]} finite numbers, got {corner.tolist()}")
    inside = values[(values < corner).all(axis=1)]
    return _covered(inside[non_dominated(inside)], corner) if len(inside) else 0.0


def _covered(front: FloatArray, corner: FloatArray) -> float:
    """Hypervolume of mutually non-dominated rows."""
    if front.shape[1] == 1:
        return float(corner[0] - front.min())
    if front.shape[1] == 2:
        front = np.unique(front, axis=0)  # sorted: the first objective rises, the second falls
        ceilings = np.concatenate((corner[1:], front[:-1, 1]))
        return float(((corner[0] - front[:, 0]) * (ceilings - front[:, 1])).sum())
    order = np.argsort(front[:, -1], kind="stable")
    heights = np.append(front[order, -1], corner[-1])
    volume = 0.0
    for i in range(len(order)):
        thickness = heights[i + 1] - heights[i]
        if thickness > 0:
            below = front[order[: i + 1], :-1]
            volume += thickness * _covered(below[non_dominated(below)], corner[:-1])
    return float(volume)


def crowding_distance(values: FloatArray) -> FloatArray:
    """Crowding distance of each point in its front (Deb et al., 2002).

    Returns (n,); a point that is extreme in some objective gets inf, rows with NaN get 0. Duplicates share the distance of one point.
    """
    values = _matrix(values)
    distance = np.zeros(len(values))
    valid = np.flatnonzero(~np.isnan(values).any(axis=1))
    if len(valid) == 0:
        return distance
    distinct, inverse = np.unique(values[valid], axis=0, return_inverse=True)
    crowding = np.zeros(len(distinct))
    for column in distinct.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        crowding[order[[0, -1]]] = np.inf
        if span > 0:
            crowding[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    distance[valid] = crowding[inverse.reshape(-1)]
    return distance


def _matrix(values: npt.NDArray[Any]) -> FloatArray:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise InputError(f"a front is values of shape (n, objectives), got {values.shape}")
    return values
