"""One pass over the kernel for value and gradient: ways to write it, against the two passes of the package.

The value lambda_k = Sum_j K_kj F_j and the transposed product Sum_k (n_k / lambda_k) K_kj of the gradient each read the
kernel once. A block that stays in the cache between the two would be read from memory once. The ways tried here:

- `two passes`: as in the package, by `jax.value_and_grad`.
- `scan, N blocks`: both products of N blocks of events in each step of a loop.
- `scan, sums, N blocks`: the same, with the first product as a product and a sum that the compiler can fuse.
- `unrolled`: the steps one after the other, without a loop.
- `forward, P parameters`: all P derivatives with the value, as one product with P + 1 columns.
- `pallas`: one program for each block and `TILE` events, for accelerators; elsewhere only its numbers are checked.

`jnp.sum` of the kernel is the time of reading it. All are compared in one process, in turn.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from benchmarks.likelihood import median_seconds
from benchmarks.report import report

BLOCK, TILE = 1024, 128  # events of a block, and of a program of Pallas


def two_passes(window, kernel, other):
    """Value and gradients with respect to the windows of the flux and to the other intensities."""

    def value(window, other):
        return jnp.log(jnp.einsum("bj,bjk->bk", window, kernel) + other).sum()

    return jax.value_and_grad(value, argnums=(0, 1))(window, other)


def _both(window, kernel, other, sums=False):
    first = (window[:, :, None] * kernel).sum(1) if sums else jnp.einsum("bj,bjk->bk", window, kernel)
    inverse = 1.0 / (first + other)
    return -jnp.log(inverse).sum(), jnp.einsum("bk,bjk->bj", inverse, kernel), inverse


def scanned(window, kernel, other, blocks=16, sums=False):
    """Both products of some blocks in each step of a loop."""

    def step(_, first):
        some = (jax.lax.dynamic_slice_in_dim(part, first, blocks) for part in (window, kernel, other))
        return None, _both(*some, sums=sums)

    _, (value, gradient, inverse) = jax.lax.scan(step, None, jnp.arange(0, window.shape[0], blocks))
    return value.sum(), (gradient.reshape(window.shape), inverse.reshape(other.shape))


def unrolled(window, kernel, other, blocks=64):
    """Both products of some blocks, one after the other."""
    steps = [slice(first, first + blocks) for first in range(0, window.shape[0], blocks)]
    parts = [_both(*(part[step] for part in (window, kernel, other))) for step in steps]
    value, gradient, inverse = zip(*parts, strict=True)
    return sum(value), (jnp.concatenate(gradient), jnp.concatenate(inverse))


def by_pallas(window, kernel, other, interpret=False):
    """One program for each block and tile of events; it holds its part of the kernel for both products."""
    (blocks, band), tiles = window.shape, other.shape[1] // TILE
    width = 1 << (band - 1).bit_length()  # sizes are powers of two on a GPU
    window, kernel = (
        jnp.pad(part, [(0, 0), (0, width - band)] + [(0, 0)] * (part.ndim - 2)) for part in (window, kernel)
    )

    def program(window, kernel, other, value, gradient, inverse):
        part = kernel[0]
        intensity = jnp.sum(window[0][:, None] * part, axis=0) + other[0]
        value[0, 0] = jnp.sum(jnp.log(intensity))
        inverse[0] = 1.0 / intensity
        gradient[0, 0] = jnp.sum(part / intensity[None], axis=1)

    value, gradient, inverse = pl.pallas_call(
        program,
        grid=(blocks, tiles),
        in_specs=[
            pl.BlockSpec((1, width), lambda b, t: (b, 0)),
            pl.BlockSpec((1, width, TILE), lambda b, t: (b, 0, t)),
            pl.BlockSpec((1, TILE), lambda b, t: (b, t)),
        ],
        out_specs=[
            pl.BlockSpec((1, 1), lambda b, t: (b, t)),
            pl.BlockSpec((1, 1, width), lambda b, t: (b, t, 0)),
            pl.BlockSpec((1, TILE), lambda b, t: (b, t)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((blocks, tiles), kernel.dtype),
            jax.ShapeDtypeStruct((blocks, tiles, width), kernel.dtype),
            jax.ShapeDtypeStruct(other.shape, kernel.dtype),
        ],
        interpret=interpret,
    )(window, kernel, other)
    return value.sum(), (gradient.sum(1)[:, :band], inverse)


def forward(windows, kernel):
    """Intensities and all their derivatives: a product with one column for each."""
    return jnp.einsum("bpj,bjk->bpk", windows, kernel)


WAYS = {
    "two passes": two_passes,
    **{f"scan, {n} blocks": partial(scanned, blocks=n) for n in (1, 4, 16, 64)},
    **{f"scan, sums, {n} blocks": partial(scanned, blocks=n, sums=True) for n in (16, 64)},
    "unrolled": unrolled,
}


def example(blocks, band, key=0):
    """Windows, kernel and other intensities of random positive numbers."""
    keys = jax.random.split(jax.random.key(key), 3)
    shapes = (blocks, band), (blocks, band, BLOCK), (blocks, BLOCK)
    return [jax.random.uniform(key, shape, jnp.float32, 0.1, 1.0) for key, shape in zip(keys, shapes, strict=True)]


def main():
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2**20)
    parser.add_argument("--bands", type=int, default=48)
    options = parser.parse_args()
    window, kernel, other = example(options.events // BLOCK // 64 * 64, options.bands)
    on_device = jax.default_backend() in ("gpu", "tpu")
    calls = {name: jax.jit(way) for name, way in WAYS.items()}
    if on_device:
        calls["pallas"] = jax.jit(by_pallas)
    expected = jax.tree.leaves(calls["two passes"](window, kernel, other))
    for name, call in calls.items():
        for one, right in zip(jax.tree.leaves(call(window, kernel, other)), expected, strict=True):
            np.testing.assert_allclose(one, right, rtol=1e-4, err_msg=name)
    read, several = jax.jit(jnp.sum), jax.jit(forward)
    timed = {"read": lambda: read(kernel)}
    timed |= {name: partial(call, window, kernel, other) for name, call in calls.items()}
    for number in (1, 3, 7):
        windows = jnp.repeat(window[:, None], number + 1, axis=1)
        timed[f"forward, {number} parameter{'s' * (number > 1)}"] = partial(several, windows, kernel)
    seconds, _ = median_seconds(list(timed.values()))
    figures = dict(zip(timed, seconds, strict=True))
    report(
        "one-pass",
        {
            "events": other.size,
            "bands": options.bands,
            "read_s": figures["read"],
            "times_reading": {name: value / figures["read"] for name, value in figures.items() if name != "read"},
        },
    )


if __name__ == "__main__":
    main()
