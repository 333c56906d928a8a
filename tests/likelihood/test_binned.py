"""Binned data: wstat against gammapy, gradients, and several data sets under all samplers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from gammapy.stats import wstat as wstat_of_gammapy
from jax.test_util import check_grads
from scipy import stats

import gammajax as gj
from gammajax.likelihood import Binned
from gammajax.likelihood.binned import Pixels, wstat
from gammajax.results.prediction import predict_bins

EDGES = np.array([1.0, 2.0, 4.0])
UNIT = 1e-12
PLACE = gj.Point(0.0, 0.0)


@pytest.mark.parametrize("count", [0.0, 1.0, 7.0, 300.0])
@pytest.mark.parametrize("off", [0.0, 2.0, 40.0])
def test_wstat_is_that_of_gammapy(count, off):
    signal = np.array([1e-3, 0.5, 3.0, 40.0, 500.0])
    for ratio in (0.03, 0.5, 2.0):
        found = wstat(*(jnp.full(5, number) for number in (count, off, ratio)), jnp.asarray(signal, jnp.float32))
        expected = wstat_of_gammapy(count, off, ratio, signal)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-4)


def test_wstat_is_differentiable():
    count, off, ratio = jnp.array([0.0, 5.0, 0.0, 9.0]), jnp.array([0.0, 0.0, 3.0, 20.0]), jnp.full(4, 0.3)
    with jax.enable_x64(True):
        arguments = [jnp.asarray(part, jnp.float64) for part in (count, off, ratio)]
        check_grads(lambda s: wstat(*arguments, s), (jnp.array([1.2, 2.3, 0.7, 6.0]),), 1, modes=["rev"], rtol=1e-4)


def flat_response(lon, lat):
    return None, np.eye(2)


def one_bin(counts, name, components=None, **changes):
    """Two bins with a common exposure: photons of a power law of index 2, 0.5 UNIT^-1 and 0.25 UNIT^-1 of them."""
    given = {
        "name": name,
        "counts": np.asarray(counts, float).reshape(2, 1, 1),
        "mask": np.ones((2, 1, 1), bool),
        "edges": EDGES,
        "edges_true": EDGES,
        "exposure": np.full((2, 1, 1), 1.0 / UNIT),
        "response": flat_response,
        "components": components,
    }
    return Binned(**{**given, **changes})


def flux_only(p):
    return gj.Mixture(source=gj.Source(gj.PowerLaw(2.0, p["flux"] * UNIT), PLACE))


# with a Gamma prior, a flux with Poisson counts has a Gamma posterior: shape 2 + n, rate 0.1 + sum of exposures
PRIORS = {"flux": dist.Gamma(2.0, 0.1)}
POSTERIOR = stats.gamma(2.0 + 60.0 + 80.0, scale=1.0 / (0.1 + 2 * 0.75))
SAMPLERS = {
    "nuts": lambda key, p: gj.nuts(key, p, draws=300, chains=2, warmup=200),
    "smc": lambda key, p: gj.smc(key, p, particles=300),
    "nested": lambda key, p: gj.nested(key, p, live=100),
    "laplace": lambda key, p: gj.laplace(key, p, draws=1000),
    "svi": lambda key, p: gj.svi(key, p, draws=1000, guide="gaussian"),
}


@pytest.fixture(scope="module")
def pair():
    return gj.Posterior(flux_only, PRIORS, [one_bin([41, 19], "near"), one_bin([52, 28], "far")])


def test_two_terms_by_hand(pair):
    for flux in (60.0, 95.0):
        expected = 60 * np.log(flux) + 80 * np.log(flux) - 2 * 0.75 * flux
        expected += 93 * np.log(0.5) + 47 * np.log(0.25)
        assert float(pair.log_likelihood({"flux": jnp.asarray(flux)})) == pytest.approx(expected, rel=1e-5)
    assert pair.log_reference_exact() == pytest.approx(float(pair.log_reference), rel=1e-6)
    counts = pair.expected_counts({"flux": jnp.asarray(80.0)})["source"]
    np.testing.assert_allclose(counts, [60.0, 60.0], rtol=1e-5)
    assert pair.total == 140


def test_fit_of_two_terms(pair):
    best = gj.fit(pair)
    mode = (2.0 + 140.0 - 1.0) / 1.6
    assert float(best.parameters["flux"]) == pytest.approx(mode, rel=1e-3)
    assert float(best.standard_deviations["flux"]) == pytest.approx(mode / np.sqrt(141.0), rel=0.02)


# k-hat of svi is that of the tail of nearly equal weights
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the fitted distribution misses part of the posterior")
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_of_two_terms(name, pair):
    result = SAMPLERS[name](jax.random.key(1), pair)
    flux = np.asarray(result.samples["flux"]).ravel()
    error = POSTERIOR.std()
    assert flux.mean() == pytest.approx(POSTERIOR.mean(), abs=0.25 * error)
    assert flux.std() == pytest.approx(error, rel=0.2)


def test_components_of_some_data_only():
    def model(p):
        return gj.Mixture(
            **{name: gj.Source(gj.PowerLaw(2.0, p[name] * UNIT), PLACE) for name in ("near", "far")},
            sky=gj.InstrumentBackground(p["norm"]),
        )

    background = np.full((2, 1, 1), 10.0)
    priors = {name: dist.Uniform(0.1, 200.0) for name in ("near", "far")} | {"norm": dist.LogNormal(0.0, 0.1)}
    data = [
        one_bin([41, 19], name, [name, *sky], background=background) for name, sky in (("near", ["sky"]), ("far", []))
    ]
    posterior = gj.Posterior(model, priors, data)
    p = {"near": jnp.asarray(50.0), "far": jnp.asarray(70.0), "norm": jnp.asarray(1.3)}
    means = [50 * 0.5 + 13, 50 * 0.25 + 13], [70 * 0.5 + 10, 70 * 0.25 + 10]  # the second has its background as it is
    expected = sum(n * np.log(mu) - mu for of in means for n, mu in zip((41, 19), of, strict=True))
    assert float(posterior.log_likelihood(p)) == pytest.approx(expected, rel=1e-5)
    counts = posterior.expected_counts(p)
    np.testing.assert_allclose(counts["sky"], [26.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(counts["far"], [0.0, 52.5], rtol=1e-5)


def test_energy_scale_moves_photons():
    """With index 2, a scale of 1 + z gives (1 + z) times the photons of a bin."""

    def model(p):
        return gj.Mixture(source=gj.Source(gj.RescaledSpectrum(gj.PowerLaw(2.0, 80.0 * UNIT), p["z"]), PLACE))

    posterior = gj.Posterior(model, {"z": dist.Normal(0.0, 0.1)}, one_bin([41, 19], "one"))
    assert float(posterior.expected_counts({"z": jnp.asarray(0.1)})["source"][0]) == pytest.approx(66.0, rel=1e-5)
    slope = jax.grad(posterior.log_likelihood_ratio)({"z": jnp.asarray(0.0)})["z"]
    assert float(slope) == pytest.approx(60.0 - 60.0, abs=1e-3)


@eqx.filter_jit
def value(posterior, p):
    return posterior.log_likelihood(p)


def weighted(p):
    return gj.Mixture(
        source=flux_only(p).components["source"], other=flux_only(p).components["source"], weights=[0.5, 0.5]
    )


def with_sky(p):
    return gj.Mixture(source=flux_only(p).components["source"], sky=gj.InstrumentBackground())


def nothing(p):
    line = gj.TabulatedSpectrum([1.0, 1.9], [1e-12, 1e-12], p["flux"])
    return gj.Mixture(source=gj.Source(line, PLACE))


RATIO = np.array([0.2, 0.0]).reshape(2, 1, 1)
# model, changes of the data, and the message
REFUSED = {
    "weights": (weighted, {}, "binned data need absolute fluxes"),
    "correction": (
        lambda p: gj.Mixture(
            source=flux_only(p).components["source"],
            sky=gj.InstrumentBackground(correction=gj.BackgroundCorrection(gradients=np.zeros((2, 1)))),
        ),
        {},
        "'sky' has a correction over the field of view, which binned data do not know",
    ),
    "no background": (with_sky, {"components": ("sky",)}, "'one' has no background for component 'sky'"),
    "no bins": (flux_only, {"mask": np.zeros((2, 1, 1), bool)}, "'one': its mask leaves no bins"),
    "acceptance of zero": (flux_only, {"counts_off": RATIO, "ratio": RATIO}, "1 bins have an acceptance of zero"),
    "impossible counts": (nothing, {}, "1 bins have counts but expect none, the first at 2.828 TeV"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    model, changes, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        gj.Posterior(model, PRIORS, one_bin([41, 19], "one", **changes))


def test_masked_bins_do_not_count():
    mask = np.array([True, False]).reshape(2, 1, 1)
    both = [gj.Posterior(flux_only, PRIORS, one_bin([41, n], "one", mask=mask)) for n in (19, 5000)]
    values = [float(value(p, {"flux": jnp.asarray(70.0)})) for p in both]
    assert values[0] == values[1] == pytest.approx(41 * np.log(35.0) - 35.0, rel=1e-6)
    assert both[0].total == 41


def draws_of(**scales):
    rng = np.random.default_rng(0)
    return gj.Result.from_samples({k: rng.normal(v, 0.05 * v, (2, 10)) for k, v in scales.items()}, method="test")


@pytest.mark.slow
def test_a_row_of_counts_for_each_data_set(observations, events):
    """Events, and ON and OFF: bands of all bins add up to the expected counts; spectra reach over all energies."""

    def model(p):
        flux = p["flux"] * 1e-11
        return gj.Mixture(
            near=gj.Source(gj.PowerLaw(2.3, flux), gj.Point(0.3, 0.2)),
            far=gj.Source(gj.PowerLaw(2.0, 100.0 * flux * UNIT * 1e11), PLACE),
            sky=gj.InstrumentBackground(0.1),
        )

    off = {"counts_off": np.array([20.0, 8.0]).reshape(2, 1, 1), "ratio": np.full((2, 1, 1), 0.25)}
    unbinned = gj.Unbinned(observations, events, components=["near", "sky"], name="events", per_decade=10.0)
    posterior = gj.Posterior(
        model, {"flux": dist.LogNormal(0.0, 1.0)}, [unbinned, one_bin([41, 19], "far", "far", **off)]
    )
    result = draws_of(flux=1.0)
    draws = {"flux": result.samples["flux"][:3]}
    prediction = predict_bins(posterior, posterior.terms[1], draws)
    assert prediction.names == ("far", "OFF")
    np.testing.assert_allclose(prediction.counts[:, 0], 100.0 * np.outer(draws["flux"], [0.5, 0.25]), rtol=1e-5)
    assert np.all(prediction.counts[:, 1] > 0.0)
    figure = result.plot_counts(posterior, events=2000)
    titles = [axes.get_title() for axes in figure.axes]
    assert [title for title in titles if "reconstructed" in title] == [
        "events: counts by reconstructed energy",
        "far: counts by reconstructed energy",
    ]
    assert sum("on the sky" in title for title in titles) == 1
    axes = result.plot_spectrum(posterior)
    np.testing.assert_allclose(axes.get_xlim(), (1.0, 4.0))


STEP, SIDE = 0.05, 41


def sky_map(counts=None):
    """A map about (0, 0) with a Gaussian point spread function of 0.07 deg, one bin of true energy."""
    x = STEP * (np.arange(15) - 7)
    kernel = np.exp(-0.5 * (x[:, None] ** 2 + x**2) / 0.07**2)[None]
    middle = (SIDE - 1) / 2
    return Binned(
        name="map",
        counts=np.ones((1, SIDE, SIDE)) if counts is None else counts,
        mask=np.ones((1, SIDE, SIDE), bool),
        edges=np.array([1.0, 4.0]),
        edges_true=np.array([1.0, 4.0]),
        exposure=np.full((1, SIDE, SIDE), 1.0 / UNIT),
        response=lambda lon, lat: (kernel / kernel.sum(), np.eye(1)),
        background=np.full((1, SIDE, SIDE), 0.5),
        solid_angle=np.full((SIDE, SIDE), np.radians(STEP) ** 2),
        pixels=Pixels(
            lambda x, y: ((x - middle) * STEP, (y - middle) * STEP),
            lambda lon, lat: (lon / STEP + middle, lat / STEP + middle),
            STEP,
        ),
    )


# shapes at a place; all within the map, so that they keep their photons
SHAPES = {
    "point": gj.Point,
    "Gaussian": lambda lon, lat: gj.Gaussian(lon, lat, 0.1),
    "elongated": lambda lon, lat: gj.Gaussian(lon, lat, 0.12, 0.8, 30.0),
    "disk": lambda lon, lat: gj.Disk(lon, lat, 0.2),
    "ring": lambda lon, lat: gj.Ring(lon, lat, 0.15, 0.1),
    "shell": lambda lon, lat: gj.Shell(lon, lat, 0.2, 0.05),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_in_pixels(name):
    """Photons are kept, their mean place is the source's, and fixed, free and differentiated places agree."""

    def model(p):
        return gj.Mixture(source=gj.Source(gj.PowerLaw(2.0, 400.0 * UNIT), SHAPES[name](p["lon"], p["lat"])))

    middle = {"lon": jnp.asarray(0.11), "lat": jnp.asarray(-0.07)}
    priors = {"lon": dist.Uniform(0.06, 0.16), "lat": dist.Uniform(-0.12, -0.02)}
    (free,) = gj.Posterior(model, priors, sky_map()).terms
    fixed_prior = {"spare": dist.Uniform(0.0, 1.0)}

    def still(p):
        flux = gj.PowerLaw(2.0, (399.5 + p["spare"]) * UNIT)
        return gj.Mixture(source=gj.Source(flux, model(middle).components["source"].morphology))

    (fixed,) = gj.Posterior(still, fixed_prior, sky_map()).terms
    assert type(free.engines["source"]).__name__ == "Moving" and type(fixed.engines["source"]).__name__ == "Folded"

    @jax.jit
    def counts(p):
        return free._expected(model(p))["source"][0]

    at = counts(middle)
    np.testing.assert_allclose(at, fixed._expected(model(middle))["source"][0], atol=2e-5 * float(at.max()))
    assert float(at.sum()) == pytest.approx(300.0, rel=2e-3)
    place = STEP * (np.arange(SIDE) - (SIDE - 1) / 2)
    found = np.asarray(at, float)
    centre = (found.sum(0) @ place / found.sum(), found.sum(1) @ place / found.sum())
    assert centre == pytest.approx((0.11, -0.07), abs=5e-4)
    slope = jax.jvp(lambda lon: counts({**middle, "lon": lon}), (middle["lon"],), (jnp.ones(()),))[1]
    ends = [np.asarray(counts({**middle, "lon": middle["lon"] + sign * 4e-3}), float) for sign in (1, -1)]
    numeric = (ends[0] - ends[1]) / 8e-3
    # the limb of a shell has an infinite slope, which ten points along a pixel do not resolve
    tolerance = 0.2 if name == "shell" else 0.03
    np.testing.assert_allclose(slope, numeric, atol=tolerance * np.abs(numeric).max())
