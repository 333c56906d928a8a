"""Tables of particle models."""

import csv
from collections.abc import Mapping
from typing import Any

import numpy as np

from gammajax.io.files import UNREADABLE, expand, one_line, read_text
from gammajax.model.darkmatter.particle import ParticleModel
from gammajax.model.darkmatter.yields import INVISIBLE
from gammajax.model.darkmatter.yields import channels as embedded_channels

GEV_PER_TEV = 1e3
# notation of DarkSUSY and micrOMEGAs for final states
FINAL_STATES = {
    "nuenue": "nu_e", "numunumu": "nu_mu", "nutaunutau": "nu_tau",
    "e+e-": "e", "mu+mu-": "mu", "tau+tau-": "tau", "eE": "e", "mM": "mu", "lL": "tau",
    "uu": "q", "dd": "q", "ss": "q", "uU": "q", "dD": "q", "sS": "q",
    "cc": "c", "bb": "b", "tt": "t", "cC": "c", "bB": "b", "tT": "t",
    "W+W-": "W", "ZZ": "Z", "gg": "g", "GG": "g", "gammagamma": "gamma", "AA": "gamma", "HH": "h", "hh": "h",
}  # fmt: skip


def read_particle_model(
    path,
    axes: Mapping[str, str],
    channels: Mapping[str, str] | None = None,
    group: str | None = None,
    unit: str = "GeV",
) -> ParticleModel:
    r"""Cross sections of a particle model over a grid of its parameters, from CSV or HDF5.

    - `axes`: columns or datasets of the parameters, by name of the parameter:
      `{"mass": "mS [GeV]", "coupling": "lahS"}`. Parameters named `mass` or `mass_...` are in `unit`, "GeV" or "TeV".
    - `channels`: channel of each final state with other names than in DarkSUSY and micrOMEGAs; "invisible" for a final
      state without photons, None to leave a column out.
    - `group`: group of an HDF5 file with the final states, for example one initial state of a two-component model.

    `path` of the file; returns a [`gammajax.ParticleModel`][].

    CSV files have one row per point in any order, and column names in the first line, separated by commas, spaces or
    tabs. HDF5 files have one dataset per parameter, with one value per point, and datasets of final states in the
    group. Columns without a name, and final states that are zero everywhere, are left out.

    Raises `ValueError` for a missing column, a final state without a channel, and points that are not a full grid.

    >>> import pathlib, tempfile, gammajax as gj
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "model.csv"
    >>> _ = file.write_text("mS,W W,b b\n100,1e-26,3e-26\n1000,2e-26,1e-26\n")
    >>> model = gj.io.read_particle_model(file, {"mass": "mS"}, {"W W": "W", "b b": "b"})
    >>> model.channels
    ('W', 'b')
    """
    path = expand(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file with a particle model")
    if unit not in ("GeV", "TeV"):
        raise ValueError(f"unit must be 'GeV' or 'TeV', it is {unit!r}")
    try:
        parameters, states = (_hdf5 if _is_hdf5(path) else _csv)(path, list(axes.values()), group)
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as a particle model: {one_line(error)}") from error
    sigma_v = _by_channel(path, states, channels or {})
    masses = [name for name in axes if name == "mass" or name.startswith("mass_")]
    grid = {
        name: values / GEV_PER_TEV if name in masses and unit == "GeV" else values
        for name, values in zip(axes, parameters, strict=True)
    }
    nodes = {name: np.unique(values) for name, values in grid.items()}
    shape = tuple(values.size for values in nodes.values())
    order = np.lexsort(list(grid.values())[::-1])
    full = np.stack(np.meshgrid(*nodes.values(), indexing="ij"), -1).reshape(-1, len(nodes))
    if not np.array_equal(np.stack(list(grid.values()), -1)[order], full):
        raise ValueError(
            f"{path} has {order.size} points, which are not a full grid of {dict(zip(nodes, shape, strict=True))}"
        )
    for name in masses:
        if not np.all(nodes[name] > 0):
            raise ValueError(f"{path}: the values of {name!r}, column {axes[name]!r}, must be positive")
    tables = {name: values[order].reshape(shape) for name, values in sigma_v.items()}
    try:
        return ParticleModel(nodes, tables, dict.fromkeys(masses, "TeV"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _by_channel(path, states, extra):
    known = {**FINAL_STATES, **{name: name for name in (*embedded_channels(), INVISIBLE)}, **extra}
    sigma_v = {}
    for state, values in states.items():
        if state not in extra and not np.any(values):
            continue
        if state not in known:
            raise ValueError(
                f"{path}: final state {state!r} has no channel; say which, as in channels={{{state!r}: {INVISIBLE!r}}}"
            )
        if known[state] is not None:
            sigma_v[known[state]] = sigma_v.get(known[state], 0.0) + values
    return sigma_v


def _is_hdf5(path):
    with open(path, "rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _csv(path, axes, group):
    if group is not None:
        raise ValueError("a CSV file has no groups")
    lines = read_text(path).splitlines() or [""]
    first = lines[0]
    delimiter = max(",\t ", key=first.count) if not any(d in first for d in ",\t") else max(",\t", key=first.count)
    columns, *rows = csv.reader(lines, delimiter=delimiter)
    named = [name for name in columns if name.strip()]
    if len(set(named)) < len(named):
        raise ValueError(f"columns have the same name: {', '.join(columns)}")
    for number, row in enumerate(rows, 2):
        if row and len(row) != len(columns):
            raise ValueError(f"row {number} has {len(row)} values for {len(columns)} columns")
    rows = [row for row in rows if row]
    if not rows:
        raise ValueError("there are no rows below the names of columns")
    table = dict(zip(columns, np.array(rows, float).T, strict=True))
    _require(axes, table)
    states = {name: values for name, values in table.items() if name.strip() and name not in axes}
    return [table[name] for name in axes], states


def _hdf5(path, axes, group):
    import h5py

    with h5py.File(path, "r") as file:
        _require(axes, file)
        parameters = [np.asarray(file[name], float).ravel() for name in axes]
        if group is not None and group not in file:
            raise ValueError(f"no group {group!r}; there are {[n for n in file if isinstance(file[n], h5py.Group)]}")
        place: Any = file if group is None else file[group]
        datasets = {name: data for name, data in place.items() if isinstance(data, h5py.Dataset) and name not in axes}
        if group is None:  # skip other datasets, for example units
            datasets = {name: data for name, data in datasets.items() if data.size == parameters[0].size}
        return parameters, {name: np.asarray(data, float).ravel() for name, data in datasets.items()}


def _require(axes, table):
    for name in axes:
        if name not in table:
            raise ValueError(f"there is no {name!r}; there are {list(table)}")
