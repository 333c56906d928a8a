"""Credible bands of spectra."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gammajax.common.curves import flux_label, flux_scale
from gammajax.common.plot_units import unit_size
from gammajax.model.mixture import Source
from gammajax.plots.style import BANDS, BOXED, axes_in, component_colours

BINS_PER_DECADE = 40
SPECTRA = 400  # draws of the posterior behind a band
QUANTILES = (0.0228, 0.1587, 0.5, 0.8413, 0.9772)


def plot_spectrum(
    posterior,
    result,
    names=None,
    energy_range: tuple | None = None,
    energy_power: float | int = 2,
    ax=None,
    *,
    energy_unit: str = "TeV",
    flux_unit: str = "TeV",
):
    """Credible bands, 68 % and 95 %, of the spectra of sources: E^2 dN/dE of the whole source, at Earth.

    In a model with weights, fluxes follow from the fractions of the events ([`gammajax.Posterior.flux_scales`][]).
    `names`: components by path, or an inner mixture for the sum of its sources; by default every source.
    `energy_range` [TeV] is by default the range of the selection. A dashed line is the true spectrum, if all true
    values are known. `ax`: axes to draw in, by default those of a new figure; returns the axes.
    `energy_unit` of the abscissa and `flux_unit`, the energy in E^2 dN/dE: eV, keV, MeV, GeV, TeV, PeV or erg.

    Raises `ValueError` for a name that is not a source, and for another unit.
    """
    from matplotlib import rc_context

    from gammajax.common.ticks import plain_ticks

    size, scale = unit_size("energy_unit", energy_unit), flux_scale(energy_power, flux_unit)
    components = posterior.model(posterior.reference_parameters).components
    sources = [path for path, part in components.items() if isinstance(part, Source)]
    names = sources if names is None else [names] if isinstance(names, str) else list(names)
    groups = {name: [path for path in sources if path == name or path.startswith(f"{name}/")] for name in names}
    for name, paths in groups.items():
        if not paths:
            raise ValueError(f"{name!r} is no source; the sources are {sources}")
    low, high = energy_range or (
        min(term.energy_range[0] for term in posterior.terms),
        max(term.energy_range[1] for term in posterior.terms),
    )
    energy = np.geomspace(low, high, 2 + int(BINS_PER_DECADE * np.log10(high / low)))
    half = np.sqrt(energy[1] / energy[0])  # of a bin: the first and the last are about the ends
    edges = np.append(energy / half, high * half)
    samples = {name: result.samples[name] for name in posterior.priors}
    drawn = len(next(iter(samples.values())))
    chosen = np.linspace(0, drawn - 1, min(drawn, SPECTRA)).astype(int)
    draws = {name: jnp.asarray(values[chosen]) for name, values in samples.items()}
    known = all(name in result.truths for name in posterior.priors)
    if known:  # one more draw
        draws = {name: jnp.concatenate([values, result.truths[name][None]]) for name, values in draws.items()}
    scales, fluxes = _spectra(posterior, draws, jnp.asarray(edges))
    # E^2 in double precision: single precision may underflow
    factor = scale * energy**energy_power / np.diff(edges)
    shown_energy = energy / size
    with rc_context(BOXED):
        axes = axes_in(ax, (7.0, 4.8))
        colours = component_colours(components)
        for i, (name, paths) in enumerate(groups.items()):
            colour = colours[paths[0]]
            total = sum(np.asarray(scales[p], float)[:, None] * np.asarray(fluxes[p], float) for p in paths) * factor
            if known:
                axes.plot(shown_energy, _positive(total[-1]), color=colour, lw=1.5, ls="--")
                total = total[:-1]
            bands = np.quantile(total, QUANTILES, axis=0)
            for (low_band, high_band), alpha in zip(((0, 4), (1, 3)), BANDS.values(), strict=True):
                low_edge = _positive(bands[low_band])
                axes.fill_between(shown_energy, low_edge, bands[high_band], color=colour, alpha=alpha, lw=0)
            axes.plot(shown_energy, _positive(bands[2]), color=colour, lw=1.5, label=name)
            if i == len(groups) - 1:
                for alpha, label in ((0.55, "68 %"), (0.25, "95 %")):
                    axes.plot([], [], color="0.3", lw=7.0, alpha=alpha, label=label)
                if known:
                    axes.plot([], [], color="0.3", lw=1.5, ls="--", label="truth")
        axes.set(xscale="log", yscale="log", xlim=(low / size, high / size), xlabel=f"energy [{energy_unit}]")
        axes.set_ylabel(flux_label(energy_power, flux_unit))
        plain_ticks(axes.xaxis)
        plain_ticks(axes.yaxis)
        axes.grid(True, which="major", alpha=0.3, lw=0.6)
        shown = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()])
        shown = shown[np.isfinite(shown) & (shown > 0)]
        if shown.size:  # a cut-off falls without end: show four decades
            bottom, top = axes.get_ylim()
            axes.set_ylim(max(bottom, 1e-4 * shown.max()), min(top, 30.0 * shown.max()))
        axes.legend(frameon=False)
    return axes


@eqx.filter_jit
def _spectra(posterior, draws, edges):
    """Scales [draw] and fluxes [draw, energy] of every source by path."""

    def one(parameters):
        components = posterior.model(parameters).components
        fluxes = {p: part.spectrum.integral(edges) for p, part in components.items() if isinstance(part, Source)}
        return posterior.flux_scales(parameters), fluxes

    return jax.lax.map(one, draws)


def _positive(values):
    return np.where(values > 0, values, np.nan)
