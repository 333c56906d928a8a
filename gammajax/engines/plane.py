"""Directions in the plane about the centre of a source, and the offsets of true directions.

A function of offset has a mean over the true directions of the photons that are reconstructed in some direction. It
takes the function at two offsets, one standard deviation on either side of the mean of a Rice distribution, by the
first two moments of the true directions.

Radii are separations theta, in a plane whose rings have the area of the sky times theta / sin(theta): values are
multiplied by this. The other plane about the centre, of offsets, is the Lambert projection: its distances are off by a
part in theta^2 / 24, 3e-4 at 5 deg.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gammajax.instrument.runs import Runs
from gammajax.instrument.sky import DEGREE, SQUARE_DEGREE, project, root


class Directions(NamedTuple):
    """Directions about the centre of a source, in the plane [deg].

    Separation, and vectors to the direction and to the pointing. Columns are separate: so are their gradients.
    """

    rad: Float[Array, "*pair"]
    position: tuple[Float[Array, "*pair"], Float[Array, "*pair"]]
    pointing: tuple[Float[Array, "*pair"], Float[Array, "*pair"]]

    @property
    def crowding(self) -> Float[Array, "*pair"]:
        """Area of rings in the plane over that on the sky [deg^2 per sr]: theta / sin(theta), to 1e-6 at 20 deg."""
        square = (DEGREE * self.rad) ** 2
        return (1.0 + square / 6.0 * (1.0 + 7.0 / 60.0 * square)) / SQUARE_DEGREE


def directions(
    centre: tuple[Array, Array],
    runs: Runs,
    run: Int[Array, " pair"],
    lon: Float[Array, " pair"],
    lat: Float[Array, " pair"],
) -> Directions:
    """Directions [deg] that are reconstructed in some runs, about the `centre` (lon, lat) [deg] of the source."""
    x, y = project(lon, lat, *centre)
    rho = DEGREE * root(x**2 + y**2)
    # 2 arcsin(rho / 2); good to 1e-6 up to 20 deg
    rad = rho * (1.0 + rho**2 / 24.0 * (1.0 + 9.0 * rho**2 / 80.0)) / DEGREE
    east, north = (column[run] for column in project(runs.lon, runs.lat, *centre))
    return Directions(rad, (x, y), (east, north))


def hat_values(sides, window: int) -> list[list[Float[Array, "*pair"]]]:
    """Hat function of every node of a window, each at its own position, for both sides of the mean."""
    last = window - 1.0
    return [
        [jnp.maximum(1.0 - jnp.abs(jnp.clip(side, 0.0, last) - node), 0.0) for node, side in enumerate(of_nodes)]
        for of_nodes in sides
    ]


def weighted_sum(weights, values):
    """Sum of the products of two lists of columns."""
    return sum(a * b for a, b in zip(weights, values, strict=True))


def distance(x, y):
    """Length of vectors in the plane."""
    return jnp.sqrt(jnp.maximum(x**2 + y**2, 1e-12))


def offsets_of(mean, across, stretch, directions: Directions) -> tuple[Array, Array]:
    """Offsets [deg] one standard deviation below and above the mean of true directions with moments [..., pair]."""
    east, north = directions.position
    # from the pointing to the mean direction
    x, y = mean * east - directions.pointing[0], mean * north - directions.pointing[1]
    away = distance(x, y)
    toward = (x * east + y * north) / away
    along = jnp.maximum(across + stretch * toward**2, 0.0)
    total = 2.0 * across + stretch * directions.rad**2
    return two_offsets(away, along, jnp.maximum(total - along, 0.0))


def two_offsets(away, along, across) -> tuple[Array, Array]:
    """Offsets [deg] one standard deviation below and above the mean of those of directions in the plane.

    The directions have variances `along` and `across` [deg^2] the line from the pointing to their mean, which is `away`
    [deg]. Across it they only add to the offset; the square of the mean of a Rice distribution, here to 4e-4.
    """
    across = jnp.maximum(across, 1e-8)  # derivatives stay finite at the pointing
    square = away**2
    part = (across + 0.0333 * square) / (across**2 + 0.4017 * across * square + 0.082 * square**2)
    more = across * (1.0 + (0.5 * math.pi - 1.0) * across * part)
    mean = jnp.sqrt(square + more)
    width = jnp.sqrt(jnp.maximum(along + across - more, 1e-12))
    return jnp.abs(mean - width), mean + width
