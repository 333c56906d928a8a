"""Data beside predicted counts: by energy and on the sky."""

from typing import Any

import jax
import numpy as np
from scipy.ndimage import gaussian_filter

from gammajax.common import distributed
from gammajax.common.plot_units import unit_size
from gammajax.events.cells import Cells
from gammajax.events.event_list import Events
from gammajax.likelihood import UnbinnedTerm
from gammajax.likelihood.on_bins import OnBins
from gammajax.likelihood.on_off import OnOffTerm
from gammajax.model.mixture import Source
from gammajax.plots.directions import label_sky
from gammajax.plots.style import BOXED, component_colours, figure_of
from gammajax.results.prediction import Prediction, predict, predict_bins

BINS_PER_DECADE = 10
PIXELS = 120  # along the side of a sky map
DRAWS = 100  # of the posterior, for bands
SMOOTHED = 0.35  # width of the kernel of a map of a source, in widths of the map


def plot_counts(
    posterior,
    result,
    *,
    key=None,
    events: int | None = None,
    radius: float | None = None,
    figure=None,
    energy_unit: str = "TeV",
    angle_unit: str = "deg",
):
    """Counts against the model: by reconstructed energy with residuals, and on the sky; a row for each data set.

    Bands contain 68 % of the posterior's expected counts, from `events`
    simulated events of each component; error bars are the square root of the counts. The sky map is smoothed; contours
    contain 50 % and 80 % of the expected counts of each source. `radius` [deg] of the map, by default the whole field.
    If several processes share the posterior, all must call this; all get the same figure.

    - `figure`: a figure or subfigure to draw in; returns it.
    - `energy_unit` (eV, keV, MeV, GeV, TeV, PeV, erg) and `angle_unit` (deg, arcmin, arcsec) of the axes; arcmin and
      arcsec are offsets from the middle.

    Raises `ValueError` for another unit.
    """
    from matplotlib import rc_context

    for argument, unit in (("energy_unit", energy_unit), ("angle_unit", angle_unit)):
        unit_size(argument, unit)  # an error before the simulation
    key = jax.random.key(0) if key is None else key
    samples = {name: result.samples[name] for name in posterior.priors}  # without derived quantities
    drawn = len(next(iter(samples.values())))
    chosen = np.linspace(0, drawn - 1, min(drawn, DRAWS)).astype(int)
    draws = {name: values[chosen] for name, values in samples.items()}
    components = posterior.model(posterior.reference_parameters).components
    several = len(posterior.terms) > 1
    with rc_context(BOXED):
        figure = figure_of(figure, (13.0, 5.6 * len(posterior.terms)))
        rows: Any = figure.subfigures(len(posterior.terms), 1) if several else [figure]
        for i, (row, term) in enumerate(zip(rows, posterior.terms, strict=True)):
            halves: Any = row.subfigures(1, 2, width_ratios=(1.0, 1.05))
            title = f"{term.name}: counts by reconstructed energy" if several else "counts by reconstructed energy"
            if isinstance(term, OnOffTerm):
                bins = OnBins.init(term, _bins(*term.energy_range))
                on = f"{title}, ON"
                _spectrum(halves[0], predict_bins(posterior, bins, draws), bins.on, on, components, energy_unit)
                continue
            if not isinstance(term, UnbinnedTerm):
                by_bin = np.asarray(term.count, float).sum((1, 2))
                _spectrum(halves[0], predict_bins(posterior, term, draws), by_bin, title, components, energy_unit)
                continue
            single = posterior._alone(term)
            edges = _edges(term)
            part = predict(jax.random.fold_in(key, i) if several else key, single, draws, edges, events)
            energy, number = _energies(term.events)
            counts = _of_all(single, np.histogram(energy, edges, weights=number)[0])
            _spectrum(halves[0], part, counts, title, components, energy_unit)
            _sky(halves[1], single, part, radius, angle_unit)
    return figure


def _bins(low: float, high: float) -> np.ndarray:
    """Edges of bins [TeV] between two energies."""
    return np.geomspace(low, high, 1 + max(4, round(BINS_PER_DECADE * np.log10(high / low))))


def _edges(term: UnbinnedTerm) -> np.ndarray:
    """Edges of the bins for events [TeV]."""
    edges = _bins(*term.energy_range)
    if isinstance(term.events, Cells):
        # equally many whole cells per bin: uneven bins would look like features of the spectrum
        cell_edges = np.asarray(term.events.binning.edges, float)
        cells = len(cell_edges) - 1
        in_bin = max(1, round(cells / (len(edges) - 1) - 1.0))
        edges = cell_edges[np.rint(np.linspace(0, cells, 1 + round(cells / in_bin))).astype(int)]
    # in single precision the first and the last event may lie on the edge
    edges[[0, -1]] *= [1 - 1e-6, 1 + 1e-6]
    return edges


def _spectrum(figure, prediction: Prediction, counts, title, components, energy_unit):
    from gammajax.common.ticks import plain_ticks

    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = prediction.edges / unit_size("energy_unit", energy_unit)
    middle = np.sqrt(edges[1:] * edges[:-1])
    total = np.quantile(prediction.counts.sum(1), [0.1587, 0.5, 0.8413], axis=0)
    colours = component_colours(dict.fromkeys([*components, *prediction.names]))
    for i, name in enumerate(prediction.names):
        band = np.quantile(prediction.counts[:, i], [0.1587, 0.5, 0.8413], axis=0)
        _band(top, edges, band, colours[name], 3.0, name)
    _band(top, edges, total, "black", 1.0, "total")  # with a component that is nearly all on both sides of it
    some = counts > 0
    top.errorbar(
        middle[some], counts[some], np.sqrt(counts[some]), fmt="o", ms=4, color="black", label="data", zorder=5, lw=1
    )
    top.set(xscale="log", yscale="log", ylabel="counts per bin", xlim=edges[[0, -1]])
    top.set_ylim(0.3, 3.0 * max(counts.max(), total[1].max()))
    top.legend(frameon=False)
    top.set_title(title)
    # standard deviations are meaningless in bins with less than one expected count
    shown = total[1] > 1.0
    # both the data and the simulation behind the model fluctuate
    pull = (counts - total[1])[shown] / np.sqrt(total[1] + prediction.variance)[shown]
    half = (total[[0, 2]] - total[1]) / np.sqrt(np.maximum(total[1], 1.0))
    bottom.stairs(np.where(shown, half[1], 0), edges, baseline=np.where(shown, half[0], 0), fill=True, color="0.8")
    bottom.axhline(0.0, color="0.4", lw=0.8)
    bottom.errorbar(middle[shown], pull, 1.0, fmt="o", ms=4, color="black", lw=1)
    limit = max(3.5, 1.2 * np.abs(pull).max(initial=0.0) + 1.0)
    bottom.set(ylim=(-limit, limit), xlabel=f"reconstructed energy [{energy_unit}]", ylabel="(data - model)\n/ error")
    plain_ticks(bottom.xaxis)
    plain_ticks(top.yaxis)


def _of_all(posterior, counts):
    """Counts summed over all processes that share the posterior."""
    return distributed.over(distributed.spans(posterior), np.sum, counts)


def _energies(events):
    """Energies and numbers of events: single events, or the points of cells."""
    if isinstance(events, Events):
        return np.asarray(events.energy, float), None
    energies = events.energies()
    return energies.ravel(), np.repeat(np.asarray(events.count) / energies.shape[1], energies.shape[1])


def _band(axes, edges, band, colour, width, label):
    axes.stairs(band[2], edges, baseline=band[0], fill=True, color=colour, alpha=0.3, lw=0)
    axes.stairs(band[1], edges, color=colour, lw=width, label=label, baseline=None)


def _sky(figure, posterior, prediction: Prediction, radius, angle_unit):
    from matplotlib.colors import PowerNorm
    from matplotlib.patheffects import withStroke

    from gammajax.common.ticks import PlainLinear, wrapped

    axes = figure.subplots()
    observations = posterior.observations
    lat0 = np.mean([float(o.lat) for o in observations])
    lon0 = float(observations[0].lon)
    lon0 += np.mean([_wrap(float(o.lon) - lon0) for o in observations])
    stretch = np.cos(np.radians(lat0))
    if radius is None:
        radius = max(
            o.offset_max + max(abs(_wrap(float(o.lon) - lon0)) * stretch, abs(float(o.lat) - lat0))
            for o in observations
        )
    # longitudes near lon0, so that fields across 0 or 360 deg stay in one piece
    side = np.linspace(-radius, radius, PIXELS + 1)
    sides = (lon0 + side / stretch, lat0 + side)
    surface = gaussian_filter(_of_all(posterior, surface_density(posterior.events, (lon0, lat0), radius)), 1.5)
    surface *= unit_size("angle_unit", angle_unit) ** 2
    norm = PowerNorm(0.5, vmin=0.0, vmax=surface.max() or 1.0)
    image = axes.pcolormesh(*sides, surface, cmap="magma", norm=norm, rasterized=True)
    figure.colorbar(image, ax=axes, label=f"counts per {angle_unit}$^2$", shrink=0.85, format=PlainLinear())
    components = posterior.model(posterior.reference_parameters).components
    centres = [0.5 * (side[1:] + side[:-1]) for side in sides]
    handles, colours = [], component_colours(dict.fromkeys([*components, *prediction.names]))
    rim = [withStroke(linewidth=2.8, foreground="white")]  # visible on faint and on bright sky
    for i, name in enumerate(prediction.names):
        if isinstance(components[name], Source):
            simulated = prediction.events[i]
            place = np.asarray(simulated.lon), np.asarray(simulated.lat)
            expected = _smoothed(_histogram(*place, prediction.weights[i], (lon0, lat0), radius))
            parts = {_level(expected, part, prediction.weights[i].sum()): part for part in (0.8, 0.5)}
            levels = sorted(level for level in parts if level is not None)
            if not levels:  # the map contains little of the source
                continue
            styles = [{0.8: "--", 0.5: "-"}[parts[level]] for level in levels]
            lines = {"colors": colours[name], "linewidths": 1.4, "linestyles": styles}
            contours = axes.contour(*centres, expected, levels, **lines)
            contours.set(path_effects=rim)
            for line, level in zip(contours.legend_elements()[0], levels, strict=True):
                line.set(path_effects=rim)
                line.set_label(f"{wrapped(name, 30)}: {100 * parts[level]:.0f} % of its counts")
                handles.insert(0, line)
    handles += axes.plot(
        [lon0 + _wrap(float(o.lon) - lon0) for o in observations],
        [float(o.lat) for o in observations],
        "+",
        color="cyan",
        ms=10,
        label="pointings",
        path_effects=[withStroke(linewidth=2.6, foreground="black")],
    )
    # below: nothing on the sky is hidden
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3), fontsize=9, frameon=False)
    axes.set(xlim=sides[0][[-1, 0]], ylim=sides[1][[0, -1]], aspect=1.0 / stretch, title="counts on the sky, smoothed")
    label_sky(axes, float(lon0), float(lat0), observations[0].frame, angle_unit)


def surface_density(events: Events | Cells, centre: tuple, radius: float | int) -> np.ndarray:
    """Counts [row, column] per square degree in the pixels of a map; events of a cell are spread over the cell."""
    step = 2.0 * radius / PIXELS
    single = isinstance(events, Events)
    batches = [(events.lon, events.lat, None)] if single else events.spread(step, centre, 1.5 * radius)
    counts = sum((_histogram(*batch, centre, radius) for batch in batches), start=np.zeros((PIXELS, PIXELS)))
    # all rows have the same height, but the width of pixels changes with latitude
    lat = np.radians(centre[1] + step * (np.arange(PIXELS) + 0.5 - 0.5 * PIXELS))
    return counts / (step**2 * np.maximum(np.cos(lat), 1e-3) / np.cos(np.radians(centre[1])))[:, None]


def _histogram(lon, lat, weights, centre, radius) -> np.ndarray:
    """Sums of weights [row, column] in the pixels of a map of half the size `radius` [deg] about `centre`."""
    x, y = _wrap(lon - centre[0]) * np.cos(np.radians(centre[1])), lat - centre[1]
    row, column = (np.floor((side / radius + 1.0) * (0.5 * PIXELS)) for side in (y, x))
    inside = (0 <= row) & (row < PIXELS) & (0 <= column) & (column < PIXELS)
    pixel = (row * PIXELS + column)[inside].astype(int)
    counts = np.bincount(pixel, None if weights is None else weights[inside], PIXELS**2)
    return counts.reshape(PIXELS, PIXELS).astype(float)


def _smoothed(counts) -> np.ndarray:
    """A map of simulated counts, smoothed by a part of its smaller width: wide sources have few events in a pixel."""
    total = max(counts.sum(), 1e-30)
    pixel = np.arange(PIXELS)
    widths = []
    for axis in (0, 1):
        share = counts.sum(axis) / total
        widths.append(np.sqrt(max(share @ pixel**2 - (share @ pixel) ** 2, 0.0)))
    return gaussian_filter(counts, np.clip(SMOOTHED * min(widths), 2.0, 8.0))


def _wrap(angle):
    return (np.asarray(angle) + 180.0) % 360.0 - 180.0


def _level(values, part, whole=None):
    """Level above which this part of a map lies, or of a larger `whole`; None if the map contains less."""
    falling = np.sort(values.ravel())[::-1]
    place = np.searchsorted(np.cumsum(falling), part * (falling.sum() if whole is None else whole))
    return falling[place] if place < falling.size else None
