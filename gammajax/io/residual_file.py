"""Significances of counts by gammapy, and residual maps as FITS files."""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gammajax.common.writing import replacing
from gammajax.io.files import to_write

IMAGES = ("COUNTS", "MODEL", "SQRT_TS", "LI_MA", "EXCLUDED", "SEEN")


def significances(
    on: Float[np.ndarray, "*shape"], off: Float[np.ndarray, "*shape"], alpha: float
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Root of the test statistic of counts against alpha x off, and Li & Ma's with the statistics of both.

    By `gammapy.stats.CashCountsStatistic` and `WStatCountsStatistic`; NaN where nothing is expected.
    """
    from gammapy.stats import CashCountsStatistic, WStatCountsStatistic

    some = off > 0
    safe = np.where(some, off, 1.0)
    known = np.asarray(CashCountsStatistic(on, alpha * safe).sqrt_ts, float)
    both = np.asarray(WStatCountsStatistic(on, safe, alpha).sqrt_ts, float)
    return np.where(some, known, np.nan), np.where(some, both, np.nan)


def write_residuals(maps: Any, path, overwrite: bool) -> Path:
    """Write residual maps; raises `FileExistsError` if the file exists and `overwrite` is false."""
    from astropy.io import fits

    path = to_write(path, overwrite)
    hdus: list = [fits.PrimaryHDU()]
    for name in IMAGES:
        values = getattr(maps, name.lower())
        # east is on the left, as on the sky
        image = values[:, ::-1].astype(np.int16 if values.dtype == bool else np.float64)
        hdu = fits.ImageHDU(image, header=header_of(maps), name=name)
        hdus.append(hdu)
    with replacing(path) as temporary:
        fits.HDUList(hdus).writeto(temporary, overwrite=True)
    return path


def header_of(maps: Any):
    """Header with the coordinates of the pixels: the equal-area projection of their grid."""
    from astropy.io import fits

    kind = ("GLON", "GLAT") if maps.frame == "galactic" else ("RA--", "DEC-")
    middle = 0.5 * (maps.counts.shape[0] + 1)
    header = fits.Header()
    for axis, (name, value, step) in enumerate(
        zip(kind, (maps.lon, maps.lat), (-maps.step, maps.step), strict=True), start=1
    ):
        header[f"CTYPE{axis}"], header[f"CUNIT{axis}"] = f"{name}-ZEA", "deg"
        header[f"CRVAL{axis}"], header[f"CDELT{axis}"], header[f"CRPIX{axis}"] = value, step, middle
    if maps.frame == "icrs":
        header["RADESYS"] = "ICRS"
    header["RADIUS"] = (maps.radius, "[deg] of the circles of significances")
    header["DATASET"] = maps.name
    return header
