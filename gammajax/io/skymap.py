"""Sky maps in files, images and cubes: with a celestial projection (read by gammapy), and HEALPix maps."""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportCallIssue=false

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from gammajax.io.files import UNREADABLE, expand, one_line, quiet

NO_DATA = -1.6375e30  # missing value of the HEALPix standard


class WcsPixels:
    """Pixels of an image with a celestial projection, counted row by row."""

    def __init__(self, geom):
        from astropy.wcs.utils import wcs_to_celestial_frame

        self.geom = geom.to_image()
        # with its equinox, which the name of the frame does not say
        self.frame, self.shape = wcs_to_celestial_frame(geom.wcs), geom.data_shape[-2:]
        solid_angle = np.asarray(self.geom.solid_angle().to_value("sr")).ravel()
        self.step = math.degrees(math.sqrt(np.nanmedian(solid_angle)))
        self.solid_angle = np.nan_to_num(solid_angle)  # zero beyond the edge of the sky

    def directions(self, pixel):
        """Longitudes and latitudes [deg] of the middles of pixels."""
        coordinates = self.geom.get_coord()
        return tuple(c.to_value("deg").ravel()[pixel] for c in (coordinates.lon, coordinates.lat))

    def find(self, lon, lat):
        """Indices of the pixels in directions [deg], -1 outside."""
        from astropy import units as u

        x, y = self.geom.coord_to_idx((lon * u.deg, lat * u.deg))
        return np.where((x >= 0) & (y >= 0), y * self.shape[1] + x, -1)


class HealpixPixels:
    """Pixels of the whole sky, after Gorski et al. 2005 (astro-ph/0409513)."""

    def __init__(self, nside: int, nest: bool, frame: str):
        from astropy_healpix import HEALPix

        if nside < 1 or (nest and nside & (nside - 1)):
            raise ValueError(f"NSIDE is {nside}")
        self.frame, self.count = frame, 12 * nside**2
        self.solid_angle = 4.0 * math.pi / self.count
        self.step = math.degrees(math.sqrt(self.solid_angle))
        self.pixels = HEALPix(nside, "nested" if nest else "ring")

    def directions(self, pixel):
        """As [`WcsPixels.directions`][]."""
        lon, lat = self.pixels.healpix_to_lonlat(pixel)
        return lon.to_value("deg"), lat.to_value("deg")

    def find(self, lon, lat):
        """As [`WcsPixels.find`][]; every direction has a pixel."""
        from astropy import units as u

        return self.pixels.lonlat_to_healpix(lon * u.deg, lat * u.deg)


@dataclasses.dataclass(frozen=True)
class SkyMap:
    """Values on pixels of the sky, of one image or of planes at several energies.

    `data` [pixel] or [plane, pixel] is not finite for missing values; `energy` [TeV] of the planes; astropy `unit`;
    `axes`: names of the axes other than those of the sky.
    """

    data: np.ndarray
    pixels: WcsPixels | HealpixPixels
    unit: Any
    axes: list[str]
    energy: np.ndarray | None = None

    @property
    def frame(self) -> Any:
        """Coordinates of the pixels, a frame of astropy or its name."""
        return self.pixels.frame

    @property
    def step(self) -> float:
        """Side [deg] of a square with the area of a pixel."""
        return self.pixels.step

    @property
    def kind(self) -> str:
        """Name of the kind of map, for messages."""
        return "HEALPix map" if isinstance(self.pixels, HealpixPixels) else "map with a celestial projection"

    @property
    def flux(self) -> np.ndarray:
        """Integral of the known values over the sky, of the image or of each plane."""
        known = np.nan_to_num(self.data, posinf=0.0, neginf=0.0)
        return np.asarray((known * self.pixels.solid_angle).sum(-1))

    def bright(self):
        """Directions [deg] of pixels that are not zero, in any plane."""
        some = np.isfinite(self.data) & (self.data != 0)
        return self.pixels.directions(np.flatnonzero(some.reshape(-1, some.shape[-1]).any(0)))

    def values_at(self, lon, lat) -> np.ndarray:
        """Values of the pixels in these directions [deg], not finite outside the map."""
        pixel: Any = self.pixels.find(lon, lat)
        return np.where(pixel >= 0, self.data[..., np.maximum(pixel, 0)].astype(float), np.nan)


def read_map(path) -> SkyMap:
    """Map in a FITS file; raises `ValueError` for other files."""
    from astropy.io import fits

    try:
        with quiet(), fits.open(path) as file:
            hdus: Any = file
            for hdu in hdus:
                if str(hdu.header.get("PIXTYPE")).strip().upper() == "HEALPIX":
                    return _read_healpix(hdus, hdu)
            return _read_image(path, hdus)
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as a map: {one_line(error)}") from error


def existing_map(path, frame) -> Path:
    """Expanded path of an existing map; also checks the frame."""
    path = expand(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such map")
    if frame not in ("icrs", "galactic"):
        raise ValueError(f"frame must be 'icrs' or 'galactic', not {frame!r}")
    return path


def from_gammapy_map(sky) -> SkyMap:
    """Sky map from a gammapy map."""
    geom, data, axes = sky.geom, np.asarray(sky.data), sky.geom.axes.names
    energy = geom.axes[0].center.to_value("TeV") if axes in (["energy_true"], ["energy"]) else None
    if geom.is_hpx:
        if np.ptp(geom.nside) or np.ptp(geom.npix):
            raise ValueError("the planes of the map have pixels of different sizes")
        pixels = HealpixPixels(int(np.ravel(geom.nside)[0]), geom.nest, geom.frame)
        known = geom.get_idx(idx=(0,) * len(axes) or None, flat=True)[0]
        data = _whole_sky(data.reshape(*data.shape[:-1], -1), known, pixels.count)
    else:
        pixels = WcsPixels(geom)
        data = data.reshape(*data.shape[:-2], -1)
    return SkyMap(data, pixels, sky.unit, axes, energy)


def _read_image(path, hdus) -> SkyMap:
    """Image with a celestial projection, or one for each of several energies."""
    from gammapy.maps import Map

    hdu = next((hdu for hdu in hdus if hdu.is_image and hdu.header.get("NAXIS", 0) > 1), None)
    if hdu is None:
        if any("WCSSHAPE" in hdu.header for hdu in hdus):  # gammapy's table of the pixels that are not zero
            return from_gammapy_map(Map.read(path))
        raise ValueError("no HDU is an image, and none a HEALPix map, which has PIXTYPE = 'HEALPIX'")
    _check_projection(hdu)
    energy = None
    if len(hdu.shape) == 3:
        energy = _energies(hdus, hdu)
        if energy is None:
            raise ValueError(f"the image in {hdu.name} has {hdu.shape[0]} planes and no table with their energies")
        if energy.size != hdu.shape[0]:
            raise ValueError(f"the image in {hdu.name} has {hdu.shape[0]} planes for {energy.size} energies")
    elif len(hdu.shape) > 3:
        raise ValueError(f"the image in {hdu.name} has {len(hdu.shape)} axes; longitude, latitude and energy are known")
    result = from_gammapy_map(Map.read(path))
    unit = hdu.header.get("BUNIT", "")
    # gammapy replaces units it does not know
    unit = result.unit if unit == "" else _unit(unit, strict=False)
    return dataclasses.replace(result, unit=unit, energy=energy)


def _check_projection(hdu) -> None:
    """Raise for a header that does not say where the pixels are: astropy would take zeros and ones."""
    from astropy.wcs import WCS

    header = hdu.header
    for axis, names in enumerate((("RA--", "LON-"), ("DEC-", "LAT-")), 1):
        kind = str(header.get(f"CTYPE{axis}", ""))
        if not any(name in kind[:5] for name in names):
            raise ValueError(
                f"CTYPE{axis} of {hdu.name} must be a {('longitude', 'latitude')[axis - 1]} such as "
                f"{('RA---TAN', 'DEC--TAN')[axis - 1]!r} or {('GLON-CAR', 'GLAT-CAR')[axis - 1]!r}, it is {kind!r}"
            )
        matrix = any(f"{key}{axis}_{other}" in header for key in ("CD", "PC") for other in (1, 2))
        for key in (f"CRPIX{axis}", f"CRVAL{axis}", *(() if matrix else (f"CDELT{axis}",))):
            value = header.get(key)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                told = "is missing" if value is None else f"is {value!r}"
                raise ValueError(f"{key} of {hdu.name} must be a number, it {told}")
    try:
        WCS(header, naxis=2).wcs.set()
    except ValueError as error:
        raise ValueError(f"the projection of {hdu.name} is not known: {str(error).splitlines()[-1]}") from error


def _unit(text, strict=True):
    """Unit of astropy; where it does not know one, an unrecognised unit or an error."""
    from astropy import units as u

    return u.Unit(str(text).strip(), parse_strict="raise" if strict else "silent")


def _read_healpix(hdus, hdu) -> SkyMap:
    """Map in a table with one pixel per row (its index from a column PIX or the row) and one column per plane.

    A single column may hold vectors: their elements are planes if the file has energies for them, otherwise consecutive
    pixels. Energies are in a table of the same file: BANDS (GADF), EBOUNDS or ENERGIES (Fermi-LAT, GALPROP).
    """
    header = hdu.header
    if "NSIDE" not in header and "ORDER" not in header:
        raise ValueError("the header of a HEALPix map has neither NSIDE nor ORDER")
    key = "NSIDE" if "NSIDE" in header else "ORDER"
    try:
        nside = int(header[key]) if key == "NSIDE" else 2 ** int(header[key])
    except ValueError as error:
        raise ValueError(f"{key} of {hdu.name} must be a whole number, it is {header[key]!r}") from error
    ordering = str(header.get("ORDERING", "missing")).strip().upper()
    if ordering not in ("RING", "NEST", "NESTED"):
        raise ValueError(f"ORDERING of {hdu.name} must be 'RING' or 'NESTED', it is {ordering!r}")
    pixels = HealpixPixels(nside, ordering != "RING", _frame(header))
    scheme = str(header.get("INDXSCHM", "IMPLICIT")).strip().upper()
    if scheme not in ("IMPLICIT", "EXPLICIT"):
        raise ValueError(f"the indexing scheme {scheme} is not known; IMPLICIT and EXPLICIT are")
    names = list(hdu.columns.names)
    known = np.asarray(hdu.data[names.pop(0)]).ravel() if scheme == "EXPLICIT" else np.arange(pixels.count)
    first = np.asarray(hdu.data[names[0]])
    energy = _energies(hdus, hdu)
    planes = 1 if energy is None else energy.size
    if planes == 1 and len(names) > 1 and str(header.get("HPX_CONV", "")).strip():
        raise ValueError(f"there is no table with the energies of its planes {names[0]} to {names[-1]}")
    if planes > 1 and len(names) == planes:
        data = np.stack([np.asarray(hdu.data[name]).ravel() for name in names])
    elif planes > 1 and first.ndim == 2 and first.shape[1] == planes:
        data = first.T
    elif planes > 1 and len(names) > 1:
        raise ValueError(f"{len(names)} columns {', '.join(names[:3])} do not fit {planes} energies")
    else:
        data, energy = first.ravel(), None
    if data.shape[-1] != known.size or known.max(initial=0) >= pixels.count or known.min(initial=0) < 0:
        raise ValueError(f"{data.shape[-1]} values do not fit NSIDE {nside}")
    if data.dtype.kind not in "iuf":
        raise ValueError(f"the column {names[0]} of {hdu.name} must hold numbers")
    data = data.astype(data.dtype.newbyteorder("="))
    data = np.where(np.isclose(data, NO_DATA, rtol=1e-3), np.nan, data)
    unit, column = (_unit(text or "", strict=False) for text in (header.get("BUNIT"), hdu.columns[names[0]].unit))
    if column != "" and unit != "" and unit != column:
        raise ValueError(f"the values are in {str(unit)!r} after BUNIT and in {str(column)!r} after {names[0]}")
    unit = column if unit == "" else unit
    return SkyMap(_whole_sky(data, known, pixels.count), pixels, unit, [] if energy is None else ["energy"], energy)


def _whole_sky(data, known, count) -> np.ndarray:
    """Values of all pixels; only the pixels with indices `known` have values."""
    if known.size == count and np.array_equal(known, np.arange(count)):
        return data
    whole = np.full((*data.shape[:-1], count), np.nan, data.dtype)
    whole[..., known] = data
    return whole


def _frame(header) -> str:
    system = str(header.get("COORDSYS", header.get("COORDTYPE", ""))).strip().upper() or "none"
    if system[0] not in "GCE" or system.startswith("ECL") or system == "E":
        raise ValueError(f"unknown coordinates {system!r}; COORDSYS may be 'G' for galactic and 'C' for celestial ones")
    return "galactic" if system[0] == "G" else "icrs"


def _energies(hdus, hdu) -> np.ndarray | None:
    """Energies [TeV] of the planes, for bins their geometric means, or None."""
    for name in (hdu.header.get("BANDSHDU"), "BANDS", "EBOUNDS", "ENERGIES"):
        if not name or name not in hdus:
            continue
        table = hdus[name]
        columns = {column.name.upper(): column for column in table.columns}
        if "NSIDE" in columns and np.ptp(table.data[columns["NSIDE"].name]):
            raise ValueError("the planes have pixels of different sizes")
        ways = [("ENERGY",), ("ENERGY_TRUE",), ("MEV",), ("E_MIN", "E_MAX"), ("ENERGY_MIN", "ENERGY_MAX")]
        ways.append(("ENERGY_TRUE_MIN", "ENERGY_TRUE_MAX"))
        found = next(([columns[key] for key in way] for way in ways if all(key in columns for key in way)), None)
        if found is None:
            raise ValueError(f"the table {name} has no energies but the columns {', '.join(table.columns.names)}")
        unit = found[0].unit or ("MeV" if name == "ENERGIES" else None)  # those are always MeV
        column = f"the energies in the column {found[0].name} of {name}"
        if unit is None:
            raise ValueError(f"{column} have no unit")
        try:
            energy = [np.asarray(table.data[column.name], float) * _unit(unit).to("TeV") for column in found]
        except ValueError as error:
            raise ValueError(f"{column} must be numbers with a unit such as 'MeV': {one_line(error)}") from error
        if not all(np.all((e > 0) & np.isfinite(e)) for e in energy):
            raise ValueError(f"{column} must be positive and finite")
        energy = np.exp(np.mean(np.log(energy), axis=0))
        if np.any(np.diff(energy) <= 0):
            raise ValueError(f"{column} do not increase: planes along another axis are not known")
        return energy
    return None
