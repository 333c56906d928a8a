"""Many maxima at once: points climb side by side, with one compiled call for all of them at each step.

Points are arrays [point, number] on the host. `at(points, which)` returns the heights and gradients of points; `which`
are their places in the list that climbs. The curvature of a point is updated along its climb (BFGS, Nocedal & Wright
2006, eq. 6.19). Numbers in `floored` stay at zero while the height falls inwards. `width` has standard deviations along
each number alone.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from gammajax.common.progress import say
from gammajax.samplers.space import ends

OUT = 20.0  # unconstrained coordinate of an end of a support: a number out there stays
STEP = 0.05  # of differences of gradients, in standard deviations
CLIMB, HALVINGS = 60, 12  # steps of a climb, and of the search along one step
GAIN = 5e-4  # of ln L, below which no further step is made: q is good to about 1e-3

Points = Float[np.ndarray, "point number"]
Heights = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def at_ends(
    priors, x: Float[np.ndarray, " number"]
) -> tuple[Float[np.ndarray, " number"], Bool[np.ndarray, " number"]]:
    """Numbers in the unconstrained space, with those at an end of their support at a finite place; and which these are.

    Without an end the coordinate is the number itself, of any size.
    """
    low, high = ends(priors) if priors else (np.zeros(0, bool), np.zeros(0, bool))
    closed = (low & (x <= -OUT)) | (high & (x >= OUT))
    return np.where(closed, np.clip(x, -OUT, OUT), x), closed


def measured(
    at: Heights, points: Points, width: Points, floored: Bool[np.ndarray, " number"], dtype
) -> tuple[Float[np.ndarray, "point number number"], Points]:
    """Minus the second derivatives at points, from differences of gradients, and the widths; one-sided at zero."""
    count, size = points.shape
    curvature = np.zeros((count, size, size))
    which = np.repeat(np.arange(count), size)
    for _ in range(2):  # the second time with steps of the right size
        step = STEP * width
        down = np.where(floored, np.minimum(step, points), step)
        up, low = (
            (points[:, None] + sign * size_of[:, None] * np.eye(size)).astype(dtype).astype(np.float64)
            for sign, size_of in ((1.0, step), (-1.0, down))
        )
        taken = np.einsum("pii->pi", up - low)
        ends = np.concatenate([up.reshape(-1, size), low.reshape(-1, size)])
        _, gradients = at(ends, np.concatenate([which, which]))
        high, below = gradients.reshape(2, count, size, size)
        curvature = -(high - below) / taken[:, :, None]
        curvature = np.where(np.isfinite(curvature), curvature, 0.0)
        curvature = 0.5 * (curvature + np.swapaxes(curvature, 1, 2))
        width = 1.0 / np.sqrt(np.maximum(np.einsum("pii->pi", curvature), 1e-2 / width**2))
    return curvature, width


def climb(
    at: Heights,
    points: Points,
    curvature: Float[np.ndarray, "point number number"],
    width: Float[np.ndarray, "*point number"],
    fixed: Bool[np.ndarray, "point number"],
    floored: Bool[np.ndarray, " number"],
) -> tuple[Points, Float[np.ndarray, " point"]]:
    """Maxima from points with the `fixed` numbers of each at their values, and their heights."""
    points = np.where(floored, np.maximum(points, 0.0), points)
    curvature = curvature.copy()
    height, gradient = at(points, np.arange(len(points)))
    active = np.isfinite(height)
    for step in range(CLIMB):
        free = ~fixed & ~(floored & (points <= 0.0) & (gradient <= 0.0))
        move = solved(curvature, np.where(free, gradient, 0.0), free, width)
        active &= 0.5 * (move * np.where(free, gradient, 0.0)).sum(1) > GAIN
        if not active.any():
            break
        say(f"{active.sum()} of {len(points)} fits, step {step + 1}")
        length, searching = np.ones(len(points)), active.copy()
        for _ in range(HALVINGS):
            some = np.flatnonzero(searching)
            trial = points[some] + length[some, None] * move[some]
            trial = np.where(floored, np.maximum(trial, 0.0), trial)
            higher, slope = at(trial, some)
            good = (higher > height[some]) & np.isfinite(slope).all(1)
            into = some[good]
            curvature[into] = _updated(curvature[into], trial[good] - points[into], gradient[into] - slope[good])
            points[into], height[into], gradient[into] = trial[good], higher[good], slope[good]
            searching[into] = False
            length[some[~good]] *= 0.4
            if not searching.any():
                break
        active &= ~searching
    return points, height


def solved(curvature, right, free, width) -> np.ndarray:
    """Newton steps: solutions of many systems of the `free` numbers; along the gradient where they lead downhill."""
    scaled = curvature * width[..., :, None] * width[..., None, :]
    both = free[:, :, None] & free[:, None, :]
    scaled = np.where(both, scaled, np.eye(width.shape[-1]))
    # numbers without information stay about where they are
    scaled = scaled + 1e-6 * np.eye(width.shape[-1])
    moves = width * np.linalg.solve(scaled, (width * right)[..., None])[..., 0]
    uphill = np.isfinite(moves).all(1) & ((moves * right).sum(1) > 0)
    return np.where(free, np.where(uphill[:, None], moves, width**2 * right), 0.0)


def _updated(curvature, moved, fallen) -> np.ndarray:
    """Curvatures [point, number, number] after moves with these falls of the gradient, where it falls along them."""
    known = np.einsum("pij,pj->pi", curvature, moved)
    before, after = (known * moved).sum(1), (fallen * moved).sum(1)
    # rounding of a small step is no curvature
    use = (after > 0.05 * before) & (before > 0)
    before, after = np.where(use, before, 1.0), np.where(use, after, 1.0)
    change = fallen[:, :, None] * fallen[:, None] / after[:, None, None]
    change = change - known[:, :, None] * known[:, None] / before[:, None, None]
    return curvature + np.where(use[:, None, None], change, 0.0)
