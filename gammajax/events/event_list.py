"""Events: reconstructed energy, direction and observation."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from gammajax.common.display import block, described, document, extent, length, words
from gammajax.instrument.sky import separation_on_host

TRUTH = ("energy_true", "lon_true", "lat_true", "component")
SLACK = 1e-4  # deg by which single precision may put an event on the other side of an edge


class Points(NamedTuple):
    """Energies [TeV] and directions [deg] of the quadrature over cells, or over single events.

    Each cell combines all its energies with all its directions; its weights add up to one in energy and in direction.
    `ends` [TeV]: of the interval of energy of a cell, or the energy of an event.
    """

    energy: Float[np.ndarray, "cell energy"]
    energy_weight: Float[np.ndarray, "cell energy"]
    lon: Float[np.ndarray, "cell direction"]
    lat: Float[np.ndarray, "cell direction"]
    weight: Float[np.ndarray, "cell direction"]
    ends: Float[np.ndarray, "cell end"]
    __repr__ = described

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Energy, longitude, latitude [cell x pair] and weight [cell, pair], one cell after the other."""
        cells, energies = self.energy.shape
        energy = np.repeat(self.energy, self.lon.shape[1], axis=1)
        lon, lat = (np.tile(column, (1, energies)) for column in (self.lon, self.lat))
        weight = (self.energy_weight[:, :, None] * self.weight[:, None, :]).reshape(cells, energies * self.lon.shape[1])
        return energy.ravel(), lon.ravel(), lat.ravel(), weight


class Events(eqx.Module):
    """Arrays of events, kept on the host in double precision.

    - `energy` [TeV], `lon`, `lat` [deg] in the frame of the observations, shape [event].
    - `observation`: index into the list of observations, shape [event] (default: all in the first).
    - `time` (MJD, TT) and `phase` (0 to 1), or None: for factors in time.
    - `energy_true`, `lon_true`, `lat_true`, `component`: truth of simulated events, or None;
      `component` indexes the mixture in its order (for files: the `MC_ID` label).

    An empty list is valid data for a likelihood of absolute fluxes.
    Raises `ValueError` for NaN, non-positive energies, latitudes beyond 90 deg or columns of unequal length.

    >>> import gammajax as gj
    >>> events = gj.Events(energy=[1.2, 3.4], lon=[83.6, 83.7], lat=[22.0, 22.1])
    >>> len(events), events.observation.tolist()
    (2, [0, 0])
    """

    energy: Float[np.ndarray, " event"]
    lon: Float[np.ndarray, " event"]
    lat: Float[np.ndarray, " event"]
    observation: Int[np.ndarray, " event"]
    energy_true: Float[np.ndarray, " event"] | None = None
    lon_true: Float[np.ndarray, " event"] | None = None
    lat_true: Float[np.ndarray, " event"] | None = None
    component: Int[np.ndarray, " event"] | None = None
    time: Float[np.ndarray, " event"] | None = None
    phase: Float[np.ndarray, " event"] | None = None
    __pdoc__ = document

    def __init__(
        self,
        energy,
        lon,
        lat,
        observation: Any = 0,
        *,
        energy_true=None,
        lon_true=None,
        lat_true=None,
        component=None,
        time=None,
        phase=None,
    ):
        self.energy = _column("energy", energy)
        size = self.energy.size
        self.lon, self.lat = _column("lon", lon, size), _column("lat", lat, size)
        if np.any(self.energy <= 0):
            raise ValueError(f"event {int(np.argmax(self.energy <= 0))}: energies must be positive [TeV]")
        if np.any(np.abs(self.lat) > 90):
            raise ValueError(f"event {int(np.argmax(np.abs(self.lat) > 90))}: latitudes must be within +-90 deg")
        observation = np.broadcast_to(np.asarray(observation), (size,))
        if not np.issubdtype(observation.dtype, np.integer) or np.any(observation < 0):
            raise ValueError("observation must hold non-negative indices into the list of observations")
        self.observation = np.array(observation, np.int32)
        self.energy_true = None if energy_true is None else _column("energy_true", energy_true, size)
        self.lon_true = None if lon_true is None else _column("lon_true", lon_true, size)
        self.lat_true = None if lat_true is None else _column("lat_true", lat_true, size)
        self.component = None if component is None else np.array(np.broadcast_to(component, (size,)), np.int32)
        self.time = None if time is None else _column("time", time, size)
        self.phase = None if phase is None else _column("phase", phase, size)

    @words
    def __repr__(self) -> str:
        """Their number, ranges of energy and direction, and columns of truth."""
        truth = [name for name in TRUTH if getattr(self, name) is not None]
        if length(self.energy) == "0":
            return "Events: none"
        return block(
            f"Events: {length(self.energy)} of {extent(self.energy, 'TeV')}",
            f"lon {extent(self.lon, 'deg')}, lat {extent(self.lat, 'deg')}",
            f"observation {extent(self.observation)}",
            *([f"truth: {', '.join(truth)}"] if truth else []),
        )

    def __len__(self) -> int:
        return self.energy.size

    @property
    def total(self) -> int:
        """Number of events."""
        return len(self)

    def __getitem__(self, which) -> "Events":
        """The events selected by a boolean mask, slice or index array."""

        def take(column):
            return None if column is None else column[which]

        return Events(
            self.energy[which],
            self.lon[which],
            self.lat[which],
            self.observation[which],
            energy_true=take(self.energy_true),
            lon_true=take(self.lon_true),
            lat_true=take(self.lat_true),
            component=take(self.component),
            time=take(self.time),
            phase=take(self.phase),
        )

    def without_truth(self) -> "Events":
        """The columns that an instrument gives."""
        return eqx.tree_at(
            lambda events: [getattr(events, name) for name in TRUTH],
            self,
            [None] * len(TRUTH),
            is_leaf=lambda leaf: leaf is None,
        )

    def without_times(self) -> "Events":
        """The columns of energy, direction and observation."""
        return eqx.tree_at(lambda e: [e.time, e.phase], self, [None, None], is_leaf=lambda leaf: leaf is None)

    def points(self, which: Int[np.ndarray, " some"] | slice = slice(None)) -> Points:
        """One point for each event, or for some of them."""
        columns = (self.energy, self.lon, self.lat)
        energy, lon, lat = (np.asarray(column[which], np.float64)[:, None] for column in columns)
        one = np.ones(energy.shape)
        return Points(energy, one, lon, lat, one, energy)

    def compress(
        self, observations, energy_per_decade: float | int | None = None, pixel: float | int | None = None
    ) -> Any:
        """Merge events in cells with counts, a [`gammajax.Cells`][]; options as [`gammajax.Binning.init`][]."""
        from gammajax.events.cells import Binning  # cells imports events

        return Binning.init(observations, energy_per_decade, pixel)(self)


def _column(name, values, size=None):
    """A finite column in double precision; `Quantity` columns are converted to TeV and deg."""
    if hasattr(values, "to_value"):
        values = values.to_value("TeV" if name.startswith("energy") else "deg")
    column = np.array(values, np.float64).reshape(-1)
    if size is not None and column.size != size:
        raise ValueError(f"column {name} has {column.size} entries, energy has {size}")
    if not np.all(np.isfinite(column)):
        raise ValueError(f"event {int(np.argmin(np.isfinite(column)))}: {name} is not finite")
    return column


def check_events(events: Events, observations) -> None:
    """Raise `ValueError` naming an event outside its observation's selection, or with an unknown observation."""
    if len(observations) == 0:
        raise ValueError("the list of observations is empty")
    if len({observation.frame for observation in observations}) > 1:
        raise ValueError("all observations must share one frame ('icrs' or 'galactic')")
    if events.observation.max(initial=0) >= len(observations):
        event = int(np.argmax(events.observation))
        raise ValueError(
            f"event {event} belongs to observation {events.observation[event]}, "
            f"there are {len(observations)} observations"
        )
    for number, observation in enumerate(observations):
        rows = np.flatnonzero(events.observation == number)
        energy = events.energy[rows]
        # files in float32: allow for the last bit
        outside = (energy < observation.energy_min * (1 - 1e-6)) | (energy > observation.energy_max * (1 + 1e-6))
        if outside.any():
            event = rows[np.argmax(outside)]
            raise ValueError(
                f"event {event} has {events.energy[event]:.4g} TeV, outside the energy range "
                f"{observation.energy_min:.4g} to {observation.energy_max:.4g} TeV of observation {observation.obs_id}"
            )
        if not rows.size:
            continue
        lon, lat = events.lon[rows], events.lat[rows]
        offset = separation_on_host(lon, lat, observation.lon, observation.lat)
        if (offset > observation.offset_max + SLACK).any():
            event = rows[np.argmax(offset)]
            raise ValueError(
                f"event {event} lies {offset.max():.3f} deg from the pointing, outside the field of view of "
                f"observation {observation.obs_id} (offset_max {observation.offset_max:g} deg)"
            )
        if observation.exclusion is not None:
            padded = -(-rows.size // 4096) * 4096  # few shapes: few compilations
            inside = np.asarray(_well_inside(observation.exclusion, np.resize(lon, padded), np.resize(lat, padded)))
            inside = inside[: rows.size]
            if inside.any():
                event = rows[np.argmax(inside)]
                raise ValueError(
                    f"event {event} at {events.lon[event]:.4f}, {events.lat[event]:.4f} deg is in the excluded sky of "
                    f"observation {observation.obs_id}; keep those where observation.selected(lon, lat)"
                )


@eqx.filter_jit
def _well_inside(exclusion, lon, lat):
    """Whether directions and their neighbourhood of size SLACK are excluded."""
    corners = [exclusion(lon + x, lat + y) for x in (-SLACK, SLACK) for y in (-SLACK, SLACK)]
    return jnp.stack(corners).all(0)
