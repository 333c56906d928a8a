"""Bias of the estimates: expected without noise, and measured in simulations of up to 1e9 events.

Expected: with the densities q = Sum_i w_i lambda_i / N_i of the engines in place of the true p, estimates of many
events are off by F^-1 E, where F is the information of one event and

    E_a = Int p d_a ln q = Sum_i (d_a w_i + w_i d_a) (M_i - 1) + Sum_i w_i Int (p_i - q_i) d_a ln q,
    M_i = Int lambda_i / N_i.

The first sum is of the intensities and the counts of a component that do not agree: for a small fraction it counts
fully, in events, and it must be below 1e-5 at 1e8 events. The second is of the shapes: it counts in proportion to the
fraction. Integrals over cells are sums over all cells, for the kernel engine and the fold engine; those of single
events come from events of each component, against the kernel engine with many points in each cell and the direct
engine. Shapes of the background are compared with an integral of its table, written here without the package.

Measured: the model of `benchmarks.paper_2401_13876`, and the instrument's background alone, fitted with a signal of
1 TeV that is not there. Parts of the simulations are kept in files, so that they may be made in several runs.
"""

import argparse
import json
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import rc_context

import gammajax as gj
from benchmarks import calibration
from benchmarks import paper_2401_13876 as paper
from benchmarks.fold import by_event
from benchmarks.report import RESULTS, report
from benchmarks.scale import observations
from gammajax.common.parameters import is_same
from gammajax.engines import ENGINES, BackgroundEngine, Rows
from gammajax.engines.fixed import FixedEngine
from gammajax.events.cells import Cells
from gammajax.instrument.sky import DEGREE, deproject
from gammajax.plots.style import BOXED
from gammajax.simulation import _BackgroundSampler

KEYS = {"paper": 177, "background": 191}  # of the simulations
EVENTS = 1e8  # that biases are quoted for
STEPS = {"mass": 0.01, "log_mass": 0.01, "index": 0.01}  # of differences of spectra
BY_FOLD = ("sources/j1745",)  # fixed sources which are slow to set up by kernels
SINGLE = 20_000  # events of each component for the engines of single events


def all_cells(observed, **options) -> tuple[gj.Cells, np.ndarray]:
    """Every cell with as many events of the background as are expected, at least one; and its volume [TeV sr]."""
    binning = gj.Binning.init(observed, **options)
    columns, volumes, counts = [], [], []
    for number, field in enumerate(observed):
        table = binning._table(number)
        within, volume, count = np.asarray(table.within), [], []
        for low, high, rings in zip(binning.edges[:-1], binning.edges[1:], binning.rings[number], strict=True):
            if rings == 0:
                continue
            in_ring = np.diff(within[: rings + 1])
            caps = 2.0 * np.pi * -np.diff(np.cos(DEGREE * np.linspace(0.0, field.offset_max, rings + 1)))
            volume.append(np.repeat((high - low) * caps / in_ring, in_ring))
            count.append(volume[-1] * float(field.background(np.sqrt(low * high), field.lon, field.lat)))
        volume, count = np.concatenate(volume), np.concatenate(count)
        first = int(table.first[np.flatnonzero(binning.rings[number])[0]])
        columns.append([np.full(volume.size, number, np.int32), first + np.arange(volume.size, dtype=np.int32)])
        volumes.append(volume)
        counts.append(count)
    observation, cell = (np.concatenate(part) for part in zip(*columns, strict=True))
    count = np.concatenate(counts)
    count = np.maximum(np.rint(EVENTS * count / count.sum()), 1.0).astype(int)
    return Cells(binning, observation, cell, count), np.concatenate(volumes)


def exact_background(cells: gj.Cells, observed) -> np.ndarray:
    """Mean of the background [TeV^-1 sr^-1] over cells of CTAO, by 16 x 16 points in direction, exact in energy.

    From the nodes of the table alone: ln rate is linear in ln E and in both coordinates of the field of view.
    """
    point, weight = np.polynomial.legendre.leggauss(4)
    place = ((np.arange(4)[:, None] + 0.5 + 0.5 * point) / 4.0).ravel()
    share = np.tile(weight / 8.0, 4)
    binning, result = cells.binning, np.zeros(len(cells))
    first = 0
    for number, o in enumerate(observed):
        nodes = [np.asarray(axis.nodes, float) for axis in o.response.background.log_rate.axes]
        values = np.asarray(o.response.background.log_rate.values, float)
        within = np.asarray(binning._table(number).within)
        for low, high, rings in zip(binning.edges[:-1], binning.edges[1:], binning.rings[number], strict=True):
            for ring in range(rings):
                sectors = within[ring + 1] - within[ring]
                away = np.radians((ring + place) * float(o.offset_max) / rings)
                turn = (np.arange(sectors)[:, None, None] + place) * 2.0 * np.pi / sectors - np.radians(o.fov_angle)
                x = -np.degrees(np.arctan2(np.sin(away)[:, None] * np.sin(turn), np.cos(away)[:, None] + 0.0 * turn))
                y = np.degrees(np.arcsin(np.sin(away)[:, None] * np.cos(turn)))
                rate = _energy_integral(nodes, values, x, y, np.log(low), np.log(high)) / (high - low)
                area = share[:, None] * np.sin(away)[:, None] * share
                result[first : first + sectors] = float(o.livetime) * (rate * area).sum((1, 2)) / area.sum()
                first += sectors
    return result


def _energy_integral(nodes, values, x, y, low, high):
    """Integral of the rate over E' between ln E' = low and high: powers of E' between the nodes."""
    i, j = (
        np.clip(np.searchsorted(n, c, side="right") - 1, 0, n.size - 2) for n, c in zip(nodes[1:], (x, y), strict=True)
    )
    f, g = ((c - n[k]) / (n[k + 1] - n[k]) for c, n, k in ((x, nodes[1], i), (y, nodes[2], j)))

    def log_rate(k):
        v = values[k]
        return (1 - f) * ((1 - g) * v[i, j] + g * v[i, j + 1]) + f * ((1 - g) * v[i + 1, j] + g * v[i + 1, j + 1])

    total, k = 0.0, max(int(np.searchsorted(nodes[0], low, side="right")) - 1, 0)
    while True:
        start, end = max(low, nodes[0][k]), min(high, nodes[0][k + 1])
        below = log_rate(k)
        slope = (log_rate(k + 1) - below) / (nodes[0][k + 1] - nodes[0][k])
        power = slope + 1.0
        power = np.where(np.abs(power) < 1e-9, 1e-9, power)
        at_start = np.exp(below + slope * (start - nodes[0][k]) + start)
        total = total + at_start * np.expm1(power * (end - start)) / power
        if high <= nodes[0][k + 1]:
            return total
        k += 1


def derivatives(model, truth, values):
    """Columns of d/d parameter of a function of the mixture at the truth, by central differences."""
    found = []
    for name, value in truth.items():
        step = STEPS.get(name, 0.1 * float(value))
        ends = [values(model({**truth, name: value + sign * step})) for sign in (1.0, -1.0)]
        found.append((np.asarray(ends[0]) - np.asarray(ends[1])) / (2.0 * step))
    return np.array(found)


class Integrals:
    """Intensities of all components in all cells, their counts and the information."""

    def __init__(self, model, truth, observed, **options):
        self.model, self.truth, self.observed = model, truth, observed
        self.cells, self.volume = all_cells(observed, **options)
        self.rows = Rows.init(self.cells, observed)
        self.parts = model(truth).components
        self.engines = {path: {} for path in self.parts}

    def engine(self, path, kind):
        """Engine of a component, set up once."""
        part = self.parts[path]
        if isinstance(part, gj.InstrumentBackground):
            kind = "kernel"
        if kind not in self.engines[path]:
            init = BackgroundEngine.init if isinstance(part, gj.InstrumentBackground) else ENGINES[kind].init
            begun = time.perf_counter()
            self.engines[path][kind] = init(part, self.observed, self.rows)
            print(f"{path} by {kind}: {time.perf_counter() - begun:.0f} s", flush=True)
        return self.engines[path][kind]

    def density(self, path, kind, part=None) -> np.ndarray:
        """Lambda / N in all cells."""
        engine, part = self.engine(path, kind), self.parts[path] if part is None else part
        values = np.asarray(by_event(self.rows, engine.intensity(part)), float)
        return values / float(engine.expected_counts(part).sum())

    def fractions(self, mixture) -> np.ndarray:
        """Fraction of every component."""
        counts = {
            path: self.engine(path, self.best(path)).expected_counts(self.parts[path]).sum() for path in self.parts
        }
        return np.array([float(v) for v in mixture.component_fractions(counts).values()])

    def best(self, path) -> str:
        """The engine of a component in the sums for the information."""
        return "fold" if path in BY_FOLD else "kernel"

    def prepare(self):
        """Densities, their derivatives, scores and information of one event."""
        paths = list(self.parts)
        self.q = {path: self.density(path, self.best(path)) for path in paths}
        self.weights = self.fractions(self.model(self.truth))
        self.d_weights = derivatives(self.model, self.truth, self.fractions)
        self.p = sum(w * self.q[path] for w, path in zip(self.weights, paths, strict=True))
        slopes = []
        for name, row in zip(self.truth, self.d_weights, strict=True):
            slope = sum(d * self.q[path] for d, path in zip(row, paths, strict=True))
            for w, path in zip(self.weights, paths, strict=True):
                slope = slope + w * self.change(path, name, lambda part, p=path: self.density(p, self.best(p), part))
            slopes.append(slope)
        self.score = np.array(slopes) / self.p
        self.information = np.einsum("ac,bc,c->ab", self.score, self.score, self.p * self.volume)
        self.errors = np.sqrt(np.diag(np.linalg.inv(self.information)) / EVENTS)

    def change(self, path, name, function):
        """Derivative of a function of one component by a parameter of its spectrum."""
        if name not in STEPS:
            return 0.0
        step, value = STEPS[name], self.truth[name]
        ends = [self.model({**self.truth, name: value + sign * step}).components[path] for sign in (1.0, -1.0)]
        if is_same(*ends):
            return 0.0
        return (function(ends[0]) - function(ends[1])) / (2.0 * step)

    def in_sigma(self, expectation) -> dict[str, float]:
        """Bias at 1e8 events in standard deviations, by parameter, for the expectation of the score."""
        shift = np.linalg.solve(self.information, expectation) / self.errors
        return {name: float(value) for name, value in zip(self.truth, shift, strict=True)}

    def unequal(self, path, kind) -> tuple[np.ndarray, float]:
        """Expected score by intensities that do not add up to the counts; and M - 1."""
        index = list(self.parts).index(path)

        def excess(part=None):
            return float((self.density(path, kind, part) * self.volume).sum()) - 1.0

        more = excess()
        slopes = [self.change(path, name, excess) for name in self.truth]
        return self.d_weights[:, index] * more + self.weights[index] * np.array(slopes), more

    def misshapen(self, path, true) -> np.ndarray:
        """Expected score by another shape than the true intensity in all cells, up to a factor."""
        index = list(self.parts).index(path)
        true = true / (true * self.volume).sum()
        off = true - self.q[path] / (self.q[path] * self.volume).sum()
        return self.weights[index] * (self.score * off * self.volume).sum(1)

    def single(self, path, key, reference: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Expected score by the kernel's shape against that of another engine, from events; and its error.

        For events of the component, of which the reference may be the fold engine too: then both parts together.
        """
        index, part = list(self.parts).index(path), self.parts[path]
        alone = gj.Mixture(component=part, weights={})
        events = gj.simulate(key, alone, self.observed, events=count)
        rows = Rows.init(events, self.observed)
        ratio, counts = [], []
        for kind in ("kernel", reference):
            engine = ENGINES[kind].init(part, self.observed, rows)
            ratio.append(np.asarray(by_event(rows, engine.intensity(part)), float))
            counts.append(float(engine.expected_counts(part).sum()))
        r = ratio[0] / ratio[1]
        places = {key: n for n, key in enumerate(zip(self.cells.observation, self.cells.cell, strict=True))}
        located = self.cells.binning.locate(events)
        at = np.array([places[key] for key in zip(events.observation, located, strict=True)])
        score = self.score[:, at]
        if reference == "fold":  # of the fold engine relative to the kernel's
            more = (1.0 / r) * counts[0] / counts[1] - 1.0
            term = self.d_weights[:, index] * more.mean() - self.weights[index] * (score * more).mean(1)
            error = np.abs(self.d_weights[:, index]) * more.std() / np.sqrt(count)
            return term, error
        more = r / r.mean() - 1.0
        return -self.weights[index] * (score * more).mean(1), self.weights[index] * (score * more).std(1) / np.sqrt(
            count
        )


def thinning(observed, key, draws: int = 1_000_000) -> float:
    """Part of the proposals of the simulated background whose rate is above its bound; exact where it is zero."""
    worst = 0.0
    for number, o in enumerate(observed):
        sampler = _BackgroundSampler.init(gj.InstrumentBackground(), o)
        worst = max(worst, float(_above(sampler, o, jax.random.fold_in(key, number), draws)))
    return worst


def _above(sampler, o, key, draws):
    keys = jax.random.split(key, 4)
    cell = jnp.searchsorted(sampler.cumulative, jax.random.uniform(keys[0], (draws,)), side="right") - 1
    layer, square = cell // sampler.squares**2, cell % sampler.squares**2
    u, v, w = (jax.random.uniform(k, (draws,)) for k in keys[1:])
    energy = jnp.exp(sampler.log_edges[layer] + u * (sampler.log_edges[layer + 1] - sampler.log_edges[layer]))
    step = 2.0 * sampler.half_width / sampler.squares
    x, y = (
        (part + place) * step - sampler.half_width
        for part, place in ((square % sampler.squares, v), (square // sampler.squares, w))
    )
    lon, lat = deproject(x, y, o.lon, o.lat)
    rate = o.background(energy, lon, lat) * energy
    return jnp.maximum(rate / sampler.envelope[cell] - 1.0, 0.0).mean()


def expected(name, model, truth, observed, folds: bool, direct: int, **options) -> dict:
    """Biases of one model at 1e8 events, by term and parameter."""
    begun = time.perf_counter()
    truth = {key: jnp.asarray(float(value)) for key, value in truth.items()}
    every = Integrals(model, truth, observed, **options)
    every.prepare()
    terms, excess = {}, {}
    for path, part in every.parts.items():
        kinds = ["kernel"] if isinstance(part, gj.InstrumentBackground) else ["kernel", "fold"] if folds else ["kernel"]
        for kind in kinds:
            if path in BY_FOLD and kind == "kernel":
                continue
            term, more = every.unequal(path, kind)
            terms[f"{path}: counts, cells, {kind}"] = every.in_sigma(term)
            excess[f"{path}, {kind}"] = more
            print(name, path, kind, f"{more:.2e}", terms[f"{path}: counts, cells, {kind}"], flush=True)
        if isinstance(part, gj.InstrumentBackground):
            true = exact_background(every.cells, observed)
            terms[f"{path}: shape, cells"] = every.in_sigma(every.misshapen(path, true))
            total = float(every.engine(path, "kernel").expected_counts(part).sum())
            excess[f"{path}, counts against exact"] = total / float((true * every.volume).sum()) - 1.0
            above = thinning(observed, jax.random.key(3))
            excess[f"{path}, simulator above its bound"] = above
        elif direct:
            term, error = every.single(path, jax.random.key(5), "direct", direct)
            terms[f"{path}: shape, events, against direct"] = every.in_sigma(term)
            excess[f"{path}, error of direct in sigma"] = max(abs(v) for v in every.in_sigma(error).values())
    each = {key: {p: abs(v) for p, v in term.items()} for key, term in terms.items() if "fold" not in key}
    total = {p: float(np.sqrt(sum(term[p] ** 2 for term in each.values()))) for p in truth}
    signed = {p: float(sum(term[p] for key, term in terms.items() if key in each)) for p in truth}
    print(name, "sum", signed, f"{time.perf_counter() - begun:.0f} s", flush=True)
    return {
        "terms": terms,
        "excess": excess,
        "sum": signed,
        "quadrature": total,
        "errors_at_1e8": dict(zip(truth, map(float, every.errors), strict=True)),
        "cells": len(every.cells),
        "seconds": time.perf_counter() - begun,
    }


def demo():
    """Model, truth and observations of the built-in configuration of the Galactic centre."""
    observed = [
        gj.io.ctao(
            "South", pointing=place, frame="galactic", livetime=13000.0, energy_range=(0.2, 100.0), offset_max=3.0
        )
        for place in ((0.0, 1.0), (1.0, -0.5), (-1.0, -0.5))
    ]

    def model(p):
        return gj.Mixture(
            signal=gj.Source(gj.DarkMatter("W", mass=p["mass"]), gj.Einasto()),
            background=gj.InstrumentBackground(),
            weights={"signal": p["fraction"]},
        )

    return model, {"mass": 2.0, "fraction": 0.05}, observed


def kept(folder: Path, name: str, binning, make) -> gj.Cells:
    """Cells from a file, or made and kept in it."""
    path = folder / f"{name}.npz"
    if not path.exists():
        cells = make()
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, observation=cells.observation, cell=cells.cell, count=cells.count)
        temporary.replace(path)
    columns = np.load(path)
    return gj.Cells(binning, *(columns[name] for name in ("observation", "cell", "count")))


def simulated(name: str, model, truth, events: int, parts: int, folder: Path, first: int = 0) -> list[gj.Cells]:
    """Simulations of the paper's observations, with keys fold_in(key, first), fold_in(key, first + 1) ..."""
    observed = observations()
    binning = gj.Binning.init(observed, **paper.CELLS)
    key, found = jax.random.key(KEYS[name]), []
    for part in range(first, first + parts):

        def make(part=part):
            return gj.simulate_cells(
                jax.random.fold_in(key, part), model(truth), observed, binning, events=events, progress=False
            )

        found.append(kept(folder, f"{name}-{events:.3g}-{part}", binning, make))
        print(f"{name}: part {part}, {found[-1].total:.4g} events", flush=True)
    return found


def added(parts: list[gj.Cells]) -> gj.Cells:
    """Sum of the counts."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def by_fold(source, observed, rows, variants=()) -> FixedEngine:
    """A fixed source by the fold engine, evaluated once: faster to set up than a kernel."""
    engine = ENGINES["fold"].init(source, observed, rows)
    values, counts = engine(source)
    return FixedEngine(values.astype(rows.dtype), counts, lambda other: engine(other).counts)


def paper_truth():
    """Model and its parameters at 1e8 events."""
    model, _ = paper.models(paper.ridge())
    truth = paper.truths(model, observations(), 100_000_000)
    return model, {name: jnp.asarray(value) for name, value in truth.items()}


def paper_posterior(model, cells) -> gj.Posterior:
    """Posterior of the paper's model."""
    engine = {f"sources/{name}": by_fold for name in ("centre", "g09", "j1745")}
    return gj.Posterior(model, paper.PRIORS, observations(), cells, engine=engine)  # pyright: ignore[reportArgumentType]


def recounted(posterior: gj.Posterior, cells: gj.Cells) -> gj.Posterior:
    """The same rows with the counts of some of the events: engines do not depend on them."""
    of_cell = np.zeros((len(posterior.observations), 1 + max(int(c.cell.max()) for c in (posterior.data, cells))), int)
    of_cell[cells.observation, cells.cell] = cells.count
    count = of_cell[np.asarray(posterior.data.observation), np.asarray(posterior.data.cell)]
    count = np.where(np.asarray(posterior.count) > 0, count, 0)  # rows of padding repeat a cell
    assert count.sum() == cells.total
    return eqx.tree_at(lambda p: p.terms[0].count, posterior, jnp.asarray(count, posterior.count.dtype))


def fitted(posterior, truth, cells) -> dict:
    """Estimates, errors and pulls."""
    best = gj.fit(posterior, initial=truth)
    errors = {name: float(value) for name, value in best.standard_deviations.items()}
    values = {name: float(value) for name, value in best.parameters.items()}
    pulls = {name: (values[name] - float(truth[name])) / errors[name] for name in truth}
    return {"events": cells.total, "cells": len(cells), "estimates": values, "errors": errors, "pulls": pulls}


def no_signal(cells) -> dict:
    """Fraction of a signal of 1 TeV in events of the background alone; it may be negative."""
    observed = observations()
    rows = Rows.init(cells, observed)
    model, _ = paper.models(paper.ridge())
    signal = model({"mass": 1.0, "signal": 0.1, "diffuse": 0.1, "sources": 0.1}).components["signal"]
    density = []
    for part, init in ((signal, FixedEngine.init), (gj.InstrumentBackground(), BackgroundEngine.init)):
        engine = init(part, observed, rows)
        density.append(
            np.asarray(by_event(rows, engine.intensity(part)), float) / float(engine.expected_counts(part).sum())
        )
    ratio, count = density[0] / density[1] - 1.0, np.zeros(len(cells))
    count[:] = cells.count
    fraction = 0.0
    for _ in range(20):
        terms = ratio / (1.0 + fraction * ratio)
        fraction += (count * terms).sum() / (count * terms**2).sum()
    error = 1.0 / np.sqrt((count * terms**2).sum())
    return {
        "events": cells.total,
        "fraction": float(fraction),
        "error": float(error),
        "pull": float(fraction / error),
    }


def many_sets(posterior, truth, sets: list[gj.Cells]) -> dict:
    """Mean pulls and their widths over data sets, whose cells the posterior holds."""
    pulls = []
    for cells in sets:
        pulls.append(fitted(recounted(posterior, cells), truth, cells)["pulls"])
        print(pulls[-1], flush=True)
    columns = {name: np.array([pull[name] for pull in pulls]) for name in truth}
    return {
        name: {"mean": float(v.mean()), "width": float(v.std(ddof=1)) if v.size > 1 else None, "pulls": v.tolist()}
        for name, v in columns.items()
    }


@rc_context(BOXED)
def draw(figures) -> None:
    """Expected biases and pulls."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    models = figures["expected"]
    lines = (len(models) + 2) // 2
    figure, axes = plt.subplots(lines, 2, figsize=(11.0, 4.2 * lines), layout="constrained", squeeze=False)
    for ax, (name, terms) in zip(axes.flat, models.items(), strict=False):
        for column, parameter in enumerate(next(iter(terms.values()))):
            values = [abs(term[parameter]) for term in terms.values()]
            ax.plot(np.maximum(values, 1e-5), range(len(terms)), "osv^"[column], ms=5, label=parameter)
        ax.axvline(0.1, color="0.6", lw=1.0)
        ax.set(xscale="log", xlim=(8e-6, 10.0), xlabel="bias at 1e8 events [sigma]", title=name)
        ax.set_yticks(range(len(terms)), list(terms), fontsize=9)
        ax.legend(fontsize=9)
    for ax in axes.flat[len(models) + 1 :]:
        ax.remove()
    ax, rows = axes.flat[len(models)], []
    for key in ("fit_1e9", "background_only"):
        if key in figures:
            pulls = figures[key] if key == "fit_1e9" else {"background only": figures[key]["pull"]}
            rows += list(pulls.items())
    ax.errorbar([v for _, v in rows], range(len(rows)), xerr=1.0, fmt="o")
    ax.set_yticks(range(len(rows)), [k for k, _ in rows], fontsize=9)
    ax.axvline(0.0, color="0.6", lw=1.0)
    ax.set(xlabel="pull", xlim=(-4.0, 4.0), title="measured")
    figure.savefig(RESULTS / "bias.png", dpi=130)


def main():
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=["paper", "demo", "calibration"], help="for the expected biases")
    parser.add_argument("--direct", type=int, default=1000, help="events of each component for the direct engine")
    parser.add_argument("--pointings", type=int, help="only so many, for the expected biases")
    parser.add_argument("--events", type=float, default=0, help="events of the paper's model to fit, such as 1e9")
    parser.add_argument("--background", type=float, default=0, help="events of the background alone")
    parser.add_argument("--part", type=float, default=100_000_000, help="events of each part of a simulation")
    parser.add_argument("--sets", type=int, default=0, help="parts of these events to fit on their own, too")
    parser.add_argument("--cells", type=Path, default=Path("bias-cells"), help="folder for the simulated parts")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    path = RESULTS / f"bias-{jax.devices()[0].platform}.json"
    figures = json.loads(path.read_text()) if path.exists() else {"expected": {}, "details": {}}  # of other runs
    size = int(options.part)
    makers = {
        "paper": lambda: (*paper_truth(), observations(), paper.CELLS),
        "demo": lambda: (*demo(), paper.CELLS),
        "calibration": lambda: (
            calibration.model,
            {name: prior.mean for name, prior in calibration.PRIORS.items()},
            [calibration.observation()],
            paper.CELLS,
        ),
    }
    for name in options.models:
        model, truth, observed, cells = makers[name]()
        observed = observed[: options.pointings]
        found = expected(name, model, truth, observed, folds=True, direct=options.direct, **cells)
        figures["expected"][name] = found.pop("terms")
        figures["details"][name] = found
    if options.background:
        parts = simulated("background", only_background, {}, size, int(options.background) // size, options.cells)
        figures["background_only"] = no_signal(added(parts))
        print(figures["background_only"], flush=True)
    model, truth = paper_truth()
    if options.events:
        parts = simulated("paper", model, truth, size, int(options.events) // size, options.cells)
        posterior = paper_posterior(model, added(parts))
        figures["fit"] = fitted(posterior, truth, added(parts))
        figures["fit_1e9"] = figures["fit"]["pulls"]
        print(figures["fit"], flush=True)
        figures["sets"] = many_sets(posterior, truth, parts[: options.sets])
    report("bias", figures)
    draw(figures)


def only_background(p):
    """No signal."""
    return gj.Mixture(background=gj.InstrumentBackground(), weights={})


if __name__ == "__main__":
    main()
