"""Figure of residual maps: counts, model and significance."""

from typing import Any

import numpy as np

from gammajax.common.plot_units import unit_size
from gammajax.plots.directions import label_sky
from gammajax.plots.style import BOXED, COLOURS, figure_of

REACH = 5.0  # standard deviations at the ends of the colours, at least
BINS = 41  # of the distribution of significances


def plot_residuals(maps: Any, figure=None, *, angle_unit: str = "deg"):
    """Three panels with counts, model and sqrt(TS); excluded sky is hatched, sky outside the fields is white.

    Counts and model are sums within the radius of the significance, per solid angle, on one scale.
    `figure`: a figure or subfigure to draw in; returns it. `angle_unit`: deg, arcmin or arcsec; other than degrees are
    offsets from the middle.

    Raises `ValueError` for another unit.
    """
    from matplotlib import rc_context
    from matplotlib.colors import PowerNorm

    from gammajax.common.ticks import PlainLinear
    from gammajax.products.residuals import within

    size = unit_size("angle_unit", angle_unit)
    stretch = max(np.cos(np.radians(maps.lat)), 1e-3)
    edges = np.append(maps.along - 0.5 * maps.step, maps.along[-1] + 0.5 * maps.step)
    sides = maps.lon + edges / stretch, maps.lat + edges
    middles = maps.lon + maps.along / stretch, maps.lat + maps.along
    area = np.maximum(within(maps.seen.astype(float), maps.radius / maps.step), 1.0) * maps.step**2
    smooth = [within(image, maps.radius / maps.step) / area * size**2 for image in (maps.counts, maps.model)]
    shown = [np.where(maps.seen, image, np.nan) for image in (*smooth, maps.sqrt_ts)]
    most = max(float(np.nanmax(shown[0], initial=0.0)), float(np.nanmax(shown[1], initial=0.0))) or 1.0
    reach = max(REACH, float(np.nanmax(np.abs(maps.sqrt_ts), initial=0.0)))
    label = f"events per {angle_unit}$^2$"
    angle = f"{maps.radius / size:.3g}" + ("°" if angle_unit == "deg" else f" {angle_unit}")
    looks = [
        ("counts", {"cmap": "magma", "norm": PowerNorm(0.5, 0.0, most)}, label),
        ("model", {"cmap": "magma", "norm": PowerNorm(0.5, 0.0, most)}, label),
        (f"significance within {angle}", {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}, None),
    ]
    with rc_context({**BOXED, "hatch.linewidth": 0.6}):
        figure = figure_of(figure, (16.0, 4.9))
        panels: Any = figure.subplots(1, 3)
        for axes, image, (title, look, unit) in zip(panels, shown, looks, strict=True):
            drawn = axes.pcolormesh(*sides, image, rasterized=True, **look)
            figure.colorbar(
                drawn, ax=axes, label=unit or r"$\sqrt{\mathrm{TS}}$ [$\sigma$]", shrink=0.85, format=PlainLinear()
            )
            if maps.excluded.any():
                axes.contourf(*middles, maps.excluded, levels=[0.5, 1.5], colors="none", hatches=["////"])
                axes.contour(*middles, maps.excluded, levels=[0.5], colors=COLOURS[3], linewidths=1.2)
                axes.fill_between([], [], [], facecolor="none", edgecolor=COLOURS[3], hatch="////", label="excluded")
                axes.legend(loc="lower left", fontsize=9, framealpha=0.8)
            axes.set(xlim=sides[0][[-1, 0]], ylim=sides[1][[0, -1]], aspect=1.0 / stretch, title=title)
            label_sky(axes, maps.lon, maps.lat, maps.frame, angle_unit)
    return figure
