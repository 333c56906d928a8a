import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from gammajax.instrument.table import Axis, Table, extend, refine

RANDOM = np.random.default_rng(0)
# uniform nodes are looked up by a division, others by bisection
AXES = {
    "uniform": np.linspace(-1.0, 2.0, 7),
    "uneven": np.array([-1.0, -0.7, 0.1, 0.2, 2.0]),
    "two nodes": np.array([-1.0, 2.0]),
}


@eqx.filter_jit
def evaluate(table, *coordinates, outside=0.0):
    return table(*coordinates, outside=outside)


@pytest.mark.parametrize("name", AXES)
def test_linear_functions_are_exact_between_and_beyond_the_nodes(name):
    nodes = AXES[name]
    table = Table((Axis(nodes),), 3.0 - 2.0 * nodes)
    x = np.linspace(-4.0, 5.0, 101)
    np.testing.assert_allclose(evaluate(table, x, outside=None), 3.0 - 2.0 * x, atol=1e-5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    slopes=st.tuples(*[st.floats(-10.0, 10.0)] * 3),
    x=st.floats(-1.0, 2.0),
    y=st.floats(-1.0, 2.0),
)
def test_bilinear_functions_are_exact(slopes, x, y):
    a, b, c = slopes
    u, v = np.meshgrid(AXES["uniform"], AXES["uneven"], indexing="ij")
    table = Table((Axis(AXES["uniform"]), Axis(AXES["uneven"])), a * u + b * v + c * u * v)
    assert evaluate(table, jnp.asarray(x), jnp.asarray(y)) == pytest.approx(a * x + b * y + c * x * y, abs=1e-4)


def test_three_axes_against_scipy():
    axes = (AXES["uniform"], AXES["uneven"], np.geomspace(0.1, 3.0, 4))
    values = RANDOM.normal(size=[axis.size for axis in axes])
    points = RANDOM.uniform(-1.5, 2.5, (3, 200))
    expected = RegularGridInterpolator(axes, values, bounds_error=False, fill_value=None)(points.T)
    np.testing.assert_allclose(
        evaluate(Table(map(Axis, axes), values), *points, outside=None), expected, rtol=1e-4, atol=1e-4
    )


def test_the_table_continues_to_its_edges_and_is_zero_beyond():
    # bin centres 0.5, 1.5 of bins that reach from 0 to 2
    table = Table((Axis([0.5, 1.5], 0.0, 2.0),), np.array([1.0, 2.0]))
    np.testing.assert_allclose(evaluate(table, np.array([0.0, 0.25, 1.0, 2.0])), [0.5, 0.75, 1.5, 2.5], rtol=1e-6)
    np.testing.assert_array_equal(evaluate(table, np.array([-1e-3, 2.001])), 0.0)
    assert evaluate(table, np.array([-1e-3]), outside=-jnp.inf) == -jnp.inf


def test_outside_one_axis_is_outside():
    table = Table((Axis([0.0, 1.0]), Axis([0.0, 1.0])), np.ones((2, 2)))
    np.testing.assert_array_equal(
        evaluate(table, np.array([0.5, 1.5, 0.5]), np.array([0.5, 0.5, -0.5])), [1.0, 0.0, 0.0]
    )


def test_one_node_is_constant():
    table = Table((Axis([1.0], 0.0, 2.0), Axis([0.0, 1.0])), np.array([[1.0, 3.0]]))
    np.testing.assert_allclose(evaluate(table, np.array([0.1, 1.9]), 0.5), 2.0)
    assert evaluate(table, 2.1, 0.5) == 0


def test_trailing_dimensions_are_carried_along():
    values = RANDOM.normal(size=(7, 2, 3))
    table = Table((Axis(AXES["uniform"]),), values)
    assert evaluate(table, np.zeros((4, 5))).shape == (4, 5, 2, 3)
    alone = Table((Axis(AXES["uniform"]),), values[:, 1, 2])
    np.testing.assert_allclose(evaluate(table, 0.3)[1, 2], evaluate(alone, 0.3), rtol=1e-6)


def test_gradient_is_the_slope():
    table = Table((Axis(AXES["uneven"]),), AXES["uneven"] ** 2)
    assert jax.grad(lambda x: evaluate(table, x))(1.0) == pytest.approx((4.0 - 0.04) / 1.8, rel=1e-5)


@pytest.mark.parametrize("nodes", [[], [1.0, 1.0], [2.0, 1.0], [0.0, np.nan], [0.0, np.inf], [[0.0, 1.0]]])
def test_bad_nodes(nodes):
    with pytest.raises(ValueError, match="finite and strictly increasing"):
        Axis(nodes)


def test_values_must_fit_the_axes():
    with pytest.raises(ValueError, match=r"shape \(3, 2\), the axes need \(2, 3\)"):
        Table((Axis([0.0, 1.0]), Axis([0.0, 1.0, 2.0])), np.zeros((3, 2)))


@pytest.mark.parametrize("change", [lambda a, v: refine(a, v, 0), lambda a, v: extend(a, v, 0)])
def test_refined_and_extended_tables_interpolate_alike(change):
    axis, values = Axis([0.5, 0.9, 2.0], 0.0, 3.0), RANDOM.normal(size=(3, 2))
    new_axis, new_values = change(axis, values)
    assert new_axis.nodes.size > 3 and (new_axis.lower, new_axis.upper) == (0.0, 3.0)
    x = np.linspace(0.0, 3.0, 50)
    np.testing.assert_allclose(
        evaluate(Table((new_axis,), new_values), x), evaluate(Table((axis,), values), x), rtol=1e-5, atol=1e-5
    )


def test_extending_reaches_the_edges_but_not_below_zero():
    nodes = extend(Axis([0.5, 1.5], -1.0, 2.0), np.zeros((2,)), 0)[0].nodes
    np.testing.assert_allclose(nodes, [0.0, 0.25, 0.5, 1.5, 1.75, 2.0])
