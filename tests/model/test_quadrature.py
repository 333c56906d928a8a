from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import erf, ive

import gammajax as gj
from gammajax.instrument.sky import Grid, deproject, displace, separation

NARROW, WIDTHS = 0.03, (0.03, 0.06, 0.15)  # deg
REACH = 5.6 * WIDTHS[-1]
RAD = np.array([0.0, 1e-3, 0.02, 0.05, 0.1, 0.2, 0.3, 0.38, 0.42, 0.5, 0.61, 0.7, 0.9, 1.1, 1.5])
SMALL = np.pi / 180.0


@eqx.filter_jit
def folded(morphology, lon, lat):
    """Brightness through Gaussians of all widths at events, by the nodes; shape [width, event]."""
    width = jnp.asarray(WIDTHS)[:, None, None]

    def one(place):
        *directions, weight = morphology.nodes(*place, NARROW, REACH)
        norm = 2.0 * jnp.pi * (SMALL * width) ** 2
        spread = jnp.exp(-0.5 * (separation(*place, *directions) / width) ** 2) / norm
        return (morphology.brightness(*directions) * weight * spread).sum((1, 2))

    return jax.lax.map(one, (lon, lat)).T


def gaussian(sigma):
    return lambda r: np.exp(-0.5 * (r / sigma) ** 2) / (2.0 * np.pi * sigma**2)


def disk(r_0, edge):
    # the rim is smooth: an error function, `edge` wide from 5 to 95 %
    return lambda r: 0.5 * (1.0 - erf((r - r_0) / (edge / 2.326))) / (np.pi * r_0**2)


def ring(inner, outer, edge):
    areas = [np.pi * radius**2 for radius in (inner, outer)]
    disks = [disk(radius, edge) for radius in (inner, outer)]
    return lambda r: (disks[1](r) * areas[1] - disks[0](r) * areas[0]) / (areas[1] - areas[0])


def shell(inner, outer):
    def depth(radius, r):
        return np.sqrt(max(radius**2 - r**2, 0.0))

    return lambda r: 1.5 * (depth(outer, r) - depth(inner, r)) / (np.pi * (outer**3 - inner**3))


def generalized(r_0, eta):
    norm = quad(lambda r: 2.0 * np.pi * r * np.exp(-((r / r_0) ** (1.0 / eta))), 0.0, 20.0, points=[r_0])[0]
    return lambda r: np.exp(-((r / r_0) ** (1.0 / eta))) / norm


# (morphology, brightness [deg^-2] of the plane, radii where it changes)
ROUND = {
    "narrow Gaussian": (gj.Gaussian(0.3, 0.2, 0.002), gaussian(0.002), [0.005, 0.012]),
    "Gaussian": (gj.Gaussian(0.3, 0.2, 0.2), gaussian(0.2), [0.2, 0.6]),
    "disk": (gj.Disk(0.3, 0.2, 0.4), disk(0.4, 0.01), [0.39, 0.4, 0.41]),
    "sharp disk": (gj.Disk(0.3, 0.2, 0.1, 0.0), lambda r: (r < 0.1) / (np.pi * 0.1**2), [0.1]),
    "shell": (gj.Shell(0.3, 0.2, 0.4, 0.2), shell(0.4, 0.6), [0.4, 0.6]),
    "thin shell": (gj.Shell(0.3, 0.2, 0.4, 0.01), shell(0.4, 0.41), [0.4, 0.41]),
    "ring": (gj.Ring(0.3, 0.2, 0.4, 0.1, 0.02), ring(0.4, 0.5, 0.02), [0.38, 0.4, 0.42, 0.48, 0.5, 0.52]),
    "exponential": (gj.GeneralizedGaussian(0.3, 0.2, 0.1, 1.0), generalized(0.1, 1.0), [0.1, 0.5]),
    "almost a disk": (gj.GeneralizedGaussian(0.3, 0.2, 0.4, 0.02), generalized(0.4, 0.02), [0.36, 0.4, 0.44]),
}


def events(morphology):
    """Events at the distances, each in another direction."""
    angle = jnp.asarray(40.0 + 97.0 * np.arange(RAD.size))
    return displace(morphology.lon, morphology.lat, jnp.asarray(RAD), angle)


def check(value, expected):
    for row, at_width in zip(np.asarray(value), expected, strict=True):
        seen = at_width > 1e-4 * at_width.max()
        assert seen.sum() >= 5
        np.testing.assert_allclose(row[seen], at_width[seen], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUND)
def test_round_shapes_against_radial_quadrature(name):
    morphology, brightness, rims = ROUND[name]

    def expected(width, rad):
        # the angle is done in closed form, by a Bessel function
        def integrand(r):
            bell = np.exp(-0.5 * ((r - rad) / width) ** 2) * ive(0, r * rad / width**2)
            return brightness(r) * bell * r / width**2

        cuts = {0.0, rad - 6.0 * width, rad - 2.0 * width, rad, rad + 2.0 * width, rad + 6.0 * width, *rims, 2.0}
        cuts = sorted(cut for cut in cuts if 0.0 <= cut <= 2.0)
        return sum(quad(integrand, *ends, epsrel=1e-5)[0] for ends in pairwise(cuts)) / SMALL**2

    check(folded(morphology, *events(morphology)), np.array([[expected(w, rad) for rad in RAD] for w in WIDTHS]))


@pytest.fixture(scope="module")
def along_and_across():
    """Events about an ellipse with the position angle 40 deg, and their coordinates along and across it [deg]."""
    lon, lat = events(gj.Point(0.3, 0.2))
    x, y = (np.asarray(lon, float) - 0.3) * np.cos(np.radians(0.2)), np.asarray(lat, float) - 0.2
    sine, cosine = np.sin(np.radians(40.0)), np.cos(np.radians(40.0))
    return lon, lat, x * sine + y * cosine, x * cosine - y * sine


def test_elongated_gaussian_adds_its_covariance(along_and_across):
    lon, lat, along, across = along_and_across
    sigma, e, width = 0.3, 0.97, np.array(WIDTHS)[:, None]
    variances = sigma**2 + width**2, sigma**2 * (1.0 - e**2) + width**2
    decay = along**2 / variances[0] + across**2 / variances[1]
    expected = np.exp(-0.5 * decay) / (2 * np.pi * np.sqrt(variances[0] * variances[1]) * SMALL**2)
    check(folded(gj.Gaussian(0.3, 0.2, sigma, e=e, phi=40.0), lon, lat), expected)


def test_elongated_disk_against_strips(along_and_across):
    lon, lat, *place = along_and_across
    r_0, ratio = 0.4, np.sqrt(1.0 - 0.9**2)

    def expected(width, along, across):
        def strip(t):  # across the disk in closed form
            half = ratio * r_0 * np.cos(t)
            inside = erf((half - across) / (np.sqrt(2.0) * width)) + erf((half + across) / (np.sqrt(2.0) * width))
            bell = np.exp(-0.5 * ((r_0 * np.sin(t) - along) / width) ** 2) / (np.sqrt(2.0 * np.pi) * width)
            return 0.5 * inside * bell * r_0 * np.cos(t)

        nearest = np.arcsin(np.clip(along / r_0, -1.0, 1.0))
        total = quad(strip, -0.5 * np.pi, 0.5 * np.pi, points=[nearest], epsrel=1e-5, limit=100)[0]
        return total / (np.pi * ratio * r_0**2 * SMALL**2)

    values = [[expected(width, *at) for at in zip(*place, strict=True)] for width in WIDTHS]
    check(folded(gj.Disk(0.3, 0.2, r_0, 0.0, e=0.9, phi=40.0), lon, lat), np.array(values))


@pytest.mark.parametrize("step", [0.02, 0.2])
def test_templates_against_error_functions(step):
    grid = Grid(0.3, 0.2, step, 0.4)
    template = gj.TemplateMap(grid, np.random.default_rng(0).uniform(0.0, 1.0, (grid.size, grid.size)))
    edges = (np.arange(grid.size + 1) - 0.5 * grid.size) * step
    x, y = np.array([0.0, 0.013, 0.1, -0.31, 0.5]), np.array([0.0, -0.11, 0.21, 0.3, -0.2])
    scale = np.sqrt(2.0) * np.array(WIDTHS)[:, None, None]
    inside_x, inside_y = (0.5 * np.diff(erf((edges - at[:, None]) / scale)) for at in (x, y))
    expected = np.einsum("wkx,wky,yx->wk", inside_x, inside_y, np.asarray(template.values))
    check(folded(template, *deproject(jnp.asarray(x), jnp.asarray(y), grid.lon, grid.lat)), expected)


def test_halo_against_radial_quadrature():
    halo = gj.GeneralizedNFW(gamma=1.2)  # at the origin single precision resolves the cusp
    rad = np.geomspace(1e-7, 4.0, 4001)  # as far from the centre as the plane is good for
    brightness = np.asarray(eqx.filter_jit(halo.brightness)(0.0, jnp.asarray(rad)), float)
    width = np.array(WIDTHS)[:, None, None]
    bell = np.exp(-0.5 * ((rad - RAD[:, None]) / width) ** 2) * ive(0, rad * RAD[:, None] / width**2)
    expected = np.trapezoid(brightness * bell * (rad / width) ** 2, np.log(rad))
    check(folded(halo, *events(halo)), expected)


def test_isotropic_sky_far_from_its_centre():
    # also on its far side, where the projection stretches
    lon = jnp.asarray([0.0, 0.4, 83.6, 120.0])
    value = folded(gj.Constant(), lon, jnp.asarray([0.0, 0.0, 22.0, -40.0]))
    np.testing.assert_allclose(value, 0.25 / np.pi, rtol=1e-3)
