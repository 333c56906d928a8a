"""Figures of flux points and light curves: with residuals, limits, and the correlation of the points."""

from typing import Any

import numpy as np

from gammajax.common.curves import flux_label, flux_scale
from gammajax.common.plot_units import span_text, unit_size
from gammajax.plots.style import BANDS, BOXED, MARKERS, axes_in, colours_beside

LIMIT = 0.6  # length of the arrow of a limit, as a part of the limit


def plot_flux_points(
    points,
    others: dict,
    energy_power: float | int = 2,
    ax=None,
    *,
    energy_unit: str = "TeV",
    flux_unit: str = "TeV",
):
    """Points with errors, arrows for upper limits, the band of the fit to all energies, and residuals below.

    Returns the axes of the points. In given axes `ax` there are no residuals. Residuals are (norm - 1) / error, with
    the error on the side of the fit. `others`: more points by label; they are moved a little to the right, and share
    the residuals if they have the same reference. `energy_unit` of the abscissa and `flux_unit`, the energy in
    E^2 dN/dE: eV, keV, MeV, GeV, TeV, PeV or erg.

    Raises `ValueError` for another unit.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from gammajax.common.ticks import plain_ticks

    size, scale = unit_size("energy_unit", energy_unit), flux_scale(energy_power, flux_unit)
    with rc_context(BOXED):
        panels: Any = (ax,)
        if ax is None:
            panels = Figure(figsize=(7.0, 5.8), layout="constrained").subplots(
                2, 1, sharex=True, height_ratios=[3.0, 1.0]
            )
        above, below = panels[0], panels[1] if len(panels) > 1 else None
        colours = colours_beside(points.component, points.components, len(others))
        if points.band.size:
            energy = points.band_energy
            low, middle, high = points.band * energy**energy_power * scale
            above.fill_between(
                energy / size, low, high, color=colours[0], alpha=BANDS["95 %"], lw=0, label="fit to all energies, 68 %"
            )
            above.plot(energy / size, middle, color=colours[0], lw=1.2)
        of = {points.component: points, **others}
        for i, (label, one) in enumerate(of.items()):
            shift, marker = 1.0 + 0.04 * i, MARKERS[i % len(MARKERS)]
            power = one.energy_ref**energy_power * one.dnde_ref * scale
            _draw(above, one, power, shift, size, colours[i], label, marker)
            if below is None:
                continue
            # the reference of these points, at the energies of the others
            expected = np.exp(np.interp(np.log(one.energy_ref), np.log(points.energy_ref), np.log(points.dnde_ref)))
            expected = points.dnde_ref if np.array_equal(one.energy_ref, points.energy_ref) else expected
            away = one.norm - expected / one.dnde_ref
            error = np.where(away > 0, one.norm_errn, one.norm_errp) / one.n_sigma
            shown = ~one.is_ul
            place = (one.energy_ref * shift / size)[shown]
            below.errorbar(place, (away / error)[shown], yerr=1.0, fmt=marker, color=colours[i], ms=4.5, lw=1.2)
        limits = points.energy_edges[[0, -1]] * [0.93, 1.07] / size
        above.set(xscale="log", yscale="log", ylabel=flux_label(energy_power, flux_unit), xlim=limits)
        if below is not None:
            below.axhline(0.0, color=colours[0], lw=1.2)
            below.set_ylabel("(point - fit)\n/ error")
            reach = max(2.5, *np.abs(below.get_ylim()))
            below.set_ylim(-reach, reach)
        panels[-1].set(xlabel=f"energy [{energy_unit}]")
        plain_ticks(panels[-1].xaxis)
        plain_ticks(above.yaxis)
        for axes in panels:
            axes.grid(True, which="major", alpha=0.3, lw=0.6)
        above.legend(frameon=False)
    return above


def _draw(axes, points, power, shift, size, colour, label, marker) -> None:
    """Points with errors in both directions, and arrows below upper limits; `size` of the unit of energy."""
    limit, energy = points.is_ul, points.energy_ref * shift / size
    across = np.abs(np.stack([points.energy_edges[:-1], points.energy_edges[1:]]) / size - energy)
    value, ul = points.norm * power, points.norm_ul * power
    axes.errorbar(
        energy[~limit],
        value[~limit],
        xerr=across[:, ~limit],
        yerr=np.stack([points.norm_errn, points.norm_errp])[:, ~limit] * power[~limit],
        fmt=marker,
        color=colour,
        ms=4.5,
        lw=1.2,
        label=label,
    )
    some = limit & np.isfinite(ul)
    if some.any():
        axes.errorbar(
            energy[some],
            ul[some],
            xerr=across[:, some],
            yerr=LIMIT * ul[some],
            uplims=True,
            fmt="none",
            color=colour,
            lw=1.2,
            capsize=2.5,
        )


def plot_correlation(points, ax=None, *, energy_unit: str = "TeV"):
    """Correlation matrix of the norms, by energy, in the axes `ax` or those of a new figure; returns the axes.

    `energy_unit`: eV, keV, MeV, GeV, TeV, PeV or erg. Raises `ValueError` for another one.
    """
    from matplotlib import rc_context

    from gammajax.common.ticks import plain_ticks

    with rc_context(BOXED):
        axes = axes_in(ax, (5.6, 4.8))
        edges = np.asarray(points.energy_edges) / unit_size("energy_unit", energy_unit)
        image = axes.pcolormesh(edges, edges, points.correlation, cmap="RdBu_r", vmin=-1.0, vmax=1.0)
        label = f"energy [{energy_unit}]"
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel=label, aspect="equal")
        for axis in (axes.xaxis, axes.yaxis):
            plain_ticks(axis)
        axes.figure.colorbar(image, ax=axes, label="correlation of the norms", shrink=0.88)
    return axes


def plot_light_curve(curve, ax, others: dict, *, time_unit: str = "d", energy_unit: str = "TeV"):
    """Fluxes with errors against time, arrows for limits, and the weighted mean of `curve` with its error.

    Without times the abscissa is the number of the bin. `others`: more light curves by label. `time_unit`: MJD, or d,
    h, min and s from the start of the first day; `energy_unit` of the range of the flux. Returns the axes.

    Raises `ValueError` for another unit.
    """
    from matplotlib import rc_context

    from gammajax.common.ticks import plain_ticks

    day = unit_size("time_unit", time_unit)
    timed = bool(np.all(np.isfinite(curve.time_min)))
    # of days over years, and of minutes in a night
    start = np.floor(curve.time_min.min()) if timed and time_unit != "MJD" else 0.0
    inverse = np.linalg.inv(curve.covariance)
    mean, error = inverse.sum(0) @ curve.norm / inverse.sum() * curve.flux_ref, curve.flux_ref / np.sqrt(inverse.sum())
    power = 10.0 ** np.floor(np.log10(mean)) if mean > 0 else 1.0
    colours = colours_beside(curve.component, curve.components, len(others))
    with rc_context(BOXED):
        ax = axes_in(ax, (7.0, 4.2))
        span = (mean - error) / power, (mean + error) / power
        ax.axhspan(*span, color=colours[0], alpha=BANDS["95 %"], lw=0, label="mean, 68 %")
        for i, (label, one) in enumerate({curve.component: curve, **others}.items()):
            numbers = np.arange(one.norm.size) + np.array([[-0.4], [0.4]])
            ends = (np.stack([one.time_min, one.time_max]) - start) / day if timed else numbers
            limit = one.is_ul
            middle = ends.mean(0) + 0.08 * i * (ends[1] - ends[0])
            flux, ul = one.flux / power, one.norm_ul * one.flux_ref / power
            errors = np.stack([one.norm_errn, one.norm_errp]) * one.flux_ref / power
            across = np.stack([middle - ends[0], ends[1] - middle])
            style = {"color": colours[i], "lw": 1.2, "ms": 4.5}
            ax.errorbar(
                middle[~limit],
                flux[~limit],
                xerr=across[:, ~limit],
                yerr=errors[:, ~limit],
                fmt=MARKERS[i % len(MARKERS)],
                label=label,
                **style,
            )
            if limit.any():
                ax.errorbar(
                    middle[limit],
                    ul[limit],
                    xerr=across[:, limit],
                    yerr=0.3 * ul[limit],
                    uplims=True,
                    fmt="none",
                    capsize=2.5,
                    **style,
                )
        low, high = np.array(curve.energy_range) / unit_size("energy_unit", energy_unit)
        scale = f"10$^{{{int(np.log10(power))}}}$ "
        time = "time [MJD]" if time_unit == "MJD" else f"time since MJD {start:.0f} [{time_unit}]"
        ax.set(
            xlabel=time if timed else "number of the bin",
            ylabel=f"flux, {span_text(low, high, energy_unit)}\n[{scale}cm$^{{-2}}$ s$^{{-1}}$]",
        )
        handles, labels = ax.get_legend_handles_labels()
        # above the points, since no place between them is free of error bars
        ax.set_ylim(0.0, (1.0 + 0.1 * -(-len(handles) // 3)) * ax.get_ylim()[1])
        plain_ticks(ax.xaxis)
        ax.grid(True, which="major", alpha=0.3, lw=0.6)
        ax.legend(handles, labels, frameon=False, loc="upper right", ncols=3)
    return ax
