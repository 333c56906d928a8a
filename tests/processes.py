"""Computations of one of several processes that share a posterior; JSON in its last line; run by test_distributed.py.

Arguments: port, number of processes (0: alone), which of them, task, arguments of the task.
"""

import json
import os
import signal
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import sharded
from conftest import small_response

import gammajax as gj
from gammajax.common import distributed
from gammajax.samplers import driver

PRIORS = {"index": dist.Uniform(1.5, 3.5), "halo": dist.Uniform(0.0, 0.8)}
KEY = 3


def fixed(p):
    return gj.Mixture(
        halo=gj.Source(gj.PowerLaw(p["index"], 1e-11), gj.Point(0.2, 0.1)),
        spot=gj.Source(gj.PowerLaw(2.2, 1e-12), gj.Point(0.1, 0.1)),  # which no parameter changes
        background=gj.InstrumentBackground(),
        weights={"halo": p["halo"], "spot": 0.1},
    )


def free(p):
    return gj.Mixture(
        halo=gj.Source(gj.PowerLaw(2.5, 1e-11), gj.Point(0.2 + 0.1 * p["halo"], 0.1)),
        background=gj.InstrumentBackground(tilt=p["index"] - 2.5),
        weights={"halo": 0.3},
    )


def data(size):
    """Two observations; the second has three events, too few for four processes."""
    response = small_response()
    selection = {"energy_min": 0.8, "energy_max": 4.0, "offset_max": 0.8, "frame": "galactic"}
    observations = [gj.Observation(lon, 0.0, 3600.0, response, **selection) for lon in (0.0, 0.4)]
    random = np.random.default_rng(1)
    lon, lat = random.normal(0.2, 0.1, size), random.normal(0.1, 0.1, size)
    number = np.zeros(size, int)
    number[[5, 60, 61]] = 1
    return observations, gj.Events(random.uniform(0.8, 4.0, size), lon, lat, number)


def made(model, events, observations, **options):
    held = distributed.share(events)
    return gj.Posterior(
        model, PRIORS, observations, held, per_decade=12.0, mesh=distributed.mesh(), dtype=float, **options
    )


def values(name, posterior) -> dict:
    point = {"index": jnp.asarray(2.6), "halo": jnp.asarray(0.25)}
    value, gradient = eqx.filter_jit(lambda q, p: jax.value_and_grad(q.log_likelihood_ratio)(p))(posterior, point)
    found = {
        "value": value,
        **{f"gradient {name}": part for name, part in gradient.items()},
        "counts": posterior.counts(point)["halo"].sum(),
        "reference": posterior.log_reference_exact(),
        "total": posterior.total,
    }
    return {f"{name}: {what}": float(value) for what, value in found.items()}


def events() -> dict:
    observations, all_events = data(201)
    posterior = made(fixed, all_events, observations)
    return {
        "held": len(posterior.events) / len(all_events),
        "placed": distributed.local(posterior.count).size / posterior.count.size,
        **values("events", posterior),
    }


def others() -> dict:
    """Cells, and a free position."""
    observations, events = data(201)
    cells = events.compress(observations, energy_per_decade=5, pixel=0.2)
    return {
        **values("cells", made(fixed, cells, observations)),
        **values("free", made(free, events[:99], observations)),
    }


def samplers(folder: str) -> dict:
    """Draws, also of a run stopped by a signal to the last process alone."""
    posterior = made(fixed, *reversed(data(201)))
    drawn = sharded.draws(posterior, ["nuts", "smc"])
    # with an estimate of the time, which all processes have to compute together
    driver.SLOW, driver.LONG = 0.0, 0.0
    whole = gj.laplace(jax.random.key(KEY), posterior, draws=2000, progress=True)
    path, update = Path(folder) / "run.checkpoint", driver.Progress.update
    driver.Progress.update = after(3, jax.process_count() - 1, signal.SIGTERM)
    try:
        gj.laplace(jax.random.key(KEY), posterior, draws=2000, progress=False, checkpoint=path)
        status = 0
    except driver.Preempted as stop:
        status = stop.code
    driver.Progress.update = update
    resumed = gj.laplace(jax.random.key(KEY), posterior, draws=2000, progress=False, checkpoint=path)
    return {
        **{f"samplers: {name}": value for name, value in drawn.items()},
        "laplace": whole.samples["halo"].tolist(),
        "events": whole.tree.attrs["events"],
        "status": status,
        "before": resumed.timings.get("before", 0.0),
        "the same": bool(np.array_equal(whole.samples["halo"], resumed.samples["halo"])),
    }


def errors() -> dict:
    """Errors on every process from an error on one of them."""
    observations, events = data(201)
    mine = distributed.share(events)
    process = jax.process_index()
    far = gj.Events(mine.energy, mine.lon + 3.0 * (process == 1), mine.lat, mine.observation)
    some = jax.make_mesh((1,), ("events",), devices=jax.devices()[:1])

    def fail():
        with distributed.together():
            if process == 1:
                raise KeyError("mine")

    def posterior(held, **options):
        return gj.Posterior(fixed, PRIORS, observations, held, mesh=distributed.mesh(), **options)

    calls = {
        "outside": lambda: posterior(far),
        "the same events": lambda: posterior(events),
        "direct": lambda: posterior(mine, engine="direct"),
        "different": lambda: distributed.share(mine),
        "few": lambda: distributed.share(events[:1]),
        "first": lambda: distributed.from_first(lambda: Path("/not/there").read_text()),
        "together": fail,
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    # not rounded by devices in single precision
    found["gathered"] = distributed.gather((process, np.float64(np.pi)))
    found["spans"] = [distributed.spans(what) for what in (distributed.mesh(), some, {"x": jnp.ones(2)})]
    return found


def numbers(folder: str) -> dict:
    return {**events(), **others(), **samplers(folder)}


def everything(folder: str) -> dict:
    return {**numbers(folder), **errors()}


def after(steps: int, process: int, number: int):
    """Replacement of `Progress.update`, which the driver calls after each step: sends a signal to one process."""
    done = []

    def update(*_):
        done.append(None)
        if jax.process_index() == process and len(done) == steps:
            os.kill(os.getpid(), number)

    return update


def command(*arguments):
    """`gammajax` with these arguments; the last process is killed after the third step."""
    from gammajax.cli import app

    driver.Progress.update = after(3, 1, signal.SIGKILL)
    app(arguments)


if __name__ == "__main__":
    if sys.argv[1] == "command":
        command(*sys.argv[2:])
    else:
        port, processes, process, task, *rest = sys.argv[1:]
        if int(processes):
            distributed.initialize(f"127.0.0.1:{port}", int(processes), int(process), patience=20)
        print(json.dumps(globals()[task](*rest), default=float), flush=True)
