import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from scipy.integrate import quad
from scipy.stats import chisquare, kstest

import gammajax as gj
from gammajax.instrument.sky import Grid
from gammajax.model.morphology import pixel_fractions

ANGLES = np.arange(8) * 45.0 + 3.0
# (morphology, radii that panels end at [deg], tolerance of the integral)
INWARDS = 1.0 - np.linspace(1.0, 0.0, 99) ** 2  # crowding towards an outer rim with a vertical slope
RADIAL = {
    "narrow Gaussian": (gj.Gaussian(83.6, 22.0, 0.05), np.linspace(0.0, 0.35, 36), 1e-4),
    "Gaussian": (gj.Gaussian(266.4, -29.0, 0.4), np.linspace(0.0, 2.8, 36), 1e-5),
    "wide Gaussian": (gj.Gaussian(10.0, 75.0, 30.0), np.linspace(0.0, 180.0, 60), 1e-5),
    "disk": (gj.Disk(83.6, 22.0, 0.5), np.append(np.linspace(0.0, 0.48, 9), np.linspace(0.49, 0.51, 21)), 1e-4),
    # a smooth rim adds photons to second order, (0.1 / 2.326 / 1.0)^2 / 2
    "disk with a rim": (gj.Disk(0.0, 0.0, 1.0, 0.1), np.linspace(0.0, 1.3, 53), 1e-3),
    "general Gaussian": (gj.GeneralizedGaussian(266.4, -29.0, 0.4, 0.3), np.linspace(0.0, 1.1, 36), 1e-4),
    "exponential": (gj.GeneralizedGaussian(83.6, 22.0, 0.1, 1.0), np.append(0.0, np.geomspace(1e-3, 2.3, 60)), 1e-4),
    "ring": (gj.Ring(83.6, 22.0, 0.4, 0.2, 0.05), np.linspace(0.3, 0.7, 41), 1e-4),
    "shell": (gj.Shell(83.6, 22.0, 0.4, 0.2), np.append(np.linspace(0, 0.4, 99), 0.4 + 0.2 * INWARDS), 1e-3),
    "wide shell": (gj.Shell(10.0, 75.0, 20.0, 30.0), np.append(np.linspace(0, 20, 99), 20 + 30 * INWARDS), 1e-3),
    "filled sphere": (gj.Shell(0.0, 0.0, 0.0, 1.0), INWARDS, 1e-4),
    "constant": (gj.Constant(20.0, -30.0), np.linspace(0.0, 180.0, 40), 1e-5),
    "halo": (gj.Einasto(), np.append(0.0, np.geomspace(1e-4, 180.0, 150)), 1e-3),
    "cored halo": (gj.Einasto(5.0, -10.0, alpha=0.3, r_s=20.0), np.append(0.0, np.geomspace(1e-4, 180.0, 150)), 1e-3),
}
NAMES = pytest.mark.parametrize("name", RADIAL)


@eqx.filter_jit
def brightness(morphology, lon, lat):
    return morphology.brightness(lon, lat)


@eqx.filter_jit
def sample(morphology, key, size=4000):
    return morphology.sample(key, size)


def centre(morphology):
    return SkyCoord(float(morphology.lon), float(morphology.lat), unit="deg")


def radial(morphology, rad):
    """Mean brightness [sr^-1] on circles about the centre, at directions that astropy finds."""
    r, a = np.meshgrid(rad, ANGLES, indexing="ij")
    at = centre(morphology).directional_offset_by(a * u.deg, r * u.deg)
    value = brightness(morphology, jnp.asarray(at.ra.wrap_at(180 * u.deg).deg), jnp.asarray(at.dec.deg))
    return np.asarray(value, np.float64).mean(1)


def cumulative(morphology, edges):
    """Flux within the radii `edges` [deg]."""
    nodes, weights = np.polynomial.legendre.leggauss(6)
    half, middle = 0.5 * np.diff(edges), 0.5 * (edges[1:] + edges[:-1])
    rad = middle[:, None] + half[:, None] * nodes
    value = radial(morphology, rad.ravel()).reshape(rad.shape)
    rings = 2.0 * np.pi * np.sin(np.radians(rad)) * np.radians(half[:, None] * weights) * value
    return np.concatenate([[0.0], np.cumsum(rings.sum(1))])


@pytest.mark.slow
@NAMES
def test_brightness_integrates_to_one_and_samples_follow_it(name):
    morphology, edges, tolerance = RADIAL[name]
    flux = cumulative(morphology, edges)
    assert flux[-1] == pytest.approx(1.0, abs=tolerance)
    lon, lat = (np.asarray(column, float) for column in sample(morphology, jax.random.key(5)))
    drawn = SkyCoord(lon, lat, unit="deg")
    separation = centre(morphology).separation(drawn).deg
    assert kstest(separation, lambda r: np.interp(r, edges, flux)).pvalue > 1e-3
    assert kstest(centre(morphology).position_angle(drawn).deg / 360.0, "uniform").pvalue > 1e-3
    # the extent contains the flux
    assert separation.max() <= float(morphology.radius) * (1 + 1e-5)


ELONGATED = {
    "Gaussian": gj.Gaussian(83.6, 62.0, 0.4, e=0.9, phi=30.0),
    "wide Gaussian": gj.Gaussian(10.0, -20.0, 12.0, e=0.7, phi=110.0),
    "general Gaussian": gj.GeneralizedGaussian(266.4, -29.0, 0.3, 0.7, e=0.8, phi=-60.0),
    "disk": gj.Disk(83.6, 22.0, 0.6, 0.02, e=0.95, phi=75.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ELONGATED)
def test_elongated_samples_follow_the_brightness(name):
    # on a polar grid that astropy makes: norm, and second moments along and across the axis
    morphology = ELONGATED[name]
    radius = min(float(morphology.radius), 100.0)
    edges = np.linspace(0.0, radius, 801)
    rad, angle = np.meshgrid(0.5 * (edges[1:] + edges[:-1]), (np.arange(180) + 0.5) * 2.0, indexing="ij")
    at = centre(morphology).directional_offset_by(angle * u.deg, rad * u.deg)
    value = np.asarray(brightness(morphology, jnp.asarray(at.ra.deg), jnp.asarray(at.dec.deg)), np.float64)
    flux = value * np.radians(2.0) * -np.diff(np.cos(np.radians(edges)))[:, None]
    assert flux.sum() == pytest.approx(1.0, abs=2e-3)
    lon, lat = (np.asarray(column, float) for column in sample(morphology, jax.random.key(7), 20_000))
    drawn = SkyCoord(lon, lat, unit="deg")
    separation, position = centre(morphology).separation(drawn).deg, centre(morphology).position_angle(drawn).rad
    assert separation.max() <= radius * (1 + 1e-5)
    for turn in (0.0, 45.0, 90.0):
        component = np.cos(np.radians(angle - float(morphology.phi) - turn)) * rad
        moment = np.cos(position - np.radians(float(morphology.phi) + turn)) * separation
        error = np.std(moment**2) / np.sqrt(moment.size)
        assert (moment**2).mean() == pytest.approx((flux * component**2).sum() / flux.sum(), abs=4.0 * error)
        if turn == 0.0:
            long = (moment**2).mean()
    # the axis ratio, in the variances
    assert (moment**2).mean() / long == pytest.approx(1.0 - float(morphology.e) ** 2, rel=0.1)


GAMMAPY = {
    "Gaussian": (gj.Gaussian(40.0, 20.0, 0.4, e=0.9, phi=30.0), "GaussianSpatialModel", {}),
    "general Gaussian": (gj.GeneralizedGaussian(40.0, 20.0, 0.4, 0.8, e=0.6, phi=130.0), "Generalized", {}),
    "disk": (gj.Disk(40.0, 20.0, 0.6, 0.06, e=0.8, phi=-50.0), "DiskSpatialModel", {"edge_width": 0.1}),
    "shell": (gj.Shell(40.0, 20.0, 0.4, 0.3), "ShellSpatialModel", {"radius": 0.4}),
}


@pytest.mark.parametrize("name", GAMMAPY)
def test_against_gammapy(name):
    from gammapy.modeling import models

    morphology, kind, changes = GAMMAPY[name]
    kind = "GeneralizedGaussianSpatialModel" if kind == "Generalized" else kind
    model = getattr(models, kind)(frame="galactic")
    for parameter in model.parameters:
        ours = parameter.name.removesuffix("_0") if parameter.name in ("lon_0", "lat_0") else parameter.name
        parameter.value = changes[ours] if ours in changes else float(getattr(morphology, ours))
    random = np.random.default_rng(1)
    lon, lat = 40.0 + random.uniform(-0.8, 0.8, 300), 20.0 + random.uniform(-0.8, 0.8, 300)
    expected = model(lon * u.deg, lat * u.deg).to_value("sr-1")
    value = brightness(morphology, jnp.asarray(lon), jnp.asarray(lat))
    # roots and steep rims turn the last digits of single precision, 1e-5 of a degree, into 1e-3 of the maximum
    np.testing.assert_allclose(value, expected, rtol=2e-3, atol=1e-3 * expected.max())


FREE = {
    **{name: ELONGATED[name] for name in ("Gaussian", "general Gaussian")},
    "disk": gj.Disk(83.6, 22.0, 0.6, 0.1, e=0.9, phi=75.0),
    "round Gaussian": gj.Gaussian(83.6, 22.0, 0.4),
    "ring": gj.Ring(83.6, 22.0, 0.4, 0.2, 0.1),
    "shell": gj.Shell(83.6, 22.0, 0.4, 0.2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FREE)
def test_gradients_in_every_parameter(name):
    with jax.enable_x64(True):
        morphology = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), FREE[name])
        # the centre, somewhere inside, and the far side of the sky
        lon = float(morphology.lon) + jnp.array([0.0, 0.13, 0.5, 179.0])
        lat = float(morphology.lat) + jnp.array([0.0, 0.21, -0.2, -float(2 * morphology.lat)])

        @jax.jit
        def total(morphology):
            return morphology.brightness(lon, lat) @ jnp.array([1.0, 2.0, 3.0, 1e3])

        gradient = jax.jit(jax.grad(total))(morphology)
        leaves, structure = jax.tree.flatten(morphology)
        for n, value in enumerate(jax.tree.leaves(gradient)):
            step = 1e-5
            ends = [leaves[:n] + [leaves[n] + d] + leaves[n + 1 :] for d in (-step, step)]
            low, high = (float(total(jax.tree.unflatten(structure, end))) for end in ends)
            # the cusp of a shape at the centre has no slope there: it counts as zero
            assert float(value) == pytest.approx((high - low) / (2 * step), rel=1e-4, abs=1e-4 * abs(high)), n


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gj.Gaussian(0.0, 0.0, 0.0), "sigma of a Gaussian must be positive"),
        (lambda: gj.Gaussian(0.0, 0.0, 1.0, e=1.0), "e of a Gaussian must be from 0 to below 1"),
        (lambda: gj.GeneralizedGaussian(0.0, 0.0, 1.0, 1.5), "eta of a GeneralizedGaussian must be at most 1"),
        (lambda: gj.Disk(0.0, 0.0, -1.0), "r_0 of a Disk must be positive"),
        (lambda: gj.Ring(0.0, 0.0, -0.1, 1.0), "r_0 of a Ring must not be negative"),
        (lambda: gj.Ring(0.0, 0.0, 0.1, 0.0), "width of a Ring must be positive"),
        (lambda: gj.Shell(0.0, 0.0, -0.1, 1.0), "radius of a Shell must not be negative"),
    ],
)
def test_bad_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_plot():
    import matplotlib.pyplot as plt

    ax = gj.Shell(359.8, 60.0, 0.4, 0.2).plot()
    low, high = ax.get_xlim()
    assert low > high and ax.get_xlabel() == "longitude [deg]" and ax.get_ylabel() == "latitude [deg]"
    assert ax.figure.axes[1].get_ylabel() == "surface brightness [deg$^{-2}$]"
    # a flux of one in the square: brightness [deg^-2] times the areas of its pixels
    image = ax.collections[0].get_array()
    width, height = abs(high - low) * np.cos(np.radians(60.0)), np.ptp(ax.get_ylim())
    assert image.mean() * width * height == pytest.approx(1.0, rel=1e-2)
    assert gj.Einasto().plot(width=10.0).collections[0].norm.__class__.__name__ == "LogNorm"
    assert gj.Gaussian(0.0, 0.0, 1.0).plot(ax=ax, cmap="viridis") is ax
    # a point is marked, also on a map across 0 deg, without a change of the map
    shown = ax.get_xlim()
    mark = gj.Point(359.9, 0.2).plot(ax=ax, label="pulsar").get_lines()[-1]
    assert mark.get_xdata()[0] == pytest.approx(-0.1, abs=1e-4) and ax.get_xlim() == shown
    assert gj.Point(83.6, 22.0).plot(width=2.0).get_ylim() == pytest.approx((21.0, 23.0))
    plt.close("all")


def test_point():
    lon, lat = sample(gj.Point(12.0, -3.0), jax.random.key(0), 3)
    np.testing.assert_array_equal(lon, 12.0)
    np.testing.assert_array_equal(lat, -3.0)
    with pytest.raises(TypeError, match="a point source has no surface brightness"):
        gj.Point(0.0, 0.0).brightness(0.0, 0.0)


@pytest.mark.parametrize("sigma", [0.05, 0.4, 3.0])
def test_gaussian_against_gammapy(sigma):
    from gammapy.modeling.models import GaussianSpatialModel

    lon, lat = 40.0 + np.linspace(-3.0, 3.0, 7) * sigma, 20.0 + np.linspace(-1.0, 2.0, 7) * sigma
    model = GaussianSpatialModel(lon_0=40 * u.deg, lat_0=20 * u.deg, sigma=sigma * u.deg, frame="galactic")
    expected = model(lon * u.deg, lat * u.deg).to_value("sr-1")
    value = brightness(gj.Gaussian(40.0, 20.0, sigma), jnp.asarray(lon), jnp.asarray(lat))
    np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-6 * expected.max())


@pytest.mark.parametrize("edge", [0.01, 0.2])
def test_disk_against_gammapy(edge):
    from gammapy.modeling.models import DiskSpatialModel

    lon, lat = np.linspace(-1.2, 1.2, 33), np.linspace(-0.3, 0.4, 33)
    model = DiskSpatialModel(lon_0=0 * u.deg, lat_0=0 * u.deg, r_0=0.8 * u.deg, edge_width=edge / 0.8, frame="galactic")
    expected = model(lon * u.deg, lat * u.deg).to_value("sr-1")
    value = brightness(gj.Disk(0.0, 0.0, 0.8, edge), jnp.asarray(lon), jnp.asarray(lat))
    # gammapy's norm is of first order: with a rim of Gaussian width s the area is pi (r^2 + s^2)
    expected /= 1.0 + 0.5 * (edge / 2.326 / 0.8) ** 2
    np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-3 * expected.max())


def test_halo_along_the_line_of_sight():
    alpha, r_s, distance = 0.17, 28.44, 8.33

    def line(angle):
        def density2(log_l):
            # l measured from the point of closest approach or from the observer
            total = 0.0
            for sign in (-1.0, 1.0):
                along = distance * np.cos(np.radians(angle)) + sign * np.exp(log_l)
                if along > 0:
                    radius = np.hypot(np.exp(log_l), distance * np.sin(np.radians(angle)))
                    total += np.exp(-4.0 / alpha * ((radius / r_s) ** alpha - 1.0)) * np.exp(log_l)
            return total

        last = np.log(distance * np.cos(np.radians(angle)))
        return (
            quad(density2, np.log(1e-7), last, epsrel=1e-8, limit=400)[0]
            + quad(density2, last, np.log(2000.0), epsrel=1e-8, limit=400)[0]
        )

    angles = np.array([0.003, 0.05, 1.0, 20.0, 80.0])
    expected = np.array([line(angle) for angle in angles])
    value = np.asarray(brightness(gj.Einasto(), jnp.asarray(angles), jnp.zeros(5)), np.float64)
    np.testing.assert_allclose(value / value[2], expected / expected[2], rtol=2e-3)


@pytest.fixture(scope="module")
def template():
    grid = Grid(30.0, 40.0, 0.25, 1.0)
    x, y = np.meshgrid(np.arange(grid.size), np.arange(grid.size))
    return gj.TemplateMap(grid, (x + 2 * y) % 5 + 0.5 * (x == 2))


def test_template_integrates_to_one(template):
    lon = 30.0 + (np.arange(600) + 0.5) / 600.0 * 4.0 - 2.0
    lat = 40.0 + (np.arange(600) + 0.5) / 600.0 * 3.0 - 1.5
    area = np.radians(4.0 / 600.0) * np.radians(3.0 / 600.0)
    value = brightness(template, *map(jnp.asarray, np.meshgrid(lon, lat)))
    total = (np.asarray(value, np.float64) * np.cos(np.radians(lat))[:, None]).sum() * area
    assert total == pytest.approx(1.0, abs=2e-3)


def test_template_samples_fill_its_pixels(template):
    lon, lat = sample(template, jax.random.key(2), 5000)
    x, y = (np.asarray(c) for c in template.grid.pixel(lon, lat))
    size = template.grid.size
    counts = np.bincount(np.rint(y).astype(int) * size + np.rint(x).astype(int), minlength=size**2)
    expected = np.asarray(template.values, np.float64).ravel()
    some = expected > 0
    assert counts[~some].sum() == 0
    assert chisquare(counts[some], expected[some] / expected.sum() * 5000).pvalue > 1e-3
    # uniform within the pixels
    assert kstest(x - np.rint(x) + 0.5, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_templates(bad):
    grid = Grid(0.0, 0.0, 0.5, 1.0)
    values = np.ones((grid.size, grid.size))
    with pytest.raises(ValueError, match="finite, non-negative and not all zero"):
        gj.TemplateMap(grid, 0.0 * values)
    values[0, 0] = bad
    with pytest.raises(ValueError, match="finite, non-negative"):
        gj.TemplateMap(grid, values)
    with pytest.raises(ValueError, match="the template has shape"):
        gj.TemplateMap(grid, values[1:])


@pytest.mark.parametrize(
    ("name", "tolerance"), [("narrow Gaussian", 2e-5), ("Gaussian", 2e-5), ("disk", 2e-3), ("disk with a rim", 2e-3)]
)
def test_pixel_fractions_add_up(name, tolerance):
    morphology = RADIAL[name][0]
    grid = Grid(morphology.lon, morphology.lat, float(morphology.radius) / 20.0, 1.1 * float(morphology.radius))
    fractions = pixel_fractions(morphology, grid)
    assert float(fractions.sum()) == pytest.approx(1.0, abs=tolerance)


@pytest.mark.parametrize("step", [0.045, 0.03])
def test_pixel_fractions_of_a_template_add_up(template, step):
    # overlaps of the pixels of two grids
    fractions = pixel_fractions(template, Grid(30.0, 40.0, step, 1.6))
    assert float(fractions.sum()) == pytest.approx(1.0, abs=1e-3)


def test_pixel_fractions_of_a_cusp():
    grid = Grid(0.0, 0.0, 0.1, 2.0)
    fractions = np.asarray(pixel_fractions(gj.Einasto(), grid), np.float64)
    x, y = np.meshgrid(grid.coordinates, grid.coordinates)
    for radius in (0.5, 1.5):
        inside = cumulative(gj.Einasto(), np.append(0.0, np.geomspace(1e-4, radius, 80)))[-1]
        # pixels cut by the circle by their part inside it
        part = np.clip((radius - np.hypot(x, y)) / 0.1 + 0.5, 0.0, 1.0)
        assert (fractions * part).sum() == pytest.approx(inside, rel=5e-3)


SIZES = [1e-5, 1e-4, 1e-3, 0.02, 0.3, 3.0, 30.0]
ROUND = {
    "Gaussian": gj.Gaussian,
    "GeneralizedGaussian": gj.GeneralizedGaussian,
    "exponential": lambda lon, lat, size: gj.GeneralizedGaussian(lon, lat, min(size, 12.0), 1.0),
    "sharp": lambda lon, lat, size: gj.GeneralizedGaussian(lon, lat, size, 0.1),
    "Disk": gj.Disk,
    "wide rim": lambda lon, lat, size: gj.Disk(lon, lat, size, 3.0 * size),
    "Ring": lambda lon, lat, size: gj.Ring(lon, lat, size, 0.5 * size),
    "thin ring": lambda lon, lat, size: gj.Ring(lon, lat, size, 0.01 * size),
    "ring without a hole": lambda lon, lat, size: gj.Ring(lon, lat, 0.0, size),
    "Shell": lambda lon, lat, size: gj.Shell(lon, lat, size, 0.2 * size),
    "ball": lambda lon, lat, size: gj.Shell(lon, lat, 0.0, size),
}


@eqx.filter_jit
def ring_brightness(morphology, rad):
    return morphology.brightness(morphology.lon, morphology.lat + rad)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUND)
def test_the_brightness_integrates_to_one_at_every_size(name):
    """By panels that end at the breaks of the shape, on the sphere."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    with jax.enable_x64(True):
        for size in SIZES:
            morphology = ROUND[name](0.0, 0.0, size)
            breaks = np.unique(np.asarray(morphology.breaks, float))
            edges = np.unique(
                np.concatenate([a + (b - a) * np.linspace(0.0, 1.0, 41) for a, b in itertools.pairwise(breaks)])
            )
            half, middle = 0.5 * np.diff(edges)[:, None], 0.5 * (edges[1:] + edges[:-1])[:, None]
            rad = (middle + half * nodes).ravel()
            ring = 2.0 * np.pi * np.sin(np.radians(rad)) * np.radians((half * weights).ravel())
            total = ring @ np.asarray(ring_brightness(morphology, jnp.asarray(rad)))
            assert total == pytest.approx(1.0, abs=2e-3), size


@pytest.mark.parametrize("name", ROUND)
def test_the_spread_is_that_of_samples(name):
    morphology = ROUND[name](0.0, 0.0, 0.3)
    lon, lat = morphology.sample(jax.random.key(5), 20_000)
    found = np.sqrt(0.5 * (np.asarray(lon) ** 2 + np.asarray(lat) ** 2).mean())
    assert found == pytest.approx(float(morphology.spread), rel=0.35)  # a scale, not a measurement
    larger = morphology.at_least(0.9)
    assert float(larger.spread) >= 0.9 * 0.999 and type(larger) is type(morphology)
    assert float(morphology.at_least(1e-3).spread) == pytest.approx(float(morphology.spread), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gj.Disk(0.0, 0.0, 200.0), "r_0 of a Disk must be at most 180 deg"),
        (lambda: gj.Ring(0.0, 0.0, 170.0, 20.0), "r_0 . width of a Ring must be at most 180 deg"),
        (lambda: gj.Shell(0.0, 0.0, 100.0, 100.0), "radius . width of a Shell must be at most 180 deg"),
        (
            lambda: gj.GeneralizedGaussian(0.0, 0.0, 40.0, 1.0),
            "r_0 of a GeneralizedGaussian of eta 1 must be at most 12",
        ),
    ],
)
def test_shapes_larger_than_the_sky_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
