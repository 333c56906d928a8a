"""Axes of curves, and their labels."""

from gammajax.common.plot_units import unit_size


def curve_axes(
    ax, name: str, kind: str, limits: tuple, xlabel: str, ylabel: str, scale: str = "log", size: float = 1.0
):
    """Logarithmic axes for a curve between `limits`, the abscissa in `scale`; new axes if `ax` is None.

    `size` of the unit of the axis in that of the limits. Raises `ValueError` for wrong limits, with their `name` and
    the `kind` of their values.
    """
    import matplotlib.pyplot as plt

    from gammajax.common.ticks import plain_ticks, wrapped
    from gammajax.plots.style import BOXED

    low, high = limits
    if not low < high or (scale == "log" and not low > 0):
        raise ValueError(f"{name} must be two increasing positive {kind}, it is {limits}")
    if ax is None:
        with plt.rc_context(BOXED):
            ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")[1]
    ax.set(xscale=scale, yscale="log", xlabel=wrapped(xlabel, 60), ylabel=ylabel, xlim=(low / size, high / size))
    plain_ticks(ax.xaxis)
    plain_ticks(ax.yaxis)
    ax.grid(True, which="major", alpha=0.3, lw=0.6)
    return ax


def flux_label(power, unit: str = "TeV") -> str:
    """Label of an axis of E^power dN/dE with energies in a unit."""
    energy = {0: "", 1: "$E$ "}.get(power, f"$E^{{{power:g}}}$ ")
    left = {0: f"{unit}$^{{-1}}$ ", 1: "", 2: f"{unit} "}.get(power, f"{unit}$^{{{power - 1:g}}}$ ")
    return f"{energy}$dN/dE$ [{left}cm$^{{-2}}$ s$^{{-1}}$]"


def flux_scale(power, unit: str) -> float:
    """Factor on E^power dN/dE in powers of TeV for that `flux_unit`; raises `ValueError` for another unit."""
    return unit_size("flux_unit", unit) ** (1.0 - power)
