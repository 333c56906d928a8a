"""Excluded sky given as regions, region files or masks, rasterised to an `Exclusion`."""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false

import os
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from gammajax.instrument.observation import Exclusion
from gammajax.instrument.sky import Grid
from gammajax.io.files import expand, one_line, read_text
from gammajax.io.sky_regions import SUCH_AS, contains, local_axes, negated, parse_ds9
from gammajax.io.skymap import HealpixPixels

STEP = 0.02  # deg


def exclusion_map(exclusion, lon: float, lat: float, frame: str, radius: float) -> Exclusion | None:
    """Raster of 0.02 deg about the pointing (lon, lat) [deg] that covers `radius` [deg].

    `exclusion` is one of

    - None or an empty list, or an `Exclusion`, returned as it is;
    - a sky region of the `regions` package, or a list of them;
    - a text in the DS9 region format, as "icrs; circle(83.6, 22.5, 0.2)", with a region in each line, or the path of
      such a file; or a list of texts and paths;
    - a gammapy mask of the sky without further axes, `WcsNDMap` or all-sky `HpxNDMap`: true or 1 where the sky is
      kept, false or 0 where it is excluded. Outside of it the sky is kept.

    All regions together are one set, as in DS9: a pixel is excluded when its centre lies in any region, and in no
    negated one (`-circle(...)`), in whichever order they come. Negated regions alone are refused. The sphere decides,
    not a projection: a region may lie anywhere and be of any size.

    Raises `ValueError` for anything else, with the line of the text, and `FileNotFoundError` for a missing file.
    """
    if exclusion is None or isinstance(exclusion, Exclusion):
        return exclusion
    found = [] if hasattr(exclusion, "geom") else _sky_regions(exclusion)
    if not found and not hasattr(exclusion, "geom"):
        return None
    from astropy.coordinates import SkyCoord

    grid = Grid(lon, lat, STEP, radius)
    x, y, z = np.moveaxis(_centres(grid, lon, lat), -1, 0)
    centres = SkyCoord(np.arctan2(y, x), np.arctan2(z, np.hypot(x, y)), unit="rad", frame=frame)
    excluded = _in_regions(found, centres) if found else _outside_mask(exclusion, centres)
    return Exclusion(grid, jnp.asarray(excluded))


def _centres(grid, lon, lat) -> Float[np.ndarray, "y x 3"]:
    """Centres of pixels as unit vectors, in double precision."""
    x, y = np.meshgrid(*[np.radians((np.arange(grid.size) - 0.5 * (grid.size - 1)) * grid.step)] * 2)
    distance = 2.0 * np.arcsin(np.minimum(0.5 * np.hypot(x, y), 1.0))
    angle = np.arctan2(x, y)
    components = [np.cos(distance), np.sin(distance) * np.sin(angle), np.sin(distance) * np.cos(angle)]
    return np.stack(components, axis=-1) @ local_axes(*np.radians((lon, lat)))


def _in_regions(found, centres) -> Bool[np.ndarray, "y x"]:
    known = []  # the centres in each frame that regions have

    def vectors_in(frame):
        for other, vectors in known:
            if frame.is_equivalent_frame(other):
                return vectors
        try:
            there = centres.frame.transform_to(frame.replicate_without_data()).represent_as("unitspherical")
        except (ValueError, TypeError, AttributeError) as error:  # a frame without its time and place
            raise ValueError(f"{centres.frame.name} cannot be transformed to {frame.name}: give it in icrs") from error
        vectors = np.moveaxis(np.asarray(there.to_cartesian().xyz.value), 0, -1)
        known.append((frame, vectors))
        return vectors

    included, taken_out = np.zeros((2, *centres.shape), bool)
    for number, (region, place) in enumerate(found, 1):
        place = place or f"region {number} of the exclusion, a {type(region).__name__},"
        try:
            inside = contains(region, vectors_in)
        except ValueError as error:
            raise ValueError(f"{place} cannot be excluded: {one_line(error)}") from error
        if negated(region):
            taken_out |= inside
        else:
            included |= inside
    if all(negated(region) for region, _ in found):
        raise ValueError(
            "all regions of the exclusion are negated, and there is nothing to take them out of: to exclude a circle, "
            "write circle(...) without the minus; to keep nothing else, exclude the whole sky, circle(0, 0, 180), too"
        )
    return included & ~taken_out


def _outside_mask(mask, centres) -> Bool[np.ndarray, "y x"]:
    from astropy.wcs.utils import wcs_to_celestial_frame

    geom = mask.geom
    if geom.is_region:
        raise ValueError("the exclusion mask must be an image of the sky; of a region, give mask.geom.region")
    if not all(axis.nbin == 1 for axis in geom.axes):
        raise ValueError(f"the exclusion mask must be an image, it has the axes {geom.axes.names}")
    data = np.asarray(mask.data)
    if geom.is_hpx:
        if not geom.is_allsky:
            raise ValueError("the exclusion mask must be a HEALPix map of the whole sky, or a WcsNDMap")
        there = centres.transform_to(geom.frame).spherical
        pixels = HealpixPixels(int(geom.nside[0]), geom.nest, geom.frame)
        values, inside = data.reshape(-1)[pixels.find(there.lon.deg, there.lat.deg)], True
    else:
        image = geom.to_image()
        # the frame with its equinox, which gammapy leaves out
        there = centres.transform_to(wcs_to_celestial_frame(image.wcs)).spherical
        there = there.lon, there.lat
        x, y = image.coord_to_idx(there, clip=True)
        values, inside = data.reshape(image.data_shape)[y, x], image.contains(there)
    wrong = inside & (values != 0) & (values != 1)
    if wrong.any():
        raise ValueError(
            "the exclusion mask must be true or 1 where sky is kept and false or 0 where it is excluded; it has the "
            f"value {values[wrong][0]:g} in the field of view"
        )
    return inside & (values == 0)


def _sky_regions(exclusion) -> list:
    """Pairs of a sky region and its place for messages."""
    from regions import Regions, SkyRegion

    if isinstance(exclusion, (str, os.PathLike)):
        return _read(exclusion)
    if isinstance(exclusion, SkyRegion):
        return [(exclusion, "")]
    if isinstance(exclusion, (list, tuple, Regions)):
        return [pair for item in exclusion for pair in _sky_regions(item)]
    raise ValueError(f"the exclusion must be made of sky regions, {SUCH_AS}, not {type(exclusion).__name__}")


def _read(exclusion) -> list:
    """Regions in a text or a file."""
    from regions import SkyRegion

    expanded = Path(os.path.expandvars(os.path.expanduser(exclusion)))
    if isinstance(exclusion, str) and re.search(r"[\n;(]", exclusion) and not os.path.exists(expanded):
        origin, text = "the exclusion", exclusion
    else:
        path = expand(exclusion)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such region file; a region itself is written {SUCH_AS}")
        origin = str(path)
        with open(path, "rb") as file:
            if file.read(9) == b"SIMPLE  =":
                raise ValueError(f"{path} is a FITS file; give a mask as exclusion=Map.read(path), regions as DS9 text")
        try:
            text = read_text(path)
        except ValueError as error:
            raise ValueError(f"{path} cannot be read as DS9 regions: {error}") from error
    if text.startswith("#CRTF"):
        raise ValueError(f"{origin} is in the CRTF format; give exclusion=regions.Regions.read(path, format='crtf')")
    found = parse_ds9(text, origin)
    if not found:
        raise ValueError(f"{origin} holds no DS9 region with a frame, {SUCH_AS}")
    for region, place in found:
        if not isinstance(region, SkyRegion):
            raise ValueError(f"{place} must be made of sky regions, {SUCH_AS}, not {type(region).__name__}")
    return found
