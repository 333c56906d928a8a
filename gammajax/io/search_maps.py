"""Maps of a search for sources, as gammapy maps, in FITS files and as tables of peaks."""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false

from pathlib import Path
from typing import Any

import numpy as np

from gammajax.common.writing import replacing
from gammajax.io.files import to_write

UNITS = {
    "sqrt_ts": "",
    "ts": "",
    "flux": "cm-2 s-1",
    "flux_err": "cm-2 s-1",
    "flux_ul": "cm-2 s-1",
    "npred": "",
}


def search_geom(found) -> Any:
    """Geometry (`gammapy.maps.WcsGeom`) of the pixels of a map, such as a [`gammajax.TSMap`][]."""
    from astropy import units as u
    from astropy.coordinates import SkyCoord
    from gammapy.maps import WcsGeom

    center = SkyCoord(*found.center, unit=u.deg, frame=found.frame)
    return WcsGeom.create(skydir=center, binsz=found.step, npix=found.lon.shape[::-1], proj="TAN", frame=found.frame)


def maps_of(found, names=tuple(UNITS)) -> dict:
    """Maps (`gammapy.maps.WcsNDMap`) of a [`gammajax.TSMap`][], or another with these quantities, by name."""
    from gammapy.maps import Map

    geom = search_geom(found)
    return {name: Map.from_geom(geom, data=getattr(found, name), unit=UNITS[name]) for name in names}


def write_search_maps(found, path, overwrite: bool) -> Path:
    """Write the maps as images of one FITS file, named by their quantity."""
    from astropy.io import fits

    path = to_write(path, overwrite)
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for name, one in found.to_gammapy().items():
        for hdu in one.to_hdulist(hdu=name.upper())[1:]:
            low, high = found.energy_range
            hdu.header["E_MIN"], hdu.header["E_MAX"] = (low, "TeV, of the fluxes"), (high, "TeV")
            hdus.append(hdu)
    with replacing(path) as temporary:
        hdus.writeto(temporary, overwrite=True)
    return path


def peaks_of(found, threshold: float, min_distance: float):
    """Peaks of sqrt(TS) (`pandas.DataFrame`) by `gammapy.estimators.utils.find_peaks`."""
    import pandas
    from astropy import units as u
    from gammapy.estimators.utils import find_peaks

    if not (np.isfinite(min_distance) and min_distance > 0):
        raise ValueError(f"min_distance must be a positive distance of peaks [deg], not {min_distance!r}")
    image = maps_of(found)["sqrt_ts"]
    # noise below the threshold is no peak, and pixels without a value are none
    image.data = np.where(np.isfinite(image.data), image.data, -np.inf)
    table = find_peaks(image, threshold=threshold, min_distance=min_distance * u.deg)
    x, y = (np.asarray(table[name], int) if len(table) else np.zeros(0, int) for name in ("x", "y"))
    names = ("lon", "lat", "sqrt_ts", "flux", "flux_err", "flux_ul", "npred")
    return pandas.DataFrame({name: getattr(found, name)[y, x] for name in names})
