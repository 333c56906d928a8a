"""Model of the sky and its instrument: sources, background and the mixture of them."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.morphology import Morphology
from gammajax.spectra import Scalar, Spectrum, is_concrete, scalar


class Source(eqx.Module):
    """A source of photons: phi(E, Omega) = spectrum(E) x morphology(Omega) [TeV^-1 cm^-2 s^-1 sr^-1].

    Raises `ValueError` for anything else in their places.
    """

    spectrum: Spectrum
    morphology: Morphology

    def __check_init__(self):
        for name, kind in (("spectrum", Spectrum), ("morphology", Morphology)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise ValueError(f"the {name} of a Source must be a gammajax {kind.__name__.lower()}, not {value!r}")


class InstrumentBackground(eqx.Module):
    """The instrument's own background: norm (E' / reference)^-tilt x rate of the response file.

    It is a rate per reconstructed energy and direction, so it is never convolved with the response.
    """

    norm: Scalar = eqx.field(converter=scalar, default=1.0)
    tilt: Scalar = eqx.field(converter=scalar, default=0.0)
    reference: Scalar = eqx.field(converter=scalar, default=1.0)

    def factor(self, energy) -> Float[Array, "..."]:
        """Factor on the rate of the response file at reconstructed `energy` [TeV]."""
        if is_concrete(self.tilt) and not np.any(self.tilt):  # no power of every event's energy in each call
            return jnp.broadcast_to(self.norm, jnp.shape(energy))
        return self.norm * jnp.exp(-self.tilt * jnp.log(energy / self.reference))


Component = Source | InstrumentBackground


class Mixture(eqx.Module):
    """Named components, with weights or with absolute fluxes.

    With `weights` the model is a mixture: each component's weight is its fraction of the detected events over all
    observations. One component may be left out of `weights`; it takes the remainder, so that the sum is one.
    Without `weights` the fluxes and norms are absolute and the likelihood is the extended one.

    `fractions` holds the weights in the order of the components, or None.

    Raises `ValueError` for unknown names, more than one missing weight, or weights that cannot add up to one.
    """

    # tuples, not dicts: jax sorts the keys of dicts, and the order of components is theirs
    names: tuple[str, ...] = eqx.field(static=True)
    parts: tuple[Component, ...]
    fractions: Float[Array, " component"] | None

    def __init__(self, *, weights=None, **components: Component):
        if isinstance(weights, Component):
            raise ValueError("no component can be called 'weights'; give it another name")
        if not components:
            raise ValueError("a mixture needs at least one component, as in Mixture(signal=Source(...))")
        for name, component in components.items():
            if not isinstance(component, Component):
                raise ValueError(f"component {name!r} must be a Source or InstrumentBackground, not {component!r}")
        self.names, self.parts = tuple(components), tuple(components.values())
        self.fractions = None if weights is None else _complete_weights(weights, list(components))

    @property
    def components(self) -> dict[str, Component]:
        """Components by name."""
        return dict(zip(self.names, self.parts, strict=True))


def _complete_weights(weights, names):
    unknown = [name for name in weights if name not in names]
    if unknown:
        raise ValueError(f"weights name unknown components {unknown}; the components are {names}")
    missing = [name for name in names if name not in weights]
    if len(missing) > 1:
        raise ValueError(f"give weights for all components but one; {missing} have none")
    weights = {name: scalar(value) for name, value in weights.items()}
    total = sum(weights.values(), start=scalar(0.0))
    if is_concrete(weights):
        if any(float(value) < 0 for value in weights.values()):
            raise ValueError(f"weights must not be negative: { {k: float(v) for k, v in weights.items()} }")
        if missing and float(total) > 1 + 1e-6:
            raise ValueError(f"the weights add up to {float(total):.6g}, more than one; nothing is left for {missing}")
        if not missing and not np.isclose(float(total), 1.0, atol=1e-5):
            raise ValueError(f"the weights add up to {float(total):.6g}; they must add up to one")
    if missing:
        weights[missing[0]] = 1.0 - total
    else:
        weights = {name: value / total for name, value in weights.items()}
    return jnp.stack([weights[name] for name in names])
