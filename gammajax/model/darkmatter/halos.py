"""Halos: the density of dark matter, and the brightness of its annihilation or decay on the sky.

A halo is defined by its density, rho(r) = rho_s shape(r / r_s); all halos share the other methods. The line of sight l
at separation theta passes the centre at b = d sin(theta), and

    dJ/dOmega = Int rho^2 dl (annihilation),      dD/dOmega = Int rho dl (decay),      r = b cosh(u), dl = r du

by Gauss-Legendre quadrature in u, which resolves the closest approach at any distance. The logarithm of the integral is
kept at nodes equally spaced in the logarithm of the chord c = 2 sin(theta / 2), with cubic interpolation; the solid
angle is 2 pi c dc. Within the innermost node the brightness is constant, with the flux of the cusp.

A new profile is one class with its own parameters, `r_s` and its `shape`. Names and formulas are gammapy's
(`gammapy.astro.darkmatter.profiles`); default values are those of Cirelli et al. 2011 (arXiv:1012.4515) for the Milky
Way.
"""

import abc
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.common.curves import curve_axes
from gammajax.common.display import described
from gammajax.common.parameters import Scalar, is_concrete, parameter, require_positive, scalar
from gammajax.instrument.sky import DEGREE, displace, separation
from gammajax.model.morphology import Morphology, angle, chord, draw_map

CM_PER_KPC = 3.0856775814913673e21
FAR = 1e4  # end of the line of sight in scale radii or distances: rho ~ r^-2 has a part in 1e4 beyond
INNERMOST = math.log(2e-8)  # ln chord of the first node, 1e-6 deg
NODES = 185  # 23 per decade of the chord: the interpolation is good to 1e-5
STEP = (math.log(2.0) - INNERMOST) / (NODES - 1)
# lists: a host array closed over by jit keeps the precision of its first use in the process
SIGHT, CELL, EDGE = ([a.tolist() for a in np.polynomial.legendre.leggauss(n)] for n in (96, 4, 32))


class Profile(NamedTuple):
    """Flux of a halo by chord: logarithms of brightness and of enclosed flux at equally spaced nodes of ln chord.

    The unit is that of the line-of-sight integral; the innermost brightness is proportional to chord^-`power`.
    """

    log_brightness: Float[Array, " node"]
    log_within: Float[Array, " node"]
    power: Float[Array, ""]
    __repr__ = described

    def brightness(self, separation) -> Float[Array, "..."]:
        """Brightness at a separation [deg]; within the innermost node the constant with the flux of its cusp."""
        i, t = _locate(_log_chord(separation))
        inner = self.log_brightness[0] - jnp.log1p(-0.5 * self.power)
        value = _cubic(_padded(self.log_brightness), i, t)
        return jnp.exp(jnp.where(_log_chord(separation) < INNERMOST, inner, value))

    def within(self, log_chord) -> Float[Array, "..."]:
        """Flux within a chord."""
        i, t = _locate(log_chord)
        # Hermite interpolation: value and slope are known
        slope = jnp.exp(self.log_brightness + 2.0 * _log_nodes() - self.log_within) * 2.0 * jnp.pi * STEP
        low, high = self.log_within[i], self.log_within[i + 1]
        rise = high - low
        value = low + t * (
            slope[i] + t * (3.0 * rise - 2.0 * slope[i] - slope[i + 1] + t * (slope[i] + slope[i + 1] - 2.0 * rise))
        )
        # constant brightness within the first node
        return jnp.exp(value + 2.0 * jnp.minimum(log_chord - INNERMOST, 0.0))

    def chord(self, part) -> Float[Array, "..."]:
        """Chord that contains this part of the total flux, the inverse of `within`."""
        log_flux = jnp.log(jnp.maximum(part, 1e-30)) + self.log_within[-1]
        i = jnp.clip(jnp.searchsorted(self.log_within, log_flux, side="right") - 1, 0, NODES - 2)
        inside = jnp.minimum(log_flux, self.log_within[0])

        def halve(_, ends):
            low, high = ends
            middle = 0.5 * (low + high)
            below = jnp.log(self.within(middle)) < log_flux
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        # to a 4096th of a step between nodes
        low, high = jax.lax.fori_loop(0, 12, halve, (INNERMOST + i * STEP, INNERMOST + (i + 1) * STEP))
        return jnp.exp(0.5 * (low + high) + 0.5 * (inside - self.log_within[0]))


class Halo(Morphology):
    """Interface of all halos: a spherical density, in annihilation or, with `decay=True`, in decay.

    - `lon`, `lat` [deg]: centre of the halo; `distance` [kpc] to it; `r_s` [kpc]: scale radius.
    - `local_density` [GeV cm^-3]: rho at the observer, r = distance; by default 0.3.
    - `rho_s` [GeV cm^-3]: scale density. If given, it replaces `local_density`; use it for other galaxies.
    - `decay`: the brightness is that of decay.

    The positions of arguments are `lon`, `lat`, those of the profile, `r_s`; the others have names only.

    As a morphology a halo is normalised to one; its density matters for [`j_factor`][gammajax.darkmatter.Halo.j_factor]
    and `d_factor`, which go into the spectrum of the source. All parameters may be free.

    Raises `ValueError` for a distance, scale radius or density that is not positive.
    """

    r_s: eqx.AbstractVar[Scalar]
    lon: Scalar = parameter("deg", 0.0)
    lat: Scalar = parameter("deg", 0.0)
    distance: Scalar = parameter("kpc", 8.33, kw_only=True)
    local_density: Scalar = parameter("GeV cm^-3", 0.3, kw_only=True)
    rho_s: Scalar | None = eqx.field(
        converter=lambda value: None if value is None else scalar(value),
        default=None,
        kw_only=True,
        metadata={"unit": "GeV cm^-3"},
    )
    decay: bool = eqx.field(static=True, default=False, kw_only=True)

    @abc.abstractmethod
    def shape(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Density in units of rho_s at x = r / r_s."""

    def __check_init__(self):
        require_positive(self, "distance", "r_s", "local_density")
        if self.rho_s is not None:
            require_positive(self, "rho_s")

    def density(self, radius: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Density [GeV cm^-3] at `radius` [kpc] from the centre."""
        return self._scale_density * self.shape(radius / self.r_s)

    def differential_j_factor(self, lon, lat) -> Float[Array, "..."]:
        """dJ/dOmega = Int rho^2 dl [GeV^2 cm^-5 sr^-1] in a direction [deg]."""
        return self._factor(2) * self._profile(2).brightness(separation(lon, lat, self.lon, self.lat))

    def differential_d_factor(self, lon, lat) -> Float[Array, "..."]:
        """dD/dOmega = Int rho dl [GeV cm^-2 sr^-1] in a direction [deg]."""
        return self._factor(1) * self._profile(1).brightness(separation(lon, lat, self.lon, self.lat))

    def j_factor(self, radius: Scalar | float = 180.0) -> Scalar:
        """J [GeV^2 cm^-5] within `radius` [deg] of the centre, by default of the whole sky.

        For the J of each pixel of a grid: `pixel_fractions(halo, grid) * halo.j_factor()`.
        """
        return self._factor(2) * self._profile(2).within(_log_chord(radius))

    def d_factor(self, radius: Scalar | float = 180.0) -> Scalar:
        """D [GeV cm^-2] within `radius` [deg] of the centre, by default of the whole sky."""
        return self._factor(1) * self._profile(1).within(_log_chord(radius))

    def brightness(self, lon, lat):
        profile = self._profile(self._exponent)
        return profile.brightness(separation(lon, lat, self.lon, self.lat)) * jnp.exp(-profile.log_within[-1])

    def sample(self, key, size, reach=180.0):
        key_radius, key_angle = jax.random.split(key)
        profile = self._profile(self._exponent)
        part = jax.random.uniform(key_radius, (size,)) * self.containment(reach)
        distance = angle(0.25 * profile.chord(part) ** 2)
        return displace(self.lon, self.lat, distance, jax.random.uniform(key_angle, (size,), maxval=360.0))

    def containment(self, reach):
        profile = self._profile(self._exponent)
        return profile.within(_log_chord(reach)) * jnp.exp(-profile.log_within[-1])

    @property
    def radius(self):
        return scalar(180.0)

    @property
    def scale(self):
        return scalar(0.0)

    @property
    def breaks(self):
        # decades, because the cusp is a power law
        return jnp.asarray([0.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 180.0])

    def central_pixels(self, grid, x, y):
        """Flux by an integral around each pixel, which has no cusp: Int S dOmega = closed Int F(r) dphi / (2 pi).

        F(r) is the flux within r, and phi the position angle of points on the edges.
        """
        profile = self._profile(self._exponent)
        side = grid.step * DEGREE
        # edges from the centre of the halo, in the Lambert projection, where chords are distances
        edge_x, edge_y = (
            (jnp.append(p - 0.5, p[-1] + 0.5) - centre) * side
            for p, centre in zip((x, y), grid.pixel(self.lon, self.lat), strict=True)
        )

        def along(position, start, stop):
            """Integral of F dphi along straight edges at a signed distance from the centre."""
            distance = jnp.maximum(jnp.abs(position), 1e-4 * side)
            first, last = jnp.arcsinh(start / distance), jnp.arcsinh(stop / distance)
            half, middle = 0.5 * (last - first), 0.5 * (last + first)
            # F dphi = F / cosh(v) dv at distance sinh(v) along the edge
            stretch = jnp.cosh(middle[..., None] + half[..., None] * jnp.asarray(EDGE[0]))
            flux = profile.within(jnp.log(jnp.minimum(distance[..., None] * stretch, 2.0))) / stretch
            return jnp.where(position < 0, -1.0, 1.0) * half * (flux * jnp.asarray(EDGE[1])).sum(-1)

        upright = along(edge_x[None, :], edge_y[:-1, None], edge_y[1:, None])
        level = along(edge_y[:, None], edge_x[None, :-1], edge_x[None, 1:])
        around = jnp.diff(upright, axis=1) + jnp.diff(level, axis=0)
        return around / (2.0 * jnp.pi) * jnp.exp(-profile.log_within[-1])

    def plot(self, ax=None, width=None, *, angle_unit: str = "deg", **options):
        """Draw dJ/dOmega, or dD/dOmega for decay, like [`gammajax.model.morphology.Morphology.plot`][]."""
        total = float(self.d_factor() if self.decay else self.j_factor())
        label = (
            r"$dD/d\Omega$ [GeV cm$^{-2}$ deg$^{-2}$]" if self.decay else r"$dJ/d\Omega$ [GeV$^2$ cm$^{-5}$ deg$^{-2}$]"
        )
        return draw_map(self, total, label, ax, width, angle_unit, **options)

    def plot_density(self, radius_range: tuple = (1e-3, 100.0), ax=None, **options):
        """Draw the density over `radius_range` [kpc] and return the matplotlib axes.

        `options` go to `Axes.plot` (`label`, `color`).
        """
        density = r"$\rho$ [GeV cm$^{-3}$]"
        ax = curve_axes(ax, "radius_range", "radii [kpc]", radius_range, "radius [kpc]", density)
        radius = np.geomspace(radius_range[0], radius_range[1], 400)
        ax.plot(radius, np.asarray(self.density(jnp.asarray(radius))), **{"lw": 2.0, **options})
        return ax

    @property
    def _exponent(self):
        return 1 if self.decay else 2

    @property
    def _scale_density(self):
        return self.local_density / self.shape(self.distance / self.r_s) if self.rho_s is None else self.rho_s

    def _factor(self, exponent):
        """Factor from the line-of-sight integral of shape^exponent in units of r_s to physical units."""
        # the density first: a kpc is near the limits of single precision
        return self._scale_density**exponent * self.r_s * CM_PER_KPC

    def _sight(self, log_chord, exponent):
        """Integral of shape^exponent along the line of sight, in units of r_s."""
        c2 = jnp.exp(2.0 * log_chord)[..., None]
        cosine, sine = 1.0 - 0.5 * c2, jnp.sqrt(jnp.maximum(c2 * (1.0 - 0.25 * c2), 1e-18))
        distance = self.distance / self.r_s
        start = -jnp.arcsinh(cosine / sine)
        stop = jnp.arcsinh(FAR * jnp.maximum(1.0 / distance, 1.0) / sine)
        result = 0.0
        # two panels meet at the closest approach if it lies ahead of the observer
        for low, high in ((jnp.minimum(start, 0.0), 0.0), (jnp.maximum(start, 0.0), stop)):
            u = 0.5 * (high - low) * jnp.asarray(SIGHT[0]) + 0.5 * (high + low)
            x = distance * sine * jnp.cosh(u)
            result = result + (0.5 * (high - low) * jnp.asarray(SIGHT[1]) * self.shape(x) ** exponent * x).sum(-1)
        return result

    @eqx.filter_jit
    def _profile(self, exponent) -> Profile:
        nodes = _log_nodes()
        log_brightness = jnp.log(self._sight(nodes, exponent))
        power = (log_brightness[0] - log_brightness[1]) / STEP
        t = 0.5 * (jnp.asarray(CELL[0]) + 1.0)
        cell, t = jnp.arange(NODES - 1)[:, None], t[None, :]
        inside = _cubic(_padded(log_brightness), cell, t) + 2.0 * (INNERMOST + (cell + t) * STEP)
        cells = jnp.pi * STEP * (jnp.exp(inside) * jnp.asarray(CELL[1])).sum(1)
        first = 2.0 * jnp.pi * jnp.exp(log_brightness[0] + 2.0 * INNERMOST) / (2.0 - power)
        return Profile(log_brightness, jnp.log(jnp.cumsum(jnp.append(first, cells))), power)


def _log_nodes() -> Float[Array, " node"]:
    return jnp.asarray(INNERMOST + STEP * np.arange(NODES))


def _log_chord(separation):
    """Logarithm of the chord of a separation [deg], at least a hundredth of the innermost node."""
    return jnp.log(jnp.maximum(chord(jnp.asarray(separation)), 0.01 * math.exp(INNERMOST)))


def _locate(log_chord):
    """Node below and the fraction of the way to the next, clipped to the first and last node."""
    position = jnp.clip((log_chord - INNERMOST) / STEP, 0.0, NODES - 1.0)
    i = jnp.minimum(jnp.floor(position), NODES - 2.0).astype(jnp.int32)
    return i, position - i


def _padded(values):
    """One more node at either end, on the parabola through the last three."""
    first = 3.0 * values[0] - 3.0 * values[1] + values[2]
    last = 3.0 * values[-1] - 3.0 * values[-2] + values[-3]
    return jnp.concatenate([first[None], values, last[None]])


def _cubic(padded, i, t):
    """Cubic through the values, with slopes at nodes from the neighbours (Catmull and Rom 1974)."""
    a, b, c, d = (padded[i + n] for n in range(4))
    return b + 0.5 * t * (c - a + t * (2.0 * a - 5.0 * b + 4.0 * c - d + t * (3.0 * (b - c) + d - a)))


class Einasto(Halo):
    """Einasto profile: rho = rho_s exp(-2 / alpha ((r / r_s)^alpha - 1)).

    Einasto 1965. `alpha` is the change of the slope with ln r. Other parameters as in [`gammajax.darkmatter.Halo`][].

    >>> import gammajax as gj
    >>> round(float(gj.Einasto().j_factor(1.0)) / 1e21, 1)  # 1e21 GeV^2 cm^-5 within a degree
    2.6
    """

    alpha: Scalar = parameter("", 0.17)
    r_s: Scalar = parameter("kpc", 28.44)

    def __check_init__(self):
        require_positive(self, "alpha")

    def shape(self, x):
        return jnp.exp(-2.0 / self.alpha * (x**self.alpha - 1.0))


class NFW(Halo):
    """Navarro-Frenk-White profile: rho = rho_s / (x (1 + x)^2), x = r / r_s.

    Navarro, Frenk and White 1997 (astro-ph/9611107). Parameters as in [`gammajax.darkmatter.Halo`][].

    >>> import gammajax as gj, jax.numpy as jnp
    >>> halo = gj.NFW(r_s=20.0, local_density=0.4)
    >>> round(float(halo.density(jnp.array(8.33))), 4)  # GeV cm^-3 at the Sun
    0.4
    """

    r_s: Scalar = parameter("kpc", 24.42)

    def shape(self, x):
        return 1.0 / (x * (1.0 + x) ** 2)


class GeneralizedNFW(Halo):
    """Generalised NFW profile: rho = rho_s x^-gamma (1 + x)^(gamma - 3), x = r / r_s.

    gamma = 1 is NFW (Zhao 1996, astro-ph/9509122). `gamma` is the slope of the cusp; it must be below 1.5 in
    annihilation and 3 in decay, where the flux diverges. Other parameters as in [`gammajax.darkmatter.Halo`][].

    >>> import gammajax as gj
    >>> bool(gj.GeneralizedNFW(gamma=1.25).j_factor(1.0) > gj.NFW().j_factor(1.0))
    True
    """

    gamma: Scalar = parameter("", 1.0)
    r_s: Scalar = parameter("kpc", 24.42)

    def __check_init__(self):
        _require_cusp(self)

    def shape(self, x):
        return x**-self.gamma * (1.0 + x) ** (self.gamma - 3.0)


class CoredNFW(Halo):
    """NFW with a core of radius `r_c` [kpc]: rho = rho_s / ((x + r_c / r_s) (1 + x)^2), x = r / r_s.

    Penarrubia et al. 2012 (arXiv:1207.2772) write it as rho_0 r_s^3 / ((r_c + r) (r_s + r)^2); `CNFW` of lenstronomy
    is the same. r_c = 0 is NFW, and r_c = r_s is (1 + x)^-3. Other papers call other profiles cored NFW, for example
    the coreNFW of Read et al. 2016 (arXiv:1508.04143). Other parameters as in [`gammajax.darkmatter.Halo`][].

    >>> import gammajax as gj
    >>> bool(gj.CoredNFW(r_c=1.0).j_factor(1.0) < gj.NFW().j_factor(1.0))
    True
    """

    r_c: Scalar = parameter("kpc", 1.0)
    r_s: Scalar = parameter("kpc", 24.42)

    def __check_init__(self):
        if is_concrete(self.r_c) and not np.all(np.asarray(self.r_c) >= 0):
            raise ValueError(f"r_c of a CoredNFW must not be negative, it is {np.asarray(self.r_c)}")

    def shape(self, x):
        return 1.0 / ((x + self.r_c / self.r_s) * (1.0 + x) ** 2)


class Burkert(Halo):
    """Burkert profile: rho = rho_s / ((1 + x) (1 + x^2)), x = r / r_s.

    Burkert 1995 (astro-ph/9504041). Parameters as in [`gammajax.darkmatter.Halo`][].

    >>> import gammajax as gj
    >>> dwarf = gj.Burkert(104.3, 22.8, distance=76.0, r_s=0.4, rho_s=8.0)
    >>> bool(dwarf.j_factor(0.5) < dwarf.j_factor())  # GeV^2 cm^-5
    True
    """

    r_s: Scalar = parameter("kpc", 12.67)

    def shape(self, x):
        return 1.0 / ((1.0 + x) * (1.0 + x**2))


class Moore(Halo):
    """Moore profile: rho = rho_s x^-1.16 (1 + x)^-1.84, x = r / r_s.

    Diemand, Moore and Stadel 2004 (astro-ph/0402267). Parameters as in [`gammajax.darkmatter.Halo`][].

    >>> import gammajax as gj
    >>> bool(gj.Moore().j_factor(1.0) > gj.NFW().j_factor(1.0))
    True
    """

    r_s: Scalar = parameter("kpc", 30.28)

    def shape(self, x):
        return x**-1.16 * (1.0 + x) ** -1.84


class Isothermal(Halo):
    """Cored isothermal profile: rho = rho_s / (1 + x^2), x = r / r_s.

    Begeman, Broeils and Sanders 1991 (doi:10.1093/mnras/249.3.523). Parameters as in [`gammajax.darkmatter.Halo`][].

    >>> import gammajax as gj
    >>> halo = gj.Isothermal(decay=True)
    >>> bool(halo.d_factor(1.0) > 0.0)  # GeV cm^-2
    True
    """

    r_s: Scalar = parameter("kpc", 4.38)

    def shape(self, x):
        return 1.0 / (1.0 + x**2)


class Zhao(Halo):
    """Zhao profile: rho = rho_s x^-gamma (1 + x^(1 / alpha))^((gamma - beta) alpha), x = r / r_s.

    Zhao 1996 (astro-ph/9509122), eq. 1, in the notation of gammapy.

    `gamma` and `beta` are the slopes well within and well beyond r_s, and `alpha` is the width of the change; NFW is
    alpha = 1, beta = 3, gamma = 1. `gamma` must be below 1.5 in annihilation and 3 in decay, where the flux of the
    cusp diverges, and `beta` above 0.5 and 1. Other parameters as in [`gammajax.darkmatter.Halo`][].

    >>> import gammajax as gj, jax.numpy as jnp
    >>> radius = jnp.array([1.0, 10.0, 100.0])  # kpc
    >>> bool(jnp.allclose(gj.Zhao(alpha=1.0, beta=3.0, gamma=1.0).density(radius), gj.NFW().density(radius), rtol=1e-4))
    True
    """

    alpha: Scalar = parameter("", 1.0)
    beta: Scalar = parameter("", 3.0)
    gamma: Scalar = parameter("", 1.0)
    r_s: Scalar = parameter("kpc", 24.42)

    def __check_init__(self):
        require_positive(self, "alpha")
        _require_cusp(self)
        least = 1.0 if self.decay else 0.5
        if is_concrete(self.beta) and not np.all(np.asarray(self.beta) > least):
            raise ValueError(f"beta of a Zhao halo must be above {least:g}, it is {np.asarray(self.beta)}")

    def shape(self, x):
        # in logarithms: x^(1 / alpha) overflows at large x for small alpha
        log_x = jnp.log(x)
        return jnp.exp(
            -self.gamma * log_x - (self.beta - self.gamma) * self.alpha * jax.nn.softplus(log_x / self.alpha)
        )


def _require_cusp(halo) -> None:
    most = 3.0 if halo.decay else 1.5
    if is_concrete(halo.gamma) and not np.all(np.asarray(halo.gamma) < most):
        raise ValueError(
            f"gamma of a {type(halo).__name__} must be below {most:g}, where the flux of its cusp diverges; "
            f"it is {np.asarray(halo.gamma)}"
        )
