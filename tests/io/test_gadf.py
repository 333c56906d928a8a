"""Data stores: real runs against gammapy, a small synthetic store, and the round trip of simulated events."""

import io
import re
import shutil
import warnings

import equinox as eqx
import jax
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.time import Time
from gammapy.data import DataStore, Observation

from gammajax.events.event_list import Events, check_events
from gammajax.instrument.sky import separation_on_host
from gammajax.io import ctao, from_gammapy_observations, read_events, read_gadf, write_events

RANDOM = np.random.default_rng(5)


def scatter(observations, size=300):
    """Events at random within 1.4 deg of the pointings, with all truth columns."""
    index = RANDOM.integers(0, len(observations), size)
    lon = np.array([float(o.lon) for o in observations])[index] + RANDOM.uniform(-1, 1, size)
    lat = np.array([float(o.lat) for o in observations])[index] + RANDOM.uniform(-1, 1, size)
    energy = RANDOM.uniform(0.2, 10.0, size)
    shift = RANDOM.normal(0.0, 0.01, size)
    component = RANDOM.integers(0, 3, size)
    return Events(
        energy,
        lon,
        lat,
        index,
        energy_true=energy * 1.1,
        lon_true=lon + shift,
        lat_true=lat - shift,
        component=component,
    )


@pytest.fixture(scope="module")
def runs():
    arguments = {"frame": "galactic", "livetime": 1800.0}
    return [ctao(pointing=(40.0, 0.0), obs_id="11", **arguments), ctao(pointing=(40.0, 1.0), obs_id="12", **arguments)]


@pytest.fixture
def store(tmp_path, runs, write):
    """Folder of a complete store: the synthetic response and 300 events in the two runs 11 and 12."""
    write_events(tmp_path, scatter(runs), runs)
    irf = write(tmp_path / "irf.fits", "aeff", "edisp", "psf_3gauss", "bkg_altaz")
    types = {
        "aeff": ("aeff_2d", "EFFECTIVE AREA"),
        "edisp": ("edisp_2d", "ENERGY DISPERSION"),
        "psf": ("psf_3gauss", "PSF_2D_GAUSS"),
        "bkg": ("bkg_3d", "BACKGROUND"),
    }
    with fits.open(tmp_path / "hdu-index.fits.gz") as index:
        columns = index[1].columns.names
        rows = [tuple(row) for row in index[1].data]
    rows += [(i, t, c, ".", irf.name, name) for i in (11, 12) for t, (c, name) in types.items()]
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column(name, "K" if name == "OBS_ID" else "32A", array=np.array(column))
            for name, column in zip(columns, zip(*rows, strict=True), strict=True)
        ],
        header=fits.Header({"HDUCLAS1": "INDEX", "HDUCLAS2": "HDU"}),
        name="HDU_INDEX",
    )
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / "hdu-index.fits.gz", overwrite=True)
    for name in ("obs_11.fits.gz", "obs_12.fits.gz"):
        edit(tmp_path / name, "EVENTS", GEOLON=16.5, GEOLAT=-23.3, ALTITUDE=1800.0)
    return tmp_path


def edit(path, hdu, /, row=None, column=None, value=None, **keywords):
    with fits.open(path) as hdus:
        hdus[hdu].header.update(keywords)
        if column:
            hdus[hdu].data[column][row] = value
        hdus.writeto(path, overwrite=True)


def test_synthetic_store(store, runs):
    data = read_gadf(store, frame="galactic", offset_max=1.0 * u.deg, energy_range=[500, 8000] * u.GeV, labels=True)
    check_events(data.events, data.observations)
    written = read_events(store, runs)
    keep = np.zeros(len(written), bool)
    for number, run in enumerate(data.observations):
        offset = np.asarray(run.offset(written.lon, written.lat))
        keep |= (written.observation == number) & (offset <= 1.0) & (written.energy > 0.5) & (written.energy < 8.0)
    assert keep.sum() == len(data.events) > 50
    order = np.argsort(written.observation[keep], kind="stable")
    np.testing.assert_allclose(data.events.lon, written.lon[keep][order], atol=1e-9)
    np.testing.assert_array_equal(data.events.energy, written.energy[keep][order])
    np.testing.assert_array_equal(data.events.component, written.component[keep][order])
    assert [run.obs_id for run in data.observations] == ["11", "12"]
    assert data.observations[0].response is data.observations[1].response
    assert data.observations[0].fov_angle != data.observations[1].fov_angle  # aligned with the zenith
    single = read_gadf(store, 12)
    assert single.observations[0].energy_min == pytest.approx(0.1)  # of the background table
    assert single.events.component is None


def test_safe_energies_and_dead_time(store):
    before = read_gadf(store, [11]).observations[0]
    edit(store / "irf.fits", "EFFECTIVE AREA", LO_THRES=0.7, HI_THRES=5.0)
    edit(store / "obs_11.fits.gz", "EVENTS", LIVETIME=1600.0, DEADC=1600.0 / 1800.0)
    events, (run,) = read_gadf(store, [11], energy_range=(0.3, 3.0))
    assert (run.energy_min, run.energy_max, float(run.livetime)) == (0.7, 3.0, 1600.0)
    assert events.energy.min() > 0.7 and events.energy.max() < 3.0
    # background rates count per on-time
    at = np.ones(1), *(np.array([float(c)]) for c in (run.lon, run.lat))
    rates = [eqx.filter_jit(o.background)(*at) for o in (run, before)]
    np.testing.assert_allclose(*rates, rtol=1e-4)
    with pytest.raises(ValueError, match="run 11: no energies are left, its safe range is 0.7 to 5 TeV"):
        read_gadf(store, [11], energy_range=(0.1, 0.5))


def rewrite(path, hdu, start=None, stop=None, **keywords):
    """Other good time intervals [s] or keywords, None to leave one out; or no such HDU."""
    with fits.open(path) as hdus:
        table = hdus[hdu]
        if start is not None:
            columns = [
                fits.Column(n, "D", "s", array=np.array(v, float)) for n, v in (("START", start), ("STOP", stop))
            ]
            table = fits.BinTableHDU.from_columns(columns, header=table.header, name=hdu)
        for key, value in keywords.items():
            table.header.remove(key, ignore_missing=True)
            if value is not None:
                table.header[key] = value
        fits.HDUList([table if one.name == hdu else one for one in hdus]).writeto(path, overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "stop", "on_time"),
    [
        ([0.0], [900.0], 900.0),  # less than the header says
        ([0.0, 600.0], [300.0, 1200.0], 900.0),
        ([900.0, 0.0], [1800.0, 900.0], 1800.0),  # in any order
        ([0.0, 500.0], [1000.0, 1800.0], 1800.0),  # overlaps count once, where gammapy counts them twice
        ([0.0, 100.0, 100.0], [1000.0, 200.0, 200.0], 1000.0),
    ],
)
@pytest.mark.parametrize(
    "header",
    [{"DEADC": 0.9, "LIVETIME": 1620.0}, {"DEADC": None, "LIVETIME": 1620.0}, {"DEADC": "0.9", "LIVETIME": 1620.0}],
)
def test_livetime_is_that_of_the_good_time(start, stop, on_time, header, store):
    path = store / "obs_11.fits.gz"
    rewrite(path, "EVENTS", **header)
    whole = read_gadf(store, [11]).observations[0]
    rewrite(path, "GTI", start, stop)
    (run,) = read_gadf(store, [11]).observations
    assert float(run.livetime) == pytest.approx(0.9 * on_time, rel=1e-6)
    assert float(whole.livetime) == pytest.approx(1620.0, rel=1e-6)
    expected = DataStore.from_dir(store).obs(11)
    if isinstance(header["DEADC"], float):
        merged = expected.gti.union()
        fraction = 1.0 - expected.observation_dead_time_fraction
        assert float(run.livetime) == pytest.approx(merged.time_sum.to_value("s") * fraction, rel=1e-6)
    # background rates count per on-time
    at = np.ones(1), *(np.array([float(c)]) for c in (run.lon, run.lat))
    np.testing.assert_allclose(*(eqx.filter_jit(o.background)(*at) / o.livetime for o in (run, whole)), rtol=1e-5)


HEADERS = [
    # HDU, keywords, error or None, warning or None
    ("EVENTS", {"LIVETIME": "some"}, None, "LIVETIME is 'some', which is not a number; it is a time in s"),
    ("EVENTS", {"LIVETIME": "1800"}, None, None),
    ("EVENTS", {"LIVETIME": None}, None, None),
    ("EVENTS", {"LIVETIME": 0.0}, None, None),
    ("EVENTS", {"LIVETIME": 900.0}, None, "DEADC is 1 but LIVETIME / ONTIME is 0.5; DEADC is taken"),
    ("EVENTS", {"LIVETIME": "some", "DEADC": None}, "LIVETIME is 'some', which is not a number", None),
    ("EVENTS", {"LIVETIME": None, "DEADC": None}, None, "neither DEADC nor LIVETIME and ONTIME tell the dead time"),
    ("EVENTS", {"DEADC": 0.0}, "DEADC is 0; it is the fraction of time without dead time", None),
    ("EVENTS", {"DEADC": -1.0}, "DEADC is -1; it is the fraction", None),
    ("EVENTS", {"DEADC": "none"}, "DEADC is 'none', which is not a number", None),
    ("EVENTS", {"ONTIME": None}, None, None),
    ("EVENTS", {"RA_PNT": None}, r"no keyword RA_PNT; it is the right ascension of the pointing \[deg\]", None),
    ("EVENTS", {"RA_PNT": "05:34:31"}, "RA_PNT is '05:34:31', which is not a number", None),
    ("EVENTS", {"DEC_PNT": 120.0}, "DEC_PNT is 120; it is the declination", None),
    ("EVENTS", {"OBS_MODE": "DRIFT"}, "drift scans are not supported", None),
    ("EVENTS", {"OBS_MODE": None}, None, None),
    ("EVENTS", {"GEOLON": None}, "FOVALIGN = ALTAZ needs GEOLON", None),
    ("EVENTS", {"GEOLON": "west"}, "GEOLON is 'west', which is not a number", None),
    ("EVENTS", {"MJDREFI": None}, "HDU EVENTS: no keyword MJDREFI", None),
    ("EVENTS", {"MJDREFI": 50000}, None, "no event is in the good time intervals"),
    ("GTI", {"MJDREFF": None}, "HDU GTI: no keyword MJDREFF", None),
    ("GTI", {"TIMEUNIT": "fortnight"}, None, None),  # columns have units
]


@pytest.mark.slow
@pytest.mark.parametrize(("hdu", "keywords", "error", "warning"), HEADERS)
def test_headers_of_events(hdu, keywords, error, warning, store):
    """Each works as without the change, or is one line with file, HDU, keyword and what would be right."""
    right = float(read_gadf(store, [11]).observations[0].livetime)
    rewrite(store / "obs_11.fits.gz", hdu, **keywords)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if error:
            with pytest.raises(ValueError, match=f"run 11: .*{error}") as caught:
                read_gadf(store, [11])
            assert "\n" not in str(caught.value)
        else:
            assert float(read_gadf(store, [11]).observations[0].livetime) == pytest.approx(right)
    assert [w for w in said if warning and re.search(warning, str(w.message))] or not warning
    assert warning or not said, said


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({}, (0.1, 20.0)),
        ({"LO_THRES": 0.5, "HI_THRES": 5.0}, (0.5, 5.0)),
        ({"LO_THRES": 0, "HI_THRES": 0}, (0.1, 20.0)),
        ({"LO_THRES": -1.0, "HI_THRES": -1.0}, (0.1, 20.0)),
        ({"LO_THRES": "0.5"}, (0.5, 20.0)),
        ({"LO_THRES": "low"}, "HDU EFFECTIVE AREA: LO_THRES is 'low', which is not a number; it is an energy in TeV"),
        ({"HI_THRES": True}, "HI_THRES is True, which is not a number"),
        ({"LO_THRES": 6.0, "HI_THRES": 5.0}, "no energies are left, its safe range is 6 to 5 TeV"),
    ],
)
def test_safe_energies(keywords, expected, store):
    rewrite(store / "irf.fits", "EFFECTIVE AREA", **keywords)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            read_gadf(store, [11])
    else:
        run = read_gadf(store, [11]).observations[0]
        assert (run.energy_min, run.energy_max) == pytest.approx(expected)


def index(store, change):
    with fits.open(store / "hdu-index.fits.gz") as hdus:
        rows = [dict(zip(hdus[1].columns.names, row, strict=True)) for row in hdus[1].data]
    rows = change(rows)
    columns = [
        fits.Column(name, "K" if name == "OBS_ID" else "32A", array=np.array([row[name] for row in rows]))
        for name in rows[0]
    ]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, name="HDU_INDEX")]).writeto(
        store / "hdu-index.fits.gz", overwrite=True
    )


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("psf", {"HDU_CLASS": "psf_king"}, None),  # the file knows its class
        ("psf", {"HDU_CLASS": ""}, None),
        ("psf", {"HDU_NAME": "PSF"}, r"irf\.fits: no HDU PSF; the file has EFFECTIVE AREA, ENERGY DISPERSION"),
        ("events", {"HDU_NAME": "EVT"}, "run 11: obs_11.fits.gz: no HDU EVT; the file has EVENTS, GTI"),
        ("gti", {"FILE_NAME": "none.fits"}, "run 11: none.fits: no such file"),
        ("gti", {"HDU_TYPE": "time"}, "run 11: .*gti"),
        ("bkg", {"HDU_TYPE": "background"}, None),  # optional
    ],
)
def test_indices(kind, changes, message, store):
    def change(rows):
        return [{**row, **changes} if row["HDU_TYPE"] == kind else row for row in rows]

    index(store, change)
    if message:
        with pytest.raises(ValueError, match=message):
            read_gadf(store, [11])
    else:
        assert len(read_gadf(store, [11]).events) > 50


def test_an_index_with_two_hdus_of_a_kind(store):
    index(store, lambda rows: rows + [dict(row) for row in rows if row["HDU_TYPE"] == "psf"])
    with pytest.warns(UserWarning, match="run 11: the index lists 2 HDUs of type psf; the first is read"):
        read_gadf(store, [11])
    index(store, lambda rows: [{k: v for k, v in row.items() if k != "FILE_DIR"} for row in rows])
    with pytest.raises(ValueError, match="the index files cannot be read"):
        read_gadf(store, [11])


@pytest.fixture
def typed(store, write, request):
    """The store with the events of both runs in two types: HDUs with names of their own, or a file for each."""
    own_files = request.param
    for number in (11, 12):
        with fits.open(store / f"obs_{number}.fits.gz") as hdus:
            lists = {kind: hdus["EVENTS"].copy() for kind in ("HARD", "LOOSE")}
            for kind, hdu in lists.items():
                hdu.data = hdu.data[(hdu.data["ENERGY"] > 3.0) == (kind == "HARD")]
                hdu.name = "EVENTS" if own_files else f"EVENTS_{kind}"
            groups = {kind.lower(): [hdu] for kind, hdu in lists.items()} if own_files else {"both": lists.values()}
            for group, events in groups.items():
                fits.HDUList([fits.PrimaryHDU(), *events]).writeto(store / f"{group}_{number}.fits.gz")
    write(store / "loose.fits", "psf_king")
    write(store / "hard.fits", "psf_3gauss")

    def change(rows):
        found = []
        for row in rows:
            if row["HDU_TYPE"] not in ("events", "psf"):
                found.append(row)
                continue
            for kind in ("hard", "loose"):
                own = row["FILE_NAME"].replace("obs", kind if own_files else "both")
                name = "EVENTS" if own_files else f"EVENTS_{kind.upper()}"
                if row["HDU_TYPE"] == "psf":
                    own, name = f"{kind}.fits", "POINT SPREAD FUNCTION"
                    if own_files:
                        own = f"{kind}_{row['OBS_ID']}.fits.gz"
                found.append({**row, "FILE_NAME": own, "HDU_NAME": name})
        return found

    if own_files:
        for number in (11, 12):
            for kind in ("hard", "loose"):
                with fits.open(store / f"{kind}_{number}.fits.gz") as hdus, fits.open(store / f"{kind}.fits") as irf:
                    irf[1].name = "POINT SPREAD FUNCTION"
                    fits.HDUList([*hdus, irf[1]]).writeto(store / f"{kind}_{number}.fits.gz", overwrite=True)
    else:
        for kind in ("hard", "loose"):
            with fits.open(store / f"{kind}.fits") as irf:
                irf[1].name = f"PSF_{kind.upper()}"
                irf.writeto(store / f"{kind}.fits", overwrite=True)
    index(store, change)
    if not own_files:
        index(
            store,
            lambda rows: [
                {**row, "HDU_NAME": f"PSF_{row['FILE_NAME'][:-5].upper()}"} if row["HDU_TYPE"] == "psf" else row
                for row in rows
            ],
        )
    return store


@pytest.mark.parametrize("typed", [False, True], ids=["names", "files"], indirect=True)
def test_event_types_of_a_run_are_observations(typed, runs):
    """Both ways of the index: events, point spread function, and everything else shared."""
    written = read_events_of(typed, runs)
    data = read_gadf(typed, frame="galactic", energy_range=(0.2, 8.0), offset_max=1.0)
    assert [run.obs_id for run in data.observations] == ["11/hard", "11/loose", "12/hard", "12/loose"]
    assert [type(run.response.psf).__name__ for run in data.observations[:2]] == ["GaussPSF", "KingPSF"]
    assert {float(run.livetime) for run in data.observations} == {1800.0}
    assert len(data.events) == np.sum(written)
    hard = data.events.observation % 2 == 0
    assert data.events.energy[hard].min() > 3.0 >= data.events.energy[~hard].max()
    only = read_gadf(typed, [12], event_types="loose", frame="galactic", energy_range=(0.2, 8.0), offset_max=1.0)
    assert [run.obs_id for run in only.observations] == ["12/loose"]
    np.testing.assert_array_equal(only.events.energy, data.events.energy[data.events.observation == 3])
    with pytest.raises(ValueError, match="no events of type soft; they are hard, loose"):
        read_gadf(typed, event_types=["soft"])


def read_events_of(store, runs):
    """Which of the written events lie in the selection."""
    events = read_events(store, runs)
    lon, lat = (np.array([float(getattr(run, name)) for run in runs])[events.observation] for name in ("lon", "lat"))
    inside = separation_on_host(events.lon, events.lat, lon, lat) <= 1.0
    return inside & (events.energy > 0.2) & (events.energy < 8.0)


def test_event_types_in_folders_of_their_own(store, tmp_path_factory, runs):
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(store, other, dirs_exist_ok=True)
    same = {"a": store, "b": other}
    with pytest.raises(ValueError, match="some events are also of another type|is given twice"):
        read_gadf(same)
    with fits.open(other / "obs_11.fits.gz") as hdus:
        hdus["EVENTS"].data["ENERGY"] *= 1.01
        hdus.writeto(other / "obs_11.fits.gz", overwrite=True)
    data = read_gadf(same, [11])
    assert [run.obs_id for run in data.observations] == ["11/a", "11/b"]
    with pytest.raises(ValueError, match="no events of type c; they are a, b"):
        read_gadf(same, [11], event_types=["a", "c"])
    with pytest.raises(ValueError, match="its runs are of one type"):
        read_gadf(store, [11], event_types=["a"])
    with pytest.raises(ValueError, match="path is a dict without folders"):
        read_gadf({})
    # some events of both types
    with fits.open(other / "obs_11.fits.gz") as hdus, fits.open(store / "obs_11.fits.gz") as first:
        hdus["EVENTS"].data["ENERGY"][0] = first["EVENTS"].data["ENERGY"][0]
        hdus.writeto(other / "obs_11.fits.gz", overwrite=True)
    with pytest.raises(ValueError, match="some events are also of another type; choose one of them by event_types"):
        read_gadf(same, [11])


def test_a_run_given_twice_is_an_error(store):
    with pytest.raises(ValueError, match="run 11 is given twice"):
        read_gadf(store, [11, 12, 11])
    # under another number
    index(store, lambda rows: rows + [{**row, "OBS_ID": 13} for row in rows if row["OBS_ID"] == 11])
    with pytest.raises(ValueError, match="run 13 is given twice: it has the events of .*run 11"):
        read_gadf(store)
    run = DataStore.from_dir(store).obs(11)
    with pytest.raises(ValueError, match="observation 11 is given twice"):
        from_gammapy_observations([run, run])
    # parts of a run, with and without an overlap
    start = run.gti.time_start[0]
    early, late, most = (
        run.select_time(Time([start + a * u.s, start + b * u.s])) for a, b in ((-1, 900), (900, 1800), (-1, 1800))
    )
    assert len(from_gammapy_observations([early, late]).observations) == 2
    with pytest.raises(ValueError, match="given twice: it has the events of another of the same name, 11|given twice"):
        from_gammapy_observations([early, most])


def test_events_outside_good_time_are_dropped(store):
    everything = read_gadf(store, [11]).events
    for row in range(3):
        edit(store / "obs_11.fits.gz", "EVENTS", row, "TIME", 2000.0)
    assert 0 < len(everything) - len(read_gadf(store, [11]).events) <= 3


def test_exclusion_cuts_events_and_observation_alike(store):
    region = "galactic\ncircle(40,0.5,0.6)\n"
    events, observations = read_gadf(store, frame="galactic", exclusion=region)
    whole = read_gadf(store, frame="galactic").events
    assert 0 < len(events) < len(whole)
    for number, run in enumerate(observations):
        mine = events[events.observation == number]
        assert np.all(eqx.filter_jit(run.selected)(mine.lon, mine.lat))
    distance = np.hypot(events.lon - 40.0, events.lat - 0.5)
    assert distance.min() > 0.6 - 0.02
    assert read_gadf(store, exclusion=[]).observations[0].exclusion is None


def break_index(store):
    (store / "hdu-index.fits.gz").write_bytes(b"nothing")


def break_card(key, value):
    """Damage that astropy does not meet with errors of its own kinds alone."""

    def damage(store):
        path = store / "hdu-index.fits.gz"
        with fits.open(path) as hdus:
            made = io.BytesIO()
            hdus.writeto(made)
        data = made.getvalue()
        place = data.index(f"{key:8s}= ".encode())
        path.write_bytes(data[:place] + f"{key:8s}= {value}".ljust(80).encode("latin-1") + data[place + 80 :])

    return damage


def remove_psf(store):
    with fits.open(store / "hdu-index.fits.gz") as hdus:
        hdus[1].data = hdus[1].data[hdus[1].data["HDU_TYPE"] != "psf"]
        hdus.writeto(store / "hdu-index.fits.gz", overwrite=True)


@pytest.mark.parametrize(
    ("damage", "arguments", "error", "message"),
    [
        (None, {"obs_ids": [11, 99]}, ValueError, r"no observations \[99\]; available: 11, 12"),
        (None, {"obs_ids": []}, ValueError, "available: 11, 12"),
        (break_index, {}, ValueError, "the index files cannot be read"),
        (break_card("TFORM1", "'\x01"), {}, ValueError, "the index files cannot be read"),
        (break_card("TFORM1", "''"), {}, ValueError, "the index files cannot be read"),
        (break_card("TTYPE2", "-1"), {}, ValueError, "the index files cannot be read"),
        (remove_psf, {}, ValueError, "run 11: .*psf"),
        (lambda s: (s / "hdu-index.fits.gz").unlink(), {}, FileNotFoundError, "no hdu-index.fits.gz in the folder"),
        (lambda s: (s / "irf.fits").write_bytes(b"x"), {}, ValueError, r"irf\.fits: not a readable FITS file"),
        (lambda s: (s / "obs_12.fits.gz").unlink(), {}, ValueError, "run 12: .*obs_12.fits.gz"),
        (
            lambda s: edit(s / "obs_12.fits.gz", "EVENTS", 3, "ENERGY", np.nan),
            {},
            ValueError,
            "run 12, row 3 of EVENTS: ENERGY is not finite",
        ),
        (
            lambda s: edit(s / "obs_11.fits.gz", "EVENTS", 2, "ENERGY", -1.0),
            {},
            ValueError,
            "run 11, row 2 of EVENTS: ENERGY is not positive",
        ),
        (
            lambda s: edit(s / "obs_11.fits.gz", "EVENTS", 5, "RA", np.nan),
            {},
            ValueError,
            "run 11, row 5 of EVENTS: RA is not finite",
        ),
    ],
)
def test_bad_stores(damage, arguments, error, message, store):
    if damage:
        damage(store)
    with pytest.raises(error, match=message):
        read_gadf(store, **arguments)


def test_a_selection_without_events_is_said(store):
    with pytest.warns(UserWarning, match=r"no event is left within 2 deg .*11: 19 to 19\.5 TeV"):
        events, observations = read_gadf(store, energy_range=(19.0, 19.5))
    assert len(events) == 0 and len(observations) == 2


def test_missing_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SOMEWHERE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path}/none: no such folder")):
        read_gadf("$SOMEWHERE/none")
    monkeypatch.delenv("SOMEWHERE")
    with pytest.raises(FileNotFoundError, match="the environment variable SOMEWHERE is not set"):
        read_gadf("$SOMEWHERE/none")


def test_a_site_is_needed_for_zenith_alignment_only(store):
    with fits.open(store / "obs_11.fits.gz") as hdus:
        del hdus["EVENTS"].header["GEOLON"]
        hdus.writeto(store / "obs_11.fits.gz", overwrite=True)
    with pytest.raises(ValueError, match="run 11: .*FOVALIGN = ALTAZ.*GEOLON"):
        read_gadf(store, [11])
    edit(store / "irf.fits", "BACKGROUND", FOVALIGN="RADEC")
    assert read_gadf(store, [11]).observations[0].fov_angle == 0.0


@pytest.mark.parametrize("frame", ["icrs", "galactic"])
def test_round_trip_is_exact(frame, tmp_path):
    # equal obs_id: numbered by their place
    runs = [ctao(pointing=(40.0, lat), frame=frame) for lat in (0.0, 1.0, 2.0)]
    events = scatter(runs)
    write_events(tmp_path / "new" / "folder", events, runs)
    back = read_events(tmp_path / "new" / "folder", runs)
    for name in vars(events):
        np.testing.assert_array_equal(getattr(back, name), getattr(events, name), err_msg=name)
    plain = Events(events.energy, events.lon, events.lat, events.observation)
    with pytest.raises(FileExistsError, match="obs_0.fits.gz exists; pass overwrite=True"):
        write_events(tmp_path / "new" / "folder", plain, runs)
    write_events(tmp_path / "new" / "folder", plain, runs, overwrite=True)
    back = read_events(tmp_path / "new" / "folder", runs)
    assert back.component is None and back.lon_true is None
    assert sorted(p.name[:3] for p in (tmp_path / "new" / "folder").iterdir()) == ["hdu", "obs", "obs", "obs", "obs"]


@pytest.mark.parametrize("known", [True, False])
def test_times_and_phases_are_kept(known, tmp_path):
    night = 59000.9
    spans = [[[night, night + 0.01], [night + 0.02, night + 0.03]], [[night + 2.0, night + 2.02]]]
    runs = [
        ctao(pointing=(40.0, 0.0), livetime=1500.0, obs_id=str(number), good_time=spans[number] if known else None)
        for number in range(2)
    ]
    events = scatter(runs)
    generator = np.random.default_rng(0)
    time = np.array([span[0][0] for span in spans])[events.observation] + generator.uniform(0.0, 0.01, len(events))
    phase = generator.uniform(size=len(events))
    events = Events(events.energy, events.lon, events.lat, events.observation, time=time, phase=phase)
    write_events(tmp_path, events, runs)
    back = read_events(tmp_path, runs)
    np.testing.assert_allclose(back.time, time, rtol=0.0, atol=1e-6 / 86400.0)
    np.testing.assert_array_equal(back.phase, phase)
    run = DataStore.from_dir(tmp_path).obs(0, required_irf=[])
    np.testing.assert_allclose(run.events.time.tt.mjd, time[events.observation == 0], rtol=0.0, atol=1e-10)
    assert run.observation_live_time_duration.to_value("s") == pytest.approx(1500.0)
    if known:
        np.testing.assert_allclose(run.gti.time_start.tt.mjd, np.array(spans[0])[:, 0], atol=1e-9)
        np.testing.assert_allclose(run.gti.time_stop.tt.mjd, np.array(spans[0])[:, 1], atol=1e-9)
    assert np.all((run.events.time >= run.gti.time_start[0]) & (run.events.time <= run.gti.time_stop[-1]))


def test_gammapy_reads_what_we_write(tmp_path, runs):
    events = scatter(runs)
    write_events(tmp_path, events, runs)
    store = DataStore.from_dir(tmp_path)
    assert list(store.obs_ids) == [11, 12]
    run = store.obs(12, required_irf=[])
    mine = events[events.observation == 1]
    np.testing.assert_allclose(run.events.galactic.l.deg, mine.lon, atol=1e-9)
    np.testing.assert_array_equal(run.events.energy.to_value("TeV"), mine.energy)
    assert run.observation_live_time_duration.to_value("s") == pytest.approx(1800.0)
    assert run.pointing.fixed_icrs.galactic.b.deg == pytest.approx(1.0, abs=1e-6)


def test_reading_the_wrong_file(tmp_path, runs):
    with pytest.raises(FileNotFoundError, match="obs_11.fits.gz: no such file"):
        read_events(tmp_path, runs)
    write_events(tmp_path, scatter(runs), runs)
    moved = [ctao(pointing=(41.0, 0.0), frame="galactic", obs_id="11"), runs[1]]
    with pytest.raises(ValueError, match="the pointing is not that of observation 11"):
        read_events(tmp_path, moved)
    (tmp_path / "obs_11.fits.gz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"obs_11\.fits\.gz: not a readable FITS file"):
        read_events(tmp_path, runs)
    with pytest.raises(ValueError, match="events belong to 2 observations, 1 are given"):
        write_events(tmp_path, scatter(runs), runs[:1])
    for name in ("events.fits", "events.fits.gz", "events.fit"):
        with pytest.raises(ValueError, match="give the name of a folder"):
            write_events(tmp_path / name, scatter(runs), runs)
        assert not (tmp_path / name).exists()


def test_hess(gammapy_data):
    data = read_gadf(gammapy_data / "hess-dl3-dr1", [23523], offset_max=1.5)
    check_events(data.events, data.observations)
    run, expected = data.observations[0], DataStore.from_dir(gammapy_data / "hess-dl3-dr1").obs(23523)
    assert (run.energy_min, run.energy_max) == pytest.approx((0.870963589956081, 100.0))
    # one event of the run comes 6 ms after its good time
    selected = expected.events.select_energy([run.energy_min, 100.0] * u.TeV).select_time(
        expected.gti.time_intervals[0]
    )
    np.testing.assert_allclose(data.events.energy, selected.table["ENERGY"][selected.offset.deg <= 1.5])
    # background: rate per on-time, mirrored longitude
    sky = expected.pointing.fixed_icrs.directional_offset_by(np.arange(0, 360, 45) * u.deg, 1.2 * u.deg)
    fov = sky.transform_to(expected.get_fov_frame(expected.tmid, expected.bkg.fov_alignment))
    rate = expected.bkg.evaluate(energy=2 * u.TeV, fov_lon=-fov.fov_lon, fov_lat=fov.fov_lat)
    counts = (rate * expected.gti.time_sum).to_value("TeV-1 sr-1")
    np.testing.assert_allclose(
        eqx.filter_jit(run.background)(np.full(8, 2.0), sky.ra.deg, sky.dec.deg), counts, rtol=1e-3
    )
    # tabulated point spread function: near gammapy's, which is normalised less exactly
    at = {"energy_true": 2 * u.TeV, "offset": 0.7 * u.deg}
    rad = np.array([0.0, 0.03, 0.1, 0.2])
    value = eqx.filter_jit(run.response.psf.density)(np.full(4, 2.0), np.full(4, 0.7), rad)
    np.testing.assert_allclose(value, expected.psf.evaluate(rad=rad * u.deg, **at).to_value("sr-1"), rtol=0.02)


def test_livetimes_of_real_runs(gammapy_data):
    ids = [20275, 21613, 23523, 23526, 26077, 29683]
    store = DataStore.from_dir(gammapy_data / "hess-dl3-dr1")
    for run in read_gadf(gammapy_data / "hess-dl3-dr1", ids).observations:
        expected = store.obs(int(run.obs_id)).observation_live_time_duration
        assert float(run.livetime) == pytest.approx(expected.to_value("s"), rel=1e-6)


def test_first_data_challenge(gammapy_data, monkeypatch):
    monkeypatch.setenv("CALDB", str(gammapy_data / "cta-1dc/caldb"))
    monkeypatch.setenv("GAMMAPY_DATA", str(gammapy_data))
    with pytest.warns(UserWarning, match="not to 1; it was normalised") as record:
        data = read_gadf(gammapy_data / "cta-1dc/index/gps", frame="galactic", energy_range=(0.2, 50.0), labels=True)
    assert len(record) == 2  # energy dispersion and point spread function, once for the three runs
    assert all("irf_file.fits" in str(warning.message) for warning in record)
    check_events(data.events, data.observations)
    assert len({id(run.response) for run in data.observations}) == 1
    assert (data.events.component == 1).mean() > 0.5  # the background's label


def assert_same(first, second):
    """Bitwise."""
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, second)))


def test_observations_in_memory(store):
    options = {"frame": "galactic", "energy_range": (0.5, 8.0), "offset_max": 1.0 * u.deg, "labels": True}
    options["exclusion"] = "galactic\ncircle(40,0.5,0.3)\n"
    observations = DataStore.from_dir(store).get_observations([11, 12])
    data = from_gammapy_observations(observations, **options)
    assert_same(data, read_gadf(store, **options))
    assert data.observations[0].response is data.observations[1].response
    # the same objects without a file behind them
    loaded = [o.copy(in_memory=True) for o in observations]
    assert_same(from_gammapy_observations(loaded, **options), data)
    # half the time, half the livetime and its events
    start = observations[0].gti.time_start[0]
    edit(store / "obs_11.fits.gz", "EVENTS", LIVETIME=1600.0, DEADC=1600.0 / 1800.0)
    events, whole = from_gammapy_observations(DataStore.from_dir(store).obs(11), **options)
    assert float(whole[0].livetime) == 1600.0
    half = DataStore.from_dir(store).obs(11).select_time(Time([start, start + 900 * u.s]))
    events_half, (run,) = from_gammapy_observations(half, **options)
    assert float(run.livetime) == pytest.approx(800.0)
    assert len(events_half) == len(events)
    at = np.ones(1), *(np.array([float(c)]) for c in (run.lon, run.lat))
    rate = [np.asarray(eqx.filter_jit(o.background)(*at)) for o in (run, whole[0])]
    np.testing.assert_allclose(2.0 * rate[0], rate[1], rtol=1e-5)


def test_observations_that_cannot_be_used(store):
    run = DataStore.from_dir(store).obs(11)
    empty = Observation.create(run.pointing, livetime=10 * u.s, irfs={"aeff": run.aeff})
    for wrong, message in [
        ([], "the list of observations is empty"),
        (empty, "observation 0 has no events"),
        (Observation(7, events=run.events, gti=run.gti, aeff=run.aeff, edisp=run.edisp), "observation 7: no point"),
    ]:
        with pytest.raises(ValueError, match=message):
            from_gammapy_observations(wrong)
    filtered = run.copy(in_memory=True)
    filtered.obs_filter.event_filters.append({"type": "custom", "opts": {"parameter": "ENERGY", "band": (1, 2)}})
    with pytest.raises(ValueError, match="observation 11 filters its events; select by energy_range"):
        from_gammapy_observations(filtered)


def test_hess_in_memory(gammapy_data):
    observations = DataStore.from_dir(gammapy_data / "hess-dl3-dr1").get_observations([23523, 23526])
    read = read_gadf(gammapy_data / "hess-dl3-dr1", [23523, 23526], offset_max=1.5)
    assert_same(from_gammapy_observations(observations, offset_max=1.5), read)


def test_runs_of_ids_that_differ_in_zeros_and_of_others(tmp_path):
    pair = [ctao(pointing=(40.0, lat), frame="galactic", obs_id=name) for lat, name in ((0.0, "07"), (0.3, "7"))]
    events = scatter(pair)
    write_events(tmp_path / "zeros", events, pair)
    np.testing.assert_array_equal(read_events(tmp_path / "zeros", pair).energy, events.energy)
    named = [ctao(pointing=(40.0, 0.0), frame="galactic", obs_id=name) for name in ("a", "b")]
    write_events(tmp_path / "named", scatter(named), named)
    with pytest.raises(ValueError, match="the events are of observation a, not b"):
        read_events(tmp_path / "named", named[1:])


def test_time_references_that_differ(store):
    rewrite(store / "obs_11.fits.gz", "GTI", start=[300.0], stop=[1800.0], MJDREFF=0.5 - 1.0 / 864.0)
    with pytest.warns(
        UserWarning, match="of .* events are outside the good time intervals; EVENTS and GTI differ|no event is"
    ):
        read_gadf(store, [11])
    with pytest.raises(ValueError, match="obs_ids must be whole numbers"):
        read_gadf(store, [11.5])
    assert len(read_gadf(store, {12}).observations) == 1
