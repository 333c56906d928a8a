"""Loss from merging events in cells: information, and differences of the log-likelihood."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from gammajax.common.display import block, document, item, listed, text, words
from gammajax.events.cells import Binning
from gammajax.events.event_list import Events
from gammajax.posterior import Posterior
from gammajax.samplers.space import labels, labels_along
from gammajax.statistics.forecasts import SINGULAR, complete


class CompressionLoss(eqx.Module):
    """Result of [`gammajax.compression_loss`][], for all numbers in the parameters in the order of `names`.

    - `events` and `cells`: their numbers in the comparison.
    - `information`, `information_compressed`: Fisher information [number, number] of both at the parameters, the sum
      over events of products of the derivatives of their log-density.
    - `lost`: largest fraction of information lost, over all combinations of the numbers.
    - `errors`: factor on the standard deviation of each number; at least one, except for noise of few events.
    - `log_likelihood_ratio`, `log_likelihood_ratio_compressed` of points one standard deviation up in each number
      relative to the parameters, with the other numbers fixed.

    >>> import gammajax as gj, numpy as np
    >>> one, both = np.ones(1), (np.array([[100.0]]), np.array([[96.0]]))
    >>> loss = gj.CompressionLoss(("flux",), 1000, 200, *both, 0.04, 1.02 * one, -0.5 * one, -0.48 * one)
    >>> loss.lost, loss.errors.tolist()
    (0.04, [1.02])
    """

    names: tuple[str, ...] = eqx.field(static=True)
    events: int
    cells: int
    information: Float[np.ndarray, "number number"]
    information_compressed: Float[np.ndarray, "number number"]
    lost: float
    errors: Float[np.ndarray, " number"]
    log_likelihood_ratio: Float[np.ndarray, " number"]
    log_likelihood_ratio_compressed: Float[np.ndarray, " number"]
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Numbers of events and cells, information lost, and errors."""
        factors = [f"{name} {item(self.errors, number)}" for number, name in enumerate(self.names)]
        return block(
            f"CompressionLoss: {text(self.events)} events in {text(self.cells)} cells",
            f"at most {text(self.lost)} of the information is lost",
            f"factors on standard deviations: {listed(factors)}",
        )


def compression_loss(
    model,
    priors: dict,
    observations,
    events: Events,
    parameters: dict,
    *,
    energy_per_decade: float | int | None = None,
    pixel: float | int | None = None,
    subsample: int = 100_000,
    seed: int = 0,
    **options,
) -> CompressionLoss:
    """Compare the likelihood of `events` with that of the same events in cells, at the `parameters`.

        lost = largest eigenvalue of 1 - F_events^(-1/2) F_cells F_events^(-1/2), with the Fisher informations F

    - `energy_per_decade`, `pixel` as [`gammajax.Binning.init`][]; `options` as [`gammajax.Posterior`][].
    - `subsample`: number of random events to use, if there are more. The fraction of information lost depends on the
      cells, not on the number of events.

    - `model`, `priors`, `observations`: as of [`gammajax.Posterior`][]; `seed` of the choice of the subsample.

    Returns a [`gammajax.CompressionLoss`][]. Raises `ValueError` for parameters, or combinations of parameters, without
    information in the events.

    >>> import gammajax as gj, jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})
    >>> events = gj.simulate(jax.random.key(0), model({"fraction": 0.2}), run, events=200)
    >>> loss = gj.compression_loss(
    ...     model, {"fraction": dist.Uniform(0.0, 1.0)}, run, events, {"fraction": jnp.array(0.2)},
    ...     energy_per_decade=10, pixel=0.2, per_decade=20.0,
    ... )
    >>> bool(loss.lost < 0.5)
    True
    """
    if len(events) > subsample:
        events = events[np.sort(np.random.default_rng(seed).choice(len(events), subsample, replace=False))]
    cells = Binning.init(observations, energy_per_decade, pixel)(events)
    parameters = complete(priors, parameters)
    flat, _ = ravel_pytree(parameters)
    names = tuple(labels(parameters))
    both = [
        Posterior(model, priors, observations, data, **options).with_reference(parameters) for data in (events, cells)
    ]
    # in units of each number's error with the others fixed: single precision needs numbers of similar size
    scale = np.ones(flat.size)
    for _ in range(2):
        curvature = np.diag(_information(both[0], jnp.asarray(scale, flat.dtype), parameters))
        if not np.all(curvature > 0):
            raise ValueError(
                f"the events have no information on {names[int(np.argmin(curvature))]!r} at the parameters"
            )
        scale = scale / np.sqrt(curvature)
    units = jnp.asarray(scale, flat.dtype)
    whole, merged = (_information(p, units, parameters) for p in both)
    least, direction = (part[..., 0] for part in np.linalg.eigh(whole))
    if least < SINGULAR:
        raise ValueError(f"the events cannot tell {' from '.join(labels_along(names, direction))} at the parameters")
    root = np.linalg.inv(np.linalg.cholesky(whole))
    kept = np.linalg.eigvalsh(root @ merged @ root.T)
    ratios = [np.asarray(_ratios(p, units, parameters), np.float64) for p in both]
    errors = np.sqrt(np.diag(np.linalg.inv(merged)) / np.diag(np.linalg.inv(whole)))
    unit = np.outer(scale, scale)
    return CompressionLoss(
        names, len(events), len(cells), whole / unit, merged / unit, float(1.0 - kept.min()), errors, *ratios
    )


def _information(posterior, scale, parameters) -> Float[np.ndarray, "number number"]:
    """Sum over events of the products of the derivatives of their log-density, in units of `scale`.

    Unlike second derivatives, its difference between two evaluations of the same events has little noise.
    """
    # double precision reveals combinations without effect
    scores = np.asarray(_scores(posterior, scale, parameters), np.float64)
    return (scores * np.asarray(posterior.count)[:, None]).T @ scores


@eqx.filter_jit
def _scores(posterior, scale, parameters) -> Float[Array, "row number"]:
    flat, restore = ravel_pytree(parameters)

    def log_density(u):
        density = posterior.density(restore(flat + scale * u))
        return jnp.where(posterior.count > 0, jnp.log(jnp.where(posterior.count > 0, density, 1.0)), 0.0)

    return jax.jacfwd(log_density)(jnp.zeros_like(flat))


@eqx.filter_jit
def _ratios(posterior, scale, parameters) -> Float[Array, " number"]:
    flat, restore = ravel_pytree(parameters)
    steps = jnp.diag(scale)
    return jax.lax.map(lambda step: posterior.log_likelihood_ratio(restore(flat + step)), steps)
