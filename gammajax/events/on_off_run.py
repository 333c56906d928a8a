"""ON and OFF events of one run: two streams of energies, and what is needed to compare them."""

import equinox as eqx
import numpy as np
from jaxtyping import Float

from gammajax.common.display import block, document, extent, length, number_of, text, words
from gammajax.instrument.observation import Aside
from gammajax.instrument.region_response import RegionResponse
from gammajax.instrument.sky import DEGREE


class OnOffRun(eqx.Module):
    """Energies of the events of one run in its ON region and in its OFF regions.

    - `on`, `off` [TeV]: reconstructed energies, inside `energy_min` to `energy_max` [TeV].
    - `ratio`: acceptance of the ON region over that of all OFF regions; a number, or one at each of `nodes`.
    - `radius` [deg] of the ON region; a number, or one at each of `nodes`.
    - `livetime` [s]; `response`: [`gammajax.RegionResponse`][] of the ON region.
    - `nodes` [TeV]: energies at which ratio and radius are given; between them they are linear in ln energy, beyond
      them constant.
    - `part`: part of the livetime that is ON, below one for a selection in phase.
    - `lon`, `lat` [deg]: centre of the ON region in `frame` ("icrs" or "galactic"); `obs_id`: identifier, for people.

    Arrays are on the host in double precision.
    Raises `ValueError` for acceptance ratios, radii and livetimes that are not positive, and for energies outside the
    selection.

    >>> import gammajax as gj
    >>> full = gj.io.ctao(pointing=(0.0, 0.0), livetime=3600.0).response
    >>> region = gj.RegionResponse.at(full.effective_area, full.energy_dispersion, full.psf, offset=0.5, radius=0.1)
    >>> run = gj.OnOffRun([1.2, 3.0], [1.1, 1.5, 2.0], 0.2, 3600.0, region, radius=0.1, energy_min=1.0, energy_max=10.0)
    >>> len(run.on), len(run.off), run.ratio.tolist()
    (2, 3, [0.2])
    """

    on: Float[np.ndarray, " on"]
    off: Float[np.ndarray, " off"]
    ratio: Float[np.ndarray, " node"]
    radius: Float[np.ndarray, " node"]
    nodes: Float[np.ndarray, " node"]
    livetime: float
    response: RegionResponse
    energy_min: float
    energy_max: float
    part: float
    lon: float
    lat: float
    frame: str = eqx.field(static=True)
    label: Aside = eqx.field(static=True)  # the obs_id
    __pdoc__ = document

    def __init__(
        self,
        on,
        off,
        ratio,
        livetime: float,
        response: RegionResponse,
        *,
        radius,
        energy_min: float,
        energy_max: float,
        nodes=None,
        part: float = 1.0,
        lon: float = 0.0,
        lat: float = 0.0,
        frame: str = "icrs",
        obs_id: str = "0",
    ):
        run = f"run {obs_id}"
        if off is None:
            raise ValueError(f"{run} has ON events without OFF events: give the energies of the events in OFF regions")
        nodes = np.array([1.0]) if nodes is None else np.asarray(nodes, np.float64)
        if nodes.ndim != 1 or nodes.size == 0 or not np.all(nodes > 0) or np.any(np.diff(nodes) <= 0):
            raise ValueError(
                f"{run}: the energies of the acceptance ratio must be positive and increasing, not {nodes}"
            )
        if not 0 < energy_min < energy_max < np.inf:
            raise ValueError(f"{run}: the energy range must be increasing, not {energy_min} to {energy_max} TeV")
        for name, value in (("livetime [s]", livetime), ("part of the livetime that is ON", part)):
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{run}: the {name} must be positive and finite, not {value}")
        if part > 1:
            raise ValueError(f"{run}: the part of the livetime that is ON must be at most one, not {part}")
        if frame not in ("icrs", "galactic"):
            raise ValueError(f"{run}: frame must be 'icrs' or 'galactic', not {frame!r}")
        self.ratio = _positive(ratio, nodes, f"{run}: the acceptance ratio of ON to OFF")
        self.radius = _positive(radius, nodes, f"{run}: the radius of the ON region")
        self.on, self.off = (_energies(e, energy_min, energy_max, run, w) for e, w in ((on, "ON"), (off, "OFF")))
        self.nodes, self.livetime, self.response = nodes, np.float64(livetime), response
        self.energy_min, self.energy_max, self.part = np.float64(energy_min), np.float64(energy_max), np.float64(part)
        self.lon, self.lat, self.frame, self.label = np.float64(lon), np.float64(lat), frame, Aside(str(obs_id))

    @property
    def obs_id(self) -> str:
        """Identifier of the run, for people."""
        return self.label.value

    @property
    def offset_max(self) -> float:
        """Largest radius of the ON region [deg]."""
        return self.radius.max()

    @words
    def __repr__(self) -> str:
        """Numbers of events, acceptance ratio and selection."""
        return block(
            f"OnOffRun {self.obs_id}: {length(self.on)} ON and {number_of(length(self.off), 'OFF event')} in "
            f"{text(self.livetime, 's')}",
            f"selection: {text(self.energy_min)} to {text(self.energy_max, 'TeV')} within {extent(self.radius, 'deg')} "
            f"of ({text(self.lon)}, {text(self.lat)}) deg, {self.frame}",
            f"acceptance of ON over OFF: {extent(self.ratio)}",
        )

    def on_exposure(self, energy: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Solid angle of the ON region times its livetime [sr s] at reconstructed energies [TeV]."""
        radius = np.interp(np.log(energy), np.log(self.nodes), self.radius)
        return 4.0 * np.pi * np.sin(0.5 * DEGREE * radius) ** 2 * self.livetime * self.part

    def off_exposure(self, energy: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Exposure of the OFF regions [sr s], in units of the acceptance of the ON region: that over the ratio."""
        return self.on_exposure(energy) / np.interp(np.log(energy), np.log(self.nodes), self.ratio)


def _positive(value, nodes, name) -> np.ndarray:
    values = np.asarray(value, np.float64)
    if values.shape not in ((), nodes.shape):
        raise ValueError(f"{name} has shape {values.shape}; give one number, or one for each of {nodes.size} energies")
    if not np.all(np.isfinite(values)) or not np.all(values > 0):
        wrong = values.ravel()[np.argmin(np.isfinite(values.ravel()) & (values.ravel() > 0))]
        raise ValueError(f"{name} must be positive and finite, it is {wrong:g}")
    return np.broadcast_to(values, nodes.shape).copy()


def _energies(values, low, high, run, stream) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise ValueError(f"{run}: the {stream} events are a list of energies [TeV], not of shape {values.shape}")
    wrong = ~((values >= low) & (values <= high))
    if wrong.any():
        raise ValueError(
            f"{run}: the energy of {stream} event {int(wrong.argmax())} is {values[wrong][0]:g} TeV, outside the "
            f"selection of {low:g} to {high:g} TeV"
        )
    return values


def as_runs(runs) -> tuple[OnOffRun, ...]:
    """One run or several, as a tuple. Raises `ValueError` for none, anything else, and for no OFF events in all."""
    several = (runs,) if isinstance(runs, OnOffRun) else tuple(runs)
    if not several or not all(isinstance(run, OnOffRun) for run in several):
        raise ValueError(f"give at least one gammajax.OnOffRun, or a list of them, not {runs!r}")
    if any(run.on.size for run in several) and not any(run.off.size for run in several):
        raise ValueError("there are ON events without OFF events: nothing tells the background; give OFF regions")
    return several
