"""ON and OFF with few counts: bias, coverage and calibration of the unbinned and the conjugate likelihood, and of wstat.

A point source with a power law and a curved background, in an ON region and OFF regions of three times its acceptance.
Events come from numpy and scipy alone: true energies by inversion of the power law, thinned by the effective area,
reconstructed energies from a Gaussian. Bias and coverage are those of the amplitude at 5, 10 and 20 expected ON counts,
half of them background: maxima and intervals of 2 Delta ln L = 1 and 4, from the likelihood that is marginalised over
the background (unbinned, conjugate) or has its maximum in each cell (wstat). Calibration draws amplitude, index and
background from their priors: ranks of the truth among draws of NUTS are uniform (Talts et al. 2018, arXiv:1804.06788).
"""

import argparse
import functools
import json
import time
from pathlib import Path

import blackjax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from arviz_stats.ecdf_utils import ecdf_pit
from jax.scipy.special import xlogy
from scipy.stats import binom, chisquare, norm

import gammajax as gj
from benchmarks.report import RESULTS, report
from gammajax.instrument.response import EnergyDispersion
from gammajax.instrument.table import Axis, Table

TRUE = np.geomspace(0.1, 30.0, 25)  # TeV, nodes of the response
AREA = 1e9 * TRUE**0.6  # cm^2, linear in ln E between the nodes
MIGRA, RESOLUTION = 0.97, 0.12
LOW, HIGH = 0.5, 8.0  # TeV, selection
LIVETIME, RADIUS, RATIO = 3600.0, 0.1, 1.0 / 3.0
INDEX, CELLS, SIZE, SCALE = 2.5, 12, 6, 0.3
EDGES = np.geomspace(LOW, HIGH, CELLS + 1)
GRID = np.linspace(0.0, 6.0, 121)  # amplitudes, in units of the truth
RANKS = 99


def response() -> gj.RegionResponse:
    """Response of the ON region, point-like."""
    energy, offset = Axis(np.log(TRUE)), Axis([0.0])
    migra = np.linspace(0.3, 1.7, 141)
    density = np.broadcast_to(norm.pdf(migra, MIGRA, RESOLUTION), (TRUE.size, 1, migra.size))
    return gj.RegionResponse(
        Table((energy, offset), AREA[:, None]), EnergyDispersion(energy, offset, Axis(migra), density)
    )


def photons(random, index: float, count: int) -> tuple[np.ndarray, float]:
    """Reconstructed energies in the selection of `count` photons of E^-index above 0.1 TeV, and their part."""
    low, high = TRUE[[0, -1]] ** (1.0 - index)
    energy = (low + random.uniform(size=count) * (high - low)) ** (1.0 / (1.0 - index))
    kept = random.uniform(size=count) < np.interp(np.log(energy), np.log(TRUE), AREA) / AREA.max()
    energy = energy[kept] * random.normal(MIGRA, RESOLUTION, kept.sum())
    return energy[(energy > LOW) & (energy < HIGH)], (low - high) / (index - 1.0) * AREA.max() * LIVETIME


def thrown(random, index: float, amplitude: float) -> np.ndarray:
    """Reconstructed energies of the source: a Poisson number of photons."""
    number = amplitude * photons(random, index, 0)[1]
    return photons(random, index, random.poisson(number))[0]


@functools.cache
def counts_of(index: float) -> float:
    """Expected counts of an amplitude of one [TeV^-1 cm^-2 s^-1]: quadrature by numpy."""
    energy = np.geomspace(*TRUE[[0, -1]], 20_001)
    inside = norm.cdf(HIGH / energy, MIGRA, RESOLUTION) - norm.cdf(LOW / energy, MIGRA, RESOLUTION)
    value = energy**-index * np.interp(np.log(energy), np.log(TRUE), AREA) * inside * energy
    return LIVETIME * np.trapezoid(value, np.log(energy))


def curved(energy):
    """Shape of the background: steeper at low energies."""
    return energy**-2.7 * np.exp(-0.2 * np.log(energy) ** 2)


def drawn(random, shape, mean: float) -> np.ndarray:
    """Energies with this density per TeV: a Poisson number with this mean, by inversion on a fine grid."""
    energy = np.geomspace(LOW, HIGH, 4001)
    density = shape(energy)
    step = 0.5 * np.diff(energy) * (density[1:] + density[:-1])
    cumulative = np.append(0.0, np.cumsum(step))
    return np.interp(random.uniform(size=random.poisson(mean)) * cumulative[-1], cumulative, energy)


def run_of(on, off) -> gj.OnOffRun:
    """Run of these streams."""
    limits = {"energy_min": LOW, "energy_max": HIGH, "radius": RADIUS}
    return gj.OnOffRun(on, off, RATIO, LIVETIME, RESPONSE, **limits)


RESPONSE = response()
EXPOSURE = 4.0 * np.pi * np.sin(0.5 * np.radians(RADIUS)) ** 2 * LIVETIME


def batched(runs: list[gj.OnOffRun]) -> gj.OnOff:
    """A posterior's term for each run, along a leading axis: rows of a stack of all of them, padded."""
    stack, one = gj.OnOff(runs), gj.OnOff(runs[:1])
    on = [run.on.size for run in runs]
    off = [run.off.size for run in runs]
    starts = np.concatenate([[0], np.cumsum([*on, *off])])[:-1].reshape(2, -1)
    most = max(on), max(off)
    index = np.concatenate([starts[k][:, None] + np.arange(most[k]) for k in range(2)], 1)
    valid = np.concatenate([np.arange(most[k]) < np.array(sizes)[:, None] for k, sizes in enumerate((on, off))], 1)
    index = np.where(valid, index, 0)
    rows = {name: np.asarray(getattr(stack, name))[index] for name in ("energy", "exposure")}
    # exposures of padding must be those of some event: zero would be a rate of zero
    kernel = np.asarray(stack.kernel)[np.where(valid[:, : most[0]], index[:, : most[0]], 0)]
    values = rows["energy"], np.zeros_like(index), rows["exposure"], valid.astype(np.int32), kernel
    return eqx.tree_at(lambda t: (t.energy, t.run, t.exposure, t.count, t.kernel), one, tuple(map(jnp.asarray, values)))


AXES = eqx.tree_at  # the axes of `batched`: rows of each simulation, everything else shared


def axes_of(term: gj.OnOff):
    """Leading axes of `batched` for vmap."""
    none = jax.tree.map(lambda _: None, term)
    leaves = lambda t: (t.energy, t.run, t.exposure, t.count, t.kernel)  # noqa: E731
    return eqx.tree_at(leaves, none, (0,) * 5, is_leaf=lambda leaf: leaf is None)


def mixture(amplitude, index, coefficients=None) -> gj.Mixture:
    """Source and background; the conjugate form needs no background."""
    source = gj.Source(gj.PowerLaw(index, amplitude), gj.Point(0.0, 0.0))
    if coefficients is None:
        return gj.Mixture(source=source)
    return gj.Mixture(source=source, background=gj.OffBackground(coefficients, LOW, HIGH))


def marginal(term: gj.OnOff, amplitude, centre, prior_precision):
    """Value of ln L integrated over the coefficients: Newton steps to their best values, and Laplace's formula."""

    def minus(x):
        rest = x - centre
        return 0.5 * rest @ prior_precision @ rest - term.log_likelihood(mixture(amplitude, INDEX, x))

    def step(x, _):
        curvature = jax.hessian(minus)(x)
        # the background's part of a mixture is not concave: no less than the prior's curvature
        value, vector = jnp.linalg.eigh(curvature)
        move = vector @ ((vector.T @ jax.grad(minus)(x)) / jnp.maximum(value, 0.5))
        return x - move / jnp.maximum(1.0, jnp.abs(move).max()), None

    best = jax.lax.scan(step, centre, None, length=12)[0]
    return -minus(best) - 0.5 * jnp.linalg.slogdet(jax.hessian(minus)(best))[1]


def wstat(on, off, signal, ratio):
    """Minus two ln L with the background of every cell at its maximum (Arnaud, Smith & Siemiginowska, XSPEC manual)."""
    c = ratio * (on + off) - (1.0 + ratio) * signal
    best = (c + jnp.sqrt(c**2 + 4.0 * ratio * (1.0 + ratio) * off * signal)) / (2.0 * ratio * (1.0 + ratio))
    best = jnp.where(off > 0, best, jnp.maximum(on / (1.0 + ratio) - signal / ratio, 0.0))
    rate = signal + ratio * best
    return 2.0 * (rate - xlogy(on, jnp.maximum(rate, 1e-30)) + best - xlogy(off, jnp.maximum(best, 1e-30)))


def curves(runs: list[gj.OnOffRun], truth: float) -> dict[str, np.ndarray]:
    """Value of ln L of each method at the amplitudes of the grid, [simulation, amplitude]."""
    term = batched(runs)
    centres, precisions = [], []
    for run in runs:
        prior = gj.smooth_prior(gj.OnOff(run).power_law(SIZE) if False else power_law(run), SCALE)
        centres.append(np.asarray(prior.loc))
        precisions.append(np.asarray(prior.precision_matrix))
    amplitudes = jnp.asarray(truth * GRID)
    over_grid = jax.vmap(marginal, (None, 0, None, None))
    every = jax.jit(jax.vmap(over_grid, (axes_of(term), None, 0, 0)))
    unbinned = []
    for part in np.array_split(np.arange(len(runs)), max(len(runs) // 100, 1)):
        rows = eqx.tree_at(
            lambda t: (t.energy, t.run, t.exposure, t.count, t.kernel), term, replace_fn=lambda a: a[part]
        )
        unbinned.append(np.asarray(every(rows, amplitudes, np.array(centres)[part], np.array(precisions)[part])))
    conjugate, profile = [], []
    for run in runs:
        cells = gj.OnOffCounts(run, EDGES)
        signal = np.asarray(cells.signal(mixture(truth, INDEX)))[None] * GRID[:, None]
        value = jax.vmap(lambda s, cells=cells: cells.log_sum(s, cells.log_coefficient))(jnp.asarray(signal))
        conjugate.append((np.asarray(value) - signal).sum(1))
        profile.append(-0.5 * np.asarray(wstat(cells.on, cells.off, jnp.asarray(signal), RATIO)).sum(1))
    return {"unbinned": np.concatenate(unbinned), "conjugate": np.array(conjugate), "wstat": np.array(profile)}
