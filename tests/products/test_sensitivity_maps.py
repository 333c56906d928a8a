"""Maps of the flux that would be detected: the closed form, and `gj.sensitivity` at one position."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from figures import faults

import gammajax as gj
from gammajax.products.sensitivity_maps import detectable

SPECTRUM = gj.PowerLaw(2.0, 1e-12)


def sky(norm):
    return gj.InstrumentBackground(400.0 * norm)


@pytest.fixture(scope="module")
def runs(make_observation):
    return [make_observation(lat=0.3 * i, livetime=1500.0, offset_max=1.0, obs_id=f"run {i}") for i in range(2)]


def test_detectable_is_the_closed_form():
    """One bin: Z^2 = 2 [(s + b) ln(1 + s / b) - s] (Cowan et al. 2011)."""
    b, unit = np.array([0.5, 20.0, 1e5]), np.array([2.0, 1.0, 3.0])
    ratio = jnp.asarray(np.diag(unit / b), float)
    norm, counts = (np.asarray(part, float) for part in detectable(ratio, jnp.asarray(b, float), 5.0))
    np.testing.assert_allclose(counts, norm * unit, rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(2.0 * ((counts + b) * np.log1p(counts / b) - counts)), 5.0, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [None, 0.15])
def test_sensitivity_is_that_of_one_position(runs, sigma):
    found = gj.sensitivity_map(sky(1.0), runs, width=0.4, step=0.2, spectrum=SPECTRUM, sigma=sigma, progress=False)
    place = float(found.lon[0, 1]), float(found.lat[0, 1])
    shape = gj.Point(*place) if sigma is None else gj.Gaussian(*place, sigma)

    def model(p):
        source = gj.Source(gj.PowerLaw(p["index"], 1e-12 * p["flux"]), shape)
        return gj.Mixture(source=source, sky=sky(1.0))

    one = gj.sensitivity(
        jax.random.key(1),
        model,
        {"index": dist.Uniform(1.0, 3.0), "flux": dist.Uniform(0.0, 100.0)},
        runs,
        {"index": 2.0, "flux": 3.0},
        scale="flux",
        along="index",
        values=[2.0],
        points=6000,
        per_decade=12.0,
        progress=False,
    )
    flux = found.flux[0, 1] / float(SPECTRUM.integral(jnp.asarray(found.energy_range)).sum())
    assert flux == pytest.approx(one.discovery[0], rel=0.03)
    expected = float(gj.expected_counts(gj.Source(SPECTRUM, shape), runs)) * flux
    assert found.npred[0, 1] == pytest.approx(expected, rel=0.05)  # of the photons, 2 % are farther away


@pytest.mark.slow
def test_sensitivity_files_figures_and_errors(runs, tmp_path):
    from gammapy.maps import Map as GammapyMap

    Map: Any = GammapyMap
    found = gj.sensitivity_map(sky(1.0), runs, width=2.6, step=0.2, progress=False)
    assert np.isnan(found.flux[0, 0]) and np.nanargmin(found.flux) not in (0, found.flux.size - 1)
    theirs = Map.read(found.write(tmp_path / "sensitivity.fits"), hdu="FLUX")
    np.testing.assert_allclose(theirs.data, found.flux, rtol=1e-6)
    axes = found.plot()
    assert faults(axes.figure) == []
    usual = {"width": 1.0, "step": 0.5, "progress": False}
    source = gj.Source(SPECTRUM, gj.Point(0.2, -0.1))
    weighted = gj.Mixture(source=source, sky=sky(1.0), weights={"source": 0.1})
    for message, model, changed in (
        ("needs absolute fluxes", weighted, {}),
        ("significance must be", sky(1.0), {"significance": 0.0}),
        ("needs a background", sky(0.0), {}),
        ("no pixel", sky(1.0), {"center": (50.0, 0.0)}),
    ):
        with pytest.raises(ValueError, match=message):
            gj.sensitivity_map(model, runs, **usual, **changed)
