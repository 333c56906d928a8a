"""Physical quantities of parameters, derived from the model: labels and units never follow from a name alone."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gammajax.model.darkmatter.flux import Emission

# fields of dark-matter spectra by name, with labels of axes in their units
LABELS = {
    "sigma_v": r"$\langle\sigma v\rangle$ [cm$^3$ s$^{-1}$]",
    "decay_rate": "decay rate [s$^{-1}$]",
    "mass": "dark-matter mass [TeV]",
}
MULTIPLES = (0.5, 1.0, 2.0)  # factors on a parameter to test that a quantity is proportional to it
SAME = 1e-4


class Quantity(NamedTuple):
    """A field of dark-matter spectra, and the factor from a parameter to the field's unit."""

    field: str
    factor: float

    @property
    def label(self) -> str:
        """Label of an axis in the field's unit."""
        return LABELS[self.field]


def find_quantity(model, points: list[dict], name: str) -> Quantity | None:
    """The quantity that the parameter `name` is proportional to in `model`, with the same factor at all `points`.

    None if no field of a dark-matter spectrum is proportional to the parameter, or if spectra differ in the factor: the
    parameter then has no unit in the model.
    """
    by_field: dict[str, list[float]] = {}
    for point in points:
        multiples = jnp.stack([jnp.asarray(point[name]) * multiple for multiple in MULTIPLES])
        for field, values in _fields(model, point, name, multiples).items():
            values = np.asarray(values, np.float64)  # [multiple, spectrum]
            for column in values[:, np.ptp(values, axis=0) > SAME * np.abs(values[1])].T:
                linear = np.allclose(column, column[1] * np.asarray(MULTIPLES), rtol=SAME, atol=0.0)
                by_field.setdefault(field, []).append(column[1] / float(point[name]) if linear else np.nan)
    for field, factors in by_field.items():
        if np.ptp(factors) <= SAME * abs(factors[0]):  # not for NaN
            return Quantity(field, float(factors[0]))
    return None


@eqx.filter_jit
def _fields(model, point, name, multiples):
    """Values [multiple, spectrum] of the fields; traced, so that checks do not reject a multiple outside its range."""

    def one(value):
        found = {field: [] for field in LABELS}
        parts = jax.tree.leaves(model({**point, name: value}), is_leaf=lambda part: isinstance(part, Emission))
        for part in parts:
            for field in LABELS if isinstance(part, Emission) else ():
                if hasattr(part, field):
                    found[field].append(getattr(part, field))
        return {field: jnp.stack(values) for field, values in found.items() if values}

    return jax.vmap(one)(multiples)
