"""A source of fixed shape with a free response: its folded brightness at the rows is computed once.

    lambda_k = t Sum_oe Q_koe Sum_a B_a(E'_k) W_oae,    W_oae = Sum_j (A D)_oaj F_j s_je,

with the part Q_koe of the brightness at offset node o, for the point spread function of energy e, the cubic B-spline
B_a of reconstructed energies, and the interpolation s_je of point spread functions to the true energies. A change of
the response acts on W, whose size does not depend on the events, and the width of the point spread functions on Q.

Pairs of a row and a direction stand in blocks that share the run, the first offset node, and the windows of
reconstructed energies and of energies of point spread functions: intensities are products of small matrices. Within a
block Q is a smooth function of the distance from the source, of few components for all widths, offsets and energies:

    Q_koe(width) = Sum_c Q_kc P_coe(width),

so that the width acts on P, whose size does not depend on the events, and a pair reads few numbers. Most blocks hold a
narrow range of distances and have few components; those of rare energies hold all distances. So blocks stand in groups
with as many components each.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gammajax.engines.free_response import lagrange
from gammajax.engines.hankel import PointFold, RadialFold
from gammajax.engines.images import ImageFold
from gammajax.engines.interpolation import slices
from gammajax.engines.plane import directions
from gammajax.engines.rows import padding_unit
from gammajax.instrument.runs import Runs
from gammajax.model.morphology import Morphology

SPAN = 4  # steps of the reconstructed energies of the events in a block
SIZES = 8, 256  # least and largest number of pairs in a block
TOLERANCE = 3e-5  # of the brightness of a pair, that components leave out
LEFT_OUT = 1e-4  # part of the events of a reconstructed energy outside its window of point spread functions
SLOPES = 0.0, -2.5  # of the flux per ln E for which this holds
CHUNK = 2**15  # pairs at a time
BLOCKS = 64  # blocks at a time
GROUPS, SAVING = 3, 2**21  # of blocks with as many components, and numbers that another group has to save


class Blocks(eqx.Module):
    """Blocks with as many components.

    - `brightness` [per sr] of each component; `parts` of them by width, with offsets and energies in one axis; `place`
      among the reconstructed energies, from the `lowest` of the block on.
    - `run`, and the first `offset` and `energy` of the windows, of each block.
    """

    brightness: Float[Array, "block component pair"]
    parts: Float[Array, "block width product component"]
    place: Float[Array, "block pair"]
    lowest: Float[Array, " block"]
    run: Int[Array, " block"]
    offset: Int[Array, " block"]
    energy: Int[Array, " block"]

    def changed(self, shift: Float[Array, " run"], log_width: Float[Array, "*run"], log_widths) -> "Blocks":
        """See [`Placed.changed`][]."""
        lowest, parts = self.lowest - shift[self.run], self.parts
        if parts.shape[1] > 1:
            u = jnp.broadcast_to(log_width, shift.shape)[self.run]
            parts = _at_width(u, log_widths, parts)[:, None]
        return eqx.tree_at(lambda blocks: (blocks.lowest, blocks.parts), self, (lowest, parts))

    def __call__(self, weight, runs: Runs, offsets: int, steps: int) -> Float[Array, "block pair"]:
        """See [`Placed.__call__`][]."""
        low = jnp.floor(jax.lax.stop_gradient(self.lowest)).astype(jnp.int32)
        first = jnp.clip(low - 1, 0, weight.shape[2] - steps)
        table, energies = runs.response[self.run], self.parts.shape[2] // offsets
        near = slices(weight, (table, self.offset, first, self.energy), (offsets, steps, energies))
        near = near.astype(self.brightness.dtype).swapaxes(2, 3).reshape(low.size, -1, steps)
        weights = jnp.einsum("boc,boa->bca", self.parts[:, 0], near)
        found = jnp.einsum("bck,bca->bak", self.brightness, weights)
        # a shift moves the nodes of a block, not the place of every pair: its derivative then takes no array of pairs
        nodes = jnp.arange(steps) - (self.lowest - first)[:, None]
        taps = _spline(self.place[:, None] - nodes.astype(found.dtype)[:, :, None])
        return (found * taps).sum(1) * runs.livetime[self.run][:, None]


class Placed(eqx.Module):
    """Folded brightness of a source in pairs; see the head of the module.

    - `order`: the place of each pair in the blocks of all `groups`.
    - `log_widths` of the brightness; `offsets`, `steps`: sizes of the windows of offsets and of reconstructed energies.
    """

    groups: tuple[Blocks, ...]
    order: Int[Array, " point"]
    log_widths: Float[Array, " width"]
    offsets: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    @classmethod
    def init(
        cls,
        folds: Sequence[PointFold | RadialFold | ImageFold],
        log_widths: Float[Array, " width"],
        morphology: Morphology,
        runs: Runs,
        pairs: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
        first_energy: Int[np.ndarray, "run group"],
        energies: int,
        span: int,
        window: int,
        dtype,
    ) -> "Placed":
        """Fold and evaluate, once with each of the `folds`, of several widths; eager.

        `pairs`: run, direction (lon, lat) [deg] and place. `first_energy`: of the windows of `energies`, by groups of
        `span` steps, from [`first_energies`][].
        """
        run, lon, lat, place = pairs
        group = np.clip(np.floor(place / span).astype(int), 0, first_energy.shape[1] - 1)
        energy = first_energy[run, group]
        shape = run.size, len(folds), energies
        values, first = np.zeros((*shape, window), np.float32), np.zeros(shape, np.int32)
        for width, fold in enumerate(folds):
            folded = _folded(fold, morphology)
            for number in range(first_energy.max() + energies):
                members = np.flatnonzero((energy <= number) & (number < energy + energies))
                for chunk in _chunks(members):
                    where = (jnp.asarray(column[chunk]) for column in (run, lon, lat))
                    found, begins = _by_offset(folded, runs, jnp.asarray(number), window, *where)
                    values[chunk, width, number - energy[chunk]] = np.asarray(found)
                    first[chunk, width, number - energy[chunk]] = np.asarray(begins)
        # one window for all energies and widths of a pair
        offset = first.min((1, 2))
        offsets = min(int((first - offset[:, None, None]).max()) + window, folded.offsets.size)
        offset = np.minimum(offset, folded.offsets.size - offsets)
        shifts = first - offset[:, None, None]
        brightness = np.zeros((run.size, len(folds), offsets, energies), dtype)
        for shift in np.unique(shifts):
            wide = min(window, offsets - shift)
            moved = np.where((shifts == shift)[..., None], values, 0.0)[..., :wide]
            brightness[:, :, shift : shift + wide] += np.moveaxis(moved, 3, 2)
        brightness = brightness.reshape(run.size, -1)
        # of a fixed run and energy the norm falls with the distance: pairs at similar distances stand together
        members, real = _blocks(run, group, offset, np.linalg.norm(brightness, axis=1))
        brightness, parts, count = components(brightness, members)
        order, groups, begin = np.empty(run.size, np.int32), [], 0
        for size, some in _groups(count, brightness.shape[2] + parts.shape[1], run.size):
            mine, first = members[some], members[some][:, 0]
            of_width = parts[some][:, :, -size:].reshape(len(some), len(folds), -1, size)
            lowest = place[mine].min(1)
            away = (place[mine] - lowest[:, None]).astype(dtype)
            columns = brightness[some][:, -size:], of_width, away, np.asarray(lowest, jnp.zeros(()).dtype)
            windows = (column[first].astype(np.int32) for column in (run, offset, energy))
            groups.append(Blocks(*map(jnp.asarray, (*columns, *windows))))
            order[mine[real[some]]] = begin + np.flatnonzero(real[some])
            begin += mine.size
        return cls(tuple(groups), jnp.asarray(order), log_widths, offsets, span + 4)

    def changed(self, shift: Float[Array, " run"], log_width: Float[Array, "*run"]) -> "Placed":
        """With places moved down by `shift`, and the parts at one width."""
        groups = tuple(blocks.changed(shift, log_width, self.log_widths) for blocks in self.groups)
        return eqx.tree_at(lambda placed: placed.groups, self, groups)

    def __call__(
        self, weight: Float[Array, "table offset reconstructed psf_energy"], runs: Runs
    ) -> Float[Array, " point"]:
        """Intensity of every pair for the weights W, coefficients of a spline in reconstructed energy."""
        each = [blocks(weight, runs, self.offsets, self.steps).ravel() for blocks in self.groups]
        return jnp.concatenate(each).at[self.order].get(unique_indices=True, mode="promise_in_bounds")


@jax.custom_jvp
def _at_width(u, nodes, table):
    """Table [block, width, ...] at ln(width) `u` of each block."""
    return _weighted(lagrange(nodes, u), table)


@_at_width.defjvp
def _at_width_jvp(primals, tangents):
    """The derivative with the value, from one pass: the transpose would read the table of all widths again."""
    u, nodes, table = primals
    weight, slope = jax.jvp(lambda u: lagrange(nodes, u), (u,), (jnp.ones_like(u),))
    tangent = tangents[0].astype(table.dtype)[:, None, None] * _weighted(slope, table)
    return _weighted(weight, table), tangent


def _weighted(weight, table):
    return jnp.einsum("bw,bwoc->boc", weight.astype(table.dtype), table)


def first_energies(
    tables: Sequence[tuple[Float[Array, "_ offset reconstructed energy"], np.ndarray]],
    share: Float[np.ndarray, "response energy psf_energy"],
    energy: Float[np.ndarray, " energy"],
    runs: Runs,
    reach: tuple[float, float],
    span: int,
) -> tuple[Int[np.ndarray, "run group"], int]:
    """First energies of windows of point spread functions for groups of `span` reconstructed energies, and their size.

    `tables`: A D for several changes, each with the table of every run. Places may move down and up by `reach`.
    """
    response = np.asarray(runs.response)
    size = tables[0][0].shape[2]
    parts = np.zeros((response.size, size, share.shape[2]))
    for table, index in tables:
        for number in np.unique(index):
            users = np.flatnonzero(index == number)
            of_table = np.asarray(table[number], np.float64)
            for slope in SLOPES:
                found = np.abs(of_table @ (share[response[users[0]]] * (energy[:, None] / energy[0]) ** slope))
                total = found.sum(2, keepdims=True)
                some = total > 1e-9 * total.max(initial=0.0)
                part = np.where(some, found / np.where(some, total, 1.0), 0.0).max(0)
                parts[users] = np.maximum(parts[users], part)
    groups = -(-size // span)
    low, high = np.zeros((2, response.size, groups), int)
    for group in range(groups):
        begin = max(int(np.floor(group * span - reach[0])) - 1, 0)
        end = min(int(np.ceil((group + 1) * span + reach[1])) + 3, size)
        of_group = parts[:, begin:end].max(1, initial=0.0)
        low[:, group] = (np.cumsum(of_group, 1) <= LEFT_OUT).sum(1)
        high[:, group] = of_group.shape[1] - (np.cumsum(of_group[:, ::-1], 1) <= LEFT_OUT).sum(1)
    window = max(int((high - low).max(initial=1)), 1)
    return np.clip(low, 0, share.shape[2] - window), window


def components(
    table: Float[np.ndarray, "row entry"], members: Int[np.ndarray, "block pair"]
) -> tuple[Float[np.ndarray, "block component pair"], Float[np.ndarray, "block entry component"], np.ndarray]:
    """Principal components of the rows of each block: values of the rows, parts of the entries, and their number.

    Rows are taken relative to their norm. The largest component is the last; blocks that need fewer have small ones or
    zeros before them, up to a multiple of four.
    """
    found, counts = [], []
    for begin in range(0, len(members), BLOCKS):
        rows = table[members[begin : begin + BLOCKS]].astype(np.float64)
        norm = np.linalg.norm(rows, axis=2, keepdims=True)
        rows /= np.where(norm > 0.0, norm, 1.0)
        # the largest last
        square, vectors = np.linalg.eigh(rows @ rows.swapaxes(1, 2))
        counts.append((square > TOLERANCE**2).sum(1))
        vectors = vectors[:, :, -max(int(counts[-1].max()), 1) :].swapaxes(1, 2)
        pair = norm.swapaxes(1, 2) * vectors, vectors @ rows
        found.append([part.astype(table.dtype) for part in pair])
    most = max(value.shape[1] for value, _ in found)
    most += -most % 4
    values, parts = (
        np.concatenate([np.pad(part, ((0, 0), (most - part.shape[1], 0), (0, 0))) for part in column])
        for column in zip(*found, strict=True)
    )
    return values, parts.swapaxes(1, 2), np.concatenate(counts)


def _groups(
    count: Int[np.ndarray, " block"], entries: int, pairs: int
) -> list[tuple[int, Int[np.ndarray, " of_group"]]]:
    """Groups of blocks by their `count` of components: as many components as all of a group need, and its blocks.

    Of all ways to part them, that with the fewest numbers is taken; a component of a block has `entries`. The number of
    blocks of a group is one of few, with the last one repeated, so that data sets of similar size share compiled
    functions.
    """
    count = np.maximum(count + -count % 4, 4)
    sizes, blocks_of_size = np.unique(count, return_counts=True)

    def numbers(ends):
        components = np.asarray(ends)[np.searchsorted(ends, sizes)] @ blocks_of_size
        return int(components) * entries + SAVING * len(ends)

    several = [(*ends, sizes[-1]) for size in range(GROUPS) for ends in combinations(sizes[:-1], size)]
    ends = min(several, key=numbers)
    found = []
    for low, high in pairwise((0, *ends)):
        blocks = np.flatnonzero((low < count) & (count <= high))
        found.append((int(high), np.pad(blocks, (0, -blocks.size % padding_unit(blocks.size, pairs)), mode="edge")))
    return found


def _chunks(members):
    """Pieces of few lengths, for few compilations; the last repeats some."""
    for begin in range(0, members.size, CHUNK):
        some = members[begin : begin + CHUNK]
        yield np.resize(some, max(1 << (some.size - 1).bit_length(), 256))


def _blocks(run, group, offset, norm) -> tuple[Int[np.ndarray, "block pair"], np.ndarray]:
    """Pairs of every block, and whether they stand here first: the last block of a kind repeats some of its pairs.

    A kind is a run, group and offset. Pairs with similar norms stand together.
    """
    members = np.lexsort((norm, offset, group, run))
    keys = np.stack([run, group, offset])[:, members]
    begins = np.flatnonzero(np.append(True, np.any(np.diff(keys, axis=1) != 0, axis=0)))
    counts = np.diff(np.append(begins, members.size))
    size = int(np.clip(2.0 ** np.floor(np.log2(counts.mean())), *SIZES))
    blocks = -(-counts // size)
    of_key = np.repeat(np.arange(counts.size), blocks)
    within = np.arange(blocks.sum()) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    slot = within[:, None] * size + np.arange(size)
    table = members[begins[of_key][:, None] + slot % counts[of_key][:, None]]
    return table, slot < counts[of_key][:, None]


def _spline(distance):
    """Cubic B-spline at distances from its node."""
    away = jnp.abs(distance)
    return (jnp.maximum(2.0 - away, 0.0) ** 3 - 4.0 * jnp.maximum(1.0 - away, 0.0) ** 3) / 6.0


@eqx.filter_jit
def _folded(fold, morphology):
    return fold(morphology)


@eqx.filter_jit
def _by_offset(folded, runs, number, window, run, lon, lat):
    """Terms of the brightness for the point spread function of one energy [pair, offset], and their first node."""
    tables, offsets, energies = folded.shape
    weight = jnp.broadcast_to(jax.nn.one_hot(number, energies), (tables, offsets, 1, energies))
    sheet = folded.sheet(weight, weight, window)
    there = directions(folded.centre, runs, run, lon, lat)
    columns, first = sheet.by_offset(runs.response[run], jnp.zeros_like(lon), there)
    return jnp.stack(columns, axis=1), first
