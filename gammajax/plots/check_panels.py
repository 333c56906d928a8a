"""Figure of a check: counts of the data against bands of simulated data sets, by quantity."""

from typing import Any

import numpy as np

from gammajax.common.plot_units import unit_size
from gammajax.plots.directions import label_sky
from gammajax.plots.style import BANDS, COLOURS, STYLE, figure_of

COLUMNS = 3
WIDE, HIGH = 5.0, 3.9  # of a panel
LABELS = 12  # observations that are named
RATIO = 20.0  # of the ends of the edges, from which on an axis is logarithmic


def plot_check(check: Any, names=None, figure=None, *, energy_unit: str = "TeV", angle_unit: str = "deg"):
    """Panels of counts per bin with the 68 and 95 % bands of replicates, and below the deviation from the fit.

    Pixels of the sky are a map of deviations.

    - `names` of the quantities to draw, by default all. - `figure`: a figure or subfigure to draw in; returns it.
    - `energy_unit` (eV, keV, MeV, GeV, TeV, PeV, erg), `angle_unit` (deg, arcmin, arcsec) of the axes.

    Raises `ValueError` for unknown names and units, and for no name.
    """
    from matplotlib import rc_context

    units = {"TeV": (energy_unit, unit_size("energy_unit", energy_unit))}
    units["deg"] = angle_unit, unit_size("angle_unit", angle_unit)
    names = [names] if isinstance(names, str) else names
    panels = check.quantities if names is None else [check[name] for name in names]
    if not len(panels):
        raise ValueError("names must hold a quantity of the check")
    lines = -(-len(panels) // COLUMNS)
    with rc_context({**STYLE, "font.size": 10, "axes.titlesize": 10}):
        figure = figure_of(figure, (WIDE * min(COLUMNS, len(panels)), HIGH * lines + 0.6))
        grid: Any = figure.subfigures(lines, min(COLUMNS, len(panels)), squeeze=False)
        for number, quantity in enumerate(panels):
            part = grid[number // COLUMNS, number % COLUMNS]
            if quantity.places.size:
                _sky(part, quantity, angle_unit)
            else:
                _panel(part, quantity, number == 0, *units.get(quantity.unit, (quantity.unit, 1.0)))
        figure.suptitle(
            f"{check.replicas} simulated data sets: p = {check.p_value:.2g} of all tests; worst: {check.worst}",
            fontsize=11,
        )
    return figure


def _title(quantity) -> str:
    from gammajax.common.ticks import wrapped

    return f"{wrapped(quantity.name, 40)}: p = {quantity.p_value:.2g}"


def _panel(figure, quantity, named: bool, unit: str, size: float) -> None:
    from gammajax.common.ticks import labelled, plain_ticks, wrapped

    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1.0))
    edges = np.asarray(quantity.edges, float) / size
    by_density = quantity.name.endswith("log-density")
    if by_density:
        edges[[0, -1]] = edges[1] - (edges[2] - edges[1]), edges[-2] + (edges[-2] - edges[-3])
    band, middle = quantity.band, 0.5 * (edges[1:] + edges[:-1])
    logarithmic = quantity.unit == "TeV" and edges[0] > 0
    middle = np.sqrt(edges[1:] * edges[:-1]) if logarithmic else middle
    for (part, alpha), (low, high) in zip(BANDS.items(), ((0, 3), (1, 2)), strict=True):
        label = f"{part} of simulated"
        above.stairs(band[high], edges, baseline=band[low], fill=True, color=COLOURS[1], alpha=alpha, lw=0, label=label)
    above.stairs(quantity.expected, edges, baseline=None, color=COLOURS[1], lw=1.2, label="fit")
    above.errorbar(middle, quantity.count, np.sqrt(quantity.count), fmt="o", ms=3, lw=0.9, color="black", label="data")
    if logarithmic:
        above.set(xscale="log")
    positive = quantity.count[quantity.count > 0]
    if positive.size and quantity.count.max() > RATIO * positive.min():
        above.set(yscale="log", ylim=(0.4 * min(positive.min(), 3.0), 3.0 * quantity.count.max()))
    else:
        above.set_ylim(0.0, 1.35 * max(quantity.count.max() + np.sqrt(quantity.count.max()), band.max()))
        plain_ticks(above.yaxis)
    above.set(ylabel="counts per bin", title=_title(quantity), xlim=edges[[0, -1]])
    if named:
        above.legend(frameon=False, fontsize=8, loc="upper right", ncols=2)
    for height, alpha in ((2.0, 0.12), (1.0, 0.2)):
        below.axhspan(-height, height, color=COLOURS[1], alpha=alpha, lw=0)
    below.axhline(0.0, color="0.4", lw=0.8)
    below.plot(middle, quantity.deviation, "o", ms=3, color="black")
    reach = max(3.2, 1.15 * np.abs(quantity.deviation).max())
    label = labelled(wrapped(quantity.name.split(" within ")[0], 40), unit)
    if quantity.unit == "MJD":
        label = "time [MJD]"
    if by_density:
        label = r"ln density [TeV$^{-1}$ sr$^{-1}$]"
    below.set(ylim=(-reach, reach), ylabel="deviation\n[$\\sigma$]", xlabel=label)
    if quantity.labels:
        some = np.unique(np.linspace(0, middle.size - 1, min(middle.size, LABELS)).astype(int))
        below.set_xticks(middle[some], [quantity.labels[i] for i in some], rotation=60, fontsize=8)
    else:
        plain_ticks(below.xaxis, 4)


def _sky(figure, quantity, angle_unit: str) -> None:
    axes = figure.subplots()
    lon, lat = quantity.places.T
    lon = lon[0] + (lon - lon[0] + 180.0) % 360.0 - 180.0
    stretch = np.cos(np.radians(lat.mean()))
    reach = max(3.0, np.abs(quantity.deviation).max())
    step = float(quantity.labels[0].split(", ")[-1].split()[0])
    half = 0.5 * step
    ends = [(lon.max() + half / stretch, lon.min() - half / stretch), (lat.min() - half, lat.max() + half)]
    axes.set(xlim=ends[0], ylim=ends[1], aspect=1.0 / stretch, title=_title(quantity))
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    width = step / stretch
    squares = PatchCollection(
        [Rectangle((a - 0.5 * width, b - half), width, step) for a, b in zip(lon, lat, strict=True)],
        cmap="RdBu_r",
        lw=0,
    )
    squares.set_array(quantity.deviation)
    squares.set_clim(-reach, reach)
    axes.add_collection(squares)
    figure.colorbar(squares, ax=axes, label=r"deviation [$\sigma$]", shrink=0.85)
    label_sky(axes, 0.5 * sum(ends[0]), 0.5 * sum(ends[1]), "", angle_unit, 4)
