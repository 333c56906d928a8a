"""Candidates for one pass over the kernel: the same numbers as in double precision, whatever their speed."""

from functools import partial

import numpy as np
import pytest

from benchmarks.one_pass import TILE, WAYS, by_pallas, example


@pytest.mark.parametrize("way", [*WAYS, "pallas"])
def test_value_and_gradients(way):
    window, kernel, other = example(64, 5)
    call = partial(by_pallas, interpret=True) if way == "pallas" else WAYS[way]
    kernel, other = kernel[..., : 2 * TILE], other[:, : 2 * TILE]
    value, (gradient, inverse) = call(window, kernel, other)
    w, k, o = (np.asarray(part, np.float64) for part in (window, kernel, other))
    intensity = np.einsum("bj,bjk->bk", w, k) + o
    np.testing.assert_allclose(value, np.log(intensity).sum(), rtol=1e-5)
    np.testing.assert_allclose(inverse, 1.0 / intensity, rtol=1e-5)
    np.testing.assert_allclose(gradient, np.einsum("bk,bjk->bj", 1.0 / intensity, k), rtol=1e-5)
