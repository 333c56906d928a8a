"""Shapes with rims: disk, ring, shell, and the whole sky."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr

from gammajax.common.parameters import Scalar, is_concrete, parameter, require_positive, scalar
from gammajax.instrument.sky import DEGREE, displace, root, separation
from gammajax.model.morphology import (
    ROUND,
    Elongated,
    Morphology,
    angle,
    chord,
    require_eccentricity,
    sample_radial,
    sample_separation,
)

SHARP = 1e-9  # deg, width of a rim with edge = 0


class Disk(Elongated):
    """Uniform disk of angular radius `r_0` [deg]: S = 1 / (2 pi (1 - cos r_0)) inside.

    `lon`, `lat` [deg]: the centre. `edge` [deg] smooths the rim (an error function of that width), which makes the disk
    differentiable in position and radius; gammapy's `DiskSpatialModel` defines the same edge. The rim is never wider
    than the radius, and the norm is exact for it: S = 1 / Int (rim) dOmega. `r_0` and `edge` are along the major axis;
    `e` and `phi` [deg] as in [`gammajax.model.morphology.Elongated`][], by default a circle.

    >>> import gammajax as gj
    >>> disk = gj.Disk(lon=0.0, lat=0.0, r_0=0.5)
    >>> bool(disk.brightness(0.2, 0.0) > disk.brightness(0.6, 0.0))
    True
    """

    sizes: ClassVar[tuple[str, ...]] = ("r_0", "edge")
    lon: Scalar = parameter("deg")
    lat: Scalar = parameter("deg")
    r_0: Scalar = parameter("deg")
    edge: Scalar = parameter("deg", 0.01)
    e: Scalar = parameter("", 0.0)
    phi: Scalar = parameter("deg", 0.0)

    def __check_init__(self):
        require_positive(self, "r_0")
        _require_not_negative(self, "edge")
        _require_on_sky(self, "r_0", self.r_0)
        require_eccentricity(self)

    @property
    def rim(self) -> Scalar:
        """Width of the rim [deg]: `edge`, at most the radius."""
        return jnp.minimum(self.edge, self.r_0)

    @property
    def spread(self):
        return 0.5 * self.r_0

    def profile(self, half2):
        return _inside(angle(half2), self.r_0, self.rim) / _area(self.r_0, self.rim)

    def sample_profile(self, key, size):
        # from a table of the radial distribution
        rad = jnp.linspace(0.0, 1.0, 4096) * self.radius
        return sample_separation(key, size, rad, _inside(rad, self.r_0, self.rim))

    @property
    def radius(self):
        return self.r_0 + 2.0 * self.rim

    @property
    def breaks(self):
        return jnp.append(jnp.zeros(1), _rim(self.r_0, self.rim))

    @property
    def scale(self):
        return scalar(0.0)


class Ring(Morphology):
    """Uniform ring from `r_0` to `r_0 + width` [deg]: S = 1 / (2 pi (cos r_0 - cos(r_0 + width))) inside.

    `lon`, `lat` [deg]: the centre; `width` [deg] of the ring. `edge` [deg] smooths both rims as in a
    [`gammajax.Disk`][]; they are never wider than the ring.

    >>> import gammajax as gj
    >>> ring = gj.Ring(lon=0.0, lat=0.0, r_0=0.4, width=0.2)
    >>> bool(ring.brightness(0.5, 0.0) > ring.brightness(0.0, 0.0))
    True
    """

    sizes: ClassVar[tuple[str, ...]] = ("r_0", "width", "edge")
    lon: Scalar = parameter("deg")
    lat: Scalar = parameter("deg")
    r_0: Scalar = parameter("deg")
    width: Scalar = parameter("deg")
    edge: Scalar = parameter("deg", 0.01)

    def __check_init__(self):
        require_positive(self, "width")
        _require_not_negative(self, "r_0", "edge")
        _require_on_sky(self, "r_0 + width", self.r_0 + self.width)

    @property
    def rim(self) -> Scalar:
        """Width of both rims [deg]: `edge`, at most the width of the ring."""
        return jnp.minimum(self.edge, self.width)

    @property
    def spread(self):
        outer = self.r_0 + self.width
        return 0.5 * jnp.sqrt(self.r_0**2 + outer**2)

    def _profile(self, rad):
        return _inside(rad, self.r_0 + self.width, self.rim) - _inside(rad, self.r_0, self.rim)

    @property
    def is_round(self):
        return is_concrete(self) and float(self.radius) <= ROUND

    def brightness(self, lon, lat):
        area = _area(self.r_0 + self.width, self.rim) - _area(self.r_0, self.rim)
        return self._profile(separation(lon, lat, self.lon, self.lat)) / area

    def sample(self, key, size, reach=180.0):
        rad = jnp.linspace(0.0, 1.0, 4096) * self.radius
        return sample_radial(key, size, self.lon, self.lat, rad, self._profile(rad))

    @property
    def radius(self):
        return self.r_0 + self.width + 2.0 * self.rim

    @property
    def breaks(self):
        rims = _rim(self.r_0, self.rim), _rim(self.r_0 + self.width, self.rim)
        return jnp.concatenate([jnp.zeros(1), *rims])

    @property
    def scale(self):
        return scalar(0.0)


class Shell(Morphology):
    """Projection of a spherical shell with uniform emissivity between r_in = `radius` and r_out = radius + width.

    S = 3 / (2 pi (R_out^3 - R_in^3)) (sqrt(R_out^2 - d^2) - sqrt(R_in^2 - d^2)); roots of negative arguments are zero,
    d and R are chords. `lon`, `lat` [deg] is the centre; `radius`, `width` [deg]. gammapy's `ShellSpatialModel` uses
    angles instead of chords.

    >>> import gammajax as gj
    >>> shell = gj.Shell(lon=0.0, lat=0.0, radius=0.4, width=0.1)
    >>> bool(shell.brightness(0.4, 0.0) > shell.brightness(0.0, 0.0))
    True
    """

    sizes: ClassVar[tuple[str, ...]] = ("radius_in", "width")
    lon: Scalar = parameter("deg")
    lat: Scalar = parameter("deg")
    radius_in: Scalar = parameter("deg")
    width: Scalar = parameter("deg")

    def __init__(self, lon, lat, radius, width):
        self.lon, self.lat, self.radius_in, self.width = map(scalar, (lon, lat, radius, width))

    def __check_init__(self):
        require_positive(self, "width")
        if is_concrete(self.radius_in) and np.any(np.asarray(self.radius_in) < 0):
            raise ValueError(f"radius of a Shell must not be negative, it is {np.asarray(self.radius_in)}")
        _require_on_sky(self, "radius + width", self.radius_in + self.width)

    @property
    def is_round(self):
        return is_concrete(self) and float(self.radius) <= ROUND

    def _chords(self):
        return chord(self.radius_in), chord(self.radius_in + self.width)

    def brightness(self, lon, lat):
        inner, outer = self._chords()
        chord2 = chord(separation(lon, lat, self.lon, self.lat)) ** 2
        # in units of the outer radius: cubes of small angles lose digits
        depth = root(1.0 - chord2 / outer**2) - root((inner**2 - chord2) / outer**2)
        return 1.5 * depth / (jnp.pi * outer**2 * (1.0 - (inner / outer) ** 3))

    def sample(self, key, size, reach=180.0):
        # evenly in the shell, then along the line of sight
        key_radius, key_height, key_angle = jax.random.split(key, 3)
        inner, outer = self._chords()
        u = jax.random.uniform(key_radius, (size,))
        ratio3 = (inner / outer) ** 3
        distance = outer * jnp.cbrt(ratio3 + u * (1.0 - ratio3))
        height = jax.random.uniform(key_height, (size,))
        rad = angle(0.25 * distance**2 * (1.0 - height**2))
        return displace(self.lon, self.lat, rad, jax.random.uniform(key_angle, (size,), maxval=360.0))

    @property
    def spread(self):
        # for a ball: a third of 3/5 R^2 along each axis
        return math.sqrt(0.2) * (self.radius_in + self.width)

    @property
    def radius(self):
        return self.radius_in + self.width

    @property
    def breaks(self):
        # a thin shell rises to its inner rim within its width
        inner, outer = self.radius_in, self.radius_in + self.width
        return jnp.stack([jnp.zeros_like(outer), jnp.maximum(inner - self.width, 0.0), inner, outer])

    @property
    def scale(self):
        return scalar(0.0)


class Constant(Morphology):
    """Isotropic: S = 1 / (4 pi) over the whole sky; the spectrum is the flux of 4 pi sr.

    A sky brightness B [TeV^-1 cm^-2 s^-1 sr^-1] has the spectrum 4 pi B. gammapy's `ConstantSpatialModel` with the
    value 1 / (4 pi) is the same. Simulations draw directions around (`lon`, `lat`) [deg]: a centre near the
    observations makes them faster.

    >>> import gammajax as gj, math
    >>> round(float(gj.Constant().brightness(10.0, 20.0)) * 4 * math.pi, 4)
    1.0
    """

    lon: Scalar = parameter("deg", 0.0)
    lat: Scalar = parameter("deg", 0.0)

    def brightness(self, lon, lat):
        return jnp.full(jnp.broadcast_shapes(jnp.shape(lon), jnp.shape(lat)), 0.25 / jnp.pi)

    def sample(self, key, size, reach=180.0):
        key_radius, key_angle = jax.random.split(key)
        rad = angle(jax.random.uniform(key_radius, (size,)) * self.containment(reach))
        return displace(self.lon, self.lat, rad, jax.random.uniform(key_angle, (size,), maxval=360.0))

    def containment(self, reach):
        return jnp.sin(0.5 * DEGREE * jnp.minimum(reach, 180.0)) ** 2

    @property
    def radius(self):
        return scalar(180.0)

    @property
    def scale(self):
        return scalar(0.0)


def _require_not_negative(shape, *names):
    """Raise `ValueError` for the first of these parameters that is concrete and negative."""
    for name in names:
        value = getattr(shape, name)
        if is_concrete(value) and np.any(np.asarray(value) < 0):
            raise ValueError(f"{name} of a {type(shape).__name__} must not be negative, it is {np.asarray(value)}")


def _require_on_sky(shape, name, outer):
    """Raise `ValueError` for a concrete outer radius above 180 deg."""
    if is_concrete(outer) and np.any(np.asarray(outer) > 180.0):
        raise ValueError(f"{name} of a {type(shape).__name__} must be at most 180 deg, it is {np.asarray(outer)}")


def _area(limit, edge):
    """Integral [sr] of [`_inside`][] over the sky: 2 pi Int (1 - cos r) N(r; R, s) dr for the limit R.

    Exact on the sphere if the rim does not reach the centre, otherwise exact in the plane.
    """
    s, rad = DEGREE * jnp.maximum(edge, SHARP) / 2.326 / math.sqrt(2.0), DEGREE * limit
    z = rad / s
    mean = -jnp.expm1(-0.5 * s**2) + 2.0 * jnp.exp(-0.5 * s**2) * jnp.sin(0.5 * rad) ** 2  # of 1 - cos r
    density = jnp.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    return jnp.pi * (2.0 * mean * ndtr(z) + rad * s * density)


def _rim(limit, edge):
    """Radii between which [`_inside`][] is smooth; beyond the last radius it is below a part in 1e6."""
    return jnp.maximum(limit + edge * jnp.asarray([-1.5, -0.5, 0.5, 1.5]), 0.0)


def _inside(rad, limit, edge):
    """One inside the limit and zero outside; `edge` is the width from 5 to 95 %."""
    width = jnp.maximum(edge, SHARP) / 2.326
    return 0.5 * (1.0 - jax.scipy.special.erf((rad - limit) / width))
