"""Spectrum of OFF events: their power law, and the smooth prior of a free background that they ask for.

The rate of the background is B(E') = exp(sum_k x_k N_k(ln E')) with cubic B-splines N_k, that of OFF events B times the
exposure X of all OFF regions. With a Gaussian prior of x the logarithm of its posterior,

    Sum_i ln B(E'_i) - Int X B dE' + ln p(x),

is concave. Laplace's formula about its maximum gives the evidence of a number of coefficients and of a scale of their
second differences. The prior of this scale is log-normal: h^1.5 with the length h of an interval in ln E' is the growth
of second differences of a curve whose slope is a random walk.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpyro.distributions import MultivariateNormal
from scipy.optimize import brentq, minimize_scalar

from gammajax.model.off_background import FEWEST, spline_basis
from gammajax.model.splines import smooth_prior

STEEPEST = (-5.0, 15.0)  # indices of the background
PANEL, ORDER = 0.1, 4  # widest panel in ln E' of integrals over the background, and points in each
SIZES = (6, 8, 10, 12, 16, 20, 24, 32)  # numbers of coefficients that are tried
USUAL, SPREAD = 0.3, 1.0  # scale over h^1.5: middle of its prior, and width of that in ln(scale)
SCALES = (0.01, 100.0)  # of scale over h^1.5
CHUNK = 2**16  # events whose splines are made at once
STEPS = 100  # of Newton's method, at most


def background_prior(
    runs,
    size: int | None = None,
    scale: float | None = None,
    energy_range: tuple[float, float] | None = None,
    level: float = 1.0,
    tilt: float = 1.0,
) -> MultivariateNormal:
    """The smooth prior of [`gammajax.OnOff.background_prior`][]."""
    low, high = energy_range or selected_energies(runs)
    if not 0 < low < high < np.inf:
        raise ValueError(f"the energies of a background must be positive and increase: {low} to {high} TeV")
    if size is not None and size < FEWEST:
        raise ValueError(f"a background has at least {FEWEST} coefficients, not {size}")
    norm, index = power_law(runs)
    found = []
    for number in SIZES if size is None else (size,):
        length = np.log(high / low) / (number - 3)
        centre = np.log(norm) - index * (np.log(low) + length * np.arange(-1.0, number - 1.0))
        prior = functools.partial(smooth_prior, centre, level=level, tilt=tilt)
        if size is not None and scale is not None:
            return prior(scale)
        splines = Splines.of(runs, number, low, high)
        own = prior(likely_scale(splines, prior, length**1.5) if scale is None else scale)
        found.append((splines.best(own)[1], own))
    most = max(value for value, _ in found)
    return next(prior for value, prior in found if value >= most - 1.0)


def likely_scale(splines: "Splines", prior: Callable[[float], MultivariateNormal], unit: float) -> float:
    """Scale of largest evidence times its own prior; the latter and the ends are in units of `unit`."""

    def minus(log_scale):
        evidence = splines.best(prior(float(np.exp(log_scale))))[1]
        return 0.5 * ((log_scale - np.log(USUAL * unit)) / SPREAD) ** 2 - evidence

    best: Any = minimize_scalar(minus, bounds=np.log(SCALES) + np.log(unit), method="bounded")
    return float(np.exp(best.x))


class Splines(NamedTuple):
    """Splines of a background: `observed`, their sum over the OFF events; `basis` at the points of an integral.

    `exposure` [sr s TeV] of all OFF regions, with the weights of the integral.
    """

    observed: Float[np.ndarray, " coefficient"]
    basis: Float[np.ndarray, "point coefficient"]
    exposure: Float[np.ndarray, " point"]

    @classmethod
    def of(cls, runs, size: int, energy_min: float, energy_max: float) -> "Splines":
        """For the OFF events of some runs."""
        (point, exposure), ends = off_exposures(runs), (energy_min, energy_max)
        off = np.concatenate([run.off for run in runs])
        parts = np.array_split(off, 1 + off.size // CHUNK)
        observed = sum(spline_basis(part, size, *ends).sum(0) for part in parts)
        return cls(np.asarray(observed), spline_basis(point, size, *ends), exposure)

    def best(self, prior: MultivariateNormal) -> tuple[Float[np.ndarray, " coefficient"], float]:
        """Coefficients of largest posterior density, and the logarithm of the evidence but for a constant."""
        centre, factor = (np.asarray(part, np.float64) for part in (prior.loc, prior.scale_tril))
        first, base = self.observed @ centre, self.exposure * np.exp(self.basis @ centre)
        observed, basis = self.observed @ factor, self.basis @ factor  # of independent coefficients of unit width

        def minus(z):
            with np.errstate(over="ignore"):
                rate = base * np.exp(basis @ z)
            return 0.5 * z @ z - observed @ z - first + rate.sum(), rate

        z = np.zeros(centre.size)
        value, rate = minus(z)
        for _ in range(STEPS):
            slope = z - observed + rate @ basis
            move = -np.linalg.solve(np.eye(z.size) + (basis.T * rate) @ basis, slope)
            gain, part = -(slope @ move), 1.0
            while not (after := minus(z + part * move))[0] <= value - 1e-4 * part * gain and part > 1e-12:
                part *= 0.5
            if gain < 1e-9 * max(1.0, abs(value)) or part <= 1e-12:
                break
            z, (value, rate) = z + part * move, after
        curvature = np.eye(z.size) + (basis.T * rate) @ basis
        return centre + factor @ z, float(-value - 0.5 * np.linalg.slogdet(curvature)[1])


def smooth_counts(runs, edges) -> Float[np.ndarray, "run cell"]:
    """OFF counts in cells of the smooth background that fits all OFF events best."""
    low, high = selected_energies(runs)
    prior = background_prior(runs)
    size = prior.event_shape[0]
    coefficients, _ = Splines.of(runs, size, low, high).best(prior)
    # cells in parts that resolve the background
    parts = [max(1, math.ceil(np.log(above / below) / PANEL)) for below, above in itertools.pairwise(edges)]
    cells = zip(itertools.pairwise(edges), parts, strict=True)
    fine = np.concatenate([np.geomspace(*cell, n, endpoint=False) for cell, n in cells] + [[edges[-1]]])
    first = np.concatenate([[0], np.cumsum(parts)[:-1]])
    counts = []
    for run in runs:
        point, weight = panels(np.clip(fine, run.energy_min, run.energy_max), ORDER)
        rate = np.exp(spline_basis(point.ravel(), size, low, high) @ coefficients).reshape(point.shape)
        counts.append(np.add.reduceat((weight * run.off_exposure(point) * rate).sum(1), first))
    return np.array(counts)


def selected_energies(runs) -> tuple[float, float]:
    """Lowest and highest reconstructed energy [TeV] of the selections."""
    return float(min(run.energy_min for run in runs)), float(max(run.energy_max for run in runs))


def off_exposures(runs) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
    """Points [TeV], and the exposure of all OFF regions at them with the weights of an integral [sr s TeV]."""
    point, weight = quadrature(runs)
    selected = [(point > run.energy_min) & (point < run.energy_max) for run in runs]
    return point, weight * sum(run.off_exposure(point) * inside for run, inside in zip(runs, selected, strict=True))


def quadrature(runs) -> tuple[np.ndarray, np.ndarray]:
    """Points [TeV] and weights [TeV] of Gauss-Legendre panels in ln E' between all ends and nodes of the runs."""
    ends = np.unique(np.log([e for run in runs for e in (run.energy_min, run.energy_max, *run.nodes)]))
    low, high = np.log(min(run.energy_min for run in runs)), np.log(max(run.energy_max for run in runs))
    ends = ends[(ends >= low) & (ends <= high)]
    ends = np.unique(np.concatenate([ends, np.linspace(low, high, int(np.ceil((high - low) / PANEL)) + 1)]))
    point, weight = panels(np.exp(ends), ORDER)
    return point.ravel(), weight.ravel()


def power_law(runs) -> tuple[float, float]:
    """Norm [s^-1 TeV^-1 sr^-1 at 1 TeV] and index of the power law that fits the OFF events best."""
    off = np.log(np.concatenate([run.off for run in runs]))
    point, exposure = off_exposures(runs)
    # half an event in the middle of the range, in place of none
    mean = (off.sum() + 0.5 * np.log(point).mean()) / (off.size + 0.5)

    def excess(index):
        power = exposure * point**-index
        return power @ np.log(point) / power.sum() - mean

    low, high = STEEPEST
    index = low if excess(low) < 0 else high if excess(high) > 0 else float(brentq(excess, low, high))  # pyright: ignore[reportArgumentType]
    return float((off.size + 0.5) / (exposure @ point**-index)), index


def panels(limits, order: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights [TeV] of a Gauss-Legendre rule in ln E' between neighbouring limits, [cell, point]."""
    x, w = np.polynomial.legendre.leggauss(order)
    log = np.log(limits)
    half, middle = 0.5 * np.diff(log)[:, None], 0.5 * (log[1:] + log[:-1])[:, None]
    point = np.exp(middle + half * x)
    return point, half * w * point
