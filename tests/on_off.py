"""ON and OFF runs with a small analytic response, shared by tests."""

import numpy as np
from scipy.stats import norm

import gammajax as gj
from gammajax.instrument.response import EnergyDispersion
from gammajax.instrument.table import Axis, Table

TRUE = np.geomspace(0.1, 30.0, 13)
LOW, HIGH, LIVETIME, RADIUS = 0.5, 8.0, 3600.0, 0.1


def region_response(scale=1.0) -> gj.RegionResponse:
    """A point-like response; `scale` of its area."""
    axes = Axis(np.log(TRUE)), Axis([0.5])
    migra = np.linspace(0.4, 1.6, 61)
    density = np.broadcast_to(norm.pdf(migra, 0.97, 0.12), (TRUE.size, 1, migra.size))
    return gj.RegionResponse(
        Table(axes, scale * 1e9 * TRUE[:, None] ** 0.6), EnergyDispersion(*axes, Axis(migra), density)
    )


RESPONSE = region_response()


def run(on, off, ratio=1.0 / 3.0, livetime=LIVETIME, **changes) -> gj.OnOffRun:
    """A run of these energies."""
    options = {"response": RESPONSE, "radius": RADIUS, "energy_min": LOW, "energy_max": HIGH, **changes}
    return gj.OnOffRun(on, off, ratio, livetime, **options)


def some_runs(count=2, on=12, off=30, seed=0, **changes) -> list[gj.OnOffRun]:
    """Runs with energies of a power law."""
    random = np.random.default_rng(seed)

    def energies(size):
        low, high = LOW**-1.7, HIGH**-1.7
        return (low + random.uniform(size=size) * (high - low)) ** (-1.0 / 1.7)

    return [run(energies(on), energies(off), obs_id=str(i), **changes) for i in range(count)]


def model(p):
    """A power law and a background of six coefficients."""
    source = gj.Source(gj.PowerLaw(p["index"], 1e-11 * p["amplitude"]), gj.Point(0.0, 0.0))
    return gj.Mixture(source=source, background=gj.OffBackground(p["b"], LOW, HIGH))
