"""Simulation-based calibration of extended likelihoods whose shape, response or background is free.

As `benchmarks.calibration`, but fluxes are absolute, so the number of events is data too. One CTAO South pointing with
about two thousand events, a source with a power law, and the instrument's background. Free are, beside flux, index and
the norm of the background,

- `shape`: position and size of a Gaussian;
- `response`: effective area, energy scale, energy resolution and PSF width, by their priors of ten per cent;
- `background`: a smooth correction in energy, offset and field of view, by its prior.

Posteriors are drawn by `gj.laplace`, whose weights correct the Gaussian (`worst_k_hat` says where they cannot), and by
`gj.nuts` for the response: tables of the dispersion from a simulation have structure of some per cent in energy, so
that the posterior of the energy scale is no Gaussian.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import gammajax as gj
from benchmarks.calibration import RANKS, add, figures, placed, plot
from benchmarks.report import RESULTS, report
from gammajax.common.cache import keep_compiled

OFFSET = (0.4, 0.3)  # of the source from the pointing [deg]
NODES = ([0.3, 1.0, 3.0, 20.0], [0.0, 0.7, 1.5], 1)
FLUX = {"log_flux": dist.Normal(0.0, 0.3), "index": dist.Normal(2.4, 0.2), "log_norm": dist.Normal(0.0, 0.1)}


LIVETIME = 1500.0  # s


class Case(NamedTuple):
    """A model, the priors of its parameters, and the sampler with its options."""

    model: Callable[[dict[str, Any]], gj.Mixture]
    priors: dict[str, Any]
    sampler: Callable[..., gj.Result] = gj.laplace
    options: dict[str, Any] = {"draws": 500}
    energy_range: tuple[float, float] = (0.3, 30.0)  # TeV


def spectrum(p):
    """A power law about the flux of the Crab nebula over ten."""
    return gj.PowerLaw(p["index"], 3e-12 * jnp.exp(p["log_flux"]))


def shape(p):
    """Source of free position and size."""
    source = gj.Source(spectrum(p), gj.Gaussian(p["lon"], p["lat"], p["sigma"]))
    return gj.Mixture(source=source, background=gj.InstrumentBackground(jnp.exp(p["log_norm"])))


def response(p):
    """Point source seen through a response that differs from its file."""
    change = gj.ResponseChange(
        effective_area=jnp.exp(p["log_area"]),
        energy_scale=p["scale"],
        energy_resolution=jnp.exp(p["log_resolution"]),
        psf_width=jnp.exp(p["log_width"]),
    )
    source = gj.Source(spectrum(p), gj.Point(*OFFSET))
    return gj.Mixture(source=source, background=gj.InstrumentBackground(jnp.exp(p["log_norm"])), response=change)


def background(p):
    """Point source above a background with a smooth correction."""
    correction = gj.BackgroundCorrection.of(p["correction"], *NODES)
    source = gj.Source(spectrum(p), gj.Point(*OFFSET))
    return gj.Mixture(source=source, background=gj.InstrumentBackground(correction=correction))


CASES = {
    "shape": Case(
        shape,
        {
            **FLUX,
            "lon": dist.Normal(OFFSET[0], 0.05),
            "lat": dist.Normal(OFFSET[1], 0.05),
            "sigma": dist.LogNormal(float(np.log(0.15)), 0.3),
        },
    ),
    "response": Case(
        response,
        {**FLUX, **{name: dist.Normal(0.0, 0.1) for name in ("log_area", "scale", "log_resolution", "log_width")}},
        gj.nuts,
        {"draws": 300, "warmup": 150, "chains": 2},
        (0.5, 8.0),  # fewer nodes: each value needs tables of all
    ),
    "background": Case(
        background,
        {"log_flux": FLUX["log_flux"], "index": FLUX["index"], "correction": gj.correction_prior(*NODES)},
    ),
}


def observation(energy_range):
    """One pointing."""
    return gj.io.ctao(
        "South", pointing=(0.0, 0.0), frame="galactic", livetime=LIVETIME, energy_range=energy_range, offset_max=1.5
    )


def numbers(parameters: dict[str, Any]) -> dict[str, np.ndarray]:
    """Parameters with one name for each number of a vector, which is on the last axis."""
    found = {}
    for name, values in parameters.items():
        if np.ndim(values) > np.ndim(parameters["index"]):
            found |= {f"{name}[{i}]": np.asarray(values)[..., i] for i in range(np.shape(values)[-1])}
        else:
            found[name] = np.asarray(values)
    return found


def one(seed: int, case: Case, observed):
    """Rank of each truth between 0 and 1 and whether intervals hold it; the number of events, and k-hat of weights."""
    keys = jax.random.split(jax.random.key(seed), 4)
    truth = {name: prior.sample(jax.random.fold_in(keys[0], i)) for i, (name, prior) in enumerate(case.priors.items())}
    events = gj.simulate(keys[1], case.model(truth), observed)
    posterior = gj.Posterior(case.model, case.priors, observed, events, progress=False)
    result = case.sampler(keys[2], posterior, progress=False, **case.options)
    random, found = np.random.default_rng([seed, 1]), {}
    each, truths = numbers({name: result.samples[name] for name in truth}), numbers(truth)
    for name, value in truths.items():
        found[name] = placed(float(value), each[name], random.permutation(each[name])[:RANKS], random.uniform())
    return found, len(events), float(result.tree.attrs.get("k_hat", 0.0))


def main():
    """Calibrate the cases that are asked for, from where earlier runs ended: their simulations are in the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of each case at most")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    keep_compiled()
    path = RESULTS / f"calibration-extended-{jax.devices()[0].platform}.json"
    cases = json.loads(path.read_text())["cases"] if path.exists() else {}
    for name in options.cases:
        before = cases.get(name, {"parameters": {}, "seconds": 0.0, "simulations": 0, "events": [], "k_hat": []})
        kept = {p: {k: of[k] for k in ("ranks", "held68", "held95")} for p, of in before["parameters"].items()}
        events, k_hat = list(before["events"]), list(before["k_hat"])
        observed, started, spent = observation(CASES[name].energy_range), time.perf_counter(), 0.0
        for seed in range(before["simulations"], options.simulations):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of k-hat, which is kept
                found, number, one_k = one(seed, CASES[name], observed)
            add(kept, found)
            events.append(number)
            k_hat.append(round(one_k, 3))
            spent = time.perf_counter() - started
            print(f"{name}: {seed + 1}, {number} events, k-hat {one_k:.2f}, {spent:.0f} s", flush=True)
            if seed % 10 == 9:  # programs of all sizes of data would use up the maps of memory that a process has
                jax.clear_caches()
            last = seed + 1 == options.simulations or spent > 60.0 * options.minutes
            if seed % 20 == 19 or last:
                said = {"mean_events": float(np.mean(events)), "worst_k_hat": max(k_hat)}
                cases[name] = {**figures(kept, before["seconds"] + spent), **said, "events": events, "k_hat": k_hat}
                now = json.loads(path.read_text())["cases"] if path.exists() else {}  # another process may add cases
                report("calibration-extended", {"cases": now | {name: cases[name]}})
            if last:
                break
        plot({name: cases[name]}).savefig(RESULTS / f"calibration-extended-{name}.png", dpi=120)


if __name__ == "__main__":
    main()
