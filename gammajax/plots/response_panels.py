"""Plots of instrument responses: effective area, point spread function, energy dispersion and background."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from gammajax.instrument.response import Response
from gammajax.instrument.sky import DEGREE, SQUARE_DEGREE
from gammajax.plots.style import COLOURS

FAINT = 1e-4  # of the largest effective area
ANGLES = np.arange(16) * 22.5  # deg about the pointing, for the average of backgrounds


def plot_response(response: Response, offsets: Sequence[float | int], title: str | None = None, energy_range=None):
    """Four panels at these `offsets` [deg], the energy dispersion at the first; returns the figure.

    Panels of reconstructed energy are shaded outside `energy_range` [TeV].
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    if len(offsets) == 0 or min(offsets) < 0:
        raise ValueError(f"offsets must be one or more angles [deg], not negative: {offsets}")
    with rc_context({"font.size": 10, "axes.linewidth": 0.8, "axes.titlesize": 11}):
        figure = Figure(figsize=(10.0, 7.6), layout="constrained")
        area, psf, dispersion, background = figure.subplots(2, 2).ravel()
        plot_effective_area(response, area, offsets)
        plot_psf(response, psf, offsets)
        plot_energy_dispersion(response, dispersion, offsets[0])
        plot_background(response, background, offsets)
        for axes in (area, psf):
            axes.legend(frameon=False, fontsize=9)
        if energy_range is not None and response.background is not None:
            low, high = background.get_xlim()
            for side in ((low, energy_range[0]), (energy_range[1], high)):
                if side[0] < side[1]:
                    background.axvspan(*side, color="0.9", lw=0, zorder=0)
            background.set_xlim(low, high)
        if title:
            figure.suptitle(title)
    return figure


def plot_effective_area(response: Response, axes, offsets: Sequence[float | int]):
    """Draw the effective area [m^2] against true energy at each offset [deg]; returns the axes."""
    energy = _true_energies(response)
    for colour, offset in zip(_colours(offsets), offsets, strict=True):
        value = 1e-4 * np.asarray(_area(response, jnp.asarray(energy), jnp.asarray(float(offset))), float)
        axes.plot(energy, np.where(value > 0, value, np.nan), color=colour, lw=1.8, label=f"offset {offset:g}°")
    axes.set(yscale="log", ylabel="effective area [m$^2$]", title="effective area")
    _below(axes, FAINT)
    return _true_energy(axes, energy)


def plot_psf(response: Response, axes, offsets: Sequence[float | int]):
    """Draw the radii [deg] that contain 68 % (full) and 95 % (dashed) of the photons; returns the axes."""
    from matplotlib.ticker import LogLocator

    energy = _true_energies(response)
    for colour, offset in zip(_colours(offsets), offsets, strict=True):
        for probability, line in ((0.68, "-"), (0.95, "--")):
            radius = _quantile(response.psf, jnp.asarray(energy), jnp.asarray(float(offset)), jnp.asarray(probability))
            label = f"{100 * probability:.0f} %, offset {offset:g}°" if offset == offsets[0] or line == "-" else None
            axes.plot(energy, radius, line, color=colour, lw=1.8, label=label)
    axes.set(yscale="log", ylabel="containment radius [deg]", title="point spread function")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    return _true_energy(axes, energy)


def plot_energy_dispersion(response: Response, axes, offset: float | int = 0.0):
    """Draw the density of migra = E'/E at an offset [deg], with its median and central 68 %; returns the axes."""
    from matplotlib.colors import PowerNorm

    table = response.energy_dispersion.profile
    energy, migra = _true_energies(response), np.linspace(0.2, 2.0, 181)
    density = np.asarray(_migra(response, jnp.asarray(energy), jnp.asarray(migra), jnp.asarray(float(offset))))
    migra_axis = np.asarray(table.axes[2].nodes, float)
    fine = np.linspace(migra_axis[0], migra_axis[-1], 1501)
    below = np.asarray(_below_migra(response, jnp.asarray(energy), jnp.asarray(fine), jnp.asarray(float(offset))))
    image = axes.pcolormesh(
        energy, migra, density.T, cmap="Blues", norm=PowerNorm(0.5, vmin=0.0), shading="gouraud", rasterized=True
    )
    axes.figure.colorbar(image, ax=axes, label="probability per migra")
    for probability, line in ((0.5, "-"), (0.16, "--"), (0.84, "--")):
        quantile = [np.interp(probability, np.maximum.accumulate(row), fine) for row in below]
        label = {0.5: "median", 0.16: "68 %"}.get(probability)
        axes.plot(energy, quantile, line, color=COLOURS[0], lw=1.4, label=label)
    axes.axhline(1.0, color="0.3", lw=0.8, ls=":")
    axes.legend(frameon=False, fontsize=9)
    axes.set(ylim=(migra[0], migra[-1]), ylabel="reconstructed / true energy")
    axes.set_title(f"energy dispersion, offset {offset:g}°")
    _true_energy(axes, energy)
    axes.grid(False)
    return axes


def plot_background(response: Response, axes, offsets: Sequence[float | int]):
    """Draw the background rate [s^-1 TeV^-1 deg^-2], averaged about the pointing, at each offset; returns the axes."""
    if response.background is None:
        axes.text(0.5, 0.5, "no background", transform=axes.transAxes, ha="center", color="0.4")
        axes.set_axis_off()
        return axes
    energy = _energies(response.background.log_rate.axes[0])
    for colour, offset in zip(_colours(offsets), offsets, strict=True):
        rate = SQUARE_DEGREE * np.asarray(_rate(response, jnp.asarray(energy), jnp.asarray(float(offset))), float)
        axes.plot(energy, np.where(rate > 0, rate, np.nan), color=colour, lw=1.8)
    axes.set(yscale="log", ylabel="rate [s$^{-1}$ TeV$^{-1}$ deg$^{-2}$]", title="background")
    _below(axes, 1e-10)
    _true_energy(axes, energy)
    axes.set_xlabel("reconstructed energy [TeV]")
    return axes


def _energies(axis) -> np.ndarray:
    # slightly inside: single precision must not cross the edge of the table
    return np.exp(np.linspace(axis.lower + 1e-5, axis.upper - 1e-5, 200))


def _true_energies(response):
    """True energies from the threshold on: below it, files contain noise or zeros."""
    energy = _energies(response.effective_area.axes[0])
    area = np.asarray(_area(response, jnp.asarray(energy), jnp.asarray(0.0)))
    return energy[np.argmax(area > FAINT * area.max()) :]


def _colours(offsets):
    return [COLOURS[i % len(COLOURS)] for i in range(len(offsets))]


def _true_energy(axes, energy):
    from gammajax.common.ticks import plain_ticks

    axes.set(xscale="log", xlabel="true energy [TeV]")
    axes.set_xlim(energy[0], energy[-1])
    plain_ticks(axes.xaxis)
    axes.grid(True, which="major", alpha=0.3, lw=0.6)
    return axes


def _below(axes, part):
    """Hide values below this part of the largest value."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()])
    drawn = drawn[np.isfinite(drawn)]
    if drawn.size:
        axes.set_ylim(max(0.5 * drawn.min(), part * drawn.max()), 2.0 * drawn.max())


@eqx.filter_jit
def _area(response, energy, offset):
    return response.area(energy, jnp.broadcast_to(offset, energy.shape))


@eqx.filter_jit
def _quantile(psf, energy, offset, probability):
    return psf.quantile(*jnp.broadcast_arrays(energy, offset, probability))


@eqx.filter_jit
def _migra(response, energy, migra, offset):
    true = energy[:, None]
    density = response.energy_dispersion.density(migra * true, true, offset)
    return density * true


@eqx.filter_jit
def _below_migra(response, energy, migra, offset):
    true = energy[:, None]
    return response.energy_dispersion.probability(jnp.asarray(0.0), migra * true, true, offset)


@eqx.filter_jit
def _rate(response, energy, offset):
    angle = DEGREE * jnp.asarray(ANGLES)
    lon, lat = offset * jnp.sin(angle), offset * jnp.cos(angle)
    return response.background.rate(energy[:, None], lon, lat).mean(1)
