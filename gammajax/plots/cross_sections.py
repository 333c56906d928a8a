"""Figures of limits against mass: bands of experiments, observed limits, and the thermal relic."""

import numpy as np

from gammajax.common.plot_units import unit_size
from gammajax.model.quantities import LABELS, Quantity
from gammajax.plots.style import BANDS, BOXED, COLOURS, MARKERS, axes_in, component_colours
from gammajax.statistics.forecasts import DISCOVERY

# cm^3 s^-1, Steigman et al. 2012 (arXiv:1204.3622), above 10 GeV; older work takes 3e-26
THERMAL_RELIC = 2.2e-26


def draw_bands(ax, x, expected, level: float, colour: str = COLOURS[1]) -> None:
    """Median limit with its 68 % and 95 % bands [band, value]."""
    low2, low1, median, high1, high2 = expected
    one = {"marker": "o", "ms": 4} if np.size(x) == 1 else {}
    for (part, alpha), low, high in zip(BANDS.items(), (low2, low1), (high2, high1), strict=True):
        ax.fill_between(x, low, high, color=colour, alpha=alpha, lw=2 if one else 0, label=f"{part} of experiments")
    ax.plot(x, median, color="black", lw=1.6, ls="--", label=f"median {100 * level:g} % CL upper limit", **one)


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
    plain_ticks(ax.yaxis)
    ax.tick_params(which="both", direction="in", top=True, right=True)
    ax.legend(fontsize=9, framealpha=0.85, edgecolor="none")


def plot_expected(found, ax, xlabel: str | None, ylabel: str | None, unit, energy_unit: str = "TeV"):
    """Expected limits and discovery against another parameter; see [`gammajax.Sensitivity.plot`][]."""
    from matplotlib import rc_context

    size = unit_size("energy_unit", energy_unit)
    is_mass = xlabel is None and found.along_quantity is not None and found.along_quantity.field == "mass"
    if energy_unit != "TeV" and not is_mass:
        raise ValueError(f"energy_unit is of a dark-matter mass, and {found.along!r} is none in this plot")
    x_label, x_unit = _axis(found.along, found.along_quantity, xlabel, None)
    y_label, unit = _axis(found.scale, found.scale_quantity, ylabel, unit)
    order = np.argsort(found.values)
    x = found.values[order] * x_unit / size
    with rc_context(BOXED):
        ax = axes_in(ax, (6.8, 5.0))
        draw_bands(ax, x, found.limits[:, order] * unit, found.level)
        ax.plot(
            x,
            found.discovery[order] * unit,
            color=COLOURS[0],
            lw=1.6,
            ls="-.",
            label=rf"median {DISCOVERY:g} $\sigma$ discovery",
            **({"marker": "s", "ms": 4} if x.size == 1 else {}),
        )
        if found.scale_quantity is not None and found.scale_quantity.field == "sigma_v":
            draw_relic(ax, THERMAL_RELIC / found.scale_quantity.factor * unit)
        finish(ax, x, x_label.replace("TeV", energy_unit) if is_mass else x_label, y_label)
    return ax


def _axis(name: str, quantity: Quantity | None, label: str | None, unit) -> tuple[str, float]:
    """Label and unit of an axis: as given, else from the model, else the name of the parameter."""
    if quantity is None or label is not None:
        return label or name, 1.0 if unit is None else unit
    unit = quantity.factor if unit is None else unit
    return quantity.label if np.isclose(unit, quantity.factor, rtol=1e-3, atol=0.0) else name, unit


def plot_limits(limits, ax, channel: str | None, others: dict, *, energy_unit: str = "TeV"):
    """Observed and expected limits against mass; see [`gammajax.Limits.plot`][]."""
    from matplotlib import rc_context

    size = unit_size("energy_unit", energy_unit)
    every = list(dict.fromkeys(limits.channels))
    if channel is not None and channel not in every:
        raise ValueError(f"there is no channel {channel!r}; choose from {every}")
    names = every if channel is None else [channel]
    shown, alone = np.array([name in names for name in limits.channels]), len(names) == 1
    # a channel has the same colour alone and beside others
    colours = component_colours(every)
    left = [colour for colour in COLOURS if colour not in [colours[name] for name in names]] or COLOURS
    with rc_context(BOXED):
        ax = axes_in(ax, (6.8, 5.0))
        for name in names:
            rows = np.array([one == name for one in limits.channels])
            x, expected, observed = limits.mass[rows] / size, limits.expected[:, rows], limits.limit[rows]
            if np.all(np.isfinite(expected)):
                if alone:
                    draw_bands(ax, x, expected, limits.level, colours[name])
                else:
                    ax.plot(x, expected[2], color=colours[name], lw=1.2, ls="--", label=f"{name}, median expected")
            if np.any(np.isfinite(observed)):
                label = f"observed {100 * limits.level:g} % CL upper limit" if alone else f"{name}, observed"
                ax.plot(x, observed, color="black" if alone else colours[name], lw=1.6, marker="o", ms=4, label=label)
        for i, (label, one) in enumerate(others.items()):
            rows = np.array([name in names for name in one.channels])
            line = one.limit if np.any(np.isfinite(one.limit)) else one.expected[2]
            style = {"lw": 1.4, "ls": "-.", "marker": MARKERS[1 + i % (len(MARKERS) - 1)], "ms": 3}
            ax.plot(one.mass[rows] / size, line[rows], color=left[i % len(left)], label=label, **style)
        if limits.unit == "cm^3 s^-1":
            draw_relic(ax)
        field = {"cm^3 s^-1": "sigma_v", "s^-1": "decay_rate"}.get(limits.unit)
        label = LABELS["mass"].replace("TeV", energy_unit)
        finish(ax, np.sort(limits.mass[shown]) / size, label, LABELS[field] if field else "scale of the signal")
        named = [limits.target] if limits.target != "target" else []  # that of no name
        ax.set_title(", ".join(named + ([names[0]] if len(names) == 1 and names[0] else [])), fontsize=11)
    return ax
