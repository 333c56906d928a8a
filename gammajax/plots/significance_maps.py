"""Figures of maps of significance and of the flux that would be detected."""

from typing import Any

import numpy as np

from gammajax.common.plot_units import span_text, unit_size
from gammajax.plots.directions import label_sky
from gammajax.plots.style import BOXED, axes_in

SHOWN = 10.0  # standard deviations, up to which colours change
FAR = 4.0  # times the lowest flux, likewise


def plot_significance(found, ax, peaks: Any, *, angle_unit: str = "deg"):
    """sqrt(TS) with a colour bar, in given axes or a new figure; rings at the rows of the table `peaks`."""
    largest = float(np.nanmax(np.abs(found.sqrt_ts)))
    # faint structure stays visible beside a bright source
    limits: Any = {"vmin": -SHOWN / 2.0, "vmax": min(max(largest, SHOWN / 2.0), SHOWN)}
    label = r"$\sqrt{\mathrm{TS}}$ [$\sigma$], negative for a negative flux"
    ax = _drawn(found, found.sqrt_ts, ax, label, "both", limits, angle_unit)
    if peaks is not None and len(peaks):
        # white with a black rim, on faint and on bright sky
        for colour, width in (("black", 3.2), ("white", 1.6)):
            ax.plot(peaks["lon"], peaks["lat"], "o", mfc="none", mec=colour, ms=12, mew=width, ls="none")
    return ax


def plot_sensitivity(found, ax, *, energy_unit: str = "TeV", angle_unit: str = "deg"):
    """Flux that would be detected, with a colour bar that ends at four times the lowest."""
    lowest, largest = float(np.nanmin(found.flux)), float(np.nanmax(found.flux))
    limits: Any = {"vmin": lowest, "vmax": min(largest, FAR * lowest)}
    low, high = np.array(found.energy_range) / unit_size("energy_unit", energy_unit)
    label = rf"flux at ${found.significance:.3g}\,\sigma$, {span_text(low, high, energy_unit)} [cm$^{{-2}}$ s$^{{-1}}$]"
    return _drawn(found, found.flux, ax, label, "max" if largest > FAR * lowest else "neither", limits, angle_unit)


def _drawn(found, values, ax, label: str, extend: str, limits, angle_unit: str):
    """An image with a colour bar.

    Longitudes are those of the middle row: they are right to the width of the map squared.
    """
    from matplotlib import rc_context

    from gammajax.common.ticks import PlainLinear

    with rc_context(BOXED):
        rows, columns = values.shape
        # as high as the map, so that the colour bar is no higher
        ax = axes_in(ax, (6.4, 0.8 + 4.6 * float(np.clip(rows / columns, 0.4, 1.6))))
        row, column = found.lon[rows // 2], found.lat[:, columns // 2]
        half = 0.5 * found.step
        stretch = np.cos(np.radians(found.center[1]))
        extent: Any = (row[0] + half / stretch, row[-1] - half / stretch, column[0] - half, column[-1] + half)
        ax.set_facecolor("0.85")
        image = ax.imshow(values, origin="lower", extent=extent, cmap="inferno", interpolation="nearest", **limits)
        ax.set_aspect(1.0 / stretch)
        ax.figure.colorbar(image, ax=ax, label=label, extend=extend, format=PlainLinear())
        label_sky(ax, found.center[0], found.center[1], found.frame, angle_unit)
    return ax
