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
    with pytest.raises(ValueError, match="component 'a' must be a Source, InstrumentBackground or Mixture"):
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


TREE = {
    "signal": gj.Mixture(W=SOURCE, b=SOURCE, weights={"W": 0.25}),
    "sky": gj.Mixture(near=SOURCE, far=gj.Mixture(one=SOURCE, two=SOURCE)),
    "instrument": gj.InstrumentBackground(),
}
PATHS = ["signal/W", "signal/b", "sky/near", "sky/far/one", "sky/far/two", "instrument"]
COUNTS = dict(zip(PATHS, map(jnp.float32, [5.0, 7.0, 1.0, 2.0, 5.0, 100.0]), strict=True))


def test_tree_of_weights_and_fluxes():
    tree = gj.Mixture(**TREE, weights={"signal": 0.2, "sky": 0.4})
    assert list(tree.components) == PATHS and tree.names == ("signal", "sky", "instrument")
    # weights multiply down the tree; "sky" has no weights: its parts keep the proportions 1 : 2 : 5 of their fluxes
    expected = {"signal": 0.2, "signal/W": 0.05, "signal/b": 0.15, "instrument": 0.4}
    expected |= {"sky": 0.4, "sky/near": 0.05, "sky/far": 0.35, "sky/far/one": 0.1, "sky/far/two": 0.25}
    found = jax.jit(lambda counts: tree.node_fractions(counts))(COUNTS)
    assert {name: pytest.approx(float(value), rel=1e-5) for name, value in found.items()} == expected
    parts = tree.component_fractions(COUNTS)
    assert list(parts) == PATHS and sum(map(float, parts.values())) == pytest.approx(1.0, abs=1e-6)


def test_tree_without_weights_has_the_fractions_of_its_counts():
    tree = gj.Mixture(sky=TREE["sky"], instrument=TREE["instrument"])
    assert not tree.weighted
    found = tree.node_fractions({path: COUNTS[path] for path in tree.components})
    assert float(found["sky"]) == pytest.approx(8.0 / 108.0) and float(found["sky/far"]) == pytest.approx(7.0 / 108.0)


@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6))
def test_sticks_are_broken_one_by_one(breaks):
    weights = np.asarray(gj.stick_breaking(jnp.asarray(breaks)))
    left, expected = 1.0, []
    for part in breaks:
        expected.append(part * left)
        left -= expected[-1]
    np.testing.assert_allclose(weights, [*expected, left], atol=1e-6)
    mixture = gj.Mixture(weights=weights, **{f"c{i}": SOURCE for i in range(weights.size)})
    np.testing.assert_allclose(mixture.fractions, weights, atol=1e-6)


def test_bad_trees():
    with pytest.raises(ValueError, match="'signal' is a mixture with weights in one without: its flux is unknown"):
        gj.Mixture(**TREE)
    with pytest.raises(ValueError, match="'a/b': a name must not hold '/'"):
        gj.Mixture(**{"a/b": SOURCE})
    with pytest.raises(ValueError, match=r"weights of shape \(2,\) do not fit the 3 components"):
        gj.Mixture(**PARTS, weights=[0.5, 0.5])


def test_background_by_observation():
    background = gj.InstrumentBackground(norm=[2.0, 3.0], tilt=0.5)
    numbers = jnp.array([1, 0, 1])
    energy = jnp.array([1.0, 1.0, 4.0])
    np.testing.assert_allclose(background.select(numbers).factor(energy), [3.0, 2.0, 1.5], rtol=1e-6)
    background.check_observations([None] * 2)
    with pytest.raises(ValueError, match=r"norm has shape \(2,\); give one number, or 3, one for each observation"):
        background.check_observations([None] * 3)
