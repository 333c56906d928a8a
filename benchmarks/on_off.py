"""ON and OFF with few counts: bias, coverage and calibration of both likelihoods, and of wstat.

A point source with a power law and a curved background, in an ON region and OFF regions of three times its acceptance.
Events come from numpy and scipy alone: true energies by inversion of the power law, thinned by the effective area,
reconstructed energies from a Gaussian. Bias and coverage are those of the amplitude at 5, 10 and 20 expected ON counts,
half of them background: maxima and intervals of 2 Delta ln L = 1 and 4, from the likelihood that is marginalised over
the background (unbinned, conjugate) or has its maximum in each cell (wstat). Calibration draws amplitude, index and
background from their priors: ranks of the truth among draws of the posterior are uniform (Talts et al. 2018,
arXiv:1804.06788). NUTS draws from the unbinned one, the density on a grid from the conjugate one.
"""

import argparse
import functools
import json
import time

import blackjax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from arviz_stats.ecdf_utils import ecdf_pit
from matplotlib import rc_context
from scipy.interpolate import BSpline, CubicSpline
from scipy.optimize import brentq
from scipy.stats import norm

import gammajax as gj
from benchmarks.calibration import figures
from benchmarks.report import RESULTS, report
from gammajax.instrument.response import EnergyDispersion
from gammajax.instrument.table import Axis, Table
from gammajax.likelihood.binned import wstat
from gammajax.plots.style import BOXED, COLOURS

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
KNOTS = np.log(LOW) + np.log(HIGH / LOW) / (SIZE - 3) * np.arange(-3, SIZE + 1)  # of the spline, for scipy
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


def rows_of(term):
    """Leaves of `batched` that differ from one simulation to the next."""
    return term.energy, term.run, term.exposure, term.count, term.kernel


def axes_of(term: gj.OnOff):
    """Leading axes of `batched` for vmap."""
    none = jax.tree.map(lambda _: None, term)
    return eqx.tree_at(rows_of, none, (0,) * 5, is_leaf=lambda leaf: leaf is None)


def power_law(run: gj.OnOffRun) -> tuple[float, float]:
    """OFF counts per TeV at 1 TeV, and index, of the best power law of the OFF events."""
    energy = np.geomspace(LOW, HIGH, 401)

    def moments(index):
        density = energy ** (1.0 - index)
        return np.trapezoid(density, np.log(energy)), np.trapezoid(density * np.log(energy), np.log(energy))

    wanted = np.log(run.off).mean()
    index = brentq(lambda index: moments(index)[1] / moments(index)[0] - wanted, -30.0, 60.0)
    return run.off.size / moments(index)[0], index


def prior_of(size: int, norm_at_1: float, index: float) -> dist.MultivariateNormal:
    """Prior of the coefficients about a power law of the OFF counts."""
    site = np.linspace(np.log(LOW), np.log(HIGH), size - 2)
    step = site[1] - site[0]
    centre = np.log(norm_at_1 * RATIO / EXPOSURE) - index * np.concatenate([[site[0] - step], site, [site[-1] + step]])
    return gj.smooth_prior(centre, SCALE)


def mixture(amplitude, index, coefficients=None) -> gj.Mixture:
    """Source and background; the conjugate form needs no background."""
    source = gj.Source(gj.PowerLaw(index, amplitude), gj.Point(0.0, 0.0))
    if coefficients is None:
        return gj.Mixture(source=source)
    return gj.Mixture(source=source, background=gj.OffBackground(coefficients, LOW, HIGH))


def marginal(term: gj.OnOff, amplitude, centre, precision):
    """Value of ln L integrated over the coefficients: Newton steps to their best values, and Laplace's formula."""

    def minus(x):
        rest = x - centre
        return 0.5 * rest @ precision @ rest - term.log_likelihood(mixture(amplitude, INDEX, x))

    def step(x, _):
        # the logarithm of signal plus background is not concave in that of the background
        value, vector = jnp.linalg.eigh(jax.hessian(minus)(x))
        move = vector @ ((vector.T @ jax.grad(minus)(x)) / jnp.maximum(jnp.abs(value), 0.5))
        return x - move / jnp.maximum(1.0, jnp.abs(move).max()), None

    best = jax.lax.scan(step, centre, None, length=12)[0]
    return -minus(best) - 0.5 * jnp.linalg.slogdet(jax.hessian(minus)(best))[1]


def curves(runs: list[gj.OnOffRun], truth: float) -> dict[str, np.ndarray]:
    """Value of ln L of each method at the amplitudes of the grid, [simulation, amplitude]."""
    laws = [power_law(run) for run in runs]
    priors = [prior_of(SIZE, *law) for law in laws]
    centres, precisions = (jnp.stack([getattr(p, name) for p in priors]) for name in ("loc", "precision_matrix"))
    term, amplitudes = batched(runs), jnp.asarray(truth * GRID)
    every = jax.jit(jax.vmap(jax.vmap(marginal, (None, 0, None, None)), (axes_of(term), None, 0, 0)))
    unbinned = []
    for part in np.array_split(np.arange(len(runs)), -(-len(runs) // 100)):
        rows = eqx.tree_at(rows_of, term, tuple(leaf[part] for leaf in rows_of(term)))
        unbinned.append(np.asarray(every(rows, amplitudes, centres[part], precisions[part])))
    # cells of one simulation after another; the prior is the default of one simulation
    smooth = np.array([norm_at_1 * np.diff(EDGES ** (1.0 - g)) / (1.0 - g) for norm_at_1, g in laws])
    rate = np.minimum(2.0, 5.0 / smooth)
    cells = gj.OnOffCounts(runs, EDGES, by_run=True, shape=rate * smooth, rate=rate)
    signal = cells.signals(mixture(truth, INDEX))["source"]

    def conjugate(scale):
        return cells.cell_values(scale * signal)

    def profile(scale):
        return -0.5 * wstat(jnp.asarray(cells.on), jnp.asarray(cells.off), jnp.asarray(cells.ratio), scale * signal)

    def over_grid(function):
        return np.asarray(jax.lax.map(function, jnp.asarray(GRID))).reshape(GRID.size, len(runs), CELLS).sum(2).T

    return {"unbinned": np.concatenate(unbinned), "conjugate": over_grid(conjugate), "wstat": over_grid(profile)}


def estimates(curve: np.ndarray) -> dict[str, float]:
    """Bias of the maximum and of the mean of the posterior, and coverage of 2 Delta ln L = 1 and 4; truth is 1."""
    fine = np.linspace(GRID[0], GRID[-1], 12_001)
    best, held = [], {"68": [], "95": []}
    means, central = [], {"68": [], "95": []}
    for line in curve:
        value = CubicSpline(GRID, line)(fine)
        best.append(fine[value.argmax()])
        below = value.max() - float(CubicSpline(GRID, line)(1.0))
        weight = np.exp(value - value.max())
        cumulative = np.cumsum(weight) / weight.sum()
        means.append(fine @ weight / weight.sum())
        at = np.interp(1.0, fine, cumulative)
        for level, limit, inside in (("68", 1.0, 0.6827), ("95", 4.0, 0.9545)):
            held[level].append(2.0 * below <= limit)
            central[level].append(abs(at - 0.5) <= 0.5 * inside)
    number = len(curve)
    error = float(np.std(best) / np.sqrt(number))
    return {
        "bias": float(np.mean(best) - 1.0),
        "bias_error": error,
        "median": float(np.median(best)),
        "scatter": float(np.std(best)),
        **{f"coverage{level}": float(np.mean(values)) for level, values in held.items()},
        "bias_of_mean": float(np.mean(means) - 1.0),
        **{f"credible{level}": float(np.mean(values)) for level, values in central.items()},
    }


def frequentist(simulations: int, seed: int) -> dict:
    """Bias and coverage at few counts, by expected ON counts."""
    found = {}
    for counts in (5, 10, 20):
        random, started = np.random.default_rng([seed, counts]), time.perf_counter()
        truth, background = 0.5 * counts / counts_of(INDEX), 0.5 * counts
        runs = [
            run_of(
                np.concatenate([thrown(random, INDEX, truth), drawn(random, curved, background)]),
                drawn(random, curved, background / RATIO),
            )
            for _ in range(simulations)
        ]
        # a power law needs some OFF events
        runs = [run for run in runs if run.off.size > 2 and np.ptp(run.off) > 0.1]
        methods = {name: estimates(curve) for name, curve in curves(runs, truth).items()}
        found[str(counts)] = {"simulations": len(runs), "seconds": time.perf_counter() - started, **methods}
        print(counts, json.dumps(found[str(counts)]), flush=True)
    return found


PRIORS = {"log_amplitude": dist.Normal(0.0, 0.7), "index": dist.Normal(INDEX, 0.3)}
COEFFICIENTS = prior_of(SIZE, 12.0, 2.7)  # about 18 OFF events
CELL_SHAPE = np.full(CELLS, 0.8)
CELL_RATE = 0.5  # OFF counts of a cell: 1.6 on average
FAINT = 10.0 / counts_of(INDEX)


BATCH = 50  # simulations that sample at once
CONJUGATE = 10  # times as many simulations of cells: a grid of two parameters costs less than chains


def sampled(log_density, start, axes, data, seed, warmup=400, draws=1000):
    """Draws of NUTS of many simulations at once, {name: [simulation, draw]}."""

    def one(key, data):
        keys = jax.random.split(key, 2)
        # one long trajectory keeps its batch waiting
        short = {"max_num_doublings": 6}
        warm = blackjax.window_adaptation(blackjax.nuts, lambda p: log_density(p, data), **short)
        (state, tuned), _ = warm.run(keys[0], start, num_steps=warmup)
        kernel = blackjax.nuts(lambda p: log_density(p, data), **(tuned | short))

        def step(state, key):
            state, _ = kernel.step(key, state)
            return state, state.position

        return jax.lax.scan(step, state, jax.random.split(keys[1], draws))[1]

    number, many, parts = data.energy.shape[0], jax.jit(jax.vmap(one, (0, axes))), []
    keys = jax.random.split(jax.random.key(seed), number)
    for begin in range(0, number, BATCH):
        some = slice(begin, begin + BATCH)
        each = eqx.tree_at(rows_of, data, tuple(leaf[some] for leaf in rows_of(data)))
        parts.append(jax.block_until_ready(many(keys[some], each)))
    return jax.tree.map(lambda *columns: jnp.concatenate(columns), *parts)


def gridded(log_densities, axes: dict, random, draws=1000):
    """Draws of posteriors of two parameters by their densities on a grid, {name: [simulation, draw]}."""
    grid = dict(zip(axes, np.meshgrid(*axes.values(), indexing="ij"), strict=True))
    flat = {name: jnp.asarray(values.ravel()) for name, values in grid.items()}
    value = np.asarray(jax.jit(lambda p: jax.lax.map(log_densities, p))(flat)).T
    cumulative = np.cumsum(np.exp(value - value.max(1, keepdims=True)), axis=1)
    uniform = random.uniform(size=(len(value), draws)) * cumulative[:, -1:]
    at = np.stack([np.searchsorted(*row) for row in zip(cumulative, uniform, strict=True)])
    width = {name: values[1] - values[0] for name, values in axes.items()}
    return {name: np.asarray(flat[name])[at] + random.uniform(-0.5, 0.5, at.shape) * width[name] for name in axes}


def ranked(draws, truths, seconds: float) -> dict:
    """Ranks of the truths among thinned draws, with the tests of `benchmarks.calibration`."""
    found = {}
    for name, truth in truths.items():
        chain = np.asarray(draws[name])
        thinned = chain[:, np.linspace(0, chain.shape[1] - 1, RANKS).astype(int)]
        spread = np.random.default_rng(0).uniform(size=len(truth))
        ranks = ((thinned < truth[:, None]).sum(1) + spread) / (RANKS + 1)
        held = {
            level: [bool(v) for v in (truth > low) & (truth < high)]
            for level, inside in (("held68", 0.6827), ("held95", 0.9545))
            for low, high in [np.quantile(chain, [0.5 - inside / 2, 0.5 + inside / 2], axis=1)]
        }
        found[name] = {"ranks": ranks.tolist(), **{level: int(np.sum(values)) for level, values in held.items()}}
    return figures(found, seconds)


def summary(runs: list[gj.OnOffRun], draws, truths, started: float) -> dict:
    """Mean counts, and the ranks of the truths."""
    counts = {name: float(np.mean([getattr(run, name).size for run in runs])) for name in ("on", "off")}
    return counts | ranked(draws, truths, time.perf_counter() - started)


def calibrated_unbinned(simulations: int, seed: int) -> dict:
    """Simulation-based calibration of the unbinned likelihood."""
    random, started = np.random.default_rng([seed, 1]), time.perf_counter()
    truths = {name: random.normal(prior.loc, prior.scale, simulations) for name, prior in PRIORS.items()}
    coefficients = np.asarray(COEFFICIENTS.loc) + random.normal(size=(simulations, SIZE)) @ np.asarray(
        COEFFICIENTS.scale_tril
    ).T.astype(float)
    runs = []
    for number in range(simulations):
        spline = BSpline(KNOTS, coefficients[number], 3)
        fine = np.geomspace(LOW, HIGH, 2001)

        def rate(energy, spline=spline):
            return np.exp(spline(np.log(energy)))

        mean = EXPOSURE * np.trapezoid(rate(fine), fine)
        amplitude = FAINT * np.exp(truths["log_amplitude"][number])
        on = np.concatenate([thrown(random, truths["index"][number], amplitude), drawn(random, rate, mean)])
        runs.append(run_of(on, drawn(random, rate, mean / RATIO)))
    term = batched(runs)

    def density(p, term):
        value = sum(prior.log_prob(p[name]) for name, prior in PRIORS.items()) + COEFFICIENTS.log_prob(p["b"])
        return value + term.log_likelihood(mixture(FAINT * jnp.exp(p["log_amplitude"]), p["index"], p["b"]))

    start = {"log_amplitude": jnp.zeros(()), "index": jnp.asarray(INDEX), "b": jnp.asarray(COEFFICIENTS.loc)}
    draws = sampled(density, start, axes_of(term), term, seed)
    return summary(runs, draws, truths, started)


def calibrated_conjugate(simulations: int, seed: int) -> dict:
    """Simulation-based calibration of the likelihood of cells whose backgrounds are integrated out."""
    random, started = np.random.default_rng([seed, 2]), time.perf_counter()
    truths = {name: random.normal(prior.loc, prior.scale, simulations) for name, prior in PRIORS.items()}
    centre, runs = np.sqrt(EDGES[1:] * EDGES[:-1]), []
    for number in range(simulations):
        background = random.gamma(CELL_SHAPE, 1.0 / CELL_RATE)
        amplitude = FAINT * np.exp(truths["log_amplitude"][number])
        on = np.histogram(thrown(random, truths["index"][number], amplitude), EDGES)[0]
        on += random.poisson(RATIO * background)
        runs.append(run_of(np.repeat(centre, on), np.repeat(centre, random.poisson(background))))
    shape, rate = (np.broadcast_to(value, (simulations, CELLS)) for value in (CELL_SHAPE, CELL_RATE))
    cells = gj.OnOffCounts(runs, EDGES, by_run=True, shape=shape, rate=rate)

    def log_densities(p):
        signal = cells.signals(mixture(FAINT * jnp.exp(p["log_amplitude"]), p["index"]))["source"]
        prior = sum(prior.log_prob(p[name]) for name, prior in PRIORS.items())
        return prior + cells.cell_values(signal).reshape(simulations, CELLS).sum(1)

    axes = {
        name: np.linspace(prior.loc - 5.0 * prior.scale, prior.loc + 5.0 * prior.scale, size)
        for (name, prior), size in zip(PRIORS.items(), (141, 61), strict=True)
    }
    draws = gridded(log_densities, axes, random)
    return summary(runs, draws, truths, started)


@rc_context(BOXED)
def plot(found: dict):
    """Bias and coverage by ON counts, and ranks minus the uniform distribution."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 6.4), layout="constrained")
    panels = figure.subplots(2, 4)
    counts = list(found["cases"])
    colours = {"unbinned": COLOURS[1], "conjugate": COLOURS[3], "wstat": COLOURS[0]}
    shown = ("bias", "bias_of_mean", "coverage68", "coverage95")
    titles = ("bias of the maximum", "bias of the mean", "coverage of 68 %", "coverage of 95 %")
    for axes, name, title in zip(panels[0], shown, titles, strict=True):
        for shift, (method, colour) in enumerate(colours.items()):
            if name == "bias_of_mean" and method == "wstat":
                continue
            values = [found["cases"][n][method][name] for n in counts]
            number = found["cases"][counts[0]]["simulations"]
            errors = [
                found["cases"][n][method]["bias_error"] if "bias" in name else np.sqrt(v * (1 - v) / number)
                for n, v in zip(counts, values, strict=True)
            ]
            x = np.array([float(n) for n in counts]) * 1.05 ** (shift - 1)
            axes.errorbar(x, values, errors, fmt="o-", color=colour, ms=4, lw=1.2, label=method)
        axes.axhline({"coverage68": 0.6827, "coverage95": 0.9545}.get(name, 0.0), color="0.4", lw=0.8)
        axes.set_xscale("log")
        axes.set_xticks([5, 10, 20], ["5", "10", "20"])
        axes.minorticks_off()
        axes.set(title=title, xlabel="expected ON counts")
    panels[0][0].legend(frameon=False, fontsize=9)
    each = [(m, p) for m in ("unbinned", "conjugate") for p in PRIORS]
    for axes, (method, name) in zip(panels[1], each, strict=True):
        ranks = np.array(found["calibration"][method]["parameters"][name]["ranks"])
        x, ecdf, lower, upper = ecdf_pit(ranks, 0.95, 2000)
        axes.fill_between(x, lower - x, upper - x, color="0.85", lw=0, step="mid")
        axes.step(x, ecdf - x, where="mid", color=colours[method], lw=1.2)
        axes.axhline(0.0, color="0.4", lw=0.6)
        axes.set(title=f"{method}: {name}", xlabel="rank of the truth")
    panels[1][0].set_ylabel("ECDF - uniform")
    return figure


def main():
    """Write bias, coverage and calibration, and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--simulations",
        type=int,
        default=1000,
        help="of bias and coverage, for each number of counts; 0: those of the last run",
    )
    parser.add_argument("--calibration", type=int, default=200, help="simulations of the calibration")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if options.simulations:
        found = {"cases": frequentist(options.simulations, options.seed)}
    else:
        found = {"cases": json.loads((RESULTS / "on-off-cpu.json").read_text())["cases"]}
    found["calibration"] = {
        "unbinned": calibrated_unbinned(options.calibration, options.seed),
        "conjugate": calibrated_conjugate(CONJUGATE * options.calibration, options.seed),
    }
    for method, of in found["calibration"].items():
        print(method, {k: v for k, v in of.items() if k != "parameters"}, flush=True)
    report("on-off", found)
    plot(found).savefig(RESULTS / "on-off.png", dpi=120)


if __name__ == "__main__":
    main()
