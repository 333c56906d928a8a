"""Model of the sky and its instrument: sources, background and the mixture of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from gammajax.common.display import LINES, article, block, described, document, item, rows, text, words
from gammajax.common.parameters import (
    Scalar,
    floating,
    is_concrete,
    parameter,
    require_finite,
    require_positive,
    scalar,
)
from gammajax.model.background_correction import BackgroundCorrection
from gammajax.model.morphology import Morphology
from gammajax.model.off_background import OffBackground
from gammajax.model.response_change import ResponseChange
from gammajax.model.spectra import Spectrum
from gammajax.model.temporal import TimeFactor

# fewer expected counts are none: gradients of quotients square them, and single precision ends at 1e-38
LEAST_COUNTS = 1e-18


class Source(eqx.Module):
    """A source of photons: phi(E, Omega) = spectrum(E) x morphology(Omega) [TeV^-1 cm^-2 s^-1 sr^-1].

    `spectrum` [TeV^-1 cm^-2 s^-1] at true energy, and `morphology` [sr^-1], which integrates to one over the sky.
    A morphology that changes with energy, for example a [`gammajax.TemplateCube`][], is evaluated at E.
    `response`: how the response to its photons differs from the files, or None; a [`gammajax.Mixture`][] gives its own
    to all sources without one. `time`: a factor in time, a [`gammajax.GaussianFlare`][] for example, or None.
    Raises `ValueError` for arguments of other types.

    >>> import gammajax as gj
    >>> source = gj.Source(gj.PowerLaw(2.3, 1e-12), gj.Gaussian(0.0, 0.0, 0.1))
    """

    spectrum: Spectrum
    morphology: Morphology
    response: ResponseChange | None = None
    time: TimeFactor | None = None
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Spectrum and morphology, and the response if it differs from the files, and the factor in time."""
        response = "" if self.response is None else f", response={text(self.response)}"
        time = "" if self.time is None else f", time={text(self.time)}"
        return block(f"Source(spectrum={text(self.spectrum)}, morphology={text(self.morphology)}{response}{time})")

    def __check_init__(self):
        if not isinstance(self.response, ResponseChange | None):
            raise ValueError(f"the response of a Source must be a gammajax.ResponseChange, not {self.response!r}")
        if not isinstance(self.time, TimeFactor | None):
            raise ValueError(f"the time of a Source must be a factor like gammajax.GaussianFlare, not {self.time!r}")
        for name, kind in (("spectrum", Spectrum), ("morphology", Morphology)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise ValueError(f"the {name} of a Source must be a gammajax {kind.__name__.lower()}, not {value!r}")


class InstrumentBackground(eqx.Module):
    """The instrument's own background: norm (E' / reference)^-tilt x rate of the response file.

    It is a rate per reconstructed energy and direction [TeV^-1 s^-1 sr^-1], so it is not convolved with the response.
    `norm` and `tilt` are numbers, or arrays with one number per observation; `reference` [TeV]. `correction`: a
    [`gammajax.BackgroundCorrection`][], a further factor that is smooth in energy and over the field of view, or None.

    Raises `ValueError` for a correction of another type.

    >>> import gammajax as gj
    >>> background = gj.InstrumentBackground(norm=1.1, tilt=0.05)
    >>> round(float(background.factor(1.0)), 4)
    1.1
    """

    norm: Float[Array | np.ndarray, "*observation"] = eqx.field(converter=floating, default=1.0)
    tilt: Float[Array | np.ndarray, "*observation"] = eqx.field(converter=floating, default=0.0)
    reference: Scalar = parameter("TeV", 1.0)
    correction: BackgroundCorrection | None = None
    __repr__, __pdoc__ = described, document

    def __check_init__(self):
        require_finite(self)
        require_positive(self, "reference")
        if not isinstance(self.correction, BackgroundCorrection | None):
            raise ValueError(
                "the correction of an InstrumentBackground must be a gammajax.BackgroundCorrection, not "
                f"{self.correction!r}"
            )

    def select(self, observation) -> "InstrumentBackground":
        """The background with the numbers of one observation, or of an array of observation indices."""
        norm, tilt = (v if jnp.ndim(v) == 0 else jnp.asarray(v)[observation] for v in (self.norm, self.tilt))
        correction = None if self.correction is None else self.correction.select(observation)
        return InstrumentBackground(norm, tilt, self.reference, correction)

    def factor(self, energy) -> Float[Array, "..."]:
        """Norm and tilt at reconstructed `energy` [TeV], broadcast with both; without the correction."""
        if is_concrete(self.tilt) and not np.any(
            np.asarray(self.tilt)
        ):  # no power of every event's energy in each call
            return jnp.broadcast_to(self.norm, jnp.broadcast_shapes(jnp.shape(energy), jnp.shape(self.norm)))
        return jnp.asarray(self.norm) * jnp.exp(-self.tilt * jnp.log(energy / self.reference))

    def corrected(self, energy, fov_lon, fov_lat) -> Float[Array, "..."]:
        """Factor of one observation at reconstructed `energy` [TeV] and field-of-view coordinates [deg]."""
        factor = self.factor(energy)
        return factor if self.correction is None else factor * self.correction(energy, fov_lon, fov_lat)

    def check_observations(self, observations) -> None:
        """Raise `ValueError` unless every part is shared or has one row for each of the observations.

        Also for nodes of the correction outside the tables of all backgrounds.
        """
        count = len(observations)
        for name, value in (("norm", self.norm), ("tilt", self.tilt)):
            if jnp.shape(value) not in ((), (count,)):
                raise ValueError(
                    f"the background's {name} has shape {jnp.shape(value)}; give one number, or {count}, one for each "
                    "observation"
                )
        if self.correction is not None:
            self.correction.check_observations(observations)


SLACK = 1e-6  # rounding of a sum of weights in single precision
Component = Source | InstrumentBackground | OffBackground
Value = TypeVar("Value")


def or_undefined(component: Component, value: Value) -> Value:
    """Arrays, or NaN if a traced number of the component is NaN: comparisons in some formulae hide the NaN."""
    traced = [leaf for leaf in jax.tree.leaves(component) if not is_concrete(leaf) and eqx.is_inexact_array(leaf)]
    if not traced:
        return value
    undefined = jnp.stack([jnp.isnan(leaf).any() for leaf in traced]).any()
    return jax.tree.map(lambda array: jnp.where(undefined, jnp.asarray(jnp.nan, array.dtype), array), value)


class Mixture(eqx.Module):
    """Named components, with weights or with absolute fluxes; a component may be a mixture itself.

    With `weights` the model is a mixture: each component's weight is its fraction of the detected events in all
    observations. Without weights, fluxes and norms are absolute and the likelihood is the extended one. Weights are

    - a dict by name; one component may be left out and takes the remainder, so that the sum is one,
    - or an array in the order of the components, for example a Dirichlet parameter or [`gammajax.stick_breaking`][].

    In a mixture within a mixture, weights are fractions of the events of that node. A node without weights inside a
    node with weights keeps the proportions of its own absolute fluxes; only its sum is scaled. Inner components are
    named by their path, as in "signal/W".

    `fractions` holds the weights of the direct components `parts` in the order of their `names`, or None.
    `response`, a [`gammajax.ResponseChange`][], says how the response to the photons of all sources differs from the
    files; a source or an inner mixture may have its own.

    Raises `ValueError` for unknown names, more than one missing weight, weights that cannot add up to one, and a node
    with weights in a mixture without weights: its flux would be unknown.

    >>> import gammajax as gj
    >>> source = gj.Source(gj.PowerLaw(2.3, 1e-12), gj.Point(0.0, 0.0))
    >>> mixture = gj.Mixture(source=source, background=gj.InstrumentBackground(), weights={"source": 0.2})
    >>> mixture.names, mixture.weighted
    (('source', 'background'), True)
    """

    # tuples, not dicts: jax sorts the keys of dicts and would change the order of components
    names: tuple[str, ...] = eqx.field(static=True)
    parts: tuple["Component | Mixture", ...]
    fractions: Float[Array, " component"] | None
    response: ResponseChange | None

    def __init__(self, *, weights=None, response=None, **components: "Component | Mixture"):
        for name, value in (("weights", weights), ("response", response)):
            if isinstance(value, Component | Mixture):
                raise ValueError(f"no component can be called {name!r}; give it another name")
        if not isinstance(response, ResponseChange | None):
            raise ValueError(f"the response of a Mixture must be a gammajax.ResponseChange, not {response!r}")
        if not components:
            raise ValueError("a mixture needs at least one component, as in Mixture(signal=Source(...))")
        for name, component in components.items():
            if not isinstance(component, Component | Mixture):
                raise ValueError(
                    f"component {name!r} must be a Source, InstrumentBackground or Mixture, not {component!r}"
                )
            if "/" in name:
                raise ValueError(f"component {name!r}: a name must not hold '/', which separates the nodes of a path")
            if weights is None and isinstance(component, Mixture) and component.weighted:
                raise ValueError(
                    f"component {name!r} is a mixture with weights in one without: its flux is unknown; "
                    "give weights to the outer one, or none to both"
                )
        self.names, self.parts = tuple(components), tuple(components.values())
        self.fractions = None if weights is None else _complete_weights(weights, list(components))
        self.response = response

    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Components with their weights, and with their parameters where there is room."""
        head = f"Mixture of {len(self.names)}, {'absolute fluxes' if self.fractions is None else 'by weights'}"
        for say in (text, _kinds):
            shown = block(head, *_nodes(self, "", say))
            if len(shown.splitlines()) < LINES:
                return shown
        return block(head, *rows(_nodes(self, "", _kinds)))

    @property
    def weighted(self) -> bool:
        """Whether the model has weights; otherwise fluxes are absolute."""
        return self.fractions is not None

    @property
    def components(self) -> dict[str, Component]:
        """Sources, with their responses, and backgrounds by path, including inner mixtures."""
        found = {}
        for name, part in zip(self.names, self.parts, strict=True):
            if isinstance(part, Mixture):
                found |= {f"{name}/{path}": component for path, component in part.components.items()}
            else:
                found[name] = part
        if self.response is None:
            return found
        return {path: _with_response(component, self.response) for path, component in found.items()}

    def only(self, names: Sequence[str]) -> "Mixture":
        """The mixture of some components, by path; the name of an inner mixture stands for all in it.

        Raises `ValueError` for unknown names, and for weights: they are fractions of all events.
        """
        if self.weighted:
            raise ValueError("a mixture with weights has no part: they are fractions of the events of all components")
        unknown = [name for name in names if not any(within(path, name) for path in self.components)]
        if unknown or not names:
            raise ValueError(f"there are no components {list(unknown)}; the components are {list(self.components)}")
        kept = {}
        for name, part in zip(self.names, self.parts, strict=True):
            if any(within(name, wanted) for wanted in names):
                kept[name] = part
            elif inner := [wanted.removeprefix(f"{name}/") for wanted in names if wanted.startswith(f"{name}/")]:
                assert isinstance(part, Mixture)
                kept[name] = part.only(inner)
        return Mixture(response=self.response, **kept)

    @property
    def groups(self) -> list[tuple[Float[Array, ""], tuple[str, ...]]]:
        """Fraction of the events and paths of the components of each group; absolute fluxes set the shares in a group.

        A component with a weight is a group of its own. Without weights all components are one group.
        """
        if self.fractions is None:
            return [(jnp.ones(()), tuple(self.components))]
        found = []
        for name, part, fraction in zip(self.names, self.parts, self.fractions, strict=True):
            inner = part.groups if isinstance(part, Mixture) else [(jnp.ones(()), ("",))]
            found += [
                (fraction * share, tuple(f"{name}/{path}" if path else name for path in paths))
                for share, paths in inner
            ]
        return found

    def component_fractions(self, counts: dict[str, Float[Array, ""]]) -> dict[str, Float[Array, ""]]:
        """Fraction of the detected events of every component by path; they add up to one.

        `counts` are the expected counts by absolute flux; without weights their proportions matter.
        """
        found = {}
        for fraction, paths in self.groups:
            if len(paths) == 1:
                found[paths[0]] = fraction
                continue
            total = sum((counts[path] for path in paths), start=jnp.zeros(()))
            some = ~(total <= LEAST_COUNTS)  # shares of no counts are undefined
            found |= {
                path: fraction * jnp.where(some, counts[path] / jnp.where(some, total, 1.0), 1.0 / len(paths))
                for path in paths
            }
        return {path: found[path] for path in self.components}

    def flux_scales(
        self, counts: dict[str, Float[Array, ""]], events: Float[Array, ""] | Integer[Array, ""]
    ) -> dict[str, Float[Array, ""]]:
        """Factor on each component's absolute flux that yields its fraction of n observed `events`: s_i = w_i n / N_i.

        One without weights, and infinite for a component that expects no events but has a weight.
        """
        if not self.weighted:
            return {path: jnp.ones(()) for path in counts}
        scales = {}
        for path, fraction in self.component_fractions(counts).items():
            some = ~(counts[path] <= LEAST_COUNTS)
            scale = fraction * events / jnp.where(some, counts[path], 1.0)
            scales[path] = jnp.where(some, scale, jnp.where(fraction > 0, jnp.inf, 0.0))
        return scales

    def node_fractions(self, counts: dict[str, Float[Array, ""]]) -> dict[str, Float[Array, ""]]:
        """As [`Mixture.component_fractions`][], also for inner mixtures: a node has the sum of its components."""
        found = {}
        for path, fraction in self.component_fractions(counts).items():
            *nodes, _ = path.split("/")
            for depth in range(1, len(nodes) + 1):
                node = "/".join(nodes[:depth])
                found[node] = found.get(node, 0.0) + fraction
            found[path] = fraction
        return found


def mixture_of(model: Any, parameters: Mapping[str, Any]) -> Mixture:
    """Mixture that a model makes of parameters.

    Raises `ValueError` for a model that is no function of a dict of parameters, asks for others, or returns anything
    else.
    """
    if not callable(model) or isinstance(model, Spectrum):
        kind = article(type(model).__name__)
        instead = "; write lambda p: mixture" if isinstance(model, Component | Mixture) else ""
        raise ValueError(f"the model must be a function from parameters to a mixture, not {kind}{instead}")
    try:
        mixture = model(parameters)
    except KeyError as error:
        name = error.args[0] if error.args else None
        if not isinstance(name, str) or name in parameters:
            raise  # of some other dict
        raise ValueError(missing(name, parameters, "prior")) from error
    if not isinstance(mixture, Mixture):
        kind = type(mixture).__name__
        instead = "; return Mixture(source=...)" if isinstance(mixture, Component) else ""
        raise ValueError(f"the model must return a gammajax.Mixture, not {kind}{instead}")
    return mixture


def require_component(model: Any, function: str) -> None:
    """Raise `ValueError` for what is neither a component nor a mixture, the argument of a function of this name."""
    if not isinstance(model, Component | Mixture):
        raise ValueError(
            f"{function} takes a Source, an InstrumentBackground or a Mixture, as model(parameters) returns it, not "
            f"{article(type(model).__name__)}"
        )


def missing(name: str, known, lacks: str) -> str:
    """Message for a parameter that a model reads and that has no prior or value."""
    return f"the model reads parameter {name!r}, which has no {lacks}; known: {', '.join(sorted(known)) or 'none'}"


def stick_breaking(breaks: Float[Array, "*batch stick"]) -> Float[Array, "*batch component"]:
    """Weights of n + 1 components from n numbers between zero and one: w_i = v_i Prod_{j<i} (1 - v_j).

    `breaks` [..., n]: the numbers v_i; returns [..., n + 1]. Each number is a share of the remainder; the last
    component takes the rest. With v_i ~ Beta(1, n - i), i from 0, the weights are uniform over the simplex (Connor &
    Mosimann 1969, doi:10.1080/01621459.1969.10500963).

    >>> import gammajax as gj, jax.numpy as jnp
    >>> gj.stick_breaking(jnp.array([0.5, 0.5])).tolist()
    [0.5, 0.25, 0.25]
    """
    breaks = jnp.asarray(breaks)
    one = jnp.ones((*breaks.shape[:-1], 1), breaks.dtype)
    left = jnp.concatenate([one, jnp.cumprod(1.0 - breaks, axis=-1)], axis=-1)
    return left * jnp.concatenate([breaks, one], axis=-1)


def within(path: str, name: str) -> bool:
    """Whether a path is that of a component or of something in the inner mixture of this name."""
    return path == name or path.startswith(f"{name}/")


def _with_response(component: Component, response: ResponseChange) -> Component:
    """A source without a response of its own gets this one."""
    if not isinstance(component, Source) or component.response is not None:
        return component
    return Source(component.spectrum, component.morphology, response, component.time)


def _nodes(mixture: Mixture, above: str, say: Callable[[Component], str]) -> list[str]:
    """A line for each component: path, weight among its neighbours, and `say` of it."""
    lines = []
    for number, (name, part) in enumerate(zip(mixture.names, mixture.parts, strict=True)):
        weight = "" if mixture.fractions is None else f" ({item(mixture.fractions, number)})"
        inner = isinstance(part, Mixture)
        lines.append(f"{above}{name}{weight}: {f'Mixture of {len(part.names)}' if inner else say(part)}")
        lines += _nodes(part, f"{above}{name}/", say) if inner else []
    return lines


def _kinds(component: Component) -> str:
    """Names of the classes of a component."""
    parts = [component.spectrum, component.morphology] if isinstance(component, Source) else [component]
    return ", ".join(type(part).__name__ for part in parts)


def _complete_weights(weights, names):
    if not isinstance(weights, Mapping):
        array = jnp.asarray(weights, float)
        if array.shape != (len(names),):
            raise ValueError(f"weights of shape {array.shape} do not fit the {len(names)} components {names}")
        weights = dict(zip(names, array, strict=True))
    unknown = [name for name in weights if name not in names]
    if unknown:
        raise ValueError(f"weights name unknown components {unknown}; the components are {names}")
    missing = [name for name in names if name not in weights]
    if len(missing) > 1:
        raise ValueError(f"give weights for all components but one; {missing} have none")
    weights = {name: scalar(value) for name, value in weights.items()}
    if is_concrete(weights):
        values = {name: float(np.asarray(value)) for name, value in weights.items()}
        total = sum(values.values())
        if not all(value >= 0 for value in values.values()):
            raise ValueError(f"weights must not be negative or NaN: {values}")
        if missing and total > 1 + SLACK:
            raise ValueError(f"the weights add up to {total:.6g}, more than one; nothing is left for {missing}")
        if not missing and not np.isclose(total, 1.0, atol=1e-5):
            raise ValueError(f"the weights add up to {total:.6g}; they must add up to one")
    given = jnp.stack([scalar(0.0), *weights.values()])
    total = given.sum()
    # the same rules for traced weights, with NaN for an error; compiled programs round, so sums may be off by more
    possible = jnp.all(given >= 0)
    if missing:
        possible &= total <= 1.0 + SLACK
        weights[missing[0]] = jnp.where(total <= 1.0, 1.0 - total, 0.0)
    else:
        possible &= jnp.abs(total - 1.0) <= 1e-3
        weights = {name: value / total for name, value in weights.items()}
    return jnp.where(possible, jnp.stack([weights[name] for name in names]), jnp.nan)
