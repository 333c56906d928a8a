"""Integrals over the selected region: the disk of the field of view without its excluded sky."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.engines.convolution import spline_taps
from gammajax.instrument.observation import Observation
from gammajax.instrument.sky import DEGREE, SQUARE_DEGREE, Grid, deproject, separation_on_host

CHUNK = 2**16  # nodes at a time

Nodes = tuple[Float[np.ndarray, " node"], Float[np.ndarray, " node"], Float[np.ndarray, " node"]]


def field_nodes(observation: Observation, step: float, points: int) -> Nodes:
    """Directions (lon, lat) [deg] and solid angles [sr] of a quadrature over the disk of the field of view.

    Gauss-Legendre panels in both coordinates of the Lambert projection about the pointing; they end at multiples of
    `step` [deg] and at the rim.
    """
    point, weight = np.polynomial.legendre.leggauss(points)
    end = 2.0 / DEGREE * math.sin(0.5 * DEGREE * float(observation.offset_max))
    most = math.ceil(end / step - 1e-9)
    edges = np.concatenate([[-end], step * np.arange(1 - most, most), [end]])

    def panels(edges):
        half, middle = 0.5 * np.diff(edges)[..., None], 0.5 * (edges[..., 1:] + edges[..., :-1])[..., None]
        return ((part + 0.0 * point).reshape(*edges.shape[:-1], -1) for part in (middle + half * point, half * weight))

    angle, width = panels(np.arcsin(np.clip(edges / end, -1.0, 1.0)))  # chords end smoothly in the angle
    limit = end * np.cos(angle)[:, None]
    x, length = panels(np.clip(edges, -limit, limit))
    y = np.repeat(end * np.sin(angle), x.shape[1])
    lon, lat = deproject(jnp.asarray(x.ravel()), jnp.asarray(y), observation.lon, observation.lat)
    return np.asarray(lon), np.asarray(lat), (length * limit * width[:, None]).ravel() * SQUARE_DEGREE


def excluded_pixels(observation: Observation) -> Nodes:
    """Excluded pixels, as far as they are within the field of view: directions [deg] and solid angles [sr]."""
    assert observation.exclusion is not None
    grid = observation.exclusion.grid
    chosen = np.asarray(observation.exclusion.excluded)
    lon, lat = (np.asarray(part)[chosen] for part in grid.directions())
    room = float(observation.offset_max) - separation_on_host(lon, lat, observation.lon, observation.lat)
    solid_angle = grid.solid_angle * np.clip(0.5 + room / grid.step, 0.0, 1.0)
    inside = solid_angle > 0.0
    return lon[inside], lat[inside], solid_angle[inside]


def spline_integrals(observation: Observation, grid: Grid) -> Float[np.ndarray, "y x"]:
    """Integral [sr] over the selected region of each cubic B-spline of a grid about the pointing."""
    parts = [(1.0, field_nodes(observation, grid.step, 2))]
    if observation.exclusion is not None:
        parts.append((-1.0, excluded_pixels(observation)))
    total = np.zeros(grid.size**2)
    for sign, (lon, lat, solid_angle) in parts:
        for first in range(0, lon.size, CHUNK):
            some = np.resize(np.arange(first, min(first + CHUNK, lon.size)), CHUNK)
            weight = np.where(np.arange(CHUNK) < lon.size - first, sign * solid_angle[some], 0.0)
            index, tap = map(np.asarray, _taps(grid, jnp.asarray(lon[some]), jnp.asarray(lat[some])))
            total += np.bincount(index.ravel(), (tap * weight[:, None]).ravel(), total.size)
    return total.reshape(grid.size, grid.size)


@eqx.filter_jit
def _taps(grid, lon, lat) -> tuple[Array, Array]:
    return spline_taps(grid, lon, lat)
