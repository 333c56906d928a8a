"""Choice of an engine for each component of a model, and its set-up.

| component | without a free parameter | with one |
| --- | --- | --- |
| instrument background | numbers of `FixedEngine` | `BackgroundEngine` |
| source by the kernel engine | numbers of `FixedEngine` | one `KernelEngine` for all sources of a morphology |
| source by another engine | that engine | that engine |

Sources use the kernel engine by default, or the fold engine if their morphology or their response has a free parameter;
that of the effective area alone is one of the spectrum.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from numpyro.distributions import Distribution

from gammajax.common.parameters import is_same
from gammajax.common.progress import say
from gammajax.engines import ENGINES, BackgroundEngine, Engine, FixedEngine, KernelEngine, PreparedKernel, Rows
from gammajax.engines.kernel import AREA, folded, free_fields
from gammajax.instrument.observation import Observation
from gammajax.model.dependences import Dependence, dependence
from gammajax.model.mixture import Component, InstrumentBackground, Mixture, Source, mixture_of
from gammajax.model.off_background import OffBackground
from gammajax.model.priors import extremes

EngineChoice = str | Callable[..., Engine]
JOINT = 8  # draws of the prior that tell engines the range of positions and sizes
JAX_CANNOT = (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError)
NOT_COMPILED = "the model cannot be compiled: take functions from jax.numpy, not numpy or math, and jnp.where for if"


class Explored(NamedTuple):
    """A model over its priors: the mixture at their centres and at other points, and its dependence on parameters."""

    mixture: Mixture
    variants: list[Mixture]
    dependence: Dependence


def explore(
    model: Callable[[dict[str, Any]], Mixture], priors: Mapping[str, Distribution], start: dict[str, Any]
) -> Explored:
    """Mixtures at the centres, the ends and some draws of the priors, and the dependence of components on parameters.

    Raises `ValueError` for a model that is no function of these parameters, that cannot be compiled, whose components
    change with a parameter, or that refuses an end of a prior.
    """
    mixture = mixture_of(model, start)
    variants = explore_priors(model, priors, start, mixture)
    try:
        depends = dependence(model, start)
    except JAX_CANNOT as error:
        raise ValueError(NOT_COMPILED) from error
    return Explored(mixture, variants + _together(model, priors), depends)


def explore_priors(model, priors, start, mixture) -> list[Mixture]:
    """Mixtures at the ends of every prior: for validation, and for the reach of positions and sizes.

    Raises `ValueError` naming the prior if a spectrum refuses one of these values.
    """
    variants = []
    for name, prior in priors.items():
        for value in extremes(prior):
            try:
                changed = model({**start, name: value})
            except ValueError as error:
                reached = ", ".join(f"{number:g}" for number in np.ravel(value))
                raise ValueError(f"the prior of {name!r} reaches {reached}: {error}") from error
            if list(changed.components) != list(mixture.components) or changed.weighted != mixture.weighted:
                raise ValueError(f"the model's components or weights change with {name!r}; they must stay the same")
            variants.append(changed)
    return variants


def _together(model, priors) -> list[Mixture]:
    """Mixtures with all parameters at their low or high ends, or at draws: products reach further than their factors.

    Points that the model refuses are left out.
    """
    ends = [extremes(prior) for prior in priors.values()]
    points = [dict(zip(priors, [of[which] for of in ends], strict=True)) for which in (0, -1)]
    keys = jax.random.split(jax.random.key(0), (JOINT, len(priors)))
    points += [{name: prior.sample(k) for k, (name, prior) in zip(row, priors.items(), strict=True)} for row in keys]
    found = []
    for point in points:
        with contextlib.suppress(ValueError):
            found.append(model(point))
    return found


def engines_of(
    explored: Explored, rows: Rows, engine: EngineChoice | dict[str, EngineChoice] | None, compact: bool
) -> dict[str, Engine]:
    """One engine for each component, set up for the events in `rows`; eager.

    If `compact`, components without a free parameter keep intensities instead of a kernel.
    Raises `ValueError` for an unknown component or engine, and for one that cannot evaluate its component.
    """
    # backgrounds of ON and OFF regions have no directions: they belong to other data
    parts = {name: part for name, part in explored.mixture.components.items() if not isinstance(part, OffBackground)}
    depends, observations = explored.dependence, rows.runs.observations
    variants = {name: [other.components[name] for other in explored.variants] for name in parts}
    fixed = {name for name, free in depends.components.items() if not free} if compact else set()
    inits = _inits(parts, engine, depends, variants)
    by_kernel = {}
    for name, component in parts.items():
        check_fields(component, observations)
        init = inits[name]
        if isinstance(component, Source) and (init == KernelEngine.init or isinstance(init, PreparedKernel)):
            by_kernel[name] = component
            if depends.morphologies.get(name):
                raise ValueError(
                    f"the morphology of component {name!r} depends on parameter {depends.morphologies[name][0]!r}, but "
                    "the kernel engine keeps it fixed; use engine='fold'"
                )
            if depends.responses.get(name) and not _area_alone(component, variants[name]):
                raise ValueError(
                    f"the response of component {name!r} depends on parameter {depends.responses[name][0]!r}, but "
                    "the kernel engine keeps it fixed; use engine='fold'"
                )
    engines: dict[str, Engine] = {}
    # backgrounds first: their temporary arrays are freed before kernels exist
    for name in sorted(parts, key=lambda name: not isinstance(parts[name], InstrumentBackground)):
        if name in engines:
            continue
        component, init = parts[name], inits[name]
        say(f"engine of {name}")
        if name in by_kernel:
            # of equal values, some may be free
            seen = {
                other: (source.morphology, source.response, free_fields(source, variants[other]))
                for other, source in by_kernel.items()
            }
            alike = {other: source for other, source in by_kernel.items() if is_same(seen[other], seen[name])}
            engines |= _of_one_morphology(alike, inits, variants, fixed, rows)
        elif name in fixed and init == BackgroundEngine.init:
            engines[name] = FixedEngine.init(component, observations, rows)
        else:
            engines[name] = init(component, observations, rows, variants[name])
    return {name: engines[name] for name in parts}


def _of_one_morphology(sources: dict[str, Source], inits, variants, fixed, rows) -> dict[str, Engine]:
    """Engines of sources with one morphology and response: a fold for all, a kernel for all with a free spectrum."""
    name, first = next(iter(sources.items()))
    others = variants[name]
    rows = rows.changed(first, others)
    prepared = {name: inits[name] for name in sources if isinstance(inits[name], PreparedKernel)}
    given = [p.responses_of([sources[name], *variants[name]], rows) for name, p in prepared.items()]
    responses = given[0] if given else folded(first.morphology, rows.runs.observations, rows.nodes)
    free = [name for name in sources if name not in fixed]
    if not free:
        return dict(zip(sources, FixedEngine.of(list(sources.values()), responses, rows), strict=True))
    kernel = KernelEngine.of(responses, rows, first, others)
    return {name: kernel if name in free else FixedEngine.of_kernel(kernel, source) for name, source in sources.items()}


def _area_alone(source: Source, variants) -> bool:
    """Whether a free response is free in its effective area alone, which the kernel engine evaluates."""
    free = free_fields(source, variants)
    return bool(free) and set(free) <= set(AREA)


def _inits(parts, engine, depends: Dependence, variants) -> dict[str, Callable[..., Engine]]:
    """Function that sets up the engine of each component."""
    chosen = engine if isinstance(engine, dict) else {}
    unknown = [name for name in chosen if name not in parts]
    if unknown:
        raise ValueError(f"engine names unknown components {unknown}; the components are {list(parts)}")
    inits = {}
    for name, component in parts.items():
        free = depends.morphologies.get(name)
        if depends.responses.get(name) and not _area_alone(component, variants[name]):
            free = True
        default = engine if engine and not chosen else ("fold" if free else "kernel")
        inits[name] = engine_init(component, chosen.get(name, default))
    return inits


def engine_init(component: Component, engine: EngineChoice) -> Callable[..., Engine]:
    """Function that sets up an engine, by its name; `ValueError` for an unknown one."""
    if isinstance(component, InstrumentBackground):
        return BackgroundEngine.init
    if not isinstance(engine, str):
        return engine
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; the engines are {', '.join(ENGINES)}")
    return ENGINES[engine].init


def check_fields(component: Component, observations: tuple[Observation, ...]) -> None:
    """Raise `ValueError` if a source's morphology is not known in all fields of view."""
    if isinstance(component, Source):
        for observation in observations:
            component.morphology.check_field(observation)
