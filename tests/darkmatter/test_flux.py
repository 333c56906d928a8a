import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gammajax as gj
from gammajax.darkmatter import channels, yield_table


def density(table, log_mass, u):
    return jax.jit(lambda log_mass, u: table.evaluate(log_mass, u))(log_mass, u)


@eqx.filter_jit
def evaluate(spectrum, energy):
    return spectrum(energy)


@pytest.mark.parametrize(("channel", "mass"), [("b", 0.3), ("W", 5.0), ("tau", 1.27), ("mu", 33.0), ("t", 2.4)])
def test_against_gammapy(gammapy_data, channel, mass):
    from astropy import units as u
    from gammapy.astro.darkmatter import PrimaryFlux

    flux = PrimaryFlux(mDM=mass * u.TeV, channel=channel)
    # gammapy moves the mass to the next one in the table
    mass = flux.mDM.to_value("TeV")
    log10_x = np.linspace(-3.0, -0.02, 60)
    energy = mass * 10.0**log10_x
    expected = flux(energy * u.TeV).to_value("TeV-1").ravel() * energy * np.log(10.0)
    value, _ = density(yield_table(channel), np.log(mass), jnp.asarray(log10_x))
    seen = expected > 1e-3
    assert seen.sum() > 20
    np.testing.assert_allclose(np.asarray(value)[seen], expected[seen], rtol=0.01)


@pytest.mark.parametrize("channel", ["W", "gamma"])
def test_photons_are_conserved(channel):
    spectrum = gj.DarkMatter(channel, mass=4.2)
    table = yield_table(channel)
    edges = 4.2 * 10.0 ** np.linspace(table.log10_x[0] - 0.5, 0.5, 400)
    with jax.enable_x64(True):
        total = eqx.filter_jit(spectrum.integral)(jnp.asarray(edges)).sum()
        annihilations = 2.2e-26 * 1e23 / (8.0 * np.pi * 4200.0**2)
        fine = np.linspace(table.log10_x[0], 0.0, 40001)
        values, above = density(table, np.log(4.2), jnp.asarray(fine))
        counted = np.trapezoid(np.asarray(values), fine)
    assert float(total) == pytest.approx(annihilations * float(above[0]), rel=1e-9)
    assert float(above[0]) == pytest.approx(counted, rel=1e-3)


def test_yield_is_above_minus_its_slope():
    table = yield_table("b")
    u = jnp.asarray(np.random.default_rng(0).uniform(-4.0, -0.1, 50))
    with jax.enable_x64(True):
        u = u.astype(float)
        value, _ = density(table, np.log(1.7), u)
        slope = jax.jit(jax.grad(lambda u: table.evaluate(jnp.log(1.7), u)[1].sum()))(u)
    np.testing.assert_allclose(value, -slope, rtol=1e-9)


def test_nothing_above_the_mass():
    spectrum = gj.DarkMatter("tau", mass=1.0)
    np.testing.assert_array_equal(evaluate(spectrum, jnp.array([1.01, 5.0])), 0.0)
    assert eqx.filter_jit(spectrum.integral)(jnp.array([1.0, 2.0]))[0] == 0


def test_flux_follows_the_cross_section_and_j_factor():
    energy = jnp.array([0.1, 0.5])
    one = evaluate(gj.DarkMatter("b", mass=1.0), energy)
    np.testing.assert_allclose(evaluate(gj.DarkMatter("b", mass=1.0, sigma_v=6.6e-26), energy), 3.0 * one, rtol=1e-5)
    np.testing.assert_allclose(evaluate(gj.DarkMatter("b", mass=1.0, j_factor=2e23), energy), 2.0 * one, rtol=1e-5)


def test_unknown_channel_lists_the_channels():
    with pytest.raises(ValueError, match="unknown annihilation channel 'bb'; the channels are .*b, .*tau"):
        gj.DarkMatter("bb", mass=1.0)
    assert {"b", "t", "W", "Z", "tau", "mu", "e", "gamma", "h"} <= set(channels())


@pytest.mark.parametrize(("channel", "mass"), [("W", 0.05), ("t", 0.1), ("b", 0.001), ("b", 200.0)])
def test_mass_outside_the_table(channel, mass):
    low = float(np.exp(yield_table(channel).log_mass[0]))
    with pytest.raises(ValueError, match=f"mass {mass:g} TeV is outside the table of channel '{channel}', {low:g} to"):
        gj.DarkMatter(channel, mass=mass)


def test_threshold_of_a_pair():
    # the lightest mass is the first in the table above that of the particle (80 and 173 GeV)
    assert 0.08 <= np.exp(yield_table("W").log_mass[0]) <= 0.1
    assert 0.17 <= np.exp(yield_table("t").log_mass[0]) <= 0.2
