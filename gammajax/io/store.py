"""Writing simulated events as a GADF folder, and reading them back exactly."""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false

import numpy as np

from gammajax.common.writing import replacing
from gammajax.events.event_list import Events
from gammajax.instrument.observation import as_tuple
from gammajax.io import hdu
from gammajax.io.files import expand
from gammajax.io.pointing import separations

GADF = {
    "HDUCLASS": "GADF",
    "HDUDOC": "https://github.com/open-gamma-ray-astro/gamma-astro-data-formats",
    "HDUVERS": "0.3",
}
# start of runs without good time intervals
START = 51544.5  # MJD, TT
TIME = {"MJDREFI": 51544, "MJDREFF": 0.5, "TIMEUNIT": "s", "TIMESYS": "TT", "TIMEREF": "LOCAL"}
DAY = 86400.0  # s
WHOLE = ("event_id", "component")
OTHERS = {"time": ("TIME", "s"), "phase": ("PHASE", "")}  # columns that events may lack
TRUTH = {"energy_true": ("ENERGY_TRUE", "TeV"), "component": ("MC_ID", "")}


def write_events(path, events: Events, observations, overwrite: bool = False) -> None:
    """Write a folder with one file per observation (`EVENTS`, `GTI`) and the two index files of GADF; returns nothing.

    Any GADF reader can open it, for example gammapy's `DataStore`; response functions are not written. The true
    energies, directions and components of simulated events are kept (`ENERGY_TRUE`, `RA_TRUE`, `DEC_TRUE`, `MC_ID`), so
    are times and phases of events that have them (`TIME`, to a microsecond, and `PHASE`). `GTI` holds the good time of
    an observation, or its livetime from the first event or from MJD 51544.5 on.
    Files are written under a temporary name and renamed when complete. If the `obs_id` are not distinct whole numbers,
    observations are numbered in the order of the list.

    `path` of the folder; `events` and `observations` as for a [`gammajax.Posterior`][].

    Raises `FileExistsError` if a file exists and `overwrite` is false, and `ValueError` for the name of a FITS file.

    >>> import tempfile, gammajax as gj
    >>> run = gj.io.ctao(pointing=(83.6, 22.0), livetime=1800.0, energy_range=(0.1, 50.0))
    >>> folder = tempfile.mkdtemp()
    >>> gj.io.write_events(folder, gj.Events([0.5, 1.0], [83.6, 83.7], [22.0, 22.1]), [run])
    >>> import os
    >>> sorted(name for name in os.listdir(folder) if "index" in name)
    ['hdu-index.fits.gz', 'obs-index.fits.gz']
    """
    from astropy.io import fits

    folder, observations = expand(path), as_tuple(observations)
    if folder.name.removesuffix(".gz").endswith((".fits", ".fit")):
        raise ValueError(f"{path}: a folder of files is written, one for each observation; give the name of a folder")
    if events.observation.max(initial=-1) >= len(observations):
        raise ValueError(f"events belong to {events.observation.max() + 1} observations, {len(observations)} are given")
    numbers = _numbers(observations)
    files, spans = {}, []
    for k, (one, i) in enumerate(zip(observations, numbers, strict=True)):
        spans.append(_spans(one, None if events.time is None else events.time[events.observation == k]))
        files[f"obs_{i}.fits.gz"] = _hdus(events, k, one, i, spans[-1])
    files["hdu-index.fits.gz"] = fits.HDUList([fits.PrimaryHDU(), _hdu_index(numbers)])
    files["obs-index.fits.gz"] = fits.HDUList([fits.PrimaryHDU(), _obs_index(observations, numbers, spans)])
    if not overwrite:
        for name in files:
            if (folder / name).exists():
                raise FileExistsError(f"{folder / name} exists; pass overwrite=True to replace it")
    folder.mkdir(parents=True, exist_ok=True)
    for name, hdus in files.items():
        with replacing(folder / name) as temporary:
            hdus.writeto(temporary, overwrite=True)


def read_events(path, observations) -> Events:
    """Events written by [`write_events`][] for the same observations, in the same order and precision.

    Times are right to a microsecond.

    `path` of the folder; `observations`: those that were given to write. Returns [`gammajax.Events`][].

    Raises `FileNotFoundError` for a missing file and `ValueError` for one that is damaged or of another pointing, and
    for columns and units that cannot be used.

    >>> import tempfile, gammajax as gj
    >>> run = gj.io.ctao(pointing=(83.6, 22.0), livetime=1800.0, energy_range=(0.1, 50.0))
    >>> folder = tempfile.mkdtemp()
    >>> gj.io.write_events(folder, gj.Events([0.5, 1.0], [83.6, 83.7], [22.0, 22.1]), run)
    >>> gj.io.read_events(folder, run).energy.tolist()
    [0.5, 1.0]
    """
    folder, observations, parts = expand(path), as_tuple(observations), []
    for number, (observation, obs_id) in enumerate(zip(observations, _numbers(observations), strict=True)):
        file = folder / f"obs_{obs_id}.fits.gz"
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file")
        with hdu.opened(file) as hdus:
            table, where = hdu.find(hdus, "EVENTS", file), f"{file}, HDU EVENTS"
            pointing = [hdu.number(table.header, key, where, "it is in deg") for key in ("RA_PNT", "DEC_PNT")]
            if str(table.header.get("OBS_NAME", observation.obs_id)) != observation.obs_id:
                raise hdu.Refused(
                    f"{file}: the events are of observation {table.header['OBS_NAME']}, not {observation.obs_id}"
                )
            part = _read_columns(table, observation.frame, where)
            if parts and set(part) != set(parts[0]) - {"observation"}:
                missing = set(part) ^ (set(parts[0]) - {"observation"})
                raise hdu.Refused(f"{where}: the files differ in the columns of {', '.join(sorted(missing))}")
        there = _radec(observation.lon, observation.lat, observation.frame)
        if separations(np.array([pointing]), "icrs", np.array([there], float), "icrs")[0, 0] > 1e-3:
            raise ValueError(f"{file}: the pointing is not that of observation {observation.obs_id}")
        parts.append({**part, "observation": np.full(part["event_id"].size, number)})
    columns = set().union(*parts)
    order = np.argsort(np.concatenate([part["event_id"] for part in parts]), kind="stable")
    merged = {name: np.concatenate([part[name] for part in parts])[order] for name in columns - {"event_id"}}
    return Events(**merged)


def _read_columns(table, frame, where):
    """Columns of one run by the names they have in `Events`, and `event_id`; truths only where the file has them."""
    lon, lat = ("RA", "DEC") if frame == "icrs" else ("GLON", "GLAT")
    needed = {"event_id": ("EVENT_ID", ""), "energy": ("ENERGY", "TeV"), "lon": (lon, "deg"), "lat": (lat, "deg")}
    # times of events that have none are written as the start of the run
    others = {field: at for field, at in OTHERS.items() if field != "time" or table.header.get("TIMES", False)}
    truth = {**others, **TRUTH, "lon_true": (f"{lon}_TRUE", "deg"), "lat_true": (f"{lat}_TRUE", "deg")}
    names = [name.upper() for name in table.columns.names]
    columns = {**needed, **{field: at for field, at in truth.items() if at[0] in names}}
    read = {
        field: hdu.whole_rows(table, name, where) if field in WHOLE else hdu.rows(table, name, unit, where)
        for field, (name, unit) in columns.items()
    }
    return {**read, "time": START + read["time"] / DAY} if "time" in read else read


def _hdus(events, number, observation, obs_id, spans):
    from astropy.io import fits

    rows = np.flatnonzero(events.observation == number)
    # without times, the start of the run
    time = np.full(rows.size, spans[0, 0]) if events.time is None else _seconds(events.time[rows])
    columns = [_fits_column("EVENT_ID", rows), _fits_column("TIME", time, "s")]
    columns += [_fits_column("ENERGY", events.energy[rows], "TeV")]
    columns += _directions(events.lon[rows], events.lat[rows], observation.frame, "")
    if events.lon_true is not None and events.lat_true is not None:
        columns += _directions(events.lon_true[rows], events.lat_true[rows], observation.frame, "_TRUE")
    for field, (name, unit) in {"phase": OTHERS["phase"], **TRUTH}.items():
        if getattr(events, field) is not None:
            columns.append(_fits_column(name, getattr(events, field)[rows], unit))
    ra, dec = map(float, _radec(observation.lon, observation.lat, observation.frame))
    header = fits.Header({**GADF, "HDUCLAS1": "EVENTS", "OBS_ID": obs_id, "OBS_NAME": observation.obs_id, **TIME})
    header.update({**_times(observation, spans), "TELAPSE": spans[-1, 1] - spans[0, 0]})
    header["TIMES"] = (events.time is not None, "events have times")
    header.update({"RA_PNT": ra, "DEC_PNT": dec, "OBS_MODE": "POINTING", "RADECSYS": "ICRS", "EQUINOX": 2000.0})
    # gammapy needs these keywords; simulated runs have no site
    header.update({key: (0.0, "not simulated") for key in ("GEOLON", "GEOLAT", "ALTITUDE")})
    header.update({"EUNIT": "TeV", "CREATOR": "gammajax", "TELESCOP": "", "OBJECT": "simulation"})
    intervals = [_fits_column(name, column, "s") for name, column in zip(("START", "STOP"), spans.T, strict=True)]
    return fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.BinTableHDU.from_columns(columns, header=header, name="EVENTS"),
            fits.BinTableHDU.from_columns(
                intervals, header=fits.Header({**GADF, "HDUCLAS1": "GTI", **TIME}), name="GTI"
            ),
        ]
    )


def _seconds(mjd):
    """Time [s] after the reference of the files."""
    return (mjd - START) * DAY


def _spans(observation, time) -> np.ndarray:
    """Good time intervals [s], or the livetime from the first of the times (MJD) on, or from the reference."""
    if observation.good_time is not None:
        return _seconds(observation.good_time)
    first = 0.0 if time is None or not time.size else _seconds(time.min())
    return np.array([[first, first + float(observation.livetime)]])


def _times(observation, spans) -> dict[str, float]:
    """Keywords of the times of a run."""
    livetime, on = float(observation.livetime), float(np.diff(spans).sum())
    return {
        "TSTART": spans[0, 0],
        "TSTOP": spans[-1, 1],
        "ONTIME": on,
        "LIVETIME": livetime,
        "DEADC": livetime / on,
    }


def _hdu_index(numbers):
    from astropy.io import fits

    rows = [(i, t) for i in numbers for t in ("events", "gti")]
    columns = [_fits_column("OBS_ID", np.array([i for i, _ in rows]))]
    texts = {
        "HDU_TYPE": [t for _, t in rows],
        "HDU_CLASS": [t for _, t in rows],
        "FILE_DIR": ["." for _ in rows],
        "FILE_NAME": [f"obs_{i}.fits.gz" for i, _ in rows],
        "HDU_NAME": [t.upper() for _, t in rows],
    }
    columns += [fits.Column(name, f"{max(map(len, t))}A", array=np.array(t)) for name, t in texts.items()]
    header = fits.Header({**GADF, "HDUCLAS1": "INDEX", "HDUCLAS2": "HDU"})
    return fits.BinTableHDU.from_columns(columns, header=header, name="HDU_INDEX")


def _obs_index(observations, numbers, spans):
    from astropy.io import fits

    ra, dec = np.transpose([_radec(o.lon, o.lat, o.frame) for o in observations])
    times = [_times(observation, part) for observation, part in zip(observations, spans, strict=True)]
    columns = [
        _fits_column("OBS_ID", np.array(numbers)),
        _fits_column("RA_PNT", ra, "deg"),
        _fits_column("DEC_PNT", dec, "deg"),
        *(_fits_column(n, np.array([one[n] for one in times]), "" if n == "DEADC" else "s") for n in times[0]),
    ]
    header = fits.Header({**GADF, "HDUCLAS1": "INDEX", "HDUCLAS2": "OBS", **TIME})
    return fits.BinTableHDU.from_columns(columns, header=header, name="OBS_INDEX")


def _fits_column(name, values, unit=""):
    from astropy.io import fits

    code = "D" if values.dtype.kind == "f" else "K"
    return fits.Column(name, code, unit=unit or None, array=values)


def _directions(lon, lat, frame, suffix):
    """RA and DEC columns; for the galactic frame also columns with the unchanged directions."""
    ra, dec = _radec(lon, lat, frame)
    columns = {"RA": ra, "DEC": dec} if frame == "icrs" else {"RA": ra, "DEC": dec, "GLON": lon, "GLAT": lat}
    return [_fits_column(f"{name}{suffix}", values, "deg") for name, values in columns.items()]


def _radec(lon, lat, frame):
    """ICRS right ascension and declination [deg] in double precision."""
    lon, lat = np.asarray(lon, float), np.asarray(lat, float)
    if frame == "icrs":
        return lon, lat
    from astropy.coordinates import SkyCoord

    sky = SkyCoord(lon, lat, unit="deg", frame=frame).icrs
    return np.asarray(sky.ra.deg), np.asarray(sky.dec.deg)


def _numbers(observations) -> list[int]:
    """OBS_ID of every observation: its own if all are distinct whole numbers, else its index in the list."""
    names = [o.obs_id for o in observations]
    if all(name.isascii() and name.isdecimal() and len(name) < 19 for name in names):
        numbers = [int(name) for name in names]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(len(names)))
