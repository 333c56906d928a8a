"""ON and OFF events of DL3 files, point-like or full-enclosure, in regions of gammapy and `regions`."""

# astropy, gammapy and regions carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false, reportCallIssue=false

from typing import Any, NamedTuple

import numpy as np

from gammajax.events.on_off_run import OnOffRun
from gammajax.instrument.observation import Observation
from gammajax.instrument.region_response import RegionResponse
from gammajax.instrument.response import Background, EnergyDispersion
from gammajax.instrument.sky import DEGREE, SQUARE_DEGREE, Grid, separation_on_host
from gammajax.instrument.table import Table
from gammajax.io.exclusion import exclusion_map
from gammajax.io.gadf import (
    Given,
    Instrument,
    Run,
    check_once,
    good_events,
    load_run,
    location_of,
    observation_of,
    part_of,
    read_instrument,
    runs_in_memory,
    runs_of_store,
    safe_range,
)
from gammajax.io.hdu import optional_number
from gammajax.io.irf import functions_from_gammapy
from gammajax.io.pointing import direction, plain, plain_pair

TOUCHING = 0.01  # deg, pixels in which gammapy places its regions
STEP = 1e-9  # relative width of a step of RAD_MAX_2D
SLACK = 0.1  # deg by which an ON region may lie off the offsets of its response
MASK_STEP, RING_STEP = 0.02, 0.02  # deg, of masks for gammapy, and at most of pixels of rings
PER_DECADE = 6  # energies of the acceptance ratio of rings


class Cut(NamedTuple):
    """Response of a run at an offset, its cut on direction, and its energies [TeV]."""

    effective_area: Table
    energy_dispersion: EnergyDispersion
    psf: Any
    rad_max: Any  # gammapy's table, a number [deg], or None for full enclosure
    energy_range: tuple[float, float]
    instrument: Instrument | None  # of full enclosure


class Stream(NamedTuple):
    """Which events are ON and OFF, and the acceptance ratio at the nodes of the radius."""

    on: np.ndarray
    off: np.ndarray
    nodes: np.ndarray
    radius: np.ndarray
    ratio: np.ndarray
    part: float


def read_on_off(
    path,
    obs_ids=None,
    *,
    event_types=None,
    target,
    radius=None,
    off="reflected",
    phase=None,
    energy_range=None,
    exclusion=None,
    frame: str = "icrs",
    warn: bool = True,
) -> list[OnOffRun]:
    """ON and OFF events of the runs of a DL3 folder with `hdu-index.fits.gz`, with their responses.

    - `path`, `obs_ids`, `event_types`, `energy_range`, `frame`, `warn`: as in [`read_gadf`][]. By default energies are
      those of the effective area. `exclusion`, see [`exclusion_map`][], keeps OFF regions away from other sources.
    - `target`: centre of the circular ON region, (lon, lat) [deg] in `frame`, a `SkyCoord`, or a `CircleSkyRegion`.
    - `radius` [deg] of the ON region. Point-like responses have their own cut, `RAD_MAX_2D` or the keyword RAD_MAX.
    - `off`: where the OFF events are:

        - "reflected": gammapy's `ReflectedRegionsFinder`, or "wobble": the one region opposite to the target; or any
          finder of gammapy with its settings, such as `WobbleRegionsFinder(n_off_regions=3)`;
        - a list of centres, each as `target`, of regions as large as the ON region;
        - a `CircleAnnulusSkyRegion` of the `regions` package, about any centre: a ring.

      Regions of a finder have the acceptance of the ON region. Rings and lists of centres have that of the background
      table by energy, if there is one, and otherwise that of their solid angles.
    - `phase`: instead of OFF regions, ON and OFF intervals of the column PHASE, as ((0.9, 1.1), (0.4, 0.6)). Fluxes are
      means over all phases.

    Returns a list of [`gammajax.OnOffRun`][]. Livetimes and good time intervals are those of [`read_gadf`][].
    Raises `FileNotFoundError` for a missing folder, and `ValueError` as [`read_gadf`][] does, for a point-like response
    without a radius, full enclosure without `radius`, OFF regions that overlap the ON region or each other or are none,
    and an ON region at an offset that the response does not cover.

    With the public data of H.E.S.S. (doi:10.5281/zenodo.1421098):

    >>> import gammajax as gj, os
    >>> folder = os.path.expandvars("$GAMMAPY_DATA/hess-dl3-dr1")
    >>> where = {"target": (83.63, 22.01), "radius": 0.11, "energy_range": (1.0, 30.0)}
    >>> runs = gj.io.read_on_off(folder, [23523], **where) if os.path.isdir(folder) else []
    >>> all(len(run.on) > 0 for run in runs)
    True
    """
    origin, runs = runs_of_store(path, obs_ids, ["aeff", "edisp"], event_types)
    return _on_off(runs, origin, target, radius, off, phase, energy_range, exclusion, frame, warn)


def on_off_from_gammapy(
    observations,
    *,
    target,
    radius=None,
    off="reflected",
    phase=None,
    energy_range=None,
    exclusion=None,
    frame: str = "icrs",
    warn: bool = True,
) -> list[OnOffRun]:
    """ON and OFF events of gammapy `Observations` in memory (or of one, or a list).

    The other arguments (`target`, `radius`, `off`, `phase`, `energy_range`, `exclusion`, `frame`, `warn`) and the
    errors raised are those of [`gammajax.io.read_on_off`][]. Returns a list of [`gammajax.OnOffRun`][]. `observations`
    are gammapy's.

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
    >>> runs = gj.io.on_off_from_gammapy(
    ...     observation, target=(83.6, 22.5), radius=0.1, off=[(83.6, 21.5)], energy_range=(0.1, 10.0), warn=False
    ... )
    >>> len(runs), round(float(runs[0].ratio[0]), 1)
    (1, 1.0)
    """
    runs = runs_in_memory(observations)
    return _on_off(runs, "the observations", target, radius, off, phase, energy_range, exclusion, frame, warn)


def _on_off(runs, origin, target, radius, off, phase, energy_range, exclusion, frame, warn) -> list[OnOffRun]:
    if frame not in ("icrs", "galactic"):
        raise ValueError(f"frame must be 'icrs' or 'galactic', not {frame!r}")
    if radius is None and hasattr(target, "radius"):
        radius = target.radius
    radius = None if radius is None else float(plain(radius, "deg"))
    if radius is not None and not 0.0 < radius < 90.0:
        raise ValueError(f"the radius of the ON region must be positive [deg], not {radius}")
    centre = direction(getattr(target, "center", target), frame)
    energy_range = None if energy_range is None else plain_pair(energy_range, "TeV")
    phase = None if phase is None else _phases(phase)
    found, cache, reduced, given = [], {}, {}, Given({}, {})
    for name, run in runs:
        loaded = load_run(run, name)
        check_once(given, loaded)
        pointing = loaded.pointing.transform_to(frame).spherical
        pointing = float(pointing.lon.deg), float(pointing.lat.deg)
        offset = _apart(centre, pointing)
        place = _place(loaded)
        if place not in cache:
            cache[place] = _read_cut(loaded, warn)
        cut = cache[place]
        low, high = _energies(cut, energy_range, name)
        nodes, radii = _radii(cut, radius, offset, low, high, name)
        within = _offset_within(cut.effective_area, offset, name)
        about = name, centre, pointing, frame, exclusion
        energy, lon, lat, good = good_events(loaded, frame)
        good &= (energy > low) & (energy < high)
        stream = _select(loaded, cut, off, phase, about, nodes, radii, energy, lon, lat, (low, high))
        key = place, round(within, 4), float(radii[0])
        if key not in reduced:
            parts = cut.effective_area, cut.energy_dispersion, cut.psf
            reduced[key] = RegionResponse.at(*parts, round(within, 4), float(radii[0]))
        found.append(
            OnOffRun(
                energy[good & stream.on],
                # an event in several OFF regions would be a mistake of theirs: they do not overlap
                energy[good & stream.off],
                stream.ratio,
                loaded.livetime,
                reduced[key],
                radius=stream.radius,
                nodes=stream.nodes,
                energy_min=low,
                energy_max=high,
                part=stream.part,
                lon=centre[0],
                lat=centre[1],
                frame=frame,
                obs_id=str(run.obs_id),
            )
        )
    if not any(run.off.size for run in found) and any(run.on.size for run in found):
        raise ValueError(f"{origin}: there are ON events without OFF events; give more OFF regions, or more energies")
    return found


def _apart(one, other) -> float:
    """Separation of two directions [deg]."""
    return float(separation_on_host(np.array([one[0]]), one[1], *other)[0])


def _phases(phase):
    """Pairs of limits of ON and OFF phases; raises `ValueError` for empty or overlapping ones."""
    try:
        (on_low, on_high), (off_low, off_high) = ((float(low), float(high)) for low, high in phase)
    except (TypeError, ValueError):
        raise ValueError(f"phase must be ON and OFF intervals, as ((0.9, 1.1), (0.4, 0.6)), not {phase!r}") from None
    for low, high in ((on_low, on_high), (off_low, off_high)):
        if not low < high <= low + 1.0:
            raise ValueError(f"an interval of phase must increase, by at most one, not from {low:g} to {high:g}")
    starts = (off_low - on_low) % 1.0, (on_low - off_low) % 1.0
    if starts[0] < on_high - on_low - 1e-9 or starts[1] < off_high - off_low - 1e-9:
        raise ValueError(f"the ON phases {on_low:g} to {on_high:g} overlap the OFF phases {off_low:g} to {off_high:g}")
    return (on_low, on_high), (off_low, off_high)


def _place(run: Run):
    """Files of the response functions, or the objects: runs with the same ones share one response."""

    def of(kind):
        at = location_of(run.observation, kind)
        return id(part_of(run.observation, kind, run.name)) if at is None else (str(at.path()), at.hdu_name)

    return tuple(of(kind) for kind in ("aeff", "edisp", "psf", "bkg", "rad_max"))


def _read_cut(run: Run, warn) -> Cut:
    observation = run.observation
    aeff, edisp, rad_max = (part_of(observation, kind, run.name) for kind in ("aeff", "edisp", "rad_max"))
    for function, kind in ((aeff, "effective area (AEFF_2D)"), (edisp, "energy dispersion (EDISP_2D)")):
        if function is None:
            raise ValueError(f"{run.name}: no {kind}")
    at = location_of(observation, "aeff")
    where = run.name if at is None else f"{at.path()}, HDU {at.hdu_name}"
    edges = aeff.axes["energy_true"].edges.to_value("TeV")
    safe = safe_range(aeff.meta, where)
    energies = max(float(edges[0]), safe[0]), min(float(edges[-1]), safe[1])
    if not (aeff.is_pointlike or edisp.is_pointlike):
        instrument = read_instrument(run, warn)
        response = instrument.response
        parts = response.effective_area, response.energy_dispersion, response.psf
        return Cut(*parts, None, energies, instrument)
    if rad_max is None:
        right = "it is the radius of the cut on direction [deg]"
        numbers = [optional_number(function.meta, "RAD_MAX", where, right) for function in (aeff, edisp)]
        rad_max = next((number for number in numbers if number is not None), None)
        if rad_max is None or not 0.0 < rad_max < 90.0:
            has = "no radius of the cut on direction" if rad_max is None else f"RAD_MAX = {rad_max:g}"
            raise ValueError(
                f"{where}: point-like response with {has}; it needs an HDU RAD_MAX_2D, or a keyword RAD_MAX [deg]"
            )
    area, dispersion, _, _ = functions_from_gammapy(aeff, edisp, None, None, where, warn)
    return Cut(area, dispersion, None, rad_max, energies, None)


def _energies(cut: Cut, energy_range, name) -> tuple[float, float]:
    low, high = cut.energy_range
    if energy_range is not None:
        low, high = max(low, energy_range[0]), min(high, energy_range[1])
    if not low < high:
        raise ValueError(
            f"{name}: no energies are left, its response covers {cut.energy_range[0]:.3g} to {cut.energy_range[1]:.3g} "
            "TeV"
        )
    return low, high


def _radii(cut: Cut, radius, offset, low, high, name) -> tuple[np.ndarray, np.ndarray]:
    """Energies [TeV], and the radius of the ON region [deg] at them."""
    if cut.rad_max is None:
        if radius is None:
            raise ValueError(f"{name}: a full-enclosure response needs the radius [deg] of the ON region")
        return np.array([low]), np.array([radius])
    if isinstance(cut.rad_max, float):
        nodes, radii = np.array([low]), np.array([cut.rad_max])
    else:
        from astropy import units

        _within(cut.rad_max.axes["offset"].edges.to_value("deg"), offset, name, "RAD_MAX_2D")
        # the cut of the nearest node in ln E, as in gammapy: it steps half-way between two
        centres = np.log(cut.rad_max.axes["energy"].center.to_value("TeV"))
        steps = np.exp(0.5 * (centres[1:] + centres[:-1]))
        steps = steps[(steps > low) & (steps < high)]
        nodes = np.sort(np.concatenate([[low, high], steps * (1.0 - STEP), steps * (1.0 + STEP)]))
        at = {"energy": nodes * units.TeV, "offset": offset * units.deg}
        radii = np.asarray(cut.rad_max.evaluate(method="nearest", **at).to_value("deg"), np.float64).ravel()
        if not np.all(radii > 0):
            raise ValueError(
                f"{name}: RAD_MAX is {radii.min():g} deg at {nodes[radii.argmin()]:.3g} TeV; it is positive"
            )
    if radius is not None and np.any(np.abs(radius - radii) > 0.01 * radii):
        between = f"{radii.min():.4g}" if np.ptp(radii) == 0 else f"{radii.min():.4g} to {radii.max():.4g}"
        raise ValueError(
            f"{name}: the point-like response holds after a cut at {between} deg, not at {radius:g}; leave out radius"
        )
    return nodes, radii


def _offset_within(effective_area: Table, offset, name) -> float:
    axis = effective_area.axes[1]
    return _within((axis.lower, axis.upper), offset, name, "effective area")


def _within(ends, offset, name, what) -> float:
    """Nearest offset of a table."""
    low, high = float(np.min(ends)), float(np.max(ends))
    if not low - SLACK <= offset <= high + SLACK:
        raise ValueError(
            f"{name}: the target is {offset:.3g} deg from the pointing, the {what} is for {low:.3g} to {high:.3g} deg"
        )
    return float(np.clip(offset, low, high))


def _select(run: Run, cut, off, phase, about, nodes, radii, energy, lon, lat, energies) -> Stream:
    """ON and OFF events among all, and their acceptance ratio."""
    name, centre, pointing, frame, _ = about
    radius_of = np.interp(np.log(energy), np.log(nodes), radii)
    on = separation_on_host(lon, lat, *centre) <= radius_of
    same = np.ones_like(radii)
    if phase is not None:
        inside, widths = _in_phases(run, phase)
        return Stream(on & inside[0], on & inside[1], nodes, radii, same * widths[0] / widths[1], widths[0])
    if hasattr(off, "inner_radius"):
        inner, outer = (float(plain(r, "deg")) for r in (off.inner_radius, off.outer_radius))
        middle = direction(off.center, frame)
        if _apart(middle, centre) + radii.max() > inner:
            raise ValueError(f"{name}: the OFF ring from {inner:g} to {outer:g} deg overlaps the ON region")

        def in_ring(lon, lat):
            distance = separation_on_host(lon, lat, *middle)
            return (distance >= inner) & (distance <= outer)

        excluded = exclusion_map(about[4], *middle, frame, outer)
        kept = in_ring(lon, lat)
        kept &= True if excluded is None else ~np.asarray(excluded(lon, lat))
        solid = _acceptances(run, cut, about, energies, in_ring, excluded, middle, outer)
        return Stream(on, kept, *_ratio(run, cut, about, energies, nodes, radii, solid), 1.0)
    centres, equal = _centres(off, about, float(radii.max()))
    for number, one in enumerate(centres):
        for other, what in [(centre, "the ON region"), *((c, "another OFF region") for c in centres[:number])]:
            apart = _apart(one, other)
            if apart < 2.0 * radii.max() - TOUCHING:
                raise ValueError(
                    f"{name}: the OFF region at ({one[0]:.4f}, {one[1]:.4f}) deg overlaps {what}: the centres are "
                    f"{apart:.3g} deg apart, the radius is {radii.max():.3g} deg"
                )
    outside = np.any([separation_on_host(lon, lat, *one) <= radius_of for one in centres], axis=0)
    if equal or cut.instrument is None or cut.instrument.response.background is None:
        return Stream(on, outside, nodes, radii, same / len(centres), 1.0)

    def in_circles(lon, lat):
        return np.any([separation_on_host(lon, lat, *one) <= radii[0] for one in centres], axis=0)

    middle, reach = pointing, max(_apart(one, pointing) for one in centres) + radii[0]
    solid = _acceptances(run, cut, about, energies, in_circles, None, middle, float(reach))
    return Stream(on, outside, *_ratio(run, cut, about, energies, nodes, radii, solid), 1.0)


def _in_phases(run: Run, phase):
    """Events in the ON and in the OFF phases, and the widths of both."""
    table = run.events.table
    column = next((name for name in table.colnames if name.upper() == "PHASE"), None)
    if column is None:
        raise ValueError(f"{run.name}: EVENTS has no column PHASE")
    values = np.asarray(table[column], np.float64)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{run.name}, row {int(np.argmin(np.isfinite(values)))} of EVENTS: PHASE is not finite")
    return [(values - low) % 1.0 < high - low for low, high in phase], [high - low for low, high in phase]


def off_ring(center: tuple[float, float], inner: float, outer: float, frame: str):
    """Ring between two radii [deg] about a centre (lon, lat) [deg], a `CircleAnnulusSkyRegion` for `off`."""
    from astropy.coordinates import SkyCoord
    from astropy.units import deg
    from regions import CircleAnnulusSkyRegion

    return CircleAnnulusSkyRegion(SkyCoord(*center, unit="deg", frame=frame), inner * deg, outer * deg)


def _centres(off, about, radius) -> tuple[list[tuple[float, float]], bool]:
    """Centres of the OFF regions [deg], and whether they have the acceptance of the ON region."""
    name, centre, pointing, frame, exclusion = about
    if isinstance(off, str) or hasattr(off, "run"):
        from astropy.coordinates import SkyCoord
        from astropy.units import deg
        from gammapy.makers import ReflectedRegionsFinder, WobbleRegionsFinder
        from regions import CircleSkyRegion

        known = {"reflected": ReflectedRegionsFinder, "wobble": lambda: WobbleRegionsFinder(n_off_regions=1)}
        if isinstance(off, str) and off not in known:
            raise ValueError(f"off must be 'reflected', 'wobble', a finder of gammapy, a ring or centres, not {off!r}")
        finder: Any = known[off]() if isinstance(off, str) else off
        if _apart(centre, pointing) <= radius:
            raise ValueError(
                f"{name}: the pointing lies in the ON region, no OFF region has the same offset; use a ring"
            )
        region = CircleSkyRegion(SkyCoord(*centre, unit="deg", frame=frame), radius * deg)
        mask = _mask(exclusion, pointing, frame, 2.0 * _apart(centre, pointing) + 1.0)
        found, _ = finder.run(region, SkyCoord(*pointing, unit="deg", frame=frame), mask)
        centres, equal = [direction(one.center, frame) for one in found], True
    elif off is None:
        raise ValueError(f"{name}: off is None: ON events without OFF events tell no background; give OFF regions")
    else:
        off = [off] if hasattr(off, "center") or hasattr(off, "transform_to") else list(off)
        for one in off:
            if hasattr(one, "radius") and abs(float(plain(one.radius, "deg")) - radius) > 1e-3:
                raise ValueError(
                    f"{name}: OFF regions have the radius of the ON region, {radius:g} deg, not {one.radius}"
                )
        centres, equal = [direction(getattr(one, "center", one), frame) for one in off], False
    if not centres:
        raise ValueError(f"{name}: there is no OFF region; allow other regions, or leave this run out")
    return centres, equal


def _mask(exclusion, pointing, frame, radius):
    """Gammapy's mask of the sky that is kept, about the pointing; None without exclusion."""
    excluded = exclusion_map(exclusion, *pointing, frame, radius)
    if excluded is None:
        return None
    from astropy.coordinates import SkyCoord
    from gammapy.maps import WcsGeom, WcsNDMap

    middle = SkyCoord(*pointing, unit="deg", frame=frame)
    geom = WcsGeom.create(skydir=middle, binsz=MASK_STEP, width=2.0 * radius, frame=frame, proj="TAN")
    sky = geom.get_coord(frame=frame)
    return WcsNDMap(geom, ~np.asarray(excluded(sky["lon"].to_value("deg"), sky["lat"].to_value("deg"))))


def _background(cut: Cut) -> Background | None:
    return None if cut.instrument is None else cut.instrument.response.background


def _acceptances(run: Run, cut, about, energies, inside, excluded, middle, reach) -> np.ndarray:
    """Integral of the background over a part of the sky [energy], or its solid angle [sr] without a background table.

    `inside`: whether directions are in it; it lies within `reach` [deg] of `middle`.
    """
    grid = Grid(*middle, min(RING_STEP, reach / 50.0), reach)
    lon, lat = (np.asarray(angle, np.float64) for angle in grid.directions())
    kept = inside(lon, lat)
    kept &= True if excluded is None else ~np.asarray(excluded(lon, lat))
    return _integral(run, cut, about, energies, lon[kept], lat[kept], grid.solid_angle)


def _integral(run, cut, about, energies, lon, lat, solid_angle) -> np.ndarray:
    nodes = _nodes(cut, energies)
    if _background(cut) is None:
        return np.full(nodes.shape, lon.size * solid_angle)
    observation: Observation = observation_of(run, cut.instrument, energies, 89.0, about[3], None)
    rates = [np.asarray(observation.background(np.full(lon.shape, e), lon, lat), np.float64).sum() for e in nodes]
    return np.array(rates) * solid_angle


def _nodes(cut, energies) -> np.ndarray:
    low, high = energies
    if _background(cut) is None:
        return np.array([low])
    return np.geomspace(low, high, int(np.ceil(PER_DECADE * np.log10(high / low))) + 1)


def _ratio(run, cut, about, energies, nodes, radii, off_acceptance):
    """Energies, radii and acceptance ratios of the ON region and a part of the sky with this acceptance."""
    name, centre, *_ = about
    if not np.any(off_acceptance > 0):
        raise ValueError(f"{name}: there is no OFF region: nothing of it is left, or it has no background")
    if _background(cut) is None:
        on = 4.0 * np.pi * np.sin(0.5 * DEGREE * radii) ** 2
        return nodes, radii, on / off_acceptance[0]
    fine = _nodes(cut, energies)
    grid = Grid(*centre, radii[0] / 20.0, radii[0])
    lon, lat = (np.asarray(angle, np.float64) for angle in grid.directions())
    kept = separation_on_host(lon, lat, *centre) <= radii[0]
    disk = np.pi * radii[0] ** 2 * SQUARE_DEGREE / kept.sum()
    on = _integral(run, cut, about, energies, lon[kept], lat[kept], disk)
    some = (on > 0) & (off_acceptance > 0)
    if not some.any():
        raise ValueError(f"{name}: the background of the response is zero in the ON region")
    return fine[some], np.full(some.sum(), radii[0]), on[some] / off_acceptance[some]
