"""Figure of residual maps: counts, model and significance."""

from typing import Any

import numpy as np

from gammajax.plots.counts import FRAMES
from gammajax.plots.style import COLOURS, STYLE

REACH = 5.0  # standard deviations at the ends of the colours, at least
BINS = 41  # of the distribution of significances


def plot_residuals(maps: Any):
    """Three panels with counts, model and sqrt(TS); excluded sky is hatched, sky outside the fields is white.

    Counts and model are sums within the radius of the significance, per square degree, on one scale.
    """
    from matplotlib import rc_context
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    from gammajax.common.ticks import PlainLinear, plain_ticks
    from gammajax.products.residuals import within

    stretch = max(np.cos(np.radians(maps.lat)), 1e-3)
    edges = np.append(maps.along - 0.5 * maps.step, maps.along[-1] + 0.5 * maps.step)
    sides = maps.lon + edges / stretch, maps.lat + edges
    middles = maps.lon + maps.along / stretch, maps.lat + maps.along
    area = np.maximum(within(maps.seen.astype(float), maps.radius / maps.step), 1.0) * maps.step**2
    smooth = [within(image, maps.radius / maps.step) / area for image in (maps.counts, maps.model)]
    shown = [np.where(maps.seen, image, np.nan) for image in (*smooth, maps.sqrt_ts)]
    most = max(float(np.nanmax(shown[0], initial=0.0)), float(np.nanmax(shown[1], initial=0.0))) or 1.0
    reach = max(REACH, float(np.nanmax(np.abs(maps.sqrt_ts), initial=0.0)))
    label = "events per square degree"
    looks = [
        ("counts", {"cmap": "magma", "norm": PowerNorm(0.5, 0.0, most)}, label),
        ("model", {"cmap": "magma", "norm": PowerNorm(0.5, 0.0, most)}, label),
        (f"significance within {maps.radius:.3g}°", {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}, None),
    ]
    labels = FRAMES[maps.frame]
    with rc_context({**STYLE, "axes.spines.top": True, "axes.spines.right": True, "hatch.linewidth": 0.6}):
        figure = Figure(figsize=(16.0, 4.9), layout="constrained")
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
            plain_ticks(axes.xaxis, period=360.0)
            plain_ticks(axes.yaxis)
            axes.set(xlabel=f"{labels[0]} [deg]", ylabel=f"{labels[1]} [deg]")
    return figure
