"""Readable labels: full numbers at few ticks, and long names broken into lines."""

import math
import re

import numpy as np
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator, NullFormatter

WIDTH = 28  # letters of a line


class PlainLinear(Formatter):
    """Full numbers, 1.25e6 or 83.6305, instead of 1.25 or 0.0005 with a power or offset at the end of the axis."""

    def __init__(self, period: float | None = None):
        self.period = period
        self.ticks = np.zeros(0)

    def set_locs(self, locs):
        """Keep the ticks, which set the number of digits."""
        self.ticks = np.asarray(locs, float)

    def __call__(self, x, pos=None):
        """Label of a tick, with enough digits to distinguish all ticks; modulo `period` if there is one."""
        ticks = np.unique(np.append(self.ticks, x))
        size, step = np.abs(ticks).max(), np.diff(ticks).min() if ticks.size > 1 else abs(x)
        exponent = math.floor(math.log10(size)) if size > 0 else 0
        exponent = 0 if -4 <= exponent <= 5 else exponent
        scaled, step = ticks / 10.0**exponent, step / 10.0**exponent
        digits = next((n for n in range(15) if np.all(np.abs(scaled - np.round(scaled, n)) <= 1e-3 * step)), 15)
        if self.period is not None:
            x = round(x % self.period, digits) % self.period  # rounding leaves 359.9999 for 0
        power = f"e{exponent}" if exponent and x else ""
        return self.fix_minus(f"{x / 10.0**exponent:.{digits if x else 0}f}{power}")


class RoundLog(LogLocator):
    """Powers of ten, also 3 or 2 and 5 times these for few decades; as on a linear axis below a factor of three."""

    def __init__(self, count: int):
        super().__init__(numticks=count + 3)
        self.count = count

    def tick_values(self, vmin, vmax):
        """Ticks between two limits."""
        low, high = sorted((vmin, vmax))
        if high < 3.0 * low:
            return MaxNLocator(self.count).tick_values(low, high)
        self.set_params(subs=(1.0, 2.0, 5.0) if high < 30.0 * low else (1.0, 3.0) if high < 300.0 * low else (1.0,))
        return super().tick_values(low, high)


class PlainLog(PlainLinear):
    """Full numbers, or a power of ten and its factor where all ticks are very small or large, 2 x 10^-11."""

    def __call__(self, x, pos=None):
        """Label of a tick."""
        ticks = np.append(self.ticks, x)
        if np.ptp(ticks) and ticks.max() < 3.0 * ticks.min():
            return super().__call__(x)
        if 1e-4 < ticks.min() and ticks.max() < 1e6:
            return f"{x:g}"
        factor, power = f"{x:e}".split("e")
        times = "" if float(factor) == 1.0 else rf"{float(factor):g}\times "
        return f"${times}10^{{{int(power)}}}$"


def plain_ticks(axis, count: int = 5, period: float | None = None) -> None:
    """Label an axis with about `count` full numbers, whatever its limits.

    Ticks of a logarithmic axis are powers of ten, also 3 or 2 and 5 times these for few decades, and as on a linear
    axis for a range below a factor of three. With `period`, for example of longitudes, numbers run from zero to it.
    """
    low, high = sorted(axis.get_view_interval())
    if max(abs(low), abs(high)) > 1e4 * (high - low) and axis.axis_name == "x":
        count = max(1, count // 2)  # labels with many digits need space
    log = axis.get_scale() == "log"
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_locator(RoundLog(count) if log else MaxNLocator(count))
    axis.set_major_formatter(PlainLog() if log else PlainLinear(period))


def inner_ticks(low: float, high: float) -> np.ndarray:
    """At least two round numbers, away from both ends: labels at the ends of neighbouring panels would overlap."""
    inside = np.zeros(0)
    for count in range(4, 12):
        ticks = np.asarray(MaxNLocator(count).tick_values(low, high))
        inside = ticks[np.abs(ticks - 0.5 * (low + high)) < 0.4 * (high - low)]
        if inside.size > 1:
            break
    return inside


def labelled(name: str, unit: str, width: int = WIDTH) -> str:
    """Name and unit; the unit has its own line if one line is too long."""
    lines = wrapped(name, width)
    if not unit:
        return lines
    return f"{lines} [{unit}]" if len(wrapped(f"{name} [{unit}]", width).split("\n")) == 1 else f"{lines}\n[{unit}]"


def wrapped(label: str, width: int = WIDTH) -> str:
    """The label in lines of at most `width` letters, broken after spaces and underscores, and within long words."""
    lines = [""]
    for part in re.findall(r"\$[^$]*\$\s?|[^\s_$]+[\s_]?|[\s_]", label):
        letters = len(re.sub(r"[$^{}\\]", "", part))
        if lines[-1] and len(re.sub(r"[$^{}\\]", "", lines[-1])) + letters > width:
            lines.append("")
        while letters > width and "$" not in part:
            lines[-1], part, letters = part[:width], part[width:], letters - width
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines if line.strip())
