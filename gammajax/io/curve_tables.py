"""Curves of ln L against cross section in text files of gLike and LklCom, and tables of limits.

The text format is the one that the telescopes exchange for their joint searches in dwarf galaxies ("Glory Duck"): gLike
(J. Rico et al., `GloryDuckTables2019Lkl` and the export of `jointLklDM`) and LklCom (T. Miener et al.,
`likelihood_combiner.io.gLike_to_lklcom`). The first line has log10 of J [GeV^2 cm^-5], which is held fixed, and the
masses [GeV]; every further line has a cross section [cm^3 s^-1] and -2 ln L, up to a constant for each mass. LklCom
wants falling cross sections, and derives the channel, target and instrument from the name of the file.
"""

from pathlib import Path
from typing import Any

import numpy as np

from gammajax.common.writing import replacing
from gammajax.model.darkmatter import channels as known_channels

GEV_PER_TEV = 1e3
VALUES = 10.0 ** np.linspace(-18.0, -28.0, 1001)  # those of the files that come with LklCom
DEEP = 4.0  # q that the values of a file must reach, above the limits at 95 %
UNIT = "cm^3 s^-1"


def write_curves(curves: Any, folder, values, overwrite: bool) -> list[Path]:
    """Write one file for each channel; see [`gammajax.LikelihoodCurves.write`][]."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if curves.unit != UNIT:
        raise ValueError(f"the format has cross sections in {UNIT}, these curves are in {curves.unit or 'no unit'}")
    if not np.isfinite(curves.log10_j):
        raise ValueError("the format holds log10 J, which these curves do not have: give log10_j= to gammajax.limits")
    values = VALUES if values is None else np.sort(np.asarray(values, np.float64).ravel())[::-1]
    if values.size < 2 or not (values[-1] > 0 and np.all(np.diff(values) < 0)):
        raise ValueError("cross sections of a file must be positive and differ from each other")
    for what, name in (("target", curves.target), ("instrument", curves.instrument)):
        if not name or "_" in name or "/" in name:
            raise ValueError(f"the {what} is part of the name of the file: it needs a name without '_', not {name!r}")
    written = []
    for channel in dict.fromkeys(curves.channels):
        rows = [row for row, name in enumerate(curves.channels) if name == channel]
        table = np.stack([curves(row, values) for row in rows], axis=1)
        for row, column in zip(rows, table.T, strict=True):
            if not (column.max() - column.min() > DEEP and values[-1] < 0.1 * _typical(curves, row)):
                raise ValueError(
                    f"cross sections from {values[-1]:.3g} to {values[0]:.3g} {UNIT} do not reach about the limit of "
                    f"channel {channel!r} at {curves.mass[row]:g} TeV: give values="
                )
        path = folder / f"{_doubled(channel)}_{curves.target}_{curves.instrument}.txt"
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; write to another folder, or with overwrite=True")
        head = [f"{curves.log10_j:.6g}", *(f"{GEV_PER_TEV * curves.mass[row]:.7g}" for row in rows)]
        lines = [[f"{value:.7g}", *(f"{q:.7g}" for q in row)] for value, row in zip(values, table, strict=True)]
        with replacing(path) as temporary:
            temporary.write_text("".join(" ".join(line) + "\n" for line in [head, *lines]))
        written.append(path)
    return written


def read_curves(path, channel: str | None, target: str | None, instrument: str | None) -> dict[str, Any]:
    """Fields of [`gammajax.LikelihoodCurves`][] from a text file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    names = dict(zip(("channel", "target", "instrument"), path.stem.split("_"), strict=False))
    given = {"channel": channel, "target": target, "instrument": instrument}
    names |= {name: value for name, value in given.items() if value is not None}
    if len(names) < 3:
        raise ValueError(f"{path.name} is not CHANNEL_TARGET_INSTRUMENT.txt: give channel=, target= and instrument=")
    try:
        lines = [[float(word) for word in line.split()] for line in path.read_text().splitlines() if line.strip()]
    except ValueError as error:
        raise ValueError(f"{path}: not a table of numbers ({error})") from error
    if len(lines) < 4 or len(lines[0]) < 2 or len({len(line) for line in lines}) > 1:
        raise ValueError(
            f"{path}: the first line has log10 J and the masses, each further line a cross section and -2 ln L "
            "of every mass"
        )
    table = np.array(lines)
    log10_j, mass, value, fall = table[0, 0], table[0, 1:] / GEV_PER_TEV, table[1:, 0], table[1:, 1:].T
    order = np.argsort(value)
    value, fall = value[order], fall[:, order]
    if np.any(np.diff(value) <= 0) or not np.all(np.isfinite(table)) or np.any(mass <= 0) or value[-1] <= 0:
        raise ValueError(f"{path}: cross sections must differ, masses be positive, and all numbers finite")
    # gLike may scan negative cross sections, too
    fall, value = fall[:, value >= 0], value[value >= 0]
    if value[0] > 0:
        slope = (fall[:, 1] - fall[:, 0]) / (value[1] - value[0])
        fall = np.concatenate([(fall[:, 0] - slope * value[0])[:, None], fall], axis=1)
        value = np.append(0.0, value)
    fall = fall - fall.min(1, keepdims=True)
    some = fall.max(1) > 0
    return {
        "target": names["target"],
        "instrument": names["instrument"],
        "channels": (_halved(names["channel"]),) * int(some.sum()),
        "mass": mass[some],
        "values": np.repeat(value[None], some.sum(), 0),
        "fall": fall[some],
        "log10_j": float(log10_j),
    }


def write_table(limits: Any, path, overwrite: bool) -> Path:
    """Write the table of limits as ECSV, with the definitions in its header."""
    from astropy import units as u
    from astropy.table import Table

    path = Path(path)
    if path.suffix != ".ecsv":
        raise ValueError(f"{path.name}: limits are written as .ecsv")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; write to another path, or with overwrite=True")
    frame = limits.summary()
    unit = u.Unit("cm3 s-1") if limits.unit == UNIT else u.Unit(limits.unit.replace("^", "") or "")
    units = {"channel": None, "mass": u.TeV, "ts": None, "sqrt_ts": None}
    table = Table(
        {name: np.asarray(frame[name], str if name == "channel" else float) for name in frame.columns},
        units={name: units.get(name, unit) for name in frame.columns},
    )
    table.meta = {
        "target": limits.target,
        "level": limits.level,
        "nuisance": limits.nuisance,
        "unit": limits.unit,
        "limit": f"profile likelihood, one-sided {limits.level:g} CL, J-factor: {limits.nuisance}",
        "bayesian": f"posterior probability {limits.level:g}, flat prior of the scale from zero, J-factor: marginal",
        "expected": "profile likelihood without a signal: median, and bands of 68 and 95 % of experiments",
        "messages": list(limits.messages),
    }
    with replacing(path) as temporary:
        table.write(temporary, format="ascii.ecsv", overwrite=True)
    return path


def read_table(path) -> dict[str, Any]:
    """Fields of [`gammajax.Limits`][] from a table that `write_table` wrote."""
    from astropy.table import Table

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        table = Table.read(path, format="ascii.ecsv")
        meta = dict(table.meta)
        columns = {name: np.asarray(table[name], float) for name in ("mass", "best", "ts", "limit", "bayesian")}
        bands = ("expected_m2", "expected_m1", "expected", "expected_p1", "expected_p2")
        return {
            "target": str(meta["target"]),
            "channels": tuple(str(name) for name in table["channel"]),
            **columns,
            "expected": np.stack([np.asarray(table[name], float) for name in bands]),
            "curves": (),
            "asimov": (),
            "level": float(meta["level"]),
            "nuisance": str(meta["nuisance"]),
            "unit": str(meta["unit"]),
            "messages": tuple(meta["messages"]),
        }
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a table of limits: {error}") from error


def _typical(curves, row) -> float:
    """The first cross section above the best with q above the level of limits."""
    values, fall = curves.values[row], curves.fall[row]
    reached = (values > curves.best(row)) & (fall > DEEP)
    return float(values[np.argmax(reached)]) if reached.any() else np.inf


def _doubled(channel: str) -> str:
    """Name of a channel in files, as "WW" for "W"; other names stay."""
    if "_" in channel or "/" in channel or not channel:
        raise ValueError(f"the channel is part of the name of the file: it needs a name without '_', not {channel!r}")
    return 2 * channel if channel in known_channels() else channel


def _halved(channel: str) -> str:
    half = channel[: len(channel) // 2]
    return half if channel == 2 * half and half in known_channels() else channel
