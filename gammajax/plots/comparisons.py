"""Comparison of models."""

import numpy as np

from gammajax.plots.style import COLOURS, STYLE, figure_of


def plot_comparison(comparison, names=None, figure=None):
    """Differences to the best model, with errors: of the log evidence, and of the predictive score of all events.

    - `names` of the models to draw, by default all; the best of all is drawn in any case.
    - `figure`: a figure or subfigure to draw in; returns it.

    Raises `ValueError` for unknown names, and if the models have no criterion in common.
    """
    from matplotlib import rc_context

    first = next(iter(comparison.models))
    chosen = list(comparison.models) if names is None else [names] if isinstance(names, str) else list(names)
    unknown = [name for name in chosen if name not in comparison.models]
    if unknown:
        raise ValueError(f"no model {unknown} in the comparison; there are {', '.join(comparison.models)}")
    names = [first, *(name for name in chosen if name != first)]
    models = {name: comparison.models[name] for name in names}
    best = models[first]
    panels = []
    if all(one.log_evidence is not None for one in models.values()):
        own = np.array([one.log_evidence for one in models.values()])
        error = np.hypot(own[:, 1], own[0, 1])
        error[0] = 0.0
        panels.append(("ln Z", own[:, 0] - own[0, 0], error))
    if best.scores is not None and set(names) <= set(comparison.elpd_difference):
        values, errors = ([of[name] for name in names] for of in (comparison.elpd_difference, comparison.elpd_error))
        panels.append(("elpd of all events", values, errors))
    if all(one.aic is not None for one in models.values()):
        panels.append(("-AIC / 2", [-0.5 * (one.aic - best.aic) for one in models.values()], None))
    if not panels:
        raise ValueError("these models have no criterion in common to draw")
    with rc_context(STYLE):
        figure = figure_of(figure, (1.5 + 3.0 * len(panels), 1.3 + 0.35 * len(names)))
        for i, (axes, (title, values, errors)) in enumerate(
            zip(np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels, strict=True)
        ):
            axes.errorbar(values, np.arange(len(names)), xerr=errors, fmt="o", color=COLOURS[i], capsize=3)
            axes.axvline(0.0, color="0.6", lw=0.8, zorder=0)
            axes.set(xlabel=f"{title}, less that of {names[0]}", yticks=np.arange(len(names)), yticklabels=names)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_ylabel("model" if i == 0 else "")
    return figure
