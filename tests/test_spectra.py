import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

import gammajax as gj
from gammajax.spectra import energy_edges

# relative tolerance of integrals in double precision: closed forms and tables 1e-9, Gauss-Legendre in bins of 0.3 dex
SPECTRA = {
    "power law": (gj.PowerLaw(2.3, 3e-12, 1.5), 1e-11),
    "hard power law": (gj.PowerLaw(-0.5), 1e-11),
    "power law of index one": (gj.PowerLaw(1.0), 1e-11),
    "power law near index one": (gj.PowerLaw(1.0001), 1e-11),
    "log parabola": (gj.LogParabola(2.2, 0.15, 3e-12, 1.5), 1e-9),
    "cut-off": (gj.ExponentialCutoffPowerLaw(1.8, 0.2, 3e-12, 1.5), 1e-9),
    "table": (gj.TabulatedSpectrum([0.2, 0.5, 1.1, 4.0, 20.0], [8e-12, 1e-12, 1.2e-12, 3e-14, 1e-16], 1.3), 1e-7),
    "table of index one": (gj.TabulatedSpectrum([0.2, 0.5, 1.0, 2.0, 20.0], [5e-12, 2e-12, 1e-12, 5e-13, 5e-14]), 1e-7),
    "b quarks": (gj.DarkMatter("b", mass=3.3), 1e-7),
}
EDGES = np.geomspace(0.05, 100.0, 12)
PADDED = np.append(EDGES, np.full(6, EDGES[-1]))  # bins of no width: one shape, one compilation
NAMES = pytest.mark.parametrize("name", SPECTRA)


def double(spectrum):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), spectrum)


@eqx.filter_jit
def integrate(spectrum, edges):
    return spectrum.integral(edges)


@eqx.filter_jit
def evaluate(spectrum, energy):
    return spectrum(energy)


def kinks(spectrum):
    """Energies where the spectrum is not smooth."""
    if isinstance(spectrum, gj.TabulatedSpectrum):
        return np.asarray(spectrum.energy)
    if isinstance(spectrum, gj.DarkMatter):
        from gammajax.darkmatter import yield_table

        return float(spectrum.mass) * 10.0 ** yield_table(spectrum.channel).log10_x
    return np.empty(0)


def host(spectrum, fine):
    """Values at the Gauss-Legendre nodes of panels, in numpy."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half, middle = 0.5 * np.diff(fine), 0.5 * (fine[1:] + fine[:-1])
    energy = middle[:, None] + half[:, None] * nodes
    values = np.asarray(evaluate(spectrum, jnp.asarray(energy.ravel()))).reshape(energy.shape)
    return (values * half[:, None] * weights).sum(1)


@NAMES
def test_integral_of_the_flux(name):
    spectrum, tolerance = SPECTRA[name]
    with jax.enable_x64(True):
        spectrum = double(spectrum)
        # panels of 1 % that end at the kinks
        fine = np.unique(np.concatenate([EDGES, np.geomspace(EDGES[0], EDGES[-1], 761), kinks(spectrum)]))
        fine = fine[(fine >= EDGES[0]) & (fine <= EDGES[-1])]
        panels = host(spectrum, fine)
        expected = np.add.reduceat(panels, np.searchsorted(fine, EDGES[:-1]))
        value = np.asarray(integrate(spectrum, jnp.asarray(PADDED)))[: expected.size]
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance * 1e-3 * expected.max())


@pytest.mark.parametrize("name", ["power law", "log parabola", "cut-off", "table"])
def test_integral_against_scipy(name):
    spectrum, _ = SPECTRA[name]
    formula = {
        "power law": lambda e: 3e-12 * (e / 1.5) ** -2.3,
        "log parabola": lambda e: 3e-12 * (e / 1.5) ** -(2.2 + 0.15 * np.log(e / 1.5)),
        "cut-off": lambda e: 3e-12 * (e / 1.5) ** -1.8 * np.exp(-0.2 * e),
        "table": lambda e: (
            1.3 * np.exp(np.interp(np.log(e), np.log(spectrum.energy), np.log(spectrum.flux), -np.inf, -np.inf))
        ),
    }[name]
    points = [e for e in (0.2, 0.5, 1.1, 4.0, 20.0) if name == "table"]
    expected = [
        quad(formula, a, b, points=[p for p in points if a < p < b] or None, epsrel=1e-10, epsabs=0, limit=200)[0]
        for a, b in zip(EDGES[:-1], EDGES[1:], strict=True)
        if 0.2 < a and b < 20.0
    ]
    value = np.asarray(integrate(spectrum, jnp.asarray(EDGES)))[(EDGES[:-1] > 0.2) & (EDGES[1:] < 20.0)]
    # in single precision
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@NAMES
@settings(max_examples=10, deadline=None, derandomize=True)
@given(cuts=st.lists(st.floats(0.05, 100.0), min_size=6, max_size=6))
def test_bins_add_up(name, cuts):
    spectrum, tolerance = SPECTRA[name]
    edges = np.sort(np.concatenate([EDGES, cuts]))
    with jax.enable_x64(True):
        parts = integrate(double(spectrum), jnp.asarray(edges))
        whole = integrate(double(spectrum), jnp.asarray(PADDED))
        assert parts.min() >= 0
        assert parts.sum() == pytest.approx(float(whole.sum()), rel=max(tolerance, 1e-10))


def weighted(spectrum, edges):
    # unequal weights: the gradient of a plain sum would not see photons that change bins
    return 1e12 * spectrum.integral(edges) @ jnp.linspace(1.0, 2.0, edges.size - 1)


gradient = eqx.filter_jit(eqx.filter_grad(weighted))
batch = eqx.filter_jit(eqx.filter_vmap(weighted, in_axes=(eqx.if_array(0), None)))


def check_gradients(spectrum, tolerance=1e-6, step=1e-6):
    """Central differences in every element of every leaf, evaluated as one batch."""
    edges = jnp.geomspace(0.071, 81.0, 40)
    leaves, structure = jax.tree.flatten(double(spectrum))
    elements = [(n, index) for n, leaf in enumerate(leaves) for index in np.ndindex(leaf.shape)]
    sizes = [step * max(abs(float(leaves[n][index])), 1e-2 * (leaves[n].ndim == 0)) for n, index in elements]
    moved = [np.repeat(np.asarray(leaf)[None], 2 * len(elements), 0) for leaf in leaves]
    for row, ((n, index), size) in enumerate(zip(elements, sizes, strict=True)):
        moved[n][(2 * row, *index)] += size
        moved[n][(2 * row + 1, *index)] -= size
    totals = np.asarray(batch(jax.tree.unflatten(structure, list(map(jnp.asarray, moved))), edges)).reshape(-1, 2)
    values = jax.tree.leaves(gradient(double(spectrum), edges))
    for (n, index), size, (above, below) in zip(elements, sizes, totals, strict=True):
        # the difference of nearly equal sums is known to some 1e-16 of the sum
        rounding = 4e-15 * abs(above) / size
        expected = (above - below) / (2.0 * size)
        assert float(values[n][index]) == pytest.approx(expected, rel=tolerance, abs=rounding), (n, index)


@NAMES
def test_gradient_in_every_parameter(name):
    with jax.enable_x64(True):
        check_gradients(SPECTRA[name][0])


@pytest.mark.parametrize("shift", [-1e-3, 0.0, 1e-3])
@pytest.mark.parametrize(("channel", "node"), [("b", 40), ("W", 45)])
def test_gradient_in_the_mass_about_nodes_of_the_table(channel, node, shift):
    from gammajax.darkmatter import yield_table

    with jax.enable_x64(True):
        mass = jnp.exp(jnp.asarray(yield_table(channel).log_mass[node]) + shift)
        check_gradients(gj.DarkMatter(channel, mass=mass))


def test_index_one():
    # the closed form has a removable singularity there
    edges = jnp.array([0.1, 1.0, 10.0])
    np.testing.assert_allclose(integrate(gj.PowerLaw(1.0, 2e-12), edges), 2e-12 * np.log(10.0), rtol=1e-6)
    near = [integrate(gj.PowerLaw(1.0 + d), edges)[0] for d in (-1e-4, 1e-4)]
    assert 0.5 * (near[0] + near[1]) == pytest.approx(1e-12 * np.log(10.0), rel=1e-6)


def test_a_table_is_zero_outside():
    spectrum = SPECTRA["table"][0]
    np.testing.assert_array_equal(evaluate(spectrum, jnp.array([0.19, 20.1])), 0.0)
    np.testing.assert_array_equal(integrate(spectrum, jnp.array([0.01, 0.1, 0.19])), 0.0)
    # inside by the last bit of single precision
    inside = np.asarray(spectrum.energy) * [1 + 1e-6, 1, 1, 1, 1 - 1e-6]
    np.testing.assert_allclose(evaluate(spectrum, jnp.asarray(inside)), 1.3 * np.asarray(spectrum.flux), rtol=1e-4)


@pytest.mark.parametrize(
    ("energy", "flux", "message"),
    [
        ([1.0], [1.0], "at least two"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "equally many"),
        ([1.0, 1.0], [1.0, 1.0], "increasing"),
        ([0.0, 1.0], [1.0, 1.0], "positive, finite and increasing"),
        ([1.0, np.nan], [1.0, 1.0], "positive, finite and increasing"),
        ([1.0, 2.0], [1.0, 0.0], "fluxes of a tabulated spectrum must be positive"),
        ([1.0, 2.0], [1.0, np.inf], "fluxes of a tabulated spectrum must be positive"),
    ],
)
def test_bad_tables(energy, flux, message):
    with pytest.raises(ValueError, match=message):
        gj.TabulatedSpectrum(energy, flux)


def test_energy_edges():
    edges = energy_edges(0.1, 10.0, 5.0)
    assert edges.size == 11 and edges[0] == 0.1 and edges[-1] == pytest.approx(10.0)
    assert energy_edges(0.1, 10.1, 5.0)[-1] > 10.1
