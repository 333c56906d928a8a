"""Morphologies: the distribution of a source's flux on the sky.

A morphology has a surface brightness [sr^-1] that integrates to one over the sky, an extent (centre and radius of a
circle that contains it) and draws random directions. Only [`gammajax.Point`][] has no surface brightness: engines
evaluate the point spread function at its exact position. Disks, rings and shells are
in [`gammajax.model.shapes`][], maps in [`gammajax.model.templates`][], halos of dark matter in
[`gammajax.darkmatter.halos`][]. If the morphology changes with energy, `morphology.at(energy)` is the morphology at one
energy or an array of energies.

Names of parameters are gammapy's. Distances enter as chords, 2 sin(r / 2): these are the radii of the Lambert
equal-area projection about the centre, so closed forms in the plane are normalised on the sphere too.
At 1 deg from the centre a chord is shorter than its angle by a part in 1e5.
"""

import abc
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from scipy.special import gammainccinv

from gammajax.common.display import described, document
from gammajax.common.parameters import Scalar, is_concrete, parameter, require_finite, require_positive, scalar
from gammajax.common.plot_units import unit_size
from gammajax.instrument.observation import Observation
from gammajax.instrument.sky import DEGREE, SQUARE_DEGREE, Grid, deproject, displace, project, root
from gammajax.model.quadrature import polar_nodes

ROUND = 15.0  # deg, largest source that is folded without an image
OUTSIDE = 1e-3  # part of a generalised Gaussian that may lie outside the sky


class Morphology(eqx.Module):
    """Interface of all morphologies; `lon`, `lat` [deg] is the centre, in the observations' frame."""

    is_energy_dependent: ClassVar[bool] = False
    sizes: ClassVar[tuple[str, ...]] = ()  # fields that scale the source without changing its form
    lon: eqx.AbstractVar[Scalar]
    lat: eqx.AbstractVar[Scalar]
    __repr__, __pdoc__ = described, document

    def __check_init__(self):
        require_finite(self)

    def at(self, energy: Float[Array, "..."] | float) -> "Morphology":
        """The morphology at true `energy` [TeV]: itself, unless it `is_energy_dependent`.

        Energies may have any shape: they broadcast against directions, and have shape () or (size,) for `sample`.
        """
        del energy
        return self

    def largest(self, energy: Float[Array, "*energy"]) -> tuple["Morphology", Float[Array, "*energy"]]:
        """The shape at its largest size, and the sizes at true energies [TeV] relative to that."""
        return self, jnp.ones_like(energy)

    @abc.abstractmethod
    def brightness(self, lon, lat) -> Float[Array, "..."]:
        """Fraction of the flux per solid angle [sr^-1] in a direction [deg]."""

    def check_field(self, observation: Observation) -> None:
        """Raise `ValueError` if the morphology is not known in the whole field of view."""

    @abc.abstractmethod
    def sample(
        self, key: PRNGKeyArray, size: int, reach: Scalar | float = 180.0
    ) -> tuple[Float[Array, " size"], Float[Array, " size"]]:
        """Random directions (lon, lat) [deg], drawn from the continuous morphology.

        A morphology much larger than the field of view may draw only directions within `reach` [deg] of its centre,
        which contain the part `containment(reach)` of its flux.
        """

    def containment(self, reach: Scalar | float) -> Scalar | float:
        """Part of the flux that `sample` with this `reach` draws from; 1 if `sample` ignores `reach`."""
        del reach
        return 1.0

    @property
    @abc.abstractmethod
    def radius(self) -> Float[Array, ""]:
        """Separation [deg] from the centre that contains the flux to a part in 1e8."""

    @property
    @abc.abstractmethod
    def scale(self) -> Float[Array, ""]:
        """Size [deg] below which the morphology has no structure; 0 for cusps and edges."""

    @property
    def spread(self) -> Float[Array, ""]:
        """Root mean square distance [deg] from the centre along one axis, for morphologies with `sizes`."""
        raise TypeError(f"a {type(self).__name__} has no size")

    def at_least(self, spread: Scalar | float) -> "Morphology":
        """The same form with at least this `spread` [deg], so that pixels can resolve it.

        The change is invisible for a spread much narrower than the point spread function.
        """
        if not self.sizes:
            return self
        factor = jnp.maximum(spread / self.spread, 1.0)
        sizes = [getattr(self, name) * factor for name in self.sizes]
        return eqx.tree_at(lambda m: [getattr(m, name) for name in self.sizes], self, sizes)

    @property
    def is_round(self) -> bool:
        """Whether the brightness depends on the separation from the centre only, and ends within 15 deg."""
        return False

    @property
    def breaks(self) -> Float[Array, " break"]:
        """Radii [deg] between which the brightness is smooth, from 0 to `radius`."""
        return jnp.stack([jnp.zeros_like(self.radius), self.radius])

    def nodes(self, lon, lat, narrow: float, reach: float) -> tuple[Array, Array, Array]:
        """Directions (lon, lat) [deg] and solid angles [sr] of a quadrature of the brightness times a response.

        The response peaks at the given direction, has a width of at least `narrow`, and ends within `reach` [deg].
        """
        return polar_nodes((self.lon, self.lat), self.breaks, 1.0, 0.0, (lon, lat), narrow, reach)

    def pixel_fractions(self, grid: Grid, order: int) -> Float[Array, "pixel pixel"]:
        """Fraction of the flux in every pixel; see the function of the same name."""
        density = grid.smooth_average(self.brightness, order)
        # refine 5 x 5 pixels about the centre of the source
        x, y = grid.pixel(self.lon, self.lat)
        half = 2
        ix = jnp.clip(jnp.round(x).astype(jnp.int32), half, grid.size - 1 - half)
        iy = jnp.clip(jnp.round(y).astype(jnp.int32), half, grid.size - 1 - half)
        near = np.arange(-half, half + 1)
        patch = self.central_pixels(grid, ix + near, iy + near) / grid.solid_angle
        corner = (iy - half, ix - half)
        # no refinement for a centre off the grid
        close = (jnp.abs(x - ix) <= 2 * half + 1) & (jnp.abs(y - iy) <= 2 * half + 1)
        patch = jnp.where(close, patch, jax.lax.dynamic_slice(density, corner, patch.shape))
        fractions = jax.lax.dynamic_update_slice(density, patch.astype(density.dtype), corner) * grid.solid_angle
        # few points resolve sharp rims: normalise sources that lie on the grid as a whole
        total = fractions.sum()
        whole = jnp.maximum(jnp.abs(x - 0.5 * (grid.size - 1)), jnp.abs(y - 0.5 * (grid.size - 1)))
        whole = (whole + self.radius / grid.step < 0.5 * grid.size) & (total > 0)
        return fractions / jnp.where(whole, total, 1.0)

    def central_pixels(self, grid: Grid, x, y) -> Float[Array, "pixel pixel"]:
        """Fraction of the flux in the few pixels (x, y) of `grid` next to the centre: an average over 51^2 points."""
        fine = 51
        shift = (np.arange(fine) + 0.5) / fine - 0.5
        middle = 0.5 * (grid.size - 1)
        px = (x[None, None, None, :] + shift[None, :, None, None] - middle) * grid.step
        py = (y[None, None, :, None] + shift[:, None, None, None] - middle) * grid.step
        px, py = jnp.broadcast_arrays(px, py)
        return self.brightness(*deproject(px, py, grid.lon, grid.lat)).mean((0, 1)) * grid.solid_angle

    def plot(self, ax=None, width: float | int | None = None, *, angle_unit: str = "deg", **options):
        """Draw the surface brightness on a square of `width` [deg] about the centre and return the matplotlib axes.

        By default the square contains all brightness above a hundredth of the maximum. For a cusp, colours are
        logarithmic over at most four decades. `angle_unit` of the axes and of the brightness: deg, arcmin or arcsec,
        which are offsets from the centre. `options` go to `Axes.pcolormesh`. Raises `ValueError` for another unit.
        """
        return draw_map(self, 1.0, "surface brightness [deg$^{-2}$]", ax, width, angle_unit, **options)


class Elongated(Morphology):
    """A radial profile stretched to ellipses; subclasses define the profile.

    `e` is the eccentricity, 0 for circles. The size parameter refers to the major axis; the minor axis is shorter by
    sqrt(1 - e^2). `phi` [deg] is the position angle of the major axis, from north to increasing longitude.
    The Lambert projection about the centre is stretched, which keeps the norm.
    """

    e: eqx.AbstractVar[Scalar]
    phi: eqx.AbstractVar[Scalar]

    @abc.abstractmethod
    def profile(self, half2: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Brightness [sr^-1] of the circular morphology at sin^2(r / 2) = `half2`."""

    @abc.abstractmethod
    def sample_profile(self, key: PRNGKeyArray, size: int) -> Float[Array, " size"]:
        """Random separations [deg] of the circular morphology."""

    @property
    def is_round(self):
        return is_concrete(self) and not np.any(np.asarray(self.e)) and float(self.radius) <= ROUND

    @property
    def axis_ratio(self) -> Scalar:
        """Ratio of minor to major axis, sqrt(1 - e^2)."""
        return jnp.sqrt(1.0 - self.e**2)

    def at_least(self, spread):
        """The same form with at least this `spread` [deg] along both axes."""
        larger: Any = super().at_least(spread)
        across = jnp.minimum(spread / larger.spread, 1.0)
        e = jnp.where(self.axis_ratio < across, root(1.0 - across**2), self.e)
        return eqx.tree_at(lambda m: m.e, larger, e)

    def brightness(self, lon, lat):
        x, y = project(lon, lat, self.lon, self.lat)
        along, across = _rotate(x, y, self.phi)
        half2 = 0.25 * SQUARE_DEGREE * (along**2 + (across / self.axis_ratio) ** 2)
        return self.profile(half2) / self.axis_ratio

    def nodes(self, lon, lat, narrow, reach):
        return polar_nodes((self.lon, self.lat), self.breaks, self.axis_ratio, self.phi, (lon, lat), narrow, reach)

    def sample(self, key, size, reach=180.0):
        key_radius, key_angle = jax.random.split(key)
        distance = chord(self.sample_profile(key_radius, size)) / DEGREE
        turn = jax.random.uniform(key_angle, (size,), maxval=2.0 * jnp.pi)
        # rotating by the angle between north and phi is its own inverse
        x, y = _rotate(distance * jnp.cos(turn), self.axis_ratio * distance * jnp.sin(turn), self.phi)
        return deproject(x, y, self.lon, self.lat)


class Point(Morphology):
    """A point source at (`lon`, `lat`) [deg]: S = delta(Omega - Omega_0).

    >>> import gammajax as gj
    >>> crab = gj.Source(gj.PowerLaw(2.5, 3e-11), gj.Point(lon=83.63, lat=22.01))
    """

    lon: Scalar = parameter("deg")
    lat: Scalar = parameter("deg")

    @property
    def is_round(self):
        return True

    def brightness(self, lon, lat):
        raise TypeError("a point source has no surface brightness; use the point spread function at its position")

    def sample(self, key, size, reach=180.0):
        return jnp.full(size, self.lon), jnp.full(size, self.lat)

    def plot(self, ax=None, width=None, *, angle_unit: str = "deg", **options):
        """Mark the position on a map that is already in the axes, or on a square of `width` [deg], by default one.

        `angle_unit` of a new square: deg, arcmin or arcsec. `options` go to `Axes.plot`. Returns the matplotlib axes.
        Raises `ValueError` for another unit.
        """
        from gammajax.plots.style import COLOURS

        unit_size("angle_unit", angle_unit)
        lon, lat = float(self.lon), float(self.lat)
        if ax is None or not ax.has_data():
            ax, _ = _sky_axes(ax, lon, lat, 0.5 * (1.0 if width is None else width), angle_unit)
        else:
            middle = sum(ax.get_xlim()) / 2.0
            lon = middle + (lon - middle + 180.0) % 360.0 - 180.0
        # with a white rim, on maps of any colour
        mark = {"marker": "X", "ls": "", "ms": 11.0, "mec": "white", "color": COLOURS[0]}
        ax.plot(lon, lat, **{**mark, **options})
        return ax

    @property
    def radius(self):
        return scalar(0.0)

    @property
    def scale(self):
        return scalar(0.0)


class Gaussian(Elongated):
    """Gaussian: S = exp((cos r - 1) / s^2) / (2 pi s^2 (1 - exp(-2 / s^2))), s = sigma in rad.

    `lon`, `lat` [deg]: the centre. This is the von Mises-Fisher form of a Gaussian on the sphere, like gammapy's
    `GaussianSpatialModel`. `sigma` [deg] is along
    the major axis; `e` and `phi` [deg] as in [`gammajax.model.morphology.Elongated`][], by default symmetric.

    >>> import gammajax as gj
    >>> shape = gj.Gaussian(lon=0.0, lat=0.0, sigma=0.2, e=0.8, phi=30.0)
    >>> round(float(shape.axis_ratio), 4)
    0.6
    """

    sizes: ClassVar[tuple[str, ...]] = ("sigma",)
    lon: Scalar = parameter("deg")
    lat: Scalar = parameter("deg")
    sigma: Scalar = parameter("deg")
    e: Scalar = parameter("", 0.0)
    phi: Scalar = parameter("deg", 0.0)

    def __check_init__(self):
        require_positive(self, "sigma")
        require_eccentricity(self)

    def profile(self, half2):
        sigma = DEGREE * self.sigma
        # cos r - 1 = -2 sin^2(r/2), exact for small r
        return jnp.exp(-2.0 * half2 / sigma**2) / (-2.0 * jnp.pi * sigma**2 * jnp.expm1(-2.0 / sigma**2))

    def sample_profile(self, key, size):
        sigma = DEGREE * self.sigma
        u = jax.random.uniform(key, (size,))
        # sin^2(r/2) is exponential, truncated at 1
        return angle(-0.5 * sigma**2 * jnp.log1p(u * jnp.expm1(-2.0 / sigma**2)))

    @property
    def spread(self):
        return self.sigma

    @property
    def radius(self):
        return jnp.minimum(6.1 * self.sigma, 180.0)

    @property
    def breaks(self):
        return jnp.minimum(self.sigma * jnp.asarray([0.0, 1.5, 3.0, 6.1]), 180.0)

    @property
    def scale(self):
        return self.sigma * self.axis_ratio


class GeneralizedGaussian(Elongated):
    """Generalised Gaussian: S = exp(-(d / r_0)^(1 / eta)) / (2 pi r_0^2 eta Gamma(2 eta)).

    d = 2 sin(r / 2) is the chord of the separation r from the centre `lon`, `lat` [deg]. `eta` is the shape, between 0
    and 1: a disk for eta to 0, a Gaussian with sigma = r_0 / sqrt(2) for 0.5, an exponential for 1. `r_0` [deg] is
    along the major axis; `e` and `phi` [deg] as in [`gammajax.model.morphology.Elongated`][]. gammapy's
    `GeneralizedGaussianSpatialModel` uses the separation instead of the chord.

    >>> import gammajax as gj, jax
    >>> shape = gj.GeneralizedGaussian(0.0, 0.0, r_0=0.3, eta=1.0)
    >>> lon, lat = shape.sample(jax.random.key(0), 5)
    >>> lon.shape
    (5,)
    """

    sizes: ClassVar[tuple[str, ...]] = ("r_0",)
    lon: Scalar = parameter("deg")
    lat: Scalar = parameter("deg")
    r_0: Scalar = parameter("deg")
    eta: Scalar = parameter("", 0.5)
    e: Scalar = parameter("", 0.0)
    phi: Scalar = parameter("deg", 0.0)

    def __check_init__(self):
        require_positive(self, "r_0", "eta")
        if is_concrete(self.eta) and np.any(np.asarray(self.eta) > 1.0):
            raise ValueError(f"eta of a GeneralizedGaussian must be at most 1, it is {np.asarray(self.eta)}")
        if is_concrete(self.eta, self.r_0):
            eta = np.asarray(self.eta, np.float64)
            # d^(1 / eta) has a gamma distribution, and chords are at most 2
            largest = 2.0 / DEGREE / gammainccinv(2.0 * eta, OUTSIDE) ** eta
            if np.any(np.asarray(self.r_0) > largest):
                raise ValueError(
                    f"r_0 of a GeneralizedGaussian of eta {eta:.3g} must be at most {largest:.3g} deg, it is "
                    f"{np.asarray(self.r_0)}: more than {OUTSIDE:g} of it would lie outside the sky"
                )
        require_eccentricity(self)

    def profile(self, half2):
        r_0 = DEGREE * self.r_0
        positive = half2 > 0  # powers have no gradient at zero
        log_ratio = 0.5 * jnp.log(4.0 * jnp.where(positive, half2, 1.0)) - jnp.log(r_0)
        decay = jnp.where(positive, jnp.exp(log_ratio / self.eta), 0.0)
        norm = 2.0 * jnp.pi * r_0**2 * self.eta * jnp.exp(jax.scipy.special.gammaln(2.0 * self.eta))
        return jnp.exp(-decay) / norm

    def sample_profile(self, key, size):
        # (d / r_0)^(1 / eta) has a gamma distribution
        decay = jax.random.gamma(key, 2.0 * self.eta, (size,))
        return angle((0.5 * DEGREE * self.r_0 * decay**self.eta) ** 2)

    @property
    def spread(self):
        log_gamma = jax.scipy.special.gammaln
        return self.r_0 * jnp.exp(0.5 * (log_gamma(4.0 * self.eta) - log_gamma(2.0 * self.eta))) / math.sqrt(2.0)

    @property
    def radius(self):
        # a gamma distribution with a shape parameter of at most two has a part in 1e8 beyond 22
        return jnp.minimum(1.01 * self.r_0 * 22.0**self.eta, 180.0)

    @property
    def breaks(self):
        # radii at these exponents, for a rim of any sharpness
        inner = self.r_0 * jnp.asarray([1e-3, 0.5, 2.0, 6.0]) ** self.eta
        return jnp.minimum(jnp.concatenate([jnp.zeros(1), inner, self.radius[None]]), 180.0)

    @property
    def scale(self):
        return scalar(0.0)


@eqx.filter_jit
def pixel_fractions(morphology: Morphology, grid: Grid, order: int = 3) -> Float[Array, "pixel pixel"]:
    """Fraction of the flux in every pixel of `grid`, integrated over the pixel.

    The integral is a Gauss-Legendre quadrature with `order`^2 points. Pixels next to the centre of the source use an
    average over 51^2 points, or an integral around each pixel for halos, which have a cusp there. Templates use the
    exact overlap of pixels.
    """
    return morphology.pixel_fractions(grid, order)


@eqx.filter_jit
def plane_fractions(
    morphology: Morphology,
    grid: Grid,
    energy: Float[Array, " energy"],
    order: int = 3,
    least: Scalar | float = 0.0,
) -> Float[Array, "plane pixel pixel"]:
    """[`pixel_fractions`][] at every true `energy` [TeV], with at `least` this spread [deg].

    A single plane is returned for all energies if the morphology does not depend on energy.
    """
    if not morphology.is_energy_dependent:
        return morphology.at_least(least).pixel_fractions(grid, order)[None]
    return jax.lax.map(lambda e: morphology.at(e).at_least(least).pixel_fractions(grid, order), energy)


def draw_map(
    morphology: Morphology, factor: float, label: str, ax=None, width=None, angle_unit: str = "deg", **options
):
    """Draw the surface brightness times `factor`, per deg^2; see [`gammajax.model.morphology.Morphology.plot`][].

    The `label` has "deg" where another `angle_unit` has its name.
    """
    from matplotlib.colors import LogNorm, Normalize

    from gammajax.common.ticks import PlainLinear

    factor, label = factor * unit_size("angle_unit", angle_unit) ** 2, label.replace("deg", angle_unit)
    half = _extent(morphology) if width is None else 0.5 * width
    ax, (lon, lat) = _sky_axes(ax, float(morphology.lon), float(morphology.lat), half, angle_unit)
    middle = np.meshgrid(*(0.5 * (edge[1:] + edge[:-1]) for edge in (lon, lat)))
    value = np.asarray(_brightness(morphology, *map(jnp.asarray, middle)), np.float64) * SQUARE_DEGREE * factor
    if not {"norm", "vmin", "vmax"} & set(options):
        top = value.max()
        cusp = (value > 0.5 * top).mean() < 0.005
        options.update({"norm": LogNorm(max(value.min(), 1e-4 * top), top)} if cusp else {"vmin": 0.0})
    image = ax.pcolormesh(lon, lat, value, **{"cmap": "magma", "rasterized": True, **options})
    numbers = PlainLinear() if type(image.norm) is Normalize else None
    ax.figure.colorbar(image, ax=ax, label=label, format=numbers, shrink=0.93)
    return ax


def _sky_axes(ax, lon0, lat0, half, angle_unit):
    """Axes (new ones for None) of a square about a direction [deg], and 401 edges along its sides."""
    import matplotlib.pyplot as plt
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from gammajax.plots.directions import label_sky
    from gammajax.plots.style import BOXED

    # padding: with a fixed aspect, labels lie slightly outside the engine's layout
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    if ax is None:
        with plt.rc_context(BOXED):
            ax = plt.subplots(figsize=(5.8, 4.8), layout=layout)[1]
    stretch = max(math.cos(math.radians(lat0)), 0.1)
    side = np.linspace(-half, half, 401)
    lon, lat = lon0 + side / stretch, np.clip(lat0 + side, -90.0, 90.0)
    ax.set(xlim=lon[[-1, 0]], ylim=lat[[0, -1]], aspect=1.0 / stretch)
    label_sky(ax, lon0, lat0, "", angle_unit)
    return ax, (lon, lat)


@eqx.filter_jit
def _brightness(morphology, lon, lat):
    return morphology.brightness(lon, lat)


def _extent(morphology) -> float:
    """Radius [deg] beyond which the brightness is below a hundredth of the maximum, with a margin of 15 %."""
    rad = float(morphology.radius) * np.geomspace(1e-3, 1.0, 200)
    angle = np.arange(24) * 15.0
    circles = displace(morphology.lon, morphology.lat, jnp.asarray(rad)[:, None], jnp.asarray(angle))
    value = np.asarray(_brightness(morphology, *circles)).max(1)
    return min(1.15 * float(rad[value > 1e-2 * value.max()].max()), 90.0)


def require_eccentricity(morphology) -> None:
    """Raise `ValueError` for a concrete eccentricity outside [0, 1)."""
    e = morphology.e
    if is_concrete(e) and not np.all((np.asarray(e) >= 0) & (np.asarray(e) < 1)):
        raise ValueError(f"e of a {type(morphology).__name__} must be from 0 to below 1, it is {np.asarray(e)}")


def _rotate(x, y, phi):
    """Coordinates of (x, y) along and across the position angle phi [deg]; x points east, y north."""
    sine, cosine = jnp.sin(DEGREE * phi), jnp.cos(DEGREE * phi)
    return x * sine + y * cosine, x * cosine - y * sine


def chord(angle):
    """Chord [rad] of an angle [deg]."""
    return 2.0 * jnp.sin(0.5 * DEGREE * angle)


def angle(half2):
    """Angle r [deg] with sin^2(r / 2) = half2, from 0 to 180; gradients are finite at both ends."""
    return 2.0 / DEGREE * jnp.arcsin(root(jnp.clip(half2, 0.0, 1.0 - 1e-7)))


def _radial_integral(rad, profile):
    """Cumulative integral of a radial profile over the sphere [sr], trapezoid in 1 - cos r between nodes."""
    cap = 2.0 * jnp.sin(0.5 * DEGREE * rad) ** 2
    return jnp.concatenate([jnp.zeros(1), jnp.cumsum(jnp.pi * (profile[1:] + profile[:-1]) * jnp.diff(cap))])


def sample_radial(key, size, lon, lat, rad, profile, part: Scalar | float = 1.0):
    """Random directions about (lon, lat) from the inner `part` of the flux of a radial profile at fine nodes `rad`."""
    key_radius, key_angle = jax.random.split(key)
    distance = sample_separation(key_radius, size, rad, profile, part)
    return displace(lon, lat, distance, jax.random.uniform(key_angle, (size,), maxval=360.0))


def sample_separation(key, size, rad, profile, part: Scalar | float = 1.0):
    """Random separations [deg] from a radial profile; see [`gammajax.model.morphology.sample_radial`][]."""
    cumulative = _radial_integral(rad, profile)
    u = jax.random.uniform(key, (size,)) * part * cumulative[-1]
    i = jnp.clip(jnp.searchsorted(cumulative, u, side="right") - 1, 0, rad.size - 2)
    cap = 2.0 * jnp.sin(0.5 * DEGREE * rad) ** 2
    # the profile is linear in the cap area within a step: invert the quadratic
    step = cap[i + 1] - cap[i]
    rest = (u - cumulative[i]) / (2.0 * jnp.pi)
    slope = (profile[i + 1] - profile[i]) / jnp.maximum(step, 1e-30)
    root = jnp.sqrt(jnp.maximum(profile[i] ** 2 + 2.0 * slope * rest, 0.0))
    area = cap[i] + jnp.clip(2.0 * rest / jnp.maximum(profile[i] + root, 1e-30), 0.0, step)
    return 2.0 / DEGREE * jnp.arcsin(jnp.sqrt(jnp.clip(0.5 * area, 0.0, 1.0)))
