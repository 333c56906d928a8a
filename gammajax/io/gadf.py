"""Event lists and responses of real observations: GADF DL3 data stores, and gammapy's observations in memory."""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false

import contextlib
import warnings
from typing import NamedTuple

import equinox as eqx
import numpy as np

from gammajax.display import block, described, listed, number_of, words
from gammajax.events import Events
from gammajax.io.exclusion import exclusion_map
from gammajax.io.files import UNREADABLE, expand, one_line, quiet
from gammajax.io.irf import NEEDED, fov_alignment, response_from_gammapy
from gammajax.io.pointing import fov_angle, plain, plain_pair
from gammajax.observation import Observation
from gammajax.response import Background, Response
from gammajax.table import Table

IRFS = ("aeff", "edisp", "psf", "bkg")


class Data(NamedTuple):
    """Events and the list of observations that their `observation` column indexes."""

    events: Events
    observations: list[Observation]

    @words
    def __repr__(self) -> str:
        """Number of events and observations."""
        names = listed([getattr(observation, "obs_id", "?") for observation in self.observations])
        return block(
            f"Data in {number_of(len(self.observations), 'observation')}: {names}", *repr(self.events).split("\n")
        )


class Instrument(NamedTuple):
    """What the response files of a run say: alignment of the background, energies [TeV] of its table, safe energies."""

    response: Response
    alignment: str | None
    energy_range: tuple[float, float]
    safe_range: tuple[float, float]
    __repr__ = described


def read_gadf(
    path,
    obs_ids=None,
    *,
    offset_max=2.0,
    energy_range=None,
    exclusion=None,
    frame: str = "icrs",
    labels: bool = False,
    warn: bool = True,
    part: tuple[int, int] = (0, 1),
) -> Data:
    """Events and observations of a DL3 folder with `hdu-index.fits.gz`, under one selection for both.

    - `path`: folder, environment variables are expanded. `obs_ids`: runs, all of them when None.
    - `energy_range` [TeV]: of reconstructed energies; by default the range of the background table (of the effective
      area without one). The safe range of a run (LO_THRES, HI_THRES of its effective area) narrows it further, as
      gammapy's `SafeMaskMaker` method "aeff-default" does. Events lie strictly inside.
    - `offset_max` [deg]: largest separation from the pointing. `exclusion`: see [`exclusion_map`][].
    - `frame`: "icrs" or "galactic", of the events and observations.
    - `labels`: keep the `MC_ID` column of simulated events as `Events.component`.
    - `warn`: warn about response functions that are not normalised in the file.
    - `part`: (i, n) keeps every n-th event from the i-th on, so that n processes share them; observations are the same.

    Livetimes are those of the headers. Background rates of the format count per time on target: they are scaled by
    on-time over livetime, so that livetime times rate is the number of events. Events outside the good time intervals
    are dropped. A background aligned with the zenith is taken in its orientation at the middle of the run.

    No event in the selection is a warning.
    Raises `FileNotFoundError` for a missing folder, and `ValueError` for unknown runs, damaged files or columns, and
    missing response functions.
    """
    store, folder = _open(path)
    available = [int(i) for i in store.obs_ids]
    obs_ids = available if obs_ids is None else [int(i) for i in np.atleast_1d(obs_ids)]
    unknown = [i for i in obs_ids if i not in available]
    if unknown or not obs_ids:
        raise ValueError(f"{folder}: no observations {unknown}; available: {', '.join(map(str, available))}")

    def runs():
        for obs_id in obs_ids:
            name = f"{folder}, run {obs_id}"
            with _reading(name):
                run = store.obs(obs_id, required_irf=["aeff", "edisp", "psf"])
            yield name, run

    return _data(runs(), str(folder), offset_max, energy_range, exclusion, frame, labels, warn, part)


def from_gammapy_observations(
    observations,
    *,
    offset_max=2.0,
    energy_range=None,
    exclusion=None,
    frame: str = "icrs",
    labels: bool = False,
    warn: bool = True,
) -> Data:
    """Events and observations of gammapy `Observations` in memory (or of one, or a list), under one selection for both.

    The arguments are those of [`read_gadf`][], and so is the result for observations that gammapy has read from a data
    store. Observations cut in time or in phase keep the livetime of what is left; where the events have no LIVETIME, it
    is gammapy's `observation_live_time_duration`.

    Raises `ValueError` as [`read_gadf`][] does, and for observations without events or with filters on events, which
    the expected counts would not know: select by `energy_range`, `offset_max` and `exclusion`.
    """
    observations = [observations] if hasattr(observations, "aeff") else list(observations)
    if not observations:
        raise ValueError("the list of observations is empty")
    runs = [(f"observation {run.obs_id}", run) for run in observations]
    for name, run in runs:
        if "events" not in run.available_hdus:
            raise ValueError(f"{name} has no events")
        if any((cut.get("opts") or {}).get("parameter") != "PHASE" for cut in run.obs_filter.event_filters):
            raise ValueError(
                f"{name} filters its events; select by energy_range, offset_max and exclusion, which the expected "
                "counts know too"
            )
    return _data(runs, "the observations", offset_max, energy_range, exclusion, frame, labels, warn)


def _data(runs, origin, offset_max, energy_range, exclusion, frame, labels, warn, part=(0, 1)) -> Data:
    """What all readers share: `runs` are pairs of a name for messages and a gammapy observation."""
    offset_max = float(plain(offset_max, "deg"))
    energy_range = None if energy_range is None else plain_pair(energy_range, "TeV")
    cache, observations, columns, seen = {}, [], [], 0
    for number, (name, run) in enumerate(runs):
        with _reading(name):
            events, gti = run.events, run.gti
        files = _response_files(run)
        if files not in cache:
            cache[files] = _read_instrument(run, files[0][0] if isinstance(files[0], tuple) else name, warn)
        livetime, on_time = _times(run, events, gti, name)
        # rounded, so that runs of one file share one response
        ratio = round(on_time / livetime, 5)
        if (files, ratio) not in cache:
            cache[files, ratio] = _per_livetime(cache[files], ratio)
        observation = _observation(
            run, gti, livetime, cache[files, ratio], name, energy_range, offset_max, frame, exclusion
        )
        observations.append(observation)
        selected = _selected(events, gti, observation, number, name, labels)
        columns.append([column[(part[0] - seen) % part[1] :: part[1]] for column in selected])
        seen += selected[0].size
    energy, lon, lat, index, component = (np.concatenate(c) for c in zip(*columns, strict=True))
    if seen == 0:
        ranges = ", ".join(f"{o.obs_id}: {o.energy_min:.3g} to {o.energy_max:.3g} TeV" for o in observations)
        message = f"{origin}: no event is left within {offset_max:g} deg and the energy ranges ({ranges})"
        warnings.warn(message, stacklevel=3)
    return Data(Events(energy, lon, lat, index, component=component if labels else None), observations)


@contextlib.contextmanager
def _reading(name):
    try:
        with quiet():
            yield
    except UNREADABLE as error:
        raise ValueError(f"{name}: {one_line(error)}") from error


def _open(path):
    from gammapy.data import DataStore

    folder = expand(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if not (folder / DataStore.DEFAULT_HDU_TABLE).is_file():
        raise FileNotFoundError(
            f"{folder}: no {DataStore.DEFAULT_HDU_TABLE} in the folder, it is not a GADF data store"
        )
    try:
        with quiet():
            return DataStore.from_dir(folder), folder
    except UNREADABLE as error:
        raise ValueError(f"{folder}: the index files cannot be read ({one_line(error)})") from error


def _response_files(run):
    """Files and HDUs of the response functions, or the objects: runs with the same ones share one response."""

    def place(irf):
        name = "_bkg" if irf == "bkg" else irf
        at = vars(run).get(f"_{name}_hdu")
        if at is not None and name not in vars(run):
            return str(at.path()), at.hdu_name
        return id(vars(run).get(name))

    return tuple(place(irf) for irf in IRFS)


def _times(run, events, gti, name) -> tuple[float, float]:
    """Livetime of the header and on-time of the good time intervals [s], of what the observation's filters leave."""
    on_time = float(gti.time_sum.to_value("s")) * run.obs_filter.livetime_fraction
    livetime = events.table.meta.get("LIVETIME")
    if livetime is not None:
        # exactly one without filters
        livetime = livetime * (on_time / float(run._gti.time_sum.to_value("s")))
    elif run.meta is not None and run.meta.deadtime_fraction is not None:
        livetime = float(run.observation_live_time_duration.to_value("s"))
    if livetime is None or not livetime > 0:
        raise ValueError(f"{name}: LIVETIME in the header of EVENTS must be positive, not {livetime}")
    return livetime, on_time


def _read_instrument(run, name, warn) -> Instrument:
    try:
        with quiet():
            aeff, edisp, psf, bkg = (getattr(run, irf) for irf in IRFS)
    except UNREADABLE as error:
        raise ValueError(f"{name}: the response functions cannot be read ({one_line(error)})") from error
    missing = [NEEDED[irf] for irf, table in zip(IRFS, (aeff, edisp, psf), strict=False) if table is None]
    if missing:
        raise ValueError(f"{name}: no {', no '.join(missing)}")
    edges = (aeff.axes["energy_true"] if bkg is None else bkg.axes["energy"]).edges.to_value("TeV")
    return Instrument(
        response_from_gammapy(aeff, edisp, psf, bkg, name=name, warn=warn),
        fov_alignment(bkg),
        (float(edges[0]), float(edges[-1])),
        (aeff.meta.get("LO_THRES") or 0.0, aeff.meta.get("HI_THRES") or np.inf),
    )


def _per_livetime(instrument: Instrument, ratio: float) -> Instrument:
    """The instrument with background rates per on-time turned into rates per livetime; `ratio` of the two times.

    The format: "The rate is computed per observation time (without any dead time correction [...])". The simulations of
    the first CTA data challenge did not follow it: their background is lower than their table by the 2 % dead time.
    """
    response = instrument.response
    if response.background is None:
        return instrument
    table = response.background.log_rate
    background = Background(Table(table.axes, table.values + np.float32(np.log(ratio))))
    response = Response(response.effective_area, response.psf, response.energy_dispersion, background)
    return instrument._replace(response=response)


def _observation(run, gti, livetime, instrument, name, energy_range, offset_max, frame, exclusion) -> Observation:
    if run.pointing.fixed_icrs is None:
        raise ValueError(f"{name}: drift scans are not supported, the pointing must be fixed on the sky")
    pointing = run.pointing.fixed_icrs.transform_to(frame).spherical
    lon, lat = float(pointing.lon.deg), float(pointing.lat.deg)
    # gammapy has no metadata for headers without GEOLON
    location = None if run.meta is None else run.observatory_earth_location
    if instrument.alignment == "ALTAZ" and location is None:
        raise ValueError(f"{name}: FOVALIGN = ALTAZ needs GEOLON, GEOLAT and ALTITUDE in the header of EVENTS")
    middle = gti.time_start[0] + 0.5 * (gti.time_stop[-1] - gti.time_start[0])
    low, high = instrument.energy_range if energy_range is None else energy_range
    safe = instrument.safe_range
    low, high = max(low, safe[0]), min(high, safe[1])
    if not low < high:
        raise ValueError(f"{name}: no energies are left, its safe range is {safe[0]:.3g} to {safe[1]:.3g} TeV")
    return Observation(
        lon,
        lat,
        float(livetime),
        instrument.response,
        energy_min=low,
        energy_max=high,
        offset_max=offset_max,
        frame=frame,
        fov_angle=fov_angle(lon, lat, frame, instrument.alignment, location, middle),
        obs_id=str(run.obs_id),
        exclusion=exclusion_map(exclusion, lon, lat, frame, offset_max),
    )


def _selected(events, gti, observation, number, name, labels):
    """Columns energy, lon, lat, observation and component of the events of one run inside its selection."""
    table = events.table
    energy = _column(table, "ENERGY", "TeV", name)
    radec = [_column(table, c, "deg", name) for c in ("RA", "DEC")]
    if np.any(energy <= 0):
        raise ValueError(f"{name}, row {int(np.argmax(energy <= 0))} of EVENTS: ENERGY is not positive")
    lon, lat = radec
    if observation.frame != "icrs":
        from astropy.coordinates import SkyCoord

        sky = SkyCoord(*radec, unit="deg", frame="icrs").transform_to(observation.frame).spherical
        lon, lat = sky.lon.deg, sky.lat.deg
    keep = (energy > observation.energy_min) & (energy < observation.energy_max)
    start = gti.time_start[0]
    time = (events.time - start).to_value("s")
    intervals = zip((gti.time_start - start).to_value("s"), (gti.time_stop - start).to_value("s"), strict=True)
    # times in days lose some microseconds
    keep &= np.any([(time >= low - 1e-4) & (time <= high + 1e-4) for low, high in intervals], axis=0)
    keep &= np.asarray(_inside(observation, lon, lat))
    if labels and "MC_ID" not in table.colnames:
        raise ValueError(f"{name}: EVENTS has no MC_ID column, there are no labels to read")
    component = np.asarray(table["MC_ID"], np.int32) if labels else np.zeros(energy.size, np.int32)
    return energy[keep], lon[keep], lat[keep], np.full(keep.sum(), number), component[keep]


@eqx.filter_jit
def _inside(observation, lon, lat):
    return observation.selected(lon, lat)


def _column(table, column, unit, name):
    """Column in `unit` as float64; astropy masks the NaN of files."""
    from astropy import units

    values = np.ma.filled(np.ma.asarray(table[column].data).astype(np.float64), np.nan)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{name}, row {int(np.argmin(np.isfinite(values)))} of EVENTS: {column} is not finite")
    return values * units.Unit(table[column].unit or unit).to(unit)
