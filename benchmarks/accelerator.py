"""An accelerator in ten minutes: likelihood, set-up, samplers, free shapes and simulation, in order of worth.

    python -m benchmarks.accelerator --prepare FILE   # here, with astropy and gammapy
    python -m benchmarks.accelerator --file FILE      # there, with JAX, numpyro, equinox, optax and blackjax alone

Without options it does both. The file holds the posterior of the demonstration, dark matter about the Galactic Centre
in three pointings of CTAO South, and with it responses and events. Posteriors of 1e6 to 1e8 events are its rows, tiled
on the device: kernels of that size, and likelihoods that are so many times the demonstration's. 1e8 rows of 32 bands in
single precision are 13 GB; nothing here needs more than 78 GB.

Each step is written to the JSON when it is done, with its error if it failed. A step that would not end in the minutes
that are left, by the time of one likelihood, is left out, and says so. On a CPU all sizes are a hundredth, `--scale`.
"""

import argparse
import functools
import os
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import gammajax as gj
from benchmarks.likelihood import median_seconds
from benchmarks.report import report

BANDS = 32
DEMO, SIZES = 100_000, (1_000_000, 10_000_000, 100_000_000)
TRUTH = {"fraction": 0.05, "log_mass": float(np.log(2.0))}
PRIORS = {"fraction": dist.Uniform(0.0, 0.2), "log_mass": dist.Uniform(np.log(0.3), np.log(50.0))}
SHAPE_TRUTH = {"amplitude": 3.0, "index": 2.3, "lon": 0.4, "lat": 0.3, "size": 0.25}  # 1e-12 TeV-1 cm-2 s-1, deg
SHAPE_PRIORS = {
    "amplitude": dist.Uniform(0.1, 30.0),
    "index": dist.Uniform(1.5, 3.5),
    "lon": dist.Uniform(0.2, 0.6),
    "lat": dist.Uniform(0.1, 0.5),
    "size": dist.Uniform(0.15, 0.4),
}
CAMPAIGN, LIVETIME = 60, 1680.0  # runs, and s of each
# of posteriors that are so narrow, a short run says how long steps take
NUTS, SMC, NESTED = {"draws": 200, "warmup": 200, "chains": 4}, {"particles": 512}, {"live": 200}
MARGIN = 1.5  # on the time that a sampler is expected to take


def model(p):
    """Fraction and mass to a mixture."""
    return gj.Mixture(
        signal=gj.Source(gj.DarkMatter(channel="W", mass=jnp.exp(p["log_mass"])), gj.Einasto()),
        background=gj.InstrumentBackground(),
        weights={"signal": p["fraction"]},
    )


def shape_model(p):
    """A Gaussian source of free place and size on the instrument's background, in absolute fluxes."""
    spectrum = gj.PowerLaw(p["index"], 1e-12 * p["amplitude"])
    source = gj.Source(spectrum, gj.Gaussian(p["lon"], p["lat"], p["size"]))
    return gj.Mixture(source=source, background=gj.InstrumentBackground())


def numbers(values: dict) -> dict:
    """Parameters as arrays."""
    return {name: jnp.asarray(value) for name, value in values.items()}


def prepare(path: Path, events: int) -> None:
    """Write the posterior of the demonstration."""
    settings = {"frame": "galactic", "energy_range": (0.2, 100.0), "offset_max": 3.0}
    places = ((0.0, 1.0), (1.0, -0.5), (-1.0, -0.5))
    observed = [
        gj.io.ctao("South", pointing=place, livetime=13000.0, obs_id=str(i), **settings)
        for i, place in enumerate(places)
    ]
    drawn = gj.simulate(jax.random.key(0), model(numbers(TRUTH)), observed, events=events)
    gj.Posterior(model, PRIORS, observed, drawn, bands=BANDS).save(path)


@eqx.filter_jit
def _tiled(rows, copies: int):
    return jax.tree.map(lambda a: jnp.tile(a, (copies, *(1,) * (a.ndim - 1))), rows)


def tiled(posterior, copies: int):
    """The posterior with its rows `copies` times: as many times its log-likelihood.

    Columns of energies and directions are not tiled; samplers do not read them.
    """
    if copies == 1:
        return posterior

    def rows(posterior):
        (term,), kernel = posterior.terms, posterior.engines["signal"]
        return (kernel.kernel, kernel.start, posterior.engines["background"].values, term.count, term.reference.rows)

    return eqx.tree_at(rows, posterior, _tiled(rows(posterior), copies))


class Steps:
    """Figures so far, written after each step, and the time that is left."""

    def __init__(self, minutes: float, figures: dict):
        self.end, self.figures = time.perf_counter() + 60.0 * minutes, figures

    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.perf_counter()

    def do(self, group: str, name: str, function, needs: float = 0.0):
        """Figures of a step, or why there are none; returns the figures, if there are some."""
        begun, found = time.perf_counter(), None
        if self.left() < max(needs, 1.0):
            time_left = f"{max(self.left(), 0.0):.0f} s are left"
            row = {"left_out": f"takes some {needs:.0f} s, and {time_left}" if needs else time_left}
        else:
            try:
                row = found = {**function(), "step_s": time.perf_counter() - begun}
            except Exception as error:
                traceback.print_exc()
                row = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        self.figures.setdefault(group, {})[name] = row
        self.figures["seconds_left"] = self.left()
        memory = jax.devices()[0].memory_stats() or {}
        self.figures["peak_memory_bytes"] = memory.get("peak_bytes_in_use")
        report("accelerator", self.figures)
        return found


def timed(function, *arguments, **options):
    """What a function returns, and the seconds it takes."""
    started = time.perf_counter()
    result = jax.block_until_ready(function(*arguments, **options))
    return result, time.perf_counter() - started


def likelihood(posterior, copies: int) -> dict:
    """Seconds of value and gradient, and bytes of the kernel by seconds against a copy on the same device."""
    large = tiled(posterior, copies)
    kernel, point = large.engines["signal"].kernel, numbers(TRUTH)
    value = eqx.filter_jit(lambda posterior, p: posterior.log_likelihood_ratio(p))
    gradient = eqx.filter_jit(lambda posterior, p: jax.value_and_grad(posterior.log_likelihood_ratio)(p))
    copy, read = jax.jit(lambda a: a + 1.0), jax.jit(jnp.sum)
    part = kernel[: max(1, kernel.shape[0] // 4)]
    calls = [lambda: value(large, point), lambda: gradient(large, point), lambda: read(kernel), lambda: copy(part)]
    (value_s, gradient_s, read_s, copy_s), first = median_seconds(calls, repeats=11)
    return {
        "events": large.total,
        "kernel_bytes": kernel.nbytes,
        "value_s": value_s,
        "value_and_grad_s": gradient_s,
        "compile_s": first[1] - gradient_s,
        "value_bytes_per_s": kernel.nbytes / value_s,
        "gradient_bytes_per_s": 2.0 * kernel.nbytes / gradient_s,
        "read_bytes_per_s": kernel.nbytes / read_s,
        "copy_bytes_per_s": 2.0 * part.nbytes / copy_s,
    }


def set_up(posterior, events: int) -> dict:
    """A posterior from responses and events: the first with compilation, and again."""
    held, figures = posterior.events, {}
    rows = np.arange(events) % len(held)
    columns = (np.asarray(getattr(held, name))[rows] for name in ("energy", "lon", "lat", "observation"))
    data, observed = gj.Events(*columns), list(posterior.observations)
    for name in ("first_s", "again_s"):
        _, figures[name] = timed(gj.Posterior, model, PRIORS, observed, data, bands=BANDS, progress=False)
    return {"events": events, **figures, "events_per_s": events / figures["again_s"]}


def sampled(sampler, posterior, copies: int, options: dict) -> dict:
    """A run of a sampler, with compilation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # runs are short
        result, seconds = timed(sampler, jax.random.key(1), tiled(posterior, copies), progress=False, **options)
    found = {"seconds": seconds, "likelihoods": result.calls, "likelihoods_per_s": result.calls / seconds}
    found |= {name: [float(np.median(v)), float(np.std(v))] for name, v in result.samples.items()}
    if result.log_evidence is not None:
        found["log_evidence"] = list(map(float, result.log_evidence))
    return found


def free_shapes(posterior, runs: int) -> dict:
    """A campaign of many runs about a source of free place, size and spectrum: set-up, likelihood and fit."""
    one, random = posterior.observations[0], np.random.default_rng(0)
    angle, (lon, lat) = random.uniform(0.0, 2.0 * np.pi, runs), (SHAPE_TRUTH["lon"], SHAPE_TRUTH["lat"])
    selection = {"energy_min": 0.5, "energy_max": 50.0, "offset_max": 2.0, "frame": "galactic"}
    observed = [
        gj.Observation(lon + 0.7 * np.cos(a), lat + 0.7 * np.sin(a), LIVETIME, one.response, obs_id=str(i), **selection)
        for i, a in enumerate(angle)
    ]
    events, simulate_s = timed(gj.simulate, jax.random.key(2), shape_model(numbers(SHAPE_TRUTH)), observed)
    made, setup_s = timed(gj.Posterior, shape_model, SHAPE_PRIORS, observed, events, progress=False)
    gradient = eqx.filter_jit(lambda posterior, p: jax.value_and_grad(posterior.log_likelihood_ratio)(p))
    (gradient_s,), _ = median_seconds([lambda: gradient(made, numbers(SHAPE_TRUTH))], repeats=11)
    _, first_s = timed(lambda: gj.fit(made, progress=False).parameters)
    best, again_s = timed(lambda: gj.fit(made, progress=False).parameters)
    figures = {"runs": runs, "events": len(events), "simulate_s": simulate_s, "setup_s": setup_s}
    figures |= {"value_and_grad_s": gradient_s, "fit_first_s": first_s, "fit_again_s": again_s}
    return {**figures, "best": {name: float(value) for name, value in best.items()}}


def simulation(posterior, events: int) -> dict:
    """Events per second, after a small simulation that compiles."""
    truth, observed = model(numbers(TRUTH)), list(posterior.observations)
    _, first_s = timed(gj.simulate, jax.random.key(0), truth, observed, events=events)
    _, again_s = timed(gj.simulate, jax.random.key(1), truth, observed, events=events)
    return {"events": events, "first_s": first_s, "again_s": again_s, "events_per_s": events / again_s}


def run(path: Path, minutes: float, scale: float) -> None:
    """All steps, from the file."""
    # weights of so many events need more than seven digits; kernels stay in single precision
    jax.config.update("jax_enable_x64", True)
    steps = Steps(minutes, {"scale": scale, "bands": BANDS})
    loaded, load_s = timed(gj.load_posterior, path, model)
    steps.figures |= {"events_of_file": loaded.total, "load_s": load_s}
    copies = {int(scale * size): max(1, round(scale * size / loaded.total)) for size in SIZES}
    seconds = {}
    for size, number in copies.items():
        found = steps.do("likelihood", f"{size:.0e} events", functools.partial(likelihood, loaded, number))
        seconds[number] = found["value_and_grad_s"] if found else None
    steps.do("set-up of events", "set-up", functools.partial(set_up, loaded, int(scale * SIZES[0])))
    most = copies[int(scale * SIZES[-1])]
    rates = {}
    for number in (1, most):
        for sampler, options in ((gj.nuts, NUTS), (gj.smc, SMC), (gj.nested, NESTED)):
            name, needs = sampler.__name__, 0.0
            if number != 1 and (name not in rates or not seconds[number]):
                needs = np.inf
            elif number != 1:  # a gradient costs some two values
                needs = MARGIN * rates[name] * seconds[number] * (1.0 if name == "nuts" else 0.5)
            of = f"{name}, {loaded.total * number:.0e} events"
            found = steps.do("samplers", of, functools.partial(sampled, sampler, loaded, number, options), needs)
            if found and number == 1:
                rates[name] = found["likelihoods"]
    shapes = functools.partial(free_shapes, loaded, max(3, round(CAMPAIGN * min(1.0, 10.0 * scale))))
    steps.do("campaign", "free shapes", shapes)
    steps.do("simulated", "simulation", functools.partial(simulation, loaded, int(scale * SIZES[1])))


def main():
    """Prepare the file, or run from it, or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", type=Path, metavar="FILE", help="write the file, and end")
    parser.add_argument("--file", type=Path, metavar="FILE", help="run from this file")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which no step begins")
    parser.add_argument("--scale", type=float, help="of all sizes; by default 1, and 0.01 on a CPU")
    options = parser.parse_args()
    if options.prepare and options.file:
        parser.error("--prepare FILE writes the file, and --file FILE runs from it: give one of the two")
    scale = options.scale or (0.01 if jax.default_backend() == "cpu" else 1.0)
    events = int(DEMO * min(1.0, 10.0 * scale))
    if options.prepare:
        prepare(options.prepare, events)
        print(f"wrote {options.prepare}: {os.path.getsize(options.prepare) / 2**20:.0f} MiB")
        return
    if options.file:
        run(options.file, options.minutes, scale)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demonstration.npz"
        prepare(path, events)
        run(path, options.minutes, scale)


if __name__ == "__main__":
    main()
