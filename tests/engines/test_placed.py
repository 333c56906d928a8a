"""Parts of the kept brightness of a fixed source; the whole is in test_response_change.py."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gammajax.engines.free_response import lagrange
from gammajax.engines.placed import TOLERANCE, _at_width, _blocks, _groups, _spline, components, first_energies
from gammajax.instrument.sky import spline_weights


@pytest.mark.slow
def test_the_rule_of_the_width_is_the_derivative():
    """First and second derivatives are those without the rule, which reads the table once."""
    nodes, u = jnp.array([-0.3, -0.1, 0.1, 0.3]), jnp.array([0.05, -0.2])
    table = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 4, 3, 5)))

    def plain(u):
        return jnp.sum(jnp.einsum("bw,bwok->bok", lagrange(nodes, u), table) ** 2)

    def ruled(u):
        return jnp.sum(_at_width(u, nodes, table) ** 2)

    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        np.testing.assert_allclose(derivative(ruled)(u), derivative(plain)(u), rtol=2e-4)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 400), runs=st.integers(1, 4), seed=st.integers(0, 100))
def test_every_pair_stands_in_a_block_of_its_kind(count, runs, seed):
    random = np.random.default_rng(seed)
    run, offset = random.integers(0, runs, count), random.integers(0, 3, count)
    place = random.uniform(0.0, 40.0, count)
    group = (place / 4).astype(int)
    members, real = _blocks(run, group, offset, place)
    assert sorted(members[real]) == list(range(count))
    for column in (run, group, offset):
        assert (column[members] == column[members[:, :1]]).all()


def test_pairs_with_similar_norms_stand_together():
    norm = np.random.default_rng(1).uniform(size=1000)
    one = np.zeros(norm.size, int)
    members, real = _blocks(one, one, one, norm)
    of_block = [norm[some[first]] for some, first in zip(members, real, strict=True)]
    assert len(of_block) > 2 and all(low.max() <= high.min() for low, high in pairwise(of_block))


def test_data_sets_of_similar_size_have_few_numbers_of_blocks():
    """Each number is compiled anew; a quarter of the blocks may be repeated."""
    seen = set()
    for seed in range(24):
        random = np.random.default_rng(seed)
        place = random.uniform(0.0, 40.0, random.integers(150, 250))
        offset, run = random.integers(0, 3, place.size), np.zeros(place.size, int)
        members, _ = _blocks(run, (place / 4).astype(int), offset, place)
        ((size, blocks),) = _groups(random.integers(1, 9, len(members)), 300, place.size)
        assert size == 8 and np.unique(blocks).size >= 0.75 * blocks.size
        seen.add((members.shape[1], blocks.size))
    assert len(seen) <= 4, seen


def test_groups_of_blocks_hold_the_components_of_each():
    """Of few blocks with many components, which the others do not get; small tables stay in one piece."""
    count = np.array([5, 8] * 400 + [17, 38] * 20)
    groups = _groups(count, 12000, 10**5)
    assert [size for size, _ in groups] == [8, 20, 40]
    for low, (high, blocks) in zip((0, 8, 20), groups, strict=True):
        assert (np.unique(blocks) == np.flatnonzero((low < count) & (count <= high))).all()
    assert [size for size, _ in _groups(count, 12, 10**5)] == [40]


@pytest.mark.parametrize("size", [8, 64])
def test_components_keep_the_brightness_of_every_pair(size):
    """Of profiles that fall by orders of magnitude, of blocks with few components, and of pairs with none."""
    random = np.random.default_rng(size)
    away, width = random.uniform(0.0, 3.0, 5 * size), np.geomspace(0.1, 0.6, 40)
    table = np.exp(-0.5 * (away[:, None] / width) ** 2) / width**2
    members = np.arange(5 * size).reshape(5, size)
    table[members[0]] = table[:1]
    table[members[1, :3]] = 0.0
    values, parts, count = components(table, members)
    assert count[0] == 1 and count.max() + -count.max() % 4 == values.shape[1]
    for block, number in enumerate(count):
        values[block, : values.shape[1] - number] = 0.0
    found = np.einsum("bcp,bec->bpe", values, parts)
    norm = np.linalg.norm(table[members], axis=2, keepdims=True)
    assert values.shape[1] <= 20 and values.shape[1] % 4 == 0
    assert (np.abs(found - table[members]) <= 2.0 * TOLERANCE * norm).all()


def test_the_spline_is_that_of_the_tables():
    place = np.linspace(0.0, 0.999, 11)
    weights = np.stack([_spline(place - node) for node in (-1, 0, 1, 2)], axis=-1)
    np.testing.assert_allclose(weights, spline_weights(jnp.asarray(place)), atol=1e-6)


def test_windows_hold_the_point_spread_functions_of_their_energies(observations):
    """Of a narrow dispersion: those beside the energy, and more if places may move."""
    from gammajax.instrument.runs import Runs

    runs, energy, size = Runs.of(tuple(observations)), np.geomspace(1.0, 10.0, 40), 40
    near = np.exp(-0.5 * (np.arange(size)[:, None] - np.arange(size)) ** 2)[None, None]
    tables = [(jnp.asarray(near), np.asarray(runs.response))]
    share = np.eye(size)[None]
    first, window = first_energies(tables, share, energy, runs, (0.0, 0.0), 4)
    wider, more = first_energies(tables, share, energy, runs, (5.0, 5.0), 4)
    assert window < more == window + 10
    middle = first.shape[1] // 2
    assert first[0, middle] <= 4 * middle - 3 and first[0, middle] + window >= 4 * middle + 7
    assert (wider <= first).all()
