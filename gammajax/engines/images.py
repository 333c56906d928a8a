"""Fold of sources of any shape by images: one sky grid for all runs, responses and energies.

The Fourier transforms of all point spread functions are radial. A few radial functions phi_b describe them all,

    P_qme(k) = Sum_b c_qmeb phi_b(k),

for response q, offset node m and energy E_e, so that the source is folded with the phi_b only:

    C_qme(Omega') = Sum_b c_qmeb I_b(Omega'),    I_b = S (x) phi_b.

The moments of the displacement of a photon with P are the derivatives of its transform: they give the mean and the
spread of the true directions of photons that are reconstructed at Omega', at which area and dispersion enter, as in
[`gammajax.engines.hankel`][]. The grid moves with the source: its position is exact, not pixelised. For a source that
is wider than all fields together, the grid is fixed about their middle.

The phi_b are principal components of the point spread functions, weighted with the transform of the narrowest source.
In single precision the transforms leave noise of a few 1e-6 of the maximum.
"""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.interpolate import CubicSpline
from scipy.special import jv, roots_legendre

from gammajax.engines.convolution import cusp, image_transform
from gammajax.engines.hankel import Spreads
from gammajax.engines.interpolation import slices
from gammajax.engines.plane import Directions, distance, hat_values, two_offsets, weighted_sum
from gammajax.engines.transforms import psf_rings
from gammajax.instrument.runs import Runs
from gammajax.instrument.sky import (
    SQUARE_DEGREE,
    Grid,
    deproject,
    mean_direction,
    separation_on_host,
    spline_filter,
    spline_weights,
)
from gammajax.model.morphology import Morphology, pixel_fractions

SMOOTH, EDGED, FILLING = 0.35, 0.6, 1.4  # step of the grid in widths of the narrowest folded source
# part of the largest singular value below which components are left out: of smooth functions, and of tables with noise
SMOOTH_TOLERANCE, TABLE_TOLERANCE = 1e-6, 1e-4
MOST = 48  # components
FLOOR = 1e-5  # least weight of a frequency: transforms in single precision have noise at all of them
FREQUENCIES = 400
LIKE = 0.1  # least part of the largest value among those of nearby offsets, for their geometric mean
# parts of the maximum, and of the fold with the mean point spread function, below which true directions are noise
DIM, LEAST = 1e-6, 1e-4
GROUP = 4.0  # deg, distance of pointings that share the fixed grid of a wide source
NODE_STEP, MOST_NODES = 0.05, 128  # deg, of the nodes of exposure, and their number along one axis


class ImageSheet(eqx.Module):
    """A source as it is detected: images times a response by offset, summed over true energies.

    - `weight`: of the images, as coefficients of a cubic B-spline in reconstructed energy if there is more than one.
    - `values` [deg^-2]: coefficients of a cubic B-spline; `moments`: images of 1, displacement and its square at
      every `part`-th pixel, relative to the fold with the mean point spread function. `unit`: integrals of the
      components.
    """

    offsets: Float[Array, " offset"]
    weight: Float[Array, "table offset energy basis"]
    values: Float[Array, "y x basis"]
    moments: Float[Array, "coarse coarse 4*basis"]
    unit: Float[Array, " basis"]
    step: float = eqx.field(static=True)
    part: int = eqx.field(static=True)
    linear: bool = eqx.field(static=True)
    window: int = eqx.field(static=True)

    def __call__(
        self, table: Int[Array, " pair"], energy: Float[Array, " pair"], directions: Directions
    ) -> Float[Array, " pair"]:
        """Value [per sr] of pairs of a table and a direction; `energy`: position among the energies."""
        parts, _ = self.by_offset(table, energy, directions)
        return sum(parts[1:], start=parts[0])

    def by_offset(
        self, table: Int[Array, " pair"], energy: Float[Array, " pair"], directions: Directions
    ) -> tuple[list[Float[Array, " pair"]], Int[Array, " pair"]]:
        """Terms of the value for the offset nodes of a window, and the first node of the windows."""
        size, basis = self.values.shape[0], self.values.shape[2]
        where = [part / self.step + 0.5 * (size - 1) for part in directions.position]
        inside = (where[0] >= 1.0) & (where[1] >= 1.0) & (where[0] < size - 2.0) & (where[1] < size - 2.0)
        x, y = (jnp.where(inside, part, 1.0) for part in where)
        none = jnp.zeros_like(table)
        ix, iy = (jnp.floor(part).astype(jnp.int32) for part in (x, y))
        near = slices(self.values, (iy - 1, ix - 1, none), (4, 4, basis))
        image = jnp.einsum("pyxb,py,px->pb", near, spline_weights(y - iy), spline_weights(x - ix))
        last = self.moments.shape[0] - 1.001
        x, y = (jnp.clip(part / self.part, 0.0, last) for part in (x, y))
        ix, iy = (jnp.floor(part).astype(jnp.int32) for part in (x, y))
        near = slices(self.moments, (iy, ix, none), (2, 2, 4 * basis))
        between = [jnp.stack([1.0 - part, part], axis=1) for part in (y - iy, x - ix)]
        moments = jnp.einsum("pyxb,py,px->pb", near, *between).reshape(-1, 4, basis)
        row = jnp.floor(energy).astype(jnp.int32)
        single = self.weight.shape[2] == 1
        taps = jnp.ones((table.size, 1), image.dtype) if single else spline_weights(energy - row)
        step, count = self.offsets[1] - self.offsets[0], self.offsets.size

        def weights(first, window):
            index = (table, first, row if single else row - 1, none)
            return jnp.einsum("pmgb,pg->pmb", slices(self.weight, index, (window, taps.shape[1], basis)), taps)

        def sides(weight, norm):
            found = jnp.einsum("pmb,pfb->mfp", weight, moments)
            both = [self._sides(part, norm[m], directions) for m, part in enumerate(found)]
            return [[(part - self.offsets[0]) / step for part in side] for side in zip(*both, strict=True)]

        away = distance(*(a - b for a, b in zip(directions.position, directions.pointing, strict=True)))
        nearest = jnp.clip(jnp.rint((away - self.offsets[0]) / step), 0, count - 1).astype(jnp.int32)
        one = weights(nearest, 1)
        (low,), _ = jax.lax.stop_gradient(sides(one, self._norm(one)))
        first = jnp.clip(jnp.floor(low), 0, count - self.window).astype(jnp.int32)
        weight = weights(first, self.window)
        norm = self._norm(weight)
        value = list(jnp.einsum("pmb,pb->mp", weight, image))
        hats = hat_values([[part - first for part in side] for side in sides(weight, norm)], self.window)
        if not self.linear:
            # the geometric mean of the arithmetic and the harmonic mean replaces the arithmetic one, as in `Folded`, of
            # the folded brightness alone: the response is linear between the nodes. Relative to the largest, powers of
            # the inverse stay in the range of single precision
            some = norm > LEAST * norm.max(0)
            bright = jnp.where(some, jnp.stack(value) / jnp.where(some, norm, 1.0), 0.0)
            top = jnp.maximum(jax.lax.stop_gradient(bright.max(0)), 1e-30)
            spread = list(jnp.where(some, jnp.maximum(bright / top, LIKE), 1.0))
            inverse = [1.0 / part for part in spread]
            means = [weighted_sum(hat, spread) * weighted_sum(hat, inverse) for hat in hats]
            hats = [
                [part * (sum(hat) * jax.lax.rsqrt(jnp.maximum(mean, 1e-12))) for part in hat]
                for hat, mean in zip(hats, means, strict=True)
            ]
        factor = jnp.where(inside, 0.5 / SQUARE_DEGREE, 0.0)
        return [factor * (low + high) * part for low, high, part in zip(*hats, value, strict=True)], first

    def _norm(self, weight) -> Float[Array, "node pair"]:
        """Sums of the weights over true energies, of images whose integral is one."""
        return jnp.einsum("pmb,b->mp", weight, self.unit)

    def _sides(self, moments, norm, directions):
        """Offsets [deg] of true directions, one standard deviation below and above their mean."""
        total, mean_x, mean_y, square = moments
        some = total > LEAST * norm
        total = jnp.where(some, total, 1.0)
        mean_x, mean_y, square = (jnp.where(some, part / total, 0.0) for part in (mean_x, mean_y, square))
        # the same spread along both axes
        spread = jnp.maximum(0.5 * (square - mean_x**2 - mean_y**2), 0.0)
        # from the pointing to the mean direction; displacements point from true to reconstructed directions
        x, y = (
            here - mean - there
            for here, mean, there in zip(directions.position, (mean_x, mean_y), directions.pointing, strict=True)
        )
        return two_offsets(distance(x, y), spread, spread)


class Images(eqx.Module):
    """A source folded with the point spread functions, at the current parameters.

    - `coefficients`: c_qmeb; `values`, `moments`, `unit`: see [`gammajax.engines.images.ImageSheet`][].
    - `centre` (lon, lat) [deg] of the grid; `lon`, `lat`, `share`: nodes and their parts of the flux.
    """

    centre: tuple[Array, Array]
    offsets: Float[Array, " offset"]
    coefficients: Float[Array, "response offset energy basis"]
    values: Float[Array, "y x basis"]
    moments: Float[Array, "coarse coarse 4*basis"]
    unit: Float[Array, " basis"]
    lon: Float[Array, " node"]
    lat: Float[Array, " node"]
    share: Float[Array, " node"]
    step: float = eqx.field(static=True)
    part: int = eqx.field(static=True)
    linear: bool = eqx.field(static=True)
    span: float = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of responses, offsets and energies."""
        return self.coefficients.shape[:3]

    def sheet(self, weight, coarse, window: int) -> ImageSheet:
        """Sum over energies with weights [table, offset, reconstructed energy, energy]; tables are the responses."""
        del coarse
        weight = jnp.matmul(weight, self.coefficients)
        tables = self.offsets, weight, self.values, self.moments, self.unit
        return ImageSheet(*tables, self.step, self.part, self.linear, window)

    def of(self, response: Int[Array, " table"]) -> "Images":
        """Those of some responses."""
        return eqx.tree_at(lambda p: p.coefficients, self, self.coefficients[response])


class ImageFold(eqx.Module):
    """Fourier transforms of the components of the point spread functions of all responses, on one grid.

    - `reach` [deg]: radius that contains all point spread functions; `middle` (lon, lat) [deg] of a fixed grid.
    - `value`: transforms with the filters of pixels and splines; `radial`: those of 1, r^2 J1 and r^4 J2 of which the
      moments are made, up to the frequencies of every `part`-th pixel.
    - `nodes`: interpolation from pixels to the nodes of exposure. `span` [deg]: two standard deviations.
    """

    offsets: Float[Array, " offset"]
    reach: float
    middle: tuple[Array, Array] | None
    coefficients: Float[Array, "response offset energy basis"]
    value: Float[Array, "basis ky kx"]
    radial: Float[Array, "3 basis coarse_ky coarse_kx"]
    mean: Float[Array, " basis"]
    nodes: Float[Array, "node pixel"]
    step: float = eqx.field(static=True)
    extent: float = eqx.field(static=True)
    part: int = eqx.field(static=True)
    divide: int = eqx.field(static=True)
    least: float = eqx.field(static=True)
    order: int = eqx.field(static=True)
    node_extent: float = eqx.field(static=True)
    linear: bool = eqx.field(static=True)
    span: float = eqx.field(static=True)

    @property
    def node_step(self) -> float:
        """Distance [deg] between the nodes of exposure."""
        return 2.0 * self.node_extent / (self.nodes.shape[0] - 1)

    @classmethod
    def init(cls, morphologies: Sequence[Morphology], runs: Runs, energy, moves: float = 0.0) -> "ImageFold":
        """Tabulate for one source at several values of its parameters; eager, in double precision on the host.

        `moves` [deg]: of the pointings.
        """
        spreads = Spreads.of(morphologies, runs, energy, moves)
        narrow, width = spreads.narrow, spreads.width
        scale = math.sqrt(max(width**2 - narrow**2, 0.0))
        middle, fields = _fields(runs, spreads.reach)
        extent = spreads.radius + spreads.reach
        wide = extent > fields
        extent = min(extent, fields)
        fills = wide and not morphologies[0].sizes  # morphologies with sizes may be small for some parameters
        smooth = scale > 1e-6
        step = width * (SMOOTH if smooth else FILLING if fills else EDGED)
        step = min(max(step, 2.0 * extent / 900.0), extent / 20.0)
        finest = max(2.0 * scale, 0.25 * narrow, 2.0 * extent / 1000.0)  # a million pixels are enough
        divide = 2 * math.ceil(0.5 * (step / finest - 1.0)) + 1
        if spreads.radius >= 180.0:  # no rim in the field
            divide = 3 if max(cusp(m, step) for m in morphologies) > 0.95 else 1
        part = 2 if smooth else 1
        grid = Grid(0.0, 0.0, step * part, extent, part)
        coefficients, rings, rad, span = _components(spreads, scale, grid.step)
        size, coarse = grid.size, grid.size // part
        top = 0.5 * math.sqrt(2.0) / grid.step * 1.001
        k = top * np.linspace(0.0, 1.0, FREQUENCIES) ** 2
        z = 2.0 * np.pi * k[:, None] * rad
        safe = np.maximum(z, 1e-4)
        radial = [jv(0, z), -(rad**2) * jv(1, safe) / safe, rad**4 * jv(2, safe) / safe**2]
        fx, fy = np.fft.rfftfreq(size, grid.step)[None], np.fft.fftfreq(size, grid.step)[:, None]
        frequency = np.hypot(fx, fy)
        planes = np.stack(
            [np.moveaxis(CubicSpline(k, bessel @ np.transpose(rings))(frequency), -1, 0) for bessel in radial]
        )
        value = planes[0] * (spline_filter(size, divide) / grid.step**2)
        rows = np.fft.fftfreq(coarse, 1.0 / coarse).astype(int)
        pixels = np.sinc(fy * grid.step / divide) * np.sinc(fx * grid.step / divide)
        radial = (planes / pixels)[:, :, rows, : coarse // 2 + 1]
        node_extent = min(spreads.radius, extent)
        number = int(np.clip(math.ceil(2.0 * node_extent / NODE_STEP), 8, MOST_NODES))
        source = Grid(0.0, 0.0, step * part, extent, part * divide)
        nodes = _interpolation(np.asarray(source.coordinates, np.float64), node_extent, number)
        dtype = jnp.zeros(()).dtype
        return cls(
            jnp.asarray(spreads.offsets),
            np.float64(spreads.reach),
            middle if wide else None,
            jnp.asarray(coefficients.astype(dtype)),
            jnp.asarray(value.astype(dtype)),
            jnp.asarray(radial.astype(dtype)),
            jnp.asarray(coefficients.mean((0, 1, 2)).astype(dtype)),
            jnp.asarray(nodes.astype(dtype)),
            step,
            extent,
            part,
            divide,
            0.5 * step / divide if wide else 0.05 * narrow,
            2 if divide > 1 else 3 if wide else 4,
            node_extent,
            spreads.linear,
            span,
        )

    def __call__(self, morphology: Morphology) -> Images:
        """Fold the source at its current parameters."""
        centre = (jnp.asarray(morphology.lon), jnp.asarray(morphology.lat)) if self.middle is None else self.middle
        source = Grid(*centre, self.step * self.part, self.extent, self.part * self.divide)
        size = source.size // self.divide
        coarse = size // self.part
        fractions = pixel_fractions(morphology.at_least(self.least), source, self.order)
        transform = image_transform(fractions, size)
        values = jnp.fft.irfft2(transform * self.value, s=(size, size))
        rows = np.fft.fftfreq(coarse, 1.0 / coarse).astype(int)
        transform = transform[rows, : coarse // 2 + 1]
        kx, ky = (
            2.0 * np.pi / (self.step * self.part) * f for f in (np.fft.rfftfreq(coarse)[None], rows[:, None] / coarse)
        )
        total, first, second = self.radial
        # displacement times P has the transform i dP/d(2 pi k)
        planes = [
            total,
            1j * kx * first,
            1j * ky * first,
            -2.0 * first - (kx**2 + ky**2) * second,
        ]
        moments = jnp.fft.irfft2(jnp.stack([transform * plane for plane in planes]), s=(coarse, coarse))
        # relative to the mean point spread function: these change slowly, and are linear between pixels
        usual = jnp.einsum("b,byx->yx", self.mean, moments[0])
        moments = moments / jnp.maximum(usual, jnp.maximum(DIM * jax.lax.stop_gradient(usual.max()), 1e-30))
        x = (np.arange(self.nodes.shape[0]) / (self.nodes.shape[0] - 1) * 2.0 - 1.0) * self.node_extent
        lon, lat = _deprojected(x, centre)
        return Images(
            centre,
            self.offsets,
            self.coefficients,
            jnp.moveaxis(values, 0, -1).astype(fractions.dtype),
            jnp.moveaxis(moments.reshape(-1, coarse, coarse), 0, -1).astype(fractions.dtype),
            total[:, 0, 0],
            lon,
            lat,
            (self.nodes @ fractions @ self.nodes.T).ravel(),
            self.step,
            self.part,
            self.linear,
            self.span,
        )


def _deprojected(x, centre):
    """Directions of the nodes with coordinates `x` [deg] along both axes."""
    east, north = (jnp.asarray(part.ravel()) for part in np.meshgrid(x, x))
    return deproject(east, north, *centre)


def _fields(runs: Runs, reach: float):
    """Middle (lon, lat) [deg] of all fields, and the radius about it within which photons can be selected."""
    middle = mean_direction(runs.lon, runs.lat)
    away = separation_on_host(runs.lon, runs.lat, *middle)
    return (jnp.asarray(middle[0]), jnp.asarray(middle[1])), float(
        (away + np.asarray(runs.offset_max, np.float64)).max()
    ) + reach


def _components(
    spreads: Spreads, scale: float, step: float
) -> tuple[Float[np.ndarray, "response offset energy basis"], Float[np.ndarray, "basis ring"], np.ndarray, float]:
    """Coefficients of all point spread functions, components as rings, their radii, and two standard deviations [deg].

    The components are the eigenvectors of the transforms' Gram matrix, with frequencies weighted by the transform of
    the narrowest source and each transform by the inverse of its folded brightness. Both are linear in the rings.
    """
    t, weight = roots_legendre(FREQUENCIES)
    top = 0.5 * math.sqrt(2.0) / step
    k = top * (0.5 * (t + 1.0)) ** 2
    weight = 0.5 * weight * top * (t + 1.0)
    measure = 2.0 * np.pi * k * weight
    source = np.maximum(np.exp(-2.0 * np.pi**2 * scale**2 * k**2), FLOOR)
    amplitude = np.sqrt(measure) * source
    rings, rad, span = [], np.zeros(0), 0.0
    for psf, energy, offset in spreads.psfs:
        rad, ring = psf_rings(psf, energy, offset, spreads.reach)
        rings.append(ring)
        span = max(span, 2.0 * math.sqrt(float((0.5 * ring * rad**2).sum(-1).max())))
    bessel = jv(0, 2.0 * np.pi * rad[:, None] * k)
    gram, tables = np.zeros((k.size, k.size)), []
    for ring in rings:
        transform = ring.reshape(-1, rad.size) @ bessel
        # each by its own brightness
        peak = np.maximum(np.abs(transform @ (source * measure)), 1e-30)
        some = ring.reshape(-1, rad.size).any(1)
        table = np.where(some[:, None], transform * amplitude / peak[:, None], 0.0)
        tables.append((transform * amplitude, table, peak))
        gram += table.T @ table
    value, vector = np.linalg.eigh(gram)
    value, vector = value[::-1], vector[:, ::-1]
    tolerance = TABLE_TOLERANCE if spreads.linear else SMOOTH_TOLERANCE
    number = min(int((value > tolerance**2 * value[0]).sum()), MOST)
    value, vector = value[:number], vector[:, :number]
    components = np.zeros((number, rad.size))
    for (_, table, peak), ring in zip(tables, rings, strict=True):
        components += ((table @ vector) / value / peak[:, None]).T @ ring.reshape(-1, rad.size)
    shape = *rings[0].shape[:-1], number
    coefficients = np.stack([(full @ vector).reshape(shape) for full, _, _ in tables])
    return coefficients, components, rad, span


def _interpolation(pixels, extent: float, number: int) -> Float[np.ndarray, "node pixel"]:
    """Cubic interpolation from `number` nodes within `extent` to pixels; pixels beyond belong to the nearest.

    Photons of a pixel at its centre have a variance which is too large by a twelfth of its squared size (Sheppard); the
    parts of both neighbours take it back.
    """
    where = np.clip((pixels / extent + 1.0) * 0.5 * (number - 1), 0.0, number - 1.0)
    first = np.clip(np.floor(where).astype(int) - 1, 0, number - 4)
    x = where - first
    weight = [
        -(x - 1) * (x - 2) * (x - 3) / 6.0,
        x * (x - 2) * (x - 3) / 2.0,
        -x * (x - 1) * (x - 3) / 2.0,
        x * (x - 1) * (x - 2) / 6.0,
    ]
    result = np.zeros((number, pixels.size))
    for tap, part in enumerate(weight):
        result[first + tap, np.arange(pixels.size)] += part
    beside = np.pad(result, ((0, 0), (1, 1)), mode="edge")
    return result - (beside[:, :-2] - 2.0 * result + beside[:, 2:]) / 24.0
