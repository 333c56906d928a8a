"""Response change: how the response of observations differs from their files."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.common.display import described, document
from gammajax.common.parameters import Scalar, floating, is_concrete, parameter, require_finite, require_positive
from gammajax.events.on_off_run import OnOffRun
from gammajax.instrument.observation import Observation
from gammajax.instrument.psf import PSF, GaussPSF, KingPSF, TablePSF
from gammajax.instrument.region_response import RegionResponse
from gammajax.instrument.response import EnergyDispersion, Response
from gammajax.instrument.table import Axis, Table
from gammajax.model.splines import cubic_weights

AREA_STEP = 0.05  # in ln E, of a table times a factor that changes with energy
MIGRA_NODES = 4000  # at most, of a dispersion with another width
DISPERSION = ("energy_scale", "energy_resolution")
DIRECTIONS = ("psf_width", "pointing_lon", "pointing_lat")
Observed = TypeVar("Observed", Observation, OnOffRun)
Responding = TypeVar("Responding", Response, RegionResponse)

if TYPE_CHECKING:  # type checkers do not know that fields convert plain numbers
    PerObservation = Any
else:
    PerObservation = Float[Array | np.ndarray, "*observation"]


def _no_change(value: float, unit: str = ""):
    return eqx.field(converter=floating, default=value, metadata={"unit": unit})


class ResponseChange(eqx.Module):
    """How the response to the photons of sources differs from the files of the observations.

    Each field is a number, or an array with one number per observation; the defaults change nothing.

    - `energy_scale` z: reconstructed energies are 1 + z times those of the files' energy dispersion.
    - `energy_resolution`: factor on the width of the energy dispersion about its mean.
    - `effective_area`, `effective_area_tilt`, `effective_area_spline`: the effective area is a(E) times that of the
      files, ln a = ln effective_area - effective_area_tilt ln(E / reference) + s(ln E) at the true energy E. s is the
      natural cubic spline with the values `effective_area_spline` [*observation, node] at `spline_energies` [TeV], and
      constant beyond them.
    - `psf_width`: factor on the width of the point spread function.
    - `pointing_lon`, `pointing_lat` [deg]: the telescope pointed at these angles from the coordinates in the files. The
      files' directions of events are relative to their pointing, so all directions of the observation are off by them:
      a source at (lon, lat) appears at (lon - pointing_lon, lat - pointing_lat).

    Selections are in the reconstructed energies and directions of the files. An
    [`gammajax.InstrumentBackground`][] is a rate in these coordinates, so it does not change. Give the change to
    [`gammajax.Mixture`][] as `response`. ON and OFF regions take all fields of energies, binned data
    ([`gammajax.io.from_gammapy_datasets`][]) those without `energy_resolution`; both refuse the others.

    Raises `ValueError` for factors (also 1 + z) that are not positive, and for a spline whose energies do not increase
    or do not match its values.

    >>> import gammajax as gj
    >>> change = gj.ResponseChange(energy_scale=0.05, psf_width=1.1)
    >>> round(float(change.energy_scale), 3), float(change.effective_area)
    (0.05, 1.0)
    """

    energy_scale: PerObservation = _no_change(0.0)
    energy_resolution: PerObservation = _no_change(1.0)
    effective_area: PerObservation = _no_change(1.0)
    effective_area_tilt: PerObservation = _no_change(0.0)
    effective_area_spline: Float[Array | np.ndarray, "*observation node"] | None = eqx.field(
        converter=lambda value: None if value is None else floating(value), default=None
    )
    psf_width: PerObservation = _no_change(1.0)
    pointing_lon: PerObservation = _no_change(0.0, "deg")
    pointing_lat: PerObservation = _no_change(0.0, "deg")
    reference: Scalar = parameter("TeV", 1.0)
    spline_energies: tuple[float, ...] = eqx.field(
        converter=lambda value: tuple(float(energy) for energy in value), default=(), static=True
    )
    __repr__, __pdoc__ = described, document

    def __check_init__(self):
        require_finite(self)
        require_positive(self, "energy_resolution", "effective_area", "psf_width", "reference")
        if is_concrete(self.energy_scale) and not np.all(np.asarray(self.energy_scale) > -1.0):
            raise ValueError(
                f"energy_scale of a ResponseChange must be above -1, it is {np.asarray(self.energy_scale)}"
            )
        count, energies = len(self.spline_energies), np.asarray(self.spline_energies)
        values = self.effective_area_spline
        if (values is None) != (count == 0):
            raise ValueError("effective_area_spline and spline_energies of a ResponseChange belong together: give both")
        if count and (count < 3 or np.any(energies <= 0) or np.any(np.diff(energies) <= 0)):
            raise ValueError(f"spline_energies [TeV] must be at least three and increase, they are {energies.tolist()}")
        if values is not None and jnp.shape(values)[-1:] != (count,):
            raise ValueError(
                f"effective_area_spline has shape {jnp.shape(values)}; its last dimension must be the {count} "
                "spline_energies"
            )

    def check_observations(self, count: int) -> None:
        """Raise `ValueError` unless every field is shared or has one value for each of `count` observations."""
        for name, value, trailing in self._numbers():
            if jnp.shape(value)[: jnp.ndim(value) - trailing] not in ((), (count,)):
                raise ValueError(
                    f"{name} of the response has shape {jnp.shape(value)}; give one value, or {count}, one for each "
                    "observation"
                )

    def select(self, observation) -> "ResponseChange":
        """The change of one observation, or of an array of observation indices."""
        where = {name: trailing for name, _, trailing in self._numbers()}
        values = [getattr(self, name) for name in where]
        chosen = [
            value if jnp.ndim(value) == trailing else value[observation]
            for value, trailing in zip(values, where.values(), strict=True)
        ]
        return eqx.tree_at(lambda change: [getattr(change, name) for name in where], self, chosen)

    def varies(self, *names: str) -> bool:
        """Whether one of these fields has one value per observation."""
        return any(jnp.ndim(value) > trailing for name, value, trailing in self._numbers() if name in names)

    def only(self, names: Iterable[str]) -> "ResponseChange":
        """The change of these fields alone."""
        kept = {name: value for name, value, _ in self._numbers() if name in tuple(names)}
        energies = self.spline_energies if "effective_area_spline" in kept else ()
        return ResponseChange(reference=self.reference, spline_energies=energies, **kept)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fields that change the response."""
        return tuple(name for name, *_ in self._numbers())

    def changed_fields(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of these fields that are traced, or change the response."""
        nothing = ResponseChange()
        return tuple(
            name
            for name, value, _ in self._numbers()
            if name in tuple(names) and (not is_concrete(value) or np.any(value != getattr(nothing, name)))
        )

    def free(self, others: Iterable["ResponseChange | None"]) -> tuple[str, ...]:
        """Names of the fields that are traced, or differ in one of the `others`."""
        others = [other for other in others if other is not None]
        found = []
        for name, value, _ in self._numbers():
            values = [value, *(getattr(other, name) for other in others)]
            if not is_concrete(*values) or any(not np.array_equal(value, other) for other in values[1:]):
                found.append(name)
        return tuple(found)

    def area_factor(self, energy: Float[Array, " energy"]) -> Float[Array, "*observation energy"]:
        """The part of a(E) that changes with the true `energy` [TeV], without `effective_area`."""
        log_energy = jnp.log(energy)
        log_factor = -jnp.asarray(self.effective_area_tilt)[..., None] * (log_energy - jnp.log(self.reference))
        if self.effective_area_spline is not None:
            weights = cubic_weights(np.log(self.spline_energies), log_energy)
            log_factor = log_factor + jnp.asarray(self.effective_area_spline) @ weights.T
        return jnp.exp(log_factor)

    def _numbers(self):
        """Name, value and number of trailing dimensions of every field that may differ from its default."""
        for name in (
            "energy_scale",
            "energy_resolution",
            "effective_area",
            "effective_area_tilt",
            "effective_area_spline",
            "psf_width",
            "pointing_lon",
            "pointing_lat",
        ):
            value = getattr(self, name)
            if value is not None:
                yield name, value, int(name == "effective_area_spline")


def changed(observation: Observed, change: ResponseChange) -> Observed:
    """The `observation` with the response of a `change`, for sources; the background's response is the same.

    The pointing and the excluded sky move by `pointing_lon` and `pointing_lat`: the directions of events do as well.
    Returns what it is given: a [`gammajax.Observation`][], or a [`gammajax.OnOffRun`][], which has no directions.
    Raises `ValueError` for a [`gammajax.ResponseChange`][] that is traced, or has one value for each of several
    observations, and for one of directions where there are none.

    >>> import gammajax as gj
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0)
    >>> larger = gj.changed(run, gj.ResponseChange(effective_area=1.1))
    >>> round(float(larger.response.area(1.0, 0.0) / run.response.area(1.0, 0.0)), 4)
    1.1
    """
    if not is_concrete(change):
        raise ValueError("changed needs a change with known numbers: call it outside jit, grad and vmap")
    if change.varies(*change.names):
        raise ValueError("changed takes the change of one observation: give change.select(its number)")
    return _with_response(observation, _changed_response(observation.response, change), change)


def require_no_directions(change: ResponseChange, data: str) -> None:
    """Raise `ValueError` for a known change of the point spread function or the pointing, in `data` without them."""
    wrong = [field for field in change.changed_fields(DIRECTIONS) if is_concrete(getattr(change, field))]
    if wrong:
        raise ValueError(
            f"{data} keep the directions of their files, so the response cannot change by {wrong[0]}: its effect on "
            "the photons of a region is a factor effective_area; components=(...) names those of each data set"
        )


def _changed_response(response: Responding, change: ResponseChange) -> Responding:
    """The response with all of a change but the pointing."""
    z, resolution, area, width = (
        float(np.asarray(getattr(change, name)))
        for name in ("energy_scale", "energy_resolution", "effective_area", "psf_width")
    )
    dispersion = response.energy_dispersion
    if resolution != 1.0:
        dispersion = _widened(dispersion, resolution)
    if z != 0.0:
        dispersion = _scaled(dispersion, 1.0 + z)
    bends = np.any(np.asarray(change.effective_area_tilt)) or change.effective_area_spline is not None
    table = _refined(response.effective_area) if bends else response.effective_area
    if bends or area != 1.0:
        energy = np.exp(np.asarray(table.axes[0].nodes, np.float64))
        factor = area * np.asarray(change.area_factor(jnp.asarray(energy)), np.float64)
        table = Table(table.axes, table.values * factor[:, None])
    if isinstance(response, RegionResponse):
        require_no_directions(change, "ON and OFF regions")
        return RegionResponse(table, dispersion, response.containment)
    psf = response.psf if width == 1.0 else scaled_psf(response.psf, width)
    return Response(table, psf, dispersion, response.background)


def _with_response(observation: Observed, response, change: ResponseChange) -> Observed:
    """The observation with this response, and its directions moved by the pointing of the change."""
    result = eqx.tree_at(lambda o: o.response, observation, response)
    if isinstance(observation, OnOffRun):
        return result
    lon, lat = float(np.asarray(change.pointing_lon)), float(np.asarray(change.pointing_lat))
    if lon == 0.0 and lat == 0.0:
        return result
    places = [observation] if observation.exclusion is None else [observation, observation.exclusion.grid]
    turned = [place for part in places for place in (part.lon + lon, part.lat + lat)]

    def where(o):
        parts = [o] if o.exclusion is None else [o, o.exclusion.grid]
        return [place for part in parts for place in (part.lon, part.lat)]

    return eqx.tree_at(where, result, turned)


def changed_observations(observations: Iterable[Observed], change: ResponseChange | None) -> tuple[Observed, ...]:
    """Each observation with its change; a response is changed once for all observations that share it."""
    observations = tuple(observations)
    if change is None:
        return observations
    change.check_observations(len(observations))
    known: dict = {}
    found = []
    for number, observation in enumerate(observations):
        mine = change.select(number)
        values = ((name, value) for name, value, _ in mine._numbers() if not name.startswith("pointing"))
        key = (id(observation.response), *((name, np.asarray(value).tobytes()) for name, value in values))
        if key not in known:
            known[key] = _changed_response(observation.response, mine)
        found.append(_with_response(observation, known[key], mine))
    return tuple(found)


def scaled_psf(psf: PSF, factor: float) -> PSF:
    """The point spread function with all angles times a factor."""
    if isinstance(psf, GaussPSF):
        return eqx.tree_at(lambda p: p.widths.values, psf, psf.widths.values * factor)
    if isinstance(psf, KingPSF):
        values = psf.shape.values
        return eqx.tree_at(lambda p: p.shape.values, psf, values.at[..., 0].multiply(factor))
    if not isinstance(psf, TablePSF):
        raise ValueError(f"psf_width changes a GaussPSF, KingPSF or TablePSF, not a {type(psf).__name__}")
    *axes, rad = psf.profile.axes
    axes = (*axes, Axis(np.asarray(rad.nodes, np.float64) * factor, rad.lower * factor, rad.upper * factor))
    return eqx.tree_at(
        lambda p: (p.profile, p.cumulative),
        psf,
        (Table(axes, psf.profile.values / factor**2), Table(axes, psf.cumulative.values)),
    )


def mean_migra(dispersion: EnergyDispersion) -> Float[np.ndarray, "energy offset"]:
    """Mean of E'/E at the nodes of the table, of profiles that are linear between their nodes."""
    migra = np.asarray(dispersion.profile.axes[2].nodes, np.float64)
    return piecewise_mean(migra, np.asarray(dispersion.profile.values, np.float64))


def piecewise_mean(x: np.ndarray, density: np.ndarray) -> np.ndarray:
    """Mean of densities [..., x] that are linear between the nodes; one for densities of zeros."""
    low, high, step = density[..., :-1], density[..., 1:], np.diff(x)
    total = (0.5 * step * (low + high)).sum(-1)
    first = (step / 6.0 * (low * (2.0 * x[:-1] + x[1:]) + high * (x[:-1] + 2.0 * x[1:]))).sum(-1)
    return np.where(total > 0, first / np.where(total > 0, total, 1.0), 1.0)


def _scaled(dispersion: EnergyDispersion, factor: float) -> EnergyDispersion:
    """Reconstructed energies times a factor."""
    *axes, migra = dispersion.profile.axes
    axes = (*axes, Axis(np.asarray(migra.nodes, np.float64) * factor, migra.lower * factor, migra.upper * factor))
    return _with_tables(dispersion, axes, dispersion.profile.values / factor, dispersion.cumulative.values)


def _widened(dispersion: EnergyDispersion, factor: float) -> EnergyDispersion:
    """Distances from the mean times a factor; the table may reach negative energies, which nobody selects."""
    *axes, migra = dispersion.profile.axes
    nodes = np.asarray(migra.nodes, np.float64)
    values = np.asarray(dispersion.profile.values, np.float64)
    mean = mean_migra(dispersion)
    low, high = (mean + (end - mean) * factor for end in (nodes[0], nodes[-1]))
    step = 0.5 * np.diff(nodes).min() * min(factor, 1.0)
    new = np.linspace(low.min(), high.max(), min(int(np.ceil((high.max() - low.min()) / step)) + 1, MIGRA_NODES))
    found = np.empty((*values.shape[:2], new.size))
    for place in np.ndindex(*values.shape[:2]):
        old = mean[place] + (new - mean[place]) / factor
        found[place] = np.interp(old, nodes, values[place], left=0.0, right=0.0)
    steps = 0.5 * np.diff(new) * (found[..., 1:] + found[..., :-1])
    cumulative = np.concatenate([np.zeros_like(found[..., :1]), np.cumsum(steps, -1)], -1)
    total = cumulative[..., -1:]
    safe = np.where(total > 0, total, 1.0)
    return _with_tables(dispersion, (*axes, Axis(new)), found / safe, cumulative / safe)


def _with_tables(dispersion, axes, profile, cumulative):
    tables = Table(axes, profile), Table(axes, cumulative)
    return eqx.tree_at(lambda d: (d.profile, d.cumulative), dispersion, tables)


def _refined(area: Table) -> Table:
    """The table with more nodes in ln E up to its ends, so that its product with a smooth factor is linear between."""
    axis, offsets = area.axes
    nodes, values = np.asarray(axis.nodes, np.float64), np.asarray(area.values, np.float64)
    ends = np.unique(np.concatenate([[axis.lower], nodes, [axis.upper]]))
    parts = [
        np.linspace(low, high, int(np.ceil((high - low) / AREA_STEP)), endpoint=False)
        for low, high in zip(ends[:-1], ends[1:], strict=True)
    ]
    new = np.append(np.concatenate(parts), ends[-1]) if nodes.size > 1 else nodes
    if nodes.size > 1:
        index = np.clip(np.searchsorted(nodes, new, side="right") - 1, 0, nodes.size - 2)
        share = ((new - nodes[index]) / (nodes[index + 1] - nodes[index]))[:, None]
        values = values[index] * (1.0 - share) + values[index + 1] * share
    return Table((Axis(new, axis.lower, axis.upper), offsets), values)
