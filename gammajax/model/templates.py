"""Templates: morphologies given by maps, one for all energies or several."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.common.display import described, document
from gammajax.common.parameters import Scalar, is_concrete, scalar
from gammajax.instrument.observation import Observation
from gammajax.instrument.sky import Grid, deproject
from gammajax.instrument.table import Axis
from gammajax.model.morphology import Morphology
from gammajax.model.quadrature import pixel_nodes

SUB_NODES = 32  # per interval of energy, for the norm: its error between them is 1e-4 if planes differ e-fold
EMPTY = 1e-12  # of the mean brightness: value of an empty pixel that is not empty in another plane
OVERLAP = 0.1  # least integral of the geometric mean of two neighbouring planes


class Edge(eqx.Module):
    """Directions `lon`, `lat` [deg] on the edge of a template's map where the map is still bright."""

    name: str = eqx.field(static=True)
    lon: Float[np.ndarray, " point"]
    lat: Float[np.ndarray, " point"]
    __repr__, __pdoc__ = described, document

    def check_field(self, observation: Observation) -> None:
        """Raise `ValueError` if one of the directions is in the selection of an observation."""
        if not is_concrete(observation, self.lon):
            return
        inside, offset = map(np.asarray, _selected(observation, jnp.asarray(self.lon), jnp.asarray(self.lat)))
        if np.any(inside):
            lon, lat, offset_max = (float(v) for v in (observation.lon, observation.lat, observation.offset_max))
            raise ValueError(
                f"{self.name}: the template does not cover the field of observation {observation.obs_id}, "
                f"{offset_max:.4g} deg about ({lon:.4g}, {lat:.4g}) deg: it ends {offset[inside].min():.3g} deg away "
                "and is bright there; read a larger part or map, or lower offset_max"
            )


class TemplateMap(Morphology):
    """A map of surface brightness on equal-area pixels, constant within each pixel.

    `values` [y, x] on `grid` ([`gammajax.instrument.sky.Grid`][]) may have any unit: they are normalised to one. `edge`
    marks directions where the map ends while still bright; readers set it, and an observation that contains it is an
    error. Raises `ValueError` for values that are negative, not finite or all zero.

    >>> import gammajax as gj, numpy as np
    >>> from gammajax.instrument.sky import Grid
    >>> grid = Grid(0.0, 0.0, 0.1, 1.0)  # centre, side of the pixels, half the side of the map [deg]
    >>> template = gj.TemplateMap(grid, np.ones((grid.size, grid.size)))
    >>> round(float(template.values.sum()) * grid.solid_angle, 4)
    1.0
    """

    lon: Scalar = eqx.field(metadata={"unit": "deg"})
    lat: Scalar = eqx.field(metadata={"unit": "deg"})
    grid: Grid
    values: Float[Array, "pixel pixel"]
    edge: Edge | None

    def __init__(self, grid: Grid, values, edge: Edge | None = None):
        values = _checked(grid, values, "template")
        self.lon, self.lat, self.grid, self.edge = grid.lon, grid.lat, grid, edge
        self.values = jnp.asarray(values / values.sum() / grid.solid_angle)

    def brightness(self, lon, lat):
        inside, iy, ix = _nearest_pixel(self.grid, lon, lat)
        return jnp.where(inside, self.values[iy, ix], 0.0)

    def sample(self, key, size, reach=180.0):
        key_pixel, *keys = jax.random.split(key, 3)
        cumulative = jnp.cumsum(self.values.ravel())
        u = jax.random.uniform(key_pixel, (size,)) * cumulative[-1]
        pixel = jnp.minimum(jnp.searchsorted(cumulative, u, side="right"), cumulative.size - 1)
        return _within(keys, self.grid, pixel)

    @property
    def radius(self):
        return _reach(self.grid)

    @property
    def scale(self):
        return scalar(0.0)

    def nodes(self, lon, lat, narrow, reach):
        return pixel_nodes(self.grid, (lon, lat), narrow, reach)

    def pixel_fractions(self, grid, order):
        return _overlaps(self.values, self.grid, grid)

    def check_field(self, observation):
        if self.edge is not None:
            self.edge.check_field(observation)


class TemplateCube(Morphology):
    """Maps of surface brightness at several true energies, interpolated log-log between them.

    S(E, Omega) = V_p(Omega)^(1 - f) V_p+1(Omega)^f / N(E),   f = ln(E / E_p) / ln(E_p+1 / E_p),

    with planes V_p at energies E_p. Each plane is a map as in [`gammajax.TemplateMap`][] that integrates to one, and N
    normalises S to one at every energy. The cube gives the distribution on the sky, the spectrum of its
    [`gammajax.Source`][] the flux. Below the first and above the last energy, S is the nearest plane.

    - `grid`: [`gammajax.instrument.sky.Grid`][] of all planes. `energy` [TeV]: increasing, at least two.
    - `values` [plane, y, x]: in any unit, normalised plane by plane. A pixel that is zero in some but not all planes
      gets 1e-12 of the mean there, so that its logarithm is defined.
    - `edge` as in [`gammajax.TemplateMap`][].

    `cube.at(energy)` is the morphology at one energy, with `brightness`, `sample` and `plot`. The kernel and direct
    engines support cubes. Raises `ValueError` for energies that are not increasing, planes that are negative, not
    finite or all zero, and neighbouring planes with too little overlap for an interpolation.

    >>> import gammajax as gj, numpy as np
    >>> from gammajax.instrument.sky import Grid
    >>> grid = Grid(0.0, 0.0, 0.1, 1.0)
    >>> x, y = np.meshgrid(grid.coordinates, grid.coordinates)
    >>> planes = [np.exp(-0.5 * (x**2 + y**2) / width**2) for width in (0.4, 0.3)]
    >>> cube = gj.TemplateCube(grid, energy=[0.1, 10.0], values=planes)
    >>> bool(cube.at(10.0).brightness(0.0, 0.0) > cube.at(0.1).brightness(0.0, 0.0))
    True
    """

    is_energy_dependent: ClassVar[bool] = True
    lon: Scalar = eqx.field(metadata={"unit": "deg"})
    lat: Scalar = eqx.field(metadata={"unit": "deg"})
    grid: Grid
    values: Float[Array, "plane pixel pixel"]
    axis: Axis  # of ln E
    log_nodes: Float[Array, " node"]
    log_norm: Float[Array, " node"]
    edge: Edge | None

    def __init__(self, grid: Grid, energy, values, edge: Edge | None = None):
        energy = np.asarray(energy, float)
        if energy.ndim != 1 or energy.size < 2 or len(values) != energy.size:
            raise ValueError(f"a template cube needs one plane per energy, at least two; not {len(values)} planes")
        if not (np.all(np.isfinite(energy)) and energy[0] > 0 and np.all(np.diff(energy) > 0)):
            raise ValueError("the energies of a template cube must be positive, finite and increasing")
        planes = np.stack(
            [_checked(grid, plane, f"plane at {e:.4g} TeV") for e, plane in zip(energy, values, strict=True)]
        )
        planes /= planes.mean((1, 2), keepdims=True)
        planes = np.where(planes.any(0), np.maximum(planes, EMPTY), 0.0)
        planes /= planes.sum((1, 2), keepdims=True)
        self.lon, self.lat, self.grid, self.edge = grid.lon, grid.lat, grid, edge
        self.axis = Axis(np.log(energy), uniform=False)
        log_nodes, log_norm = [np.log(energy[:1])], [np.zeros(1)]
        fraction = np.arange(1, SUB_NODES + 1) / SUB_NODES
        for low, high, e in zip(planes[:-1], planes[1:], np.log(np.stack([energy[:-1], energy[1:]], 1)), strict=True):
            low, high = low[low > 0], high[low > 0]
            step = (high / low) ** (1.0 / SUB_NODES)
            norm, product = np.ones(SUB_NODES), low
            for i in range(SUB_NODES - 1):
                product = product * step
                norm[i] = product.sum()
            if norm.min() < OVERLAP:
                raise ValueError(
                    f"the planes at {np.exp(e[0]):.4g} and {np.exp(e[1]):.4g} TeV have next to nothing in common; give "
                    "planes in between"
                )
            log_nodes.append(e[0] + fraction * (e[1] - e[0]))
            log_norm.append(np.log(norm))
        self.log_nodes, self.log_norm = jnp.asarray(np.concatenate(log_nodes)), jnp.asarray(np.concatenate(log_norm))
        self.values = jnp.asarray(planes / grid.solid_angle)

    @property
    def energy(self) -> Float[Array, " plane"]:
        """Energies of the planes [TeV]."""
        return jnp.exp(self.axis.nodes)

    def at(self, energy):
        return CubeSlice(self, energy)

    def brightness(self, lon, lat):
        raise TypeError("the brightness of a template cube changes with energy: take it of cube.at(energy)")

    def sample(self, key, size, reach=180.0):
        raise TypeError("directions of a template cube change with energy: draw them of cube.at(energy)")

    def pixel_fractions(self, grid, order):
        raise TypeError("pixels of a template cube change with energy: take them of cube.at(energy)")

    @property
    def radius(self):
        return _reach(self.grid)

    @property
    def scale(self):
        return scalar(0.0)

    def nodes(self, lon, lat, narrow, reach):
        return pixel_nodes(self.grid, (lon, lat), narrow, reach)

    def check_field(self, observation):
        if self.edge is not None:
            self.edge.check_field(observation)


class CubeSlice(Morphology):
    """A [`gammajax.TemplateCube`][] at one true energy [TeV] or an array of energies."""

    lon: Scalar = eqx.field(metadata={"unit": "deg"})
    lat: Scalar = eqx.field(metadata={"unit": "deg"})
    cube: TemplateCube
    plane: Array  # below the energies
    fraction: Array  # of the way to the next plane
    log_norm: Array

    def __init__(self, cube: TemplateCube, energy):
        log_energy = jnp.log(jnp.asarray(energy, float))
        self.lon, self.lat, self.cube = cube.lon, cube.lat, cube
        self.plane, fraction = cube.axis.locate(log_energy)
        self.fraction = jnp.clip(fraction, 0.0, 1.0)
        self.log_norm = jnp.interp(log_energy, cube.log_nodes, cube.log_norm)

    def brightness(self, lon, lat):
        inside, iy, ix = _nearest_pixel(self.cube.grid, lon, lat)
        planes = self.cube.values
        value = _geometric(planes[self.plane, iy, ix], planes[self.plane + 1, iy, ix], self.fraction)
        return jnp.where(inside, value * jnp.exp(-self.log_norm), 0.0)

    def sample(self, key, size, reach=180.0):
        """Random directions (lon, lat) [deg], one for each of `size` energies or all at one energy.

        Rejection sampling: proposals come from the arithmetic mean of two planes, which bounds their geometric mean.
        """
        key_pixel, *keys = jax.random.split(key, 3)
        plane, fraction = (jnp.broadcast_to(a, (size,)) for a in (self.plane, self.fraction))
        values = self.cube.values.reshape(self.cube.values.shape[0], -1)
        cumulative = jnp.cumsum(values, axis=1)

        def propose(state):
            key, pixel, todo = state
            key, *parts = jax.random.split(key, 4)
            u, v, w = (jax.random.uniform(part, (size,)) for part in parts)
            proposed = _search_rows(cumulative, plane + (u < fraction), v)
            low, high = values[plane, proposed], values[plane + 1, proposed]
            mean = (1.0 - fraction) * low + fraction * high
            keep = w * mean < _geometric(low, high, fraction)
            return key, jnp.where(todo, proposed, pixel), todo & ~keep

        start = key_pixel, jnp.zeros(size, jnp.int32), jnp.ones(size, bool)
        return _within(keys, self.cube.grid, jax.lax.while_loop(lambda state: state[2].any(), propose, start)[1])

    def pixel_fractions(self, grid, order):
        """Of a single energy; see [`gammajax.model.morphology.pixel_fractions`][]."""
        planes = self.cube.values
        values = _geometric(planes[self.plane], planes[self.plane + 1], self.fraction) * jnp.exp(-self.log_norm)
        return _overlaps(values, self.cube.grid, grid)

    def nodes(self, lon, lat, narrow, reach):
        return self.cube.nodes(lon, lat, narrow, reach)

    @property
    def radius(self):
        return self.cube.radius

    @property
    def scale(self):
        return self.cube.scale


def _checked(grid, values, name) -> np.ndarray:
    values = np.asarray(values, float)
    if values.shape != (grid.size, grid.size):
        raise ValueError(f"the {name} has shape {values.shape}, its grid needs {(grid.size, grid.size)}")
    if not np.all(np.isfinite(values)) or np.any(values < 0) or not np.any(values > 0):
        raise ValueError(f"a {name} must be finite, non-negative and not all zero")
    return values


@eqx.filter_jit
def _selected(observation, lon, lat):
    return observation.selected(lon, lat), observation.offset(lon, lat)


def _reach(grid):
    return scalar(grid.size * grid.step / math.sqrt(2.0))


def _nearest_pixel(grid, lon, lat):
    """Whether directions are on the grid, and their pixels [y, x]."""
    x, y = grid.pixel(lon, lat)
    ix, iy = jnp.round(x).astype(jnp.int32), jnp.round(y).astype(jnp.int32)
    last = grid.size - 1
    inside = (ix >= 0) & (iy >= 0) & (ix <= last) & (iy <= last)
    return inside, jnp.clip(iy, 0, last), jnp.clip(ix, 0, last)


def _within(keys, grid, pixel):
    """Random directions within pixels of a grid, given by flat index."""
    middle = 0.5 * (grid.size - 1)
    x = pixel % grid.size + jax.random.uniform(keys[0], pixel.shape) - 0.5
    y = pixel // grid.size + jax.random.uniform(keys[1], pixel.shape) - 0.5
    return deproject((x - middle) * grid.step, (y - middle) * grid.step, grid.lon, grid.lat)


def _geometric(low, high, fraction):
    """low^(1 - f) high^f, exactly `low` where both are equal; both planes are zero in the same pixels."""
    some = low > 0
    return jnp.where(some, low * jnp.where(some, high / jnp.where(some, low, 1.0), 1.0) ** fraction, 0.0)


def _search_rows(cumulative, row, u):
    """First column of each `row` where the cumulative sum exceeds `u` of its total: bisection, without copying rows."""
    last = cumulative.shape[1] - 1
    u = u * cumulative[row, last]

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        above = cumulative[row, middle] > u
        return jnp.where(above, low, jnp.minimum(middle + 1, high)), jnp.where(above, middle, high)

    bounds = jnp.zeros(row.shape, jnp.int32), jnp.full(row.shape, last, jnp.int32)
    return jax.lax.fori_loop(0, last.bit_length() + 1, halve, bounds)[0]


def _overlaps(values, own, grid):
    """Flux of a map on the pixels of the grid `own`, in the pixels of another `grid`.

    The map's pixels are divided into squares no larger than the pixels of `grid`. The squares are taken as parallel to
    the axes of `grid`: exact if both grids share a centre, else a good approximation.
    """
    n = math.ceil(own.step / grid.step)
    inner = jnp.asarray(((np.arange(own.size * n) + 0.5) / n - 0.5 * own.size) * own.step)
    x, y = jnp.meshgrid(inner, inner)
    pixel = grid.pixel(*deproject(x, y, own.lon, own.lat))
    half = 0.5 * own.step / (grid.step * n)
    flux = jnp.repeat(jnp.repeat(values, n, 0), n, 1) * (own.solid_angle / n**2)
    # a square overlaps the pixel of its lower edge and the next
    first = [jnp.round(p - half).astype(jnp.int32) for p in pixel]
    beyond = [jnp.clip((p + half - i - 0.5) / (2.0 * half), 0.0, 1.0) for p, i in zip(pixel, first, strict=True)]
    fractions = jnp.zeros((grid.size, grid.size), flux.dtype)
    for dx in (0, 1):
        for dy in (0, 1):
            part = (beyond[0] if dx else 1.0 - beyond[0]) * (beyond[1] if dy else 1.0 - beyond[1])
            ix, iy = first[0] + dx, first[1] + dy
            inside = (ix >= 0) & (iy >= 0)  # negative indices would count from the other end
            row, column = jnp.where(inside, iy, grid.size), jnp.where(inside, ix, grid.size)
            fractions = fractions.at[row, column].add(flux * part, mode="drop")
    return fractions
