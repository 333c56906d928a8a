"""Comparison of models."""

import numpy as np

from gammajax.plots.style import COLOURS, STYLE


def plot_comparison(comparison):
    """Differences to the best model, with errors: of the log evidence, and of the predictive score of all events."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = list(comparison.models)
    best = comparison.models[names[0]]
    panels = []
    if all(one.log_evidence is not None for one in comparison.models.values()):
        own = np.array([comparison.models[name].log_evidence for name in names])
        error = np.hypot(own[:, 1], own[0, 1])
        error[0] = 0.0
        panels.append(("ln Z", own[:, 0] - own[0, 0], error))
    if best.scores is not None and set(names) == set(comparison.elpd_difference):
        values, errors = ([of[name] for name in names] for of in (comparison.elpd_difference, comparison.elpd_error))
        panels.append(("elpd of all events", values, errors))
    if all(one.aic is not None for one in comparison.models.values()):
        panels.append(("-AIC / 2", [-0.5 * (comparison.models[name].aic - best.aic) for name in names], None))
    with rc_context(STYLE):
        figure = Figure(figsize=(1.5 + 3.0 * len(panels), 1.3 + 0.35 * len(names)), layout="constrained")
        for i, (axes, (title, values, errors)) in enumerate(
            zip(np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels, strict=True)
        ):
            axes.errorbar(values, np.arange(len(names)), xerr=errors, fmt="o", color=COLOURS[i], capsize=3)
            axes.axvline(0.0, color="0.6", lw=0.8, zorder=0)
            axes.set(xlabel=f"{title}, less that of {names[0]}", yticks=np.arange(len(names)), yticklabels=names)
            axes.set_ylim(len(names) - 0.5, -0.5)
    return figure
