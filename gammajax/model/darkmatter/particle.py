"""Particle models: annihilation cross sections tabulated over masses and couplings."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.ndimage import distance_transform_edt

from gammajax.common.curves import curve_axes
from gammajax.common.display import block, document, listed, rows, words
from gammajax.common.parameters import Scalar, check_labels, is_concrete, scalar
from gammajax.instrument.table import Axis, Table

NOTHING = 1e-300  # replaces a cross section of zero, so that the logarithm is finite
STYLES = ("-", "--", ":")  # of lines, when all colours are taken


class ParticleModel(eqx.Module):
    """Branching ratios and cross section of a particle model over a grid of its parameters, of any dimension.

    - `axes`: increasing nodes of each parameter by name, as in `{"mass": [...], "coupling": [...]}`.
    - `sigma_v`: cross section [cm^3 s^-1] into each channel by name, with one dimension per axis. A table of ratios
      is possible too; [`sigma_v`][gammajax.ParticleModel.sigma_v] is then their sum.
    - `units` of axes by name, as in `{"mass": "TeV"}`, for labels.

    Branching ratios and the logarithm of the total cross section are linear between nodes; ratios add up to one. Along
    axes with positive nodes, the interpolation is in the logarithm of the parameter. If the cross section is zero,
    the branching ratios are those of the nearest node.

    Pass ratios and cross section to [`gammajax.DarkMatter`][]; a model of two particles is a sum of two such spectra.
    [`gammajax.io.read_particle_model`][] reads tables.

    Raises `ValueError` for axes that do not increase, units of unknown axes, cross sections that are negative or do not
    fit the axes, and a point outside the table; a traced point is moved to the edge.

    >>> import gammajax as gj
    >>> model = gj.ParticleModel({"mass": [0.1, 1.0, 10.0]}, {"W": [1e-26, 2e-26, 3e-26], "b": [3e-26, 1e-26, 0.0]})
    >>> p = {"mass": 2.0}
    >>> spectrum = gj.DarkMatter(model.ratios(**p), mass=p["mass"], sigma_v=model.sigma_v(**p))
    """

    names: tuple[str, ...] = eqx.field(static=True)
    units: tuple[str, ...] = eqx.field(static=True)
    channels: tuple[str, ...] = eqx.field(static=True)
    limits: tuple[tuple[float, float], ...] = eqx.field(static=True)
    logarithmic: tuple[bool, ...] = eqx.field(static=True)
    log_sigma_v: Table
    branching: Table
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Ranges of the parameters, and channels."""
        axes = [
            f"{name} from {low:g} to {high:g} {unit}".rstrip()
            for name, unit, (low, high) in zip(self.names, self.units, self.limits, strict=True)
        ]
        return block("ParticleModel", *rows(axes, 6), f"channels {listed(self.channels)}")

    def __init__(self, axes: Mapping, sigma_v: Mapping, units: dict[str, str] | None = None):
        if not axes or not sigma_v:
            raise ValueError("a particle model needs at least one axis and one channel")
        check_labels(dict.fromkeys(axes), units=units)
        self.units = tuple((units or {}).get(name, "") for name in axes)
        nodes = [np.asarray(values, float) for values in axes.values()]
        for name, values in zip(axes, nodes, strict=True):
            if values.ndim != 1 or values.size < 2 or not np.all(np.isfinite(values)) or np.any(np.diff(values) <= 0):
                raise ValueError(f"the nodes of axis {name!r} must be finite and increasing, at least two")
        shape = tuple(values.size for values in nodes)
        parts = {name: np.asarray(values, float) for name, values in sigma_v.items()}
        for name, values in parts.items():
            if values.shape != shape:
                raise ValueError(f"channel {name!r} has shape {values.shape}; the axes {tuple(axes)} need {shape}")
            if not np.all(np.isfinite(values)) or np.any(values < 0):
                raise ValueError(f"the cross sections into channel {name!r} must be finite and not negative")
        values = np.stack(list(parts.values()), -1)
        total = values.sum(-1)
        if not np.any(total > 0):
            raise ValueError("all cross sections are zero")
        nearest: Any = distance_transform_edt(total <= 0, return_distances=False, return_indices=True)
        ratios = values[tuple(nearest)] / total[tuple(nearest)][..., None]
        self.names, self.channels = tuple(axes), tuple(parts)
        self.limits = tuple((float(values[0]), float(values[-1])) for values in nodes)
        self.logarithmic = tuple(bool(values[0] > 0) for values in nodes)
        places = [
            Axis(np.log(values) if log else values, uniform=False)
            for values, log in zip(nodes, self.logarithmic, strict=True)
        ]
        self.log_sigma_v, self.branching = Table(places, np.log(np.maximum(total, NOTHING))), Table(places, ratios)

    def sigma_v(self, **point) -> Scalar:
        """Cross section [cm^3 s^-1] into all channels at a point, given by the name of each axis."""
        return jnp.exp(self.log_sigma_v(*self._coordinates(point), outside=None))

    def ratios(self, **point) -> dict[str, Float[Array, ""]]:
        """Branching ratio of each channel at a point, given by the name of each axis."""
        values = self.branching(*self._coordinates(point), outside=None)
        return {name: values[n] for n, name in enumerate(self.channels)}

    def plot(self, ax=None, **point):
        """Draw the cross section into each channel against one parameter and return the matplotlib axes.

        `point` gives all other parameters: `model.plot(coupling=0.1)` is against the mass. Channels below
        a thousandth of the median total cross section are left out.
        """
        from gammajax.plots.style import COLOURS, component_colours

        free = [name for name in self.names if name not in point]
        if len(free) != 1:
            raise ValueError(f"a plot is against one of {list(self.names)}: give values of all the others")
        at = self.names.index(free[0])
        limits, log = self.limits[at], self.logarithmic[at]
        value = (np.geomspace if log else np.linspace)(*limits, 400)
        unit = f" [{self.units[at]}]" if self.units[at] else ""
        sigma_v = r"$\langle\sigma v\rangle$ [cm$^3$ s$^{-1}$]"
        scale = "log" if log else "linear"
        ax = curve_axes(ax, free[0], "numbers", limits, free[0] + unit, sigma_v, scale)
        total, ratios = _along(self, free[0], jnp.asarray(value), {name: scalar(v) for name, v in point.items()})
        total = np.asarray(total, np.float64)
        if not total.max() > 0:
            raise ValueError(f"nothing annihilates at {point}")
        # relative to the median, not to the maximum: a resonance may be ten decades high
        least = 1e-3 * np.median(total[total > 0])
        ax.plot(value, np.where(total > 0, total, np.nan), color="black", lw=2.5, label="total")
        for number, (name, colour) in enumerate(component_colours(self.channels).items()):
            part = total * np.asarray(ratios[name], np.float64)
            if part.max() > least:
                style = STYLES[number // len(COLOURS) % len(STYLES)]
                ax.plot(value, np.where(part > 0, part, np.nan), style, color=colour, lw=1.6, label=name)
        ax.set_ylim(least, 2.0 * total.max())
        ax.legend(frameon=False, ncols=2)
        return ax

    def _coordinates(self, point):
        if set(point) != set(self.names):
            raise ValueError(f"a point of this particle model is given by {list(self.names)}, not {list(point)}")
        coordinates = []
        for name, (low, high), log in zip(self.names, self.limits, self.logarithmic, strict=True):
            value = scalar(point[name])
            edge = 1e-6 * max(abs(low), abs(high))
            if is_concrete(value) and not low - edge <= float(value) <= high + edge:
                raise ValueError(
                    f"{name} = {float(value):g} is outside the particle model's table, {low:g} to {high:g}"
                )
            value = jnp.clip(value, low, high)
            coordinates.append(jnp.log(value) if log else value)
        return coordinates


@eqx.filter_jit
def _along(model, name, values, point):
    """Cross section and branching ratios at each of the values of one parameter."""
    return jax.vmap(lambda v: (model.sigma_v(**point, **{name: v}), model.ratios(**point, **{name: v})))(values)
