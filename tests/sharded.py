"""Values, gradients and fits with the events on so many devices, a line of JSON each; run by test_sharding.py."""

import json
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import gammajax as gj

HALO = gj.Gaussian(0.2, 0.1, 0.3)


def model(p):
    return gj.Mixture(
        halo=gj.Source(gj.PowerLaw(p["index"], 1e-11), HALO),
        source=gj.Source(gj.PowerLaw(2.2, 1e-12), gj.Point(p["lon"], 0.2)),
        background=gj.InstrumentBackground(tilt=p["tilt"]),
        weights={"halo": p["halo"], "source": 0.2},
    )


PRIORS = {
    "index": dist.Uniform(1.5, 3.5),
    "lon": dist.Uniform(0.1, 0.4),
    "tilt": dist.Normal(0.0, 0.2),
    "halo": dist.Uniform(0.0, 0.8),
}
POINT = {"index": 2.5, "lon": 0.25, "tilt": 0.05, "halo": 0.25}


def report(posterior, fit: bool) -> dict:
    point = {name: jnp.asarray(value) for name, value in POINT.items()}
    value, gradient = eqx.filter_jit(lambda q, p: jax.value_and_grad(q.log_likelihood_ratio)(p))(posterior, point)
    kernel = posterior.engines["halo"].kernel
    found = {
        "value": float(value),
        **{f"gradient {name}": float(g) for name, g in gradient.items()},
        "counts": float(posterior.expected_counts(point)["halo"].sum()),
        "devices": len(kernel.sharding.device_set),
        "part": kernel.addressable_shards[0].data.shape[0] / kernel.shape[0],
    }
    if fit:
        found |= {f"best {name}": float(v) for name, v in gj.fit(posterior).parameters.items()}
        for method, options in ((gj.nuts, {"draws": 10, "warmup": 10, "chains": 2}), (gj.smc, {"particles": 32})):
            result = method(jax.random.key(0), posterior, progress=False, **options)
            found[method.__name__] = [float(np.median(result.samples["index"])), len(result.samples["index"])]
    return found


def main(meshes: list[int], fit: bool):
    selection = {"energy_range": (0.8, 4.0), "offset_max": 0.8, "frame": "galactic", "livetime": 3600.0}
    observations = [gj.io.ctao("South", pointing=(lon, 0.0), **selection) for lon in (0.0, 0.4)]
    random = np.random.default_rng(1)
    lon, lat = random.normal(0.2, 0.2, (2, 300))
    events = gj.Events(random.uniform(0.8, 4.0, 300), lon, lat, random.integers(0, 2, 300))
    engine = {"halo": gj.engines.PreparedKernel.init(HALO, observations, 15.0)}
    for devices in meshes:
        mesh = jax.make_mesh((devices,), ("events",), devices=jax.devices()[:devices]) if devices else None
        posterior = gj.Posterior(model, PRIORS, observations, events, engine=engine, per_decade=15.0, mesh=mesh)
        print(json.dumps(report(posterior, fit)), flush=True)


if __name__ == "__main__":
    main([int(devices) for devices in sys.argv[1].split(",")], sys.argv[2] == "fit")
