"""Event lists and responses of real observations: GADF DL3 data stores, and gammapy's observations in memory."""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false

import contextlib
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from gammajax.common.display import block, described, listed, number_of, words
from gammajax.events.event_list import Events
from gammajax.instrument.observation import Observation
from gammajax.instrument.response import Background, Response
from gammajax.instrument.table import Table
from gammajax.io.exclusion import exclusion_map
from gammajax.io.files import UNREADABLE, expand, one_line, quiet
from gammajax.io.hdu import (
    find,
    number,
    opened,
    optional_number,
    read_event_list,
    read_good_time,
    read_response,
    reference,
)
from gammajax.io.irf import NEEDED, fov_alignment, response_from_gammapy
from gammajax.io.pointing import fov_angle, plain, plain_pair

HALF = 0.5  # fraction without dead time, below which a header is suspicious
IRFS = ("aeff", "edisp", "psf", "bkg")
# attributes of gammapy's observation that have another name than the part they hold
PIECES = {"events": "_events", "gti": "_gti", "bkg": "_bkg", "meta": "_meta", "rad_max": "_rad_max"}
INDEX = ("OBS_ID", "HDU_TYPE", "HDU_CLASS", "FILE_DIR", "FILE_NAME", "HDU_NAME")


class Data(NamedTuple):
    """`events` and the list of `observations` that their `observation` column indexes.

    [`gammajax.io.read_gadf`][] returns it. A pair: `events, observations = ...`, and what [`gammajax.Posterior`][]
    takes in the place of both.

    >>> import gammajax as gj
    >>> run = gj.io.ctao(pointing=(83.6, 22.0), livetime=1800.0)
    >>> data = gj.io.Data(gj.Events([0.5], [83.6], [22.0]), [run])
    >>> len(data.events), len(data.observations)
    (1, 1)
    """

    events: Events
    observations: list[Observation]

    @words
    def __repr__(self) -> str:
        """Number of events and observations."""
        names = listed([getattr(observation, "obs_id", "?") for observation in self.observations])
        return block(
            f"Data in {number_of(len(self.observations), 'observation')}: {names}", *repr(self.events).split("\n")
        )


class Run(NamedTuple):
    """A gammapy observation, its events, pointing and times.

    `start`, `stop`: good time intervals [s] after `epoch`, without overlaps. `on_time`, `livetime` [s]: total of the
    intervals, and its part without dead time. `where` names the HDU of the events in messages. `shifted`: EVENTS and
    GTI count time from different references.
    """

    observation: Any
    name: str
    where: str
    events: Any
    epoch: Any
    start: np.ndarray
    stop: np.ndarray
    on_time: float
    livetime: float
    pointing: Any
    shifted: bool


class Instrument(NamedTuple):
    """Response of a run, alignment of its background, energies [TeV] of the background table, and safe energies."""

    response: Response
    alignment: str | None
    energy_range: tuple[float, float]
    safe_range: tuple[float, float]
    __repr__ = described


def read_gadf(
    path,
    obs_ids=None,
    *,
    event_types=None,
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
    - `event_types`: names of the event types or classes to read, all of them when None. A run with several is one
      observation for each, with the events and the response of that type, and `obs_id` such as "23523/hard". Types are
      several HDUs of events in the index (EVENTS_HARD and EVENTS_LOOSE, with EFFECTIVE AREA_HARD and so on, or one file
      each), or several folders: `path` is then a dict such as `{"hard": folder, "loose": folder}`.
    - `energy_range` [TeV]: of reconstructed energies; by default the range of the background table (of the effective
      area without one). The safe range of a run (LO_THRES, HI_THRES of its effective area) narrows it further, as
      gammapy's `SafeMaskMaker` method "aeff-default" does. Events lie strictly inside.
    - `offset_max` [deg]: largest separation from the pointing. `exclusion`: see [`exclusion_map`][].
    - `frame`: "icrs" or "galactic", of the events and observations.
    - `labels`: keep the `MC_ID` column of simulated events as `Events.component`.
    - `warn`: warn about response functions that are not normalised in the file.
    - `part`: (i, n) keeps every n-th event from the i-th on, so that n processes share them; observations are the same.

    Returns a [`gammajax.io.Data`][]. The format is that of gamma-astro-data-formats (Deil et al. 2017,
    arXiv:1610.01884).

    The livetime is the time in the good time intervals, overlaps counted once, times the fraction DEADC of the header
    that is free of dead time (LIVETIME / ONTIME where there is no DEADC). It is gammapy's
    `observation_live_time_duration`. Background rates of the format count per time on target: they are divided by that
    fraction, so that livetime times rate is the number of events. Events outside the good time intervals are dropped.
    A background aligned with the zenith is taken in its orientation at the middle of the run.

    Columns may be in any unit that astropy can convert to that of the format.
    No event in the selection is a warning.
    Raises `FileNotFoundError` for a missing folder, and `ValueError` for unknown runs and event types, a run given
    twice, events that are of two types, missing response functions, and files, columns, units and keywords that cannot
    be used.

    With the public data of H.E.S.S. (doi:10.5281/zenodo.1421098), `events, observations = gj.io.read_gadf(folder,
    [23523])`:

    >>> import gammajax as gj, os
    >>> folder = os.path.expandvars("$GAMMAPY_DATA/hess-dl3-dr1")
    >>> data = gj.io.read_gadf(folder, [23523], offset_max=2.0) if os.path.isdir(folder) else None
    >>> data is None or round(float(data.observations[0].livetime)) == 1582
    True
    """
    origin, runs = runs_of_store(path, obs_ids, ["aeff", "edisp", "psf"], event_types)
    return _data(runs, origin, offset_max, energy_range, exclusion, frame, labels, warn, part)


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

    Returns a [`gammajax.io.Data`][]. The arguments (`offset_max`, `energy_range`, `exclusion`, `frame`,
    `labels`, `warn`) are those of [`read_gadf`][], and so is the result for observations
    that gammapy has read from a data store. Observations cut in time or in phase keep the livetime of the rest.

    Raises `ValueError` as [`read_gadf`][] does, and for observations without events or with filters on events, which
    the expected counts would not know: select by `energy_range`, `offset_max` and `exclusion`.

    >>> import tempfile, gammajax as gj
    >>> run = gj.io.ctao(pointing=(83.6, 22.0), livetime=1800.0, energy_range=(0.1, 50.0))
    >>> folder = tempfile.mkdtemp()
    >>> gj.io.write_events(folder, gj.Events([0.5, 1.0], [83.6, 83.7], [22.0, 22.1]), [run])
    >>> from pathlib import Path
    >>> from gammapy.data import DataStore
    >>> from gammapy.irf import load_irf_dict_from_file
    >>> observation = DataStore.from_dir(folder).obs(0, required_irf=[])
    >>> path = next(Path(gj.__file__).parent.glob("data/Prod5-South-20deg*.fits.gz"))
    >>> for name, response in load_irf_dict_from_file(path).items():
    ...     setattr(observation, name, response)
    >>> events, observations = gj.io.from_gammapy_observations(observation, offset_max=2.0, warn=False)
    >>> len(events), float(observations[0].livetime)
    (2, 1800.0)
    """
    runs = runs_in_memory(observations)
    return _data(runs, "the observations", offset_max, energy_range, exclusion, frame, labels, warn)


def runs_of_store(path, obs_ids, needed, event_types=None):
    """Origin of the runs for messages, and an iterator over a name and a gammapy observation of each run and type."""
    folders = path if isinstance(path, Mapping) else {"": path}
    if not folders:
        raise ValueError("path is a dict without folders; give one for each event type")
    asked = None if event_types is None else [event_types] if isinstance(event_types, str) else list(event_types)
    stores = [(str(kind), open_store(folder)) for kind, folder in folders.items()]
    runs = [run for kind, store in stores for run in _listed(kind, store, obs_ids)]
    if asked is not None:
        kinds = {kind for _, _, kind, _ in runs}
        unknown = [kind for kind in asked if kind not in kinds]
        if unknown or not asked:
            has = f"they are {', '.join(sorted(kinds))}" if kinds - {""} else "its runs are of one type"
            raise ValueError(f"{stores[0][1][-1]}: no events of type {', '.join(unknown) or '(none given)'}; {has}")
        runs = [run for run in runs if run[2] in asked]

    def opened_runs():
        for folder, obs_id, kind, store in runs:
            name = f"{folder}, run {obs_id}" + (f", events {kind}" if kind else "")
            with _reading(name):
                run = store.obs(obs_id, required_irf=needed)
                _warn_of_several(store, obs_id, name)
            if kind:
                run.obs_id = f"{obs_id}/{kind}"
            yield name, run

    return ", ".join(str(folder) for _, (_, _, folder) in stores), opened_runs()


def _listed(kind, opened_store, obs_ids):
    """Folder, number, event type and data store of each run and type of a data store."""
    store, available, folder = opened_store
    obs_ids = available if obs_ids is None else _whole(obs_ids)
    unknown = [i for i in obs_ids if i not in available]
    if unknown or not obs_ids:
        raise ValueError(f"{folder}: no observations {unknown}; available: {', '.join(map(str, available))}")
    twice = [i for i, count in Counter(obs_ids).items() if count > 1]
    if twice:
        raise ValueError(f"{folder}, run {twice[0]} is given twice")
    # a folder for each type has a name
    several = set() if kind else _runs_with_types(store)
    return [
        (folder, obs_id, one, part)
        for obs_id in obs_ids
        for one, part in (_event_types(store, obs_id) if obs_id in several else {kind: store}).items()
    ]


def _runs_with_types(store) -> set[int]:
    """Runs for which the index lists several HDUs of events."""
    table = store.hdu_table
    lists = np.char.strip(np.asarray(table["HDU_TYPE"]).astype(str)) == "events"
    numbers, counts = np.unique(np.asarray(table["OBS_ID"])[lists], return_counts=True)
    return set(numbers[counts > 1].tolist())


def _event_types(store, obs_id) -> dict:
    """Data stores of the event types of a run by name: the store itself, without one, if nothing tells them apart."""
    from gammapy.data import DataStore

    def texts(row):
        return tuple(str(row[column]).strip() for column in ("HDU_TYPE", "FILE_DIR", "FILE_NAME", "HDU_NAME"))

    rows = np.flatnonzero(store.hdu_table["OBS_ID"] == obs_id)
    entries = [texts(store.hdu_table[row]) for row in rows]
    lists = [entry for entry in entries if entry[0] == "events"]
    files = [entry[1:3] for entry in lists]
    names = [entry[3].upper().removeprefix("EVENTS").strip(" _-") for entry in lists]
    kinds = names if len(set(names)) == len(names) else _what_differs([PurePath(name).name for _, name in files])
    if len(set(kinds)) < len(kinds):
        return {"": store}

    def belongs(entry, number):
        """Whether a part is of one type, or of all: by its file if types have files of their own, and by its name."""
        if entry[0] == "events":
            return entry == lists[number]
        if len(set(files)) == len(files) and entry[1:3] in files:
            return entry[1:3] == files[number]
        own = [i for i, name in enumerate(names) if name and re.search(rf"[ _-]{re.escape(name)}$", entry[3].upper())]
        return not own or number in own

    parts = [[row for row, entry in zip(rows, entries, strict=True) if belongs(entry, i)] for i in range(len(lists))]
    tables = [store.hdu_table[part] for part in parts]
    return {
        kind.lower(): DataStore(hdu_table=table, obs_table=store.obs_table)
        for kind, table in zip(kinds, tables, strict=True)
    }


def _what_differs(names) -> list[str]:
    """Names of files without extensions and without the words that all have: hard, loose for hard_11 and loose_11."""
    words = [re.split("[_-]", name.split(".")[0]) for name in names]
    shared = set.intersection(*map(set, words))
    return ["_".join(word for word in each if word not in shared) for each in words]


def runs_in_memory(observations) -> list:
    """Pairs of a name for messages and a gammapy observation, of one or several; raises `ValueError` for unfit ones."""
    observations = [observations] if hasattr(observations, "aeff") else list(observations)
    if not observations:
        raise ValueError("the list of observations is empty")
    runs = [(f"observation {run.obs_id}", run) for run in observations]
    if len({id(run) for run in observations}) < len(observations):
        twice = next(run for run in observations if sum(run is other for other in observations) > 1)
        raise ValueError(f"observation {twice.obs_id} is given twice")
    for name, run in runs:
        if "events" not in run.available_hdus:
            raise ValueError(f"{name} has no events")
        if any((cut.get("opts") or {}).get("parameter") != "PHASE" for cut in run.obs_filter.event_filters):
            raise ValueError(
                f"{name} filters its events; select by energy_range, offset_max and exclusion, which the expected "
                "counts know too"
            )
    return runs


def _data(runs, origin, offset_max, energy_range, exclusion, frame, labels, warn, part=(0, 1)) -> Data:
    """The part that all readers share: `runs` are pairs of a name for messages and a gammapy observation."""
    offset_max = float(plain(offset_max, "deg"))
    energy_range = None if energy_range is None else plain_pair(energy_range, "TeV")
    cache, observations, columns, seen, given = {}, [], [], 0, Given({}, {})
    for index, (name, run) in enumerate(runs):
        loaded = load_run(run, name)
        check_once(given, loaded)
        # the header of the events tells the orientation of some backgrounds
        files = *_response_files(run), _is_old_hess(loaded.events.table.meta)
        if files not in cache:
            cache[files] = read_instrument(loaded, warn)
        # rounded, so that runs of one file share one response
        ratio = round(loaded.on_time / loaded.livetime, 5)
        if (files, ratio) not in cache:
            cache[files, ratio] = _per_livetime(cache[files], ratio)
        observation = observation_of(loaded, cache[files, ratio], energy_range, offset_max, frame, exclusion)
        observations.append(observation)
        selected = _selected(loaded, observation, index, labels)
        columns.append([column[(part[0] - seen) % part[1] :: part[1]] for column in selected])
        seen += selected[0].size
    energy, lon, lat, observation, component, time, phase = (np.concatenate(c) for c in zip(*columns, strict=True))
    if seen == 0:
        ranges = ", ".join(f"{o.obs_id}: {o.energy_min:.3g} to {o.energy_max:.3g} TeV" for o in observations)
        message = f"{origin}: no event is left within {offset_max:g} deg and the energy ranges ({ranges})"
        warnings.warn(message, stacklevel=3)
    phase = None if np.any(np.isnan(phase)) else phase % 1.0
    columns = {"component": component if labels else None, "time": time, "phase": phase}
    return Data(Events(energy, lon, lat, observation, **columns), observations)


@contextlib.contextmanager
def _reading(name):
    try:
        with quiet():
            yield
    except UNREADABLE as error:
        raise ValueError(f"{name}: {one_line(error)}") from error


def open_store(path):
    """Data store of a folder, the numbers of its runs, and the folder; raises as [`read_gadf`][] does."""
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
            store = DataStore.from_dir(folder)
            missing = [name for name in INDEX if name not in store.hdu_table.colnames]
            if missing:
                raise ValueError(f"no columns {', '.join(missing)} in {DataStore.DEFAULT_HDU_TABLE}")
            return store, [int(i) for i in store.hdu_table.obs_id_unique], folder
    except UNREADABLE as error:
        raise ValueError(f"{folder}: the index files cannot be read ({one_line(error)})") from error


def _whole(obs_ids) -> list[int]:
    """Numbers of runs as a list of int."""
    numbers = list(obs_ids) if isinstance(obs_ids, (set, frozenset, range)) else np.atleast_1d(obs_ids).ravel().tolist()
    try:
        result = [int(number) for number in numbers]
        if all(float(number) == whole for number, whole in zip(numbers, result, strict=True)):
            return result
    except (TypeError, ValueError):
        pass
    raise ValueError(f"obs_ids must be whole numbers, not {obs_ids!r}")


def _warn_of_several(store, obs_id, name):
    """Gammapy takes the first HDU of several with one type, as one of them has to be taken."""
    table = store.hdu_table
    types = [str(kind).strip() for kind in table["HDU_TYPE"][table["OBS_ID"] == obs_id]]
    for kind in ("events", "gti", *IRFS):
        if types.count(kind) > 1:
            message = f"the index lists {types.count(kind)} HDUs of type {kind}; the first is read"
            warnings.warn(f"{name}: {message}", stacklevel=2)


def _response_files(run):
    """Files and HDUs of the response functions, or the objects: runs with the same ones share one response."""

    def place(irf):
        at = location_of(run, irf)
        return id(vars(run).get(PIECES.get(irf, irf))) if at is None else (str(at.path()), at.hdu_name)

    return tuple(place(irf) for irf in IRFS)


def location_of(run, kind):
    """The place in a file of a part of an observation that gammapy has not read yet."""
    name = PIECES.get(kind, kind)
    return None if name in vars(run) else vars(run).get(f"_{name}_hdu")


def part_of(run, kind, name):
    """A part of an observation, from memory or from its file."""
    at = location_of(run, kind)
    if at is None:
        return vars(run).get(PIECES.get(kind, kind))
    path = at.path()
    # response functions are often shared by many runs, and elsewhere
    file = path if kind in IRFS else f"{name}: {path.name}"
    with opened(path, file) as hdus:
        hdu, where = find(hdus, at.hdu_name, file), f"{file}, HDU {at.hdu_name}"
        if kind == "events":
            return read_event_list(hdu, where)
        return read_good_time(hdu, where) if kind == "gti" else read_response(hdu, where, at.hdu_class)


def load_run(run, name) -> Run:
    """Events and times of an observation, under its filters."""
    at, events, gti = location_of(run, "events"), part_of(run, "events", name), part_of(run, "gti", name)
    where = f"{name}: EVENTS" if at is None else f"{name}: {at.path().name}, HDU {at.hdu_name}"
    if gti is None or len(gti.table) == 0:
        raise ValueError(f"{name}: there are no good time intervals (HDU GTI); leave this run out")
    header, epoch = events.table.meta, gti.time_start.min()
    with _reading(name):
        start, stop = _merged(run.obs_filter.filter_gti(gti), epoch)
        events = run.obs_filter.filter_events(events)
    on_time = float(np.sum(stop - start)) * run.obs_filter.livetime_fraction
    if not on_time > 0:
        raise ValueError(f"{name}: no time is left in the good time intervals; leave this run out")
    live = _live_fraction(header, vars(run).get("_meta"), float(np.subtract(*_merged(gti, epoch)[::-1]).sum()), where)
    if at is None and run.pointing is None:
        raise ValueError(f"{name}: no pointing")
    pointing = _pointing(header, where) if at is not None else run.pointing.fixed_icrs
    shifted = at is not None and _differ(reference(header, where), gti.time_ref)
    if pointing is None:
        raise ValueError(f"{name}: drift scans are not supported, the pointing must be fixed on the sky")
    return Run(run, name, where, events, epoch, start, stop, on_time, live * on_time, pointing, shifted)


def _differ(one, other) -> bool:
    """Whether two reference times are apart, or of different scales."""
    return one.scale != other.scale or bool(abs((one - other).to_value("s")) > 1e-3)


def _merged(gti, epoch) -> tuple[np.ndarray, np.ndarray]:
    """Starts and stops [s] after `epoch` of good time intervals, in order and without overlaps."""
    start, stop = ((time - epoch).to_value("s") for time in (gti.time_start, gti.time_stop))
    order = np.argsort(start)
    start, stop = start[order], np.maximum.accumulate(stop[order])
    apart = start[1:] > stop[:-1]
    return start[np.concatenate([[True], apart])], stop[np.concatenate([apart, [True]])]


def _live_fraction(header, meta, whole, where) -> float:
    """Fraction of the time on target without dead time; `whole` [s] is the time on target of the file."""
    if meta is not None and meta.deadtime_fraction:  # an observation made in memory
        return 1.0 - float(meta.deadtime_fraction)
    right = "it is the fraction of time without dead time, above 0 and at most 1"
    given = optional_number(header, "DEADC", where, right)
    if given is not None and not 0.0 < given <= 1.0:
        raise ValueError(f"{where}: DEADC is {given:g}; {right}")
    ratio = None
    try:
        live, on = (optional_number(header, key, where, "it is a time in s") for key in ("LIVETIME", "ONTIME"))
        if live is not None:
            ratio = live / (on or whole)
    except ValueError as error:
        if given is None:
            raise
        warnings.warn(f"{error}; the livetime is DEADC = {given:g} of the good time", stacklevel=2)
    if ratio is not None and not 0.0 < ratio <= 1.001:
        if given is None:
            message = f"LIVETIME / ONTIME is {ratio:.3g}, which is no fraction; the livetime is all of the good time"
            warnings.warn(f"{where}: {message}", stacklevel=2)
            return 1.0
        ratio = None
    if given is None and ratio is None:
        if meta is None:
            message = "neither DEADC nor LIVETIME and ONTIME tell the dead time; the livetime is all of the good time"
            warnings.warn(f"{where}: {message}", stacklevel=2)
        return 1.0
    if given is not None and ratio is not None and abs(given - ratio) > 0.01:
        message = f"DEADC is {given:.3g} but LIVETIME / ONTIME is {ratio:.3g}; DEADC is taken"
        warnings.warn(f"{where}: {message}", stacklevel=2)
    live_part = min(ratio, 1.0) if given is None else given
    if live_part < HALF:
        warnings.warn(
            f"{where}: only {live_part:.3g} of the good time is free of dead time; are all times in s?", stacklevel=2
        )
    return live_part


def _pointing(header, where):
    """Fixed pointing of a header, None for a drift scan."""
    from astropy.coordinates import SkyCoord

    if str(header.get("OBS_MODE", "")).strip().upper() == "DRIFT":
        return None
    ra = number(header, "RA_PNT", where, "it is the right ascension of the pointing [deg]", -360.0, 360.0)
    dec = number(header, "DEC_PNT", where, "it is the declination of the pointing [deg]", -90.0, 90.0)
    return SkyCoord(ra, dec, unit="deg", frame="icrs")


def _site(run: Run):
    """Place of the telescopes, None where nothing tells it."""
    from astropy import units
    from astropy.coordinates import EarthLocation

    header = run.events.table.meta
    height = "GEOALT" if "GEOALT" in header else "ALTITUDE"
    keys = ("GEOLON", "GEOLAT", height)
    lon, lat, altitude = (optional_number(header, key, run.where, "it is in deg, or in m") for key in keys)
    if None not in (lon, lat, altitude):
        return EarthLocation.from_geodetic(lon, lat, altitude * units.m)
    return run.observation.observatory_earth_location if vars(run.observation).get("_meta") is not None else None


class Given(NamedTuple):
    """Runs read so far: names by digest of the events, and events by obs_id where an obs_id comes again."""

    digests: dict[int, str]
    events: dict[str, list[np.ndarray]]


def check_once(given: Given, run: Run) -> None:
    """Refuse a run that repeats all events of another one, or some events of a run of the same name."""
    table = run.events.table
    if len(table) == 0:
        return
    events = np.asarray(table["ENERGY"], float) + 1j * np.asarray(table["RA"], float)
    digest, name = hash(events.tobytes()), str(run.observation.obs_id)
    if digest in given.digests:
        raise ValueError(f"{run.name} is given twice: it has the events of {given.digests[digest]}")
    name, _, kind = name.partition("/")
    if any(np.intersect1d(other, events).size for other in given.events.get(name, ())):
        if kind:
            raise ValueError(f"{run.name}: some events are also of another type; choose one of them by event_types")
        raise ValueError(f"{run.name} is given twice: it has events of another run of that name")
    given.digests[digest] = run.name
    # runs of a data store have different names, and cuts of one run in memory and its event types the same
    if kind or location_of(run.observation, "events") is None or run.observation.obs_filter.time_filter is not None:
        given.events.setdefault(name, []).append(events)


def read_instrument(run: Run, warn) -> Instrument:
    """Full-enclosure response of a run."""
    from gammapy.irf import FoVAlignment

    aeff, edisp, psf, bkg = (part_of(run.observation, irf, run.name) for irf in IRFS)
    missing = [NEEDED[irf] for irf, table in zip(IRFS, (aeff, edisp, psf), strict=False) if table is None]
    if missing:
        raise ValueError(f"{run.name}: no {', no '.join(missing)}")
    at = location_of(run.observation, "aeff")
    name = run.name if at is None else str(at.path())
    if location_of(run.observation, "bkg") is None:
        bkg = run.observation.bkg
    elif _is_old_hess(run.events.table.meta):
        bkg._fov_alignment = FoVAlignment.REVERSE_LON_RADEC
    edges = (aeff.axes["energy_true"] if bkg is None else bkg.axes["energy"]).edges.to_value("TeV")
    where = name if at is None else f"{name}, HDU {at.hdu_name}"
    return Instrument(
        response_from_gammapy(aeff, edisp, psf, bkg, name=name, warn=warn),
        fov_alignment(bkg),
        (float(edges[0]), float(edges[-1])),
        safe_range(aeff.meta, where),
    )


def _is_old_hess(header) -> bool:
    """Whether backgrounds have the other sign of longitude, as of this writer; gammapy knows it in the same way."""
    return header.get("CREATOR") == "SASH FITS::EventListWriter" and header.get("HDUVERS") == "0.2"


def safe_range(header, where) -> tuple[float, float]:
    """Safe energies [TeV] of an effective area; zero and negative numbers stand for no limit."""
    right = "it is an energy in TeV, 0 for no limit"
    low, high = (optional_number(header, key, where, right) or 0.0 for key in ("LO_THRES", "HI_THRES"))
    return max(low, 0.0), high if high > 0.0 else np.inf


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


def observation_of(run: Run, instrument, energy_range, offset_max, frame, exclusion) -> Observation:
    """Observation of a run under a selection; raises `ValueError` if no energies are left."""
    from astropy.time import TimeDelta

    pointing = run.pointing.transform_to(frame).spherical
    lon, lat = float(pointing.lon.deg), float(pointing.lat.deg)
    site = _site(run) if instrument.alignment == "ALTAZ" else None
    if instrument.alignment == "ALTAZ" and site is None:
        raise ValueError(f"{run.name}: FOVALIGN = ALTAZ needs GEOLON, GEOLAT and ALTITUDE in the header of EVENTS")
    middle = run.epoch + TimeDelta(0.5 * (run.start[0] + run.stop[-1]), format="sec")
    low, high = instrument.energy_range if energy_range is None else energy_range
    safe = instrument.safe_range
    low, high = max(low, safe[0]), min(high, safe[1])
    if not low < high:
        raise ValueError(f"{run.name}: no energies are left, its safe range is {safe[0]:.3g} to {safe[1]:.3g} TeV")
    return Observation(
        lon,
        lat,
        run.livetime,
        instrument.response,
        energy_min=low,
        energy_max=high,
        offset_max=offset_max,
        frame=frame,
        fov_angle=fov_angle(lon, lat, frame, instrument.alignment, site, middle),
        obs_id=str(run.observation.obs_id),
        exclusion=exclusion_map(exclusion, lon, lat, frame, offset_max),
        good_time=run.epoch.tt.mjd + np.stack([run.start, run.stop], axis=1) / 86400.0,
    )


def good_events(run: Run, frame: str):
    """Energies [TeV], directions [deg] in `frame`, and whether they are in the good time intervals, of all events."""
    table = run.events.table
    energy = _column(table, "ENERGY", "TeV", run.name)
    radec = [_column(table, c, "deg", run.name) for c in ("RA", "DEC")]
    if np.any(energy <= 0):
        raise ValueError(f"{run.name}, row {int(np.argmax(energy <= 0))} of EVENTS: ENERGY is not positive")
    lon, lat = radec
    if frame != "icrs":
        from astropy.coordinates import SkyCoord

        sky = SkyCoord(*radec, unit="deg", frame="icrs").transform_to(frame).spherical
        lon, lat = sky.lon.deg, sky.lat.deg
    time = (run.events.time - run.epoch).to_value("s")
    # times in days lose some microseconds
    interval = np.searchsorted(run.start, time + 1e-4, side="right") - 1
    good = (interval >= 0) & (time <= run.stop[interval] + 1e-4)
    if energy.size and not good.any():
        span = f"{time.min():.6g} to {time.max():.6g} s after their start"
        message = f"no event is in the good time intervals ({span}); compare MJDREFI, MJDREFF of EVENTS and GTI"
        warnings.warn(f"{run.name}: {message}", stacklevel=2)
    elif run.shifted and not good.all():
        message = f"{np.sum(~good)} of {energy.size} events are outside the good time intervals"
        warnings.warn(f"{run.name}: {message}; EVENTS and GTI differ in MJDREFI, MJDREFF or TIMESYS", stacklevel=2)
    return energy, lon, lat, good


def _selected(run: Run, observation, number, labels):
    """Columns energy, lon, lat, observation, component, time and phase of the selected events of one run."""
    table = run.events.table
    energy, lon, lat, good = good_events(run, observation.frame)
    keep = good & (energy > observation.energy_min) & (energy < observation.energy_max)
    keep &= np.asarray(_inside(observation, lon, lat))
    if labels and "MC_ID" not in table.colnames:
        raise ValueError(f"{run.name}: EVENTS has no MC_ID column, there are no labels to read")
    component = np.asarray(table["MC_ID"], np.int32) if labels else np.zeros(energy.size, np.int32)
    time = run.events.time.tt.mjd
    phase = _column(table, "PHASE", "", run.name) if "PHASE" in table.colnames else np.full(energy.size, np.nan)
    return energy[keep], lon[keep], lat[keep], np.full(keep.sum(), number), component[keep], time[keep], phase[keep]


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
