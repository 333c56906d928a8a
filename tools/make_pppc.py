"""Make ``gammajax/data/pppc4dmid_gammas.npz`` from the PPPC4DMID table ``AtProduction_gammas.dat``.

Usage: python tools/make_pppc.py AtProduction_gammas.dat [gammajax/data/pppc4dmid_gammas.npz]

The values are stored as 16-bit codes that are linear in the logarithm of dN/dlog10(x),
with one offset and one step for the whole table; code 0 means exactly zero::

    dn_dlog10x = where(code == 0, 0, exp(log_offset + log_step * code))
"""

import sys
from pathlib import Path

import numpy as np

from gammajax.io import read_yields

LARGEST_CODE = 2**16 - 1


def encode(values):
    """The 16-bit codes of ``values``, with the offset and step that decode them."""
    if not np.all(np.isfinite(values)) or np.any(values < 0):
        raise ValueError("the table holds negative or non-finite values")
    positive = values > 0
    log_values = np.log(values[positive])
    # Codes 1 to 65535 span the smallest to the largest positive value.
    log_step = (log_values.max() - log_values.min()) / (LARGEST_CODE - 1)
    log_offset = log_values.min() - log_step
    code = np.zeros(values.shape, np.uint16)
    code[positive] = np.rint((log_values - log_offset) / log_step)
    return code, log_offset, log_step


def decode(code, log_offset, log_step):
    """The inverse of `encode`, up to half a step of the logarithm."""
    return np.where(code == 0, 0.0, np.exp(log_offset + log_step * code.astype(np.float64)))


def main(source, target="gammajax/data/pppc4dmid_gammas.npz"):
    """Write the compact table and say how well it decodes."""
    yields = read_yields(source)
    values = yields.values
    code, log_offset, log_step = encode(values)
    np.savez_compressed(
        target,
        mass=yields.mass,
        log10_x=yields.log10_x,
        channels=np.array(yields.channels),
        dn_dlog10x=code,
        log_offset=log_offset,
        log_step=log_step,
    )
    with np.load(target, allow_pickle=False) as table:
        decoded = decode(table["dn_dlog10x"], table["log_offset"], table["log_step"])
    positive = values > 0
    if not np.array_equal(decoded > 0, positive):
        raise AssertionError("zeros were not kept")
    error = np.max(np.abs(decoded[positive] / values[positive] - 1))
    print(f"{target}: {Path(target).stat().st_size} bytes, largest relative error {error:.2e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
