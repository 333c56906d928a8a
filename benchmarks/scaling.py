"""How time and memory grow: with events, spectral parameters, components and devices.

One evaluation of value and gradient of the log-likelihood. A Gaussian source with a spectrum through free fluxes at so
many energies, or several such sources, on the background of one CTAO pointing; events beyond 1e6 are repeated. Beside
the memory stands that of a table over 60 x 60 values of two parameters, as marginalisation by table keeps it. Devices
are virtual ones of this machine: no more of them than cores can help.
"""

import argparse
import json
import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from matplotlib import rc_context

import gammajax as gj
from benchmarks.likelihood import median_seconds
from benchmarks.report import RESULTS, report
from gammajax.plots.style import BOXED

SIMULATED = 1_000_000
TABLE_BYTES = 60 * 60 * 8  # per event
PLACES = [(0.3, 0.2), (-0.5, 0.4), (0.6, -0.5), (-0.2, -0.7), (0.0, 0.9), (0.9, 0.1)]


def observation():
    """One pointing."""
    return gj.io.ctao(
        "South", pointing=(0.0, 0.0), frame="galactic", livetime=180e3, energy_range=(0.2, 100.0), offset_max=2.0
    )


def problem(parameters: int, components: int):
    """Model and priors: factors on the flux at `parameters` energies of each of `components` sources."""
    energy = np.geomspace(0.1, 150.0, max(parameters, 2))

    def factor(logs, at):
        return jnp.exp(jnp.interp(jnp.log(at), np.log(energy), jnp.broadcast_to(logs, energy.shape)))

    def model(p):
        def source(i):
            spectrum = gj.PowerLaw(2.5, 1e-11) * eqx.Partial(factor, p[f"flux{i}"])
            return gj.Source(spectrum, gj.Gaussian(*PLACES[i], 0.2))

        names = [f"source{i}" for i in range(components)]
        return gj.Mixture(
            **{name: source(i) for i, name in enumerate(names)},
            background=gj.InstrumentBackground(),
            weights={name: 0.3 / components for name in names},
        )

    size = () if parameters == 1 else (parameters,)
    prior = dist.Normal(jnp.zeros(size), 0.3)
    return model, {f"flux{i}": prior.to_event(len(size)) if size else prior for i in range(components)}


def measure(events, parameters=3, components=1, mesh=None) -> dict:
    """Seconds of value and gradient, and bytes of what is kept."""
    model, priors = problem(parameters, components)
    posterior = gj.Posterior(model, priors, observation(), events, mesh=mesh)
    point = {name: jnp.full(prior.event_shape, 0.1) for name, prior in priors.items()}
    gradient = eqx.filter_jit(lambda posterior, p: jax.value_and_grad(posterior.log_likelihood_ratio)(p))
    (seconds,), _ = median_seconds([lambda: gradient(posterior, point)], repeats=15)
    kept = jax.tree.leaves((posterior.engines, posterior.count, posterior.reference))
    return {"seconds": seconds, "bytes": sum(leaf.nbytes for leaf in kept)}


def some(events, number):
    """So many of the events, again if there are not enough."""
    index = np.resize(np.arange(len(events)), number)
    return gj.Events(events.energy[index], events.lon[index], events.lat[index])


def on_devices(devices: int, number: int) -> dict:
    """The same in a process of its own with so many virtual devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", "--child", str(devices), "--events", str(number)],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(made.stdout.splitlines()[-1])


@rc_context(BOXED)
def figure(rows: dict):
    """Four panels."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(10.0, 7.4), layout="constrained")
    axes = drawn.subplots(2, 2)
    events = np.array([row["events"] for row in rows["events"].values()])
    axes[0, 0].loglog(events, [1e3 * row["seconds"] for row in rows["events"].values()], "o-")
    axes[0, 0].set(xlabel="events", ylabel="value and gradient [ms]", title="time against events")
    axes[0, 1].loglog(events, [row["bytes"] / 1e9 for row in rows["events"].values()], "o-", label="kernel")
    axes[0, 1].loglog(events, events * TABLE_BYTES / 1e9, "--", color="0.4", label="table of 60 x 60 values")
    axes[0, 1].set(xlabel="events", ylabel="memory [GB]", title="memory against events")
    axes[0, 1].legend(frameon=False)
    for name, label in (("parameters", "free numbers in one spectrum"), ("components", "sources, each with 3")):
        numbers = [int(key) for key in rows[name]]
        axes[1, 0].plot(numbers, [1e3 * row["seconds"] for row in rows[name].values()], "o-", label=label)
    axes[1, 0].set(xlabel="number", ylabel="value and gradient [ms]", ylim=(0.0, None), title="300 000 events")
    axes[1, 0].legend(frameon=False, loc="center right")
    for name, label in (("strong", "1e6 events in all"), ("weak", "2.5e5 events on each")):
        numbers = [int(key) for key in rows[name]]
        axes[1, 1].plot(numbers, [1e3 * row["seconds"] for row in rows[name].values()], "o-", label=label)
    title = f"virtual devices of {os.cpu_count()} cores"
    axes[1, 1].set(xlabel="devices", ylabel="value and gradient [ms]", ylim=(0.0, None), title=title)
    axes[1, 1].legend(frameon=False)
    for panel in axes.flat:
        panel.grid(True, alpha=0.3, lw=0.6)
    return drawn


def main():
    """Measure, draw, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=4_000_000, help="events")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--events", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    truth = problem(3, 1)[0]({"flux0": jnp.zeros(3)})
    events = gj.simulate(jax.random.key(0), truth, observation(), events=options.events or SIMULATED)
    if options.child:
        mesh = jax.make_mesh((options.child,), ("events",))
        print(json.dumps(measure(events, mesh=mesh)))
        return
    sizes = [int(10**k) for k in np.arange(4, np.log10(options.most) + 1e-9)] + [options.most]
    rows: dict = {"events": {}, "parameters": {}, "components": {}, "strong": {}, "weak": {}}
    for size in dict.fromkeys(sizes):
        row = {"events": size, **measure(some(events, size))}
        rows["events"][f"{size:.0e}".replace("+0", "")] = {**row, "table_bytes": size * TABLE_BYTES}
        print(row, flush=True)
    few = some(events, 300_000)
    for number in (1, 2, 4, 8):
        rows["parameters"][str(number)] = measure(few, number)
    for number in (1, 2, 4, 6):
        rows["components"][str(number)] = measure(few, 3, number)
    print(rows["parameters"], rows["components"], flush=True)
    for devices in (1, 2, 4, 8):
        rows["strong"][str(devices)] = on_devices(devices, 1_000_000)
        rows["weak"][str(devices)] = on_devices(devices, 250_000 * devices)
        print(devices, rows["strong"][str(devices)], rows["weak"][str(devices)], flush=True)
    figure(rows).savefig(RESULTS / "scaling.png", dpi=120)
    report("scaling", rows)


if __name__ == "__main__":
    main()
