"""Dependence: which parameters each component of a model depends on, from the traced program.

The model is mapped (`jax.vmap`) over one parameter at a time. An array is traced under this map if and only if it was
computed from the parameter, for any value: no draws can miss a dependence. A product with zero counts as dependence.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.common.parameters import is_concrete
from gammajax.model.mixture import InstrumentBackground, Mixture, Source
from gammajax.model.morphology import Morphology, Point
from gammajax.model.spectra import Spectrum

ENERGY = np.geomspace(0.01, 100.0, 9)  # TeV, for the evaluation of foreign functions and classes


class Dependence(NamedTuple):
    """Parameters of each component, its morphology and its response, by path, and parameters without any use."""

    components: dict[str, tuple[str, ...]]
    morphologies: dict[str, tuple[str, ...]]
    responses: dict[str, tuple[str, ...]]
    unused: tuple[str, ...]


def dependence(
    model: Callable[[dict[str, Float[Array, "..."]]], Mixture], parameters: dict[str, Float[Array, "..."]]
) -> Dependence:
    """Dependence of the components of `model` on each of its `parameters`.

    Raises the error of `jax.vmap` for a model that JAX cannot trace.
    """
    components: dict[str, tuple[str, ...]] = {}
    morphologies: dict[str, tuple[str, ...]] = {}
    responses: dict[str, tuple[str, ...]] = {}
    unused = []
    for name, value in parameters.items():

        def look(value, name=name):
            mixture = model({**parameters, name: value})
            used = not is_concrete(mixture)
            for path, component in mixture.components.items():
                depends = _depends(component)
                components[path] = components.get(path, ()) + ((name,) if depends else ())
                if isinstance(component, Source):
                    moves = depends and _depends(component.morphology)
                    morphologies[path] = morphologies.get(path, ()) + ((name,) if moves else ())
                    responses[path] = responses.get(path, ()) + (() if is_concrete(component.response) else (name,))
                used |= depends
            if not used:
                unused.append(name)
            return jnp.zeros(())

        jax.vmap(look)(jnp.asarray(value)[None])
    return Dependence(components, morphologies, responses, tuple(unused))


def _depends(part) -> bool:
    """Whether a part holds a traced array, or hides one so that its values are traced."""
    return not is_concrete(part) or (_hides(part) and not is_concrete(_values(part)))


def _hides(part) -> bool:
    """Whether a part has functions or classes from outside gammajax: their code may refer to a parameter directly."""
    if isinstance(part, eqx.Module):
        ours = type(part).__module__.split(".")[0] == __name__.split(".")[0]
        return not ours or any(map(_hides, vars(part).values()))
    if isinstance(part, dict):
        return any(map(_hides, part.values()))
    if isinstance(part, list | tuple):
        return any(map(_hides, part))
    return callable(part) and not isinstance(part, type)


def _values(part) -> Any:
    """Values of a component, spectrum or morphology, as engines evaluate it."""
    energy = jnp.asarray(ENERGY)
    if isinstance(part, Source):
        return _values(part.spectrum), _values(part.morphology)
    if isinstance(part, Spectrum):
        return part(energy), part.integral(energy)
    if isinstance(part, Morphology):
        whole = part.lon, part.lat, part.radius, part.scale, part.breaks
        has_none = isinstance(part, Point)
        return whole if has_none else (*whole, part.at(energy).brightness(part.lon + 0.01, part.lat))
    assert isinstance(part, InstrumentBackground)
    return part.factor(energy[:, None])
