"""Samplers on one likelihood: time, calls, effective samples, agreement.

The Galactic Centre problem of `make demo` (dark matter of 2 TeV to W bosons in an Einasto halo on the instrument
background; mass and signal fraction free), 1e5 events. dynesty draws the same log-likelihood through
`posterior.prior_transform`, one point at a time, compiled. Seconds are those of a second run, without compilation;
`first_s` has it. `ratio_to_dynesty` is of seconds at equal error of the evidence: error^2 x seconds.
"""

import argparse
import time

import equinox as eqx
import jax
import numpy as np

import gammajax as gj
from benchmarks.report import report
from gammajax.cli.configurations import load

LIVE = 500
METHODS = {
    "nuts": (gj.nuts, {"draws": 1000, "warmup": 300, "chains": 4}),
    "smc": (gj.smc, {"particles": 1000}),
    "nested": (gj.nested, {"live": LIVE}),
    "svi": (gj.svi, {}),
    "map_laplace": (gj.laplace, {}),
}


def problem(events: int) -> gj.Posterior:
    """The posterior of the built-in configuration, with so many events."""
    config = load("galactic-centre")
    settings = config.observations.model_dump(exclude={"kind", "pointings"})
    observed = [gj.io.ctao(pointing=p, **settings) for p in config.observations.pointings]
    model = config.model.function()
    priors = {name: parameter.distribution() for name, parameter in config.parameters.items()}
    drawn = gj.simulate(jax.random.key(0), model(config.truths), observed, events=events)
    return gj.Posterior(model, priors, observed, drawn)


def figures(seconds, first, calls, samples, ess, evidence) -> dict:
    """One row."""
    return {
        "seconds": seconds,
        "first_s": first,
        "calls": calls,
        "ess_per_s": ess / seconds,
        "median": {name: float(np.median(values)) for name, values in samples.items()},
        "sd": {name: float(np.std(values)) for name, values in samples.items()},
        "log_evidence": evidence[0],
        "log_evidence_err": evidence[1],
    }


def ours(method, options, posterior) -> dict:
    """A sampler of gammajax, twice."""
    spent = []
    for seed in (0, 1):
        started = time.perf_counter()
        result = method(jax.random.key(seed), posterior, progress=False, **options)
        spent.append(time.perf_counter() - started)
    ess = float(result.summary()["ess_bulk"].min())
    evidence = result.log_evidence or (None, None)
    return figures(spent[1], spent[0], result.calls, result.samples, ess, evidence)


def dynesty(posterior) -> dict:
    """The same likelihood with dynesty's defaults."""
    from dynesty import NestedSampler

    @eqx.filter_jit
    def log_likelihood(posterior, u):
        return posterior.log_likelihood_ratio(posterior.prior_transform(u))

    # relative to the best of some draws, as the others do
    draws = np.random.default_rng(0).uniform(size=(LIVE, posterior.cube_size))
    started = time.perf_counter()
    heights = [float(log_likelihood(posterior, u)) for u in draws]
    at = posterior.prior_transform(draws[int(np.argmax(heights))])
    posterior = eqx.filter_jit(lambda p, at: p.with_reference(at))(posterior, at)
    float(log_likelihood(posterior, draws[0]))
    first = time.perf_counter() - started

    def value(u):
        height = float(log_likelihood(posterior, u))
        return height if np.isfinite(height) else -1e30

    started = time.perf_counter()
    sampler = NestedSampler(value, lambda u: u, posterior.cube_size, nlive=LIVE, rstate=np.random.default_rng(0))
    sampler.run_nested(dlogz=1e-3, print_progress=False)
    seconds = time.perf_counter() - started
    results = sampler.results
    points = results.samples_equal(rstate=np.random.default_rng(0))
    parameters = jax.vmap(posterior.prior_transform)(points)
    weight = results.importance_weights()
    evidence = float(results.logz[-1]) + posterior.log_reference_exact(), float(results.logzerr[-1])
    return figures(
        seconds,
        seconds + first,
        int(np.sum(results.ncall)),
        {name: np.asarray(values) for name, values in parameters.items()},
        float(1.0 / (weight**2).sum()),
        evidence,
    )


def main():
    """Run all methods."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--methods", nargs="*", default=[*METHODS, "dynesty"])
    parser.add_argument("--dry", action="store_true", help="keep no file")
    options = parser.parse_args()
    posterior = problem(options.events)
    rows = {}
    for name in options.methods:
        rows[name] = dynesty(posterior) if name == "dynesty" else ours(*METHODS[name], posterior)
        print(name, rows[name], flush=True)
    if options.dry:
        return
    judge = rows["dynesty"]
    for row in rows.values():
        shift = [(row["median"][n] - judge["median"][n]) / judge["sd"][n] for n in judge["median"]]
        row["largest_shift_sd"] = float(np.abs(shift).max())
        if row["log_evidence"] is not None:
            error = float(np.hypot(row["log_evidence_err"], judge["log_evidence_err"]))
            row["evidence_shift_errors"] = (row["log_evidence"] - judge["log_evidence"]) / error
            equal = (row["log_evidence_err"] / judge["log_evidence_err"]) ** 2
            row["ratio_to_dynesty"] = row["seconds"] / judge["seconds"] * equal
    report("samplers", {"methods": rows, "events": options.events})


if __name__ == "__main__":
    main()
