"""Kernel engine: fixed morphology, any spectrum, one block mat-vec per likelihood call.

The set-up folds the response with the morphology and evaluates it for every event and true-energy node,

    K_kj = t Sum_m A_m(E_j) D_m(E'_k|E_j) C_m(Omega'_k|E_j).

Each event keeps a band of true energies. Then lambda_k = Sum_j K_kj F_j for any spectrum. A free change of the
effective area multiplies the spectrum, in every run by its own factor.
"""

import time
from collections.abc import Iterable, Iterator
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gammajax.common.display import block, document, memory, number_of, text, words
from gammajax.common.parameters import is_concrete, is_same
from gammajax.common.progress import DELAY, Progress
from gammajax.engines.convolution import (
    fold_coefficients,
    fold_energies,
    fold_plan,
    fold_transforms,
    selected_fractions,
    spline_integral_weights,
    spline_taps,
)
from gammajax.engines.detector import Detector
from gammajax.engines.energy import EnergyNodes
from gammajax.engines.engine import Engine, Expected
from gammajax.engines.radial import RadialResponse
from gammajax.engines.rows import PER_DECADE, Rows, true_energy_range
from gammajax.engines.selection import spline_integrals
from gammajax.instrument.observation import Observation, as_tuple
from gammajax.instrument.runs import Runs
from gammajax.instrument.sky import Grid
from gammajax.model.mixture import Source
from gammajax.model.morphology import Morphology

CHUNK = {"cpu": 2**12}  # points per step of the set-up: bounds its memory
CHUNK_ELSEWHERE = 2**16
AREA = ("effective_area", "effective_area_tilt", "effective_area_spline")  # fields of a response that may be free
PIXELS = 2**13  # at a time in double precision
REACHED = 2**20  # points at a time whose distance from the source is looked at


class KernelEngine(Engine):
    """Banded kernel of one source for all events.

    `kernel` [cm^2 s TeV^-1 sr^-1]; `exposure` [cm^2 s] by observation and node, within the selection. `area` names the
    free fields of the response, all of the effective area, and `run` is that of each row if they need it.
    """

    nodes: EnergyNodes
    kernel: Float[Array, "block band row"]
    start: Int[Array, " block"]
    exposure: Float[Array, "observation energy"]
    run: Int[Array, " event"] | None = None
    area: tuple[str, ...] = eqx.field(static=True, default=())

    @classmethod
    def init(cls, source: Source, observations, rows: Rows, variants=()) -> "KernelEngine":
        """Fold and evaluate; eager.

        Raises `ValueError` for a traced morphology, and for a response that is free in more than its effective area.
        """
        del observations
        rows = rows.changed(source, variants)
        require_fixed_response(source, variants, "the kernel engine", but=AREA)
        return cls.of(folded(source.morphology, rows.runs.observations, rows.nodes), rows, source, variants)

    @classmethod
    def of(cls, responses: Iterable, rows: Rows, source: Source, variants=()) -> "KernelEngine":
        """Evaluate folded responses, one per observation, for the rows as the source changes them."""
        kernel, exposure = evaluate(responses, rows)
        area = free_fields(source, variants)
        varies = area and source.response is not None and source.response.varies(*area)
        run = rows.place(rows.observation.astype(np.int32)) if varies else None
        return cls(rows.nodes, kernel, rows.place(rows.start), exposure, run, area)

    @eqx.filter_jit
    def __call__(self, source: Source) -> Expected:
        """Intensities and counts, by energy."""
        factor, norm = None, jnp.ones(())
        if self.area and source.response is not None:
            change = source.response.only(self.area)
            norm = jnp.asarray(change.effective_area)
            factor = change.area_factor(self.nodes.sub_energy)
        flux = self.nodes.flux(source.spectrum, factor)
        counts = self.exposure * flux * norm[..., None]
        flux = flux.astype(self.kernel.dtype)
        window = self.start[:, None] + jnp.arange(self.kernel.shape[1])
        if flux.ndim == 1:
            values = jnp.einsum("bj,bjk->bk", flux[window], self.kernel).reshape(-1)
        else:
            assert self.run is not None
            run = self.run.reshape(self.kernel.shape[0], 1, -1)
            values = (flux[run, window[:, :, None]] * self.kernel).sum(1).reshape(-1)
        scale = norm if norm.ndim == 0 else norm[self.run]
        return Expected(values * scale.astype(values.dtype), counts)


class PreparedKernel(eqx.Module):
    """Folded responses of one morphology, for kernels of many lists of events from the same observations.

    The fold is most of the work for few events: keep it for many data sets, for example in studies of coverage.
    Pass it instead of an engine's name, `gj.Posterior(..., engine={"signal": prepared})`.
    """

    morphology: Morphology
    observations: tuple[Observation, ...]
    nodes: EnergyNodes
    responses: tuple
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Morphology, number of observations and size."""
        observations = number_of(len(self.observations), "observation")
        return block(f"PreparedKernel for {observations}, {memory(self.responses)}", text(self.morphology))

    @classmethod
    def init(cls, morphology: Morphology, observations, nodes: EnergyNodes | float = PER_DECADE) -> "PreparedKernel":
        """Fold; eager. `nodes` of true energy, or their number per decade, as in [`gammajax.Posterior`][].

        Raises `ValueError` for a traced morphology.
        """
        observations = as_tuple(observations)
        if not isinstance(nodes, EnergyNodes):
            nodes = EnergyNodes(*true_energy_range(observations), nodes)
        return cls(morphology, observations, nodes, tuple(folded(morphology, observations, nodes)))

    def __call__(self, source: Source, observations, rows: Rows, variants=()) -> KernelEngine:
        """Kernel for the events in `rows`.

        Raises `ValueError` for another morphology, a free one, other observations or other nodes.
        """
        del observations
        rows = rows.changed(source, variants)
        return KernelEngine.of(self.responses_of([source, *variants], rows), rows, source, variants)

    def responses_of(self, sources, rows: Rows) -> tuple:
        """The responses, if they belong to these sources; raises the same `ValueError` as a call.

        `rows` are those of the observations as the response of the sources changes them.
        """
        require_fixed_response(sources[0], sources[1:], "a prepared kernel", but=AREA)
        for name, mine, others in (
            ("morphology", self.morphology, [source.morphology for source in sources]),
            ("observations", self.observations, [rows.runs.observations]),
            ("true-energy nodes", self.nodes, [rows.nodes]),
        ):
            if not all(is_same(mine, other) for other in others):
                raise ValueError(f"the kernel was prepared for other {name}: prepare one for each, or name the engine")
        return self.responses


def free_fields(source: Source, variants) -> tuple[str, ...]:
    """Fields of the response of a source that differ in one of its variants."""
    return () if source.response is None else source.response.free(variant.response for variant in variants)


def require_fixed_response(source: Source, variants, engine: str, but: tuple[str, ...] = ()) -> None:
    """Raise `ValueError` for a source whose response is free, naming the engine that evaluates it."""
    free = [name for name in free_fields(source, variants) if name not in but]
    if free:
        raise ValueError(f"{engine} keeps the response fixed, but its {free[0]} is free; use engine='fold'")


def folded(morphology: Morphology, observations, nodes: EnergyNodes) -> Iterator:
    """Responses to the morphology with the runs that each serves, one at a time: those of wide sources are large.

    Raises `ValueError` for a traced morphology.
    """
    if not is_concrete(morphology):
        raise ValueError(
            "the kernel engine needs a fixed morphology; for a free position or extension use engine='fold'"
        )
    runs = Runs.of(tuple(observations))
    if morphology.is_round:
        return iter([(np.arange(len(observations)), RadialResponse.init(morphology, runs, nodes))])
    return _one_by_one(morphology, runs, nodes)


def _one_by_one(morphology, runs, nodes) -> Iterator:
    """Responses of single runs; what equal responses share is made once."""
    made: dict[int, tuple] = {}
    for number, (observation, response) in enumerate(zip(runs.observations, np.asarray(runs.response), strict=True)):
        folded, made[int(response)] = _FoldedResponse.init(morphology, observation, nodes, made.get(int(response)))
        yield np.array([number]), folded


def evaluate(
    responses: Iterable, rows: Rows, fluxes: Float[Array, "source energy"] | None = None
) -> tuple[Array, Array]:
    """Kernel [block, band, row] of all rows, or intensities [block, source, row] for given fluxes; and exposures.

    Values are written in place on the device, a chunk of rows at a time, without a second copy.
    """
    number, kind = (rows.band, "a kernel") if fluxes is None else (len(fluxes), "intensities")
    step = max(CHUNK.get(jax.default_backend(), CHUNK_ELSEWHERE) // rows.order[1], 256)
    parts, exposures, done, begun = [], [], 0, time.perf_counter()
    for device, low, high in rows.shares:
        with jax.default_device(device):
            parts.append(jnp.zeros((high - low, number, rows.block), rows.dtype))
    with Progress(rows.progress, "set-up", DELAY) as bar:
        for served, local in responses:  # enumerate would keep each response until the next one exists
            exposures.append(local.exposure)
            cumulative = local.detector.cumulative() if rows.order[0] > 1 else None
            for place, (device, low, high) in enumerate(rows.shares):
                members = np.isin(rows.observation[low * rows.block : high * rows.block], served)
                served_rows = np.flatnonzero(members) + low * rows.block
                members = _reached(local, rows, served_rows)
                done += served_rows.size - members.size
                # few shapes: few compilations
                size = min(max(1 << (members.size - 1).bit_length(), 256), step) if members.size else step
                for first in range(0, members.size, step):
                    chunk = np.resize(members[first : first + step], size)
                    block = chunk // rows.block
                    with jax.default_device(device):
                        *_, lon, lat, weight, ends = rows.points(chunk)
                        points = [jnp.asarray(column, float) for column in (lon, lat, weight)]
                        energy = jnp.asarray(ends, float), cumulative
                        start, run = jnp.asarray(rows.start[block]), jnp.asarray(rows.observation[chunk])
                        values = _evaluate(local, rows.nodes, rows.band, fluxes, run, energy, points, start)
                        at = jnp.asarray(block - low), jnp.asarray(chunk % rows.block)
                        parts[place] = _insert(parts[place], *at, values)
                        # the host must not run ahead of the device: waiting chunks take memory
                        parts[place].block_until_ready()
                    done += min(size, members.size - first)
                    rate = done / (time.perf_counter() - begun)
                    words = f"{done:.3g} of {rows.index.size:.3g} rows of {kind}, {rate:.2g} per second"
                    bar.update(done / rows.index.size, words)
            del local  # free the memory before the next response
    return rows.join(parts), jnp.concatenate(exposures)


def _reached(local, rows: Rows, members: Int[np.ndarray, " some"]) -> Int[np.ndarray, " reached"]:
    """The rows where photons of the source can be reconstructed."""
    step = REACHED // rows.order[1]
    parts = [np.zeros(0, members.dtype)]
    for first in range(0, members.size, step):
        some = members[first : first + step]
        points = rows.points(some)
        parts.append(some[local.reached(points.lon, points.lat)])
    return np.concatenate(parts)


@partial(jax.jit, donate_argnums=0)
def _insert(out, block, row, values):
    return out.at[block, :, row].set(values.astype(out.dtype))


class _FoldedResponse(eqx.Module):
    """Response of one run to a morphology with an image."""

    detector: Detector
    livetime: Float[Array, ""]
    grid: Grid
    stride: int = eqx.field(static=True)
    coefficients: Float[Array, "pixel fold_energy offset"]
    exposure: Float[Array, "run energy"]

    @classmethod
    def init(cls, morphology, observation, nodes, made=None) -> tuple["_FoldedResponse", tuple]:
        """Fold; returns also what other runs of this response can use again, as `made`."""
        energy = np.asarray(nodes.energy, np.float64)
        plan = fold_plan([morphology], observation, energy)
        grid = plan.grid(morphology, observation)
        # fold wide sources at eight energies per decade; sources comparable to the PSF follow its every change with
        # energy and are folded at every node
        small = grid.size <= 250 or 2.0 * float(morphology.radius) <= plan.radius
        stride = 1 if small else max(1, round(np.log(10.0) / 8.0 / nodes.log_step))
        at = fold_energies(energy, stride)
        sizes = plan.step, plan.offsets, stride
        if made is None or made[0] != sizes:
            alone = Runs.of((observation,))
            radial = fold_transforms(observation.response, plan, at)
            made = sizes, radial, Detector.init(alone, nodes, np.asarray(plan.offsets))
        _, radial, detector = made
        coefficients = fold_coefficients(morphology, observation, plan, at, radial)
        run = Runs.of((observation,))
        # integrate the same spline that is evaluated at the events
        if plan.wide:
            selected = spline_integrals(observation, grid)
        else:
            selected = spline_integral_weights(selected_fractions(observation, grid)) * grid.solid_angle
        # in double precision: the sum has up to a million terms
        selected = np.asarray(selected, np.float64).ravel()
        inside, host = np.zeros(coefficients.shape[1:]), np.asarray(coefficients)
        for first in range(0, selected.size, PIXELS):
            part = host[first : first + PIXELS].astype(np.float64)
            inside += np.tensordot(selected[first : first + PIXELS], part, 1)
        position = np.arange(nodes.energy.size) / stride
        below = np.minimum(position.astype(int), inside.shape[0] - 2) if inside.shape[0] > 1 else position.astype(int)
        fraction = (position - below)[:, None]
        inside = inside[below] * (1.0 - fraction) + inside[np.minimum(below + 1, inside.shape[0] - 1)] * fraction
        exposure = (detector.exposure(run, nodes.energy) * inside).sum(-1)
        folded = cls(detector, observation.livetime, grid, stride, coefficients.astype(jnp.float32), exposure)
        return folded, made

    def reached(self, lon, lat) -> np.ndarray:
        """All rows."""
        return np.ones(len(lon), bool)

    def first(self, run, lon, lat, start, band: int):
        """All offset nodes."""
        return jnp.zeros_like(run)

    def detected(self, run, first, energy, node, energy_true, cumulative):
        """T A D [cm^2 s TeV^-1] by offset node."""
        return self.livetime * self.detector(
            jnp.zeros_like(run), energy, node, energy_true, first, self.detector.offsets.size, cumulative
        )

    def kernel(self, detected, run, first, point, start):
        """Sum over offset nodes of the folded brightness, linear in ln E between fold energies."""
        band = detected.shape[2]
        node = start[:, None] + jnp.arange(band)
        count, offsets = self.coefficients.shape[1:]
        window = min((node.shape[1] - 1) // self.stride + 2, count)
        lowest = jnp.minimum(node[:, 0] // self.stride, count - window)

        def tap(pixel, energy):
            return jax.lax.dynamic_slice(self.coefficients, (pixel, energy, 0), (1, window, offsets))[0]

        index, weight = spline_taps(self.grid, *point)
        weight = weight.astype(self.coefficients.dtype)
        taps = (weight[:, i, None, None] * jax.vmap(tap)(index[:, i], lowest) for i in range(index.shape[1]))
        total = sum(taps, start=jnp.zeros((), weight.dtype))
        if self.stride == 1:
            position = node - lowest[:, None]
            values = jnp.take_along_axis(total, position[..., None], axis=1)
        else:
            position = node / self.stride - lowest[:, None]
            below = jnp.clip(position.astype(jnp.int32), 0, window - 2)
            fraction = (position - below)[..., None].astype(total.dtype)
            low = jnp.take_along_axis(total, below[..., None], axis=1)
            high = jnp.take_along_axis(total, below[..., None] + 1, axis=1)
            values = low + fraction * (high - low)
        return jnp.einsum("rmb,rbm->rb", detected, values)


def _evaluate(local, nodes, band: int, fluxes, run, energy, points, start) -> Float[Array, "row number"]:
    """Kernel [row, band], or intensities [row, source] for given fluxes: the mean over the points of each row.

    The means over energy and over direction are separate, and compiled separately: a fused program would repeat their
    gathers for every offset.
    """
    first = _first(local, band, run, points, start)
    detected = _detected(local, nodes, band, run, first, energy, start)
    return _product(fluxes, _kernel(local, detected, run, first, points, start), start)


@eqx.filter_jit
def _first(local, band, run, directions, start):
    return local.first(run, *directions[:2], start, band)


@eqx.filter_jit
def _detected(local, nodes, band, run, first, energy, start):
    ends, cumulative = energy
    node = start[:, None] + jnp.arange(band)
    return local.detected(run, first, ends, node, nodes.energy[node], cumulative)


@eqx.filter_jit
def _kernel(local, detected, run, first, points, start):
    """Sum over the directions of each row [row, point], one after the other."""

    def at(point):
        return point[2][:, None] * local.kernel(detected, run, first, point[:2], start)

    columns = tuple(column.T for column in points)
    total = at(tuple(column[0] for column in columns))
    if columns[0].shape[0] == 1:
        return total
    others = tuple(column[1:] for column in columns)
    return jax.lax.scan(lambda total, point: (total + at(point), None), total, others)[0]


@eqx.filter_jit
def _product(fluxes, kernel, start):
    if fluxes is None:
        return kernel
    window = start[:, None] + jnp.arange(kernel.shape[1])
    return jnp.stack([(kernel * flux[window]).sum(-1) for flux in fluxes], axis=1)
