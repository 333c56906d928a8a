"""Figures of flux points and light curves: with residuals, limits, and the correlation of the points."""

from typing import Any

import numpy as np

from gammajax.common.curves import flux_label
from gammajax.plots.style import COLOURS, STYLE

LIMIT = 0.6  # length of the arrow of a limit, as a part of the limit


def plot_flux_points(points, others: dict, energy_power: float | int = 2, ax=None):
    """Points with errors, arrows for upper limits, the band of the fit to all energies, and residuals below.

    In given axes `ax` there are no residuals. Residuals are (norm - 1) / error, with the error on the side of the fit.
    `others`: more points by label; they are moved a little to the right, and share the residuals if they have the same
    reference.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from gammajax.common.ticks import plain_ticks

    with rc_context({**STYLE, "axes.spines.top": True, "axes.spines.right": True}):
        panels: Any = (ax,)
        if ax is None:
            panels = Figure(figsize=(7.0, 5.8), layout="constrained").subplots(
                2, 1, sharex=True, height_ratios=[3.0, 1.0]
            )
        above, below = panels[0], panels[1] if len(panels) > 1 else None
        if points.band.size:
            energy = points.band_energy
            low, middle, high = points.band * energy**energy_power
            above.fill_between(energy, low, high, color=COLOURS[1], alpha=0.25, lw=0, label="fit to all energies, 68 %")
            above.plot(energy, middle, color=COLOURS[1], lw=1.2)
        of = {points.component: points, **others}
        for i, (label, one) in enumerate(of.items()):
            colour, shift = COLOURS[(0, 3, 4, 2)[i % 4]], 1.0 + 0.04 * i
            _draw(above, one, one.energy_ref**energy_power * one.dnde_ref, shift, colour, label, "os^D"[i % 4])
            if below is None:
                continue
            # the reference of these points, at the energies of the others
            expected = np.exp(np.interp(np.log(one.energy_ref), np.log(points.energy_ref), np.log(points.dnde_ref)))
            expected = points.dnde_ref if np.array_equal(one.energy_ref, points.energy_ref) else expected
            away = one.norm - expected / one.dnde_ref
            error = np.where(away > 0, one.norm_errn, one.norm_errp) / one.n_sigma
            shown = ~one.is_ul
            below.errorbar(
                (one.energy_ref * shift)[shown],
                (away / error)[shown],
                yerr=1.0,
                fmt="os^D"[i % 4],
                color=colour,
                ms=4.5,
                lw=1.2,
            )
        above.set(yscale="log", ylabel=flux_label(energy_power), xlim=points.energy_edges[[0, -1]] * [0.93, 1.07])
        if below is not None:
            below.axhline(0.0, color=COLOURS[1], lw=1.2)
            below.set_ylabel("(point - fit)\n/ error")
            reach = max(2.5, *np.abs(below.get_ylim()))
            below.set_ylim(-reach, reach)
        panels[-1].set(xlabel="energy [TeV]", xscale="log")
        plain_ticks(panels[-1].xaxis)
        for axes in panels:
            axes.grid(True, which="major", alpha=0.3, lw=0.6)
        above.legend(frameon=False)
    return above.figure


def _draw(axes, points, power, shift, colour, label, marker) -> None:
    """Points with errors in both directions, and arrows below upper limits."""
    limit, energy = points.is_ul, points.energy_ref * shift
    across = np.abs(np.stack([points.energy_edges[:-1], points.energy_edges[1:]]) - energy)
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


def plot_correlation(points, ax=None):
    """Correlation matrix of the norms, by energy, in the axes `ax` or a new figure."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from gammajax.common.ticks import plain_ticks

    with rc_context(STYLE):
        axes = Figure(figsize=(5.6, 4.8), layout="constrained").subplots() if ax is None else ax
        edges = np.asarray(points.energy_edges)
        image = axes.pcolormesh(edges, edges, points.correlation, cmap="RdBu_r", vmin=-1.0, vmax=1.0)
        axes.set(xscale="log", yscale="log", xlabel="energy [TeV]", ylabel="energy [TeV]", aspect="equal")
        for axis in (axes.xaxis, axes.yaxis):
            plain_ticks(axis)
        axes.figure.colorbar(image, ax=axes, label="correlation of the norms")
    return axes.figure


def plot_light_curve(curve, ax, others: dict):
    """Fluxes with errors against time, arrows for limits, and the weighted mean of `curve` with its error.

    Without times the abscissa is the number of the bin. `others`: more light curves by label.
    """
    timed = bool(np.all(np.isfinite(curve.time_min)))
    # of days over years, and of minutes in a night
    start = np.floor(curve.time_min.min()) if timed else 0.0
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(7.0, 4.2), layout="constrained").subplots()
    inverse = np.linalg.inv(curve.covariance)
    mean, error = inverse.sum(0) @ curve.norm / inverse.sum() * curve.flux_ref, curve.flux_ref / np.sqrt(inverse.sum())
    power = 10.0 ** np.floor(np.log10(mean)) if mean > 0 else 1.0
    ax.axhspan((mean - error) / power, (mean + error) / power, color=COLOURS[1], alpha=0.25, lw=0, label="mean")
    for i, (label, one) in enumerate({curve.component: curve, **others}.items()):
        ends = (
            np.stack([one.time_min, one.time_max]) - start
            if timed
            else np.arange(one.norm.size) + np.array([[-0.4], [0.4]])
        )
        middle, limit, colour = ends.mean(0), one.is_ul, COLOURS[(0, 3, 4, 2)[i % 4]]
        middle = middle + 0.08 * i * (ends[1] - ends[0])
        flux, ul = one.flux / power, one.norm_ul * one.flux_ref / power
        errors = np.stack([one.norm_errn, one.norm_errp]) * one.flux_ref / power
        across = np.stack([middle - ends[0], ends[1] - middle])
        style = {"color": colour, "lw": 1.2, "ms": 4.5}
        ax.errorbar(
            middle[~limit],
            flux[~limit],
            xerr=across[:, ~limit],
            yerr=errors[:, ~limit],
            fmt="os^D"[i % 4],
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
    low, high = curve.energy_range
    scale = f"10$^{{{int(np.log10(power))}}}$ "
    ax.set(
        xlabel=f"MJD - {start:.0f}" if timed else "bin",
        ylabel=f"flux, {low:.3g} to {high:.3g} TeV [{scale}cm$^{{-2}}$ s$^{{-1}}$]",
    )
    ax.set_ylim(bottom=0.0)
    ax.grid(True, which="major", alpha=0.3, lw=0.6)
    ax.legend(frameon=False)
    return ax
