"""Instrument response of one observation: effective area, point spread function, energy dispersion, background."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gammajax.common.display import block, document, text, words
from gammajax.instrument.psf import PSF
from gammajax.instrument.sky import separation
from gammajax.instrument.table import Axis, Table, covered, extend, refine


class EnergyDispersion(eqx.Module):
    """D(E'|E, offset): density of reconstructed energy, tabulated in migra = E'/E (GADF `EDISP_2D`).

    Every profile integrates to one over migra. `profile` is the density per migra and `cumulative` its
    exact integral from the lower edge, at the same nodes of (ln energy_true, offset, migra).
    """

    profile: Table
    cumulative: Table
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Ends of the table."""
        return block(f"EnergyDispersion: {covered(self.profile, 'migra')}")

    def __init__(self, energy_axis: Axis, offset_axis: Axis, migra_axis: Axis, values):
        """Normalise `values` [energy_true, offset, migra]; profiles of zeros stay zero."""
        values = np.asarray(values, np.float64)
        if offset_axis.nodes[0] > 0:
            # Extrapolate to the pointing like gammapy, but once, here. Negative values become zero and the rest is
            # normalised; gammapy leaves an integral above one. The order matters: gammapy cuts after interpolation, so
            # interpolate first, to twice as many nodes in energy, offset and migra.
            total = values.sum(-1, keepdims=True)
            values = values / np.where(total > 0, total, 1.0)
            energy_axis, values = refine(energy_axis, values, dimension=0)
            migra_axis, values = refine(migra_axis, values, dimension=2)
            offset_axis, values = extend(offset_axis, values, dimension=1)
        values = np.maximum(values, 0.0)
        migra = np.asarray(migra_axis.nodes, np.float64)
        steps = 0.5 * np.diff(migra) * (values[..., 1:] + values[..., :-1])
        cumulative = np.concatenate([np.zeros_like(values[..., :1]), np.cumsum(steps, -1)], -1)
        total = cumulative[..., -1:]
        safe = np.where(total > 0, total, 1.0)
        axes = (energy_axis, offset_axis, migra_axis)
        self.profile = Table(axes, values / safe)
        self.cumulative = Table(axes, cumulative / safe)

    def density(self, energy, energy_true, offset) -> Float[Array, "..."]:
        """Probability density [TeV^-1] of the reconstructed `energy` [TeV]."""
        migra = jnp.asarray(energy / energy_true)
        axis = self.profile.axes[2]
        value = self.profile(jnp.log(energy_true), offset, migra, outside=None)
        return jnp.where(axis.inside(migra), value, 0.0) / energy_true

    def probability(self, energy_min, energy_max, energy_true, offset) -> Float[Array, "..."]:
        """Probability of a reconstructed energy between `energy_min` and `energy_max` [TeV]."""
        return self._below(energy_max, energy_true, offset) - self._below(energy_min, energy_true, offset)

    def _below(self, energy, energy_true, offset):
        # the profile is linear between nodes, its integral quadratic: cumulative at the node below plus the rest
        energy, energy_true, offset = jnp.broadcast_arrays(*map(jnp.asarray, (energy, energy_true, offset)))
        axis = self.profile.axes[2]
        migra = jnp.clip(energy / energy_true, axis.nodes[0], axis.nodes[-1])
        index, _ = axis.locate(migra)
        node = axis.nodes[index]
        log_energy = jnp.log(energy_true)
        at_node = self.profile(log_energy, offset, node, outside=None)
        at_migra = self.profile(log_energy, offset, migra, outside=None)
        below = self.cumulative(log_energy, offset, node, outside=None)
        return below + 0.5 * (migra - node) * (at_node + at_migra)

    def sample(self, key: PRNGKeyArray, energy_true, offset) -> Float[Array, "..."]:
        """Random reconstructed energies [TeV], one for each true energy and offset."""
        axes = self.cumulative.axes
        position = (jnp.log(energy_true), offset)
        probability = jax.random.uniform(key, energy_true.shape)
        # bisection over the nodes, then the exact quadratic inside the step
        nodes = axes[2].nodes

        def cumulative_at(index):
            return self.cumulative(*position, nodes[index], outside=None)

        def halve(_, ends):
            low, high = ends
            middle = (low + high) // 2
            above = cumulative_at(middle) > probability
            return jnp.where(above, low, middle), jnp.where(above, middle, high)

        low = jnp.zeros(energy_true.shape, jnp.int32)
        ends = low, jnp.full_like(low, nodes.size - 1)
        low, high = jax.lax.fori_loop(0, math.ceil(math.log2(nodes.size)) + 1, halve, ends)
        c0 = cumulative_at(low)
        p0 = jnp.maximum(self.profile(*position, nodes[low], outside=None), 0.0)
        p1 = jnp.maximum(self.profile(*position, nodes[high], outside=None), 0.0)
        step = nodes[high] - nodes[low]
        rest = jnp.clip(probability - c0, 0.0, 0.5 * (p0 + p1) * step)
        root = jnp.sqrt(jnp.maximum(p0**2 + 2.0 * (p1 - p0) / jnp.maximum(step, 1e-12) * rest, 0.0))
        migra = nodes[low] + jnp.clip(2.0 * rest / jnp.maximum(p0 + root, 1e-12), 0.0, step)
        return energy_true * migra


class Background(eqx.Module):
    """Rate of background events by reconstructed energy and field-of-view position (GADF `BKG_2D`, `BKG_3D`).

    `log_rate` holds ln(rate / [s^-1 TeV^-1 sr^-1]) over (ln energy, offset) or (ln energy, fov_lon, fov_lat).
    """

    log_rate: Table
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Ends of the table."""
        return block(f"Background: {covered(self.log_rate, 'deg')}")

    def rate(self, energy, fov_lon, fov_lat) -> Float[Array, "..."]:
        """Rate [s^-1 TeV^-1 sr^-1]; zero outside the table."""
        if len(self.log_rate.axes) == 2:
            offset = separation(fov_lon, fov_lat, 0.0, 0.0)
            log_rate = self.log_rate(jnp.log(energy), offset, outside=-jnp.inf)
        else:
            log_rate = self.log_rate(jnp.log(energy), fov_lon, fov_lat, outside=-jnp.inf)
        # extrapolation of a logarithm next to an empty cell must not create events
        return jnp.exp(jnp.minimum(log_rate, self.log_rate.values.max()))


class Response(eqx.Module):
    """The response functions of one observation, by true energy [TeV] and offset [deg].

        detected(E', Omega') = Int dE dOmega flux(E, Omega) A(E, offset) P(Omega' | E, offset) D(E' | E, offset)

    - `effective_area` A [cm^2]: a table over (ln energy_true, offset).
    - `psf` P [sr^-1]: a sum of Gaussians, a King function or a table.
    - `energy_dispersion` D: the density of `migra` = E' / E.
    - `background` [TeV^-1 s^-1 sr^-1] by reconstructed energy and direction; None for files without one.

    The formats are those of GADF (https://gamma-astro-data-formats.readthedocs.io); [`gammajax.io.read_irf`][] reads
    them.

    >>> import gammajax as gj
    >>> response = gj.io.ctao(pointing=(0.0, 0.0), livetime=3600.0).response
    >>> bool(response.area(1.0, 0.0) > 1e9)  # cm^2
    True
    """

    effective_area: Table
    psf: PSF
    energy_dispersion: EnergyDispersion
    background: Background | None = None
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Kinds of the functions, and what their tables cover."""
        background = "no background" if self.background is None else text(self.background)
        return block(
            "Response",
            f"effective area: {covered(self.effective_area)}",
            text(self.psf),
            text(self.energy_dispersion),
            background,
        )

    def area(self, energy_true, offset) -> Float[Array, "..."]:
        """Effective area [cm^2], zero outside its table."""
        return jnp.maximum(self.effective_area(jnp.log(energy_true), offset), 0.0)

    def plot(self, offsets=(0.0, 1.0, 2.0), figure=None, *, energy_unit: str = "TeV", angle_unit: str = "deg"):
        """Draw effective area, point spread function, energy dispersion and background; returns the figure.

        The curves are at these `offsets` [deg], the energy dispersion at the first; the other arguments and the errors
        are those of [`gammajax.plots.response_panels.plot_response`][].
        """
        from gammajax.plots.response_panels import plot_response

        return plot_response(self, tuple(offsets), figure=figure, energy_unit=energy_unit, angle_unit=angle_unit)


def kinds(response) -> str:
    """Names of the functions of a response."""
    if not isinstance(response, Response):
        return text(response)
    background = "no background" if response.background is None else "background"
    return f"effective area, {type(response.psf).__name__}, energy dispersion, {background}"
