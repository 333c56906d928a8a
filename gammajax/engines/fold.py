"""Fold engine: free positions, extensions and shapes, at a cost that hardly grows with the number of events.

The fold of [`gammajax.engines.convolution`][] runs inside the likelihood. Responses are tabulated once at reconstructed
energies E'_g; then, for the current parameters,

    lambda(E'_g, Omega') = Sum_m [h_m S] (x) Sum_e P_em H_gem,    H_gem = Sum_j t A_m(E_j) D_m(E'_g|E_j) F_j T_je

with T_je the interpolation of the point spread function between its energies E_e. The sums over m and e are over
Fourier transforms, so each E'_g needs one inverse transform. The result is a tensor product of cubic B-splines in ln E'
and on the sky, evaluated at the events. The grid moves with the source: its position is exact, not pixelised.

Round sources need no images: [`gammajax.engines.radial`][].

For cells the E'_g are their intervals of energy, with exact means. For events tabulated dispersions vary on scales
much finer than the E'_g. This variation is common to all directions, so each event is corrected by the ratio of the
exact to the interpolated spectrum, both with the current flux, at the offset of the source of `init`, or for a wide
source at the event's own offset. The correction keeps a band of the dispersion per event: 4 bytes per node. In single
precision the transforms leave noise of a few 1e-6 of the maximum at each energy.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.ndimage import spline_filter1d

from gammajax.engines.convolution import (
    FoldPlan,
    fold_plan,
    hats,
    image_transform,
    interpolated_energies,
    pixel_offsets,
    psf_transform,
    spline_integral_weights,
    spline_taps,
)
from gammajax.engines.detector import Detector
from gammajax.engines.energy import EnergyNodes
from gammajax.engines.engine import Engine, Expected
from gammajax.engines.radial import RadialSource, beyond, interval_of, mean_detected
from gammajax.engines.rows import Rows
from gammajax.engines.selection import spline_integrals
from gammajax.instrument.observation import Observation
from gammajax.instrument.runs import Runs
from gammajax.instrument.sky import spline_filter, spline_weights
from gammajax.model.mixture import Source
from gammajax.model.morphology import Morphology, pixel_fractions

CHUNK = 2**15  # rows per step of the evaluation: bounds its memory
PADDING = 6  # spline nodes beyond the range, enough for end effects to vanish
# energies per decade of the point spread function, and number of interpolation nodes: cubic for small sources, because
# their tails follow every change of the point spread function, linear for sources much wider than it
FINE, COARSE = (20.0, 4), (8.0, 2)
SMOOTH = 0.35  # grid step in widths of a smooth source: cubic interpolation of its far tails is then good to 0.6 %


class _Correction(eqx.Module):
    """Ratio of the exact to the interpolated spectrum of reconstructed energies, with one photon offset per point.

    `exact` [cm^2 s TeV^-1] at the nodes from `start` on, for each event.
    """

    exact: Float[Array, "event band"]
    start: Int[Array, " event"]
    offset: Float[Array, " event"]

    @classmethod
    def init(cls, response, detector, rows, columns):
        """Evaluate the dispersion at the energies of the events, photons from (lon, lat); eager."""
        energy, lon, lat, start = columns
        offset = np.asarray(response.observation.offset(lon, lat))
        size = max(min(CHUNK, energy.size), 1)
        parts = [np.zeros((0, rows.band), rows.dtype)]
        for first in range(0, energy.size, size):
            chunk = [np.resize(c[first : first + size], size) for c in (energy, offset, start)]
            livetime, offsets = response.observation.livetime, response.reconstructed.offsets
            dispersion = _exact(detector, livetime, offsets, rows.nodes, rows.band, *map(jnp.asarray, chunk))
            parts.append(np.asarray(dispersion, rows.dtype))
        exact = np.concatenate(parts)[: energy.size]
        return cls(*map(rows.place, (exact, start, offset)))

    def __call__(self, reconstructed, flux, where) -> Float[Array, " event"]:
        """Ratios at positions among the reconstructed energies."""
        exact = (self.exact * flux[self.start[:, None] + jnp.arange(self.exact.shape[1])]).sum(1)
        coefficients = jnp.einsum("gjm,j->gm", reconstructed.values, flux)
        index = jnp.floor(where).astype(jnp.int32)
        at = hats(self.offset, reconstructed.offsets)
        taps = spline_weights(where - index)
        near = [(coefficients[index + tap - 1] * at).sum(1) for tap in range(4)]
        smooth = sum(part * taps[:, tap] for tap, part in enumerate(near))
        # the ratio is noise if next to nothing is expected
        some = smooth > 1e-4 * jnp.abs(jnp.stack(near)).max(0)
        return jnp.where(some, jnp.clip(exact / jnp.where(some, smooth, 1.0), 0.5, 2.0), 1.0)


@eqx.filter_jit
def _exact(detector, livetime, offsets, nodes, band: int, energy, offset, start):
    node = start[:, None] + jnp.arange(band)
    return livetime * jnp.einsum(
        "kjm,km->kj", _all_offsets(detector, energy, node, nodes.energy[node]), hats(offset, offsets)
    )


class _Reconstructed(eqx.Module):
    """T A_m D_m at reconstructed energies, as coefficients of a cubic B-spline in ln E' [cm^2 s TeV^-1].

    Energies in equal steps for events; for cells the means over their intervals of energy, at the integers.
    """

    offsets: Float[Array, " offset"]
    values: Float[Array, "spline energy offset"]

    @classmethod
    def init(
        cls, detector: Detector, observation: Observation, nodes: EnergyNodes, offsets, ends, edges
    ) -> tuple["_Reconstructed", Float[np.ndarray, " row"]]:
        """The table, and the positions of rows with these `ends` of energy [TeV]; `edges` of cells, None for events."""
        if edges is None:
            step, low, high = nodes.log_step, math.log(observation.energy_min), math.log(observation.energy_max)
            count = math.ceil((high - low) / step) + 1 + 2 * PADDING
            first = low - PADDING * step
            energy = jnp.asarray(np.exp(first + step * np.arange(count)))
            values = _detected(detector, observation.livetime, energy, nodes.energy)
            position = (np.log(ends[:, 0]) - first) / step
        else:
            position, edges = interval_of(edges, ends), beyond(edges)
            every = jnp.asarray(np.stack([edges[:-1], edges[1:]], axis=1))
            values = mean_detected(detector, nodes, jnp.asarray(0), every, detector.cumulative())
            values = observation.livetime * jnp.moveaxis(values, 1, 2)
        values = spline_filter1d(np.asarray(values, np.float64), 3, axis=0, mode="mirror")
        return cls(jnp.asarray(offsets), jnp.asarray(values, nodes.energy.dtype)), position


class _SkyFold(eqx.Module):
    """An extended source: a spline in ln E' and on a grid that moves with it.

    `exposure` [cm^2 s] of the selected energies; `transform`: Fourier transform of the point spread function times the
    filters of pixels and splines. `selected` [sr]: integral of each spline of a grid about the pointing over the
    selection, None for a grid about the source.
    """

    observation: Observation
    reconstructed: _Reconstructed
    exposure: Float[Array, "energy offset"]
    selected: Float[Array, "y x"] | None
    transform: Float[Array, "offset psf_energy ky kx"]
    interpolate: Float[Array, "energy psf_energy"]
    plan: FoldPlan = eqx.field(static=True)
    window: int = eqx.field(static=True)

    @classmethod
    def init(cls, morphologies, observation, nodes, ends, edges):
        energy = np.asarray(nodes.energy, np.float64)
        plan = fold_plan(morphologies, observation, energy, SMOOTH)
        interpolate, at = interpolated_energies(energy, nodes.log_step, *(COARSE if plan.wide else FINE))
        grid = plan.grid(morphologies[0], observation)
        at = np.minimum(at, math.exp(float(observation.response.effective_area.axes[0].upper)))
        psf, filter_ = observation.response.psf, spline_filter(grid.size, plan.divide) / grid.solid_angle
        transform = np.stack(
            [
                (psf_transform(psf, at, float(offset), grid.step, grid.size) * filter_).astype(nodes.energy.dtype)
                for offset in plan.offsets
            ]
        )
        # largest number of hats that a source can overlap, at any position
        step, window = plan.offsets[1] - plan.offsets[0], len(plan.offsets)
        if not plan.wide:
            window = min(math.ceil(2.0 * plan.radius / step) + 2, window)
        detector = Detector.init(Runs.of((observation,)), nodes, np.asarray(plan.offsets))
        reconstructed, position = _Reconstructed.init(detector, observation, nodes, plan.offsets, ends, edges)
        dtype = nodes.energy.dtype
        response = cls(
            observation,
            reconstructed,
            detector.exposure(Runs.of((observation,)), nodes.energy)[0],
            jnp.asarray(spline_integrals(observation, grid), nodes.energy.dtype) if plan.wide else None,
            jnp.asarray(transform),
            jnp.asarray(interpolate, dtype),
            plan,
            window,
        )
        return response, detector, position

    def intensity(self, morphology, flux, where, lon, lat) -> Float[Array, " pair"]:
        """Intensities at positions among the reconstructed energies, and directions."""
        grid = self.plan.grid(morphology, self.observation)

        def position(where, lon, lat):
            x, y = grid.pixel(lon, lat)
            return where, y, x

        return _evaluate(self._fold(morphology, flux, self.reconstructed.values), position, where, lon, lat)

    def expected_counts(self, morphology, flux) -> Float[Array, ""]:
        """Integral of the intensities, of the same splines, over the selection."""
        selected = self.selected
        if selected is None:
            selected = _selected(self.observation, self.plan.grid(morphology, self.observation))
        return (self._fold(morphology, flux, self.exposure[None])[0] * selected).sum()

    def _fold(self, morphology, flux, detected) -> Float[Array, "spline y x"]:
        """Coefficients of the spline from those of T A D in energy [spline, energy, offset]."""
        grid = self.plan.grid(morphology, self.observation)
        source = self.plan.source_grid(morphology, self.observation)
        seen = morphology.at_least(self.plan.least)
        fractions = pixel_fractions(seen, source, 2 if self.plan.divide > 1 else 3 if self.plan.wide else 4)
        offsets, first = self.reconstructed.offsets, 0
        if self.window < offsets.size:
            nearest = self.observation.offset(morphology.lon, morphology.lat) - self.plan.radius
            first = jnp.clip(jnp.floor(nearest / (offsets[1] - offsets[0])), 0, offsets.size - self.window)
            first = jax.lax.stop_gradient(first).astype(jnp.int32)
        offsets = jax.lax.dynamic_slice(offsets, (first,), (self.window,))
        weight = hats(pixel_offsets(self.observation, source), offsets)

        @jax.checkpoint
        def term(m):
            response = jax.lax.dynamic_index_in_dim(detected, first + m, 2, keepdims=False)
            transform = jax.lax.dynamic_index_in_dim(self.transform, first + m, 0, keepdims=False)
            image = image_transform(fractions * weight[..., m], grid.size)
            return image * jnp.tensordot((response * flux) @ self.interpolate, transform, 1)

        total = sum((term(m) for m in range(1, self.window)), start=term(0))
        return jnp.fft.irfft2(total, s=(grid.size, grid.size))


def _selected(observation: Observation, grid) -> Float[Array, "y x"]:
    """Integral [sr] of each spline over the selection, differentiable in the position of the grid."""
    away = observation.offset_max - pixel_offsets(observation, grid)
    inside = jnp.clip(0.5 + away / grid.step, 0.0, 1.0)
    if observation.exclusion is not None:
        index, tap = spline_taps(observation.exclusion.grid, *grid.directions())
        inside = inside * (1.0 - (observation.exclusion.excluded.ravel()[index] * tap).sum(-1))
    return spline_integral_weights(inside) * grid.solid_angle


class ImageSource(eqx.Module):
    """Pairs of a row and one of its directions by observation, and the tabulated response of each observation.

    `corrections` are of events; cells need none.
    """

    nodes: EnergyNodes
    columns: tuple
    weights: tuple
    members: tuple
    corrections: tuple
    responses: tuple
    rows: int = eqx.field(static=True)

    @classmethod
    def init(cls, morphologies, observations, rows: Rows) -> "ImageSource":
        """Tabulate responses on grids for the source at several values of its parameters; eager."""
        start = np.repeat(rows.start, rows.block)
        columns, weights, members, corrections, responses = [], [], [], [], []
        for number, observation in enumerate(observations):
            mine, place = rows.share(np.flatnonzero(rows.observation == number))
            members.append(rows.place(place))
            *_, lon, lat, weight, ends = rows.points(mine)
            response, detector, position = _SkyFold.init(morphologies, observation, rows.nodes, ends, rows.edges)
            lon, lat, position = lon.ravel(), lat.ravel(), np.repeat(position, weight.shape[1])
            columns.append(tuple(map(rows.place, (position, lon, lat))))
            weights.append(rows.place(weight))
            responses.append(response)
            # photons of a wide source come from near their reconstructed direction, others from their source
            if not response.plan.wide:
                lon, lat = (np.full(lon.size, float(at)) for at in (morphologies[0].lon, morphologies[0].lat))
            needed = ends[:, 0], lon, lat, start[mine]
            is_event = rows.edges is None
            corrections.append(_Correction.init(response, detector, rows, needed) if is_event else None)
        return cls(
            rows.nodes,
            tuple(columns),
            tuple(weights),
            tuple(members),
            tuple(corrections),
            tuple(responses),
            rows.total,
        )

    def intensity(self, morphology: Morphology, flux: Float[Array, " energy"]) -> Float[Array, " row"]:
        """Intensity [TeV^-1 sr^-1] of every row."""
        result = jnp.zeros(self.rows, flux.dtype)
        for columns, weight, members, correction, response in zip(
            self.columns, self.weights, self.members, self.corrections, self.responses, strict=True
        ):
            if members.size:
                values = response.intensity(morphology, flux, *columns)
                if correction is not None:
                    values = values * correction(response.reconstructed, flux, columns[0])
                values = (values.reshape(weight.shape) * weight).sum(1)
                # transforms leave noise of either sign; not maximum: its derivative at zero is one half
                result = result.at[members].set(jnp.where(values < 0.0, 0.0, values).astype(result.dtype))
        return result

    def expected_counts(self, morphology: Morphology, flux: Float[Array, " energy"]) -> Float[Array, " run"]:
        """Expected counts in the selection of every observation."""
        return jnp.stack([response.expected_counts(morphology, flux) for response in self.responses])


class FoldEngine(Engine):
    """A source with a free morphology: round, or by images."""

    nodes: EnergyNodes
    source: RadialSource | ImageSource

    @classmethod
    def init(cls, source: Source, observations, rows: Rows, variants=()) -> "FoldEngine":
        """Tabulate responses for the source and all its `variants`; eager.

        Raises `ValueError` for a morphology that changes with energy.
        """
        morphologies = [source.morphology, *(variant.morphology for variant in variants)]
        if any(morphology.is_energy_dependent for morphology in morphologies):
            raise ValueError(
                "the fold engine needs a morphology that does not change with energy; use engine='kernel', or "
                "morphology.at(energy)"
            )
        if all(morphology.is_round for morphology in morphologies):
            return cls(rows.nodes, RadialSource.init(morphologies, rows))
        return cls(rows.nodes, ImageSource.init(morphologies, observations, rows))

    @eqx.filter_jit
    def __call__(self, source: Source) -> Expected:
        """Intensities and counts; the counts are one term."""
        morphology, flux = source.morphology, self.nodes.flux(source.spectrum)
        counts = self.source.expected_counts(morphology, flux)
        return Expected(self.source.intensity(morphology, flux), counts[:, None])


def _evaluate(coefficients, position, *columns):
    """Tensor-product cubic B-spline at the positions of all rows; zero outside the coefficients."""
    sizes = jnp.asarray(coefficients.shape)

    def one(row):
        where = jnp.stack(position(*row))
        index = jnp.floor(where).astype(jnp.int32)
        taps = jax.lax.dynamic_slice(coefficients, index - 1, (4,) * coefficients.ndim)
        for fraction in (where - index)[::-1]:
            taps = taps @ spline_weights(fraction)
        return jnp.where(jnp.all((index >= 1) & (index + 2 < sizes)), taps, 0.0)

    return jax.lax.map(jax.checkpoint(one), columns, batch_size=min(CHUNK, columns[0].size))


@eqx.filter_jit
def _detected(detector, livetime, energy, energy_true):
    node = jnp.arange(energy_true.size)
    shape = (energy.size, energy_true.size)
    node, energy_true = jnp.broadcast_to(node, shape), jnp.broadcast_to(energy_true, shape)
    return livetime * _all_offsets(detector, energy, node, energy_true)


def _all_offsets(detector, energy, node, energy_true):
    """A D [event, band, offset] of the only response."""
    first = jnp.zeros(energy.shape, jnp.int32)
    values = detector(first, energy[:, None], node, energy_true, first, detector.offsets.size)
    return jnp.swapaxes(values, 1, 2)
