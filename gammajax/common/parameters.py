"""Parameters of models: scalar leaves of modules, and checks of their values and labels."""

import dataclasses
import hashlib
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from gammajax.common.display import article

if TYPE_CHECKING:  # type checkers do not know that fields convert plain numbers
    Scalar = Any
else:
    Scalar = Float[Array | np.ndarray, ""]


def scalar(value) -> Scalar:
    """A floating scalar leaf, see [`floating`][]."""
    return floating(value)


def floating(value) -> Float[Array | np.ndarray, "..."]:
    """A floating leaf. Plain numbers stay on the host, so that their values are known inside jit.

    Raises `ValueError` for a quantity, as [`require_plain`][] does.
    """
    require_plain(value)
    if isinstance(value, jax.Array):
        return value.astype(jnp.result_type(float))
    return np.asarray(value, dtype=jnp.result_type(float))


def require_plain(value) -> None:
    """Raise `ValueError` for a quantity: its unit would be lost."""
    if hasattr(value, "unit"):
        raise ValueError(
            f"{value} has a unit; sources take plain numbers: deg, TeV and TeV^-1 cm^-2 s^-1 (quantity.to_value(...))"
        )


def parameter(unit: str = "", default: Any = dataclasses.MISSING, kw_only: bool = False) -> Any:
    """Field of a module that holds one scalar parameter; its unit is printed with it."""
    return eqx.field(converter=scalar, default=default, kw_only=kw_only, metadata={"unit": unit})


def is_concrete(*values) -> bool:
    """Whether values are known, that is, none is traced by jit, grad or vmap."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def is_same(a, b) -> bool:
    """Whether two trees are concrete and equal."""
    return a is b or (is_concrete(a, b) and bool(eqx.tree_equal(a, b)))


def contents(tree) -> Hashable:
    """A key that trees share if they are equal, and concrete; each tree that is traced has its own."""
    leaves, structure = jax.tree.flatten(tree)
    if not is_concrete(leaves):
        return id(tree)
    arrays = [np.asarray(leaf) for leaf in leaves]
    digest = hashlib.blake2b()
    for array in arrays:
        digest.update(array.tobytes())
    return structure, tuple((array.shape, array.dtype.str) for array in arrays), digest.digest()


def require_positive(module, *names: str) -> None:
    """Raise `ValueError` for the first of these parameters that is concrete and not positive."""
    for name in names:
        value = getattr(module, name)
        if is_concrete(value) and not np.all(np.asarray(value) > 0):
            raise ValueError(f"{name} of a {type(module).__name__} must be positive, it is {np.asarray(value)}")


def require_finite(module) -> None:
    """Raise `ValueError` for the first number of a module that is concrete and NaN or infinite."""
    for name in (field.name for field in dataclasses.fields(module)):
        value = getattr(module, name)
        number = isinstance(value, np.ndarray | jax.Array) and jnp.issubdtype(value.dtype, jnp.floating)
        if number and value.ndim <= 1 and is_concrete(value) and not np.all(np.isfinite(np.asarray(value))):
            raise ValueError(f"{name} of {article(type(module).__name__)} must be finite, it is {np.asarray(value)}")


def check_labels(shapes: dict, truths: dict | None = None, units: dict | None = None) -> None:
    """Raise `ValueError` for truths and units that match none of the quantities, given by `shapes`."""
    for label, given in (("truths", truths), ("units", units)):
        unknown = [name for name in given or {} if name not in shapes]
        if unknown:
            raise ValueError(f"{label} name {unknown[0]!r}, which is none of {', '.join(shapes) or 'no quantities'}")
    for name, value in (truths or {}).items():
        if hasattr(value, "unit"):
            raise ValueError(f"the truth of {name!r} has a unit ({value}), which would be lost; give a plain number")
        if np.shape(value) != shapes[name]:
            raise ValueError(f"the truth of {name!r} has shape {np.shape(value)}, the quantity {shapes[name]}")
