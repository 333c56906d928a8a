"""The fold engine: accuracy for every shape, and the cost of a free position and extension.

CTAO South. Intensities against the direct engine, at three energies and where they exceed 1e-4 of the maximum at that
energy; gradients of the sum of their logarithms in double precision against central differences, one parameter at a
time. Then value and gradient of a posterior with a free Gaussian, and of the same with the Gaussian fixed, which the
kernel engine does. Last line: JSON.
"""

import argparse
import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

import gammajax as gj
from benchmarks.likelihood import median_seconds
from benchmarks.report import report
from gammajax.engines import ENGINES, Rows
from gammajax.instrument.sky import Grid, displace

ENERGIES = 0.3, 2.0, 20.0
PLACE = {"lon": 0.3, "lat": 0.2}
FIXED = "edge", "local_density"  # sharper than any response; no part of a normalised halo


def template():
    """A Gaussian on pixels of 0.1 deg."""
    grid = Grid(0.3, 0.2, 0.1, 0.6)
    x, y = np.meshgrid(grid.coordinates, grid.coordinates)
    return gj.TemplateMap(grid, np.exp(-0.5 * (x**2 + (y - 0.1) ** 2) / 0.2**2))


SHAPES = {
    "point": gj.Point(**PLACE),
    "Gaussian 0.005": gj.Gaussian(**PLACE, sigma=0.005),
    "Gaussian 0.05": gj.Gaussian(**PLACE, sigma=0.05),
    "Gaussian 0.3": gj.Gaussian(**PLACE, sigma=0.3),
    "Gaussian 0.3, e = 0.9": gj.Gaussian(**PLACE, sigma=0.3, e=0.9, phi=40.0),
    "generalised Gaussian": gj.GeneralizedGaussian(**PLACE, r_0=0.1, eta=0.9),
    "disk 0.05": gj.Disk(**PLACE, r_0=0.05),
    "disk 0.5": gj.Disk(**PLACE, r_0=0.5),
    "disk 0.5, e = 0.9": gj.Disk(**PLACE, r_0=0.5, e=0.9, phi=40.0),
    "ring": gj.Ring(**PLACE, r_0=0.3, width=0.1),
    "shell": gj.Shell(**PLACE, radius=0.3, width=0.1),
    "constant": gj.Constant(),
    "template": template(),
    "Einasto": gj.Einasto(**PLACE),
    "generalised NFW": gj.GeneralizedNFW(**PLACE, gamma=1.2),
    "Burkert": gj.Burkert(**PLACE),
}


def make_observation(offset_max):
    """CTAO South at the Galactic centre, 50 h."""
    return gj.io.ctao(
        site="South",
        pointing=(0.0, 0.0),
        frame="galactic",
        livetime=180e3,
        energy_range=(0.2, 100.0),
        offset_max=offset_max,
    )


def test_events(morphology, count=20):
    """Events from the centre of a source to where only the tail of the response is."""
    reach = 0.3 + (1.0 if float(morphology.radius) > 90.0 else min(1.0, 0.55 * float(morphology.radius)))
    centre = [float(value) for value in (morphology.lon, morphology.lat)]
    where = displace(*centre, jnp.linspace(0.0, reach, count), jnp.arange(count) * 137.5)
    lon, lat = (np.tile(np.asarray(values, float), len(ENERGIES)) for values in where)
    return gj.Events(np.repeat(ENERGIES, count), lon, lat)


@eqx.filter_jit
def intensity(engine, source):
    """Intensity of every row."""
    return engine.intensity(source)


def by_event(rows: Rows, values: Float[Array, " row"]) -> Float[np.ndarray, " event"]:
    """Values of rows in the order of the events, without padding."""
    result = np.empty(int(rows.valid.sum()), np.asarray(values).dtype)
    result[rows.index[rows.valid]] = np.asarray(values)[rows.valid]
    return result


def deviations(observation, source, events):
    """Deviation of fold from direct, maximum and median."""
    rows = Rows.init(events, [observation])
    fold, direct = (
        by_event(rows, intensity(ENGINES[name].init(source, [observation], rows), source))
        for name in ("fold", "direct")
    )
    fold, direct = (np.asarray(value, float).reshape(len(ENERGIES), -1) for value in (fold, direct))
    seen = direct > 1e-4 * direct.max(1, keepdims=True)
    off = np.abs(fold[seen] / direct[seen] - 1.0)
    return float(off.max()), float(np.median(off))


def gradient_error(observation, source, events):
    """Largest relative deviation of a parameter's gradient from central differences; in double precision."""
    names = [
        field.name
        for field in dataclasses.fields(source.morphology)
        if field.name not in FIXED and np.ndim(getattr(source.morphology, field.name)) == 0
    ]
    names = [name for name in names if isinstance(getattr(source.morphology, name), np.ndarray | jax.Array)]
    if not names or isinstance(source.morphology, gj.Constant | gj.TemplateMap):
        return 0.0
    with jax.enable_x64(True):
        precise = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), float), (observation, source))
        observation, source = precise
        rows = Rows.init(events, [observation], 10.0)
        engine = ENGINES["fold"].init(source, [observation], rows)
        at = jnp.stack([getattr(source.morphology, name) for name in names])

        def log_sum(engine, values):
            changed = eqx.tree_at(
                lambda source: [getattr(source.morphology, name) for name in names], source, list(values)
            )
            intensity = engine.intensity(changed)
            bright = intensity > 1e-4 * intensity.max()
            return jnp.where(bright, jnp.log(jnp.where(bright, intensity, 1.0)), 0.0).sum()

        gradient = np.asarray(
            eqx.filter_jit(eqx.filter_grad(lambda values, engine: log_sum(engine, values)))(at, engine)
        )
        value = eqx.filter_jit(log_sum)
        errors = []
        for i in range(len(names)):
            step = 1e-5 * max(abs(float(at[i])), 0.1) * np.eye(len(names))[i]
            expected = float(value(engine, at + step) - value(engine, at - step)) / (2.0 * step[i])
            errors.append(abs(gradient[i] - expected) / max(abs(expected), 1e-3 * np.abs(gradient).max()))
        return float(max(errors))


def model(p):
    """Power law in a Gaussian, with instrument background."""
    return gj.Mixture(
        source=gj.Source(
            gj.PowerLaw(p["index"], 1e-11), gj.Gaussian(p.get("lon", 0.3), p.get("lat", 0.2), p.get("sigma", 0.2))
        ),
        background=gj.InstrumentBackground(),
        weights={"source": p["fraction"]},
    )


def speed(observation, count):
    """Seconds of value, and of value and gradient, with the Gaussian free and with it fixed."""
    truth = {"index": jnp.asarray(2.3), "fraction": jnp.asarray(0.1)}
    place = {"lon": jnp.asarray(0.3), "lat": jnp.asarray(0.2), "sigma": jnp.asarray(0.2)}
    priors = {"index": dist.Uniform(1.0, 4.0), "fraction": dist.Uniform(0.0, 1.0)}
    free = {"lon": dist.Uniform(0.0, 0.6), "lat": dist.Uniform(0.0, 0.4), "sigma": dist.Uniform(0.1, 0.4)}
    events = gj.simulate(jax.random.key(0), model(truth), observation, events=count)
    calls = []
    for prior, at in ((priors | free, truth | place), (priors, truth)):
        posterior = gj.Posterior(model, prior, observation, events)
        value = eqx.filter_jit(lambda posterior, p: posterior.log_likelihood_ratio(p))
        gradient = eqx.filter_jit(lambda posterior, p: jax.value_and_grad(posterior.log_likelihood_ratio)(p))
        calls += [lambda f=f, q=posterior, p=at: f(q, p) for f in (value, gradient)]
    (value_s, value_and_grad_s, _, kernel_s), _ = median_seconds(calls, 7)
    return {"value_s": value_s, "value_and_grad_s": value_and_grad_s, "ratio_to_kernel": value_and_grad_s / kernel_s}


def main():
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[10_000, 100_000])
    options = parser.parse_args()
    observation, small, shapes = make_observation(3.0), make_observation(1.5), {}
    for name, morphology in SHAPES.items():
        source, events = gj.Source(gj.PowerLaw(2.3, 1e-11), morphology), test_events(morphology)
        largest, median = deviations(observation, source, events)
        shapes[name] = {"max": largest, "median": median, "gradient": gradient_error(small, source, events[::4])}
        print(name, shapes[name], flush=True)
        jax.clear_caches()
    figures = {
        "max_rel_err": max(row["max"] for row in shapes.values()),
        "median_rel_err": max(row["median"] for row in shapes.values()),
        "gradient_rel_err": max(row["gradient"] for row in shapes.values()),
        "shapes": {name: {key: float(f"{v:.3g}") for key, v in row.items()} for name, row in shapes.items()},
    }
    figures["events"] = {str(count): speed(observation, count) for count in options.events}
    report("fold", figures)


if __name__ == "__main__":
    main()
