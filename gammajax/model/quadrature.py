"""Quadrature over the sky for a source's brightness times a response that peaks at one direction.

Either factor may be narrow. Nodes therefore lie in panels in coordinates of the source. Panels end at radii where the
brightness changes its form, and at distances from the peak that double, starting from its narrowest width.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.instrument.sky import DEGREE, SQUARE_DEGREE, Grid, deproject, project

# lists: a host array closed over by jit keeps the precision of its first use in the process
RADIAL, ANGULAR, PIXEL = ([a.tolist() for a in np.polynomial.legendre.leggauss(n)] for n in (8, 40, 3))


def polar_nodes(
    centre: tuple, breaks: Float[Array, " break"], axis_ratio, phi, peak: tuple, narrow: float, reach: float
) -> tuple[Float[Array, "radius angle"], Float[Array, "radius angle"], Float[Array, "radius angle"]]:
    """Directions (lon, lat) [deg] and solid angles [sr] on ellipses about `centre`, within `reach` of `peak` [deg].

    `breaks` [deg] are radii along the major axis from 0 to the end of the brightness, which is smooth between them;
    ellipses as in [`gammajax.model.morphology.Elongated`][]. `narrow` [deg] is the smallest width of the response.

    Nodes within a panel follow 3 t^2 - 2 t^3, which smooths the vertical rim of a shell. The position angle is the
    peak's plus w sinh(u), with u evenly spaced and w twice the narrow width seen from the source: one set of nodes
    serves all larger widths.
    """
    sine, cosine = jnp.sin(DEGREE * phi), jnp.cos(DEGREE * phi)
    east, north = project(*peak, *centre)
    along, across = east * sine + north * cosine, (east * cosine - north * sine) / axis_ratio
    # at the centre distance and angle have no gradient; near it they affect only the nodes
    near = along**2 + across**2 < narrow**2
    along, across = (jnp.where(near, jax.lax.stop_gradient(part), part) for part in (along, across))
    along = jnp.where((along == 0) & (across == 0), 1e-9, along)
    distance, toward = jnp.maximum(jnp.hypot(along, across), 1e-6), jnp.arctan2(across, along)

    far = reach / axis_ratio
    radii = 2.0 / DEGREE * jnp.sin(0.5 * DEGREE * breaks)  # in the projection
    edges = jnp.clip(_about(distance, radii, narrow, reach), jnp.maximum(distance - far, 0.0), distance + far)
    edges = jnp.sort(jnp.minimum(edges, radii[-1]))
    t = 0.5 * (jnp.asarray(RADIAL[0]) + 1.0)
    length = jnp.diff(edges)[:, None]
    # keep away from zero, where directions have no gradient
    radius = jnp.maximum(edges[:-1, None] + length * t**2 * (3.0 - 2.0 * t), 1e-9).reshape(-1, 1)
    weight = (length * 3.0 * t * (1.0 - t) * jnp.asarray(RADIAL[1])).reshape(-1, 1)

    mean = jnp.sqrt(radius * distance)
    width = jnp.minimum(2.0 * narrow / mean, 30.0)
    # |a - b| > 2 sqrt(ab) |sin(angle / 2)| > 2 sqrt(ab) |angle| / pi
    last = jnp.arcsinh(jnp.minimum(0.5 * far / mean, 1.0) * math.pi / width)
    u = last * jnp.asarray(ANGULAR[0])
    angle = toward + width * jnp.sinh(u)
    weight = weight * radius * width * jnp.cosh(u) * last * jnp.asarray(ANGULAR[1]) * axis_ratio * SQUARE_DEGREE

    x, y = radius * jnp.cos(angle), axis_ratio * radius * jnp.sin(angle)
    return *deproject(x * sine + y * cosine, x * cosine - y * sine, *centre), weight


def pixel_nodes(
    grid: Grid, peak: tuple, narrow: float, reach: float
) -> tuple[Float[Array, "y x"], Float[Array, "y x"], Float[Array, "y x"]]:
    """Like [`polar_nodes`][], for a brightness that is constant in the pixels of a grid.

    In both coordinates of the grid, panels also end at the edges of pixels.
    """
    count = min(math.ceil(2.0 * reach / grid.step) + 2, grid.size + 1)
    axes = []
    for middle in grid.pixel(*peak):
        first = jnp.clip(jnp.floor(middle - reach / grid.step), 0.0, grid.size + 1.0 - count) - 0.5
        edges = _about(middle, first + jnp.arange(count), narrow / grid.step, reach / grid.step)
        edges = jnp.clip(edges, middle - reach / grid.step, middle + reach / grid.step)
        edges = jnp.sort(jnp.clip(edges, -0.5, grid.size - 0.5))
        half, centre = 0.5 * jnp.diff(edges)[:, None], 0.5 * (edges[1:] + edges[:-1])[:, None]
        position = (centre + half * jnp.asarray(PIXEL[0])).ravel() - 0.5 * (grid.size - 1)
        axes.append((position * grid.step, (half * jnp.asarray(PIXEL[1])).ravel()))
    (x, weight_x), (y, weight_y) = axes
    x, y = jnp.meshgrid(x, y)
    directions = deproject(x, y, grid.lon, grid.lat)
    return *directions, weight_y[:, None] * weight_x * grid.solid_angle


def _about(peak, edges, narrow: float, reach: float):
    """More edges, at distances from the peak that double up to `reach`."""
    steps = jnp.asarray((2.0 * narrow * 2.0 ** np.arange(max(1, math.ceil(math.log2(0.5 * reach / narrow))))).tolist())
    return jnp.concatenate([edges, peak - steps, peak[None], peak + steps])
