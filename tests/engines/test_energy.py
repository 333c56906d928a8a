import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gammajax as gj
from gammajax.engines.energy import SUB_BINS, EnergyNodes

SPECTRA = {
    "power law": gj.PowerLaw(2.3),
    "log parabola": gj.LogParabola(2.2, 0.15),
    "cut-off": gj.ExponentialCutoffPowerLaw(1.8, 0.2),
    "table": gj.TabulatedSpectrum([0.2, 4.0], [8e-12, 3e-14]),
    "annihilation": gj.DarkMatter("b", mass=3.3),
    # a line, 2 % wide
    "line": gj.TabulatedSpectrum([1.0, 1.02], [1e-10, 1e-10]),
}


@pytest.fixture(scope="module")
def nodes():
    return EnergyNodes(0.1, 10.0, 20.0)


@eqx.filter_jit
def flux_and_integral(nodes, spectrum):
    return nodes.flux(spectrum), spectrum.integral(nodes.edges)


@pytest.mark.parametrize("name", SPECTRA)
def test_photons_are_conserved(nodes, name):
    shared, whole = (np.asarray(f, np.float64).sum() for f in flux_and_integral(nodes, SPECTRA[name]))
    assert shared == pytest.approx(whole, rel=1e-6)


def test_nodes(nodes):
    energy = np.asarray(nodes.energy, np.float64)
    assert energy.size == 41 and energy[0] == pytest.approx(0.1) and energy[-1] == pytest.approx(10.0)
    assert nodes.edges.size == 40 * SUB_BINS + 1
    np.testing.assert_allclose(np.diff(np.log(energy)), nodes.log_step, rtol=1e-4)
    # a range shorter than the stencil still gets four nodes
    assert EnergyNodes(1.0, 1.01, 20.0).energy.size == 4


def test_shares_are_the_transpose_of_cubic_interpolation(nodes):
    share, position = np.asarray(nodes.share, np.float64), (np.arange(40 * SUB_BINS) + 0.5) / SUB_BINS
    for power in range(4):
        np.testing.assert_allclose((np.arange(41) / 40.0) ** power @ share, (position / 40.0) ** power, atol=2e-6)


def test_projection_is_a_left_inverse_of_sharing(nodes):
    # of the response to a constant dispersion: one; of a cubic at the sub-bins: its values at the nodes
    project, position = np.asarray(nodes.project, np.float64), (np.arange(40 * SUB_BINS) + 0.5) / SUB_BINS / 40.0
    np.testing.assert_allclose(project.sum(1), 1.0, atol=2e-6)
    np.testing.assert_allclose(project @ position**3, (np.arange(41) / 40.0) ** 3, atol=2e-6)


def test_a_moving_line_is_differentiable():
    with jax.enable_x64(True):
        nodes = EnergyNodes(0.1, 10.0, 20.0)

        @jax.jit
        def mean(energy):
            line = gj.TabulatedSpectrum([1.0, 1.002], [1.0, 1.0])
            line = eqx.tree_at(lambda s: s.energy, line, energy * jnp.array([1.0, 1.002]))
            shared = nodes.flux(line)
            return shared @ jnp.log(nodes.energy) / shared.sum()

        slope = jax.jit(jax.grad(mean))
        # within a sub-bin, across the edge of one, and across a node
        for bin_ in (4.5, 5.0, 8.0):
            energy = 0.1 * 10.0 ** (bin_ / (20.0 * SUB_BINS)) * 0.999
            # photons count at the middles of the sub-bins
            assert mean(energy) == pytest.approx(np.log(energy), abs=0.6 * nodes.log_step / SUB_BINS)
            expected = float(mean(energy + 1e-7) - mean(energy - 1e-7)) / 2e-7
            assert float(slope(energy)) == pytest.approx(expected, rel=1e-6, abs=1e-6)
            assert (abs(expected) > 1.0) == (bin_ != 4.5)
