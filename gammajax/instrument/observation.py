"""Observation: pointing, livetime, response and the selection of its events."""

from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gammajax.common.display import article, block, described, document, text, words
from gammajax.common.parameters import is_concrete
from gammajax.instrument.response import Response, kinds
from gammajax.instrument.sky import DEGREE, Grid, offset_coordinates, separation


class Aside:
    """A value beside the arrays of a module. Compilation takes all of them for equal: no compiled function uses it."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other) -> bool:
        return isinstance(other, Aside)

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return repr(self.value)


class Exclusion(eqx.Module):
    """Excluded sky, rasterised: a direction is excluded when its nearest pixel is.

    Events and expected counts use the same raster, so they always agree.
    """

    grid: Grid
    excluded: Bool[Array, "pixel pixel"]
    __repr__, __pdoc__ = described, document

    def __call__(self, lon, lat) -> Bool[Array, "..."]:
        """Whether directions [deg] are excluded; nothing outside the raster is."""
        x, y = self.grid.pixel(lon, lat)
        ix, iy = jnp.round(x).astype(jnp.int32), jnp.round(y).astype(jnp.int32)
        size = self.grid.size
        inside = (ix >= 0) & (iy >= 0) & (ix < size) & (iy < size)
        return inside & self.excluded[jnp.clip(iy, 0, size - 1), jnp.clip(ix, 0, size - 1)]


class Observation(eqx.Module):
    """One pointing of the telescope: its response, its livetime and its selection of events.

    - `lon`, `lat`: pointing [deg] in `frame` ("icrs" or "galactic"), the frame of all its directions.
    - `livetime` [s]; `response`: [`gammajax.Response`][].
    - `energy_min`, `energy_max` [TeV] and `offset_max` [deg]: the selected reconstructed events.
    - `exclusion`: excluded directions, as of [`gammajax.io.exclusion.exclusion_map`][], or None.
    - `good_time`: starts and stops (MJD, TT) of the good time intervals, in order, or None.
    - `fov_angle` [deg]: position angle (east of the frame's north) of the field-of-view latitude axis.
    - `obs_id`: identifier, for people and files.

    [`gammajax.io.observation`][] makes one from a file. Raises `ValueError` for a livetime, energy range or offset that
    is not positive.

    >>> import gammajax as gj
    >>> response = gj.io.ctao(pointing=(0.0, 0.0), livetime=3600.0).response
    >>> run = gj.Observation(83.6, 22.5, 1800.0, response, energy_min=0.1, energy_max=50.0, offset_max=2.0)
    >>> round(float(run.offset(83.6, 22.0)), 3)  # deg
    0.5
    """

    lon: Float[Array, ""]
    lat: Float[Array, ""]
    livetime: Float[Array, ""]
    response: Response
    energy_min: float  # numpy's: arrays to jit, whose programs serve all observations
    energy_max: float
    offset_max: float
    fov_angle: float
    exclusion: Exclusion | None
    frame: str = eqx.field(static=True)
    label: Aside = eqx.field(static=True)  # the obs_id
    intervals: Aside = eqx.field(static=True)  # the good time
    __pdoc__ = document

    def __init__(
        self,
        lon,
        lat,
        livetime,
        response: Response,
        *,
        energy_min: float,
        energy_max: float,
        offset_max: float,
        exclusion: Exclusion | None = None,
        frame: str = "icrs",
        fov_angle: float = 0.0,
        obs_id: str = "0",
        good_time=None,
    ):
        if frame not in ("icrs", "galactic"):
            raise ValueError(f"frame must be 'icrs' or 'galactic', not {frame!r}")
        if not np.isfinite(livetime) or livetime <= 0:
            raise ValueError(f"observation {obs_id}: livetime must be positive and finite, not {livetime} s")
        if not 0 < energy_min < energy_max < np.inf:
            raise ValueError(
                f"observation {obs_id}: the energy range must be increasing, not {energy_min} to {energy_max} TeV"
            )
        if not 0 < offset_max < 90:
            raise ValueError(f"observation {obs_id}: offset_max must be between 0 and 90 deg, not {offset_max}")
        if not (np.isfinite(lon) and abs(lat) <= 90):
            raise ValueError(f"observation {obs_id}: the pointing ({lon}, {lat}) deg is not a direction")
        if not np.isfinite(fov_angle):
            raise ValueError(f"observation {obs_id}: fov_angle must be finite, not {fov_angle} deg")
        self.lon, self.lat = jnp.asarray(lon, float), jnp.asarray(lat, float)
        self.livetime = jnp.asarray(livetime, float)
        self.response = response
        self.energy_min, self.energy_max = np.float64(energy_min), np.float64(energy_max)
        self.offset_max, self.fov_angle = np.float64(offset_max), np.float64(fov_angle)
        self.exclusion = exclusion
        self.frame, self.label = frame, Aside(str(obs_id))
        spans = None if good_time is None else np.array(good_time, np.float64).reshape(-1, 2)
        if spans is not None and not (
            spans.size and np.all(spans[:, 0] < spans[:, 1]) and np.all(np.diff(spans.ravel()) >= 0)
        ):
            raise ValueError(
                f"observation {obs_id}: good_time needs a start before each stop, in order and without overlaps"
            )
        self.intervals = Aside(spans)

    @property
    def obs_id(self) -> str:
        """Identifier of the observation, for people."""
        return self.label.value

    @property
    def good_time(self) -> Float[np.ndarray, "interval 2"] | None:
        """Starts and stops (MJD, TT) of the good time intervals, or None."""
        return self.intervals.value

    @words
    def __repr__(self) -> str:
        """Livetime, pointing, selection and kinds of response."""
        selection = f"{text(self.energy_min)} to {text(self.energy_max, 'TeV')} within {text(self.offset_max, 'deg')}"
        selection += "" if self.exclusion is None else ", some sky excluded"
        selection += "" if self.fov_angle == 0.0 else f", field of view turned by {text(self.fov_angle, 'deg')}"
        return block(
            f"Observation {self.obs_id}: {text(self.livetime, 's')} at ({text(self.lon)}, {text(self.lat)}) deg, "
            f"{self.frame}",
            f"selection: {selection}",
            f"response: {'none' if self.response is None else kinds(self.response)}",
        )

    def offset(self, lon, lat) -> Float[Array, "..."]:
        """Separation [deg] from the pointing."""
        return separation(lon, lat, self.lon, self.lat)

    def fov_coordinates(self, lon, lat) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Field-of-view longitude and latitude [deg] in the alignment of the background table.

        The sign of the longitude follows gammapy's `sky_to_fov`: it increases opposite to the sky's longitude.
        """
        u, v = offset_coordinates(lon, lat, self.lon, self.lat)
        if is_concrete(self.fov_angle) and self.fov_angle == 0.0:
            return -u, v
        # rotate about the pointing
        distance = separation(lon, lat, self.lon, self.lat)
        angle = jnp.arctan2(jnp.cos(DEGREE * v) * jnp.sin(DEGREE * u), jnp.sin(DEGREE * v)) - DEGREE * self.fov_angle
        sine = jnp.sin(DEGREE * distance)
        x, y, z = jnp.cos(DEGREE * distance), sine * jnp.sin(angle), sine * jnp.cos(angle)
        return -jnp.arctan2(y, x) / DEGREE, jnp.arcsin(jnp.clip(z, -1.0, 1.0)) / DEGREE

    def selected(self, lon, lat) -> Bool[Array, "..."]:
        """Whether reconstructed directions are in the selected region."""
        inside = self.offset(lon, lat) <= self.offset_max
        return inside if self.exclusion is None else inside & ~self.exclusion(lon, lat)

    @property
    def excludes(self) -> bool:
        """Whether a pixel of the raster in the field of view is excluded."""
        if self.exclusion is None or not np.any(self.exclusion.excluded):
            return False
        lon, lat = self.exclusion.grid.directions()
        return bool(np.any(np.asarray(self.exclusion.excluded) & np.asarray(self.offset(lon, lat) <= self.offset_max)))

    def background(self, energy, lon, lat) -> Float[Array, "..."]:
        """Instrumental background [TeV^-1 sr^-1] over the livetime, at reconstructed energy and direction."""
        if self.response.background is None:
            raise ValueError(f"observation {self.obs_id} has no background response (BKG_2D or BKG_3D)")
        return self.livetime * self.response.background.rate(energy, *self.fov_coordinates(lon, lat))

    def plot(self, offsets=None, figure=None, *, energy_unit: str = "TeV", angle_unit: str = "deg"):
        """Draw the response at `offsets` [deg], by default from the pointing to `offset_max`; returns the figure.

        Panels and arguments as in [`gammajax.Response.plot`][]; reconstructed energies outside the selection are
        shaded.
        """
        from gammajax.plots.response_panels import plot_response

        offsets = np.linspace(0.0, self.offset_max, 3) if offsets is None else offsets
        title = (
            f"observation {self.obs_id}: {float(self.livetime) / 3600.0:.3g} h at "
            f"({float(self.lon):.2f}, {float(self.lat):.2f})°, {self.frame}"
        )
        units = {"energy_unit": energy_unit, "angle_unit": angle_unit}
        span = (self.energy_min, self.energy_max)
        return plot_response(self.response, tuple(map(float, offsets)), title, span, figure, **units)


def as_tuple(observations: Any) -> tuple[Observation, ...]:
    """One observation or several, as a tuple.

    Raises `ValueError` for none, for anything else, and for the pair that [`gammajax.io.read_gadf`][] returns.
    """
    if isinstance(observations, Observation):
        return (observations,)
    if hasattr(observations, "events") and hasattr(observations, "observations"):
        raise ValueError("these are events and observations together: give their .observations here")
    several = tuple(observations) if isinstance(observations, Iterable) else (observations,)
    if not several:
        raise ValueError("the list of observations is empty: give at least one observation")
    for one in several:
        if not isinstance(one, Observation):
            kind = article(type(one).__name__)
            raise ValueError(f"observations must be a gammajax.Observation or a list of them, not {kind}")
    return several
