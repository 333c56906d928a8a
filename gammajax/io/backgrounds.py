"""Backgrounds of off runs: reading runs without a source, and writing the background of a model as BKG_3D."""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false

import difflib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gammajax.common.parameters import is_concrete
from gammajax.common.writing import replacing
from gammajax.instrument.observation import as_tuple
from gammajax.io.files import expand
from gammajax.io.gadf import Data, open_store, read_gadf
from gammajax.model.mixture import InstrumentBackground

ALIGNMENTS = ("RADEC", "ALTAZ")
STEP, PER_DECADE = 0.2, 10  # deg, and bins of energy, of a table
TARGETS = ("TARGET_NAME", "OBJECT")  # columns of the index that name what a run looks at


def read_off_runs(
    path,
    target: str = "Off data",
    *,
    offset_max=2.0,
    energy_range=None,
    exclusion=None,
    frame: str = "icrs",
    warn: bool = True,
) -> Data:
    """Events and observations of the runs of a DL3 folder that have no source.

    Those with `target` as TARGET_NAME or OBJECT in `obs-index.fits.gz` in the folder `path`; the other arguments,
    `offset_max` [deg], `energy_range` [TeV], `exclusion`, `frame` and `warn`, are those of [`gammajax.io.read_gadf`][].
    Give faint sources in the fields as `exclusion`.

    Returns what `read_gadf` does. Raises `ValueError` for a folder without such runs, and as `read_gadf` does.

    >>> import gammajax as gj
    >>> gj.io.read_off_runs("no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: no/such/folder: no such folder
    """
    store, _, folder = open_store(path)
    table = store.obs_table
    named = {column: [str(name).strip() for name in table[column]] for column in TARGETS if column in table.colnames}
    if not named:
        raise ValueError(f"{folder}: the index has no column {' or '.join(TARGETS)}; give obs_ids to io.read_gadf")
    chosen = [int(i) for i, *names in zip(table["OBS_ID"], *named.values(), strict=True) if target in names]
    if not chosen:
        known = sorted({name for names in named.values() for name in names})
        near = difflib.get_close_matches(target, known, n=1)
        instead = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"{folder}: no off runs, that is none with the target {target!r}; {instead}")
    return read_gadf(
        path,
        chosen,
        offset_max=offset_max,
        energy_range=energy_range,
        exclusion=exclusion,
        frame=frame,
        warn=warn,
    )


def write_background(
    path,
    background: InstrumentBackground,
    observations,
    *,
    alignment: str | None = None,
    live_fraction: float = 1.0,
    energy_edges=None,
    lon_edges=None,
    lat_edges=None,
    overwrite: bool = False,
) -> None:
    """Write the background of a model as `BKG_3D`, for gammapy's `Background3D` and any reader of GADF.

    The rate at the centre of each bin: the mean over the observations of their tables times norm, tilt and correction,
    weighted with livetimes. One observation gives its own background, many of off runs one for other runs.

    - `alignment` of the field of view, which must be given: "RADEC" or "ALTAZ" (FOVALIGN), that of the tables of all
      observations, whose rates are each in its own field of view.
    - `live_fraction`: part of the time without dead time. Rates of the format count per time on target.
    - `energy_edges` [TeV], `lon_edges`, `lat_edges` [deg]: of bins, by default ten a decade over the selected energies,
      and 0.2 deg over the field of view.

    The file `path` is complete, or not there; nothing is returned. Raises `FileExistsError` if it exists and
    `overwrite` is false, and `ValueError` for another alignment, numbers that are traced, and edges that do not
    increase. `background` has one row for each of the `observations`, or shared numbers.

    >>> import gammajax as gj, os, tempfile
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gj.io.write_background(f"{folder}/b.fits", gj.InstrumentBackground(1.1), run, alignment="RADEC")
    ...     os.listdir(folder)
    ['b.fits']
    """
    from astropy.io import fits
    from gammapy.irf import Background3D
    from gammapy.maps import MapAxis

    path, observations = expand(path), as_tuple(observations)
    if alignment not in ALIGNMENTS:
        raise ValueError(f"alignment of the field of view must be 'RADEC' or 'ALTAZ', not {alignment!r}")
    if not is_concrete(background):
        raise ValueError("write_background needs a background with known numbers: call it outside jit, grad and vmap")
    if not 0.0 < live_fraction <= 1.0:
        raise ValueError(
            f"live_fraction is the part of the time without dead time, above 0 and at most 1, not {live_fraction}"
        )
    background.check_observations(observations)
    low, high = min(o.energy_min for o in observations), max(o.energy_max for o in observations)
    reach = STEP * np.ceil(max(o.offset_max for o in observations) / STEP - 1e-9)
    field = np.linspace(-reach, reach, 2 * round(reach / STEP) + 1)
    count = int(np.ceil(np.log10(high / low) * PER_DECADE - 1e-9))
    defaults = {"energy": np.geomspace(low, high, count + 1), "lon": field, "lat": field}
    given = {"energy": energy_edges, "lon": lon_edges, "lat": lat_edges}
    edges = {name: np.asarray(defaults[name] if e is None else e, np.float64) for name, e in given.items()}
    for name, ends in edges.items():
        bad = ends.ndim != 1 or ends.size < 3 or not np.all(np.diff(ends) > 0)
        if bad or (name == "energy" and not ends[0] > 0):
            raise ValueError(f"{name}_edges must be at least three numbers that increase, not {ends.tolist()}")
    if not overwrite and path.exists():
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
    centres = np.sqrt(edges["energy"][1:] * edges["energy"][:-1])
    lon, lat = (0.5 * (edges[name][1:] + edges[name][:-1]) for name in ("lon", "lat"))
    # in files aligned with the zenith the longitude grows eastwards, here westwards
    east = -1.0 if alignment == "ALTAZ" else 1.0
    places = [jnp.asarray(part) for part in np.meshgrid(centres, east * lon, lat, indexing="ij")]
    total, livetime = np.zeros((centres.size, lon.size, lat.size)), 0.0
    for number, observation in enumerate(observations):
        if observation.response.background is None:
            raise ValueError(f"observation {observation.obs_id} has no background response (BKG_2D or BKG_3D)")
        weight = float(observation.livetime)
        total += weight * np.asarray(_rate(observation.response.background, background.select(number), *places))
        livetime += weight
    axes = [MapAxis.from_energy_edges(edges["energy"], unit="TeV")]
    axes += [MapAxis.from_edges(edges[name], unit="deg", name=f"fov_{name}") for name in ("lon", "lat")]
    table = Background3D(axes, total / livetime * live_fraction, "s-1 TeV-1 sr-1", fov_alignment=alignment)
    hdus = fits.HDUList([fits.PrimaryHDU(), table.to_table_hdu(format="gadf-dl3")])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        hdus.writeto(temporary, overwrite=True)


@eqx.filter_jit
def _rate(table, background, energy, fov_lon, fov_lat):
    def layer(at):
        e, lon, lat = at
        return table.rate(e, lon, lat) * background.corrected(e, lon, lat)

    return jax.lax.map(layer, (energy, fov_lon, fov_lat))
