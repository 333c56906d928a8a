"""Corner plot of the draws of a posterior."""

import inspect
from typing import Any

import numpy as np

from gammajax.common.parameters import check_labels
from gammajax.plots.style import BOXED, COLOURS, _padded, _scale, _size

FEWEST = 10  # draws in a corner plot
BINS = 30  # of 2000 effective draws or more; of fewer by the fourth root, for contours that are not ragged
PANEL, PAD = 2.2, 0.08  # of a corner plot [inch]
CORNER = {
    "truth_color": COLOURS[0],
    "color": COLOURS[1],
    "smooth": 1.2,
    "smooth1d": 1.0,
    "levels": (0.393, 0.865),
    "quantiles": (0.1587, 0.5, 0.8413),
    "plot_datapoints": False,
    "fill_contours": True,
    "max_n_ticks": 4,
    "labelpad": 0.02,
}


def plot_corner(result, names=None, truths: dict | None = None, figure=None, **options):
    """One- and two-dimensional marginal distributions, with 68 % intervals, 39 % and 86 % contours, and true values.

    - `names`: quantities, or rows of the summary, in drawing order; by default all.
    - `truths`: true values by quantity, by default those of the result.
    - `figure`: a `matplotlib.figure.Figure` to draw in, which gets the size of the plot; or that of another corner plot
      of as many numbers, to draw over it. Returns the figure.
    - `options` of `corner.corner` (`bins`, `color`, `smooth`, `levels`, `quantiles`, ...).

    Raises `ValueError` for too few draws for a histogram, for a subfigure or a figure with other axes, and for unknown
    names, truths and options.
    """
    from corner import corner
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from gammajax.common.ticks import labelled, wrapped

    check_options("plot_corner", options, corner_options(), ("names", "truths", "figure"))
    truths = result.truths if truths is None else truths
    check_labels({name: values.shape[1:] for name, values in result.samples.items()}, truths)
    numbers = result._chosen(names)
    draws = len(next(iter(result.samples.values())))
    if draws < max(FEWEST, 2 * len(numbers)):
        raise ValueError(f"{draws} draws are too few for a corner plot of {len(numbers)} numbers; see Result.messages")
    if figure is not None and (not isinstance(figure, Figure) or len(figure.axes) not in (0, len(numbers) ** 2)):
        raise ValueError(f"figure must be a Figure, empty or with a corner plot of {len(numbers)} numbers")
    weighted = all(name in result.weighted for name, _ in numbers.values())
    columns, labels, marks, titles, ranges, weights = [], [], [], [], [], None
    for label, (name, index) in numbers.items():
        shown = result.samples[name][(slice(None), *index)].astype(float)
        values, weights = result._points(label) if weighted else (shown, None)
        factor, power = _scale(_size(shown))
        unit = " ".join(part for part in (power, result.units.get(name, "")) if part)
        columns.append(values / factor)
        labels.append(labelled(label, unit))
        value = _interval(result._quantiles(label, [0.1587, 0.5, 0.8413]) / factor)
        if len(unit) < 10:
            lines = wrapped(label)
            titles.append(f"{lines}{' ' if len(lines) < 12 else chr(10)}= {value}" + (f" {unit}" if unit else ""))
        else:
            titles.append(f"{labels[-1]}\n= {value}")
        truth = np.asarray(truths[name])[index] if name in truths else None
        marks.append(None if truth is None else float(truth) / factor)
        # of the draws: weighted points of nested sampling fill the prior
        ranges.append(_padded(np.append(shown / factor, [] if truth is None else marks[-1]), 0.0))
    effective = draws if weights is None else 1.0 / np.sum(weights**2)
    bins = int(np.clip(BINS * (effective / 2000.0) ** 0.25, 8, BINS))
    count = len(columns)
    with rc_context({**BOXED, "figure.autolayout": False, "figure.constrained_layout.use": False}):
        if figure is None:
            figure = Figure(figsize=(2.4 * count + 1.2, 2.4 * count + 1.2))
        figure.set_layout_engine(None)  # panels are laid out by their texts
        corner(
            np.stack(columns, axis=1),
            fig=figure,
            labels=labels,
            # corner accepts no true value for a single number
            truths=marks if count > 1 and any(mark is not None for mark in marks) else None,
            **{**CORNER, "bins": bins, "range": ranges, "weights": weights, **options},
        )
        if count == 1 and marks[0] is not None:
            figure.axes[0].axvline(marks[0], color=options.get("truth_color", CORNER["truth_color"]))
        grid = np.array(figure.axes).reshape(count, count)
        for i, title in enumerate(titles):
            grid[i, i].set_title(title, fontsize=11)
        _lay_out(figure, grid)
    return figure


def _lay_out(figure, grid):
    """Set the panel sizes of a corner plot by their texts, and the margins by the texts at the edges."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.ticker import ScalarFormatter

    from gammajax.common.ticks import PlainLinear, inner_ticks

    renderer: Any = FigureCanvasAgg(figure).get_renderer()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), ScalarFormatter) and len(axis.get_ticklocs()):
                axis.set_ticks(inner_ticks(*sorted(axis.get_view_interval())))
                axis.set_major_formatter(PlainLinear())
                axis.set_tick_params(labelrotation=45)

    def inches(texts):
        sizes = [text.get_window_extent(renderer) for text in texts]
        return [max((getattr(s, side) for s in sizes), default=0.0) / figure.dpi for side in ("width", "height")]

    below, beside = [a.xaxis for a in grid[-1]], [a.yaxis for a in grid[1:, 0]]
    _, numbers_below = inches([text for axis in below for text in axis.get_ticklabels()])
    numbers_beside, _ = inches([text for axis in beside for text in axis.get_ticklabels()])
    title_width, title_height = inches([a.title for a in grid.diagonal()])
    below_width, below_height = inches([axis.label for axis in below])
    beside_width, beside_height = inches([axis.label for axis in beside])
    panel = max(PANEL, title_width, below_width, beside_height)
    left, bottom, top = 4 * PAD + numbers_beside + beside_width, 4 * PAD + numbers_below + below_height, title_height
    count = len(grid)
    inner = count * panel + (count - 1) * PAD
    width, height = left + inner + 4 * PAD, bottom + inner + top + 2 * PAD
    figure.set_size_inches(width, height)
    figure.subplots_adjust(
        left=left / width,
        right=(left + inner) / width,
        bottom=bottom / height,
        top=(bottom + inner) / height,
        wspace=PAD / panel,
        hspace=PAD / panel,
    )
    for axis in below:
        axis.set_label_coords(0.5, -(numbers_below + 2 * PAD) / panel)
    for axis in beside:
        axis.set_label_coords(-(numbers_beside + 2 * PAD) / panel, 0.5)


def corner_options() -> list[str]:
    """Options of `corner.corner`, except those for data, labels and true values; corner ignores unknown options."""
    from corner import corner, hist2d

    ours = {"data", "fig", "labels", "truths", "titles", "show_titles", "weights", "group", "var_names", "filter_vars"}
    ours |= {"coords", "divergences", "divergences_kwargs", "labeller", "x", "y", "ax", "new_fig", "reverse"}
    known = {**inspect.signature(corner).parameters, **inspect.signature(hist2d).parameters}
    return [name for name, option in known.items() if option.kind is not option.VAR_KEYWORD and name not in ours]


def check_options(function: str, options: dict, known, more=()) -> None:
    """Raise `ValueError` for an unknown option; `more` are further keywords to name in the message."""
    for name in options:
        if name not in known:
            raise ValueError(f"{function} has no option {name!r}; it has {', '.join((*more, *known))}")


def _interval(quantiles) -> str:
    """Median and 68 % interval, to two digits of the uncertainty."""
    low, median, high = quantiles
    spread = max(min(high - median, median - low), 1e-300)
    digits = int(np.clip(1 - np.floor(np.log10(spread)), 0, 8))
    return f"${median:.{digits}f}^{{+{high - median:.{digits}f}}}_{{-{median - low:.{digits}f}}}$"
