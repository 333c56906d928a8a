"""Figures of maps of significance."""

from typing import Any

import numpy as np

from gammajax.plots.style import STYLE

SHOWN = 10.0  # standard deviations, up to which colours change
LABELS = {
    "icrs": ("right ascension [deg]", "declination [deg]"),
    "galactic": ("Galactic longitude [deg]", "Galactic latitude [deg]"),
}


def plot_significance(found, ax, peaks: Any):
    """sqrt(TS) with a colour bar, in given axes or a new figure; rings at the rows of the table `peaks`.

    Longitudes are those of the middle row: they are right to the width of the map squared.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from gammajax.common.ticks import PlainLinear

    with rc_context({**STYLE, "axes.spines.top": True, "axes.spines.right": True}):
        if ax is None:
            ax = Figure(figsize=(6.4, 5.4), layout="constrained").subplots()
        rows, columns = found.ts.shape
        row, column = found.lon[rows // 2], found.lat[:, columns // 2]
        half = 0.5 * found.step
        stretch = np.cos(np.radians(found.center[1]))
        extent: Any = (row[0] + half / stretch, row[-1] - half / stretch, column[0] - half, column[-1] + half)
        largest = float(np.nanmax(np.abs(found.sqrt_ts)))
        ax.set_facecolor("0.85")
        # faint structure stays visible beside a bright source
        limits: Any = {"vmin": -SHOWN / 2.0, "vmax": min(max(largest, SHOWN / 2.0), SHOWN)}
        image = ax.imshow(
            found.sqrt_ts, origin="lower", extent=extent, cmap="inferno", interpolation="nearest", **limits
        )
        ax.set_aspect(1.0 / stretch)
        label = r"$\sqrt{\mathrm{TS}}$ (negative for a negative flux)"
        ax.figure.colorbar(image, ax=ax, label=label, extend="both", format=PlainLinear())
        if peaks is not None and len(peaks):
            ax.plot(peaks["lon"], peaks["lat"], "o", mfc="none", mec="white", ms=12, mew=1.4, ls="none")
        lon, lat = LABELS.get(found.frame, ("longitude [deg]", "latitude [deg]"))
        ax.set(xlabel=lon, ylabel=lat)
    return ax
