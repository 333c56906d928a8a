"""Figures of limits against mass: bands of experiments, observed limits, and the thermal relic."""

import numpy as np

from gammajax.plots.style import COLOURS

# cm^3 s^-1, Steigman et al. 2012 (arXiv:1204.3622), above 10 GeV; older work takes 3e-26
THERMAL_RELIC = 2.2e-26


def draw_bands(ax, x, expected, level: float) -> None:
    """Median limit with its 68 % and 95 % bands [band, value]."""
    low2, low1, median, high1, high2 = expected
    one = {"marker": "o", "ms": 4} if np.size(x) == 1 else {}
    ax.fill_between(x, low2, high2, color="#ffe066", lw=2 if one else 0, label="95 % of experiments")
    ax.fill_between(x, low1, high1, color="#7bc96f", lw=2 if one else 0, label="68 % of experiments")
    ax.plot(x, median, color="black", lw=1.8, label=f"median {100 * level:g} % CL upper limit", **one)


def draw_relic(ax, height: float = THERMAL_RELIC) -> None:
    """Line of the cross section of a thermal relic."""
    ax.axhline(height, color="0.35", lw=1.2, ls=":", label="thermal relic (Steigman et al. 2012)")


def finish(ax, x, xlabel: str, ylabel: str) -> None:
    """Scales, labels, ticks and legend."""
    from gammajax.common.ticks import plain_ticks, wrapped

    wide = x[0] > 0 and x[-1] > 3.0 * x[0]
    ax.set(xscale="log" if wide else "linear", yscale="log", xlabel=wrapped(xlabel, 60), ylabel=wrapped(ylabel, 40))
    if x.size > 1:
        ax.set_xlim(x[0], x[-1])
    plain_ticks(ax.xaxis)
    ax.tick_params(which="both", direction="in", top=True, right=True)
    ax.legend(fontsize=9, framealpha=0.85, edgecolor="none")


def plot_limits(limits, ax, channel: str | None, others: dict):
    """Observed and expected limits against mass; see [`gammajax.Limits.plot`][]."""
    from gammajax.model.quantities import LABELS

    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(6.8, 5.0), layout="constrained").subplots()
    names = list(dict.fromkeys(limits.channels))
    if channel is not None and channel not in names:
        raise ValueError(f"there is no channel {channel!r}; choose from {names}")
    names = names if channel is None else [channel]
    shown = np.array([name in names for name in limits.channels])
    for i, name in enumerate(names):
        rows = np.array([one == name for one in limits.channels])
        x, expected, observed = limits.mass[rows], limits.expected[:, rows], limits.limit[rows]
        alone, colour = len(names) == 1, COLOURS[(0, 1, 3, 4, 2, 5)[i % 6]]
        if np.all(np.isfinite(expected)):
            if alone:
                draw_bands(ax, x, expected, limits.level)
            else:
                ax.plot(x, expected[2], color=colour, lw=1.2, ls="--", label=f"{name}, median expected")
        if np.any(np.isfinite(observed)):
            label = f"observed {100 * limits.level:g} % CL upper limit" if alone else f"{name}, observed"
            ax.plot(x, observed, color=colour, lw=1.6, marker="o", ms=4, label=label)
    for i, (label, one) in enumerate(others.items()):
        rows = np.array([name in names for name in one.channels])
        line = one.limit if np.any(np.isfinite(one.limit)) else one.expected[2]
        colour = COLOURS[(1, 3, 4, 2, 5)[i % 5]]
        ax.plot(one.mass[rows], line[rows], color=colour, lw=1.4, ls="-.", marker="s", ms=3, label=label)
    if limits.unit == "cm^3 s^-1":
        draw_relic(ax)
    field = {"cm^3 s^-1": "sigma_v", "s^-1": "decay_rate"}.get(limits.unit)
    finish(ax, np.sort(limits.mass[shown]), LABELS["mass"], LABELS[field] if field else "scale of the signal")
    title = limits.target if len(names) > 1 else f"{limits.target}, {names[0]}" if names[0] else limits.target
    ax.set_title(title, fontsize=11)
    return ax
