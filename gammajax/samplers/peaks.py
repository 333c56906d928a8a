"""Search for the highest peak of a posterior: starts, climbs, and scans for another one."""

import numpy as np

from gammajax.common.progress import say
from gammajax.samplers.newton import Density, Peak, by_lbfgs, by_newton, moved
from gammajax.samplers.space import ends, rounded_in, unconstrained

CANDIDATES, MOST = 12, 64  # the prior median and draws of the prior; more, up to `MOST`, if the density is zero at all
STARTS = 8  # largest number of climbs: the next start only if the search from the last did not end at a maximum
# number of scans for a higher peak, points of a scan, least points for a number, and steps between points
SCANS, SCANNED, LEAST_SCANNED, BISECTIONS = 3, 96, 8, 12
HIGHER = 0.5  # least difference of log density of a higher point
NEAR, VALLEY = 2.0, 0.05  # a separate peak is worth a climb: largest depth below the highest, least valley between them
AWAY = 5.0  # largest distance of starts from the middle of a prior, in the unconstrained space


class NotFinite(ValueError):
    """The posterior is not finite at the start of a search."""


def find_peak(posterior, initial: dict | None = None, *, jacobian: bool, climb: bool = True) -> Peak:
    """Maximum of the density in the parameters, or with `jacobian` in the unconstrained space; raises as `fit` does.

    Without `climb` Newton steps start at once, for an `initial` point near the maximum.
    """
    say("compiling, and searching for starts")
    density = Density(posterior, jacobian)
    found = []
    for number, start in enumerate(_starts(density, initial)):
        say(f"climbing from start {number + 1}")
        found.append(by_newton(density, *(by_lbfgs(density, start) if climb else (start, None))))
        # other starts would end elsewhere in the same valley
        if found[-1].highest:
            break
    peak = max(found, key=lambda one: (one.highest, one.converged, density.at(one.x)[0])) if found[1:] else found[0]
    peak = peak._replace(calls=density.calls)
    return peak if initial is not None else _out_of_side_peak(posterior, peak, jacobian)


def _out_of_side_peak(posterior, peak: Peak, jacobian) -> Peak:
    """The peak, or a higher one from a scan of each number over its prior with the others fixed.

    Masses have several peaks, from lines and edges that other starts in the prior miss.
    """
    density = Density(posterior, jacobian)
    each = max(SCANNED // peak.x.size, LEAST_SCANNED)
    places = np.quantile(density.draws, (np.arange(each) + 0.5) / each, axis=0)
    for scan in range(SCANS):
        say(f"scan {scan + 1} for a higher peak")
        density.refer(peak.x)
        start = _second_start(density, peak.x, places)
        if start is None:
            break
        say("climbing to another peak")
        higher = by_newton(density, *by_lbfgs(density, start))
        if not density.at(higher.x)[0] > density.at(peak.x)[0]:
            break
        peak = higher._replace(calls=peak.calls)
    return peak._replace(calls=peak.calls + density.calls)


def _second_start(density, x, places) -> np.ndarray | None:
    """A point near which a second and higher peak is plausible, from scans of each number over `places`.

    That is a point higher than the peak at `x`, or a separate peak of one number that is not much lower: it may rise
    as the other numbers follow. The slopes of two neighbouring points lead to a peak between them, at most as high as
    where their tangents cross; bisection finds it if that is high enough.
    """
    top = density.at(x)[0]
    starts, between = [(top + HIGHER, -1, 0.0)], []

    def point(number, place):
        value, gradient = density.at(moved(x, number, place))
        known = np.isfinite(value) and np.isfinite(gradient[number])
        starts.append((value if known else -np.inf, number, place))
        return (place, value, gradient[number]) if known else (place, -np.inf, 0.0)

    def consider(number, valley, left, right):
        (a, low, up), (b, high, down) = left, right
        if up > 0 > down:
            place = (high - low + up * a - down * b) / (up - down)
            between.append((low + up * (place - a), number, valley, left, right, place))

    for number in range(x.size):
        row = [point(number, place) for place in places[:, number]]
        # beyond the last points the density rises by about one logarithmic slope
        starts.append((row[0][1] - min(row[0][2], 0.0), number, row[0][0]))
        starts.append((row[-1][1] + max(row[-1][2], 0.0), number, row[-1][0]))
        row = sorted([*row, (float(x[number]), top, 0.0)])
        middle = row.index((float(x[number]), top, 0.0))
        for i in range(len(row) - 1):
            valley = min(value for _, value, _ in (row[i + 1 : middle + 1] if i < middle else row[middle : i + 1]))
            consider(number, valley, row[i], row[i + 1])
    for _ in range(BISECTIONS):
        between = [one for one in between if one[0] > max(top - NEAR, one[2] + VALLEY)]
        if max(starts)[1] >= 0 or not between:
            break
        highest = max(between)
        between.remove(highest)
        _, number, valley, left, right, place = highest
        middle = point(number, place)
        best = max(left[1], middle[1], right[1])
        if best > max(top - NEAR, valley + VALLEY):
            return moved(x, number, max(left, middle, right, key=lambda one: one[1])[0])
        consider(number, valley, *((middle, right) if middle[2] > 0 else (left, middle)))
    _, number, place = max(starts)
    return None if number < 0 else moved(x, number, place)


def _starts(density, initial):
    """Starting points, the best first."""
    priors = density.posterior.priors
    if initial is not None:
        given = np.asarray(unconstrained(priors, rounded_in(priors, initial)))
        low, high = ends(priors)
        # at an edge the density is flat in this space: start inside, or at the edge if it is finite and better
        inside = np.where(low, np.maximum(given, density.middle - AWAY), given)
        inside = np.where(high, np.minimum(inside, density.middle + AWAY), inside).astype(given.dtype)
        starts = [x for x in (inside, given) if np.all(np.isfinite(x)) and np.isfinite(density.at(x)[0])]
        if not starts or np.any(np.isnan(given)):
            raise NotFinite("the posterior is not finite at the initial parameters; start inside the priors")
        return starts[:1] if np.array_equal(inside, given) else starts
    points, values = [density.reference, *density.draws[: MOST - 1]], []
    for x in points:
        value = density.at(x)[0] if np.all(np.isfinite(x)) else -np.inf
        values.append(value if np.isfinite(value) else -np.inf)
        if len(values) >= CANDIDATES and max(values) > -np.inf:
            break
    order = [i for i in np.argsort(-np.array(values), kind="stable") if np.isfinite(values[i])]
    if not order:
        raise NotFinite("the posterior is not finite anywhere in its priors; give initial parameters")
    return [points[i] for i in order[:STARTS]]
