"""Curves ln L(cross section) of one target seen by one instrument, for each channel and mass, and their combination.

J is held fixed in a curve, so that it can be shared later: the data depend on the product sigma_v J only. With
l = log10(J / J_0) and the error s of log10 J, the likelihood of a target is

    ln L(sigma_v) = max_l [ Sum_i ln L_i(sigma_v 10^l) - l^2 / (2 s^2) ]               profiled
    L(sigma_v) = Int Prod_i L_i(sigma_v 10^l) exp(-l^2 / (2 s^2)) / sqrt(2 pi s^2) dl  marginalised

over the instruments i that see it, with the same l for all of them (Ackermann et al. 2015, arXiv:1503.02641, eq. 3).
Targets have independent J-factors: their ln L add up.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator
from scipy.special import logsumexp

from gammajax.common.display import block, document, extent, listed, number_of, words

NUISANCES = ("profile", "marginal")
WIDE, STEPS = 6.0, 241  # J-factors within so many standard deviations, and steps over them
MASS, POWER = 1e-4, 1e-6  # equal masses, relative to each other; equal log10 J


class LikelihoodCurves(eqx.Module):
    """Profile likelihoods of a cross section for several channels and masses, of one target and one instrument.

    - `target`, `instrument`: names. - `channels`, `mass` [TeV]: channel and mass of each row.
    - `values` [cm^3 s^-1]: cross sections, increasing from zero; NaN at the end of a row with fewer.
    - `fall`: q = 2 (ln L_max - ln L) there, with J fixed, and all other nuisances profiled.
    - `log10_j`: of J in GeV^2 cm^-5, NaN if unknown; `log10_j_error`: its error, zero for none.
    - `unit` of the values, "cm^3 s^-1", or "" for a scale without unit.

    Between values q is a monotonic cubic. Beyond the last it goes on as a straight line: as ln L is concave in the
    cross section, q is then too small rather than too large.

    >>> import gammajax as gj, numpy as np
    >>> values = np.linspace(0.0, 10.0, 101)[None] * 1e-24
    >>> fall = (values / 2e-24) ** 2
    >>> curves = gj.LikelihoodCurves("Segue1", "CTAO", ("b",), np.array([1.0]), values, fall, 19.36, 0.3)
    >>> round(float(curves(0, 3e-24)), 2)
    2.25
    """

    target: str = eqx.field(static=True)
    instrument: str = eqx.field(static=True)
    channels: tuple[str, ...] = eqx.field(static=True)
    mass: Float[np.ndarray, " row"]
    values: Float[np.ndarray, "row value"]
    fall: Float[np.ndarray, "row value"]
    log10_j: float = np.nan
    log10_j_error: float = 0.0
    unit: str = eqx.field(static=True, default="cm^3 s^-1")
    __pdoc__ = document

    def __check_init__(self):
        if len(self.channels) != self.mass.size:
            raise ValueError(f"{len(self.channels)} channels and {self.mass.size} masses: each row has one of both")
        check_error(self.log10_j_error)
        steps = np.diff(self.values, axis=1)
        if np.any(self.values[:, 0] != 0) or np.any(steps <= 0):
            raise ValueError("the values of each row must increase from zero")

    @words
    def __repr__(self) -> str:
        """Target, instrument, channels, masses and J."""
        error = f" +- {self.log10_j_error:g}" if self.log10_j_error else ""
        return block(
            f"LikelihoodCurves of {self.target} by {self.instrument or 'one instrument'}: "
            f"{number_of(self.mass.size, 'row')}, {extent(self.mass, 'TeV')}",
            f"channels {listed(list(dict.fromkeys(self.channels)))}",
            f"log10 J = {self.log10_j:g}{error}",
        )

    def __call__(self, row: int, value) -> Float[np.ndarray, "..."]:
        """Value of q of a row at cross sections."""
        some = np.isfinite(self.values[row]) & np.isfinite(self.fall[row])
        values, fall = self.values[row][some], self.fall[row][some]
        value = np.asarray(value, np.float64)
        if values.size < 2:
            return np.zeros(value.shape)
        # cross sections are smaller than the tolerances of interpolators
        size = values[-1]
        inside = PchipInterpolator(values / size, fall)(np.minimum(value / size, 1.0))
        slope = max((fall[-1] - fall[-2]) / (values[-1] - values[-2]), 0.0)
        return np.asarray(inside + slope * np.maximum(value - size, 0.0))

    def best(self, row: int) -> float:
        """The value of a row where q is lowest."""
        return float(self.values[row][np.nanargmin(self.fall[row])])

    def row(self, channel: str, mass: float) -> int | None:
        """Number of the row of a channel and mass [TeV], or None."""
        near = np.isclose(self.mass, mass, rtol=MASS, atol=0.0) & (np.array(self.channels) == channel)
        return int(np.flatnonzero(near)[0]) if near.any() else None

    def with_j(self, log10_j: float | int, log10_j_error: float | int) -> "LikelihoodCurves":
        """The same for another J-factor: sigma_v J stays. Raises `ValueError` if the present J is unknown."""
        if not np.isfinite(self.log10_j):
            raise ValueError(
                f"the curves of {self.target!r} have no J-factor to change: give log10_j= to gammajax.limits"
            )
        factor = 10.0 ** (self.log10_j - log10_j)
        return LikelihoodCurves(
            self.target,
            self.instrument,
            self.channels,
            self.mass,
            self.values * factor,
            self.fall,
            float(log10_j),
            float(log10_j_error),
            self.unit,
        )

    def write(self, folder, *, values=None, overwrite: bool = False) -> list[Path]:
        """Write one text file CHANNEL_TARGET_INSTRUMENT.txt for each channel, as gLike and LklCom read them.

        The first line has log10 J and the masses [GeV]; each further line has a cross section [cm^3 s^-1], in falling
        order, and -2 Delta ln L of each mass there. `values`: cross sections, by default 1001 between 1e-28 and 1e-18,
        as in the files of LklCom. The error of J has no place in the format. Returns the paths.

        Raises `ValueError` for an unknown J or unit, for names with "_", and for values that do not reach the limits;
        `FileExistsError` for existing files unless `overwrite`.
        """
        from gammajax.io.curve_tables import write_curves

        return write_curves(self, folder, values, overwrite)

    @classmethod
    def read(
        cls, path, *, channel=None, target=None, instrument=None, log10_j_error: float = 0.0
    ) -> "LikelihoodCurves":
        """Read a text file of gLike or LklCom; names that are not given are those of CHANNEL_TARGET_INSTRUMENT.txt.

        The file has no error of J: `log10_j_error` gives it. Constants in -2 ln L are taken off. Masses without any
        change of ln L are left out. Raises `ValueError` for another layout.
        """
        from gammajax.io.curve_tables import read_curves

        return cls(**read_curves(path, channel, target, instrument), log10_j_error=float(log10_j_error))


class Part(NamedTuple):
    """A target in one row: its q at fixed J as a function of the cross section, and the error of log10 J."""

    target: str
    fall: Callable[[np.ndarray], np.ndarray]
    error: float
    best: tuple[float, ...]
    reach: float


def parts(curves: Sequence[LikelihoodCurves], channel: str, mass: float, depth: float) -> list[Part]:
    """The targets that have a row of this channel and mass. q exceeds `depth` at the `reach` of each."""
    by_target: dict[str, list] = {}
    for one in curves:
        row = one.row(channel, mass)
        if row is not None:
            by_target.setdefault(one.target, []).append((one, row))
    found = []
    for target, some in by_target.items():

        def fall(value, some=some):
            return sum((one(row, value) for one, row in some), start=np.zeros(np.shape(value)))

        last = max(float(np.nanmax(one.values[row])) for one, row in some)
        best = tuple(one.best(row) for one, row in some)
        if last > 0:
            fine = np.geomspace(1e-8 * last, last, 2000)
            q = fall(fine)
            beyond = (q - q.min() > depth) & (fine > max(best))
            last = float(fine[np.argmax(beyond)]) if beyond.any() else last
        found.append(Part(target, fall, some[0][0].log10_j_error, best, last))
    return found


def with_nuisance(
    fall: Callable[[np.ndarray], np.ndarray], values: Float[np.ndarray, " value"], error: float, nuisance: str
) -> Float[np.ndarray, " value"]:
    """Value of q at cross sections with the J-factor profiled or marginalised, up to a constant (see the module)."""
    if error == 0:
        return fall(values)
    shift = np.linspace(-WIDE * error, WIDE * error, STEPS)
    q = fall(values[:, None] * 10.0**shift) + (shift / error) ** 2
    if nuisance == "marginal":
        return -2.0 * logsumexp(-0.5 * q, axis=1, b=(shift[1] - shift[0]) / np.sqrt(2.0 * np.pi) / error)
    lowest = np.clip(q.argmin(1), 1, STEPS - 2)[:, None]
    left, middle, right = (np.take_along_axis(q, lowest + i, 1)[:, 0] for i in (-1, 0, 1))
    bend = np.maximum(left - 2.0 * middle + right, 1e-12)
    # the vertex of a parabola through three steps
    return np.minimum(middle - (right - left) ** 2 / (8.0 * bend), q.min(1))


def check_error(error) -> None:
    """Raise `ValueError` for an error of log10 J that is negative or not a number."""
    if not (isinstance(error, (int, float, np.floating)) and 0 <= error < 5):
        raise ValueError(f"the error of log10 J must be between 0 and 5 (it is in decades), not {error!r}")
