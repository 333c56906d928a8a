"""Colours, styles and scales that plots share."""

from typing import Any

import numpy as np
from cycler import cycler

# six that everybody tells apart (Petroff 2021, arXiv:2107.02270), by any kind of colour vision
COLOURS = ["#e42536", "#5790fc", "#f89c20", "#964a8b", "#7a21dd", "#9c9ca1"]
STYLE: Any = {
    "font.size": 11,
    "axes.linewidth": 0.8,
    "axes.titlesize": 12,
    "xtick.major.pad": 7,  # labels at the corner of two axes keep apart
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
}
BOXED: Any = {**STYLE, "axes.spines.top": True, "axes.spines.right": True}

MARKERS = "os^Dvp"  # of the first, second, ... set of points
BANDS = {"95 %": 0.25, "68 %": 0.4}  # opacity of bands, the wide one behind the narrow one


def component_colours(names) -> dict[str, str]:
    """Colour of each component by the names of all, for every plot of several components."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def colours_beside(name: str, names, count: int) -> list[str]:
    """Colour of a component among all `names`, and `count` other colours for what is compared with it."""
    own = component_colours(names).get(name, COLOURS[0])
    others = [colour for colour in COLOURS if colour != own]
    return [own, *(others[i % len(others)] for i in range(count))]


def axes_in(ax, size: tuple[float, float]):
    """The axes that are given, or those of a new figure of this size [inch]."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained").subplots() if ax is None else ax


def figure_of(figure, size: tuple[float, float]) -> Any:
    """The figure or subfigure that is given, or a new figure of this size [inch]; laid out by its texts."""
    from matplotlib.figure import Figure

    if figure is None:
        return Figure(figsize=size, layout="constrained")
    if isinstance(figure, Figure) and figure.get_layout_engine() is None:
        figure.set_layout_engine("constrained")
    return figure


def _padded(values, part: float) -> tuple[float, float]:
    """Smallest and largest value, with a margin of this part of their distance; a small margin if they are equal."""
    low, high = float(values.min()), float(values.max())
    margin = part * (high - low) if high > low else 1e-3 * (abs(high) or 1.0)
    return low - margin, high + margin


def _size(values) -> float:
    """Number that sets the common power of ten: the median, or the spread if it is larger."""
    low, median, high = np.quantile(values, [0.1587, 0.5, 0.8413])
    return max(median, high - low, key=abs)


def _scale(value) -> tuple[float, str]:
    """Power of ten to factor out of very small or large numbers, and its label."""
    exponent = int(np.floor(np.log10(abs(value)))) if value else 0
    return (1.0, "") if -3 <= exponent <= 4 else (10.0**exponent, f"$10^{{{exponent}}}$")
