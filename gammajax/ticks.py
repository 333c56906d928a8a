"""Tick labels that can be read: plain numbers in full, and no more of them than fit."""

from matplotlib.ticker import LogFormatter, MaxNLocator, ScalarFormatter


class PlainLog(LogFormatter):
    """0.1, 1, 10 rather than powers; ticks between decades get a label where there are few decades."""

    def __call__(self, x, pos=None):
        """Label of a tick, empty where it has none."""
        return f"{x:g}" if super().__call__(x, pos) else ""


def plain_ticks(axis, count: int = 6) -> None:
    """Label an axis with numbers in full, no power or offset apart from them; on a linear one at most `count` + 1."""
    if axis.get_scale() == "log":
        axis.set_major_formatter(PlainLog())
        axis.set_minor_formatter(PlainLog(minor_thresholds=(1.5, 0.5)))
        return
    axis.set_major_locator(MaxNLocator(count))
    axis.set_major_formatter(ScalarFormatter(useOffset=False))
