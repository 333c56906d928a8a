import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gammajax as gj

SOURCE = gj.Source(gj.PowerLaw(2.0), gj.Point(0.0, 0.0))
PARTS = {"z": SOURCE, "a": gj.InstrumentBackground(), "m": SOURCE}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)), st.sampled_from(list(PARTS)))
def test_the_remainder_completes_the_weights(sticks, missing):
    first = sticks[0]
    second = (1.0 - first) * sticks[1]
    given_ = dict(zip([name for name in PARTS if name != missing], (first, second), strict=True))
    mixture = gj.Mixture(**PARTS, weights=given_)
    fractions = dict(zip(mixture.names, np.asarray(mixture.fractions), strict=True))
    assert sum(fractions.values()) == pytest.approx(1.0, abs=1e-6)
    assert fractions[missing] == pytest.approx(1.0 - first - second, abs=1e-6)
    for name, value in given_.items():
        assert fractions[name] == pytest.approx(value, abs=1e-6)


def test_complete_weights_are_normalised():
    mixture = gj.Mixture(**PARTS, weights={"a": 0.2, "m": 0.3, "z": 0.500001})
    np.testing.assert_allclose(mixture.fractions, [0.5, 0.2, 0.3], atol=1e-5)
    assert float(mixture.fractions.sum()) == pytest.approx(1.0, abs=1e-7)


def test_order_is_that_of_the_arguments_through_jit():
    @jax.jit
    def through(weight):
        return gj.Mixture(**PARTS, weights={"m": weight, "a": 0.1})

    mixture = through(0.3)
    assert mixture.names == ("z", "a", "m") and list(mixture.components) == ["z", "a", "m"]
    np.testing.assert_allclose(mixture.fractions, [0.6, 0.1, 0.3], atol=1e-6)
    assert isinstance(mixture.components["a"], gj.InstrumentBackground)
    assert gj.Mixture(**PARTS).fractions is None


def test_weights_have_gradients():
    gradient = jax.grad(lambda w: gj.Mixture(**PARTS, weights={"a": w, "m": 2.0 * w}).fractions @ jnp.arange(1.0, 4.0))
    # fractions (1 - 3 w, w, 2 w)
    assert gradient(0.1) == pytest.approx(-3.0 + 2.0 + 6.0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"b": 0.1, "a": 0.1}, r"unknown components \['b'\]; the components are \['z', 'a', 'm'\]"),
        ({"a": 0.1}, r"all components but one; \['z', 'm'\] have none"),
        ({"a": -0.1, "m": 0.1}, "must not be negative"),
        ({"a": 0.8, "m": 0.3}, r"add up to 1.1, more than one; nothing is left for \['z'\]"),
        ({"a": 0.2, "m": 0.3, "z": 0.4}, "add up to 0.9; they must add up to one"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        gj.Mixture(**PARTS, weights=weights)


def test_bad_components(monkeypatch):
    with pytest.raises(ValueError, match="at least one component"):
        gj.Mixture()
    with pytest.raises(ValueError, match="no component can be called 'weights'"):
        gj.Mixture(weights=SOURCE)
    # users have no run-time type checks
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="component 'a' must be a Source or InstrumentBackground"):
        gj.Mixture(a=1.0)
    with pytest.raises(ValueError, match=r"the spectrum of a Source must be a gammajax spectrum, not Point\("):
        gj.Source(gj.Point(0.0, 0.0), gj.PowerLaw(2.0))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="the morphology of a Source must be a gammajax morphology, not None"):
        gj.Source(gj.PowerLaw(2.0), None)  # pyright: ignore[reportArgumentType]


def test_one_component_needs_no_weight():
    np.testing.assert_array_equal(gj.Mixture(a=SOURCE, weights={}).fractions, [1.0])


def test_background_factor():
    factor = eqx.filter_jit(gj.InstrumentBackground(norm=2.0, tilt=0.5, reference=4.0).factor)(jnp.array([1.0, 4.0]))
    np.testing.assert_allclose(factor, [4.0, 2.0], rtol=1e-6)
