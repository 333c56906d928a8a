from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from figures import faults
from matplotlib.colors import to_hex, to_rgb
from scipy.ndimage import gaussian_filter

import gammajax as gj
from gammajax.plots.counts import PIXELS, _level, _smoothed, _wrap, surface_density
from gammajax.plots.style import COLOURS, _scale, component_colours
from gammajax.results.prediction import predict
from gammajax.results.result import Result


def model(p):
    return gj.Mixture(
        signal=gj.Source(gj.PowerLaw(index=p["index"]), gj.Point(0.3, 0.0)),
        background=gj.InstrumentBackground(),
        weights={"signal": p["fraction"]},
    )


@pytest.fixture(scope="module")
def posterior():
    observation = gj.io.ctao(
        pointing=(0.0, 0.0), frame="galactic", livetime=3600.0, energy_range=(0.5, 20.0), offset_max=1.5
    )
    truth = {"index": jnp.asarray(2.5), "fraction": jnp.asarray(0.3)}
    events = gj.simulate(jax.random.key(5), model(truth), observation, events=1000)
    priors = {"index": dist.Normal(2.5, 0.5), "fraction": dist.Beta(1.0, 3.0)}
    return gj.Posterior(model, priors, [observation], events)


@pytest.fixture(scope="module")
def result():
    generator = np.random.default_rng(0)
    samples = {"index": generator.normal(2.5, 0.05, (2, 20)), "fraction": generator.normal(0.3, 0.01, (2, 20))}
    return Result.from_samples(samples, method="test")


@pytest.mark.slow
def test_predicted_counts(posterior):
    # bins over the whole selection hold all counts: 1000 by the weights; shapes against a fresh simulation
    draws = {"index": np.array([2.2, 2.8, 2.8]), "fraction": np.array([0.2, 0.3, 0.4])}
    edges = np.array([0.5, 1.0, 2.0, 5.0, 20.0])
    prediction = predict(jax.random.key(1), posterior, draws, edges, events=20_000)
    assert prediction.names == ("signal", "background")
    # 20000 weighted events: 4 standard errors of about 1 %
    np.testing.assert_allclose(prediction.counts[:, 0].sum(1), [200.0, 300.0, 400.0], rtol=0.04)
    np.testing.assert_allclose(prediction.counts[:, 1].sum(1), [800.0, 700.0, 600.0], rtol=0.04)
    np.testing.assert_allclose(prediction.weights[0].sum(), 300.0, rtol=0.04)
    for draw in (0, 1):
        source = model({k: jnp.asarray(v[draw]) for k, v in draws.items()}).components["signal"]
        fresh = gj.simulate(jax.random.key(2 + draw), source, posterior.observations, events=20_000)
        counts = np.histogram(fresh.energy, edges)[0]
        expected = prediction.counts[draw, 0] / prediction.counts[draw, 0].sum()
        assert np.all(np.abs(counts / 20_000 - expected) < 5.0 * np.sqrt(2.0 * expected / 20_000))


def test_counts_figure(posterior, result):
    figure = result.derive(double=lambda p: 2.0 * p["index"]).plot_counts(posterior, events=5_000)
    spectrum, residuals, sky = figure.axes[0], figure.axes[1], figure.axes[2]
    assert spectrum.get_yscale() == "log" and residuals.get_xlabel() == "reconstructed energy [TeV]"
    assert [text.get_text() for text in spectrum.get_legend().get_texts()] == ["signal", "background", "total", "data"]
    assert sky.get_xlabel() == "Galactic longitude [deg]"
    low, high = sky.get_xlim()
    assert low > high  # longitude increases to the left
    assert faults(figure) == []


def test_a_component_has_one_colour(posterior, result):
    colours = component_colours(["signal", "background"])
    drawn = result.plot_counts(posterior, events=2_000).axes[0].get_legend_handles_labels()
    counts = {name: to_hex(handle.get_edgecolor()) for handle, name in zip(*drawn, strict=True) if name in colours}
    assert counts == colours
    assert to_hex(result.plot_spectrum(posterior).lines[0].get_color()) == colours["signal"]


# of complete anomalies, on linear red, green and blue: Machado, Oliveira & Fernandes 2009, doi:10.1109/TVCG.2009.113
VISION = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def lab(colour, cones):
    """Colour in CIE L*a*b*, as eyes with these cones see it."""
    red_green_blue = np.array(to_rgb(colour))
    linear = np.where(red_green_blue <= 0.04045, red_green_blue / 12.92, ((red_green_blue + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(cones) @ linear, 0.0, 1.0)
    x, y, z = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    x, y, z = (np.cbrt(c) if c > 0.008856 else 7.787 * c + 16.0 / 116.0 for c in (x / 0.9505, y, z / 1.089))
    return np.array([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_everybody_tells_the_colours_apart(vision):
    seen = [lab(colour, VISION[vision]) for colour in COLOURS]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 20.0  # 2.3 is just noticed


def test_spectrum_of_a_fraction(posterior, result):
    """With weights the flux yields the fraction of the events: f n / N times the model's flux."""
    axes = result.plot_spectrum(posterior)
    assert faults(axes.figure) == []
    median = np.asarray(axes.get_lines()[0].get_xydata(), float)
    at_median = {"index": jnp.asarray(2.5), "fraction": jnp.asarray(0.3)}
    counts = float(posterior.expected_counts(at_median)["signal"].sum())
    expected = 0.3 * 1000 / counts * 1e-12 * median[:, 0] ** -0.5
    # 40 draws of 4 % width, with varying index and fraction
    np.testing.assert_allclose(median[:, 1], expected, rtol=0.1)


def test_derived_events_of_a_component(posterior, result):
    made = result.derive(events=lambda p: posterior.counts(p)["signal"].sum())
    np.testing.assert_allclose(made.samples["events"], 1000 * result.samples["fraction"], rtol=1e-4)


def test_helpers():
    assert _wrap(np.array([359.0, 181.0, 10.0])).tolist() == [-1.0, -179.0, 10.0]
    values = np.array([[4.0, 3.0], [2.0, 1.0]])
    assert _level(values, 0.65) == 3.0
    # a map with half of a source has no contour of 80 % of it
    assert _level(values, 0.5, 20.0) == 1.0 and _level(values, 0.8, 20.0) is None
    assert _scale(4.2e-11) == (1e-11, "$10^{-11}$") and _scale(3.0) == (1.0, "")


def test_contours_of_wide_sources_are_smooth_and_of_narrow_ones_narrow():
    random = np.random.default_rng(0)
    for width, most in ((15.0, 0.1), (1.0, 0.5)):  # pixels; 0.14 with the kernel of narrow sources
        place = np.floor(random.normal(60.0, width, (2, 4000))).astype(int)
        counts = np.zeros((PIXELS, PIXELS))
        np.add.at(counts, tuple(place), 1.0)
        smooth = _smoothed(counts)
        assert smooth.sum() == pytest.approx(4000, rel=1e-3)
        y, x = np.indices(smooth.shape) - 59.5
        inside = smooth > _level(smooth, 0.5)
        # the half of the counts fills a circle: the scatter of its rim, in its radius
        radius = np.sqrt(inside.sum() / np.pi)
        away = np.hypot(x, y)
        rim = (inside != (away < radius)).sum() / inside.sum()
        assert rim < most and radius < 1.3 * max(width, 2.0) * np.sqrt(2.0 * np.log(2.0))


def even_cells(binning):
    """Cells with 1e6 events per solid angle of the smallest cell, and the events per square degree."""
    parts = []
    for number, field in enumerate(binning.fields):
        table = binning._table(number)
        for first, rings in zip(np.asarray(table.first), np.asarray(table.rings), strict=True):
            in_ring = np.diff(np.asarray(table.within)[: rings + 1])
            caps = 1.0 - np.cos(np.radians(np.arange(rings + 1) * field.offset_max / rings))
            size = np.repeat(2.0 * np.pi * np.diff(caps) / in_ring * np.degrees(1.0) ** 2, in_ring)
            cell = first + np.arange(size.size)
            parts.append((np.full(cell.size, number), cell, size))
    observation, cell, size = (np.concatenate(column) for column in zip(*parts, strict=True))
    density = 1e6 / size.min()
    layers = np.count_nonzero(binning.rings)
    count = np.rint(density * size).astype(np.int64)
    return gj.Cells(binning, observation.astype(np.int32), cell.astype(np.int32), count), layers * density


@pytest.mark.slow
@pytest.mark.parametrize("pixel", [None, 0.15, 0.36])
@pytest.mark.parametrize(
    ("lon", "lat", "radius"), [(0.0, 0.0, 1.0), (359.9, 60.0, 0.4), (10.0, -80.0, 1.5), (0.0, 0.0, 0.2)]
)
def test_maps_of_cells_show_no_cells(make_observation, pixel, lon, lat, radius):
    """An even sky is even in the map, for cells of any size, on any part of the field, also far from the equator."""
    observation = make_observation(lon=lon, lat=lat, offset_max=1.0)
    cells, density = even_cells(gj.Binning.init([observation], energy_per_decade=5, pixel=pixel))
    surface = gaussian_filter(surface_density(cells, (lon, lat), radius), 1.5)
    step = 2.0 * radius / PIXELS
    side = step * (np.arange(PIXELS) + 0.5 - PIXELS / 2)
    stretch = np.cos(np.radians(lat))
    offset = np.asarray(observation.offset(lon + side[None, :] / stretch, lat + side[:, None]))
    inside = surface[offset < 1.0 - 6.0 * step] / density
    assert inside.mean() == pytest.approx(1.0, abs=0.005) and inside.std() < 0.01
    assert np.all(surface[offset > 1.0 + 10.0 * step] == 0.0)


def test_cells_and_their_events_are_the_same_map(posterior):
    events = posterior.events
    cells = events.compress(posterior.observations)
    centre = 0.0, 0.0
    of_events, of_cells = (gaussian_filter(surface_density(data, centre, 1.5), 4.0) for data in (events, cells))
    # 1000 events: cells of half the point spread function blur them
    assert of_cells.sum() == pytest.approx(of_events.sum(), rel=1e-6)
    assert np.abs(of_cells - of_events).max() < 0.05 * of_events.max()


@pytest.mark.slow
def test_counts_of_fractions_that_add_up_to_one(observation):
    """The medians of Dirichlet draws do not add up to one, and are no weights."""

    def model(p):
        parts = {"flat": gj.InstrumentBackground(), "steep": gj.InstrumentBackground(tilt=1.0)}
        return gj.Mixture(**parts, more=gj.InstrumentBackground(tilt=-1.0), weights=p["ratios"])

    events = gj.simulate(jax.random.key(0), model({"ratios": jnp.array([0.3, 0.3, 0.4])}), observation, events=300)
    posterior = gj.Posterior(model, {"ratios": dist.Dirichlet(jnp.ones(3))}, observation, events)
    draws = np.random.default_rng(0).dirichlet([1.0, 1.0, 1.0], (2, 20))
    assert abs(np.median(draws, axis=(0, 1)).sum() - 1.0) > 0.01
    edges = np.array([0.4, 10.0])
    prediction = predict(jax.random.key(0), posterior, {"ratios": draws.reshape(-1, 3)}, edges, events=2_000)
    np.testing.assert_allclose(prediction.counts[..., 0], 300.0 * draws.reshape(-1, 3), rtol=1e-3)
    assert sum(weights.sum() for weights in prediction.weights) == pytest.approx(300.0, rel=1e-3)
