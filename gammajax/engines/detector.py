"""Detector: effective area and energy dispersion of all responses at the true-energy nodes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gammajax.engines.energy import SUB_BINS, EnergyNodes
from gammajax.instrument.runs import Runs
from gammajax.instrument.table import Axis

REACH = 12  # nodes on each side, within which the projection falls off to 1e-5
GROUP = 8  # nodes that are projected together; accelerators, which have no small cache, take all


class Detector(eqx.Module):
    """A_m(E_j) [cm^2] and D_m(E'|E_j) at offset nodes m [deg], with D projected to the nodes, in y = E'/E_j."""

    offsets: Float[Array, " offset"]
    area: Float[Array, "response energy offset"]
    dispersion: Float[Array, "response energy y offset"]
    y: Axis

    @classmethod
    def init(cls, runs: Runs, nodes: EnergyNodes, offsets: Float[Array | np.ndarray, " offset"]) -> "Detector":
        """Tabulate all responses at the offsets [deg]; eager."""
        migra = [response.energy_dispersion.profile.axes[2] for response in runs.responses]
        # a quarter of the table's bins: linear interpolation then loses at most 3e-4; energy resolutions are at least
        # some percent, so bins finer than a percent contain only noise
        step = max(min(float(jnp.diff(axis.nodes).min()) for axis in migra), 0.01) / 4.0
        reach = float(np.exp(2.0 * nodes.log_step))  # the projection mixes neighbouring nodes
        low, high = min(axis.lower for axis in migra) / reach, max(axis.upper for axis in migra) * reach
        y = np.linspace(low, high, int(np.ceil((high - low) / step)) + 1)
        offsets = jnp.asarray(offsets)
        tables = [_tabulate(response, nodes, offsets, jnp.asarray(y)) for response in runs.responses]
        area, dispersion = (jnp.stack(column) for column in zip(*tables, strict=True))
        return cls(offsets, area, dispersion, Axis(y))

    def __call__(
        self,
        response: Int[Array, " event"],
        energy: Float[Array, "event end"],
        node: Int[Array, "event band"],
        energy_true: Float[Array, "event band"],
        first: Int[Array, " event"],
        window: int,
        cumulative: Float[Array, "response energy y node"] | None = None,
    ) -> Float[Array, "event offset band"]:
        """A D [cm^2 TeV^-1] of events at the nodes of their bands, in a window of offsets from `first` on.

        `energy` [TeV]: of each event, or both ends of the interval of each cell, whose mean needs the `cumulative`
        table. The mean is exact: dispersions have more structure than points of a quadrature would see.
        """
        offset = (first[:, None] + jnp.arange(window))[:, :, None]
        q, node = response[:, None, None], node[:, None, :]

        def within(end):
            y = energy[:, end, None] / energy_true
            index, fraction = self.y.locate(y)
            low, high = (self.dispersion[q, node, (index + i)[:, None, :], offset] for i in (0, 1))
            return y, index, fraction[:, None], low, high - low

        def below(end):
            y, index, fraction, low, rise = within(end)
            fraction = jnp.where(y < self.y.lower, 0.0, jnp.where(y > self.y.upper, 1.0, fraction.squeeze(1)))[:, None]
            step = self.y.nodes[1] - self.y.nodes[0]
            assert cumulative is not None
            return cumulative[q, node, index[:, None, :], offset] + step * fraction * (low + 0.5 * fraction * rise)

        if energy.shape[1] == 1:
            y, _, fraction, low, rise = within(0)
            density = jnp.where(self.y.inside(y)[:, None], low + fraction * rise, 0.0) / energy_true[:, None]
        else:
            density = (below(1) - below(0)) / (energy[:, 1] - energy[:, 0])[:, None, None]
        return self.area[q, node, offset] * density

    @eqx.filter_jit
    def cumulative(self) -> Float[Array, "response energy y offset"]:
        """Integral of D over y up to every node."""
        steps = 0.5 * jnp.diff(self.y.nodes)[:, None] * (self.dispersion[:, :, 1:] + self.dispersion[:, :, :-1])
        return jnp.pad(jnp.cumsum(steps, 2), ((0, 0), (0, 0), (1, 0), (0, 0)))

    def below(
        self, limit, energy: Float[Array, " energy"], q, cumulative, change=None
    ) -> Float[Array, "energy offset"]:
        """Integral of D of the response `q` up to a reconstructed energy `limit` [TeV].

        `change`: mean of E'/E, energy scale z and factor k on the resolution of another D, which is
        D(m E + (E' / (1 + z) - m E) / k | E) / (k (1 + z)).
        """
        y = limit / energy[:, None]
        if change is not None:
            mean, scale, resolution = change
            y = mean + (y / (1.0 + scale) - mean) / resolution
        y = jnp.clip(y, self.y.nodes[0], self.y.nodes[-1])
        index, _ = self.y.locate(y)
        row, column = jnp.arange(energy.size)[:, None], jnp.arange(self.offsets.size)
        low, high = (self.dispersion[q, row, index + i, column] for i in (0, 1))
        step, rest = self.y.nodes[1] - self.y.nodes[0], y - self.y.nodes[index]
        return cumulative[q, row, index, column] + rest * (low + 0.5 * rest / step * (high - low))

    @eqx.filter_jit
    def exposure(self, runs: Runs, energy: Float[Array, " energy"]) -> Float[Array, "run energy offset"]:
        """T A times the integral of D over the selected energies [cm^2 s], from the same table as the events."""
        cumulative = self.cumulative()

        def one(run):
            q = runs.response[run]
            low, high = (self.below(end[run], energy, q, cumulative) for end in (runs.energy_min, runs.energy_max))
            return runs.livetime[run] * self.area[q] * (high - low)

        return jax.lax.map(one, jnp.arange(runs.response.size))


@eqx.filter_jit
def _tabulate(response, nodes, offsets, y):
    shape = (nodes.energy.size, offsets.size)
    area = response.area(jnp.broadcast_to(nodes.energy[:, None], shape), jnp.broadcast_to(offsets, shape))
    profile = response.energy_dispersion.profile
    energy_axis, offset_axis, _ = profile.axes
    index, fraction = energy_axis.locate(jnp.log(nodes.sub_energy))
    at, share = offset_axis.locate(offsets)

    def to_offsets(values):
        return values[..., at] + share * (values[..., _next(at, offset_axis)] - values[..., at])

    # the table is linear along every axis, in any order: few offsets first, many last
    few = offsets.size < offset_axis.nodes.size
    values = jnp.moveaxis(profile.values, 1, 2)
    values = to_offsets(values) if few else values
    values = values[index] + fraction[:, None, None] * (values[_next(index, energy_axis)] - values[index])
    density = _projected(values, profile.axes[2], nodes, y)
    return area, density if few else to_offsets(density)


def _projected(values, migra_axis, nodes, y) -> Float[Array, "energy y offset"]:
    """Projection of D [sub_energy, migra, offset] to the nodes, in y.

    Sub-bins at equal distances from their nodes share the places of y in the axis of migra. So the sum over distances
    copies rows of nodes and offsets; groups of nodes keep it within a processor's cache.
    """
    count = nodes.energy.size
    group, near = GROUP if jax.default_backend() == "cpu" else count, 2 * REACH * SUB_BINS
    groups = -(-count // group)
    after = REACH + groups * group - count
    ends = REACH * SUB_BINS, after * SUB_BINS + SUB_BINS  # sub-bins lie between the nodes: one node has none behind it
    values = jnp.pad(values, (ends, (0, 0), (0, 0)))
    values = values.reshape(-1, SUB_BINS, *values.shape[1:])
    first = SUB_BINS * jnp.arange(count)[:, None] + jnp.arange(near)
    weight = jnp.take_along_axis(jnp.pad(nodes.project, ((0, 0), ends)), first, axis=1)
    # rows of the whole projection add up to one, and so must their part here: it is too small otherwise
    weight = weight / weight.sum(1, keepdims=True)
    # E_j / E of the sub-bins
    ratio = jnp.exp((REACH - (jnp.arange(near) + 0.5) / SUB_BINS) * nodes.log_step)
    weight = jnp.pad(weight * ratio, ((0, groups * group - count), (0, 0)))
    migra = y * ratio[:, None]
    index, fraction = migra_axis.locate(migra)
    inside = migra_axis.inside(migra)
    low, high = (jnp.where(inside, part, 0.0)[..., None] for part in (1.0 - fraction, fraction))
    size = values.shape[2], group * values.shape[3]

    def one_group(number):
        start = number * group
        mine = jax.lax.dynamic_slice_in_dim(values, start, group + 2 * REACH).transpose(1, 2, 0, 3)
        factor = jax.lax.dynamic_slice_in_dim(weight, start, group)

        def one_distance(total, n):
            node, sub = n // SUB_BINS, n % SUB_BINS
            rows = jax.lax.dynamic_slice_in_dim(mine[sub], node, group, axis=1) * factor[:, n, None]
            rows = rows.reshape(size)
            return total + low[n] * rows[index[n]] + high[n] * rows[_next(index[n], migra_axis)], None

        total = jnp.zeros((y.size, size[1]), values.dtype)
        total, _ = jax.lax.scan(one_distance, total, jnp.arange(near))
        return total.reshape(y.size, group, -1).transpose(1, 0, 2)

    found = jax.lax.map(one_group, jnp.arange(groups))
    return found.reshape(-1, *found.shape[2:])[:count]


def _next(index, axis):
    return jnp.minimum(index + 1, axis.nodes.size - 1)
