"""Background correction: a smooth factor on the background of the response files, and its prior."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import MultivariateNormal
from scipy.linalg import block_diag

from gammajax.common.display import described, document
from gammajax.common.parameters import floating, is_concrete
from gammajax.instrument.sky import separation
from gammajax.model.splines import cubic_weights, smooth_prior

FEWEST = 3  # nodes of a spline
MOST = 6  # powers of a gradient; many more are numbers of runs in a wrong place

if TYPE_CHECKING:  # type checkers do not know that fields convert plain numbers
    Numbers = Any
else:
    Numbers = Float[Array | np.ndarray, "..."] | None

Nodes = Sequence[float] | Float[np.ndarray, " node"]


class CorrectionBasis(NamedTuple):
    """Factors of the numbers of a correction in its logarithm, at some points; None for parts that it lacks."""

    energy: Float[Array, "*point node"] | None
    offset: Float[Array, "*point node"] | None
    gradients: Float[Array, "*point power"] | None


def _numbers(unit: str = ""):
    return eqx.field(
        converter=lambda value: None if value is None else floating(value), default=None, metadata={"unit": unit}
    )


def _nodes():
    return eqx.field(converter=lambda value: tuple(float(node) for node in value), default=(), static=True)


class BackgroundCorrection(eqx.Module):
    """Smooth factor on the background of the response files, in reconstructed energy and field of view.

        ln factor = s_E(ln E') + s_o(offset) + Sum_k (g_1k lon^k + g_2k lat^k)

    - `energy`: values of s_E at `energy_nodes` [TeV]; `offset`: values of s_o at `offset_nodes` [deg]. Both are natural
      cubic splines, constant beyond their nodes; s_o has no slope at its first node, which may be the pointing.
    - `gradients`: g [coordinate, power], a row for the longitude and one for the latitude of the field of view, of
      powers from one to any degree of up to six [deg^-k]. The longitude is that of [`gammajax.Observation`][]: it
      grows opposite to the sky's where the field of view is aligned with it.

    Each of the three may be left out, and may have one more axis in front, of observations; the others are shared. They
    are ordinary arrays of the model function, so a scatter about a common shape is a line of it. Give the correction to
    [`gammajax.InstrumentBackground`][]; its `norm` has the level.

    Raises `ValueError` for nodes that do not increase, are fewer than three, or not as many as values, and for
    gradients of another shape.

    >>> import gammajax as gj
    >>> correction = gj.BackgroundCorrection(energy=[0.1, 0.0, -0.2], energy_nodes=(0.5, 2.0, 8.0))
    >>> round(float(correction(2.0, 0.0, 0.0)), 4)
    1.0
    """

    energy: Numbers = _numbers()
    offset: Numbers = _numbers()
    gradients: Numbers = _numbers("deg^-k")
    energy_nodes: tuple[float, ...] = _nodes()
    offset_nodes: tuple[float, ...] = _nodes()
    __repr__, __pdoc__ = described, document

    def __check_init__(self):
        check_nodes(self.energy_nodes, self.offset_nodes)
        for name, nodes in (("energy", self.energy_nodes), ("offset", self.offset_nodes)):
            value, at = getattr(self, name), f"{name}_nodes"
            if (value is None) != (len(nodes) == 0):
                raise ValueError(f"{name} and {at} of a BackgroundCorrection belong together: give both")
            if value is not None and not (jnp.ndim(value) in (1, 2) and jnp.shape(value)[-1] == len(nodes)):
                raise ValueError(
                    f"{name} of a BackgroundCorrection has shape {jnp.shape(value)}; its last dimension must be the "
                    f"{len(nodes)} {at}"
                )
        shape = [] if self.gradients is None else list(jnp.shape(self.gradients))
        if self.gradients is not None and not (len(shape) in (2, 3) and shape[-2] == 2 and 0 < shape[-1] <= MOST):
            raise ValueError(
                f"gradients of a BackgroundCorrection have shape {tuple(shape)}; give (2, degree), or "
                f"(observations, 2, degree), with a degree of 1 to {MOST}"
            )
        for name, value, _ in self._parts():
            if is_concrete(value) and not np.all(np.isfinite(np.asarray(value))):
                raise ValueError(f"{name} of a BackgroundCorrection must be finite, it is {np.asarray(value)}")

    @classmethod
    def of(
        cls,
        numbers: Float[Array | np.ndarray, "*observation number"],
        energy_nodes: Nodes = (),
        offset_nodes: Nodes = (),
        degree: int = 0,
    ) -> "BackgroundCorrection":
        """Correction of one vector: values at the nodes of energy and offset, gradients of longitude and of latitude.

        Its prior is [`gammajax.correction_prior`][], or the posterior of an earlier fit, [`gammajax.Fit.prior`][].
        Raises `ValueError` for another number of numbers, and for a degree below zero.
        """
        check_degree(degree)
        sizes = [len(energy_nodes), len(offset_nodes), 2 * degree]
        if jnp.ndim(numbers) not in (1, 2) or jnp.shape(numbers)[-1] != sum(sizes):
            raise ValueError(
                f"the numbers of a BackgroundCorrection have shape {jnp.shape(numbers)}; their last dimension must be "
                f"{sum(sizes)}: {sizes[0]} nodes of energy, {sizes[1]} of offset and {sizes[2]} gradients"
            )
        ends = np.cumsum(sizes)
        energy, offset, gradients = (
            numbers[..., end - size : end] if size else None for end, size in zip(ends, sizes, strict=True)
        )
        if gradients is not None:
            gradients = gradients.reshape(*jnp.shape(numbers)[:-1], 2, degree)
        return BackgroundCorrection(energy, offset, gradients, tuple(energy_nodes), tuple(offset_nodes))

    def basis(self, energy, fov_lon, fov_lat) -> CorrectionBasis:
        """Factors of all numbers at reconstructed `energy` [TeV] and field-of-view coordinates [deg], which broadcast.

        They depend on the nodes and the degree alone: ln factor is linear in the numbers.
        """
        field = self.field_basis(fov_lon, fov_lat)
        if self.energy is None:
            return field
        return field._replace(energy=cubic_weights(np.log(self.energy_nodes), jnp.log(energy)))

    def field_basis(self, fov_lon, fov_lat) -> CorrectionBasis:
        """[`BackgroundCorrection.basis`][] without the part of the energy."""
        offset = gradients = None
        if self.offset is not None:
            offset = cubic_weights(self.offset_nodes, separation(fov_lon, fov_lat, 0.0, 0.0), flat=True)
        if self.gradients is not None:
            power = np.arange(1, jnp.shape(self.gradients)[-1] + 1)
            gradients = jnp.concatenate([jnp.asarray(x)[..., None] ** power for x in (fov_lon, fov_lat)], axis=-1)
        return CorrectionBasis(None, offset, gradients)

    def log_factor(self, basis: CorrectionBasis, observation=None) -> Float[Array, "*point"]:
        """Logarithm of the factor at the points of a basis, for the parts that the basis has.

        `observation`: index of the observation of each point, for parts with one row for each.
        """
        total: Any = 0.0
        for name, value, trailing in self._parts():
            factors = getattr(basis, name)
            if factors is None:
                continue
            flat = jnp.reshape(value, (*jnp.shape(value)[: jnp.ndim(value) - trailing], -1))
            # products in the precision of the numbers: their derivatives are sums over many events
            total = total + (factors * (flat if flat.ndim == 1 else flat[observation])).sum(-1)
        return total

    def __call__(self, energy, fov_lon, fov_lat, observation=None) -> Float[Array, "..."]:
        """Factor at reconstructed `energy` [TeV] and field-of-view coordinates [deg], which broadcast."""
        return jnp.exp(self.log_factor(self.basis(energy, fov_lon, fov_lat), observation))

    @property
    def in_field(self) -> bool:
        """Whether the factor changes over the field of view."""
        return self.offset is not None or self.gradients is not None

    def select(self, observation) -> "BackgroundCorrection":
        """The correction of one observation, or of an array of observation indices."""
        several = [name for name, value, trailing in self._parts() if jnp.ndim(value) > trailing]
        if not several:
            return self
        chosen = [jnp.asarray(getattr(self, name))[observation] for name in several]
        return eqx.tree_at(lambda c: [getattr(c, name) for name in several], self, chosen)

    def check_observations(self, observations) -> None:
        """Raise `ValueError` for parts without one row for each observation, and for nodes outside all backgrounds."""
        for name, value, trailing in self._parts():
            if jnp.ndim(value) > trailing and jnp.shape(value)[0] != len(observations):
                raise ValueError(
                    f"{name} of the background's correction has shape {jnp.shape(value)}, which is for "
                    f"{jnp.shape(value)[0]} observations; there are {len(observations)}"
                )
        tables = [o.response.background.log_rate.axes for o in observations if o.response.background is not None]
        if not tables:
            return  # the engine refuses these
        low, high = min(axes[0].lower for axes in tables), max(axes[0].upper for axes in tables)
        # a table over longitude and latitude reaches farthest in its corners
        reach = max(np.hypot.reduce([max(-axis.lower, axis.upper) for axis in axes[1:]]) for axes in tables)
        limits = {
            "TeV": (self.energy_nodes, float(np.exp(low)), float(np.exp(high))),
            "deg": (self.offset_nodes, 0.0, float(reach)),
        }
        for unit, (nodes, low, high) in limits.items():
            outside = [node for node in nodes if not low * (1 - 1e-6) <= node <= high * (1 + 1e-6)]
            if outside:
                raise ValueError(
                    f"the node at {outside[0]:g} {unit} of the background's correction is outside the tables of the "
                    f"background, which go from {low:.4g} to {high:.4g} {unit}"
                )

    def _parts(self):
        """Name, numbers and number of trailing dimensions of the parts that there are."""
        for name, trailing in (("energy", 1), ("offset", 1), ("gradients", 2)):
            value = getattr(self, name)
            if value is not None:
                yield name, value, trailing


def check_nodes(energy_nodes: Nodes, offset_nodes: Nodes) -> None:
    """Raise `ValueError` for nodes that are too few, do not increase, or are no energies and offsets."""
    for name, nodes, unit in (("energy_nodes", energy_nodes, "TeV"), ("offset_nodes", offset_nodes, "deg")):
        at = np.asarray(nodes, float)
        wrong = at.ndim != 1 or 0 < at.size < FEWEST or not np.all(np.isfinite(at)) or np.any(np.diff(at) <= 0)
        if wrong or (at.size and (at[0] < 0 or (unit == "TeV" and at[0] == 0))):
            raise ValueError(
                f"{name} [{unit}] of a background's correction must be at least {FEWEST}, increase and be "
                f"{'positive' if unit == 'TeV' else 'zero or more'}; they are {at.tolist()}"
            )


def check_degree(degree: int) -> None:
    """Raise `ValueError` for anything but a whole number from zero to the largest degree."""
    if isinstance(degree, bool) or degree != degree // 1 or not 0 <= degree <= MOST:
        raise ValueError(
            f"the degree of a background's correction must be a whole number from 0 (no gradients) to {MOST}, not "
            f"{degree}"
        )


def correction_prior(
    energy_nodes: Nodes = (),
    offset_nodes: Nodes = (),
    degree: int = 0,
    *,
    energy_scale: float = 0.2,
    offset_scale: float = 0.1,
    gradient: float | Sequence[float] = 0.1,
    tilt: float = 0.3,
    level: float = 0.01,
) -> MultivariateNormal:
    """Prior of the numbers of [`gammajax.BackgroundCorrection.of`][], about no correction.

    - `energy_nodes` [TeV], `offset_nodes` [deg], `degree`: those of the correction.

    Both splines have a [`gammajax.smooth_prior`][] with second differences of `energy_scale` and `offset_scale`, and
    `tilt` and `level` of both: nodes should be about evenly spaced, in ln E' and in offset. The level is small because
    the norm of the background has it. Gradients are independent, of standard deviation `gradient` [deg^-k], one number
    or one for each power. All are in natural logarithms. For one correction per observation take
    `.expand([observations])`.

    Returns a numpyro distribution over vectors. Raises `ValueError` for nothing to correct, a degree below zero, and
    scales that are not positive.

    >>> import gammajax as gj
    >>> gj.correction_prior(energy_nodes=[0.5, 1.0, 2.0, 4.0], degree=1).event_shape
    (6,)
    """
    check_nodes(energy_nodes, offset_nodes)
    check_degree(degree)
    blocks = [
        smooth_prior(np.zeros(len(nodes)), scale, level=level, tilt=tilt).covariance_matrix
        for nodes, scale in ((energy_nodes, energy_scale), (offset_nodes, offset_scale))
        if len(nodes)
    ]
    if degree:
        widths = np.asarray(gradient, float)
        if widths.shape not in ((), (degree,)) or not np.all(np.isfinite(widths) & (widths > 0)):
            raise ValueError(
                f"gradient of a correction's prior must be a positive number, or {degree}, one for each power; it is "
                f"{gradient}"
            )
        blocks.append(np.diag(np.tile(np.broadcast_to(widths, degree), 2) ** 2))
    if not blocks:
        raise ValueError("there is nothing to correct: give energy_nodes, offset_nodes or a degree")
    covariance = np.asarray(block_diag(*(np.asarray(block, np.float64) for block in blocks)))
    return MultivariateNormal(jnp.zeros(covariance.shape[0]), scale_tril=jnp.asarray(np.linalg.cholesky(covariance)))
