"""Labels of maps of the sky."""

import math

import numpy as np

from gammajax.common.plot_units import unit_size

LABELS = {
    "galactic": ("Galactic longitude", "Galactic latitude"),
    "icrs": ("right ascension", "declination"),
    "": ("longitude", "latitude"),
}


def label_sky(axes, lon: float, lat: float, frame: str = "", angle_unit: str = "deg", count: int = 5) -> None:
    """Label axes of directions [deg] within their present limits: with degrees, or with offsets from (lon, lat) [deg].

    The coordinates of the axes are degrees in any case. An offset in longitude is along the parallel through the
    middle. Raises `ValueError` for an unknown unit.
    """
    from matplotlib.ticker import MaxNLocator

    from gammajax.common.ticks import plain_ticks, wrapped

    size = unit_size("angle_unit", angle_unit)
    labels = LABELS.get(frame, LABELS[""])
    if angle_unit == "deg":
        plain_ticks(axes.xaxis, count, period=360.0)
        plain_ticks(axes.yaxis)
        axes.set(xlabel=f"{labels[0]} [deg]", ylabel=f"{labels[1]} [deg]")
        return
    steps = size / max(math.cos(math.radians(lat)), 1e-3), size
    for side, axis, label, middle, step in zip("xy", (axes.xaxis, axes.yaxis), labels, (lon, lat), steps, strict=True):
        low, high = ((end - middle) / step for end in sorted(axis.get_view_interval()))
        ticks = np.asarray(MaxNLocator(count).tick_values(low, high))
        ticks = ticks[(low <= ticks) & (ticks <= high)]
        axis.set_ticks(middle + step * ticks, [f"{tick:g}".replace("-", "\N{MINUS SIGN}") for tick in ticks])
        start = f"{middle % 360.0 if side == 'x' else middle:.5g}°"
        axes.set(**{f"{side}label": wrapped(f"{label} from {start} [{angle_unit}]", 40)})
