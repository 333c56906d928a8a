"""Shapes with rims: disk, ring, shell, and the whole sky."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gammajax.morphology import (
    Elongated,
    Morphology,
    angle,
    chord,
    require_eccentricity,
    sample_radial,
    sample_separation,
)
from gammajax.sky import DEGREE, displace, root, separation
from gammajax.spectra import Scalar, is_concrete, parameter, require_positive, scalar


class Disk(Elongated):
    """Uniform disk of angular radius `r_0` [deg]: S = 1 / (2 pi (1 - cos r_0)) inside.

    `edge` [deg] smooths the rim (an error function of that width), which makes the disk differentiable in
    position and radius; gammapy's `DiskSpatialModel` defines the same edge. `r_0` and `edge` are along the major axis;
    `e` and `phi` [deg] as in [`gammajax.morphology.Elongated`][], by default a circle.
    """

    lon: Scalar = parameter()
    lat: Scalar = parameter()
    r_0: Scalar = parameter()
    edge: Scalar = eqx.field(converter=scalar, default=0.01)
    e: Scalar = eqx.field(converter=scalar, default=0.0)
    phi: Scalar = eqx.field(converter=scalar, default=0.0)

    def __check_init__(self):
        require_positive(self, "r_0")
        require_eccentricity(self)

    def profile(self, half2):
        area = 4.0 * jnp.pi * jnp.sin(0.5 * DEGREE * self.r_0) ** 2
        return _inside(angle(half2), self.r_0, self.edge) / area

    def sample_profile(self, key, size):
        # a smooth rim moves no flux to first order: draw from a table of the radial distribution
        rad = jnp.linspace(0.0, 1.0, 4096) * self.radius
        return sample_separation(key, size, rad, _inside(rad, self.r_0, self.edge))

    @property
    def radius(self):
        return self.r_0 + 2.0 * self.edge

    @property
    def breaks(self):
        return jnp.append(jnp.zeros(1), _rim(self.r_0, self.edge))

    @property
    def scale(self):
        return scalar(0.0)


class Ring(Morphology):
    """Uniform ring from `r_0` to `r_0 + width` [deg]: S = 1 / (2 pi (cos r_0 - cos(r_0 + width))) inside.

    `edge` [deg] smooths both rims as that of a [`gammajax.Disk`][]; their second-order terms cancel in the norm.
    """

    lon: Scalar = parameter()
    lat: Scalar = parameter()
    r_0: Scalar = parameter()
    width: Scalar = parameter()
    edge: Scalar = eqx.field(converter=scalar, default=0.01)

    def __check_init__(self):
        require_positive(self, "width")
        if is_concrete(self.r_0) and np.any(np.asarray(self.r_0) < 0):
            raise ValueError(f"r_0 of a Ring must not be negative, it is {np.asarray(self.r_0)}")

    def _profile(self, rad):
        return _inside(rad, self.r_0 + self.width, self.edge) - _inside(rad, self.r_0, self.edge)

    def brightness(self, lon, lat):
        caps = jnp.sin(0.5 * DEGREE * (self.r_0 + self.width)) ** 2 - jnp.sin(0.5 * DEGREE * self.r_0) ** 2
        return self._profile(separation(lon, lat, self.lon, self.lat)) / (4.0 * jnp.pi * caps)

    def sample(self, key, size, reach=180.0):
        rad = jnp.linspace(0.0, 1.0, 4096) * self.radius
        return sample_radial(key, size, self.lon, self.lat, rad, self._profile(rad))

    @property
    def radius(self):
        return self.r_0 + self.width + 2.0 * self.edge

    @property
    def breaks(self):
        rims = _rim(self.r_0, self.edge), _rim(self.r_0 + self.width, self.edge)
        return jnp.concatenate([jnp.zeros(1), *rims])

    @property
    def scale(self):
        return scalar(0.0)


class Shell(Morphology):
    """Projection of a sphere's shell that shines evenly between the radii r_in = `radius` and r_out = radius + width.

    S = 3 / (2 pi (R_out^3 - R_in^3)) (sqrt(R_out^2 - d^2) - sqrt(R_in^2 - d^2)), each root zero where its argument is
    negative; d, R are chords. `radius`, `width` [deg]; gammapy's `ShellSpatialModel`, with angles for chords.
    """

    lon: Scalar = parameter()
    lat: Scalar = parameter()
    radius_in: Scalar = parameter()
    width: Scalar = parameter()

    def __init__(self, lon, lat, radius, width):
        self.lon, self.lat, self.radius_in, self.width = map(scalar, (lon, lat, radius, width))

    def __check_init__(self):
        require_positive(self, "width")
        if is_concrete(self.radius_in) and np.any(np.asarray(self.radius_in) < 0):
            raise ValueError(f"radius of a Shell must not be negative, it is {np.asarray(self.radius_in)}")

    def _chords(self):
        return chord(self.radius_in), chord(self.radius_in + self.width)

    def brightness(self, lon, lat):
        inner, outer = self._chords()
        chord2 = chord(separation(lon, lat, self.lon, self.lat)) ** 2
        # in units of the outer radius: cubes of small angles have few digits
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
    """Isotropic: S = 1 / (4 pi) over the whole sky, so that the spectrum is the flux of 4 pi sr.

    A sky brightness B [TeV^-1 cm^-2 s^-1 sr^-1] is the spectrum 4 pi B. gammapy's `ConstantSpatialModel` with the
    value 1 / (4 pi). Simulations draw within reach of (`lon`, `lat`) [deg]: near the observations they are faster.
    """

    lon: Scalar = eqx.field(converter=scalar, default=0.0)
    lat: Scalar = eqx.field(converter=scalar, default=0.0)

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


def _rim(limit, edge):
    """Radii between which [`_inside`][] is smooth; beyond the last it is below a part in 1e6."""
    return jnp.maximum(limit + edge * jnp.asarray([-1.5, -0.5, 0.5, 1.5]), 0.0)


def _inside(rad, limit, edge):
    """One inside the limit and zero outside; `edge` is the width from 5 to 95 %."""
    width = jnp.maximum(edge, 1e-6) / 2.326
    return 0.5 * (1.0 - jax.scipy.special.erf((rad - limit) / width))
