"""One of several processes that share a posterior, and reports what it computes; run by test_distributed.py.

Arguments: port, number of processes (0: alone), which of them, name of the task.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import gammajax as gj
from gammajax import distributed

PRIORS = {"index": dist.Uniform(1.5, 3.5), "halo": dist.Uniform(0.0, 0.8)}


def fixed(p):
    return gj.Mixture(
        halo=gj.Source(gj.PowerLaw(p["index"], 1e-11), gj.Point(0.2, 0.1)),
        background=gj.InstrumentBackground(),
        weights={"halo": p["halo"]},
    )


def free(p):
    return gj.Mixture(
        halo=gj.Source(gj.PowerLaw(p["index"], 1e-11), gj.Gaussian(0.25 * p["halo"], 0.1, 0.3)),
        background=gj.InstrumentBackground(tilt=p["halo"]),
        weights={"halo": 0.3},
    )


def data(size=201):
    """Two observations, the second of which has three events: too few for four processes."""
    selection = {"energy_range": (0.8, 4.0), "offset_max": 0.8, "frame": "galactic", "livetime": 3600.0}
    observations = [gj.io.ctao("South", pointing=(lon, 0.0), **selection) for lon in (0.0, 0.4)]
    random = np.random.default_rng(1)
    lon, lat = random.normal(0.2, 0.1, size), random.normal(0.1, 0.1, size)
    number = np.zeros(size, int)
    number[[5, 60, 61]] = 1
    return observations, gj.Events(random.uniform(0.8, 4.0, size), lon, lat, number)


def made(model, events, observations, **options):
    mesh = distributed.mesh() if jax.process_count() > 1 else None
    held = distributed.share(events)
    return gj.Posterior(model, PRIORS, observations, held, per_decade=12.0, mesh=mesh, dtype=float, **options)


def values(posterior) -> dict:
    point = {"index": jnp.asarray(2.5), "halo": jnp.asarray(0.25)}
    value, gradient = jax.jit(lambda q, p: jax.value_and_grad(q.log_likelihood_ratio)(p))(posterior, point)
    return {
        "value": float(value),
        **{f"gradient {name}": float(g) for name, g in gradient.items()},
        "counts": float(posterior.counts(point)["halo"].sum()),
        "reference": posterior.log_reference_exact(),
        "log likelihood": float(posterior.log_likelihood(point)),
        "total": posterior.total,
    }


def likelihoods() -> dict:
    observations, events = data()
    posterior = made(fixed, events, observations)
    found = {f"fixed {name}": value for name, value in values(posterior).items()}
    found["part"] = distributed.local(posterior.count).size / posterior.count.size
    found["held"] = len(posterior.events)
    cells = events.compress(observations, energy_per_decade=5, pixel=0.2)
    found |= {f"cells {name}": value for name, value in values(made(fixed, cells, observations)).items()}
    result = gj.nuts(jax.random.key(0), posterior, draws=10, warmup=15, chains=2, progress=False)
    found["nuts"] = result.samples["halo"].tolist()
    return found


def others() -> dict:
    observations, events = data(99)
    posterior = made(free, events, observations)
    found = {f"free {name}": value for name, value in values(posterior).items()}
    return found


def errors() -> dict:
    """What every process says of what is wrong on one of them."""
    observations, events = data()
    mine = distributed.share(events)
    far = gj.Events(mine.energy, mine.lon + 3.0 * (jax.process_index() == 1), mine.lat, mine.observation)
    found = {}
    for name, call in {
        "outside": lambda: gj.Posterior(fixed, PRIORS, observations, far, mesh=distributed.mesh()),
        "the same": lambda: gj.Posterior(fixed, PRIORS, observations, events, mesh=distributed.mesh()),
        "direct": lambda: made(fixed, events, observations, engine="direct"),
        "different": lambda: distributed.share(mine),
        "first": lambda: distributed.from_first(lambda: open("/nowhere/to/be/found")),
        "together": failing,
    }.items():
        try:
            call()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    found["gathered"] = distributed.gather({"pi": np.float64(np.pi), "process": jax.process_index()})
    return found


def failing():
    with distributed.together():
        if jax.process_index() == 1:
            raise KeyError("mine")


def main(port: str, processes: str, process: str, task: str):
    if int(processes):
        distributed.initialize(f"127.0.0.1:{port}", int(processes), int(process), patience=20)
    print(json.dumps(globals()[task](), default=float), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
