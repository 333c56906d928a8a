import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gammajax as gj

MASS, COUPLING, THIRD = np.geomspace(0.1, 10.0, 5), np.array([0.01, 0.1, 1.0]), np.array([-1.0, 0.0, 2.0])


def model():
    m, c, t = np.meshgrid(MASS, COUPLING, THIRD, indexing="ij")
    # ln sigma_v is linear in ln m, ln c and t: the interpolation is exact
    total = 1e-26 * m**-1.5 * c**2 * np.exp(0.3 * t)
    share = 0.5 + 0.1 * np.log(m) + 0.02 * t
    axes = {"mass": MASS, "coupling": COUPLING, "third": THIRD}
    return gj.ParticleModel(axes, {"W": share * total, "b": (1 - share) * total}, units={"mass": "TeV"})


def test_three_dimensions():
    point = {"mass": 0.77, "coupling": 0.23, "third": 0.6}
    ratios = model().ratios(**point)
    assert float(ratios["W"]) == pytest.approx(0.5 + 0.1 * np.log(0.77) + 0.012, rel=1e-5)
    assert float(ratios["W"] + ratios["b"]) == pytest.approx(1.0, abs=1e-6)
    expected = 1e-26 * 0.77**-1.5 * 0.23**2 * np.exp(0.18)
    assert float(model().sigma_v(**point)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_gradients():
    with jax.enable_x64(True):
        table = model()

        def flux(p):
            point = {"mass": p[0], "coupling": p[1], "third": p[2]}
            spectrum = gj.DarkMatter(table.ratios(**point), mass=p[0], sigma_v=table.sigma_v(**point))
            return jnp.log(spectrum.integral(jnp.array([0.05, 0.2, 0.6]))).sum()

        at, h = jnp.array([0.77, 0.23, 0.6]), 1e-6
        value, gradient = jax.jit(flux), jax.jit(jax.grad(flux))(at)
        for n in range(3):
            step = jnp.zeros(3).at[n].set(h)
            expected = float(value(at + step) - value(at - step)) / (2 * h)
            assert float(gradient[n]) == pytest.approx(expected, rel=1e-6)


def test_nothing_annihilates_at_some_points():
    table = gj.ParticleModel({"mass": [0.1, 1.0, 10.0]}, {"W": [0.0, 0.0, 2e-26], "b": [0.0, 1e-26, 2e-26]})
    assert float(table.ratios(mass=0.1)["b"]) == pytest.approx(1.0)
    assert float(table.sigma_v(mass=0.1)) < 1e-37
    assert np.isfinite(float(table.sigma_v(mass=0.3)))


def test_two_components_are_a_sum():
    table = model()
    light = gj.DarkMatter(table.ratios(mass=0.3, coupling=0.1, third=0.0), mass=0.3, sigma_v=1e-26)
    heavy = gj.DarkMatter("b", mass=3.0, sigma_v=2e-26)
    edges = jnp.array([0.1, 0.29, 0.5, 2.9])
    total = (light + heavy).integral(edges)
    np.testing.assert_allclose(total, light.integral(edges) + heavy.integral(edges), rtol=1e-6)
    assert light.integral(edges)[1] > 0 and light.integral(edges)[2] == 0


def test_plot():
    import matplotlib.pyplot as plt

    ax = model().plot(coupling=0.1, third=0.0)
    assert ax.get_xlabel() == "mass [TeV]" and ax.get_xscale() == ax.get_yscale() == "log"
    curves = {line.get_label(): np.asarray(line.get_xydata(), float) for line in ax.get_lines()}
    mass, total = curves["total"].T
    np.testing.assert_allclose(total, 1e-28 * mass**-1.5, rtol=1e-4)
    np.testing.assert_allclose(curves["W"][:, 1] / total, 0.5 + 0.1 * np.log(mass), rtol=1e-4)
    assert model().plot(ax=ax, mass=1.0, coupling=0.1).get_xscale() == "linear"
    plt.close("all")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: gj.ParticleModel({"mass": [1.0, 0.5]}, {"W": [1.0, 1.0]}),
            "nodes of axis 'mass' must be finite and inc",
        ),
        (lambda: gj.ParticleModel({"mass": [0.5, 1.0]}, {"W": [1.0]}), "channel 'W' has shape"),
        (lambda: gj.ParticleModel({"mass": [0.5, 1.0]}, {"W": [1.0, -1.0]}), "must be finite and not negative"),
        (lambda: gj.ParticleModel({"mass": [0.5, 1.0]}, {"W": [0.0, 0.0]}), "all cross sections are zero"),
        (lambda: gj.ParticleModel({}, {}), "at least one axis and one channel"),
        (
            lambda: model().sigma_v(mass=20.0, coupling=0.1, third=0.0),
            "mass = 20 is outside the particle model's table, 0.1 to 10",
        ),
        (lambda: model().plot(mass=1.0), "a plot is against one of .'mass', 'coupling', 'third'.: give values of all"),
        (lambda: model().ratios(mass=1.0), "is given by \\['mass', 'coupling', 'third'\\], not \\['mass'\\]"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
