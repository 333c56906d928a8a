"""Names of the elements of vector parameters, from the model."""

import dataclasses
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gammajax.model.background_correction import BackgroundCorrection
from gammajax.model.darkmatter.flux import Emission
from gammajax.model.mixture import InstrumentBackground, Mixture

DRAWS = 16  # draws of the prior for the comparison of parameters with named numbers of the model


def element_labels(posterior) -> dict[str, list[str]]:
    """Labels of the elements of every vector parameter that equals named numbers in the model.

    Named numbers are the weights of a mixture (by component), branching ratios (by channel), norm or tilt of the
    background (by observation), nodes and gradients of its correction, and the numbers of one object (by argument, as
    `lon` and `lat` of a position). A vector equals them if all elements agree at draws of the prior; other vectors have
    no labels.
    Empty for other objects than a [`gammajax.Posterior`][], for example a handwritten log-likelihood.
    """
    if not hasattr(posterior, "fractions"):
        return {}
    vectors = [name for name, value in posterior.reference_parameters.items() if jnp.ndim(value) == 1]
    if not vectors:
        return {}
    ids = [term.labels for term in posterior.terms]
    draws = jax.vmap(posterior.sample_prior)(jax.random.split(jax.random.key(0), DRAWS))
    names = [names for names, _ in _named(posterior.model(posterior.reference_parameters), ids)]
    values = _values(posterior.model, draws, ids)
    found: dict[str, list[str]] = {}
    for vector in vectors:
        numbers = np.asarray(draws[vector])
        for labels, several in zip(names, values, strict=True):
            same = np.isclose(numbers[:, :, None], np.asarray(several)[:, None, :], rtol=1e-5, atol=0.0).all(0)
            # a one-to-one match
            if np.all(same.sum(1) == 1) and np.all(same.sum(0) <= 1):
                found[vector] = [labels[place] for place in same.argmax(1)]
                break
    return found


def _named(part, ids) -> Iterator[tuple[tuple[str, ...], jax.Array]]:
    """Names and values of all groups of differently named numbers, from the outside inwards."""
    if not isinstance(part, eqx.Module):
        return
    if isinstance(part, Mixture) and part.fractions is not None:
        yield part.names, part.fractions
    if isinstance(part, Emission) and isinstance(part.channel, tuple):
        yield part.channel, jnp.asarray(part.ratios)
    if isinstance(part, InstrumentBackground):
        vectors = [jnp.asarray(v) for v in (part.norm, part.tilt) if jnp.ndim(v) == 1]
        yield from ((own, v) for v in vectors for own in ids if len(set(own)) == len(own) == v.size)
    if isinstance(part, BackgroundCorrection):
        yield from _numbers(part)
    fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    single = {name: value for name, value in fields.items() if eqx.is_inexact_array(value) and jnp.ndim(value) == 0}
    if len(single) > 1:
        yield tuple(single), jnp.stack([jnp.asarray(value, float) for value in single.values()])
    for value in fields.values():
        for inner in value if isinstance(value, tuple) else (value,):
            yield from _named(inner, ids)


def _numbers(part: BackgroundCorrection) -> Iterator[tuple[tuple[str, ...], jax.Array]]:
    """Names and values of the shared numbers of a correction, all together and by kind."""
    names, values = [], []
    for value, nodes, unit in ((part.energy, part.energy_nodes, "TeV"), (part.offset, part.offset_nodes, "deg")):
        if value is not None and jnp.ndim(value) == 1:
            names.append(tuple(f"{node:g} {unit}" for node in nodes))
            values.append(jnp.asarray(value))
    if part.gradients is not None and jnp.ndim(part.gradients) == 2:
        powers = range(1, part.gradients.shape[1] + 1)
        names.append(tuple(f"{axis}^{k}" if k > 1 else axis for axis in ("lon", "lat") for k in powers))
        values.append(jnp.ravel(part.gradients))
    if len(names) > 1:
        yield sum(names, ()), jnp.concatenate(values)
    yield from zip(names, values, strict=True)


@eqx.filter_jit
def _values(model, draws, ids):
    """The numbers [draw, number] of each entry of `_named`."""
    return jax.vmap(lambda parameters: [values for _, values in _named(model(parameters), ids)])(draws)
