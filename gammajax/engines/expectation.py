"""Expectation of one component, or of each component of a mixture, without a posterior."""

from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.engines import Rows
from gammajax.engines.choice import check_fields, engine_init
from gammajax.engines.rows import require_events
from gammajax.events.event_list import Events
from gammajax.instrument.observation import as_tuple
from gammajax.model.mixture import Component, Mixture, Source, or_undefined, require_component
from gammajax.model.temporal import Times


@overload
def intensity(component: Component, observations, events: Events, engine: str = "kernel", **options) -> Array: ...


@overload
def intensity(
    component: Mixture, observations, events: Events, engine: str = "kernel", **options
) -> dict[str, Array]: ...


def intensity(
    component: Component | Mixture, observations, events: Events, engine: str = "kernel", **options
) -> Float[Array, " event"] | dict[str, Float[Array, " event"]]:
    """Intensity lambda [TeV^-1 sr^-1] of one component at every event, by absolute flux; of a mixture by component.

        lambda(E', Omega') = t Int dE dOmega phi(E, Omega) A(E, Omega) P(Omega' | E, Omega) D(E' | E, Omega)

    `component` is a source, a background or a mixture, `events` are [`gammajax.Events`][]. `observations` is one
    observation or a list; `engine` as in [`gammajax.Posterior`][], but for "dense"; `options` as there (`per_decade`,
    `bands`). Differentiable in the component's parameters; "kernel" in those of the spectrum only. Returns an array
    [event], of a mixture a dict of them. Raises `ValueError` for anything else in their places.

    >>> import gammajax as gj
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=3600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> source = gj.Source(gj.PowerLaw(2.3, 1e-12), gj.Point(0.3, 0.0))
    >>> near, far = gj.intensity(source, run, gj.Events([1.5, 1.5], [0.3, -0.5], [0.0, 0.0]))
    >>> bool(near > 100.0 * far)
    True
    """
    require_component(component, "intensity")
    observations = as_tuple(observations)
    require_events(events)
    if isinstance(component, Mixture):
        parts = component.components.items()
        return {path: intensity(part, observations, events, engine, **options) for path, part in parts}
    with jax.ensure_compile_time_eval():
        check_fields(component, observations)
        rows = Rows.init(events, observations, **options)
        built = engine_init(component, engine)(component, observations, rows)
        inverse = np.empty(len(events), int)
        inverse[rows.index[rows.valid]] = np.flatnonzero(rows.valid)
    values = built.intensity(component)[inverse]
    if isinstance(component, Source) and component.time is not None:
        values = values * component.time.factors(_times(observations, events))[0]
    return or_undefined(component, jnp.where(values < 0.0, 0.0, values))  # noise next to zero


@overload
def expected_counts(component: Component, observations, engine: str = "kernel", **options) -> Array: ...


@overload
def expected_counts(component: Mixture, observations, engine: str = "kernel", **options) -> dict[str, Array]: ...


def expected_counts(
    component: Component | Mixture, observations, engine: str = "kernel", **options
) -> Float[Array, ""] | dict[str, Float[Array, ""]]:
    """Expected counts N of one component, summed over the selections of one or several observations.

        N = Int over the selection of lambda dE' dOmega'

    `component` is a source, a background or a mixture; `observations`, `engine`, `options` as of
    [`gammajax.intensity`][]. Returns a number; of a mixture those of every component by path, by absolute fluxes
    whatever its weights. Raises `ValueError` for anything else, such as a model that is not called.

    >>> import gammajax as gj
    >>> observation = gj.io.ctao(pointing=(0.0, 0.0), livetime=3600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> source = gj.Source(gj.PowerLaw(2.3, 1e-12), gj.Point(0.3, 0.0))
    >>> counts = gj.expected_counts(gj.Mixture(source=source, sky=gj.InstrumentBackground()), observation)
    >>> list(counts)
    ['source', 'sky']
    """
    require_component(component, "expected_counts")
    observations = as_tuple(observations)
    if isinstance(component, Mixture):
        parts = component.components.items()
        return {path: expected_counts(part, observations, engine, **options) for path, part in parts}
    with jax.ensure_compile_time_eval():
        check_fields(component, observations)
        none = Events([], [], [], time=[], phase=[])  # counts need no events
        rows = Rows.init(none, observations, **options)
        built = engine_init(component, engine)(component, observations, rows)
    counts = built.expected_counts(component)
    if isinstance(component, Source) and component.time is not None:
        counts = counts * component.time.factors(_times(observations, none))[1]
    return or_undefined(component, counts.sum())


def _times(observations, events) -> Times:
    with jax.ensure_compile_time_eval():
        return Times.of(observations, events.time, events.phase, jnp.asarray(np.asarray(events.observation, int)))
