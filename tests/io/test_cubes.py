"""Templates of gammapy that change with energy: there, back, and what a telescope sees of them."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from gammapy.data import FixedPointingInfo, Observation
from gammapy.datasets import MapDataset
from gammapy.makers import MapDatasetMaker
from gammapy.maps import MapAxis, WcsGeom, WcsNDMap
from gammapy.modeling import models as gp
from gammapy.modeling.models import Models, SkyModel

import gammajax as gj
from gammajax.engines.acceptance import Acceptance
from gammajax.engines.energy import EnergyNodes
from gammajax.io.spectral import FLUX

BRIGHTNESS = FLUX + " sr-1"
ENERGY = np.array([0.05, 0.2, 0.8, 3.2, 12.8])  # of the planes
AT = np.array([0.06, 0.3, 1.0, 5.0, 11.0])


def sky(unit):
    """A Gaussian that narrows from 0.37 to 0.21 deg, and a flux of index 2.4 within if the unit is that of one."""
    axis = MapAxis.from_nodes(ENERGY, unit="TeV", name="energy_true", interp="log")
    geom = WcsGeom.create(skydir=(0.3, 0.2), npix=(60, 60), binsz=0.05, frame="galactic", proj="TAN", axes=[axis])
    rad = geom.to_image().get_coord().skycoord.separation(geom.center_skydir).deg
    sigma = 0.3 * (ENERGY / 0.8)[:, None, None] ** -0.08 * (1.0 - 0.02 * np.log(ENERGY / 0.8))[:, None, None]
    values = np.exp(-0.5 * (rad / sigma) ** 2) / (2.0 * np.pi * np.radians(sigma) ** 2)
    if unit != "sr-1":
        values = values * 3e-18 * ENERGY[:, None, None] ** -2.4
    return WcsNDMap(geom, values, unit=unit)


MODELS = {
    "flux": SkyModel(
        gp.PowerLawNormSpectralModel(norm=1.3, tilt=0.1),
        gp.TemplateSpatialModel(sky("cm-2 s-1 MeV-1 sr-1"), normalize=False, filename="-"),
        name="flux",
    ),
    "shape": SkyModel(
        gp.PowerLawSpectralModel(index=2.5, amplitude="3e-12 cm-2 s-1 TeV-1"),
        gp.TemplateSpatialModel(sky("sr-1"), filename="-"),
        name="shape",
    ),
}


@eqx.filter_jit
def evaluate(source, energy, lon, lat):
    return source.spectrum(energy) * source.morphology.at(energy).brightness(lon, lat)


def ours(source, lon, lat):
    return np.asarray(evaluate(source, *map(jnp.asarray, (AT[:, None], lon, lat))), np.float64)


def theirs(model, lon, lat):
    return model(lon * u.deg, lat * u.deg, AT[:, None] * u.TeV).to_value(BRIGHTNESS)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(name, tmp_path):
    read = gj.io.from_gammapy(MODELS[name], frame="galactic")
    source = read.components[name]
    assert isinstance(source.morphology, gj.TemplateCube)
    assert read.notes == [f"{name}: nothing below 0.025 and above 25.6 TeV, as gammapy has it: the energies of its map"]
    assert float(source.spectrum(jnp.asarray(26.0))) == 0.0 < float(source.spectrum(jnp.asarray(25.0)))
    side = (np.arange(60) - 29.5) * 0.05
    lon, lat = (a.ravel() for a in np.meshgrid(0.3 + side, 0.2 + side))
    truth, value = theirs(MODELS[name], lon, lat), ours(source, lon, lat)
    # the middles of pixels: only that the two grids differ by a few hundredths of a pixel
    np.testing.assert_allclose(value, truth, atol=0.03 * truth.max(1, keepdims=True).max(), rtol=0)
    assert np.abs((value - truth) / truth.max(1, keepdims=True)).max() < 0.03
    np.testing.assert_allclose(value.sum(1), truth.sum(1), rtol=2e-3)
    # back, and there again
    models = gj.io.to_gammapy(read, frame="galactic", path=tmp_path / "models.yaml")
    grid = source.morphology.grid
    x, y = (np.asarray(a, float).ravel() for a in eqx.filter_jit(lambda grid: grid.directions())(grid))
    np.testing.assert_allclose(theirs(models[name], x, y), ours(source, x, y), rtol=3e-4, atol=1e-5 * truth.max())
    again = gj.io.from_gammapy(tmp_path / "models.yaml", frame="galactic").components[name]
    np.testing.assert_allclose(ours(again, x, y), ours(source, x, y), rtol=3e-4)


def test_refusals():
    shape = MODELS["shape"].spatial_model
    moved = shape.copy()
    moved.lon_0.value += 0.1
    with pytest.raises(ValueError, match="is moved from the centre of its map"):
        gj.io.from_gammapy(SkyModel(gp.PowerLawSpectralModel(), moved, name="it"), frame="galactic")
    cut = gp.TemplateSpatialModel(sky("sr-1").cutout(shape.position, 0.5 * u.deg), filename="-")
    notes = gj.io.from_gammapy(SkyModel(gp.PowerLawSpectralModel(), cut, name="it"), frame="galactic").notes
    assert notes[0] == "it: the map ends while it is bright; beyond there is nothing, as in gammapy"


@eqx.filter_jit
def counts(acceptance, source, nodes):
    return acceptance(source.morphology, nodes) @ nodes.flux(source.spectrum)


@pytest.mark.slow
def test_expected_counts_against_gammapy(functions, write, tmp_path):
    names = {"aeff": "aeff", "edisp": "edisp", "psf": "psf_3gauss"}
    pointing = FixedPointingInfo(fixed_icrs=SkyCoord(0.0, 0.0, unit="deg", frame="galactic").icrs)
    irfs = {key: functions[name] for key, name in names.items()}
    run = Observation.create(pointing=pointing, livetime=50 * u.h, irfs=irfs)
    reco = MapAxis.from_energy_bounds("0.5 TeV", "10 TeV", nbin=1)
    true = MapAxis.from_energy_bounds("0.2 TeV", "20 TeV", nbin=30, name="energy_true")
    geom = WcsGeom.create(skydir=(0.0, 0.0), frame="galactic", width=5.0, binsz=0.05, axes=[reco])
    empty = MapDataset.create(geom, energy_axis_true=true)
    dataset = MapDatasetMaker(selection=["exposure", "psf", "edisp"]).run(empty, run)
    dataset.models = Models([MODELS["flux"]])
    expected = dataset.npred_signal().data.sum()
    observation = gj.io.observation(
        write(tmp_path / "irf.fits", *names.values()),
        pointing=(0.0, 0.0),
        frame="galactic",
        livetime=50 * 3600.0,
        energy_range=(0.5, 10.0),
        offset_max=2.5,
    )
    source = gj.io.from_gammapy(MODELS["flux"], frame="galactic").components["flux"]
    # of the direct engine, without the preparation for events
    nodes = EnergyNodes(0.15, 25.0, 15.0)
    acceptance = Acceptance.init(source.morphology, observation, nodes)
    assert float(counts(acceptance, source, nodes)) == pytest.approx(expected, rel=5e-3)
