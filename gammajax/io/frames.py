"""Separations between directions that are given in different frames."""

# astropy carries no types
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import numpy as np
from jaxtyping import Float


def separations(
    first: Float[np.ndarray, "first 2"], frame: str, second: Float[np.ndarray, "second 2"], other: str
) -> Float[np.ndarray, "first second"]:
    """Separations [deg] between directions (lon, lat) [deg] in `frame` and directions in the frame `other`."""
    from astropy.coordinates import SkyCoord

    first_sky = SkyCoord(*first.T[:, :, None], unit="deg", frame=frame)
    return np.asarray(first_sky.separation(SkyCoord(*second.T, unit="deg", frame=other)).deg)
