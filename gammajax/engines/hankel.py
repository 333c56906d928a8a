"""Radial fold: a round source through the point spread functions of all runs, without images.

With the Hankel transforms Shat(k) of the source and Phat_jm(k) of the point spread function at true energy E_j and
offset m, the folded brightness at separation r from the centre of the source is

    C_jm(r) = Int Shat(k) Phat_jm(k) J0(2 pi k r) 2 pi k dk,

one matrix product for all energies, offsets and responses. Area and dispersion change over the source. They enter at
the distribution of the true directions Omega of photons that are reconstructed at r, by its first two moments,

    mean = Int Omega S P / C,    variances along and across the line from the centre of the source,

which are the transforms of rho S (with J1) and rho^2 S (with J0 and J2). [`gammajax.engines.plane`][] has the plane and
the means over this distribution, [`gammajax.engines.radial_profiles`][] the values at events.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.ndimage import spline_filter1d
from scipy.special import jv, roots_legendre

from gammajax.engines.convolution import interpolated_energies, offset_nodes
from gammajax.engines.energy import EnergyNodes
from gammajax.engines.radial_profiles import COARSE_RADIUS, PADDING, Profiles, Radii
from gammajax.engines.transforms import Bessel, psf_density, psf_hankel, shape_transforms, sized_transforms
from gammajax.instrument.psf import PSF, TablePSF, psf_quantile, psf_radius
from gammajax.instrument.runs import Runs
from gammajax.instrument.sky import SQUARE_DEGREE, enclosing_cap, separation_on_host
from gammajax.model.morphology import Morphology, Point

OFFSET_STEP, POINT_OFFSET_STEP = 0.25, 0.125  # deg; a source with a size averages over offsets
STEP = 0.35  # of radii, in widths of the narrowest folded source: cubic interpolation of far tails is good to 0.6 %
POINT_STEP = 0.15  # the same for a point, whose table needs no transform
PSF_PER_DECADE = 30.0  # energies of point spread functions that are no tables: tails are good to 0.4 %
PANEL = 16  # least number of quadrature nodes between two breaks of a morphology; five for each cycle of a frequency
# frequencies of a source whose size changes, for each cycle at its radius: cubic interpolation is good to 1e-3
PER_CYCLE, LEAST_SIZES = 8.0, 32
LOST = 1e-8  # of the norm of a profile: smaller components are left out


class PointFold(eqx.Module):
    """Point spread functions of all responses, for a point source.

    - `reach` [deg]: radius that contains all of them; `psf` [deg^-2]: spline coefficients of the profiles.
    """

    offsets: Float[Array, " offset"]
    reach: float
    radii: Radii
    psf: Float[Array, "response offset energy radius"]
    linear: bool = eqx.field(static=True)

    @classmethod
    def init(cls, spreads: "Spreads") -> "PointFold":
        """Tabulate; eager."""
        radii, rad, inverse = spreads.radii(POINT_STEP)
        tables = [psf_density(psf, energy, offset, jnp.asarray(rad)) for psf, energy, offset in spreads.psfs]
        psf = [_without_gaps(np.asarray(table, np.float64)) @ inverse * SQUARE_DEGREE for table in tables]
        return cls(jnp.asarray(spreads.offsets), np.float64(spreads.reach), radii, _single(psf), spreads.linear)

    def __call__(self, morphology: Morphology) -> Profiles:
        """The tables: they do not depend on the position."""
        centre = jnp.asarray(morphology.lon), jnp.asarray(morphology.lat)
        return Profiles(centre, self.radii, self.offsets, self.psf, None, jnp.zeros(()), self.linear)


class RadialFold(eqx.Module):
    """Hankel transforms of the point spread functions of all responses, for extended round sources up to a size.

    - `reach` [deg]: radius that contains all point spread functions.
    - `psf`: transform by response, offset, energy and frequency `k` [cycles/deg]; or coefficients of `parts`, few
      functions of k that make up all of them.
    - `value`: from a transform to the spline coefficients of C(r); `mean`, `square`, `stretch`: to its moments at every
      second radius, with J1, J0 and J2.
    - `order`: quadrature nodes between two breaks of the morphology.
    - `energy` [TeV] of the point spread functions, for a source whose size changes with it, and `sizes`: number of
      frequencies of its largest size; otherwise None and zero.
    """

    offsets: Float[Array, " offset"]
    reach: float
    radii: Radii
    psf: Float[Array, "response offset energy column"]
    parts: Float[Array, "part k"] | None
    k: Float[Array, " k"]
    value: Float[Array, "k radius"]
    mean: Float[Array, "k node"]
    square: Float[Array, "k node"]
    stretch: Float[Array, "k node"]
    bessel: Bessel
    order: int = eqx.field(static=True)
    linear: bool = eqx.field(static=True)
    energy: Float[Array, " energy"] | None
    sizes: int = eqx.field(static=True)

    @classmethod
    def init(cls, spreads: "Spreads", panel: float, energy=None, compress: bool = False) -> "RadialFold":
        """Transform; eager, in double precision on the host. `panel` [deg]: largest distance between two breaks.

        `energy` [TeV] of the point spread functions, for a source that changes with it. `compress`: by principal
        components where that saves operations. Others are transformed for each energy, with its own source.
        """
        radii, rad, inverse = spreads.radii(STEP)
        reach = spreads.radius + spreads.reach
        highest = 1.0 / spreads.width
        # Gauss-Legendre nodes are sparsest in the middle, by pi / 2: more than two for each cycle at the largest radius
        number = -(-(math.ceil(4.0 * highest * reach) + 40) // 16) * 16
        k, weight = roots_legendre(number)
        k, weight = 0.5 * highest * (k + 1.0), 0.5 * highest * weight
        measure = (2.0 * np.pi * k * weight)[:, None]
        values = jv(0, 2.0 * np.pi * k[:, None] * rad) * measure @ inverse
        rad = rad[PADDING::COARSE_RADIUS]
        z = 2.0 * np.pi * k[:, None] * rad
        # ratios to the radius stay finite at the centre
        safe = np.maximum(rad, 1e-3 * spreads.width)
        first = jv(1, 2.0 * np.pi * k[:, None] * safe) / safe
        second = jv(2, 2.0 * np.pi * k[:, None] * safe) / safe**2
        psf = np.stack([_without_gaps(psf_hankel(*grid, spreads.reach, k)) for grid in spreads.psfs])
        parts = principal_components(psf.reshape(-1, number)) if compress and energy is None else None
        return cls(
            jnp.asarray(spreads.offsets),
            np.float64(spreads.reach),
            radii,
            _single(psf if parts is None else psf @ parts.T),
            None if parts is None else _single(parts),
            jnp.asarray(k),
            _single(values),
            _single(first * measure),
            _single(jv(0, z) * measure),
            _single(second * measure),
            Bessel.upto(2.0 * np.pi * highest * spreads.radius * 1.05),
            PANEL + -(-math.ceil(5.0 * highest * panel) // 16) * 16,
            spreads.linear,
            None if energy is None else jnp.asarray(energy),
            0 if energy is None else math.ceil(PER_CYCLE * highest * spreads.radius) + LEAST_SIZES,
        )

    def __call__(self, morphology: Morphology) -> Profiles:
        """Fold the source at its current parameters."""

        def folded(transform, matrix):
            if self.energy is not None:
                return jnp.matmul(self.psf * transform, matrix)
            if self.parts is None:
                return jnp.matmul(self.psf, transform[:, None] * matrix)
            return jnp.matmul(self.psf, (self.parts * transform) @ matrix)

        if self.energy is None:
            source, mean, square, stretch = shape_transforms(morphology, self.k, self.bessel, self.order)
        else:
            largest, size = morphology.largest(self.energy)
            source, mean, square, stretch = sized_transforms(largest, size, self.k, self.bessel, self.order, self.sizes)
        value, *moments = (
            folded(transform, matrix)
            for transform, matrix in (
                (source, self.value),
                (source, self.square),
                (mean, self.mean),
                (square, self.square),
                (stretch, self.stretch),
            )
        )
        centre = jnp.asarray(morphology.lon), jnp.asarray(morphology.lat)
        return Profiles(centre, self.radii, self.offsets, value, tuple(moments), morphology.radius, self.linear)


class Spreads(NamedTuple):
    """Point spread functions with a grid of their energies and offsets, and the sizes of a source in their fields.

    `narrow`, `width` [deg]: of the narrowest point spread function and folded source; `core` [deg]: up to which it may
    have edges; `reach` [deg] contains the point spread functions, `radius` [deg] the source.
    """

    psfs: list[tuple[PSF, Array, Array]]
    offsets: np.ndarray
    reach: float
    radius: float
    narrow: float
    width: float
    core: float

    @classmethod
    def of(cls, morphologies: Sequence[Morphology], runs: Runs, energy, moves: float = 0.0) -> "Spreads":
        """For one source at several values of its parameters; `energy` [TeV] of all responses, or of each.

        `moves` [deg]: of the pointings, in any direction.
        """
        energy = np.broadcast_to(energy, (len(runs.responses), np.shape(energy)[-1]))
        radius = max(float(m.radius) for m in morphologies)
        scale = min(float(m.scale) for m in morphologies)
        # the source may be anywhere between these positions
        lon, lat, spread = positions(morphologies)
        away = separation_on_host(lon, lat, runs.lon, runs.lat)
        tops = runs.highest_energy
        inside = np.linspace(0.0, float(runs.offset_max.max()), 5)
        each = list(zip(runs.responses, energy, tops, strict=True))
        probes = [_grid(response.psf, at, top, inside) for response, at, top in each]
        narrow = min(float(psf_quantile(psf, e, o, jnp.full(e.shape, 0.393)).min()) for psf, e, o in probes)
        reach = max(float(psf_radius(psf, e, o).max()) for psf, e, o in probes)
        # photons from farther than this from a pointing are not selected
        spread = spread + moves
        farthest = min(away.max() + spread + radius, float(runs.offset_max.max()) + reach)
        nearest = min(max(0.0, away.min() - spread - radius), farthest)
        is_point = isinstance(morphologies[0], Point)
        step = POINT_OFFSET_STEP if is_point else _offset_step([psf for psf, *_ in probes])
        offsets = offset_nodes(nearest, farthest, step)
        psfs = [_grid(response.psf, at, top, offsets) for response, at, top in each]
        width = math.hypot(scale, narrow)
        return cls(psfs, offsets, reach, radius, narrow, width, 3.0 * width + (0.0 if scale > 0 else radius))

    @property
    def linear(self) -> bool:
        """Whether all point spread functions are tables, linear between the nodes."""
        return all(isinstance(psf, TablePSF) for psf, *_ in self.psfs)

    def radii(self, step: float) -> tuple[Radii, np.ndarray, np.ndarray]:
        """Radii in steps of so many widths; the nodes with a mirror image beyond zero, and the spline's matrix."""
        end = jnp.asarray(self.radius + self.reach)
        radii = Radii(jnp.asarray(step * self.width), jnp.asarray(self.core), jnp.asarray(6.0 * self.width), end)
        count = math.ceil(float(radii.position(end))) + 1 + PADDING
        count = -(-count // 16) * 16
        even = np.abs(np.arange(-PADDING, count))  # profiles are even
        return radii, radii.nodes(count)[even], spline_filter1d(np.eye(even.size), 3, axis=1, mode="mirror")


def positions(morphologies: Sequence[Morphology]) -> tuple[float, float, float]:
    """Centre (lon, lat) and radius [deg] of a cap with all positions of a source, of which these are some."""
    return enclosing_cap(*(np.array([float(getattr(m, name)) for m in morphologies]) for name in ("lon", "lat")))


def _grid(psf, energy, top, offsets) -> tuple[PSF, Array, Array]:
    """A point spread function with energies up to the end of its response, and offsets [offset, energy]."""
    o, e = np.meshgrid(offsets, np.minimum(energy, top), indexing="ij")
    return psf, jnp.asarray(e), jnp.asarray(o)


def _offset_step(psfs) -> float:
    """Distance [deg] of offset nodes: that of tables which are linear between them, or a fixed one."""
    if not all(isinstance(psf, TablePSF) for psf in psfs):
        return OFFSET_STEP
    nodes = np.concatenate([np.asarray(psf.profile.axes[1].nodes) for psf in psfs]) / (2.0 * OFFSET_STEP)
    return 2.0 * OFFSET_STEP if np.allclose(nodes, np.rint(nodes), atol=1e-3) else OFFSET_STEP


def principal_components(rows: Float[np.ndarray, "row k"]) -> Float[np.ndarray, "part k"] | None:
    """Orthonormal functions that make up all rows, to 1e-8 of their norm; None if more than half of the columns."""
    _, strength, parts = np.linalg.svd(np.linalg.qr(rows, mode="r"), full_matrices=False)
    # a component of this strength may be all of one row
    count = int((strength > LOST * strength[0] / math.sqrt(len(rows))).sum())
    count = -(-count // 8) * 8  # equal numbers share compiled functions
    return parts[:count] if count <= rows.shape[1] // 2 else None


def radial_fold(
    morphologies: Sequence[Morphology],
    runs: Runs,
    energy: Float[np.ndarray, "*response energy"],
    moves: float = 0.0,
    compress: bool = False,
) -> PointFold | RadialFold:
    """Tables for one round source at several values of its parameters, at true energies [TeV]; eager.

    `moves` [deg]: of the pointings. `compress`: for many calls, some 25 principal components serve hundreds of
    frequencies.
    """
    spreads = Spreads.of(morphologies, runs, energy, moves)
    if isinstance(morphologies[0], Point):
        return PointFold.init(spreads)
    panel = max(float(np.diff(np.asarray(m.breaks)).max()) for m in morphologies)
    if not morphologies[0].is_energy_dependent:
        return RadialFold.init(spreads, panel, compress=compress)
    return RadialFold.init(spreads, panel, np.broadcast_to(energy, (len(runs.responses), np.shape(energy)[-1]))[0])


def _without_gaps(table: Float[np.ndarray, "offset energy part"]) -> Float[np.ndarray, "offset energy part"]:
    """Replace profiles of zeros by those of the nearest energy: densities between the two are normalised."""
    result = table.copy()
    for part in result:
        some = np.flatnonzero(np.any(part != 0, axis=1))
        if 0 < some.size < len(part):
            part[:] = part[some[np.abs(np.arange(len(part))[:, None] - some).argmin(1)]]
    return result


def _single(table) -> Array:
    """On the device, in its precision."""
    return jnp.asarray(np.asarray(table, jnp.zeros(()).dtype))


def psf_energies(
    runs: Runs, nodes: EnergyNodes, common: bool = False
) -> tuple[Float[np.ndarray, "response psf_energy"], Float[np.ndarray, "response energy psf_energy"]]:
    """Energies [TeV] of the point spread functions of all responses, and their interpolation to the nodes.

    Tables have their own energies: they are linear in ln E between them. Others follow cubic polynomials. `common`: the
    same for all responses, and close enough for a source that changes with energy.
    """
    energy = np.asarray(nodes.energy, np.float64)
    psfs = [response.psf for response in runs.responses]
    own = []
    if not common and all(isinstance(psf, TablePSF) for psf in psfs):
        for psf in psfs:
            assert isinstance(psf, TablePSF)
            at = np.asarray(psf.profile.axes[0].nodes, np.float64)
            low, high = np.searchsorted(at, np.log(energy[[0, -1]]), side="right")
            own.append(at[max(low - 1, 0) : high + 1])
        count = max(at.size for at in own)
        if 2 <= count < energy.size:
            return _stacked(own, count, np.log(energy))
    at, share = energy, np.eye(energy.size)
    if not any(isinstance(psf, TablePSF) for psf in psfs):
        share, at = interpolated_energies(energy, nodes.log_step, PSF_PER_DECADE, 4)
    every = len(psfs)
    return np.broadcast_to(at, (every, at.size)), np.broadcast_to(share, (every, *share.shape))


def _stacked(own, count: int, log_energy) -> tuple[np.ndarray, np.ndarray]:
    """Nodes of tables of several lengths, and the hat functions of linear interpolation between them."""
    energies, shares = np.empty((len(own), count)), np.zeros((len(own), log_energy.size, count))
    for at, energy, share in zip(own, energies, shares, strict=True):
        energy[:] = np.exp(np.append(at, np.full(count - at.size, at[-1])))
        below = np.clip(np.searchsorted(at, log_energy, side="right") - 1, 0, max(at.size - 2, 0))
        above = np.minimum(below + 1, at.size - 1)
        part = (log_energy - at[below]) / np.where(above > below, at[above] - at[below], 1.0)
        row = np.arange(log_energy.size)
        share[row, below] += np.where(above > below, 1.0 - part, 1.0)
        share[row, above] += np.where(above > below, part, 0.0)
    return energies, shares
