import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gammajax as gj
from gammajax.model.darkmatter import channels, yield_table


def density(table, log_mass, u):
    return jax.jit(lambda log_mass, u: table.evaluate(log_mass, u))(log_mass, u)


@eqx.filter_jit
def evaluate(spectrum, energy):
    return spectrum(energy)


@pytest.mark.parametrize(("channel", "mass"), [("b", 0.3), ("W", 5.0), ("tau", 1.27), ("mu", 33.0), ("t", 2.4)])
def test_against_gammapy(gammapy_data, channel, mass):
    from astropy import units as u
    from gammapy.astro.darkmatter import PrimaryFlux

    flux = PrimaryFlux(mDM=mass * u.TeV, channel=channel, source="pppc4")
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
    # the lightest mass is the first in the table above the particle's mass (80 and 173 GeV)
    assert 0.08 <= np.exp(yield_table("W").log_mass[0]) <= 0.1
    assert 0.17 <= np.exp(yield_table("t").log_mass[0]) <= 0.2


@pytest.fixture(scope="module")
def pppc(gammapy_data):
    return gj.io.read_yields(gammapy_data / "dark_matter_spectra/PPPC4DMID/AtProduction_gammas.dat")


@pytest.mark.parametrize(("channel", "mass"), [("b", 2.0), ("W", 1.0), ("tau", 10.0)])
@pytest.mark.parametrize("decay", [False, True])
def test_flux_against_gammapy(pppc, channel, mass, decay, dark_matter_of_gammapy):
    from astropy import units as u

    x = 10.0 ** pppc.log10_x[60:-5:7]  # gammapy has no other nodes in x either
    if decay:
        model = dark_matter_of_gammapy("Decay", mass, channel, 1e21)
        rate = 1.0 / model.LIFETIME_AGE_OF_UNIVERSE.to_value("s")
        energy = 0.5 * mass * x
        ours = gj.DarkMatterDecay(channel, mass, rate, 1e21, yields=pppc)
    else:
        model = dark_matter_of_gammapy("Annihilation", mass, channel, 1e21)
        energy = mass * x
        ours = gj.DarkMatter(channel, mass, 3e-26, 1e21, yields=pppc)
    expected = model(energy * u.TeV).to_value("TeV-1 cm-2 s-1").ravel()
    with jax.enable_x64(True):
        value = np.asarray(evaluate(ours, jnp.asarray(energy)))
    assert (expected > 0).sum() > 5
    np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-6 * expected.max())


def test_a_mixture_is_the_sum_of_its_channels():
    energy = jnp.geomspace(0.05, 1.9, 20)
    ratios = {"W": 0.5, "b": 0.2, "tau": 0.2, "invisible": 0.1}
    parts = sum(
        0.0 if name == "invisible" else r * evaluate(gj.DarkMatter(name, 2.0), energy) for name, r in ratios.items()
    )
    np.testing.assert_allclose(evaluate(gj.DarkMatter(ratios, 2.0), energy), parts, rtol=1e-5)
    edges = jnp.array([0.1, 0.5, 2.0])
    whole = eqx.filter_jit(gj.DarkMatter({"W": 1.0, "b": 0.0}, 2.0).integral)(edges)
    np.testing.assert_allclose(whole, eqx.filter_jit(gj.DarkMatter("W", 2.0).integral)(edges), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [-1e-3, 0.0])
def test_gradient_in_ratios_and_mass(shift):
    # about a node of the table
    edges = jnp.geomspace(0.07, 8.0, 12)

    def total(r, log_mass, decay):
        ratios = {"W": r[0], "b": r[1], "tau": r[2]}
        if decay:
            flux = gj.DarkMatterDecay(ratios, 2.0 * jnp.exp(log_mass), 1e-27, 2e23)
        else:
            flux = gj.DarkMatter(ratios, jnp.exp(log_mass))
        return jnp.log(flux.integral(edges)[:6]) @ jnp.linspace(1.0, 2.0, 6)

    with jax.enable_x64(True):
        r, m = jnp.array([0.5, 0.3, 0.2]), jnp.asarray(yield_table("W").log_mass[45] + shift)
        for decay in (False, True):
            value, gradient = jax.jit(total, static_argnums=2), jax.jit(jax.grad(total, (0, 1)), static_argnums=2)
            in_r, in_m = gradient(r, m, decay)
            h = 1e-6
            for n in range(3):
                d = jnp.zeros(3).at[n].set(h)
                expected = float(value(r + d, m, decay) - value(r - d, m, decay)) / (2 * h)
                assert float(in_r[n]) == pytest.approx(expected, rel=1e-6)
            expected = float(value(r, m + h, decay) - value(r, m - h, decay)) / (2 * h)
            assert float(in_m) == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_ratios_with_a_dirichlet_prior():
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer.util import log_density

    edges = jnp.array([0.1, 0.3, 1.0])

    def model():
        r = numpyro.sample("r", dist.Dirichlet(jnp.ones(3)))
        flux = gj.DarkMatter({"W": r[0], "b": r[1], "tau": r[2]}, mass=2.0).integral(edges)
        numpyro.factor("flux", jnp.log(flux).sum())

    values = jax.jit(jax.grad(lambda r: log_density(model, (), {}, {"r": r})[0]))(jnp.array([0.5, 0.3, 0.2]))
    assert np.all(np.isfinite(values)) and np.all(np.abs(values) > 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gj.DarkMatter("b", mass=-1.0), "mass of a DarkMatter must be positive, it is -1"),
        (lambda: gj.DarkMatter({"W": 0.5, "b": 0.4}, 1.0), "the branching ratios add up to 0.9, not to one"),
        (lambda: gj.DarkMatter({"W": 1.5, "b": -0.5}, 1.0), "branching ratios must not be negative"),
        (lambda: gj.DarkMatter({"W": 0.5, "bb": 0.5}, 1.0), "unknown annihilation channel 'bb'; the channels are e_L"),
        (lambda: gj.DarkMatter({"W": 0.5, "b": 0.5}, 0.05), "mass 0.05 TeV is outside the table of channel 'W'"),
        (lambda: gj.DarkMatter({}, 1.0), "channel must be a name or a dict of names and branching ratios"),
        # a pair of W needs twice the mass of one
        (lambda: gj.DarkMatterDecay("W", 0.15), "mass 0.15 TeV is outside the table of channel 'W', 0.18 to 200 TeV"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
