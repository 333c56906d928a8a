"""Direct engine: quadrature over true energy and direction for every event, with the response evaluated exactly.

    lambda(x') = t Sum_j F_j Int S(Omega) A(E_j, Omega) P(r|E_j, Omega) D(E'|E_j, Omega) dOmega

at the quadrature nodes of the morphology ([`gammajax.model.quadrature`][]): they end at its rims and are denser near
its cusp and the event. There is no sky grid. This engine is the reference for the others: accurate to 1e-3 for every
shape, differentiable in positions and extensions too, and slow. Chunking and rematerialisation keep the memory
independent of the number of events.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.engines.acceptance import Acceptance
from gammajax.engines.energy import SUB_BINS, EnergyNodes
from gammajax.engines.engine import Engine, Expected
from gammajax.engines.kernel import require_fixed_response
from gammajax.engines.rows import Rows
from gammajax.instrument.psf import psf_quantile, psf_radius
from gammajax.instrument.sky import separation
from gammajax.model.mixture import Source
from gammajax.model.morphology import Point

NARROW = 0.03  # least spread of a source in units of the narrowest response's: directions have too few digits below
BATCH = 8  # events, or points of cells, at a time


class DirectEngine(Engine):
    """Events with their bands, and the acceptance maps for expected counts.

    Padding is evaluated only to fill a batch: `copies` is the index of the event that each of the `members` repeats.
    """

    nodes: EnergyNodes
    observations: tuple
    columns: tuple
    members: tuple
    copies: tuple
    weights: tuple
    widths: tuple = eqx.field(static=True)
    acceptance: tuple
    band: int = eqx.field(static=True)
    rows: int = eqx.field(static=True)

    @classmethod
    def init(cls, source: Source, observations, rows: Rows, variants=()) -> "DirectEngine":
        """Choose quadrature nodes for every observation; eager. `ValueError` on several processes."""
        if rows.shared:
            raise ValueError("the direct engine works in one process; use engine='kernel' or engine='fold'")
        require_fixed_response(source, variants, "the direct engine")
        rows = rows.changed(source)
        observations = rows.runs.observations
        start = np.repeat(rows.start, rows.block)
        columns, members, copies, weights, widths, maps = [], [], [], [], [], []
        true = np.asarray(rows.nodes.energy, np.float64)
        for number, observation in enumerate(observations):
            mine = np.flatnonzero(rows.observation == number)
            members.append(jnp.asarray(mine))
            _, first, inverse = np.unique(rows.index[mine], return_index=True, return_inverse=True)
            copies.append(jnp.asarray(inverse))
            # whole batches: one program to compile
            once = np.resize(mine[first], -(-first.size // BATCH) * BATCH)
            *_, lon, lat, weight, ends = rows.points(once)
            ends, starts = (np.repeat(column, weight.shape[1], axis=0) for column in (ends, start[once]))
            columns.append(tuple(jnp.asarray(column) for column in (ends, lon.ravel(), lat.ravel(), starts)))
            weights.append(jnp.asarray(weight))
            widths.append(_psf_widths(observation, true))
            maps.append(Acceptance.init(source.morphology, observation, rows.nodes))
        return cls(
            rows.nodes,
            tuple(observations),
            tuple(columns),
            tuple(members),
            tuple(copies),
            tuple(weights),
            tuple(widths),
            tuple(maps),
            rows.band,
            rows.index.size,
        )

    @eqx.filter_jit
    def __call__(self, source: Source) -> Expected:
        """Intensities and counts, by energy."""
        flux = self.nodes.flux(source.spectrum)
        exposure = jnp.stack([part(source.morphology, self.nodes) for part in self.acceptance])
        return Expected(self._intensity(source, flux), exposure * flux)

    def _intensity(self, source, flux) -> Float[Array, " row"]:
        result = jnp.zeros(self.rows, flux.dtype)
        for observation, columns, members, copies, weight, widths in zip(
            self.observations, self.columns, self.members, self.copies, self.weights, self.widths, strict=True
        ):
            if members.size == 0:
                continue

            def one(row, observation=observation, widths=widths):
                ends, lon, lat, start = row
                node = start + jnp.arange(self.band)
                energy_true = self.nodes.energy[node]
                dispersion = self._dispersion(observation, ends, start)
                if isinstance(source.morphology, Point):
                    kernel = _point(source.morphology, observation, dispersion, lon, lat, energy_true)
                else:
                    kernel = _extended(source.morphology, observation, widths, dispersion, lon, lat, energy_true)
                return observation.livetime * kernel @ flux[node]

            values = jax.lax.map(jax.checkpoint(one), columns, batch_size=BATCH)
            values = (values.reshape(weight.shape) * weight).sum(1)[copies]
            result = result.at[members].set(values.astype(result.dtype))
        return result

    def _dispersion(self, observation, ends, start) -> Float[Array, "band offset"]:
        """D(E'|E_j) [TeV^-1] projected to the nodes, at the offset nodes of its table (it is linear between them).

        Of an event at its energy; of a cell the mean between the ends of its interval.
        """
        table = observation.response.energy_dispersion
        bins = (self.band - 1) * SUB_BINS
        sub = jax.lax.dynamic_slice(self.nodes.sub_energy, (start * SUB_BINS,), (bins,))
        project = jax.lax.dynamic_slice(self.nodes.project, (start, start * SUB_BINS), (self.band, bins))
        at = sub[:, None], table.profile.axes[1].nodes[None, :]
        if ends.size == 1:
            return project @ table.density(ends[0], *at)
        return project @ (table.probability(*ends, *at) / (ends[1] - ends[0]))


def _psf_widths(observation, energy) -> tuple[float, float]:
    """Width of the narrowest point spread function, and radius of the widest [deg]."""
    probe = np.linspace(0.0, observation.offset_max, 5)
    e, o = (jnp.asarray(a) for a in np.meshgrid(energy, probe, indexing="ij"))
    narrow = psf_quantile(observation.response.psf, e, o, jnp.full(e.shape, 0.393)).min()
    return float(narrow), float(psf_radius(observation.response.psf, e, o).max())


def _point(morphology, observation, dispersion, lon, lat, energy_true):
    offset = jnp.broadcast_to(observation.offset(morphology.lon, morphology.lat), energy_true.shape)
    rad = jnp.broadcast_to(separation(lon, lat, morphology.lon, morphology.lat), energy_true.shape)
    response = observation.response
    spread = response.psf.density(energy_true, offset, rad)
    return response.area(energy_true, offset) * spread * _at_offset(response, dispersion, offset[0])


def _at_offset(response, dispersion, offset):
    """Interpolate [band, offset node] to offsets, shape [band, *offset]."""
    axis = response.energy_dispersion.profile.axes[1]
    index, fraction = axis.locate(offset)
    low = dispersion[:, index]
    return low + fraction * (dispersion[:, jnp.minimum(index + 1, axis.nodes.size - 1)] - low)


def _extended(morphology, observation, widths, dispersion, lon, lat, energy_true):
    response = observation.response

    def one(energy, dispersion):
        shape = morphology.at(energy).at_least(NARROW * widths[0])
        *directions, solid_angle = (part.ravel() for part in shape.nodes(lon, lat, *widths))
        offset, rad = observation.offset(*directions), separation(lon, lat, *directions)
        e = jnp.broadcast_to(energy, offset.shape)
        detected = response.psf.density(e, offset, rad) * response.area(e, offset)
        detected = detected * _at_offset(response, dispersion[None], offset)[0]
        return (detected * shape.brightness(*directions) * solid_angle).sum()

    return jax.vmap(one)(energy_true, dispersion)
