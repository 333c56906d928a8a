"""Excluded sky given as regions, region files or masks, rasterised to an `Exclusion`."""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from gammajax.io.files import expand, one_line
from gammajax.observation import Exclusion
from gammajax.sky import Grid

SUCH_AS = "such as 'icrs; circle(83.6, 22.0, 0.2)'"

STEP = 0.02  # deg


def exclusion_map(exclusion, lon: float, lat: float, frame: str, radius: float) -> Exclusion | None:
    """Raster of 0.02 deg about the pointing (lon, lat) [deg] that covers `radius` [deg].

    `exclusion` is one of

    - None or an empty list, or an `Exclusion`, returned as it is;
    - a sky region of the `regions` package, or a list of them;
    - a text in the DS9 region format, as "icrs; circle(83.6, 22.5, 0.2)", with a region in each line, or the path of
      such a file; or a list of texts;
    - a gammapy `WcsNDMap` without further axes, true where the sky is kept.

    A pixel is excluded when its centre lies in any region. Raises `ValueError` for anything else.
    """
    if exclusion is None or isinstance(exclusion, Exclusion):
        return exclusion
    if isinstance(exclusion, (list, tuple)) and not exclusion:
        return None
    from astropy.coordinates import SkyCoord

    grid = Grid(lon, lat, STEP, radius)
    centres = SkyCoord(*(np.asarray(c, float) for c in grid.directions()), unit="deg", frame=frame)
    if hasattr(exclusion, "geom"):
        excluded = _outside_mask(exclusion, centres)
    else:
        excluded = np.zeros(centres.shape, bool)
        wcs = _projection(grid, lon, lat, frame)
        for region in _sky_regions(exclusion):
            excluded |= region.contains(centres, wcs)
    return Exclusion(grid, jnp.asarray(excluded))


def _outside_mask(mask, centres):
    if not mask.geom.is_image:
        raise ValueError(f"the exclusion mask must be an image, it has the axes {mask.geom.axes.names}")
    index = mask.geom.coord_to_idx(centres, clip=True)
    return mask.geom.contains(centres) & ~np.asarray(mask.data, bool)[index[::-1]]


def _sky_regions(exclusion):
    from regions import Regions, SkyRegion

    if isinstance(exclusion, (list, tuple)) and all(isinstance(text, str) for text in exclusion):
        return [region for text in exclusion for region in _sky_regions(text)]
    if isinstance(exclusion, (str, os.PathLike)):
        path = expand(exclusion)
        is_text = isinstance(exclusion, str) and ("(" in exclusion or "\n" in exclusion)
        if not is_text and not path.is_file():
            raise FileNotFoundError(f"{path}: no such region file; a region itself is written {SUCH_AS}")
        try:
            text = exclusion if is_text else Path(path).read_text()
            exclusion = Regions.parse(text, format="ds9")
        except ValueError as error:
            raise ValueError(f"the exclusion is not in the DS9 region format ({one_line(error)})") from error
        if len(exclusion) == 0:
            raise ValueError(f"the exclusion holds no DS9 region with a frame, {SUCH_AS}")
    regions = [exclusion] if isinstance(exclusion, SkyRegion) else list(exclusion)
    for region in regions:
        if not isinstance(region, SkyRegion):
            raise ValueError(f"the exclusion must be made of sky regions, {SUCH_AS}, not {type(region).__name__}")
    return regions


def _projection(grid, lon, lat, frame):
    """The projection of the grid as a `WCS`."""
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---ZEA", "DEC--ZEA"] if frame == "icrs" else ["GLON-ZEA", "GLAT-ZEA"]
    wcs.wcs.crval = [lon, lat]
    wcs.wcs.crpix = [0.5 * (grid.size + 1)] * 2
    wcs.wcs.cdelt = [-grid.step, grid.step]
    if frame == "icrs":
        wcs.wcs.radesys = "ICRS"
    return wcs
