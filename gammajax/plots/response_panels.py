"""Plots of instrument responses: effective area, point spread function, energy dispersion and background."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from gammajax.common.plot_units import unit_size
from gammajax.instrument.response import Response
from gammajax.instrument.sky import DEGREE, SQUARE_DEGREE
from gammajax.plots.style import BOXED, COLOURS, figure_of

FAINT = 1e-4  # of the largest effective area
ANGLES = np.arange(16) * 22.5  # deg about the pointing, for the average of backgrounds


def plot_response(
    response: Response,
    offsets: Sequence[float | int],
    title: str | None = None,
    energy_range=None,
    figure=None,
    *,
    energy_unit: str = "TeV",
    angle_unit: str = "deg",
):
    """Four panels at these `offsets` [deg], the energy dispersion at the first; returns the figure.

    Panels of reconstructed energy are shaded outside `energy_range` [TeV].

    - `figure`: a figure or subfigure to draw in.
    - `energy_unit` (eV, keV, MeV, GeV, TeV, PeV, erg) of all energies, `angle_unit` (deg, arcmin, arcsec) of the radii
      and of the solid angle of the background.

    Raises `ValueError` for no or negative offsets, and for another unit.
    """
    from matplotlib import rc_context

    if len(offsets) == 0 or min(offsets) < 0:
        raise ValueError(f"offsets must be one or more angles [deg], not negative: {offsets}")
    size = unit_size("energy_unit", energy_unit)
    spaces = {"figure.constrained_layout.hspace": 0.05, "figure.constrained_layout.wspace": 0.05}
    with rc_context(BOXED | spaces | {"font.size": 10, "axes.titlesize": 11}):
        figure = figure_of(figure, (10.0, 7.6))
        area, psf, dispersion, background = figure.subplots(2, 2).ravel()
        plot_effective_area(response, area, offsets, energy_unit)
        plot_psf(response, psf, offsets, energy_unit, angle_unit)
        plot_energy_dispersion(response, dispersion, offsets[0], energy_unit)
        plot_background(response, background, offsets, energy_unit, angle_unit)
        if energy_range is not None and response.background is not None:
            low, high = background.get_xlim()
            for side in ((low, float(energy_range[0]) / size), (float(energy_range[1]) / size, high)):
                if side[0] < side[1]:
                    background.axvspan(*side, color="0.9", lw=0, zorder=0)
            background.set_xlim(low, high)
        if title:
            figure.suptitle(title)
    return figure


def plot_effective_area(response: Response, ax, offsets: Sequence[float | int], energy_unit: str = "TeV"):
    """Draw the effective area [m^2] against true energy at each offset [deg]; returns the axes."""
    energy = _true_energies(response)
    for colour, offset in zip(_colours(offsets), offsets, strict=True):
        value = 1e-4 * np.asarray(_area(response, jnp.asarray(energy), jnp.asarray(float(offset))), float)
        _curve(ax, energy, value, energy_unit, color=colour, label=f"offset {offset:g}°")
    ax.set(yscale="log", ylabel="effective area [m$^2$]", title="effective area")
    _below(ax, FAINT)
    _true_energy(ax, energy, energy_unit)
    ax.legend(frameon=False, fontsize=9, loc="lower right")
    return ax


def plot_psf(response: Response, ax, offsets: Sequence[float | int], energy_unit: str = "TeV", angle_unit: str = "deg"):
    """Draw the radii of 68 % (full) and 95 % (dashed) of the photons, at each offset [deg]; returns the axes."""
    energy, size = _true_energies(response), unit_size("angle_unit", angle_unit)
    for colour, offset in zip(_colours(offsets), offsets, strict=True):
        for probability, line in ((0.68, "-"), (0.95, "--")):
            radius = _quantile(response.psf, jnp.asarray(energy), jnp.asarray(float(offset)), jnp.asarray(probability))
            label = f"{100 * probability:.0f} %, offset {offset:g}°" if offset == offsets[0] or line == "-" else None
            _curve(ax, energy, np.asarray(radius, float) / size, energy_unit, ls=line, color=colour, label=label)
    ax.set(yscale="log", ylabel=f"containment radius [{angle_unit}]", title="point spread function")
    _true_energy(ax, energy, energy_unit)
    ax.legend(frameon=False, fontsize=9, loc="upper right")
    return ax


def plot_energy_dispersion(response: Response, ax, offset: float | int = 0.0, energy_unit: str = "TeV"):
    """Draw the density of migra = E'/E at an offset [deg], with its median and central 68 %; returns the axes."""
    from matplotlib.colors import PowerNorm

    table = response.energy_dispersion.profile
    energy, migra = _true_energies(response), np.linspace(0.2, 2.0, 181)
    density = np.asarray(_migra(response, jnp.asarray(energy), jnp.asarray(migra), jnp.asarray(float(offset))))
    migra_axis = np.asarray(table.axes[2].nodes, float)
    fine = np.linspace(migra_axis[0], migra_axis[-1], 1501)
    below = np.asarray(_below_migra(response, jnp.asarray(energy), jnp.asarray(fine), jnp.asarray(float(offset))))
    shown = energy / unit_size("energy_unit", energy_unit)
    image = ax.pcolormesh(
        shown, migra, density.T, cmap="Blues", norm=PowerNorm(0.5, vmin=0.0), shading="gouraud", rasterized=True
    )
    ax.figure.colorbar(image, ax=ax, label="probability per migra")
    for probability, line in ((0.5, "-"), (0.16, "--"), (0.84, "--")):
        quantile = [np.interp(probability, np.maximum.accumulate(row), fine) for row in below]
        label = {0.5: "median", 0.16: "68 %"}.get(probability)
        ax.plot(shown, quantile, line, color=COLOURS[0], lw=1.4, label=label)
    ax.axhline(1.0, color="0.3", lw=0.8, ls=":")
    ax.set(ylim=(migra[0], migra[-1]), ylabel="reconstructed / true energy")
    ax.set_title(f"energy dispersion, offset {offset:g}°")
    _true_energy(ax, energy, energy_unit)
    ax.legend(frameon=False, fontsize=9, loc="upper right")
    ax.grid(False)
    return ax


def plot_background(
    response: Response, ax, offsets: Sequence[float | int], energy_unit: str = "TeV", angle_unit: str = "deg"
):
    """Draw the background rate per time, energy and solid angle, averaged about the pointing; returns the axes.

    A curve for each offset [deg].
    """
    if response.background is None:
        ax.text(0.5, 0.5, "no background", transform=ax.transAxes, ha="center", color="0.4")
        ax.set_axis_off()
        return ax
    energy = _energies(response.background.log_rate.axes[0])
    scale = SQUARE_DEGREE * unit_size("energy_unit", energy_unit) * unit_size("angle_unit", angle_unit) ** 2
    for colour, offset in zip(_colours(offsets), offsets, strict=True):
        rate = scale * np.asarray(_rate(response, jnp.asarray(energy), jnp.asarray(float(offset))), float)
        _curve(ax, energy, rate, energy_unit, color=colour, label=f"offset {offset:g}°")
    unit = f"s$^{{-1}}$ {energy_unit}$^{{-1}}$ {angle_unit}$^{{-2}}$"
    ax.set(yscale="log", ylabel=f"rate [{unit}]", title="background")
    _below(ax, 1e-10)
    _true_energy(ax, energy, energy_unit)
    ax.set_xlabel(f"reconstructed energy [{energy_unit}]")
    ax.legend(frameon=False, fontsize=9, loc="upper right")
    return ax


def _curve(ax, energy, value, energy_unit: str, **style):
    ax.plot(energy / unit_size("energy_unit", energy_unit), np.where(value > 0, value, np.nan), lw=1.8, **style)


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


def _true_energy(axes, energy, energy_unit):
    from gammajax.common.ticks import plain_ticks

    axes.set(xscale="log", xlabel=f"true energy [{energy_unit}]")
    axes.set_xlim(energy[[0, -1]] / unit_size("energy_unit", energy_unit))
    plain_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    axes.grid(True, which="major", alpha=0.3, lw=0.6)


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
