"""Background of ON and OFF regions: a free spectrum, and a prior that keeps it smooth."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.interpolate import BSpline

from gammajax.common.display import described, document
from gammajax.common.parameters import Scalar, floating, parameter, require_finite
from gammajax.instrument.sky import spline_weights

FEWEST = 4  # coefficients of a cubic


class OffBackground(eqx.Module):
    """Rate of background events of ON and OFF regions: norm x exp(cubic spline in ln E') [s^-1 TeV^-1 sr^-1].

    - `log_rate`: coefficients of uniform cubic B-splines between `energy_min` and `energy_max` [TeV], at least four.
      With n of them there are n - 3 intervals. Equal coefficients are a constant, coefficients on a line a power law.
      The spline continues as a power law beyond its ends.
    - `norm`: a factor, or one for each run.

    The rate is per solid angle of the ON region; that of OFF regions is in units of the acceptance of ON, see
    [`gammajax.OnOffRun`][]. ON and OFF regions of all runs share it.
    Raises `ValueError` for fewer coefficients and for energies that do not increase.

    >>> import gammajax as gj, jax.numpy as jnp
    >>> background = gj.OffBackground([3.0, 1.0, -1.0, -3.0], energy_min=1.0, energy_max=10.0)
    >>> low, high = background.rate(jnp.array([1.0, 10.0]))  # s^-1 TeV^-1 sr^-1
    >>> bool(low > high)
    True
    """

    log_rate: Float[Array | np.ndarray, " coefficient"] = eqx.field(converter=floating)
    energy_min: Scalar = parameter("TeV")
    energy_max: Scalar = parameter("TeV")
    norm: Float[Array | np.ndarray, "*run"] = eqx.field(converter=floating, default=1.0)
    __repr__, __pdoc__ = described, document

    def __check_init__(self):
        require_finite(self)
        if self.log_rate.ndim != 1 or self.log_rate.size < FEWEST:
            raise ValueError(
                f"log_rate of an OffBackground has shape {self.log_rate.shape}; give a vector of at least {FEWEST}"
            )
        low, high = self.energy_min, self.energy_max
        if isinstance(low, np.ndarray) and isinstance(high, np.ndarray) and not 0 < low < high:
            raise ValueError(f"the energies of an OffBackground must be positive and increase: {low} to {high} TeV")

    def rate(self, energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Rate without the norm [s^-1 TeV^-1 sr^-1] at reconstructed `energy` [TeV]."""
        coefficients, intervals = jnp.asarray(self.log_rate), self.log_rate.size - 3
        low, high = jnp.log(self.energy_min), jnp.log(self.energy_max)
        position = (jnp.log(energy) - low) / (high - low) * intervals
        within = jnp.clip(position, 0.0, intervals)
        index = jnp.clip(jnp.floor(within), 0, intervals - 1).astype(jnp.int32)
        near = coefficients[index[..., None] + jnp.arange(4)]
        value = (spline_weights(within - index) * near).sum(-1)
        # derivatives at both ends
        rise = jnp.where(position < 0, near[..., 2] - near[..., 0], near[..., 3] - near[..., 1])
        return jnp.exp(value + 0.5 * rise * (position - within))


def spline_basis(
    energy: Float[np.ndarray, " energy"], size: int, energy_min: float, energy_max: float
) -> Float[np.ndarray, "energy coefficient"]:
    """Logarithm of the rate of an [`gammajax.OffBackground`][] of `size` coefficients is this times them.

    At reconstructed `energy` [TeV]; on the host, in double precision.
    """
    if energy.size == 0:
        return np.zeros((0, size))
    intervals = size - 3
    position = np.log(energy / energy_min) / np.log(energy_max / energy_min) * intervals
    within = np.clip(position, 0.0, intervals)
    basis = BSpline.design_matrix(within, np.arange(-3.0, intervals + 4.0), 3).toarray()
    beyond = 0.5 * (position - within)[:, None]  # times the derivatives at the ends
    basis[:, [0, 2]] += np.where(beyond < 0, beyond, 0.0) * [-1.0, 1.0]
    basis[:, [-3, -1]] += np.where(beyond > 0, beyond, 0.0) * [-1.0, 1.0]
    return basis
