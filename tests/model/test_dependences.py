"""Law: an engine sees every parameter of its component, for any values at the ends of the priors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj
from gammajax.engines import FixedEngine, FoldEngine, KernelEngine
from gammajax.model.dependences import dependence

A, B = jnp.asarray(0.0), jnp.asarray(0.0)  # products and steps have no slope here
SPECTRUM = gj.PowerLaw(2.0, 1e-12)


class Steep(gj.model.spectra.Spectrum):
    """A user's spectrum, with a function for its index."""

    index: object

    def __call__(self, energy):
        return 1e-12 * energy ** -self.index()

    def integral(self, edges):
        return jnp.diff(edges) * self(jnp.sqrt(edges[1:] * edges[:-1]))


class Softening(eqx.Module):
    strength: jax.Array

    def __call__(self, energy):
        return jnp.exp(-self.strength * energy)


def local_class(p):
    class Local(Steep):
        def __call__(self, energy):
            return 1e-12 * energy ** -p["a"]

    return Local(None)


# spectrum of a and b: parameters it depends on
SPECTRA = {
    "nothing": (lambda p: SPECTRUM, ""),
    "a number": (lambda p: gj.PowerLaw(p["a"]), "a"),
    "a product": (lambda p: gj.PowerLaw(2.0 + p["a"] * p["b"]), "ab"),
    "a remainder": (lambda p: gj.PowerLaw(p["a"] % 1.0), "a"),
    "a step": (lambda p: gj.PowerLaw(jnp.floor(p["a"])), "a"),
    "a window": (lambda p: gj.PowerLaw(jnp.where((p["b"] > 0.05) & (p["b"] < 0.06), 3.0, 2.0)), "b"),
    "a branch": (lambda p: gj.PowerLaw(jax.lax.cond(p["a"] > 5.0, lambda: 3.0, lambda: 2.0)), "a"),
    "a loop": (lambda p: gj.PowerLaw(jax.lax.fori_loop(0, 3, lambda _, x: x + p["b"], 1.0)), "b"),
    "a compiled function": (lambda p: gj.PowerLaw(jax.jit(lambda a, b: b**2)(p["a"], p["b"])), "b"),
    "a constant beside one": (lambda p: gj.PowerLaw(jnp.sin(1.0) + 0.0 * jnp.ones(3).sum()), ""),
    "periodic": (lambda p: gj.PowerLaw(jnp.sin(2.0 * jnp.pi * p["a"])), "a"),
    "a product with zero": (lambda p: gj.PowerLaw(2.0 + 0.0 * p["a"]), "a"),
    "a table": (lambda p: gj.TabulatedSpectrum([0.1, 1.0, 10.0], jnp.exp(p["b"] * jnp.arange(3.0))), "b"),
    "a sum": (lambda p: SPECTRUM + gj.Line(1.0 + 0.1 * p["b"]), "b"),
    "a factor": (lambda p: SPECTRUM * Softening(p["a"]), "a"),
    "a channel": (lambda p: gj.DarkMatter({"W": p["a"], "b": 1.0 - p["a"]}, mass=1.0), "a"),
    "a closure": (lambda p: Steep(lambda: p["a"]), "a"),
    "a closure without": (lambda p: Steep(lambda: 2.0), ""),
    "a local class": (local_class, "a"),
}
MORPHOLOGIES = {
    "nothing": (lambda p: gj.Point(0.3, 0.0), ""),
    "an angle": (lambda p: gj.Gaussian(0.0, 0.0, 0.1, e=0.9, phi=p["a"] % 180.0), "a"),
    "a product": (lambda p: gj.Point(0.3 + 0.2 * p["a"] * p["b"], 0.0), "ab"),
    "a width": (lambda p: gj.Shell(0.0, 0.0, 0.3, 0.1 + p["b"] ** 2), "b"),
    "a halo": (lambda p: gj.Einasto(r_s=20.0 + p["a"]), "a"),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_spectra(name):
    make, expected = SPECTRA[name]

    def model(p):
        return gj.Mixture(source=gj.Source(make(p), gj.Point(0.0, 0.0)), sky=gj.InstrumentBackground())

    found = dependence(model, {"a": A, "b": B})
    assert found.components == {"source": tuple(expected), "sky": ()}
    assert found.morphologies == {"source": ()}
    assert found.unused == tuple(sorted(set("ab") - set(expected)))


@pytest.mark.parametrize("name", MORPHOLOGIES)
def test_morphologies(name):
    make, expected = MORPHOLOGIES[name]
    found = dependence(lambda p: gj.Mixture(source=gj.Source(SPECTRUM, make(p))), {"a": A, "b": B})
    assert found.components == found.morphologies == {"source": tuple(expected)}


def test_backgrounds_and_weights():
    def model(p):
        sky = gj.InstrumentBackground(norm=jnp.stack([p["a"], 1.0]))
        inner = gj.Mixture(one=gj.Source(SPECTRUM, gj.Point(0.0, 0.0)), two=sky, weights=p["pair"])
        return gj.Mixture(inner=inner, rest=gj.InstrumentBackground(), weights={"inner": p["b"] ** 2})

    start = {"a": A, "b": B, "pair": jnp.array([0.5, 0.5]), "spare": A}
    found = dependence(model, start)
    assert found.components == {"inner/one": (), "inner/two": ("a",), "rest": ()}
    assert found.unused == ("spare",)  # weights are used, though no component depends on them


def posterior(model, priors, observation, **options):
    events = gj.Events([1.0, 2.0, 0.7, 1.5], [0.3, 0.1, -0.2, 0.5], [0.1, 0.0, 0.2, -0.3])
    return gj.Posterior(model, priors, observation, events, per_decade=10.0, **options)


@pytest.mark.slow
def test_parameters_that_ends_of_priors_do_not_show_are_seen(observation):
    """The angle and the product are the same at the centre and at both ends of each prior."""

    def angle(p):
        return gj.Mixture(source=gj.Source(SPECTRUM, gj.Gaussian(0.2, 0.0, 0.3, e=0.9, phi=p["phi"] % 180.0)))

    def product(p):
        return gj.Mixture(source=gj.Source(SPECTRUM, gj.Point(0.3 + 0.2 * p["a"] * p["b"], 0.0)))

    both = {"a": dist.Uniform(-1.0, 1.0), "b": dist.Uniform(-1.0, 1.0)}
    for model, priors, points in (
        (angle, {"phi": dist.Uniform(0.0, 360.0)}, ({"phi": 0.0}, {"phi": 40.0}, {"phi": 90.0})),
        (product, both, ({"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 0.9}, {"a": 1.0, "b": -0.9})),
    ):
        found = posterior(model, priors, observation)
        assert isinstance(found.engines["source"], FoldEngine)
        values = [float(found.log_likelihood(jax.tree.map(jnp.asarray, point))) for point in points]
        assert min(abs(np.diff(values))) > 0.1


@pytest.mark.slow
def test_a_narrow_window_changes_counts_and_intensities_together(observation):
    def model(p):
        index = jnp.where((p["t"] > 0.05) & (p["t"] < 0.15), 3.5, 2.0)
        return gj.Mixture(source=gj.Source(gj.PowerLaw(index), gj.Point(0.3, 0.1)), sky=gj.InstrumentBackground())

    found = posterior(model, {"t": dist.Uniform(0.0, 1.0)}, observation)
    assert isinstance(found.engines["source"], KernelEngine) and isinstance(found.engines["sky"], FixedEngine)
    parts = [model({"t": jnp.asarray(t)}).components["source"] for t in (0.1, 0.5)]
    intensities, counts = (
        [float(function(part)[0]) for part in parts]
        for function in (found.engines["source"].intensity, found.engines["source"].expected_counts)
    )
    # both belong to the component at the current parameters
    direct = [float(gj.intensity(part, observation, found.events, "direct")[0]) for part in parts]
    np.testing.assert_allclose(intensities, direct, rtol=0.03)  # few nodes
    totals = [float(gj.expected_counts(part, observation, per_decade=10.0)) for part in parts]
    np.testing.assert_allclose(counts, totals, rtol=0.01)
    assert counts[0] != pytest.approx(counts[1], rel=0.01)


def test_a_model_that_cannot_be_traced_is_named(observation):
    def model(p):
        return gj.Mixture(source=gj.Source(gj.PowerLaw(np.abs(np.asarray(p["a"]))), gj.Point(0.3, 0.1)))

    with pytest.raises(ValueError, match="the model cannot be compiled"):
        posterior(model, {"a": dist.Uniform(1.0, 2.0)}, observation)
