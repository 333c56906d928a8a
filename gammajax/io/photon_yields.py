"""Photon yields per annihilation: tables of PPPC4DMID and CosmiXs."""

import re

import numpy as np

from gammajax.io.files import UNREADABLE, expand, one_line, read_text
from gammajax.model.darkmatter.yields import Yields

GEV_PER_TEV = 1e3
MASS, LOG10_X = ("mDM", "DM"), ("Log[10,x]", "Log10[x]")  # PPPC4DMID, CosmiXs
# column names that differ from the channel names; PPPC4DMID has Mathematica's notation
CHANNELS = {
    **{f"{name}{side}": f"{name}_{side}" for name in ("e", "mu", "tau") for side in "LR"},
    **{f"{name}{side}": f"{name}_{side}" for name in "WZ" for side in "LT"},
    **{f"nu{name}": f"nu_{name}" for name in ("e", "mu", "tau")},
    "a": "gamma",
    "H": "h",
}


def read_yields(path) -> Yields:
    r"""Photon yields from a table of PPPC4DMID or CosmiXs, for `gammajax.DarkMatter(..., yields=...)`.

    - PPPC4DMID (Cirelli et al. 2011, arXiv:1012.4515): `AtProduction_gammas.dat` with electroweak corrections,
      `AtProductionNoEW_gammas.dat` without.
    - CosmiXs (Arina et al. 2024, arXiv:2312.01153): `AtProduction-Gamma.dat`, which also has channels `u`, `d`, `s`,
      `aZ` and `HZ`, but no `q`.

    `path` of the file; returns [`gammajax.darkmatter.Yields`][]. Both are text: column names in the first line, masses
    in GeV, log10 of x = E / mass, and dN/dlog10(x) for each channel. Channels are named as in
    [`gammajax.darkmatter.channels`][].

    Raises `ValueError` for other files, and for a table that is not a full grid of increasing masses and log10 x.

    >>> import pathlib, tempfile, gammajax as gj
    >>> rows = [f"{mass} {x} {5.0 * -x} {3.0 * -x}" for mass in (100, 1000) for x in (-3.0, -2.0, -1.0, 0.0)]
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "AtProduction_gammas.dat"
    >>> _ = file.write_text("mDM Log[10,x] b W\n" + "\n".join(rows))
    >>> yields = gj.io.read_yields(file)
    >>> spectrum = gj.DarkMatter("b", mass=0.5, yields=yields)
    """
    path = expand(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file with photon yields")
    try:
        first, *lines = read_text(path).splitlines() or [""]
        columns = first.lstrip("#").split()
        lines = [line for line in lines if line.partition("#")[0].strip()]
        rows = np.loadtxt(lines, ndmin=2) if lines else np.empty((0, 0))
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as a table of photon yields: {one_line(error)}") from error
    if len(columns) < 3 or columns[0] not in MASS or columns[1] not in LOG10_X or len(columns) != rows.shape[1]:
        raise ValueError(
            f"{path} must have the columns mDM, Log[10,x] or DM, Log10[x], and the channels: {columns[:4]}"
        )
    names = tuple(map(channel, columns[2:]))
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has more than one column of a channel: {', '.join(names)}")
    mass, log10_x = np.unique(rows[:, 0]), np.unique(rows[:, 1])
    grid = np.stack(np.meshgrid(mass, log10_x, indexing="ij"), axis=-1).reshape(-1, 2)
    if not np.array_equal(rows[:, :2], grid):
        raise ValueError(f"{path} must hold a full grid, with the masses and then log10 x increasing from row to row")
    values = rows[:, 2:].reshape(mass.size, log10_x.size, -1)
    try:
        return Yields(mass / GEV_PER_TEV, log10_x, names, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def channel(column: str) -> str:
    r"""Name of a channel from its column, for example `\[Tau]L` or `dNdLog10x[tauL]`."""
    inner = re.fullmatch(r"dNdLog10x\[(.*)\]", column)
    plain = inner[1] if inner else re.sub(r"\\\[(\w+)\]", lambda greek: greek[1].lower(), column)
    return CHANNELS.get(plain, plain)
