"""Kernel engine: fixed morphology, any spectrum, one block mat-vec per likelihood call.

Once, at the start, the response is folded with the morphology and evaluated for every event and true-energy node,

    K_kj = t Sum_m A_m(E_j) D_m(E'_k|E_j) C_m(Omega'_k|E_j),

and kept in a band of true energies about each event's own. Then lambda_k = Sum_j K_kj F_j for any spectrum.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gammajax.energy import EnergyNodes
from gammajax.engines.acceptance import point_probability
from gammajax.engines.detector import DetectorResponse
from gammajax.engines.engine import Engine
from gammajax.engines.rows import PER_DECADE, Rows, true_energy_range
from gammajax.fold import (
    fold_coefficients,
    fold_energies,
    fold_plan,
    selected_fractions,
    spline_integral_weights,
    spline_taps,
)
from gammajax.mixture import Source
from gammajax.morphology import Morphology, Point
from gammajax.observation import Observation
from gammajax.sky import Grid, separation
from gammajax.spectra import is_concrete, is_same

CHUNK = 4096  # events per step of the set-up: bounds its memory


class KernelEngine(Engine):
    """Banded kernel of one source for all events.

    `kernel` [cm^2 s TeV^-1 sr^-1]; `exposure` [cm^2 s] by observation and node, within the selection.
    """

    nodes: EnergyNodes
    kernel: Float[Array, "block band row"]
    start: Int[Array, " block"]
    exposure: Float[Array, "observation energy"]

    @classmethod
    def init(cls, source: Source, observations, rows: Rows, variants=()) -> "KernelEngine":
        """Fold and evaluate; eager. `ValueError` when the morphology is being traced by a transformation."""
        return PreparedKernel.init(source.morphology, observations, rows.nodes)(source, observations, rows)

    def intensity(self, source: Source) -> Float[Array, " row"]:
        """Intensity [TeV^-1 sr^-1] of every row."""
        flux = self.nodes.flux(source.spectrum).astype(self.kernel.dtype)
        window = self.start[:, None] + jnp.arange(self.kernel.shape[1])
        # transforms leave noise of either sign where there are no events; single elements may rightly be negative
        values = jnp.einsum("bj,bjk->bk", flux[window], self.kernel).reshape(-1)
        # not maximum, whose derivative at a flux of zero is one half
        return jnp.where(values < 0.0, 0.0, values)

    def expected_counts(self, source: Source) -> Float[Array, " observation"]:
        """Expected counts in the selection of every observation."""
        return self.exposure @ self.nodes.flux(source.spectrum)


class PreparedKernel(eqx.Module):
    """Folded responses of one morphology, for kernels of many lists of events from the same observations.

    The fold is most of the work for few events: keep it where there are many data sets, as in studies of coverage.
    It takes the place of an engine's name, `gj.Posterior(..., engine={"signal": prepared})`.
    """

    morphology: Morphology
    observations: tuple[Observation, ...]
    nodes: EnergyNodes
    responses: tuple

    @classmethod
    def init(cls, morphology: Morphology, observations, nodes: EnergyNodes | float = PER_DECADE) -> "PreparedKernel":
        """Fold; eager. `nodes` of true energy, or so many per decade, as [`gammajax.Posterior`][] has them.

        Raises `ValueError` when the morphology is being traced by a transformation.
        """
        if not is_concrete(morphology):
            raise ValueError(
                "the kernel engine needs a fixed morphology; for a free position or extension use engine='fold'"
            )
        observations = (observations,) if isinstance(observations, Observation) else tuple(observations)
        if not isinstance(nodes, EnergyNodes):
            nodes = EnergyNodes(*true_energy_range(observations), nodes)
        build = _PointResponse if isinstance(morphology, Point) else _FoldedResponse
        return cls(morphology, observations, nodes, tuple(build.init(morphology, o, nodes) for o in observations))

    def __call__(self, source: Source, observations, rows: Rows, variants=()) -> KernelEngine:
        """Kernel for the events in `rows`.

        Raises `ValueError` for another morphology, a free one, other observations or other nodes.
        """
        morphologies = [source.morphology, *(variant.morphology for variant in variants)]
        for name, mine, others in (
            ("morphology", self.morphology, morphologies),
            ("observations", self.observations, [tuple(observations)]),
            ("true-energy nodes", self.nodes, [rows.nodes]),
        ):
            if not all(is_same(mine, other) for other in others):
                raise ValueError(f"the kernel was prepared for other {name}: prepare one for each, or name the engine")
        kernel = np.zeros((rows.index.size, rows.band), np.dtype(jnp.result_type(float)))
        start = np.repeat(rows.start, rows.block)
        for number, local in enumerate(self.responses):
            mine = np.flatnonzero(rows.observation == number)
            size = CHUNK if mine.size > CHUNK else -(-mine.size // 256) * 256
            for first in range(0, mine.size, CHUNK):
                chunk = mine[first : first + CHUNK]
                padded = np.resize(chunk, size)  # one shape for all chunks: one compilation
                columns = (rows.energy[padded], rows.lon[padded], rows.lat[padded], start[padded])
                kernel[chunk] = _evaluate(local, rows.nodes, rows.band, *map(jnp.asarray, columns))[: chunk.size]
        # rows last: the product with the flux then runs along contiguous memory in both directions
        blocks = np.ascontiguousarray(kernel.reshape(-1, rows.block, rows.band).swapaxes(1, 2))
        exposure = jnp.stack([local.exposure for local in self.responses])
        return KernelEngine(rows.nodes, rows.place(blocks), rows.place(rows.start), exposure)


class _PointResponse(eqx.Module):
    detector: DetectorResponse
    observation: Observation
    morphology: Point
    exposure: Float[Array, " energy"]

    @classmethod
    def init(cls, morphology, observation, nodes):
        offset = observation.offset(morphology.lon, morphology.lat)
        detector = DetectorResponse.init(observation, nodes, offset[None])
        inside = point_probability(observation, nodes.energy, morphology.lon, morphology.lat)
        exposure = detector.exposure(observation, nodes.energy)[:, 0] * inside
        return cls(detector, observation, morphology, exposure)

    def spread(self, lon, lat, node, energy_true):
        """Point spread function [sr^-1] of the events, at the exact separation and offset."""
        rad = separation(lon, lat, self.morphology.lon, self.morphology.lat)[:, None]
        offset = self.observation.offset(self.morphology.lon, self.morphology.lat)
        shape = energy_true.shape
        density = self.observation.response.psf.density(
            energy_true, jnp.full(shape, offset), jnp.broadcast_to(rad, shape)
        )
        return density[..., None]


class _FoldedResponse(eqx.Module):
    detector: DetectorResponse
    grid: Grid
    stride: int = eqx.field(static=True)
    coefficients: Float[Array, "pixel fold_energy offset"]
    exposure: Float[Array, " energy"]

    @classmethod
    def init(cls, morphology, observation, nodes):
        energy = np.asarray(nodes.energy, np.float64)
        plan = fold_plan([morphology], observation, energy)
        grid = plan.grid(morphology, observation)
        # the response is folded at every node, for wide sources at eight energies per decade; those within the reach of
        # the point spread function feel its every change
        small = grid.size <= 250 or 2.0 * float(morphology.radius) <= plan.radius
        stride = 1 if small else max(1, round(np.log(10.0) / 8.0 / nodes.log_step))
        coefficients = fold_coefficients(morphology, observation, plan, fold_energies(energy, stride))
        detector = DetectorResponse.init(observation, nodes, jnp.asarray(plan.offsets))
        # integrate the very spline that the events are evaluated with
        selected = spline_integral_weights(selected_fractions(observation, grid)).ravel() * grid.solid_angle
        # in double precision: the sum has up to a million terms
        selected = np.asarray(selected, np.float64)
        inside = np.stack([selected @ part for part in np.asarray(coefficients).transpose(1, 0, 2)])
        position = np.arange(nodes.energy.size) / stride
        below = np.minimum(position.astype(int), inside.shape[0] - 2) if inside.shape[0] > 1 else position.astype(int)
        fraction = (position - below)[:, None]
        inside = inside[below] * (1.0 - fraction) + inside[np.minimum(below + 1, inside.shape[0] - 1)] * fraction
        exposure = (detector.exposure(observation, nodes.energy) * inside).sum(-1)
        return cls(detector, grid, stride, coefficients, exposure)

    def spread(self, lon, lat, node, energy_true):
        """Folded brightness [sr^-1] of the events by offset node, linear in ln E between fold energies."""
        index, weight = spline_taps(self.grid, lon, lat)
        count, offsets = self.coefficients.shape[1:]
        window = min((node.shape[1] - 1) // self.stride + 2, count)
        first = jnp.minimum(node[:, 0] // self.stride, count - window)

        def tap(pixel, energy):
            return jax.lax.dynamic_slice(self.coefficients, (pixel, energy, 0), (1, window, offsets))[0]

        total = 0.0
        for i in range(16):
            total = total + weight[:, i, None, None] * jax.vmap(tap)(index[:, i], first)
        if self.stride == 1:
            position = node - first[:, None]
            return jnp.take_along_axis(total, position[..., None], axis=1)
        position = node / self.stride - first[:, None]
        below = jnp.clip(position.astype(jnp.int32), 0, window - 2)
        fraction = (position - below)[..., None]
        low = jnp.take_along_axis(total, below[..., None], axis=1)
        high = jnp.take_along_axis(total, below[..., None] + 1, axis=1)
        return low + fraction * (high - low)


@eqx.filter_jit
def _evaluate(local, nodes, band: int, energy, lon, lat, start) -> Float[Array, "event band"]:
    node = start[:, None] + jnp.arange(band)
    energy_true = nodes.energy[node]
    detector = local.detector(energy, energy_true, node)
    return (detector * local.spread(lon, lat, node, energy_true)).sum(-1)
