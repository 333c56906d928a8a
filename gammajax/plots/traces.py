"""Plots of chains, and of nested and tempered runs."""

import numpy as np

from gammajax.plots.style import COLOURS, STYLE, _padded, _scale, _size, figure_of

RANK_BINS = 20


def plot_trace(result, names=None, figure=None):
    """Chains by draw, distribution of their ranks, and marginal distribution of each chain.

    If the chains agree, the ranks of each chain among all draws are uniform (Vehtari et al. 2021, arXiv:1903.08008).
    `names`: quantities, or rows of the summary, by default all. `figure`: a figure or subfigure to draw in; returns it.

    Raises `ValueError` for unknown names.
    """
    from matplotlib import rc_context
    from scipy.ndimage import gaussian_filter1d
    from scipy.stats import rankdata

    from gammajax.common.ticks import labelled, plain_ticks

    chosen = result._chosen(names)
    with rc_context(STYLE):
        figure = figure_of(figure, (12.0, 2.3 * len(chosen) + 0.9))
        grid = figure.subplots(len(chosen), 3, squeeze=False, width_ratios=(2.0, 1.0, 1.0))
        for (trace, rank, marginal), (label, (name, index)) in zip(grid, chosen.items(), strict=True):
            draws = result.tree["posterior"][name].to_numpy()[(slice(None), slice(None), *index)].astype(float)
            factor, power = _scale(_size(draws))
            draws = draws / factor
            unit = " ".join(part for part in (power, result.units.get(name, "")) if part)
            ranks = rankdata(draws).reshape(draws.shape)
            rank_edges = np.linspace(0.5, draws.size + 0.5, min(RANK_BINS, max(draws.shape[1] // 5, 1)) + 1)
            edges = np.linspace(*_padded(draws, 0.03), 101)
            for chain, values in enumerate(draws):
                colour = COLOURS[(chain + 1) % len(COLOURS)]
                trace.plot(values, color=colour, lw=0.5, alpha=0.8, rasterized=True)
                rank.stairs(np.histogram(ranks[chain], rank_edges)[0], rank_edges, color=colour, lw=1.3, baseline=None)
                density = gaussian_filter1d(np.histogram(values, edges, density=True)[0], 2.5, mode="reflect")
                marginal.plot(0.5 * (edges[1:] + edges[:-1]), density, color=colour, lw=1.5)
            rank.axhline(draws.shape[1] / (len(rank_edges) - 1), color="0.4", lw=1.0, ls="--", zorder=0)
            rank.set(ylim=(0.0, None), yticks=[])
            marginal.set(ylim=(0.0, None), yticks=[], xlim=edges[[0, -1]])
            trace.set(ylim=edges[[0, -1]], xlim=(0, max(draws.shape[1] - 1, 1)))
            trace.set_ylabel(labelled(label, unit, 20))
            marginal.set_xlabel("value" + (f" [{unit}]" if unit else ""))
            plain_ticks(trace.yaxis)
            plain_ticks(marginal.xaxis, 3)
            for axes in (trace, rank):
                axes.tick_params(labelbottom=trace is grid[-1, 0])
        for axes, title in zip(grid[0], ("draws of each chain", "ranks by chain", "marginal by chain"), strict=True):
            axes.set_title(title)
        grid[-1, 0].set_xlabel("draw")
        grid[-1, 1].set_xlabel("rank among all draws")
    return figure


def plot_run(result, figure=None):
    """Course of a nested or tempered run.

    Nested sampling against -ln X with the remaining prior volume X: live points, likelihood, weights, accumulated
    evidence. Tempered run by step: temperature, effective particles, acceptance.
    `figure`: a figure or subfigure to draw in; returns it.

    Raises `ValueError` for a result of another kind.
    """
    from matplotlib import rc_context

    with rc_context(STYLE):
        if "weighted_stats" in result.tree.children and "log_volume" in result.tree["weighted_stats"]:
            return _nested(result, figure)
        if "smc_stats" in result.tree.children:
            return _tempered(result, figure)
    raise ValueError(f"a result by {result.tree.attrs['method']!r} keeps no run to plot; nested and smc do")


def live_points(log_likelihood, log_likelihood_birth) -> np.ndarray:
    """Number of live points at the death of each point: born below its likelihood, and not dead before."""
    died = np.sort(log_likelihood)
    born = np.searchsorted(np.sort(log_likelihood_birth), log_likelihood, side="left")
    return born - np.searchsorted(died, log_likelihood, side="left")


def _nested(result, figure):
    stats = {str(name): a.to_numpy() for name, a in result.tree["weighted_stats"].data_vars.items()}
    order = np.argsort(-stats["log_volume"], kind="stable")
    x, weights = -stats["log_volume"][order], result.weights[order]
    log_likelihood = stats["log_likelihood"][order]
    live = live_points(stats["log_likelihood"], stats["log_likelihood_birth"])[order]
    figure = figure_of(figure, (7.5, 8.5))
    top, middle, mass, evidence = figure.subplots(4, 1, sharex=True)
    top.plot(x, live, color=COLOURS[1], lw=1.5)
    top.set(ylabel="live points", ylim=(0.0, None))
    middle.plot(x, log_likelihood - log_likelihood.max(), color=COLOURS[1], lw=1.5)
    # far below the peak ln L falls without end
    finite = log_likelihood[np.isfinite(log_likelihood)] - log_likelihood.max()
    deep = 10.0 * max(-np.quantile(finite, 0.5), 1.0)
    middle.set(ylabel="ln L below\nits largest", ylim=(max(finite.min(), -deep) * 1.05, 0.05 * deep))
    edges = np.linspace(x[0], x[-1], 101)
    density = np.histogram(x, edges, weights=weights)[0]
    mass.stairs(density / density.max(), edges, fill=True, color=COLOURS[1], alpha=0.3)
    mass.plot(x, np.cumsum(weights), color=COLOURS[0], lw=1.5)
    mass.text(0.02, 0.9, "share of the posterior so far", color=COLOURS[0], transform=mass.transAxes, va="top")
    mass.text(0.02, 0.7, "weight", color=COLOURS[1], transform=mass.transAxes, va="top")
    mass.set(ylabel="posterior", ylim=(0.0, 1.08))
    value, error = result.log_evidence or (0.0, np.nan)
    with np.errstate(divide="ignore"):
        grown = np.log(np.cumsum(weights))
    evidence.plot(x, grown, color=COLOURS[1], lw=1.5)
    if np.isfinite(error):
        evidence.axhspan(-error, error, color=COLOURS[0], alpha=0.3, lw=0)
    evidence.axhline(0.0, color=COLOURS[0], lw=1.0)
    known = f"ln Z = {value:.2f} ± {error:.2f}" if result.log_evidence else "relative to the end"
    evidence.set_title(known, fontsize=11, color=COLOURS[0], loc="right", y=0.97 if not np.isfinite(error) else 1.0)
    low = max(-6.0, min(grown[np.isfinite(grown)].min(), -1.0))
    evidence.set(ylim=(low, 0.12 * -low + (error if np.isfinite(error) else 0.0)), ylabel="ln Z so far,\nless its end")
    evidence.set(xlabel="-ln X, prior volume left", xlim=x[[0, -1]])
    return figure


def _tempered(result, figure):
    from gammajax.common.ticks import plain_ticks

    stats = {str(name): a.to_numpy() for name, a in result.tree["smc_stats"].data_vars.items()}
    labels = {"temperature": "temperature", "ess": "effective particles", "acceptance": "acceptance"}
    shown = [name for name in labels if name in stats]
    if not shown:
        raise ValueError(f"smc_stats must hold temperature, ess or acceptance, not {list(stats)}")
    step = 1 + np.arange(len(stats[shown[0]]))
    figure = figure_of(figure, (7.5, 0.8 + 2.1 * len(shown)))
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, shown, strict=True):
        axes.plot(step, stats[name], "o-", color=COLOURS[1], ms=4, lw=1.5)
        axes.set_ylabel(labels[name])
        # temperatures rise by factors, from zero for the prior
        if name == "temperature":
            axes.set_yscale("log")
            plain_ticks(axes.yaxis)
        else:
            axes.set_ylim(0.0, 1.08 * max(stats[name].max(), 1.0 if name == "acceptance" else 0.0))
    panels[-1].set(xlabel="step", xlim=(0.5, len(step) + 0.5))
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    if result.log_evidence:
        panels[0].set_title("ln Z = {:.2f} ± {:.2f}".format(*result.log_evidence), loc="right", fontsize=11)
    return figure
