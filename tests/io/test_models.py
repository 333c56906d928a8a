"""The bridge to gammapy: every pair of models there and back, against gammapy's own values."""

import operator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from gammapy.maps import WcsGeom, WcsNDMap
from gammapy.modeling import models as gp
from gammapy.modeling.models import Models, SkyModel

import gammajax as gj
from gammajax.instrument.sky import Grid
from gammajax.io.spectral import FLUX

POINT = gp.PointSpatialModel(lon_0="0.2 deg", lat_0="0.1 deg", frame="galactic")
ENERGY = np.geomspace(0.03, 90.0, 60)
PL = gp.PowerLawSpectralModel(index=2.3, amplitude="3e-15 cm-2 s-1 GeV-1", reference="1500 GeV")
NODES = np.geomspace(0.01, 100.0, 30)


def times(first, second):
    return gp.CompoundSpectralModel(first, second, operator.mul)


def ebl():
    transmission = np.exp(-np.outer([0.05, 0.4, 1.5], np.geomspace(0.01, 20.0, 8)))
    return gp.EBLAbsorptionNormSpectralModel(
        np.geomspace(0.02, 100.0, 8) * u.TeV, [0.03, 0.2, 0.6], transmission, redshift=0.11, alpha_norm=0.9
    )


# single precision: an exponent of 20 is known to 2e-6, and with it the value
SPECTRA = {
    "constant": gp.ConstantSpectralModel(const="2e-12 cm-2 s-1 TeV-1"),
    "power law": PL,
    "power law by its integral": gp.PowerLaw2SpectralModel(index=2.2, amplitude="3e-12 cm-2 s-1", emin="0.3 TeV"),
    "power law of index one": gp.PowerLaw2SpectralModel(index=1.0001, amplitude="3e-12 cm-2 s-1"),
    "broken": gp.BrokenPowerLawSpectralModel(index1=1.6, index2=2.9, ebreak="1700 GeV"),
    "smooth break": gp.SmoothBrokenPowerLawSpectralModel(index1=1.6, index2=2.9, ebreak="1.7 TeV", beta=0.4),
    "smooth hardening": gp.SmoothBrokenPowerLawSpectralModel(index1=2.9, index2=1.6, ebreak="1.7 TeV", beta=0.4),
    "cut-off": gp.ExpCutoffPowerLawSpectralModel(index=1.8, lambda_="0.1 TeV-1", alpha=0.7, reference="2 TeV"),
    "cut-off 3FGL": gp.ExpCutoffPowerLaw3FGLSpectralModel(index=1.8, ecut="20 TeV", reference="2 TeV"),
    "super cut-off 3FGL": gp.SuperExpCutoffPowerLaw3FGLSpectralModel(ecut="20 TeV", index_1=1.7, index_2=0.8),
    "super cut-off 4FGL": gp.SuperExpCutoffPowerLaw4FGLSpectralModel(
        expfactor=4e-4, index_1=1.4, index_2=0.5, reference="500 GeV"
    ),
    "super cut-off DR3": gp.SuperExpCutoffPowerLaw4FGLDR3SpectralModel(
        expfactor=0.4, index_1=1.9, index_2=0.4, reference="50 GeV"
    ),
    "log parabola": gp.LogParabolaSpectralModel(alpha=2.2, beta=0.12, reference="3 TeV"),
    "log parabola of two scales": gp.LogParabola2SpectralModel(
        alpha=2.2, beta=0.12, reference="3 TeV", escale="0.4 TeV"
    ),
    "Gaussian": gp.GaussianSpectralModel(mean="3 TeV", sigma="40 TeV", amplitude="2e-12 cm-2 s-1"),
    "template": gp.TemplateSpectralModel(NODES * u.TeV, 1e-12 * NODES**-2.2 * np.exp(-NODES / 40.0) * u.Unit(FLUX)),
    "scaled": gp.ScaleSpectralModel(PL, norm=0.3),
    "sum": gp.CompoundSpectralModel(PL, gp.LogParabolaSpectralModel(beta=0.1), operator.add),
    "difference": gp.CompoundSpectralModel(PL, gp.PowerLawSpectralModel(amplitude=1e-13 * u.Unit(FLUX)), operator.sub),
    "absorbed": times(PL, ebl()),
    "norm first": times(gp.PowerLawNormSpectralModel(tilt=0.2, norm=1.3, reference="2 TeV"), PL),
    "scaled by norm": times(PL, gp.PowerLawNormSpectralModel(norm=0.7)),
    "cut-off factor": times(PL, gp.ExpCutoffPowerLawNormSpectralModel(index=0.1, lambda_="0.05 TeV-1", norm=2.0)),
    "parabola factor": times(PL, gp.LogParabolaNormSpectralModel(alpha=0.1, beta=0.05, norm=0.7)),
    "piecewise factor": times(PL, gp.PiecewiseNormSpectralModel([0.1, 1.0, 30.0] * u.TeV, norms=[1.0, 2.0, 0.5])),
    "two factors": times(times(PL, gp.PowerLawNormSpectralModel(norm=2.0, tilt=0.1)), ebl()),
    "product of factors": times(PL, times(ebl(), gp.PowerLawNormSpectralModel(norm=2.0, tilt=0.1))),
}
# to an order of the square of the extent in rad, where gammapy is flat or gammajax has chords: 3e-4 at 1 deg
SPATIAL = {
    "Gaussian": (gp.GaussianSpatialModel(sigma="0.4 deg"), 1e-4),
    "long Gaussian": (gp.GaussianSpatialModel(sigma="0.5 deg", e=0.8, phi="30 deg"), 1e-3),
    "exponential": (gp.GeneralizedGaussianSpatialModel(r_0="0.3 deg", eta=0.9), 1e-3),
    "long generalised": (gp.GeneralizedGaussianSpatialModel(r_0="0.5 deg", eta=0.4, e=0.6, phi="-40 deg"), 1e-3),
    "disk": (gp.DiskSpatialModel(r_0="0.7 deg", edge_width=0.3), 1e-3),
    "long disk": (gp.DiskSpatialModel(r_0="0.7 deg", e=0.9, phi="120 deg", edge_width=0.3), 2e-3),
    # square roots of differences of squares: the root of the relative error at the rims
    "shell": (gp.ShellSpatialModel(radius="0.5 deg", width="0.2 deg"), 5e-3),
    "outer shell": (gp.Shell2SpatialModel(r_0="0.7 deg", eta=0.3), 5e-3),
    "constant": (gp.ConstantSpatialModel(value="0.3 sr-1"), 1e-6),
}


def value(spectrum, energy=ENERGY):
    return np.asarray(spectrum(jnp.asarray(energy)), float)


def expected(model, energy=ENERGY):
    return model(energy * u.TeV).to_value(FLUX)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECTRA)
def test_spectra_there_and_back(name):
    model = SkyModel(SPECTRA[name], POINT, name="source")
    ours = gj.io.from_gammapy(model, frame="galactic")
    assert ours.notes == []  # nothing was tabulated
    np.testing.assert_allclose(value(ours.components["source"].spectrum), expected(SPECTRA[name]), rtol=3e-5)
    written = Models.from_yaml(gj.io.to_gammapy(ours, frame="galactic").to_yaml())
    np.testing.assert_allclose(expected(written["source"].spectral_model), expected(SPECTRA[name]), rtol=3e-5)
    again = gj.io.from_gammapy(written, frame="galactic")
    assert again.notes == []
    np.testing.assert_allclose(value(again.components["source"].spectrum), expected(SPECTRA[name]), rtol=3e-5)


OURS = {
    "line": (gj.Line(2.0, 3e-12), None),
    "Gaussian line": (gj.GaussianLine(2e-12, 3.0, 40.0), "GaussianSpectralModel"),
    "table": (gj.TabulatedSpectrum([0.2, 1.0, 7.0], [3e-12, 4e-13, 1e-15], 2.0), "TemplateSpectralModel"),
    "dark matter": (gj.DarkMatter("b", mass=5.0), "TemplateSpectralModel"),
    "number": (2.0 * gj.PowerLaw(2.0), "CompoundSpectralModel"),
    "factor without name": (gj.PowerLaw(2.0) * gj.BrokenPowerLaw(0.1, 0.3, 2.0), "TemplateSpectralModel"),
}


@pytest.mark.parametrize("name", OURS)
def test_gammajax_spectra_in_gammapy(name):
    spectrum, kind = OURS[name]
    models = gj.io.to_gammapy({"it": gj.Source(spectrum, gj.Point(0.0, 0.0))}, frame="icrs", energy_range=(0.02, 100))
    model = models["it"].spectral_model
    if kind is None:  # the same photons in a peak of the same width
        np.testing.assert_allclose(model.integral(1.9 * u.TeV, 2.1 * u.TeV).to_value("cm-2 s-1"), 3e-12, rtol=1e-6)
        assert model.sigma.value == pytest.approx(2.0 * np.log(10.0) / 800.0, rel=1e-4)
        return
    assert type(model).__name__ == kind
    # tables of 200 nodes per decade: a power law between them
    np.testing.assert_allclose(expected(model), value(spectrum), rtol=2e-3, atol=1e-24)
    back = gj.io.from_gammapy(models).components["it"].spectrum
    np.testing.assert_allclose(value(back), expected(model), rtol=1e-4, atol=1e-24)


def brightness(source, at, frame):
    """Differential flux per solid angle at 1 TeV."""
    at = at.transform_to(frame).spherical
    seen = source.morphology.brightness(jnp.asarray(at.lon.deg), jnp.asarray(at.lat.deg))
    return float(source.spectrum(jnp.ones(1))[0]) * np.asarray(seen, float)


def brightness_of_gammapy(model, at):
    at = at.transform_to(model.spatial_model.frame).spherical
    return np.broadcast_to(model(at.lon, at.lat, 1.0 * u.TeV).to_value(FLUX + " sr-1"), at.shape)


def scatter(size=400, radius=1.2):
    random = np.random.default_rng(3)
    centre = SkyCoord(83.0, 22.0, unit="deg", frame="icrs")
    return centre.directional_offset_by(random.uniform(0, 360, size) * u.deg, random.uniform(0, radius, size) * u.deg)


@pytest.mark.parametrize("frame", ["icrs", "galactic"])
@pytest.mark.parametrize("name", SPATIAL)
def test_morphologies_there_and_back(name, frame):
    spatial, tolerance = SPATIAL[name]
    if name != "constant":
        spatial = spatial.copy()
        spatial.lon_0.value, spatial.lat_0.value = 83.0, 22.0
    model = SkyModel(PL, spatial, name="source")
    ours, at = gj.io.from_gammapy(model, frame=frame), scatter()
    truth = brightness_of_gammapy(model, at)
    # gammapy's norm of a disk is that of a sharp one; a rim that is the integral of a Gaussian holds more
    norm = 1.0 + 0.5 * (0.3 / 2.326) ** 2 if "disk" in name else 1.0
    found = norm * np.asarray(brightness(ours.components["source"], at, frame))
    np.testing.assert_allclose(found, truth, rtol=1e-5, atol=tolerance * truth.max())
    written = Models.from_yaml(gj.io.to_gammapy(ours, frame=frame).to_yaml())["source"]
    np.testing.assert_allclose(brightness_of_gammapy(written, at), truth, rtol=1e-5, atol=tolerance * truth.max())
    if "lon_0" in written.spatial_model.parameters.names:
        # lost in single precision: a few 1e-6 deg
        assert written.spatial_model.position.separation(spatial.position).arcsec < 0.1


def test_points_and_position_angles_change_frame():
    ours = gj.io.from_gammapy(SkyModel(PL, POINT, name="p"), frame="icrs").components["p"].morphology
    assert isinstance(ours, gj.Point)
    place = SkyCoord(float(ours.lon), float(ours.lat), unit="deg")
    assert place.separation(POINT.position).arcsec < 0.1
    shape = gp.GaussianSpatialModel(lon_0="40 deg", lat_0="1 deg", sigma="1 deg", e=0.9, phi="25 deg", frame="galactic")
    turned = gj.io.from_gammapy(SkyModel(PL, shape, name="g"), frame="icrs").components["g"].morphology
    tip = shape.position.directional_offset_by(25 * u.deg, 1 * u.deg)
    assert abs(shape.position.icrs.position_angle(tip.icrs).deg - float(turned.phi) % 360.0) < 0.01


def make_map(normalize, proj="CAR"):
    geom = WcsGeom.create(skydir=(83.0, 22.0), npix=(40, 30), binsz=0.05, frame="icrs", proj=proj)
    at = geom.get_coord().skycoord.separation(SkyCoord(83.1, 21.9, unit="deg")).deg
    sky = WcsNDMap(geom, 400.0 * np.exp(-0.5 * (at / 0.25) ** 2), unit="sr-1")
    return gp.TemplateSpatialModel(sky, normalize=normalize)


@pytest.mark.parametrize("normalize", [True, False])
def test_templates(normalize, tmp_path):
    spatial = make_map(normalize)
    model = SkyModel(PL, spatial, name="a map")
    ours = gj.io.from_gammapy(model, frame="galactic")
    source = ours.components["a map"]
    integral = (spatial.map.quantity * spatial.map.geom.solid_angle()).sum().to_value("")
    assert abs(integral - 1.0) < 1e-6 if normalize else integral < 0.1
    np.testing.assert_allclose(value(source.spectrum), integral * expected(PL), rtol=1e-5)
    # pixels of 0.05 deg against linear interpolation
    at = scatter(radius=0.5)
    truth = brightness_of_gammapy(model, at)
    difference = brightness(source, at, "galactic") - truth
    assert np.abs(difference).max() < 0.15 * truth.max() and abs(difference.mean()) < 2e-3 * truth.max()
    # a part of the map keeps its brightness
    part = WcsGeom.create(skydir=(83.0, 22.0), width=0.8, binsz=0.05, frame="icrs")
    cut = gj.io.from_gammapy(model, frame="galactic", geom=part).components["a map"]
    near = scatter(radius=0.35)
    whole = brightness(source, near, "galactic")
    difference = brightness(cut, near, "galactic") - whole
    assert np.abs(difference).max() < 0.2 * whole.max() and abs(difference.mean()) < 5e-3 * whole.max()
    # our own maps keep their pixels: the same brightness, everywhere
    file = tmp_path / "models.yaml"
    written = gj.io.to_gammapy(ours, frame="galactic", path=file)["a map"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["models.yaml", "models_a_map.fits"]
    np.testing.assert_allclose(brightness_of_gammapy(written, at), brightness(source, at, "galactic"), rtol=1e-5)
    again = gj.io.from_gammapy(file, frame="galactic")
    np.testing.assert_allclose(
        brightness(again.components["a map"], at, "galactic"), brightness(source, at, "galactic"), rtol=1e-5
    )
    assert again.notes == []
    with pytest.raises(FileExistsError, match="models.yaml exists; pass overwrite=True"):
        gj.io.to_gammapy(ours, frame="galactic", path=file)


class Wavy(gp.SpectralModel):
    """Of no name."""

    amplitude = gp.spectral.Parameter("amplitude", "1e-12 cm-2 s-1 TeV-1")

    @staticmethod
    def evaluate(energy, amplitude):
        x = energy.to_value("TeV")
        return amplitude * x**-2.0 * (1.2 + np.sin(np.log(x))) * (x < 50.0)


class Cone(gp.SpatialModel):
    """Of no name."""

    lon_0 = gp.spectral.Parameter("lon_0", "83 deg")
    lat_0 = gp.spectral.Parameter("lat_0", "22 deg")
    evaluation_radius = 0.6 * u.deg

    @staticmethod
    def evaluate(lon, lat, lon_0, lat_0):
        from astropy.coordinates import angular_separation

        rad = angular_separation(lon, lat, lon_0, lat_0).to_value("rad")
        edge = np.radians(0.5)
        return 3.0 / np.pi / edge**2 * (1.0 - rad / edge).clip(0.0) / u.sr


def test_unknown_models_become_tables_and_maps():
    model = SkyModel(Wavy(), Cone(), name="odd")
    ours = gj.io.from_gammapy(model, frame="galactic", energy_range=(0.01, 200.0))
    assert ours.notes == [
        "odd: Wavy is a table from 0.01 to 49.7 TeV; frozen: amplitude",
        "odd: Cone is a map of 125 x 125 pixels of 0.01 deg; frozen: lon_0, lat_0",
    ]
    assert ours.parameters == {}
    source = ours.components["odd"]
    np.testing.assert_allclose(
        value(source.spectrum, ENERGY[ENERGY < 49]), expected(Wavy(), ENERGY[ENERGY < 49]), rtol=1e-4
    )
    at = scatter(radius=0.6)
    truth = brightness_of_gammapy(model, at)
    # pixels of 0.01 deg on a cone of 0.5 deg
    np.testing.assert_allclose(brightness(source, at, "galactic"), truth, atol=0.02 * truth.max())
    geom = WcsGeom.create(skydir=(83.0, 22.0), width=1.4, binsz=0.05, frame="icrs")
    coarse = gj.io.from_gammapy(model, geom=geom).components["odd"].morphology
    assert coarse.grid.step == pytest.approx(0.05)
    # halos, rings: drawn on a map
    ring = {"ring": gj.Source(gj.PowerLaw(2.0), gj.Ring(83.0, 22.0, 0.3, 0.2, edge=0.1))}
    with pytest.raises(ValueError, match="'ring': gammapy has no counterpart of Ring; give geom="):
        gj.io.to_gammapy(ring, frame="icrs")
    drawn = gj.io.to_gammapy(ring, frame="icrs", geom=geom)["ring"].spatial_model
    assert drawn.integrate_geom(geom).data.sum() == pytest.approx(1.0, abs=3e-3)


def test_what_is_drawn_keeps_the_flux_of_its_cusp():
    halo = gj.GeneralizedNFW(0.03, -0.02, gamma=1.3)
    geom = WcsGeom.create(skydir=(0.0, 0.0), frame="galactic", width=4.0, binsz=0.1)
    source = {"halo": gj.Source(gj.PowerLaw(2.0), halo)}
    spatial = gj.io.to_gammapy(source, frame="galactic", geom=geom)["halo"].spatial_model
    flux = spatial.map.quantity * spatial.map.geom.solid_angle()
    away = spatial.map.geom.separation(SkyCoord(0.03, -0.02, unit="deg", frame="galactic")).deg
    radius = 1.5
    expected = float(eqx.filter_jit(type(halo).containment)(halo, radius))
    assert flux[away < radius].sum().to_value("") == pytest.approx(expected, rel=5e-3)  # pixels of 0.1 deg at the rim


def test_a_template_that_was_moved():
    grid = Grid(10.0, 0.0, 0.1, 0.5)
    bright = np.exp(-0.5 * np.square(np.add.outer(np.asarray(grid.coordinates), np.asarray(grid.coordinates))))
    source = {"map": gj.Source(gj.PowerLaw(2.0), gj.TemplateMap(grid, bright))}
    model = gj.io.to_gammapy(source, frame="galactic")["map"]
    model.spatial_model.lon_0.value += 1.0
    moved = gj.io.from_gammapy(model, frame="galactic").components["map"]
    at = SkyCoord([11.0, 11.2, 10.7, 10.1], [0.0, -0.2, 0.3, 0.0], unit="deg", frame="galactic")
    truth = brightness_of_gammapy(model, at)
    np.testing.assert_allclose(brightness(moved, at, "galactic"), truth, atol=0.1 * truth.max())
    assert truth[0] > 0 and truth[3] == 0


def two_sources():
    pl = gp.PowerLawSpectralModel(index=2.3, amplitude="3e-12 cm-2 s-1 TeV-1")
    cutoff = gp.ExpCutoffPowerLaw3FGLSpectralModel(index=1.9, ecut="5 TeV")
    cutoff.index = pl.index  # linked
    pl.index.prior = gp.GaussianPrior(mu=2.2, sigma=0.1)
    pl.amplitude.min, pl.amplitude.max = 0.0, 1e-11
    disk = gp.DiskSpatialModel(lon_0="0.5 deg", lat_0="0.2 deg", r_0="0.3 deg", edge_width=0.5, frame="galactic")
    disk.lon_0.frozen = True
    first, second = SkyModel(pl, POINT.copy(), name="first"), SkyModel(cutoff, disk, name="second")
    first.spatial_model.freeze()
    return Models([first, second, gp.FoVBackgroundModel("run"), gp.FoVBackgroundModel("other")])


def test_free_parameters():
    models = two_sources()
    ours = gj.io.from_gammapy(models, frame="galactic")
    assert list(ours.parameters) == [
        "first.spectral.index", "first.spectral.amplitude", "second.spectral.amplitude", "second.spectral.ecut",
        "second.spatial.lat_0", "second.spatial.r_0", "run-bkg.spectral.norm",
    ]  # fmt: skip
    assert ours.notes == ["other-bkg: left out; run-bkg is the background of all observations"]
    assert ours.bounds["first.spectral.amplitude"] == (0.0, pytest.approx(1e-11))
    assert isinstance(ours.priors["first.spectral.index"], dist.Normal)
    assert float(ours.priors["second.spectral.ecut"].icdf(0.5)) == pytest.approx(5.0, rel=1e-3)
    # in another frame both coordinates are free
    assert "second.spatial.lon_0" in gj.io.from_gammapy(models, frame="icrs").parameters

    @jax.jit
    @jax.grad
    def gradient(p):
        parts = ours.model(p).components
        flux = sum(parts[name].spectrum(jnp.array([1.0, 4.0])).sum() * 1e12 for name in ("first", "second"))
        return flux + parts["second"].morphology.brightness(0.5, 0.35) / 1e3 + parts["run-bkg"].factor(2.0)

    values = {name: jnp.asarray(v) for name, v in ours.parameters.items()}
    found = gradient(values)
    assert all(np.isfinite(v) and v != 0 for v in found.values())
    # the linked index moves both
    changed = ours.model({"first.spectral.index": 2.6})
    truth = two_sources()
    truth.parameters["index"].value = 2.6
    for name in ("first", "second"):
        np.testing.assert_allclose(
            value(changed.components[name].spectrum), expected(truth[name].spectral_model), rtol=3e-5
        )
    fitted = ours.to_gammapy({"first.spectral.index": 2.6, "second.spectral.ecut": 7.0})
    assert fitted["second"].spectral_model.index is fitted["first"].spectral_model.index
    assert (fitted["first"].spectral_model.index.value, fitted["second"].spectral_model.ecut.value) == (2.6, 7.0)
    assert models["second"].spectral_model.ecut.value == 5.0  # what was given is not touched
    with pytest.raises(ValueError, match=r"unknown parameters \['index'\]; the free ones are \['first.spectral.index'"):
        ours.model({"index": 2.0})


def test_priors_keep_to_the_bounds():
    pl = gp.ExpCutoffPowerLawSpectralModel(index=1.5, amplitude="3e-12 cm-2 s-1 TeV-1", lambda_="0 TeV-1")
    pl.index.min, pl.amplitude.min = 0.5, 1e-12
    ours = gj.io.from_gammapy(SkyModel(pl, POINT, name="s"), frame="galactic")
    ends = {name: (float(p.support.lower_bound), float(p.support.upper_bound)) for name, p in ours.priors.items()}
    assert ends["s.spectral.index"] == pytest.approx((0.5, 3.5))
    assert ends["s.spectral.amplitude"] == pytest.approx((1e-12, 3e-10))
    # a cut-off that is not there has no scale
    assert "s.spectral.lambda_" in ours.parameters and "s.spectral.lambda_" not in ours.priors
    assert ours.notes == ["s.spectral.lambda_ is 0 TeV-1, without scale: give its prior to free it"]


@pytest.mark.slow
def test_a_posterior_of_gammapy_models(make_observation):
    ours = gj.io.from_gammapy(two_sources()[:1], frame="galactic")
    observation = make_observation()
    random = np.random.default_rng(0)
    events = gj.Events(0.6 * random.uniform(size=300) ** -0.7, *random.normal(0.1, 0.05, (2, 300)))
    events = events[events.energy < 8.0]
    posterior = gj.Posterior(ours.model, ours.priors, [observation], events)
    values = {name: jnp.asarray(v) for name, v in ours.parameters.items()}
    slope = jax.jit(jax.grad(posterior.log_likelihood_ratio))(values)["first.spectral.amplitude"] * 3e-12
    # the derivative of the extended likelihood in the norm of its only component is n - N
    assert float(slope) == pytest.approx(len(events) - float(posterior.expected_counts(values)["first"].sum()), abs=0.5)


def test_yaml_and_what_it_cannot_say(tmp_path):
    text = two_sources().to_yaml()
    (tmp_path / "models.yaml").write_text(text)
    for source in (text, tmp_path / "models.yaml", str(tmp_path / "models.yaml")):
        assert list(gj.io.from_gammapy(source, frame="galactic").components) == ["first", "second", "run-bkg"]
    with pytest.raises(FileNotFoundError, match="none.yaml: no such file with gammapy models"):
        gj.io.from_gammapy(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="the text cannot be read as gammapy models"):
        gj.io.from_gammapy("components:\n- type: Nonsense\n")
    background = gp.FoVBackgroundModel("run", gp.LogParabolaNormSpectralModel())
    exposed = SkyModel(PL, POINT, name="s", apply_irf={"exposure": True, "psf": False, "edisp": True})
    for wrong, message in [
        ([], "there are no models"),
        (SkyModel(PL, name="s"), "s: there is no spatial model; give it one, such as a PointSpatialModel"),
        (exposed, "s: a response is always applied in full, psf cannot be left out"),
        (background, "run-bkg: the instrument background has a norm and a tilt"),
    ]:
        with pytest.raises(ValueError, match=message):
            gj.io.from_gammapy(wrong)
    with pytest.raises(ValueError, match="frame must be 'icrs' or 'galactic', not 'fk5'"):
        gj.io.from_gammapy(SkyModel(PL, POINT), frame="fk5")
    source = gj.Source(gj.PowerLaw(2.0), gj.Point(0.0, 0.0))
    weighted = gj.Mixture(a=source, b=gj.InstrumentBackground(), weights={"a": 0.3})
    with pytest.raises(ValueError, match="a mixture with weights says nothing about absolute fluxes"):
        gj.io.to_gammapy(weighted, frame="icrs")
    varying = SkyModel(PL, POINT, gp.ExpDecayTemporalModel(), name="s", datasets_names=["run"])
    assert gj.io.from_gammapy(varying).notes == [
        "s: taken as constant in time; ExpDecayTemporalModel is left out",
        "s: applies to all observations, in gammapy to ['run'] only",
    ]


def _mass(model):
    return getattr(model, "mDM", None) or model.mass


def _factor(model):
    return getattr(model, "factor", None) or model.jfactor


@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("version", ["this", "2.2"])
def test_dark_matter_of_gammapy(gammapy_data, decay, version, dark_matter_of_gammapy):
    if decay:
        spectral = dark_matter_of_gammapy("Decay", 10.0, "b", 3e21, scale=2.0)
    else:
        spectral = dark_matter_of_gammapy("Annihilation", 5.0, "b", 3e21, scale=2.0, k=4)
    if version == "2.2":  # under its names, and without a source
        spectral.mDM, spectral.factor, spectral.source = _mass(spectral), _factor(spectral), None
    point = POINT.copy()
    point.freeze()
    ours = gj.io.from_gammapy(SkyModel(spectral, point, name="dm"), frame="galactic")
    spectrum = ours.components["dm"].spectrum
    assert isinstance(spectrum, gj.DarkMatterDecay if decay else gj.DarkMatter)
    assert list(ours.parameters) == ["dm.spectral.scale"] and "has one free parameter" in ours.notes[0]
    energy = np.geomspace(0.1, 3.0, 20)
    # both interpolate the same tables, in different ways
    np.testing.assert_allclose(value(spectrum, energy), expected(spectral, energy), rtol=0.03)
