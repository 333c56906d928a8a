import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

import gammajax as gj
from gammajax.engines.energy import EnergyNodes
from gammajax.model.lines import PROFILE
from gammajax.model.spectra import energy_edges

ABSORPTION = gj.Absorption(
    [0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 110.0],
    [0.05, 0.2, 0.5],
    np.outer([0.25, 1.0, 3.0], [0.002, 0.03, 0.3, 1.2, 2.5, 6.0, 20.0, 60.0]),
    redshift=0.14,
    alpha_norm=0.9,
)
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
    "broken power law": (gj.BrokenPowerLaw(1.6, 2.9, 3e-12, 1.7), 1e-11),
    # the bend takes 0.1 / 1.3 in ln E, and gradients of its second derivative enter
    "smooth break": (gj.SmoothBrokenPowerLaw(1.6, 2.9, 3e-12, 1.7, 1.2, 0.3), 1e-9),
    "smooth hardening": (gj.SmoothBrokenPowerLaw(2.9, 1.6, 3e-12, 1.7, 1.2, 1.0), 1e-9),
    "sharp cut-off": (gj.ExponentialCutoffPowerLaw(1.8, 0.1, 3e-12, 1.5, 1.7), 1e-9),
    "pulsar": (gj.SuperExponentialCutoffPowerLaw4FGL(3e-12, 0.5, 4e-4, 1.4, 0.5), 1e-9),
    "Gaussian line": (gj.GaussianLine(2e-12, 3.1, 0.4), 1e-9),
    "narrow Gaussian line": (gj.GaussianLine(2e-12, 3.1, 0.004), 1e-9),
    # a peak of 1 % against bins of 70 %: its profile as a function is for bins of 0.58 %
    "line": (gj.Line(2.3, 2e-12), 1e-9),
    "sum": (gj.PowerLaw(2.3, 3e-12, 1.5) + gj.Line(2.3, 2e-12) + 0.5 * gj.LogParabola(2.2, 0.15), 1e-9),
    "rescaled": (gj.RescaledSpectrum(gj.LogParabola(2.2, 0.15, 3e-12, 1.5), 0.1), 1e-9),
    "steps": (gj.SteppedSpectrum(gj.LogParabola(2.2, 0.15, 3e-12, 1.5), [0.3, 1.1, 4.0], [0.5, 2.0, 0.0, 1.5]), 1e-9),
    "number times power law": (np.float64(2.5) * gj.PowerLaw(2.3), 1e-11),
    "product": (gj.LogParabola(2.2, 0.15, 3e-12, 1.5) * gj.PowerLaw(0.3, 1.3), 1e-9),
    # optical depth is not smooth at its nodes, and grows to 9 within a bin: 12 points see a kink to 1e-3
    "absorbed": (gj.PowerLaw(2.3, 3e-12, 1.5) * ABSORPTION, 3e-3),
    "absorbed line": (gj.Line(2.3, 2e-12) * ABSORPTION, 2e-2),
    # sixteenths of a bin, 4 % wide: second order in that times the slopes
    "absorbed broken power law": (gj.BrokenPowerLaw(1.6, 2.9, 3e-12, 1.7) * ABSORPTION, 3e-3),
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
        from gammajax.model.darkmatter import yield_table

        return float(spectrum.mass) * 10.0 ** yield_table(spectrum.channel).log10_x
    if isinstance(spectrum, gj.BrokenPowerLaw):
        return np.asarray([spectrum.ebreak], float)
    if isinstance(spectrum, gj.GaussianLine):
        return float(spectrum.mean) + float(spectrum.sigma) * np.linspace(-10.0, 10.0, 81)
    if isinstance(spectrum, gj.Line):
        return float(spectrum.energy) * np.exp(PROFILE * np.array([-1.5, -0.5, 0.5, 1.5]))
    if isinstance(spectrum, gj.SumSpectrum):
        return np.concatenate([kinks(part) for part in spectrum.parts])
    if isinstance(spectrum, gj.SteppedSpectrum):
        return np.concatenate([kinks(spectrum.spectrum), np.asarray(spectrum.edges, float)])
    if isinstance(spectrum, gj.ProductSpectrum):
        return np.concatenate([kinks(spectrum.spectrum), kinks(spectrum.factor)])
    return np.asarray(spectrum.energy, float) if isinstance(spectrum, gj.Absorption) else np.empty(0)


def host(spectrum, fine):
    """Values at the Gauss-Legendre nodes of panels, in numpy."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half, middle = 0.5 * np.diff(fine), 0.5 * (fine[1:] + fine[:-1])
    energy = middle[:, None] + half[:, None] * nodes
    values = np.asarray(evaluate(spectrum, jnp.asarray(energy.ravel()))).reshape(energy.shape)
    return (values * half[:, None] * weights).sum(1)


@pytest.mark.slow
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
    values = [abs(float(leaves[n][index])) for n, index in elements]
    # small parameters that are one number are of order 1e-2; elements of a table are not, but for zeros
    sizes = [
        step * max(value, 1e-2 * (leaves[n].ndim == 0 or value == 0.0))
        for (n, _), value in zip(elements, values, strict=True)
    ]
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


@pytest.mark.slow
@NAMES
def test_gradient_in_every_parameter(name):
    with jax.enable_x64(True):
        check_gradients(SPECTRA[name][0])


@pytest.mark.parametrize("shift", [-1e-3, 0.0, 1e-3])
@pytest.mark.parametrize(("channel", "node"), [("b", 40), ("W", 45)])
def test_gradient_in_the_mass_about_nodes_of_the_table(channel, node, shift):
    from gammajax.model.darkmatter import yield_table

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


GAMMAPY = {
    "broken power law": ("BrokenPowerLawSpectralModel", {}),
    "smooth break": ("SmoothBrokenPowerLawSpectralModel", {}),
    "smooth hardening": ("SmoothBrokenPowerLawSpectralModel", {}),
    "log parabola": ("LogParabolaSpectralModel", {}),
    "cut-off": ("ExpCutoffPowerLawSpectralModel", {}),
    "sharp cut-off": ("ExpCutoffPowerLawSpectralModel", {}),
    "pulsar": ("SuperExpCutoffPowerLaw4FGLSpectralModel", {}),
    "Gaussian line": ("GaussianSpectralModel", {}),
}


@pytest.mark.parametrize("name", GAMMAPY)
def test_against_gammapy(name):
    from gammapy.modeling import models

    spectrum = SPECTRA[name][0]
    model = getattr(models, GAMMAPY[name][0])()
    for parameter in model.parameters:
        parameter.value = float(getattr(spectrum, parameter.name))
    energy = np.geomspace(0.1, 50.0, 40)
    with jax.enable_x64(True):
        value = np.asarray(evaluate(double(spectrum), jnp.asarray(energy)))
    expected = model(energy * u.TeV).to_value("TeV-1 cm-2 s-1")
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-300)


def nearby(spectrum, per_decade=50.0):
    """Counts at true-energy nodes, weighted with a 10 % response at 3.2 TeV, and their sum."""
    nodes = EnergyNodes(1.0, 10.0, per_decade)
    response = jnp.exp(-0.5 * (jnp.log(nodes.sub_energy / 3.2) / 0.1) ** 2)
    flux = nodes.flux(spectrum)
    return (nodes.project @ response) @ flux, flux.sum()


@pytest.mark.slow
def test_counts_of_a_line_follow_its_energy():
    # a response 10 % wide: exp(-x^2 / 2) and its derivatives in ln E
    with jax.enable_x64(True):
        log_energy = np.log(3.1) + np.linspace(0.0, 0.0116, 9)  # over two sub-bins

        def seen(x):
            return 1e12 * nearby(gj.Line(jnp.exp(x), 1e-12))[0]

        value, slope, bend = (jax.jit(jax.vmap(f))(log_energy) for f in (seen, jax.grad(seen), jax.hessian(seen)))
        x = (log_energy - np.log(3.2)) / 0.1
        expected = np.exp(-0.5 * x**2)
        # errors: 6e-4 from the line's width (a third of the squared sub-bin), as much from nodes half a width apart
        np.testing.assert_allclose(value, expected, rtol=2e-3)
        np.testing.assert_allclose(slope, -x * expected / 0.1, rtol=2e-2, atol=0.15)
        np.testing.assert_allclose(bend, (x**2 - 1.0) * expected / 0.1**2, rtol=0.1, atol=5.0)
        totals = jax.vmap(lambda x: nearby(gj.Line(jnp.exp(x), 1e-12))[1])(log_energy)
        np.testing.assert_allclose(totals, 1e-12, rtol=1e-12)


@pytest.mark.parametrize("energy", [1.9, 3.1, 3.108, 7.0])
def test_a_line_keeps_its_photons_and_its_place(energy):
    with jax.enable_x64(True):
        edges = jnp.geomspace(1.0, 10.0, 401)
        bins = np.asarray(integrate(double(gj.Line(energy, 2e-12)), edges))
    assert bins.sum() == pytest.approx(2e-12, rel=1e-12)
    assert bins.min() == 0.0 and (bins > 0).sum() <= 4
    middle = 0.5 * np.log(edges[1:] * edges[:-1])
    assert (bins * middle).sum() / bins.sum() == pytest.approx(np.log(energy), abs=1e-12)
    # wide bins hold the photons where they are
    one = np.asarray(integrate(gj.Line(energy, 2e-12), jnp.array([0.5, 1.5, 9.0])))
    np.testing.assert_allclose(one, [0.0, 2e-12], rtol=1e-6)


def test_sums_and_products():
    a, b = gj.PowerLaw(2.0), gj.LogParabola(2.0, 0.1)
    energy = jnp.geomspace(0.1, 10.0, 5)
    np.testing.assert_allclose(evaluate(sum([a, b, a]), energy), 2.0 * a(energy) + b(energy), rtol=1e-6)
    for product in (3.0 * a, a * 3, np.float32(3.0) * a, jnp.asarray(3.0) * a):
        assert isinstance(product, gj.ProductSpectrum)
        np.testing.assert_allclose(evaluate(product, energy), 3.0 * a(energy), rtol=1e-6)
    # a factor over a sum, and over a product
    edges = jnp.geomspace(0.1, 10.0, 30)
    whole = integrate((a + 2.0 * b) * ABSORPTION, edges)
    parts = integrate(a * ABSORPTION, edges) + 2.0 * integrate(b * ABSORPTION, edges)
    np.testing.assert_allclose(whole, parts, rtol=1e-5)
    for bad in (a, "x", None, [1.0]):
        with pytest.raises(TypeError):
            bad + 1.0 * a if bad is not a else a + 1.0
        if bad is not a:
            with pytest.raises(TypeError):
                a * bad


def test_absorption_against_gammapy():
    from gammapy.modeling.models import EBLAbsorptionNormSpectralModel

    tau = np.asarray(ABSORPTION.optical_depth, float)
    grid = np.asarray(ABSORPTION.redshift_grid, float)
    assert grid[0] == 0.0
    model = EBLAbsorptionNormSpectralModel(
        np.asarray(ABSORPTION.energy, float) * u.TeV, grid, np.exp(-tau), redshift=0.14, alpha_norm=0.9
    )
    energy = np.geomspace(0.05, 20.0, 50)
    expected = model(energy * u.TeV).to_value("")
    np.testing.assert_allclose(evaluate(ABSORPTION, jnp.asarray(energy)), expected, rtol=2e-5)


@pytest.mark.slow
def test_fine_bins_of_an_absorbed_spectrum():
    # 400 bins per decade, as the profile of a line
    edges = np.geomspace(0.1, 30.0, 991)
    with jax.enable_x64(True):
        for name in ("absorbed", "absorbed broken power law"):
            spectrum = double(SPECTRA[name][0])
            inside = [kink for kink in kinks(spectrum) if edges[0] < kink < edges[-1]]
            fine = np.unique(np.concatenate([edges, inside]))
            expected = np.add.reduceat(host(spectrum, fine), np.searchsorted(fine, edges[:-1]))
            value = integrate(spectrum, jnp.asarray(edges))
            # a bin with a kink of the optical depth, 2 % in slope, is known to 4e-5
            np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gj.GaussianLine(1e-12, 1.0, -0.1), "sigma of a GaussianLine must be positive"),
        (lambda: gj.Line(0.0), "energy of a Line must be positive"),
        (lambda: gj.BrokenPowerLaw(2.0, 3.0, ebreak=-1.0), "ebreak of a BrokenPowerLaw must be positive"),
        (lambda: gj.SmoothBrokenPowerLaw(2.0, 3.0, beta=0.0), "beta of a SmoothBrokenPowerLaw must be positive"),
        (lambda: gj.ExponentialCutoffPowerLaw(2.0, 0.1, alpha=0.0), "alpha of a Exp"),
        (lambda: gj.SuperExponentialCutoffPowerLaw4FGL(reference=np.nan), "reference of a Super"),
        (lambda: gj.SumSpectrum(()), "at least one"),
        (lambda: gj.Absorption([1.0, 2.0], [0.1], [[0.1]], 0.1), "must have shape"),
        (lambda: gj.Absorption([2.0, 1.0], [0.1], [[0.1, 0.2]], 0.1), "energies of an absorption table must be incr"),
        (lambda: gj.Absorption([0.0, 1.0], [0.1], [[0.1, 0.2]], 0.1), "must be positive"),
        (lambda: gj.Absorption([1.0, 2.0], [0.1, 0.1], np.ones((2, 2)), 0.1), "redshifts of an absorption table"),
        (lambda: gj.Absorption([1.0, 2.0], [0.1], [[-0.1, 0.2]], 0.1), "finite and not negative"),
        (lambda: gj.Absorption([1.0, 2.0], [0.0], [[0.1, 0.2]], 0.0), "a redshift above zero"),
        (lambda: gj.Absorption([1.0, 2.0], [0.1], [[0.1, 0.2]], 0.2), "redshift 0.2.* is outside"),
        (lambda: gj.Absorption([1.0, 2.0], [0.1], [[0.1, 0.2]], 0.05, -1.0), "alpha_norm must not be negative"),
        (lambda: gj.PowerLaw(2.0).plot((2.0, 1.0)), "two increasing positive energies"),
        (lambda: gj.PowerLaw(2.0, 5e-15 * u.Unit("cm-2 s-1 GeV-1")), "5e-15 1 / .* has a unit; sources take plain"),
        (lambda: gj.Gaussian(83.6, 22.0, 12.0 * u.arcmin), "12.0 arcmin has a unit"),
        (lambda: gj.TabulatedSpectrum([1.0, 2.0] * u.GeV, [1.0, 1.0]), "GeV has a unit"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_plot():
    import matplotlib.pyplot as plt

    ax = SPECTRA["sum"][0].plot((0.1, 50.0), label="sum")
    assert gj.PowerLaw(2.0).plot((0.1, 50.0), ax=ax, energy_power=2) is ax
    assert ax.get_xlabel() == "energy [TeV]" and ax.get_ylabel() == "$E^{2}$ $dN/dE$ [TeV cm$^{-2}$ s$^{-1}$]"
    # a power law of index two is flat
    assert np.ptp(ax.get_lines()[1].get_ydata()) < 1e-4 * 1e-12
    assert gj.PowerLaw(2.0).plot((1, 2), energy_power=0).get_ylabel() == "$dN/dE$ [TeV$^{-1}$ cm$^{-2}$ s$^{-1}$]"
    # a power law of index zero times the transmission is the transmission
    energy, transmission = ABSORPTION.plot((0.1, 10.0)).get_lines()[0].get_data()
    left = (gj.PowerLaw(0.0, 1.0) * ABSORPTION)(jnp.asarray(energy))
    np.testing.assert_allclose(transmission, left, rtol=1e-5)
    plt.close("all")
