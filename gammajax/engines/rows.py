"""Rows: events in the order and padding of the engines.

Events are grouped by reconstructed energy, and each group is cut into blocks of equal size that share one band of
true energies. An engine then needs no gather per event, only one window of the flux vector per block.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Integer, Shaped

from gammajax.common import distributed
from gammajax.common.display import article, block, document, length, text, total, words
from gammajax.engines.energy import EnergyNodes
from gammajax.events.cells import Cells
from gammajax.events.event_list import Events, Points, check_events
from gammajax.instrument.observation import Observation, as_tuple
from gammajax.instrument.runs import Runs
from gammajax.model.mixture import Source
from gammajax.model.response_change import changed_observations

PER_DECADE = 40.0  # nodes of true energy
# truncation budget of bands: LEFT_OUT Poisson errors of the total, and at most LEFT_OUT_AT_MOST of the expected events
# at any one E'
LEFT_OUT, LEFT_OUT_AT_MOST = 0.15, 1e-3
BAND_STEP = 4  # widths of bands are multiples of it, so that data sets of similar size share compiled functions
SMALL = 10_000  # events of data sets whose compilation takes longer than their likelihood


class Rows(eqx.Module):
    """Padded, energy-sorted events or cells (host arrays) with the band of true energies of every block.

    `index`: event or cell of each row; `count`: its number of events. Padding repeats another row with count zero.
    `start`: first node of each block's band. `mesh`: devices that share the rows, if any; `dtype` of the arrays kept
    per row; `progress`: whether the set-up shows its progress. With devices of several processes, these are the rows of
    this process; every process has equally many rows and blocks, with bands of equal width.
    The intensity of a row is its mean over points in energy and direction; an event has one point.
    `moved` [deg]: what the directions of each observation are off by, added to those of the points.
    """

    nodes: EnergyNodes
    runs: Runs
    index: Int[np.ndarray, " row"]
    count: Integer[np.ndarray, " row"]
    data: Events | Cells
    observation: Int[np.ndarray, " row"]
    start: Int[np.ndarray, " block"]
    band: int = eqx.field(static=True)
    block: int = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True, default=None)
    dtype: Any = eqx.field(static=True, default=np.float32)
    progress: bool = eqx.field(static=True, default=False)
    moved: Float[np.ndarray, "observation 2"] | None = None
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Numbers of events and of rows."""
        return block(
            f"Rows: {length(self.index)} for {total(self.count)} events, in blocks of {self.block}",
            f"bands of {self.band} from {text(self.nodes)}",
        )

    @classmethod
    def init(
        cls,
        events: Events | Cells,
        observations,
        per_decade: float = PER_DECADE,
        bands: int | None = None,
        mesh: Mesh | None = None,
        dtype: Any = np.float32,
        progress: bool = False,
    ) -> "Rows":
        """Group events; `bands` sets the number of nodes per band, by default from the response.

        With a mesh of several processes, each process gives its own events.

        Raises `ValueError` if `bands` is not a positive whole number, for events outside their observation's
        selection, for cells of other observations, if several processes give the same events, and for a mesh without
        some of the processes.
        """
        if bands is not None and (bands != int(bands) or bands < 1):
            raise ValueError(f"bands must be a whole number of at least one, not {bands}")
        shared = mesh is not None and distributed.spans(mesh)
        processes = _check_processes(mesh, events) if shared else 1
        agree = partial(distributed.over, shared)
        with distributed.together(shared):
            none = len(events) == 0
            if none:  # blocks need a row: use a dummy event with count zero
                events = _stand_in(observations)
                energy, count = np.asarray(events.energy)[:, None], np.zeros(1, np.uint8)
            elif isinstance(events, Cells):
                events.check_observations(observations)
                energy, count = events.energies(), np.asarray(events.count)
            else:
                check_events(events, observations)
                energy, count = np.asarray(events.energy)[:, None], np.ones(len(events), np.uint8)
            nodes = EnergyNodes(*true_energy_range(observations), per_decade)
        groups, first_node, band = _bands(observations, nodes, energy, count, bands, agree)
        size = int(agree(np.max, len(events)))
        # small blocks need less padding for few events per energy, large blocks fewer windows
        block = int(np.clip(2.0 ** np.floor(np.log2(max(min(size / 100, 32), size / 400))), 8, 1024))
        order, start, valid = [], [], []
        ends = np.cumsum(np.bincount(groups, minlength=first_node.size))
        for group, members in enumerate(np.split(np.argsort(groups, kind="stable").astype(np.int32), ends[:-1])):
            if members.size == 0:
                continue
            blocks = -(-members.size // block)
            order.append(np.resize(members, blocks * block))
            valid.append(np.arange(blocks * block) < (0 if none else members.size))
            start += [int(first_node[group])] * blocks
        blocks = int(agree(np.max, len(start)))
        unit = padding_unit(blocks, size)
        # every device has equally many blocks
        blocks += -blocks % (unit if mesh is None else math.lcm(unit, mesh.size // processes))
        for _ in range(blocks - len(start)):
            order.append(np.resize(order[-1], block))
            start.append(start[-1])
            valid.append(np.zeros(block, bool))
        index = np.concatenate(order)
        count = np.where(np.concatenate(valid), count[index], 0)
        small = np.min_scalar_type(agree(np.max, count.max()))
        return cls(
            nodes,
            Runs.of(tuple(observations)),
            index,
            count.astype(small),
            events,
            np.asarray(events.observation)[index],
            np.array(start, np.int32),
            band,
            block,
            mesh,
            dtype,
            progress and (not shared or distributed.is_first()),
        )

    @property
    def valid(self) -> Bool[np.ndarray, " row"]:
        """Rows with events, without padding."""
        return self.count > 0

    def placed_data(self) -> Events | Cells:
        """Events or cells of the rows, on their devices: every call would transfer leaves on the host.

        With padding, so that data sets of similar size share compiled functions.
        """

        def place(column):
            return self.place(column[self.index])

        if isinstance(self.data, Events):
            return jax.tree.map(place, self.data.without_truth().without_times())
        # edges stay on the host, in double precision
        return eqx.tree_at(lambda c: [c.observation, c.cell, c.count], self.data, replace_fn=place)

    def require_possible(self, density: Float[Array, " row"]) -> None:
        """Raise `ValueError` naming the first event whose density is not positive."""
        possible = distributed.local(density > 0)  # compare first: a local copy of the densities is large
        with distributed.together(self.shared):
            impossible = np.flatnonzero(~possible & self.valid)
            if impossible.size:
                row = impossible[0]
                energy, _, lon, lat, *_ = (column.mean() for column in self.points(impossible[:1]))
                kind = "cell" if isinstance(self.data, Cells) else "event"
                of = self.runs.observations[self.observation[row]]
                raise ValueError(
                    f"{kind} {self.index[row]} ({energy:.4g} TeV at {lon:.4f}, {lat:.4f} deg, observation {of.obs_id}) "
                    f"cannot come from any component; {impossible.size} such {kind}s: restrict energy_range or "
                    "offset_max to where the response is defined"
                )

    def points(self, rows: Int[np.ndarray, " some"] | slice = slice(None)) -> Points:
        """Points of some rows, computed at each call: points of all rows would take too much memory."""
        points = self.data.points(self.index[rows])
        if self.moved is None:
            return points
        lon, lat = self.moved[self.observation[rows]].T[:, :, None]
        return points._replace(lon=points.lon + lon, lat=points.lat + lat)

    def changed(self, source: Source, variants=()) -> "Rows":
        """Rows of the observations as the response of a source changes them.

        Fields of the response that differ in one of the `variants` are free: they change nothing here.
        """
        response = source.response
        if response is None:
            return self
        response.check_observations(len(self.runs.observations))
        free = response.free(variant.response for variant in variants)
        response = response.only(set(response.names) - set(free))
        runs = Runs.of(changed_observations(self.runs.observations, response))
        moved = [np.broadcast_to(part, runs.lon.shape) for part in (response.pointing_lon, response.pointing_lat)]
        # other energies and bands, for the same blocks
        nodes = EnergyNodes(*true_energy_range(runs.observations), np.log(10.0) / self.nodes.log_step)
        energy = self.data.energy[:, None] if isinstance(self.data, Events) else self.data.energies()
        agree = partial(distributed.over, self.shared)
        energy = np.asarray(energy)[self.index]
        groups, first_node, band = _bands(runs.observations, nodes, energy, self.count, None, agree)
        start = first_node[groups[:: self.block]].astype(np.int32)
        moved = np.stack(moved, axis=1).astype(float)
        return dataclasses.replace(self, nodes=nodes, runs=runs, start=start, band=band, moved=moved)

    @property
    def order(self) -> tuple[int, int]:
        """Number of points of a row, in energy and in direction."""
        if isinstance(self.data, Events):
            return 1, 1
        energies, directions = self.data.binning.order
        return energies, directions**2

    @property
    def edges(self) -> Float[np.ndarray, " edge"] | None:
        """Edges [TeV] of the intervals of reconstructed energy of cells; None for events."""
        return None if isinstance(self.data, Events) else np.asarray(self.data.binning.edges)

    @property
    def sharding(self) -> NamedSharding | None:
        """Sharding of arrays of rows or blocks over the mesh."""
        if self.mesh is None:
            return None
        # the compiler splits along these axes automatically, for any axis types of the mesh
        mesh = Mesh(self.mesh.devices, self.mesh.axis_names)
        return NamedSharding(mesh, PartitionSpec(mesh.axis_names))

    @property
    def shared(self) -> bool:
        """Whether other processes have rows of the same posterior."""
        return self.mesh is not None and distributed.spans(self.mesh)

    @property
    def total(self) -> int:
        """Number of rows of all processes."""
        return self.index.size * (jax.process_count() if self.shared else 1)

    @property
    def shares(self) -> list[tuple[Any, int, int]]:
        """Devices of this process with their first and end block, counted within this process."""
        if self.sharding is None:
            return [(None, 0, self.start.size)]
        size = self.start.size // len(self._places)
        return [(device, i * size, (i + 1) * size) for i, (device, _) in enumerate(self._places)]

    @property
    def _places(self) -> list[tuple[Any, int]]:
        """Devices of this process and their positions in the mesh, in mesh order."""
        assert self.mesh is not None
        mine = jax.process_index()
        return [(d, place) for place, d in enumerate(self.mesh.devices.flat) if d.process_index == mine]

    def place(self, array: Shaped[np.ndarray | Array, "..."]) -> Shaped[Array, "..."]:
        """Array of rows or blocks, split over the devices of the mesh; its length is a multiple of their number."""
        if self.mesh is None:
            return jnp.asarray(array)
        if not self.shared:
            return jax.device_put(array, self.sharding)
        parts = np.split(np.asarray(array), len(self._places))
        return self.join([jax.device_put(part, device) for part, (device, _) in zip(parts, self._places, strict=True)])

    def join(self, parts: list) -> Shaped[Array, "..."]:
        """One array from the parts on all devices; this process gives its parts in the order of `shares`."""
        if self.mesh is None or self.sharding is None:
            return parts[0]
        shape = (parts[0].shape[0] * self.mesh.size, *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, self.sharding, parts)

    def share(
        self, members: Int[np.ndarray, " member"]
    ) -> tuple[Int[np.ndarray, " shared"], Int[np.ndarray, " shared"]]:
        """Rows, padded by repetition to equal numbers per device, and their indices among the rows of all processes.

        Data sets of similar size have equal numbers. Indices of padding are beyond the end, where nothing is written.
        """
        number = int(distributed.over(self.shared, np.max, members.size))
        if number == 0:
            return members, members
        devices = 1 if self.mesh is None else len(self._places)
        size = number + -number % math.lcm(devices, padding_unit(number, number))
        place = self.total + np.arange(size) + (size * jax.process_index() if self.shared else 0)
        if members.size == 0:
            return np.zeros(size, int), place
        place[: members.size] = members
        if self.mesh is not None:
            each = self.index.size // devices
            first = np.array([place for _, place in self._places]) * each
            place[: members.size] = first[members // each] + members % each
        return np.resize(members, size), place


def data_of(observations: Any, events: Any) -> tuple[tuple[Observation, ...], Events | Cells]:
    """Observations and events, given separately or as the pair that read_gadf returns.

    Raises `ValueError` for anything else.
    """
    if events is None:
        if not (isinstance(observations, tuple) and len(observations) == 2 and isinstance(observations[0], Events)):
            raise ValueError("give observations and events, or the pair (events, observations) of read_gadf")
        events, observations = observations
    observations = as_tuple(observations)
    require_events(events)
    return observations, events


def require_events(events: Any) -> None:
    """Raise `ValueError` for anything but events and cells."""
    if not isinstance(events, Events | Cells):
        kind = article(type(events).__name__)
        raise ValueError(f"events must be gammajax.Events(energy, lon, lat, observation) or Cells, not {kind}")


def true_energy_range(observations) -> tuple[float, float]:
    """True energies [TeV] whose events can fall in the selections: the range of the response, cut by migra."""
    lows, highs = [], []
    for observation in observations:
        response = observation.response
        migra = response.energy_dispersion.profile.axes[2]
        area = response.effective_area.axes[0]
        lows.append(max(np.exp(area.lower) * (1 + 1e-5), observation.energy_min / migra.upper))
        highs.append(min(np.exp(area.upper) * (1 - 1e-5), observation.energy_max / max(migra.lower, 0.05)))
    low, high = min(lows), max(highs)
    if not low < high:
        raise ValueError(
            f"the selection needs true energies of {low:.4g} to {high:.4g} TeV, which the response does not cover"
        )
    return float(low), float(high)


def _stand_in(observations) -> Events:
    """One event in the middle of the first selection."""
    first = observations[0]
    return Events([np.sqrt(first.energy_min * first.energy_max)], [float(first.lon)], [float(first.lat)])


def padding_unit(length: int, events: int) -> int:
    """Lengths of arrays are multiples of it, so that data sets of similar size share compiled functions.

    Compilation takes longest, beside the rest, for few events; these have at most a quarter of padding.
    """
    steps = 4 if events < SMALL else 8 if events < 10 * SMALL else 16
    return 2 ** max(3, int(np.log2(length / steps)))


def _check_processes(mesh, events) -> int:
    """Number of processes; raises the `ValueError` of [`Rows.init`][]."""
    devices = np.bincount([device.process_index for device in mesh.devices.flat], minlength=jax.process_count())
    if len(set(devices)) > 1:
        raise ValueError(
            f"the mesh has {', '.join(map(str, devices))} devices of the {devices.size} processes; it must have as "
            "many of each: gammajax.distributed.mesh()"
        )
    if len(set(distributed.gather(distributed.digest(events)))) < devices.size:
        raise ValueError("several processes give the same events: give each its own, by gammajax.distributed.share")
    return devices.size


def _bands(observations, nodes, energy, number, bands, agree) -> tuple[np.ndarray, np.ndarray, int]:
    """Group of every row by reconstructed energy, the first node of each group's band, and the bands' width."""
    log_energy = np.log(energy)
    origin = float(agree(np.min, log_energy.min()))
    # group of each point; a row belongs to the group of its first point, the lowest in energy
    reach = ((log_energy - origin) / (2.0 * nodes.log_step) + 1e-9).astype(np.int32)
    count = int(agree(np.max, reach.max())) + 1
    # small integers sort in one pass
    groups = reach[:, 0].astype(np.min_scalar_type(count))
    edges = np.exp(origin + np.arange(count + 1) * 2.0 * nodes.log_step)
    there = agree(np.sum, np.bincount(groups, number, count))
    last_edge = np.arange(count) + 1
    np.maximum.at(last_edge, groups, reach.max(1) + 1)
    last_edge = agree(np.max, last_edge)
    size = nodes.energy.size
    widths = [*range(BAND_STEP, size, BAND_STEP), size] if bands is None else [min(bands, size)]
    allowed = LEFT_OUT * np.sqrt(there.sum())
    for left_out in _left_out(observations, nodes, edges, widths):
        of_group = np.stack([left_out[first : last + 1].max(0) for first, last in enumerate(last_edge)])
        least = of_group.min(1)
        if least.max() <= LEFT_OUT_AT_MOST and least @ there <= allowed:
            break
    # the middle one of equally good bands
    good = [np.flatnonzero(part <= part.min() + 1e-9) for part in of_group]
    return groups, np.array([firsts[firsts.size // 2] for firsts in good]), size - of_group.shape[1] + 1


def _left_out(observations, nodes, edges, widths) -> list[np.ndarray]:
    """Fraction of the events at reconstructed energies outside the bands, [edge, first node] for each width.

    The largest fraction over four offsets in the field of view, and over fluxes per ln E that are flat or fall as
    E^-2.5.
    """
    true = np.asarray(nodes.energy, np.float64)
    worst = [np.zeros((edges.size, true.size - width + 1)) for width in widths]
    reached, seen = np.zeros(edges.size, bool), set()
    for observation in observations:
        key = (id(observation.response), float(observation.offset_max))
        if key in seen:
            continue
        seen.add(key)
        for offset in np.linspace(0.0, observation.offset_max, 4):
            response = _area_times_dispersion(
                observation.response, jnp.asarray(edges), nodes.energy, jnp.asarray(offset)
            )
            for slope in (0.0, -2.5):
                weight = np.maximum(np.asarray(response, np.float64), 0.0) * (true / true[0]) ** slope
                some = weight.sum(1) > 0
                below = np.pad(np.cumsum(weight[some], 1), ((0, 0), (1, 0)))
                below /= below[:, -1:]
                for left_out, width in zip(worst, widths, strict=True):
                    left_out[some] = np.maximum(left_out[some], 1.0 - (below[:, width:] - below[:, :-width]))
                reached |= some
    if not reached.any():
        raise ValueError("the response gives no events at the energies of these events")
    # edges without events take the fraction of the nearest edge with events
    some = np.flatnonzero(reached)
    nearest = some[np.abs(np.arange(edges.size)[:, None] - some).argmin(1)]
    return [left_out[nearest] for left_out in worst]


@eqx.filter_jit
def _area_times_dispersion(response, energy, energy_true, offset):
    offset = jnp.broadcast_to(offset, (energy.size, energy_true.size))
    return response.area(energy_true[None, :], offset) * response.energy_dispersion.density(
        energy[:, None], energy_true[None, :], offset
    )
