"""Sources of published catalogues, read by `gammapy.catalog`."""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false, reportIndexIssue=false

import inspect
import os
import warnings

import numpy as np

from gammajax.io.files import UNREADABLE, expand, one_line, quiet
from gammajax.io.models import ENERGY_RANGE, GammapyModels, from_gammapy
from gammajax.io.pointing import direction, plain, plain_pair


def catalog(
    name_or_path,
    *,
    centre,
    radius,
    frame: str = "icrs",
    minimum_flux=None,
    flux_range=(1.0, 10.0),
    geom=None,
    energy_range=ENERGY_RANGE,
    **options,
) -> GammapyModels:
    """Components for the sources of a catalogue in a region, under their names in the catalogue.

    The catalogues are those of `gammapy.catalog`: the H.E.S.S. Galactic plane survey ("hgps"), HAWC ("2hwc", "3hwc"),
    Fermi-LAT ("3fhl", "4fgl", "2fhl", "3fgl"), LHAASO ("1lhaaso") and others.

    Fermi-LAT spectra are fits at GeV energies; beyond the range of the fit they are extrapolations. If the H.E.S.S.
    survey has several Gaussians for a source, each is a component, named after the source and the Gaussian.

    **Arguments:**

    - `name_or_path`: a catalogue name, for the file in `$GAMMAPY_DATA/catalogs`; the path of a file of one of the
      surveys above except LHAASO; or a gammapy `SourceCatalog`.
    - `centre`: (lon, lat) [deg] in `frame` or a `SkyCoord`; `radius` [deg]: sources within it are kept.
    - `frame`: frame of the observations, "icrs" or "galactic".
    - `minimum_flux` [cm^-2 s^-1] of the whole source over `flux_range` [TeV].
    - `geom`, `energy_range` [TeV] of maps and tables, see [`from_gammapy`][].
    - `options` go to gammapy's `sky_model` (for "hgps" `components_models`): `which="extended"` for "2hwc",
      `which="KM2A"` or `"WCDA"` for "1lhaaso".

    Returns [`gammajax.io.GammapyModels`][]. A source whose spectrum is not a number is left out with a note in `notes`.

    Raises `FileNotFoundError` for a missing file, and `ValueError` for an unknown name, a file that cannot be read, and
    a region without sources.

    A table in the format of 3HWC, in the place of the file:

    >>> import pathlib, tempfile, gammajax as gj
    >>> from astropy import units as u
    >>> from astropy.table import QTable
    >>> table = QTable({
    ...     "source_name": ["3HWC J0534+220"], "ra": [83.63] * u.deg, "dec": [22.02] * u.deg,
    ...     "glon": [184.55] * u.deg, "glat": [-5.78] * u.deg, "pos_err": [0.06] * u.deg,
    ...     "spec0_radius": [0.0] * u.deg, "spec0_index": [-2.58],
    ...     "spec0_index_errn": [-0.01], "spec0_index_errp": [0.01],
    ...     **{f"spec0_dnde{end}": [2.3e-13] * u.Unit("cm-2 s-1 TeV-1") for end in ("", "_errn", "_errp")},
    ... })
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "3hwc.ecsv"
    >>> table.write(file, format="ascii.ecsv")
    >>> list(gj.io.catalog(file, centre=(83.6, 22.0), radius=5.0).components)
    ['3HWC J0534+220']
    """
    if frame not in ("icrs", "galactic"):
        raise ValueError(f"frame must be 'icrs' or 'galactic', not {frame!r}")
    from astropy.coordinates import SkyCoord
    from gammapy.modeling.models import Models

    sources, radius = _open(name_or_path), float(plain(radius, "deg"))
    lon, lat = direction(centre, frame)
    distance = sources.positions.separation(SkyCoord(lon, lat, unit="deg", frame=frame)).deg
    inside = np.flatnonzero(distance <= radius)
    models, notes = [], []
    weakest = -np.inf if minimum_flux is None else float(plain(minimum_flux, "cm-2 s-1"))
    for index in inside[np.argsort(distance[inside])]:
        source = sources[int(index)]
        try:
            # gammapy divides by sizes that may be zero, and files deviate from the FITS standard
            with quiet(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = _models(source, options)
                total = sum(_flux(model, plain_pair(flux_range, "TeV")) for model in found)
        except UNREADABLE as error:
            raise ValueError(f"{sources.tag}, {source.name}: {one_line(error)}") from error
        if not found or np.isnan(total):
            notes.append(f"{source.name}: left out; the catalogue has no spectrum of it")
        elif total >= weakest:
            models += found
    if not models:
        nearest = int(np.argmin(distance))
        raise ValueError(
            f"{sources.tag}: no source within {radius:g} deg of ({lon:g}, {lat:g}) deg with that flux; "
            f"the nearest is {sources[nearest].name} at {distance[nearest]:.3g} deg"
        )
    result = from_gammapy(Models(models), frame=frame, geom=geom, energy_range=energy_range)
    result.notes = notes + result.notes
    return result


def _open(name_or_path):
    from gammapy.catalog import CATALOG_REGISTRY, SourceCatalog

    if isinstance(name_or_path, SourceCatalog):
        return name_or_path
    known = {str(kind.tag).lower(): kind for kind in CATALOG_REGISTRY}
    name, hint = str(name_or_path).lower(), ""
    if name in known:
        kind = known[name]
        path = expand(inspect.signature(kind).parameters["filename"].default)
        hint = "; set GAMMAPY_DATA to the folder of gammapy's data collection, or give the path of the file"
    else:
        path, kind = expand(name_or_path), None
        if os.sep not in name and not path.is_file():
            raise ValueError(f"unknown catalogue {name_or_path!r}, and no such file; known: {', '.join(sorted(known))}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such catalogue file{hint}")
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind is None:
                kind = known[_recognise(path)]
            return kind(str(path))
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as a catalogue: {one_line(error)}") from error


def _recognise(path) -> str:
    """Name of the catalogue in a file, by its tables and columns."""
    from astropy.io import fits
    from astropy.table import Table

    if path.suffix == ".ecsv":
        columns = Table.read(path, format="ascii.ecsv").colnames
        names = {"spec0_dnde_errn": "3hwc", "spec0_dnde_err": "2hwc"}
    else:
        with fits.open(path) as hdus:
            tables = {hdu.name.upper(): hdu.columns.names for hdu in hdus if hasattr(hdu, "columns")}
        if "HGPS_SOURCES" in tables:
            return "hgps"
        if "2FHL SOURCE CATALOG" in tables:
            return "2fhl"
        columns = tables.get("LAT_POINT_SOURCE_CATALOG", [])
        names = {"PL_Flux_Density": "4fgl", "Flux_Band": "3fhl", "Flux100_300": "3fgl"}
    found = [name for column, name in names.items() if column in columns]
    if not found:
        raise ValueError("it is none of hgps, 2hwc, 3hwc, 2fhl, 3fhl, 3fgl, 4fgl")
    return found[0]


def _models(source, options) -> list:
    from gammapy.modeling.models import PointSpatialModel, SkyModel

    several = hasattr(source, "components_models")
    models = source.components_models(**options) if several else source.sky_model(**options)
    result = []
    # gammapy gives None if an analysis did not detect the source
    for model in models if several else filter(None, [models]):
        spatial, name = model.spatial_model, model.name
        if getattr(spatial, "sigma", None) is not None and spatial.sigma.value == 0:
            spatial = PointSpatialModel.from_position(spatial.position)
        result.append(
            SkyModel(model.spectral_model, spatial, name=name if name == source.name else f"{source.name} {name}")
        )
    return result


def _flux(model, flux_range) -> float:
    from astropy import units as u

    low, high = flux_range
    return float(model.spectral_model.integral(low * u.TeV, high * u.TeV).to_value("cm-2 s-1"))
