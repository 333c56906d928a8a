"""The dense marginal: tabulated over a grid of parameters, with the conventions of GammaBayes.

For parity with GammaBayes 0.1.9 (https://github.com/lpin0002/GammaBayes) and for comparison, not for data analysis.
Every event has a value for every node: 41 nodes in each of d parameters for 10^5 events take 16 MB, 0.7 GB
and 28 GB for d = 1, 2, 3 in single precision, and fine features of the likelihood fall between the nodes. The kernel
and fold engines need no grid. [`DenseEngine`][] tabulates the output of those engines.
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.common.parameters import is_concrete, is_same
from gammajax.engines.energy import EnergyNodes
from gammajax.engines.engine import Engine, Expected
from gammajax.engines.fold import FoldEngine
from gammajax.engines.kernel import KernelEngine
from gammajax.engines.rows import Rows
from gammajax.instrument.table import Axis
from gammajax.model.mixture import Source

NODES = 41  # of each free number
LARGEST_FREE, LARGEST_TABLE = 3, 4e9  # number of free numbers, and bytes
MANY = 100  # free numbers: an array with more is refused without further tests
LOGARITHMIC = 10.0  # nodes are logarithmic if the ratio of the ends of a range is at least this


class DenseEngine(Engine):
    """Tables of p = lambda / N of every row over a grid of the source's free numbers, for comparison with GammaBayes.

    Free numbers are numbers of the source that differ at the ends of the priors. Each is tabulated at `nodes` values
    between its smallest and its largest value: logarithmically if both are positive and differ at least by a factor of
    ten (masses, for example), else linearly. A number that only scales the flux needs no axis: p is independent of it.
    The fold engine makes the tables if the morphology differs, else the kernel engine; they take
    rows x nodes^d numbers. Raises `ValueError` above 3 free numbers or 4 GB.

    - `method` "nearest", like GammaBayes: p is a staircase, and a posterior can collapse to one node. It has no
      gradient: derivatives raise `ValueError`, which rules out `fit` and `nuts`.
    - `method` "linear": p is interpolated linearly between the nodes (in the logarithm for logarithmic nodes), with a
      gradient.

    Beyond the range the value is that of the last node. If a number changes that differs neither at the ends of the
    priors nor at draws of them, intensities and counts are NaN. With Phi the photon flux [cm^-2 s^-1] of the
    source over the true energies of the response, N / Phi is tabulated like p, and lambda = p N with the expected
    counts N.

    Options: `engine=functools.partial(gj.engines.DenseEngine.init, nodes=81, method="linear")`.
    """

    energy: EnergyNodes
    axes: tuple[Axis, ...]
    density: Float[Array, "*node row"]
    exposure: Float[Array, "*node observation"]
    free: tuple[tuple[int, int, bool], ...] = eqx.field(static=True)  # leaf, index in it, whether logarithmic
    same: tuple[tuple[int, Array], ...]  # leaf, and its value in the whole table
    method: str = eqx.field(static=True)

    @classmethod
    def init(
        cls, source: Source, observations, rows: Rows, variants=(), nodes: int = NODES, method: str = "nearest"
    ) -> "DenseEngine":
        """Tabulate over the numbers that differ between `source` and its `variants`; eager."""
        if not isinstance(source, Source):
            raise ValueError(f"the dense engine tabulates a Source, with spectrum and morphology, not {source!r}")
        if method not in ("nearest", "linear"):
            raise ValueError(f"method must be 'nearest' or 'linear', not {method!r}")
        if nodes < 2:
            raise ValueError(f"the dense engine needs at least 2 nodes per free number, not {nodes}")
        if not is_concrete(source):
            raise ValueError(
                "the dense engine tabulates a source over the range of its priors, before it is traced: use it in a "
                "gammajax.Posterior"
            )
        differing = _differing_numbers(source, variants)
        free = [number for number in differing if not _only_scales(source, rows.nodes, number)]
        size = float(np.dtype(jnp.result_type(float)).itemsize * rows.total) * float(nodes) ** len(free)
        if len(free) > LARGEST_FREE or size > LARGEST_TABLE:
            names = ", ".join(name for _, name, *_ in free[:5]) + (", ..." if len(free) > 5 else "")
            raise ValueError(
                f"the dense engine would tabulate {rows.total} rows at {nodes} nodes in each of {len(free)} free "
                f"numbers ({names}), {size / 1e9:.3g} GB; it takes up to "
                f"{LARGEST_FREE} free numbers and {LARGEST_TABLE / 1e9:g} GB: use engine='kernel' or engine='fold'"
            )
        where = tuple((leaf, number, low > 0 and high >= LOGARITHMIC * low) for (leaf, number), _, low, high in free)
        ends = [np.log(f[2:]) if log else np.asarray(f[2:]) for f, (*_, log) in zip(free, where, strict=True)]
        axes = tuple(Axis(np.linspace(end[0], end[1], nodes), uniform=True) for end in ends)
        columns = [np.exp(a.nodes) if log else np.asarray(a.nodes) for a, (*_, log) in zip(axes, where, strict=True)]
        points = np.array(list(itertools.product(*columns)), np.asarray(rows.nodes.energy).dtype)
        moved = any(
            not is_same((source.morphology, source.response), (variant.morphology, variant.response))
            for variant in variants
        )
        engine = (FoldEngine if moved else KernelEngine).init(source, observations, rows, variants)
        density, exposure = _tabulate(engine, rows.nodes, source, where, jnp.asarray(points))
        shape = (nodes,) * len(free)
        moving = {leaf for (leaf, _), *_ in differing}
        leaves = enumerate(jax.tree.leaves(source))
        same = tuple((n, jnp.asarray(v)) for n, v in leaves if n not in moving and eqx.is_inexact_array_like(v))
        tables = density.reshape(*shape, -1), exposure.reshape(*shape, -1)
        return cls(rows.nodes, axes, *tables, free=where, same=same, method=method)

    @eqx.filter_jit
    def __call__(self, source: Source) -> Expected:
        """Intensities and counts; the counts are one term."""
        counts = self._at(source, self.exposure) * self.energy.flux(source.spectrum).sum()
        return Expected(self._at(source, self.density) * counts.sum(), counts[:, None])

    def _at(self, source, table):
        """The table at the free numbers of the source."""
        leaves, indices, fractions = jax.tree.leaves(source), [], []
        known = [
            jnp.allclose(leaves[leaf], value, rtol=1e-5, atol=0.0)  # a compiled number may differ in its last bits
            for leaf, value in self.same
            if not is_concrete(leaves[leaf])
        ]
        for (leaf, number, log), axis in zip(self.free, self.axes, strict=True):
            value = jnp.ravel(leaves[leaf])[number]
            index, fraction = axis.locate(jnp.log(value) if log else value)
            indices.append(index)
            fraction = jnp.clip(fraction, 0.0, 1.0)
            fractions.append(_nearest(fraction) if self.method == "nearest" else fraction)
        cell = jax.lax.dynamic_slice(table, (*indices, 0), (*(2,) * len(indices), table.shape[-1]))
        for fraction in fractions:
            cell = (1.0 - fraction) * cell[0] + fraction * cell[1]
        return jnp.where(jnp.stack(known).all(), cell, jnp.nan) if known else cell


@jax.custom_jvp
def _nearest(fraction):
    return jnp.round(fraction)


@_nearest.defjvp
def _no_gradient(primals, tangents):
    raise ValueError(
        "the nearest node of a dense table has no gradient; tabulate with method='linear', or use the kernel engine"
    )


def _differing_numbers(source, variants) -> list[tuple[tuple[int, int], str, float, float]]:
    """Position (leaf, index in it), name, smallest and largest value of the numbers that differ."""
    paths, structure = jax.tree.flatten_with_path(source)
    others = [jax.tree.flatten(variant) for variant in variants]
    if any(other != structure for _, other in others):
        raise ValueError("the dense engine needs a source of one form: a prior changes more than its numbers")
    found = []
    for leaf, (path, value) in enumerate(paths):
        if not eqx.is_inexact_array_like(value):
            continue
        values = [np.asarray(value, float), *(np.asarray(leaves[leaf], float) for leaves, _ in others)]
        if any(other.shape != values[0].shape for other in values):
            raise ValueError("the dense engine needs a source of one form: a prior changes the shape of its arrays")
        low, high = (np.ravel(extreme(values, axis=0)) for extreme in (np.min, np.max))
        for number in np.flatnonzero(high > low):
            name = jax.tree_util.keystr(path).lstrip(".") + (f"[{number}]" if low.size > 1 else "")
            found.append(((leaf, int(number)), name, float(low[number]), float(high[number])))
        if len(found) > MANY:
            break
    return found


def _only_scales(source, nodes, number) -> bool:
    """Whether a free number changes only the total flux between its ends."""
    where, _, low, high = number
    fluxes = []
    for value in (low, 0.5 * (low + high), high):
        changed = _place(source, [where], [value])
        if not is_same(source.morphology, changed.morphology):
            return False
        flux = np.asarray(_flux(nodes, changed.spectrum), np.float64)
        if not flux.sum() > 0:
            return False
        fluxes.append(flux / flux.sum())
    # single precision
    return all(np.allclose(flux, fluxes[0], rtol=1e-5, atol=0.0) for flux in fluxes[1:])


def _place(source, where, values):
    """The source with other values of some of its numbers."""
    leaves, structure = jax.tree.flatten(source)
    for (leaf, number), value in zip(where, values, strict=True):
        old = jnp.asarray(leaves[leaf])
        leaves[leaf] = old.ravel().at[number].set(value).reshape(old.shape)
    return jax.tree.unflatten(structure, leaves)


@eqx.filter_jit
def _flux(nodes, spectrum):
    return nodes.flux(spectrum)


@eqx.filter_jit
def _tabulate(engine, nodes, source, where, points):
    """Lambda / N [point, row], and N / Phi [point, observation] [cm^2 s]."""

    def one(point):
        changed = _place(source, [at[:2] for at in where], point)
        expected, flux = engine(changed), nodes.flux(changed.spectrum).sum()
        counts = expected.counts.sum(-1)
        total = counts.sum()
        density = expected.intensity / jnp.where(total > 0, total, 1.0)
        return jnp.where(total > 0, density, 0.0), counts / jnp.where(flux > 0, flux, 1.0)

    return jax.lax.map(one, points)
