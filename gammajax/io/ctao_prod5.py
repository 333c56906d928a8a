"""Observations for simulations, with a response file or an embedded CTAO response (prod5 v0.1)."""

from pathlib import Path

from gammajax.instrument.observation import Observation
from gammajax.io.exclusion import exclusion_map
from gammajax.io.irf import load_irf
from gammajax.io.pointing import direction, plain, plain_pair
from gammajax.io.pointing import fov_angle as aligned_angle

# gammajax/data/README.md gives origin and licence
EMBEDDED: dict[tuple[str, float, float], str] = {
    ("South", 20, 50): "Prod5-South-20deg-AverageAz-14MSTs37SSTs.180000s-v0.1.fits.gz",
    ("North", 20, 50): "Prod5-North-20deg-AverageAz-4LSTs09MSTs.180000s-v0.1.fits.gz",
}


def ctao(
    site: str = "South",
    zenith=20.0,
    hours=50.0,
    *,
    pointing,
    livetime=None,
    frame: str = "icrs",
    energy_range=(0.1, 100.0),
    offset_max=3.0,
    exclusion=None,
    good_time=None,
    obs_id: str = "0",
) -> Observation:
    """Observation with an embedded CTAO response, for simulations.

    - `site` ("South" or "North"), `zenith` angle [deg] and `hours` of observation of the selection cuts.
    - `livetime` [s], by default `hours`.
    - `pointing`, `frame`, `energy_range`, `offset_max`, `exclusion`, `good_time`, `obs_id`: as of
      [`gammajax.io.observation`][].

    The responses are those of prod5 v0.1 (doi:10.5281/zenodo.5499840). Returns a [`gammajax.Observation`][].

    Raises `ValueError` if no such response is embedded.

    >>> import gammajax as gj
    >>> run = gj.io.ctao("South", pointing=(0.0, 0.0), frame="galactic", livetime=3600.0, energy_range=(0.5, 50.0))
    >>> run.frame, float(run.livetime)
    ('galactic', 3600.0)
    """
    zenith, hours = float(plain(zenith, "deg")), float(plain(hours, "h"))
    key = (str(site).capitalize(), zenith, hours)
    if key not in EMBEDDED:
        embedded = "; ".join(f"site={s!r}, zenith={z}, hours={h}" for s, z, h in EMBEDDED)
        raise ValueError(
            f"no embedded CTAO response for site={site!r}, zenith={zenith:g}, hours={hours:g}; embedded: {embedded}; "
            "for others pass the path of the file to gammajax.io.observation or gammajax.io.read_irf"
        )
    return observation(
        # installed beside the code: one file with one path
        Path(__file__).parents[1] / "data" / EMBEDDED[key],
        pointing=pointing,
        livetime=3600.0 * hours if livetime is None else livetime,
        frame=frame,
        energy_range=energy_range,
        offset_max=offset_max,
        exclusion=exclusion,
        good_time=good_time,
        obs_id=obs_id,
        # no warnings: the energy dispersions in these files integrate to 0.01 (gammajax/data/README.md), and the
        # three-Gaussian point spread functions have 1 / (2 pi sigma) as scale
        warn=False,
    )


def observation(
    path,
    *,
    pointing,
    livetime,
    frame: str = "icrs",
    energy_range=(0.1, 100.0),
    offset_max=3.0,
    exclusion=None,
    good_time=None,
    obs_id: str = "0",
    fov_angle=None,
    warn: bool = True,
) -> Observation:
    """Observation with the response of a GADF file, see [`read_irf`][], for simulations.

    - `pointing`: (lon, lat) [deg] in `frame` ("icrs" or "galactic"), or a `SkyCoord`.
    - `livetime` [s], `energy_range` of reconstructed energies [TeV], `offset_max` [deg]: numbers or quantities.
    - `exclusion`: excluded sky, see [`exclusion_map`][].
    - `good_time`: starts and stops (MJD, TT) of the good time intervals, for sources that change in time.
    - `fov_angle` [deg]: position angle (east of the frame's north) of the field-of-view latitude axis. The default is
      celestial north for backgrounds with FOVALIGN = RADEC; ALTAZ needs a value.

    - `path` of the file; `obs_id`: identifier. `warn`: as of [`gammajax.io.read_irf`][].

    Returns a [`gammajax.Observation`][]. Observations of one file share one `Response`. Raises `ValueError` for wrong
    values, and as `read_irf` does.

    >>> import pathlib, gammajax as gj
    >>> path = next(pathlib.Path(gj.__file__).parent.glob("data/Prod5-South-20deg*.fits.gz"))
    >>> run = gj.io.observation(path, pointing=(83.6, 22.5), livetime=1800.0, energy_range=(0.1, 50.0), warn=False)
    >>> float(run.livetime)
    1800.0
    """
    response, alignment = load_irf(path, warn=warn)
    lon, lat = direction(pointing, frame)
    if fov_angle is None:
        fov_angle = aligned_angle(lon, lat, frame, alignment)
    energy_min, energy_max = plain_pair(energy_range, "TeV")
    offset_max = float(plain(offset_max, "deg"))
    return Observation(
        lon,
        lat,
        float(plain(livetime, "s")),
        response,
        energy_min=energy_min,
        energy_max=energy_max,
        offset_max=offset_max,
        frame=frame,
        fov_angle=float(plain(fov_angle, "deg")),
        obs_id=obs_id,
        exclusion=exclusion_map(exclusion, lon, lat, frame, offset_max),
        good_time=good_time,
    )
