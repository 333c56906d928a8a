import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from gammajax.instrument.psf import GaussPSF, KingPSF, TablePSF
from gammajax.instrument.table import Axis, Table

ENERGY, OFFSET, RAD = np.geomspace(0.1, 30.0, 6), np.linspace(0.0, 4.0, 5), np.linspace(0.0, 1.0, 401)
AXES = Axis(np.log(ENERGY)), Axis(OFFSET)
E, O = np.meshgrid(ENERGY, OFFSET, indexing="ij")  # noqa: E741
WIDTH = 0.06 * E**-0.3 * (1 + 0.1 * O)
PROFILE = np.exp(-0.5 * (RAD / WIDTH[..., None]) ** 2)
# (psf, tolerance of containment): closed forms in single precision; a table is interpolated between its nodes
PSFS = {
    "one Gaussian": (GaussPSF(Table(AXES, WIDTH[..., None]), Table(AXES, np.ones((6, 5, 1)))), 2e-6),
    "three Gaussians": (
        GaussPSF(
            Table(AXES, WIDTH[..., None] * [1.0, 2.0, 4.0]),
            Table(AXES, np.stack([np.ones_like(E), 0.1 + 0.02 * O, 0.02 * E**0.2], -1)),
        ),
        2e-6,
    ),
    "King": (KingPSF(Table(AXES, np.stack([WIDTH, 1.8 + 0.1 * O], -1))), 1e-4),
    "table": (TablePSF(*AXES, Axis(RAD), 7.0 * PROFILE), 1e-3),
}
NAMES = pytest.mark.parametrize("name", PSFS)
PLACES = [(0.1, 0.0), (0.17, 0.3), (2.2, 1.77), (29.0, 3.9)]


@eqx.filter_jit
def call(psf, method, energy, offset, x):
    energy, offset = jnp.broadcast_to(energy, x.shape), jnp.broadcast_to(offset, x.shape)
    return getattr(psf, method)(energy, offset, x)


def integral(density, rad):
    """Cumulative integral of 2 pi r P(r) dr [sr] by Gauss-Legendre panels, at the ends of the panels."""
    nodes, weights = np.polynomial.legendre.leggauss(5)
    half, middle = 0.5 * np.diff(rad), 0.5 * (rad[1:] + rad[:-1])
    at = middle[:, None] + half[:, None] * nodes
    value = np.asarray(density(jnp.asarray(at.ravel())), np.float64).reshape(at.shape)
    panels = (half[:, None] * weights * 2.0 * np.pi * at * value).sum(1) * np.radians(1.0) ** 2
    return np.concatenate([[0.0], np.cumsum(panels)])


@NAMES
@pytest.mark.parametrize("place", PLACES)
def test_density_containment_and_quantile_agree(name, place):
    psf, tolerance = PSFS[name]
    place = tuple(map(np.float32, place))
    # every second panel ends at a node of the table; King functions reach far
    rad = np.concatenate([np.linspace(0.0, 1.0, 801), np.geomspace(1.0, 1e4, 200)[1:]])
    cumulative = integral(lambda r: call(psf, "density", *place, r), rad)
    assert cumulative[-1] == pytest.approx(1.0, abs=1e-4)
    contained = np.asarray(call(psf, "containment", *place, jnp.asarray(rad)))
    np.testing.assert_allclose(contained, cumulative, atol=tolerance)
    assert contained[0] == 0 and np.all(np.diff(contained) >= -1e-6)
    probability = jnp.linspace(0.01, 0.99, 99)
    back = call(psf, "containment", *place, call(psf, "quantile", *place, probability))
    np.testing.assert_allclose(back, probability, atol=max(tolerance, 1e-5))


@NAMES
def test_samples_follow_the_density(name):
    psf, _ = PSFS[name]
    energy, offset = jnp.full(4000, 2.2), jnp.full(4000, 1.77)
    rad = np.asarray(eqx.filter_jit(psf.sample)(jax.random.key(1), energy, offset))
    fine = np.concatenate([np.linspace(0.0, 1.0, 801), np.geomspace(1.0, 1e4, 200)[1:]])
    cumulative = integral(lambda r: call(psf, "density", jnp.float32(2.2), jnp.float32(1.77), r), fine)
    assert kstest(rad, lambda r: np.interp(r, fine, cumulative)).pvalue > 1e-3


def test_gaussian_by_hand():
    psf, rad = PSFS["one Gaussian"][0], jnp.array([0.0, 0.05, 0.2])
    energy, offset = ENERGY[2], OFFSET[1]
    width = WIDTH[2, 1]
    expected = np.exp(-0.5 * (np.asarray(rad) / width) ** 2) / (2 * np.pi * np.radians(width) ** 2)
    np.testing.assert_allclose(call(psf, "density", energy, offset, rad), expected, rtol=1e-4)


def test_amplitudes_are_relative():
    # equal densities at the centre and widths 1 and 2: the photons divide as 1 to 4
    axes = Axis([0.0]), Axis([0.0])
    psf = GaussPSF(Table(axes, np.array([[[0.1, 0.2]]])), Table(axes, np.ones((1, 1, 2))))
    rad = jnp.array([0.1])
    expected = 0.2 * (1 - np.exp(-0.5)) + 0.8 * (1 - np.exp(-0.125))
    np.testing.assert_allclose(call(psf, "containment", 1.0, 0.0, rad), expected, rtol=1e-5)


def test_tables_without_events_stay_zero():
    profile = PROFILE.copy()
    profile[0] = 0.0
    psf = TablePSF(*AXES, Axis(RAD), profile)
    np.testing.assert_array_equal(call(psf, "density", 0.1, 1.0, jnp.array([0.0, 0.1, 0.5])), 0.0)


@pytest.mark.slow
@NAMES
@pytest.mark.parametrize("method", ["density", "containment", "quantile"])
def test_gradients(name, method):
    """First and second derivatives in energy, offset and radius (or probability) against finite differences."""
    with jax.enable_x64(True):
        psf = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), PSFS[name][0])
        # inside a cell of the tables in all three
        place = jnp.array([1.9, 1.77, 0.63 if method == "quantile" else 0.1013])

        def function(x):
            return getattr(psf, method)(x[:1], x[1:2], x[2:])[0]

        step = np.diag([1e-4, 1e-5, 1e-6])
        numeric = [(function(place + d) - function(place - d)) / (2.0 * d.max()) for d in step]
        np.testing.assert_allclose(jax.jit(jax.grad(function))(place), numeric, rtol=1e-4, atol=1e-7)
        curved = [(jax.grad(function)(place + d) - jax.grad(function)(place - d)) / (2.0 * d.max()) for d in step]
        scale = np.abs(curved).max()
        np.testing.assert_allclose(jax.jit(jax.hessian(function))(place), curved, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.slow
@NAMES
def test_quantiles_at_the_ends(name):
    psf, _ = PSFS[name]
    at = jnp.array([0.0, 1.0 - 2e-7])
    radius = call(psf, "quantile", jnp.float32(2.2), jnp.float32(1.77), at)
    assert radius[0] == 0.0 and np.all(np.isfinite(radius)) and radius[1] > 0.2
    slope = jax.vmap(jax.grad(lambda o: call(psf, "quantile", jnp.float32(2.2), o, at).sum()))(jnp.ones(1))
    assert np.all(np.isfinite(slope))
