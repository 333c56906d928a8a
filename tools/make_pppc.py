"""Make ``gammajax/data/pppc4dmid_gammas.npz`` from the PPPC4DMID table ``AtProduction_gammas.dat``.

Usage: python tools/make_pppc.py AtProduction_gammas.dat [gammajax/data/pppc4dmid_gammas.npz]

The values are stored as 16-bit codes that are linear in the logarithm of dN/dlog10(x),
with one offset and one step for the whole table; code 0 means exactly zero::

    dn_dlog10x = where(code == 0, 0, exp(log_offset + log_step * code))
"""

import sys
from pathlib import Path

import numpy as np

# Column names of the file, written by Mathematica, and the plain names used here.
CHANNELS = {
    "eL": "e_L",
    "eR": "e_R",
    "e": "e",
    r"\[Mu]L": "mu_L",
    r"\[Mu]R": "mu_R",
    r"\[Mu]": "mu",
    r"\[Tau]L": "tau_L",
    r"\[Tau]R": "tau_R",
    r"\[Tau]": "tau",
    "q": "q",
    "c": "c",
    "b": "b",
    "t": "t",
    "WL": "W_L",
    "WT": "W_T",
    "W": "W",
    "ZL": "Z_L",
    "ZT": "Z_T",
    "Z": "Z",
    "g": "g",
    r"\[Gamma]": "gamma",
    "h": "h",
    r"\[Nu]e": "nu_e",
    r"\[Nu]\[Mu]": "nu_mu",
    r"\[Nu]\[Tau]": "nu_tau",
    "V->e": "V->e",
    r"V->\[Mu]": "V->mu",
    r"V->\[Tau]": "V->tau",
}
LARGEST_CODE = 2**16 - 1
GEV_PER_TEV = 1000.0


def read_table(path):
    """The grids and dN/dlog10(x)[mass, log10_x, channel] of the text file."""
    with open(path) as file:
        header = file.readline().split()
    if header != ["mDM", "Log[10,x]", *CHANNELS]:
        raise ValueError(f"{path} does not have the columns of AtProduction_gammas.dat: {header}")
    rows = np.loadtxt(path, skiprows=1)
    mass, log10_x = np.unique(rows[:, 0]), np.unique(rows[:, 1])
    grid = np.stack(np.meshgrid(mass, log10_x, indexing="ij"), axis=-1).reshape(-1, 2)
    if not np.array_equal(rows[:, :2], grid):
        raise ValueError(f"{path} is not a full grid ordered by mass, then by log10(x)")
    return mass, log10_x, rows[:, 2:].reshape(mass.size, log10_x.size, len(CHANNELS))


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
    mass, log10_x, values = read_table(source)
    code, log_offset, log_step = encode(values)
    np.savez_compressed(
        target,
        mass=mass / GEV_PER_TEV,
        log10_x=log10_x,
        channels=np.array(list(CHANNELS.values())),
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
