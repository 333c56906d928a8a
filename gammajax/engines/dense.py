"""The dense marginal, summed over a grid of true energies and directions, with the conventions of GammaBayes.

    ln L(x'|theta) = ln Sum_x  Phat(Omega'|x) Dhat(E'|x) p(x|theta) W(x),     x = (E, Omega) on the nodes of a grid

For parity with GammaBayes 0.1.9 (https://github.com/lpin0002/GammaBayes) and as a yardstick; not the way to analyse
data: events move to the nearest node and the response is sampled at nodes, however narrow. Use the kernel engine.
These are functions of arrays: what a grid is and how the response is sampled on it is left to the caller.

Conventions: one weight per node (`riemann_weights`); the point spread function P and the energy dispersion D are
normalised over the reconstructed nodes; the likelihood takes the nearest node of the table (`interpolate`).

The sum has no more structure than it needs: at one true energy P depends on (Omega', Omega) and D on (E', Omega), so

    k(E', Omega'|E) = Sum_Omega [Dhat(E'|E, Omega) p(Omega|E) W] Phat(Omega'|E, Omega)

is one product of matrices for all reconstructed nodes together, and a spectrum of any parameters is one more.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from gammajax.engines.engine import Engine
from gammajax.mixture import Source


def riemann_weights(nodes: Float[Array | np.ndarray, " node"], logarithmic: bool = False) -> Float[Array, " node"]:
    """Weight of every node, as GammaBayes has it: the step, the last node too.

    On a logarithmic axis E_i 10^D with D = log10(E_1 / E_0). That is 10^D / (D ln 10) times the weight of the mid-point
    rule: a constant, which drops out of normalised priors and not out of expected counts.
    """
    nodes = jnp.asarray(nodes)
    return nodes * (nodes[1] / nodes[0]) if logarithmic else jnp.full(nodes.shape, nodes[1] - nodes[0])


def dense_log_kernel(
    response: Callable[[Any], tuple[Float[Array, "direction position"], Float[Array, "energy position"]]],
    energy_true: Float[Array, " energy_true"],
    log_prior: Float[Array, "energy_true position"],
    log_weight_direction: Float[Array, " direction"],
    log_weight_energy: Float[Array, " energy"],
    select: Callable[[Float[Array, "energy direction"]], Any] = lambda table: table,
) -> Any:
    """Logarithm of k(E', Omega'|E), the response summed over true positions; leaves [energy_true, *select(table)].

    - `response(E)`: ln P [direction, position] and ln D [energy, position] between the reconstructed nodes and the
      true positions, in any norm: both are normalised over the nodes, with the weights whose logarithms are given.
      Where no node is reached the norm is one, as in GammaBayes.
    - `log_prior`: logarithm of the prior over true positions times their weights.
    - `select`: what to keep of the table [energy, direction] of every true energy, such as the nodes with events.

    Terms e^-600 (in double precision) below the product of the largest terms of P and D start to count as zero. So
    they do in GammaBayes, which evaluates P and D themselves before it takes logarithms.
    """

    def one(at):
        energy, prior = at
        log_spread, log_dispersion = response(energy)
        prior = prior - _log_norm(log_spread, log_weight_direction) - _log_norm(log_dispersion, log_weight_energy)
        return select(_log_product(log_dispersion + prior, log_spread))

    return jax.lax.map(one, (energy_true, log_prior))


def dense_marginal(
    log_kernel: Float[Array, " energy_true *event"],
    log_spectrum: Float[Array, " energy_true *grid"],
    log_weight: Float[Array, " energy_true"],
) -> Float[Array, "..."]:
    """Marginal ln Sum_E k(x'|E) S(E|theta) W(E) of every event at every point of a grid, shape [*event, *grid].

    With ln Sum_Omega p(Omega|E) W(Omega) in place of the kernel it is the norm of the prior, ln N(theta).
    """
    events, grid = log_kernel.ndim - 1, log_spectrum.ndim - 1
    log_spectrum = log_spectrum + log_weight.reshape(-1, *(1,) * grid)
    kernel = log_kernel.reshape(*log_kernel.shape, *(1,) * grid)
    return logsumexp(kernel + log_spectrum.reshape(-1, *(1,) * events, *log_spectrum.shape[1:]), axis=0)


def tabulate(
    engine: Engine, build: Callable[[Any], Source], parameters: Float[Array, " grid"]
) -> Float[Array, "grid row"]:
    """Marginals ln lambda / N [TeV^-1 sr^-1] of every row for the source `build(parameter)` at each grid point."""

    def one(parameter):
        source = build(parameter)
        return jnp.log(engine.intensity(source)) - jnp.log(engine.expected_counts(source).sum())

    return jax.vmap(one)(parameters)


def interpolate(
    table: Float[Array, " grid *event"],
    nodes: Float[Array | np.ndarray, " grid"],
    value,
    method: str = "nearest",
) -> Float[Array, "*event"]:
    """Tabulated log-marginals at a parameter `value`: of the nearest of the increasing `nodes`, as GammaBayes does.

    "nearest" has no gradient and makes posteriors collapse on one node; "linear" interpolates the densities.
    """
    if method not in ("nearest", "linear"):
        raise ValueError(f"method must be 'nearest' or 'linear', not {method!r}")
    nodes = jnp.asarray(nodes)
    if method == "nearest":
        return table[jnp.abs(nodes - value).argmin()]
    below = jnp.clip(jnp.searchsorted(nodes, value, side="right") - 1, 0, nodes.size - 2)
    fraction = jnp.clip((value - nodes[below]) / (nodes[below + 1] - nodes[below]), 0.0, 1.0)
    low, high = table[below], table[below + 1]
    top = _finite(jnp.maximum(low, high))
    density = (1.0 - fraction) * jnp.exp(low - top) + fraction * jnp.exp(high - top)
    # the inner choice keeps the gradient finite where the density is zero
    return jnp.where(density > 0, jnp.log(jnp.where(density > 0, density, 1.0)) + top, -jnp.inf)


def _log_norm(log_values, log_weights):
    """Logarithm of the weighted sum over the first axis; zero where that is empty."""
    return _finite(logsumexp(log_values + log_weights[:, None], axis=0))


def _log_product(log_a: Float[Array, "a position"], log_b: Float[Array, "b position"]) -> Float[Array, "a b"]:
    """Ln Sum_x exp(a + b) as a matrix product, each row scaled by its largest term."""
    top_a, top_b = _finite(log_a.max(1, keepdims=True)), _finite(log_b.max(1, keepdims=True))
    return jnp.log(jnp.exp(log_a - top_a) @ jnp.exp(log_b - top_b).T) + top_a + top_b.T


def _finite(values):
    return jnp.where(jnp.isfinite(values), values, 0.0)
