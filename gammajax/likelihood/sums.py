"""Likelihoods of events under a mixture: sums over events of the logarithm of an intensity.

mixture   log L = Sum_k log Sum_i w_i lambda_i(x_k) / N_i
extended  log L = -Sum_i N_i + Sum_k log Sum_i lambda_i(x_k)

Both are relative to their value at reference parameters: log L itself has too many digits for single precision.
"""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Num

from gammajax.model.mixture import LEAST_COUNTS

GROUP = 64  # numbers that are added exactly in single precision
EXPONENT = 0x7F800000  # bits of a number in single precision
LEAST = 0.1  # part of the positive intensities of an event that negative noise of others leaves


# each compiled as a whole, also where nothing around it is: step by step it would be a hundred programs
@jax.jit
def mixture_likelihood(
    intensities: Sequence[Float[Array, " row"]],
    counts: Float[Array, " component"],
    fractions: Float[Array, " component"],
    reference: Float[Array, " row"],
    count: Integer[Array, " row"],
) -> Float[Array, ""]:
    """Sum_k n_k log [p(x_k) / p_ref(x_k)] with the density p = Sum_i w_i lambda_i / N_i.

    Rows k hold n_k events (`count`); `reference` is p_ref, the density at the reference parameters.
    """
    return sum_of_logs(mixture_density(intensities, counts, fractions), reference, count)


@jax.jit
def extended_likelihood(
    intensities: Sequence[Float[Array, " row"]],
    counts: Sequence[Float[Array, "observation _"]],
    reference: Float[Array, " row"],
    reference_counts: Sequence[Float[Array, "observation _"]],
    count: Integer[Array, " row"],
) -> Float[Array, ""]:
    """Sum_k n_k log [lambda(x_k) / lambda_ref(x_k)] - (N - N_ref) with lambda = Sum_i lambda_i and N = Sum_i N_i.

    The `counts` of each component are the terms of N_i, for example over energies: N is large, and N - N_ref must be
    right to a small fraction of one event. The difference of each term keeps it in single precision.
    """
    more = [(now - before).sum() for now, before in zip(counts, reference_counts, strict=True)]
    return sum_of_logs(total_intensity(intensities), reference, count) - functools.reduce(operator.add, more)


@jax.jit
def total_intensity(intensities: Sequence[Float[Array, " row"]]) -> Float[Array, " row"]:
    """Intensity [TeV^-1 sr^-1] of each event by all components: Sum_i lambda_i."""
    return _sum(list(intensities))


@jax.jit
def mixture_density(
    intensities: Sequence[Float[Array, " row"]] | Float[Array, "component row"],
    counts: Float[Array, " component"],
    fractions: Float[Array, " component"],
) -> Float[Array, " row"]:
    """Probability density [TeV^-1 sr^-1] of each event: Sum_i w_i lambda_i / N_i.

    The density of a component without expected counts is zero.
    """
    some = ~(counts <= LEAST_COUNTS)  # true for NaN, which must not become zero
    scales = jnp.where(some, fractions / jnp.where(some, counts, 1.0), 0.0)
    return _sum([scale * row for scale, row in zip(scales, intensities, strict=True)])


def _sum(terms: list[Float[Array, " row"]]) -> Float[Array, " row"]:
    """Sum over components, at least `LEAST` of the sum of the positive ones.

    Where a component has next to no intensity, above the mass of dark matter for example, the nodes of true energy
    leave noise of either sign. It adds up to nothing; without its negative half a signal would have 7e-6 more events
    than are expected, which moves a mass by 0.3 errors at 1e8 events.
    """
    # add one by one: stacking them into a matrix would copy them
    total = functools.reduce(operator.add, terms)
    # not maximum: its derivative at zero is one half
    least = LEAST * functools.reduce(operator.add, (jnp.where(term < 0.0, 0.0, term) for term in terms))
    return jnp.where(total < least, least, total)


@jax.jit
def sum_of_logs(
    density: Float[Array, " row"], reference: Float[Array, " row"], count: Num[Array, " row"]
) -> Float[Array, ""]:
    """Sum of count x log(density / reference) over rows with a count.

    Division by a reference keeps every term small, so that the sum is accurate in single precision. At 1e6 events
    log L itself is near 1e7, where neighbouring float32 numbers differ by one.
    """
    some = count > 0
    # padding may have no density: its ratio would have no gradient
    density, reference = (jnp.where(some, part, 1.0) for part in (density, reference))
    return accurate_sum(jnp.where(some, count * jnp.log(density / reference), 0.0))


@jax.custom_jvp
@jax.jit
def accurate_sum(values: Float[Array, " row"]) -> Float[Array, ""]:
    """Sum in double precision if x64 is on, otherwise in groups whose leading digits add up without rounding.

    Digits of a group above a common place are added exactly, in any order, and then those of all groups; the digits
    below are left for a plain sum (Rump, Ogita and Oishi 2008, doi:10.1137/050645671).
    """
    if jnp.result_type(float) == jnp.float64:
        return values.astype(jnp.float64).sum()
    leading, rest = values.astype(jnp.float32), jnp.zeros(())
    while leading.size > 1:
        groups = jnp.pad(leading, (0, -leading.size % GROUP)).reshape(-1, GROUP)
        bits = jax.lax.bitcast_convert_type(GROUP * jnp.abs(groups).max(1, keepdims=True), jnp.int32)
        place = 2.0 * jax.lax.bitcast_convert_type(bits & EXPONENT, jnp.float32)  # a power of two beyond the sum
        above = (place + groups) - place
        rest, leading = rest + (groups - above).sum(), above.sum(1)
    total = leading.sum() + rest
    return jnp.where(jnp.isfinite(total), total, values.sum())  # infinities have no digits


@accurate_sum.defjvp
def _accurate_sum_jvp(primals, tangents):
    # a plain sum: its transpose is a broadcast; the transpose of the tree would undo it step by step
    total = accurate_sum(*primals)
    return total, tangents[0].astype(total.dtype).sum()
