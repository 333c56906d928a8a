"""Samplers on densities with known moments and evidence, over many seeds.

Normalised densities in a box of side `SIDE`: log Z = -d log SIDE. For each: pulls of log Z (its error is the method's
own), and of means and covariances in Monte-Carlo errors (of as many independent draws as the effective size).
"""

import argparse
import json
import time
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import gammajax as gj
from benchmarks.report import RESULTS, report

SIDE = 20.0


class Target(eqx.Module):
    """A likelihood written out by hand, as samplers see a posterior."""

    function: object = eqx.field(static=True)
    priors: dict
    reference_parameters: dict

    def __init__(self, function, dimension):
        box = dist.Uniform(-SIDE / 2.0 * jnp.ones(dimension), SIDE / 2.0).to_event(1)
        self.function, self.priors = function, {"x": box}
        self.reference_parameters = {"x": jnp.zeros(dimension)}

    def log_likelihood_ratio(self, parameters):
        """Logarithm of the density."""
        return self.function(parameters["x"])

    def log_reference_exact(self):
        """Nothing is left out."""
        return 0.0

    def log_prior(self, parameters):
        """Uniform in the box."""
        return self.priors["x"].log_prob(parameters["x"])

    def sample_prior(self, key):
        """A point of the box."""
        return {"x": self.priors["x"].sample(key)}

    def with_reference(self, parameters):
        """The same."""
        return self


def normal(x, mean, covariance):
    """Logarithm of a normal density."""
    return dist.MultivariateNormal(mean, covariance).log_prob(x)


def gaussian(d):
    """Independent, of widths 0.2 to 1."""
    covariance = np.diag(np.linspace(0.2, 1.0, d) ** 2)
    return lambda x: normal(x, jnp.zeros(d), jnp.asarray(covariance)), np.zeros(d), covariance


def correlated(d):
    """Neighbours correlated by 0.9."""
    covariance = 0.9 ** np.abs(np.subtract.outer(np.arange(d), np.arange(d)))
    return lambda x: normal(x, jnp.zeros(d), jnp.asarray(covariance)), np.zeros(d), covariance


def banana(d):
    """The second number about half the square of the first; d - 2 others."""

    def log(x):
        bent = jnp.concatenate([x[:1], (x[1:2] - 0.5 * (x[:1] ** 2 - 1.0)) / 0.3, x[2:]])
        return -0.5 * (bent**2).sum() - 0.5 * d * jnp.log(2.0 * jnp.pi) - jnp.log(0.3)

    covariance = np.eye(d)
    covariance[1, 1] = 0.3**2 + 0.25 * 2.0
    return log, np.zeros(d), covariance


def bimodal(d):
    """Two equal peaks, sixteen standard deviations apart."""
    side = np.zeros(d)
    side[0] = 4.0

    def log(x):
        peaks = [normal(x, sign * jnp.asarray(side), 0.25 * jnp.eye(d)) for sign in (-1.0, 1.0)]
        return jnp.logaddexp(*peaks) - jnp.log(2.0)

    return log, np.zeros(d), 0.25 * np.eye(d) + np.outer(side, side)


def slab_and_spike(d):
    """Half in a normal of width 1, half in one of width 0.05 at the same place."""

    def log(x):
        wide, narrow = (normal(x, jnp.zeros(d), width**2 * jnp.eye(d)) for width in (1.0, 0.05))
        return jnp.logaddexp(wide, narrow) - jnp.log(2.0)

    return log, np.zeros(d), 0.5 * (1.0 + 0.05**2) * np.eye(d)


TARGETS = {
    "gaussian 2": gaussian(2),
    "gaussian 20": gaussian(20),
    "correlated 10": correlated(10),
    "banana 2": banana(2),
    "banana 6": banana(6),
    "bimodal 3": bimodal(3),
    "slab and spike 2": slab_and_spike(2),
}
METHODS = {"smc": (gj.smc, {"particles": 1000}), "nested": (gj.nested, {"live": 200, "precision": 0.01})}
OPTIONS = {  # where the documentation or a warning of the method asks for other than the defaults
    ("smc", "gaussian 20"): {"kernel": "hmc", "moves": 4},
    ("smc", "correlated 10"): {"kernel": "hmc", "moves": 4},
    ("smc", "slab and spike 2"): {"moves": 60},
}


def study(method, options, target, mean, covariance, seeds) -> dict:
    """Pulls of one method on one target."""
    pulls, moments, errors, seconds, warned = [], [], [], [], 0
    for seed in range(seeds):
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            result = method(jax.random.key(seed), target, progress=False, **options)
        seconds.append(time.perf_counter() - started)
        warned += bool(result.messages)
        value, error = result.log_evidence
        pulls.append((value + len(mean) * np.log(SIDE)) / error)
        errors.append(error)
        draws = result.samples["x"]
        moments.append((draws.mean(0), np.atleast_2d(np.cov(draws.T)), result.summary()["ess_bulk"].to_numpy()))
    means, covariances, sizes = (np.stack(part) for part in zip(*moments, strict=True))
    # over the seeds: their own scatter is the Monte-Carlo error
    mean_error = means.std(0, ddof=1) / np.sqrt(seeds)
    covariance_error = covariances.std(0, ddof=1) / np.sqrt(seeds)
    return {
        "pull_mean": float(np.mean(pulls)),
        "pull_sd": float(np.std(pulls, ddof=1)),
        "log_evidence_err": float(np.mean(errors)),
        "worst_mean_errors": float(np.abs((means.mean(0) - mean) / mean_error).max()),
        "worst_covariance_errors": float(np.abs((covariances.mean(0) - covariance) / covariance_error).max()),
        "ess": float(sizes.mean()),
        "seconds": float(np.median(seconds)),
        "warned": warned,
    }


def main():
    """The methods and targets that are asked for; others of earlier runs stay in the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--targets", nargs="*", default=list(TARGETS), choices=list(TARGETS))
    options = parser.parse_args()
    path = RESULTS / f"targets-{jax.devices()[0].platform}.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    figures = {name: kept.get(name, {}) for name in METHODS}
    for name in options.methods:
        method, settings = METHODS[name]
        for label in options.targets:
            function, mean, covariance = TARGETS[label]
            d, chosen = len(mean), {**settings, **OPTIONS.get((name, label), {})}
            row = study(method, chosen, Target(function, d), mean, covariance, options.seeds)
            figures[name][label] = {**row, "options": chosen}
            print(name, label, {k: round(v, 3) for k, v in row.items()}, flush=True)
    report("targets", {"seeds": options.seeds, **figures})


if __name__ == "__main__":
    main()
