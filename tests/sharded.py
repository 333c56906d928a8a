"""Values, gradients and draws with the events on so many devices, a line of JSON each; run by test_sharding.py."""

import json
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import gammajax as gj


def fixed(p):
    return gj.Mixture(
        halo=gj.Source(gj.PowerLaw(p["index"], 1e-11), HALO),
        spot=gj.Source(gj.PowerLaw(2.2, 1e-12), gj.Point(0.1, 0.1)),  # which no parameter changes
        background=gj.InstrumentBackground(),
        weights={"halo": p["halo"], "spot": 0.1},
    )


def free(p):
    return gj.Mixture(
        halo=gj.Source(gj.PowerLaw(2.5, 1e-11), gj.Gaussian(p["lon"], 0.1, 0.3)),
        background=gj.InstrumentBackground(tilt=p["tilt"]),
        weights={"halo": 0.3},
    )


HALO = gj.Point(0.2, 0.1)
PRIORS = {
    "index": dist.Uniform(1.5, 3.5),
    "halo": dist.Uniform(0.0, 0.8),
    "lon": dist.Uniform(0.1, 0.4),
    "tilt": dist.Normal(0.0, 0.2),
}
POINT = {"index": 2.5, "halo": 0.25, "lon": 0.25, "tilt": 0.05}
MODELS = {"fixed": (fixed, ("index", "halo")), "free": (free, ("lon", "tilt"))}


# short enough that differences of rounding do not grow
SAMPLERS = {
    "nuts": (gj.nuts, {"draws": 5, "warmup": 10, "chains": 2}),
    "smc": (gj.smc, {"particles": 32, "moves": 2}),
    "nested": (gj.nested, {"live": 20, "delete": 5, "slices": 2, "steps": 8}),
    "svi": (gj.svi, {"guide": "gaussian", "steps": 10, "draws": 100, "initial": {"index": 2.5, "halo": 0.4}}),
}


def draws(posterior, names: list[str]) -> dict:
    """A few numbers from the results of these samplers."""
    found = {}
    for name in names:
        method, options = SAMPLERS[name]
        with warnings.catch_warnings(action="ignore"):  # the runs are too short
            result = method(jax.random.key(0), posterior, progress=False, **options)
        found[f"{name} halo"], found[f"{name} index"] = (result.samples[n].tolist() for n in ("halo", "index"))
        found[f"{name} evidence"] = result.log_evidence[0] if result.log_evidence else 0.0
    return found


def values(posterior) -> dict:
    point = {name: jnp.asarray(POINT[name]) for name in posterior.names}
    value, gradient = eqx.filter_jit(lambda q, p: jax.value_and_grad(q.log_likelihood_ratio)(p))(posterior, point)
    counts = eqx.filter_jit(lambda q, p: q.expected_counts(p)["halo"].sum())(posterior, point)
    count = posterior.count
    return {
        "value": float(value),
        **{f"gradient {name}": float(g) for name, g in gradient.items()},
        "counts": float(counts),
        "devices": len(count.sharding.device_set),
        "part": count.addressable_shards[0].data.shape[0] / count.shape[0],
    }


def posteriors(name: str, meshes: list[int]):
    """Posteriors of a model without a mesh (0) and with meshes of so many devices."""
    model, names = MODELS[name]
    selection = {"energy_range": (0.8, 4.0), "offset_max": 0.8, "frame": "galactic", "livetime": 3600.0}
    observations = [gj.io.ctao("South", pointing=(lon, 0.0), **selection) for lon in (0.0, 0.4)]
    random = np.random.default_rng(1)
    lon, lat = random.normal(0.2, 0.1, 200), random.normal(0.1, 0.1, 200)
    number = random.integers(0, 2, 200)
    if name == "free":  # which compiles for each observation
        observations, number, lon, lat = observations[:1], number[:99] * 0, lon[:99], lat[:99]
    events = gj.Events(random.uniform(0.8, 4.0, number.size), lon, lat, number)
    priors = {name: PRIORS[name] for name in names}
    for devices in meshes:
        mesh = jax.make_mesh((devices,), ("events",), devices=jax.devices()[:devices]) if devices else None
        yield devices, gj.Posterior(model, priors, observations, events, per_decade=12.0, mesh=mesh, dtype=float)


def say(task: str, found: dict):
    print(json.dumps([task, found]), flush=True)


def double():
    for devices, posterior in posteriors("fixed", [0, 1, 2, 4, 8]):
        found = values(posterior)
        say("double", found)
        if devices in (0, 4):
            say("samplers", found | draws(posterior, list(SAMPLERS)))


def absolute(p):
    return gj.Mixture(
        halo=gj.Source(gj.PowerLaw(2.5, 1e-11 * p["flux"]), HALO), background=gj.InstrumentBackground(tilt=p["tilt"])
    )


def points():
    """Flux points and a light curve without a mesh and on four devices."""
    selection = {"energy_range": (0.8, 4.0), "offset_max": 0.8, "frame": "galactic", "livetime": 3600.0}
    observations = [gj.io.ctao("South", pointing=(lon, 0.0), **selection) for lon in (0.0, 0.4)]
    at = {"flux": jnp.asarray(1.0), "tilt": jnp.asarray(0.0)}
    events = gj.simulate(jax.random.key(0), absolute(at), observations)
    priors = {"flux": dist.Uniform(0.0, 10.0), "tilt": PRIORS["tilt"]}
    for devices in (0, 4):
        mesh = jax.make_mesh((devices,), ("events",), devices=jax.devices()[:devices]) if devices else None
        posterior = gj.Posterior(absolute, priors, observations, events, per_decade=12.0, mesh=mesh)
        best = gj.fit(posterior, initial=at, progress=False)
        made = {
            "points": gj.flux_points(posterior, "halo", [0.8, 1.8, 4.0], best=best, progress=False),
            "curve": gj.light_curve(posterior, "halo", best=best, progress=False),
        }
        found = {"devices": len(posterior.count.sharding.device_set)}
        for name, of in made.items():
            found |= {f"{name} {field}": getattr(of, field).tolist() for field in ("norm", "norm_err", "norm_ul")}
        say("products", found)


def single():
    for _, posterior in posteriors("fixed", [0, 4]):
        say("single", values(posterior) | draws(posterior, ["nuts"]))
    for _, posterior in posteriors("free", [0, 8]):
        say("free", values(posterior))
    points()


if __name__ == "__main__":
    double() if jax.config.jax_enable_x64 else single()
