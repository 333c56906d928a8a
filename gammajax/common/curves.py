"""Axes of curves, and their labels."""


def curve_axes(ax, name: str, kind: str, limits: tuple, xlabel: str, ylabel: str, scale: str = "log"):
    """Logarithmic axes for a curve between `limits`, the abscissa in `scale`; new axes if `ax` is None.

    Raises `ValueError` for wrong limits, with their `name` and the `kind` of their values.
    """
    import matplotlib.pyplot as plt

    from gammajax.common.ticks import plain_ticks, wrapped

    low, high = limits
    if not low < high or (scale == "log" and not low > 0):
        raise ValueError(f"{name} must be two increasing positive {kind}, it is {limits}")
    ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")[1] if ax is None else ax
    ax.set(xscale=scale, yscale="log", xlabel=wrapped(xlabel, 60), ylabel=ylabel, xlim=(low, high))
    plain_ticks(ax.xaxis)
    ax.grid(True, which="major", alpha=0.3, lw=0.6)
    return ax


def flux_label(power) -> str:
    """Label of an axis of E^power dN/dE."""
    energy = {0: "", 1: "$E$ "}.get(power, f"$E^{{{power:g}}}$ ")
    unit = {0: "TeV$^{-1}$ ", 1: "", 2: "TeV "}.get(power, f"TeV$^{{{power - 1:g}}}$ ")
    return f"{energy}$dN/dE$ [{unit}cm$^{{-2}}$ s$^{{-1}}$]"
