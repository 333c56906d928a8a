"""Sources of all runs: the kernel of a round one with a fixed morphology, and intensities of any with a free one.

    lambda_k = t Sum_j F_j Sum_m h_m (A D)_kjm C_jm(r_k),

C_jm and the mean hat functions h_m at the true directions from [`gammajax.engines.hankel`][]. Rows out of reach of the
source cost nothing. The sum over true energies of a free source is done before the events: A D is tabulated at
reconstructed energies, much closer than the energy resolution. Sources that are not round take their folds from
[`gammajax.engines.images`][]. Excluded sky leaves the expected counts by the same sum,
with the exposure in place of A D.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.ndimage import spline_filter1d

from gammajax.common.parameters import is_same
from gammajax.engines.convolution import spline_means
from gammajax.engines.detector import Detector
from gammajax.engines.energy import EnergyNodes
from gammajax.engines.engine import Expected
from gammajax.engines.exposure import Exposure, fine_hats, selected_part
from gammajax.engines.free_response import FreeResponse, several_widths
from gammajax.engines.hankel import PointFold, RadialFold, positions, psf_energies, radial_fold
from gammajax.engines.images import GROUP, ImageFold, Images
from gammajax.engines.placed import SPAN, Placed, first_energies
from gammajax.engines.plane import directions
from gammajax.engines.radial_profiles import PADDING, Folded, Profiles
from gammajax.engines.rows import Rows
from gammajax.instrument.runs import Runs
from gammajax.instrument.sky import displace, separation_on_host
from gammajax.model.morphology import Morphology, Point
from gammajax.model.response_change import ResponseChange

CHUNK = 2**17  # pairs of row and point, per step of an evaluation: bounds its memory
ENERGY_STEP, COARSE = 0.02, 4  # of tabulated reconstructed energies, in ln E', and in steps of moments
EDGE = 2  # copies of the first and last interval of cells: more than the reach of a spline
PIXELS = 256  # numbers of pixels of excluded sky are multiples
NODE_WIDTH = 0.8  # of the smoothed exposure, in distances of its nodes: the rest of an edge is 3e-6
PROBES = 64  # runs whose offsets set the window of offsets


class RadialResponse(eqx.Module):
    """Response of all runs to one fixed round morphology, for kernels; see [`gammajax.engines.kernel.folded`][]."""

    morphology: Morphology
    runs: Runs
    detector: Detector
    folded: Folded
    exposure: Float[Array, "run energy"]
    window: int = eqx.field(static=True)

    @classmethod
    def init(cls, morphology: Morphology, runs: Runs, nodes: EnergyNodes) -> "RadialResponse":
        """Fold; eager."""
        fold = radial_fold([morphology], runs, np.asarray(nodes.energy, np.float64))
        detector = Detector.init(runs, nodes, fold.offsets)
        profiles = _fold(fold, morphology)
        folded = profiles.folded
        window = _window(folded, morphology, runs, nodes)
        exposure = Exposure.init(detector, runs, nodes, fold.reach, float(morphology.radius))
        counted = _by_energy(exposure, morphology, runs)
        share = np.broadcast_to(np.eye(nodes.energy.size), (len(runs.responses), *(nodes.energy.size,) * 2))
        excluded = Excluded.init([morphology], runs, nodes, detector, share, fold.reach)
        if excluded is not None:
            counted = counted - _excluded(excluded, profiles, runs)
        return cls(morphology, runs, detector, folded, counted, window)

    @property
    def centre(self) -> tuple[Array, Array]:
        """Longitude and latitude [deg]."""
        return self.morphology.lon, self.morphology.lat

    def reached(self, lon, lat) -> Any:
        """Whether photons can be reconstructed in one of the directions [deg] of each row [row, point]."""
        return np.any(in_reach([self.morphology], lon, lat, float(self.folded.radii.end)), axis=1)

    def first(self, run, lon, lat, start, band: int) -> Int[Array, " row"]:
        """First offset node of the windows of rows with points [row, point]."""
        rows, points = lon.shape
        run, start = jnp.repeat(run, points), jnp.repeat(start, points)
        there = directions(self.centre, self.runs, run, lon.ravel(), lat.ravel())
        low, _ = _ends(self.folded, self.runs.response[run], start, band, there)
        low = jnp.floor(low.reshape(rows, -1).min(1)).astype(jnp.int32)
        return jnp.clip(low, 0, self.folded.offsets.size - self.window)

    def detected(self, run, first, energy, node, energy_true, cumulative) -> Float[Array, "row offset band"]:
        """T A D [cm^2 s TeV^-1] at the windows."""
        values = self.detector(self.runs.response[run], energy, node, energy_true, first, self.window, cumulative)
        return self.runs.livetime[run][:, None, None] * values

    def kernel(self, detected, run, first, point, start) -> Float[Array, "row band"]:
        """Kernel [cm^2 s TeV^-1 sr^-1] of each row at one direction."""
        lon, lat = point
        there = directions(self.centre, self.runs, run, lon, lat)
        return self.folded.kernel(detected, self.runs.response[run], first, start, there)


class Excluded(eqx.Module):
    """Pixels of excluded sky in reach of a source.

    `solid_angle` [sr]; `table`: index among the `runs` with such pixels, and `exposure` [cm^2 s] of these runs.
    """

    table: Int[Array, " pixel"]
    lon: Float[Array, " pixel"]
    lat: Float[Array, " pixel"]
    solid_angle: Float[Array, " pixel"]
    runs: Int[Array, " table"]
    exposure: Float[Array, "table offset energy"]
    share: Float[Array, "response energy psf_energy"]

    @classmethod
    def init(
        cls, morphologies, runs: Runs, nodes: EnergyNodes, detector: Detector, share, reach: float
    ) -> "Excluded | None":
        """Pixels within the selections; None if there are none. `share`: [`gammajax.engines.hankel.psf_energies`][]."""
        columns = []
        for number, observation in enumerate(runs.observations):
            exclusion = observation.exclusion
            if exclusion is None or not observation.excludes:
                continue
            grid = exclusion.grid
            lon, lat = (np.asarray(column, np.float64) for column in _centres(grid))
            inside = np.asarray(exclusion.excluded) & (
                separation_on_host(lon, lat, observation.lon, observation.lat) <= observation.offset_max
            )
            lon, lat = lon[inside], lat[inside]
            near = in_reach(morphologies, lon, lat, reach)
            columns.append([np.full(near.sum(), number), lon[near], lat[near], np.full(near.sum(), grid.solid_angle)])
        if not sum(column[0].size for column in columns):
            return None
        run, lon, lat, solid_angle = (np.concatenate(part) for part in zip(*columns, strict=True))
        count = -(-run.size // PIXELS) * PIXELS
        solid_angle = np.where(np.arange(count) < run.size, np.resize(solid_angle, count), 0.0)
        run, lon, lat = (np.resize(column, count) for column in (run, lon, lat))
        numbers, table = np.unique(run, return_inverse=True)
        exposure = jnp.moveaxis(detector.exposure(runs, nodes.energy), 2, 1)[numbers]
        lon, lat, solid_angle = (jnp.asarray(np.asarray(column, exposure.dtype)) for column in (lon, lat, solid_angle))
        return cls(
            jnp.asarray(table.astype(np.int32)),
            lon,
            lat,
            solid_angle,
            jnp.asarray(numbers),
            exposure,
            jnp.asarray(share, exposure.dtype),
        )

    def __call__(self, profiles: Profiles | Images, flux: Float[Array, " energy"], runs: Runs) -> Float[Array, " run"]:
        """Expected counts of the source in these pixels."""
        response = runs.response[self.runs]

        def weight(columns):
            exposure, response = columns
            return (exposure * flux) @ self.share[response]

        weights = jax.lax.map(weight, (self.exposure, response))[:, :, None]
        sheet = profiles.of(response).sheet(weights, weights, profiles.offsets.size)

        def some(columns):
            table, lon, lat, solid_angle = columns
            run = self.runs[table]
            there = directions(profiles.centre, runs, run, lon, lat)
            return sheet(table, jnp.zeros_like(lon), there) * solid_angle

        values = _by_chunks(some, (self.table, self.lon, self.lat, self.solid_angle))
        return jax.ops.segment_sum(values, self.runs[self.table], runs.lon.size)

    def by_energy(self, profiles: Profiles, runs: Runs) -> Float[Array, "run energy"]:
        """Exposure [cm^2 s] of the source through these pixels."""
        each = jnp.eye(self.exposure.shape[2], dtype=self.exposure.dtype)
        return jax.lax.map(lambda flux: self(profiles, flux, runs), each).T


class FreeSource(eqx.Module):
    """A source with a free morphology, in some runs, of the numbers `served`.

    - `detected`: A D as coefficients of a cubic B-spline in energy, and `coarse`: at some of the energies; `share`: see
      [`gammajax.engines.hankel.psf_energies`][]. For events [cm^2] per ln E', with the exact integral over every step;
      for cells [cm^2 TeV^-1] the exact means over their intervals.
    - Pairs of a row in reach and one of its directions: `run`, `lon`, `lat`, and `place` among the energies. `members`:
      the rows; `weight` of the directions, for events times 1 / E'.
    - `response` and `inside`, the part of each point spread function in the selection by its width, for a free
      response; otherwise None. `placed`: the brightness in the pairs if directions and shape are fixed.
    """

    runs: Runs
    served: Int[Array, " run"]
    fold: PointFold | RadialFold | ImageFold
    detected: Float[Array, "response offset reconstructed energy"]
    coarse: Float[Array, "response offset coarse energy"]
    share: Float[Array, "response energy psf_energy"]
    exposure: Exposure
    excluded: Excluded | None
    run: Int[Array, " pair"]
    lon: Float[Array, " pair"]
    lat: Float[Array, " pair"]
    place: Float[Array, " pair"]
    weight: Float[Array, "row point"]
    members: Int[Array, " row"]
    response: FreeResponse | None
    inside: "SelectedParts | None"
    placed: Placed | None
    rows: int = eqx.field(static=True)
    window: int = eqx.field(static=True)

    @classmethod
    def init(
        cls,
        morphologies: Sequence[Morphology],
        rows: Rows,
        served: np.ndarray,
        changes: Sequence[ResponseChange] = (),
        free: tuple[str, ...] = (),
    ) -> "FreeSource":
        """Tabulate for the source at several values of its parameters; eager.

        `changes` of the response, of which the fields `free` differ.
        """
        runs, nodes = rows.runs.some(served), rows.nodes
        changes = [change.select(served) for change in changes]
        wider = several_widths(runs, changes, free) if free else runs
        moves = max((float(np.hypot(c.pointing_lon, c.pointing_lat).max()) for c in changes), default=0.0)
        energies, share = psf_energies(wider, nodes, common=morphologies[0].is_energy_dependent)
        if all(morphology.is_round for morphology in morphologies):
            fold = radial_fold(morphologies, wider, energies, moves, compress=True)
        else:
            fold = ImageFold.init(morphologies, wider, energies, moves)
        share = share[:: len(wider.responses) // len(runs.responses)]
        detector = Detector.init(runs, nodes, fold.offsets)
        points = rows.points()
        near = in_reach(morphologies, points.lon, points.lat, float(fold.reach) + moves).any(1)
        mine, place = rows.share(np.flatnonzero(near & rows.valid & np.isin(rows.observation, served)))
        *_, lon, lat, weight, ends = rows.points(mine)
        edges = rows.edges
        if edges is None:
            edges, coarse = energy_steps(runs, changes), COARSE
            position = (np.log(ends[:, 0]) - np.log(edges[0])) / ENERGY_STEP - 0.5
            weight = weight / ends
        else:
            position, coarse = _interval_of(edges, ends), 1
            edges = _beyond(edges)
        run = np.searchsorted(served, rows.observation[mine])
        run, position = (np.repeat(column, weight.shape[1]) for column in (run, position))
        response, inside = None, None
        radius = max(float(m.radius) for m in morphologies)
        if free:
            step = None if rows.edges is not None else ENERGY_STEP
            response = FreeResponse.init(changes, free, detector, nodes, edges, step, coarse)
            inside = SelectedParts.init(runs, wider, nodes, detector, float(fold.reach), radius)
        detected, coarse = reconstructed(detector, runs, nodes, edges, coarse)
        step = fold.offsets[1] - fold.offsets[0]
        span = max(float(_fold(fold, morphology).span) for morphology in morphologies)
        window = min(math.ceil(span / float(step) - 1e-3) + 2, fold.offsets.size)
        placed = None
        if response is not None and rows.mesh is None and mine.size and _stays(morphologies, free):
            pairs = run, lon.ravel(), lat.ravel(), position
            placed = _placed(fold, morphologies[0], runs, pairs, response, changes, detected, share, window, rows.dtype)
            detected = detected.astype(rows.dtype)
            response = response.astype(rows.dtype)
        exposure = Exposure.init(detector, runs, nodes, fold.reach, radius)
        if isinstance(fold, ImageFold):
            exposure = exposure.smooth(NODE_WIDTH * fold.node_step)
        return cls(
            runs,
            jnp.asarray(served),
            fold,
            detected,
            coarse,
            jnp.asarray(share, detected.dtype),
            exposure,
            Excluded.init(morphologies, runs, nodes, detector, share, float(fold.reach) + moves),
            rows.place(run.astype(np.int32)),
            rows.place(lon.ravel()),
            rows.place(lat.ravel()),
            rows.place(position),
            rows.place(weight),
            rows.place(place),
            response,
            inside,
            placed,
            rows.total,
            window,
        )

    def __call__(
        self, morphology: Morphology, flux: Float[Array, " energy"], change: ResponseChange | None = None
    ) -> Expected:
        """Intensity of every row, and counts of the runs `served`, at the current parameters."""
        if self.response is not None and change is not None:
            self = self.changed(change.only(self.response.names).select(self.served))
        folded = self.fold(morphology)
        return Expected(self._intensity(folded, flux), self._counts(folded, morphology, flux)[:, None])

    def changed(self, change: ResponseChange) -> "FreeSource":
        """With the tables of the response as the free fields of `change` make it, for the runs `served`."""
        free, inside = self.response, self.inside
        assert free is not None and inside is not None
        columns = change.pointing_lon, change.pointing_lat, change.effective_area, change.energy_scale
        lon, lat, area, scale = (jnp.broadcast_to(column, self.runs.lon.shape) for column in columns)
        runs = eqx.tree_at(
            lambda r: (r.lon, r.lat, r.livetime),
            self.runs,
            (self.runs.lon + lon, self.runs.lat + lat, self.runs.livetime * area),
        )
        response = free.table_response(runs)
        detected, coarse = free.tables(change, runs) or (self.detected[response], self.coarse[response])
        detected = detected.astype(self.detected.dtype)
        exposure = free.exposure(change, runs)
        table = exposure @ inside.hats * inside(free, change)
        index = response if free.per_run else None
        fold = eqx.tree_at(_psf_tables, self.fold, free.blended(_psf_tables(self.fold), change, index))
        share = self.share[response]
        excluded = self.excluded
        if excluded is not None:
            numbers = excluded.runs[excluded.table]
            excluded = eqx.tree_at(
                lambda e: (e.lon, e.lat, e.exposure, e.share),
                excluded,
                (
                    excluded.lon + lon[numbers],
                    excluded.lat + lat[numbers],
                    jnp.moveaxis(exposure, 2, 1)[excluded.runs],
                    share,
                ),
            )
        if free.per_run:
            runs = eqx.tree_at(lambda r: r.response, runs, jnp.arange(runs.lon.size))
        shift = jnp.zeros_like(scale) if free.cells else jnp.log1p(scale) / ENERGY_STEP
        placed = None if self.placed is None else self.placed.changed(shift, free.log_width(change))
        return dataclasses.replace(
            self,
            runs=runs,
            fold=fold,
            detected=detected,
            coarse=coarse,
            share=share,
            exposure=self.exposure.of(table),
            excluded=excluded,
            lon=self.lon + lon[self.run],
            lat=self.lat + lat[self.run],
            place=self.place - shift[self.run],
            response=None,
            inside=None,
            placed=placed,
        )

    def _intensity(self, folded: Profiles | Images, flux: Float[Array, " energy"]) -> Float[Array, " row"]:
        """Intensity [TeV^-1 sr^-1] of every row."""
        shared = (flux[:, None] * self.share)[:, None]
        weight, coarse = (jnp.matmul(part, shared.astype(part.dtype)) for part in (self.detected, self.coarse))
        runs = self.runs
        if self.placed is not None:
            values = self.placed(weight, runs)
        else:
            sheet = folded.sheet(weight, coarse, self.window)

            def some(columns):
                run, lon, lat, place = columns
                there = directions(folded.centre, runs, run, lon, lat)
                return runs.livetime[run] * sheet(runs.response[run], place, there)

            values = _by_chunks(some, (self.run, self.lon, self.lat, self.place))
        values = (values.reshape(self.weight.shape) * self.weight).sum(1)
        result = jnp.zeros(self.rows, flux.dtype)
        return result.at[self.members].set(values.astype(result.dtype), mode="drop", unique_indices=True)

    def _counts(
        self, folded: Profiles | Images, morphology: Morphology, flux: Float[Array, " energy"]
    ) -> Float[Array, " run"]:
        """Expected counts in the selection of every run."""
        if isinstance(folded, Images):
            counts = self.exposure.of_nodes(folded.lon, folded.lat, folded.share, flux, self.runs)
        else:
            counts = self.exposure(morphology, flux, self.runs)
        if self.excluded is None:
            return counts
        return counts - self.excluded(folded, flux, self.runs)


class SelectedParts(eqx.Module):
    """V of [`gammajax.engines.exposure`][] for point spread functions of several widths.

    `kind` of each run, of a response and an `offset_max`; `hats`: of offset nodes, at the offsets of V.
    """

    parts: Float[Array, "row energy fine"]
    kind: Int[Array, " run"]
    hats: Float[Array, "offset fine"]

    @classmethod
    def init(
        cls, runs: Runs, wider: Runs, nodes: EnergyNodes, detector: Detector, reach: float, radius: float
    ) -> "SelectedParts":
        """Tabulate; eager. `wider`: the runs with responses of all widths, as in `several_widths`.

        `reach` and `radius` [deg] as in `selected_part`.
        """
        offsets = np.asarray(detector.offsets, np.float64)
        count = len(wider.responses) // len(runs.responses)
        pairs = list(zip(np.asarray(runs.response).tolist(), np.asarray(runs.offset_max).tolist(), strict=True))
        kinds = list(dict.fromkeys(pairs))
        each = [(response * count + n, offset_max) for response, offset_max in kinds for n in range(count)]
        parts = np.stack([selected_part(wider, key, nodes, offsets, reach, radius) for key in each])
        kind = jnp.asarray([kinds.index(pair) for pair in pairs])
        dtype = jnp.zeros(()).dtype
        return cls(jnp.asarray(parts, dtype), kind, jnp.asarray(fine_hats(offsets), dtype))

    def __call__(self, free: FreeResponse, change: ResponseChange) -> Float[Array, "run energy fine"]:
        """V of every run at the current width."""
        return free.blended(self.parts, change, self.kind)


def _stays(morphologies: Sequence[Morphology], free: tuple[str, ...]) -> bool:
    """Whether the shape and all directions are the same at all values of the parameters."""
    alike = all(is_same(morphologies[0], other) for other in morphologies[1:])
    return alike and not any(name.startswith("pointing") for name in free)


def _placed(fold, morphology, runs, pairs, response: FreeResponse, changes, detected, share, window: int, dtype):
    """The brightness of a fixed source in pairs; `share` of the responses."""
    scales = np.concatenate([np.log1p(np.ravel(change.energy_scale)) for change in changes]) / ENERGY_STEP
    reach = (0.0, 0.0) if response.cells else (float(scales.max()), float(-scales.min()))
    span = 1 if response.cells else SPAN
    tables = [(detected, np.asarray(runs.response))]
    table = np.arange(runs.lon.size) if response.per_run else np.asarray(runs.response)
    for name in ("energy_resolution", "energy_scale") if response.cells else ("energy_resolution",):
        if name in response.names:
            ends = sorted(changes, key=lambda change: float(np.max(getattr(change, name))))
            tables += [(_tables(response, change, runs)[0], table) for change in (ends[0], ends[-1])]
    first, energies = first_energies(tables, share, np.asarray(response.energy, np.float64), runs, reach, span)
    count = response.log_widths.size
    folds = [eqx.tree_at(_psf_tables, fold, _psf_tables(fold)[n::count]) for n in range(count)]
    return Placed.init(folds, response.log_widths, morphology, runs, pairs, first, energies, span, window, dtype)


def _psf_tables(fold):
    """The part of a fold that is linear in the point spread functions."""
    return fold.coefficients if isinstance(fold, ImageFold) else fold.psf


def _by_chunks(function, columns):
    """Apply to whole chunks of rows and to the rest; gradients of many chunks evaluate them again, for memory."""
    size = columns[0].shape[0]
    if size <= CHUNK:
        return function(columns)
    again = jax.checkpoint(function)
    whole = size // CHUNK * CHUNK
    values = jax.lax.map(again, jax.tree.map(lambda a: a[:whole].reshape(-1, CHUNK, *a.shape[1:]), columns))
    return jnp.concatenate([values.reshape(whole), again(jax.tree.map(lambda a: a[whole:], columns))])


def _interval_of(edges, ends) -> Float[np.ndarray, " row"]:
    """Position of the cells with these `ends` of their interval [TeV] among the intervals of `_beyond(edges)`."""
    return np.searchsorted(edges, ends.mean(1)) - 1.0 + EDGE


def _beyond(edges: Float[np.ndarray, " edge"]) -> Float[np.ndarray, " more"]:
    """Edges [TeV] of the intervals of cells, and of some more on both sides, which splines reach."""
    return np.exp(np.pad(np.log(edges), EDGE, mode="reflect", reflect_type="odd"))


def energy_steps(runs: Runs, changes: Sequence[ResponseChange]) -> Float[np.ndarray, " edge"]:
    """Edges [TeV] of equal steps of reconstructed energies, beyond the selections of all runs at all energy scales."""
    low, high = (math.log(float(f(a))) for f, a in ((np.min, runs.energy_min), (np.max, runs.energy_max)))
    scales = [np.log1p(np.asarray(change.energy_scale)) for change in changes] or [np.zeros(1)]
    low, high = low - max(scale.max() for scale in scales), high - min(scale.min() for scale in scales)
    intervals = math.ceil((high - low) / ENERGY_STEP) + 2 * PADDING
    intervals = -(-intervals // COARSE) * COARSE
    return np.exp(low + ENERGY_STEP * (np.arange(intervals + 2) - PADDING - 0.5))


def reconstructed(detector: Detector, runs: Runs, nodes: EnergyNodes, edges, every: int) -> tuple[Array, Array]:
    """Spline of A D with the exact means over intervals of reconstructed energy [TeV], and every n-th mean; eager.

    Of equal steps, those of the events (`every` above one), the means are per ln E' and those of the spline. Others
    are values of the spline at the integers.
    """
    dtype = jnp.zeros(()).dtype
    shape, count = (len(runs.responses), detector.offsets.size), edges.size - 1
    detected = np.empty((*shape, count, nodes.energy.size), dtype)
    coarse = np.empty((*shape, len(range(0, count, every)), nodes.energy.size), dtype)
    width = np.diff(edges) / ENERGY_STEP if every > 1 else np.ones(count)
    ends = jnp.asarray(np.stack([edges[:-1], edges[1:]], axis=1))
    cumulative = detector.cumulative()
    for number in range(shape[0]):
        values = np.asarray(_mean_detected(detector, nodes, jnp.asarray(number), ends, cumulative), np.float64)
        values = (values * width[:, None, None]).transpose(1, 0, 2)
        coarse[number] = values[:, ::every]
        detected[number] = spline_means(values) if every > 1 else spline_filter1d(values, 3, axis=1, mode="mirror")
    return jnp.asarray(detected), jnp.asarray(coarse)


@eqx.filter_jit
def _mean_detected(detector, nodes, response, ends, cumulative) -> Float[Array, "interval offset energy"]:
    """Means of A D [cm^2 TeV^-1] of one response over intervals of reconstructed energy, [interval, end]."""
    shape = ends.shape[0], nodes.energy.size
    node = jnp.broadcast_to(jnp.arange(nodes.energy.size), shape)
    first = jnp.zeros(ends.shape[0], jnp.int32)
    response = jnp.broadcast_to(response, first.shape)
    return detector(response, ends, node, nodes.energy[node], first, detector.offsets.size, cumulative)


def groups(morphologies: Sequence[Morphology], runs: Runs) -> list[np.ndarray]:
    """Numbers of the runs that are folded together: all, or those with pointings nearby for images of wide sources."""
    left = np.arange(runs.lon.size)
    if all(m.is_round for m in morphologies) or max(float(m.radius) for m in morphologies) <= GROUP:
        return [left]
    found = []
    while left.size:
        away = separation_on_host(runs.lon[left], runs.lat[left], float(runs.lon[left[0]]), float(runs.lat[left[0]]))
        found.append(left[away <= GROUP])
        left = left[away > GROUP]
    return found


def in_reach(morphologies: Sequence[Morphology], lon, lat, reach: float) -> np.ndarray:
    """Whether a photon of a source can be reconstructed in these directions [deg].

    The source may be anywhere between the positions of the `morphologies`, which are few values of a prior.
    """
    *centre, spread = positions(morphologies)
    radius = max(float(m.radius) for m in morphologies)
    return separation_on_host(lon, lat, *centre) <= spread + radius + reach


def _ends(folded, response, start, band: int, there):
    """Lowest and highest offset of the true directions of each pair, in steps of the offset nodes."""
    last = folded.offsets.size - 1
    at = folded.sides(response, jnp.zeros_like(start), last + 1, start, band, there)
    at = jnp.clip(at, 0.0, last)
    return at.min((0, 2, 3)), at.max((0, 2, 3))


def _window(folded, morphology, runs, nodes) -> int:
    """Number of offset nodes that the true directions of one reconstructed direction can reach."""
    if isinstance(morphology, Point):
        return 2
    away = separation_on_host(runs.lon, runs.lat, morphology.lon, morphology.lat)
    probed = np.argsort(away)[np.unique(np.linspace(0, away.size - 1, PROBES).astype(int))]
    probed = np.resize(probed, min(PROBES, away.size))
    rad = float(morphology.radius) * np.linspace(0.0, 1.3, 14)
    angle = np.arange(0.0, 360.0, 30.0)
    low, high = _probe(folded, morphology, runs, jnp.asarray(probed), jnp.asarray(rad), jnp.asarray(angle), nodes)
    count = np.ceil(np.asarray(high) - 1e-4) - np.floor(np.asarray(low) + 1e-4)
    return min(int(count.max()) + 2, folded.offsets.size)


@eqx.filter_jit
def _probe(folded, morphology, runs, probed, rad, angle, nodes):
    run = jnp.repeat(probed, rad.size * angle.size)
    r, a = (x.ravel() for x in jnp.meshgrid(rad, angle))
    lon, lat = displace(morphology.lon, morphology.lat, jnp.tile(r, probed.size), jnp.tile(a, probed.size))
    there = directions((morphology.lon, morphology.lat), runs, run, lon, lat)
    return _ends(folded, runs.response[run], jnp.zeros_like(run), nodes.energy.size, there)


@eqx.filter_jit
def _fold(fold, morphology):
    return fold(morphology)


@eqx.filter_jit
def _tables(response, change, runs):
    return response.tables(change, runs)


@eqx.filter_jit
def _by_energy(exposure, morphology, runs):
    return exposure.by_energy(morphology, runs)


@eqx.filter_jit
def _excluded(excluded, profiles, runs):
    return excluded.by_energy(profiles, runs)


@eqx.filter_jit
def _centres(grid):
    return grid.directions()
