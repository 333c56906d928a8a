"""Limits on a cross section against mass, and their combination over telescopes and targets.

All numbers follow from the curves ln L(sigma_v) of each channel and mass (`gammajax.products.likelihood_curves`):

    limit       q(limit) = 2.71 above the best fit, one-sided 95 % CL (Rolke et al. 2005, arXiv:physics/0403059)
    bayesian    Int_0^limit L d sigma_v / Int_0^inf L d sigma_v = 0.95, prior flat in sigma_v, J marginalised
    expected    the same limit of the curves without a signal, q(sigma_v) of the Asimov data set; of an experiment
                whose best fit lies N standard deviations from zero, q_N = q - 2 N T (Cowan et al. 2011,
                arXiv:1007.1727, section 4.4), before J is profiled: J is the same in all experiments

The data of such an experiment are n_i = b_i + N s_i / sqrt(I) with the signal s_i of a cross section of one and
I = Sum s_i^2 / b_i: the fluctuation along the score. Then T(x) = Sum s_i ln(1 + x s_i / b_i) / sqrt(I), which follows
from the curve itself, T(x) = Int_0^x q'(u) / (2 u) du / sqrt(I), since q = 2 Sum [x s_i - b_i ln(1 + x s_i / b_i)].
For many events T = x sqrt(I) and q = T^2. Several targets share a fluctuation in this way, too.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.common.display import block, document, extent, listed, number_of, words
from gammajax.common.progress import DELAY, Progress, say
from gammajax.model.darkmatter.flux import DarkMatter, Emission
from gammajax.model.priors import bounds, centre, quantile
from gammajax.model.quantities import find_quantity
from gammajax.products.likelihood_curves import (
    NUISANCES,
    LikelihoodCurves,
    Part,
    check_error,
    parts,
    with_nuisance,
)
from gammajax.statistics.forecasts import BANDS, POINTS_SENSITIVITY, Asimov, Forecast
from gammajax.statistics.profiles import Profile
from gammajax.statistics.scans import Scan, scan

DEPTH, FINEST, GRID = (
    36.0,
    1e-6,
    600,
)  # q of the last cross section of a row, the first relative to it, and their number
ROUNDED = 0.1  # q below which single precision is not enough for q / u^2
SURE = 12.0  # q that the posterior must have fallen by at the last cross section
UNITS = {"sigma_v": "cm^3 s^-1", "decay_rate": "s^-1"}
LINEAR = 1e-3  # of the expected counts, by which a scale may differ from a proportional one


class Limits(eqx.Module):
    """Upper limits on a cross section for each channel and mass, from [`gammajax.limits`][] or [`gammajax.combine`][].

    - `target`: its name, or the names of all. - `channels`, `mass` [TeV] of each row.
    - `limit` [cm^3 s^-1]: profile likelihood, one-sided, q = 2.71 above the best fit for a `level` of 0.95.
    - `bayesian`: posterior probability `level`, with a flat prior of the cross section from zero.
    - `best`: best cross section, not negative; `ts`: 2 (ln L_max - ln L(0)), NaN without data.
    - `expected` [band, row]: `limit` without a signal if the best fit lies -2, -1, 0, 1, 2 standard deviations away.
    - `nuisance`: "profile" or "marginal", what is done to J-factors for `limit`, `best` and `ts`; for `bayesian` they
      are marginalised.
    - `curves`, `asimov`: the [`gammajax.LikelihoodCurves`][] of the data and of the expectation; empty after `read`.
    - `unit` of the cross sections; `messages`: problems, in words.

    >>> import gammajax as gj, numpy as np
    >>> values = np.linspace(0.0, 16.0, 161)[None] * 1e-24
    >>> curves = gj.LikelihoodCurves("Segue1", "CTAO", ("b",), np.array([1.0]), values, (values / 2e-24) ** 2, 19.36)
    >>> found = gj.Limits.of([curves])
    >>> bool(abs(found.limit[0] / (1.6449 * 2e-24) - 1.0) < 1e-3)
    True
    """

    target: str = eqx.field(static=True)
    channels: tuple[str, ...] = eqx.field(static=True)
    mass: Float[np.ndarray, " row"]
    best: Float[np.ndarray, " row"]
    ts: Float[np.ndarray, " row"]
    limit: Float[np.ndarray, " row"]
    bayesian: Float[np.ndarray, " row"]
    expected: Float[np.ndarray, "band row"]
    curves: tuple[LikelihoodCurves, ...]
    asimov: tuple[LikelihoodCurves, ...]
    level: float = eqx.field(static=True, default=0.95)
    nuisance: str = eqx.field(static=True, default="profile")
    unit: str = eqx.field(static=True, default="cm^3 s^-1")
    messages: tuple[str, ...] = ()
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Rows, ranges of limits, definitions."""
        lines = []
        if np.any(np.isfinite(self.limit)):
            lines.append(f"limits {extent(self.limit, self.unit)}; largest TS {np.nanmax(self.ts):.2f}")
        if np.any(np.isfinite(self.expected)):
            lines.append(f"expected, median: {extent(self.expected[2], self.unit)}")
        return block(
            f"Limits from {self.target}: {number_of(self.mass.size, 'row')}, {extent(self.mass, 'TeV')}, "
            f"channels {listed(list(dict.fromkeys(self.channels)))}",
            *lines,
            f"{100 * self.level:g} % CL, one-sided profile likelihood; J-factor: {self.nuisance}",
            *self.messages,
        )

    @classmethod
    def of(
        cls,
        curves: Sequence[LikelihoodCurves],
        asimov: Sequence[LikelihoodCurves] = (),
        *,
        level: float | int = 0.95,
        nuisance: str = "profile",
        messages: Sequence[str] = (),
    ) -> "Limits":
        """Limits from curves of data, and of the expectation without a signal; one of both may be empty.

        Curves of the same target share one J-factor, other targets have their own. Raises `ValueError` for no curves,
        for different errors of J for one target, and for different units.
        """
        check_choice(level, nuisance)
        rows = _rows([*curves, *asimov])
        columns: dict[str, list] = {name: [] for name in ("best", "ts", "limit", "bayesian", "expected")}
        for channel, mass in rows:
            best, ts, limit, bayesian = _observed(parts(curves, channel, mass, DEPTH), level, nuisance)
            expected = _bands(parts(asimov, channel, mass, DEPTH), level, nuisance)
            for name, value in zip(columns, (best, ts, limit, bayesian, expected), strict=True):
                columns[name].append(value)
        arrays = {name: np.array(values, float).T for name, values in columns.items()}
        open_ = [
            f"{channel} at {mass:g} TeV"
            for (channel, mass), at in zip(rows, arrays["limit"], strict=True)
            if at == np.inf
        ]
        found = list(messages)
        if open_:
            found.append(
                f"no cross section is excluded for {listed(open_)}: the data or the J-factor do not constrain it"
            )
        return cls(
            target=", ".join(dict.fromkeys(one.target for one in [*curves, *asimov])),
            channels=tuple(channel for channel, _ in rows),
            mass=np.array([mass for _, mass in rows], float),
            **arrays,
            curves=tuple(curves),
            asimov=tuple(asimov),
            level=float(level),
            nuisance=nuisance,
            unit=[*curves, *asimov][0].unit,
            messages=tuple(dict.fromkeys(found)),
        )

    @property
    def sqrt_ts(self) -> Float[np.ndarray, " row"]:
        """Local significance in standard deviations."""
        return np.sqrt(self.ts)

    def summary(self):
        """Table (`pandas.DataFrame`) of the rows: channel, mass [TeV], limits and best fit [cm^3 s^-1], TS."""
        import pandas

        columns: dict[str, Any] = {"channel": list(self.channels), "mass": self.mass}
        columns |= {"limit": self.limit, "bayesian": self.bayesian, "best": self.best}
        columns |= {"ts": self.ts, "sqrt_ts": self.sqrt_ts}
        names = ("expected_m2", "expected_m1", "expected", "expected_p1", "expected_p2")
        return pandas.DataFrame(columns | dict(zip(names, self.expected, strict=True)))

    def write(self, path, *, overwrite: bool = False) -> Path:
        """Write the table as `.ecsv`, with the definitions in its header; `curves` have files of their own.

        Raises `FileExistsError` for an existing file unless `overwrite`, and `ValueError` for another suffix.
        """
        from gammajax.io.curve_tables import write_table

        return write_table(self, path, overwrite)

    @classmethod
    def read(cls, path) -> "Limits":
        """Read a table that `write` wrote. It has no curves, so it cannot be combined."""
        from gammajax.io.curve_tables import read_table

        return cls(**read_table(path))

    def plot(
        self,
        ax=None,
        *,
        channel: str | None = None,
        others: dict[str, "Limits"] | None = None,
        energy_unit: str = "TeV",
    ):
        """Draw the limits against mass, with the expected bands of one channel and the thermal relic.

        `channel`: one of several; by default all are drawn, and bands only if there is one. `others`: more limits by
        label, such as published ones. `energy_unit` of the mass: eV, keV, MeV, GeV, TeV, PeV or erg. Returns the axes.
        Raises `ValueError` for an unknown channel or unit.
        """
        from gammajax.plots.cross_sections import plot_limits

        return plot_limits(self, ax, channel, others or {}, energy_unit=energy_unit)


def limits(
    posterior,
    *,
    values,
    scale: str = "sigma_v",
    along: str = "mass",
    channels: Any = None,
    expected: Any = None,
    log10_j: float | int | None = None,
    log10_j_error: float | int = 0.0,
    nuisance: str = "profile",
    level: float | int = 0.95,
    target: str = "target",
    instrument: str = "",
    constraints: list[str] | None = None,
    points: int = POINTS_SENSITIVITY,
    progress: bool = True,
) -> Limits:
    """Observed and expected upper limits on a scale, as a cross section, at each mass and for each channel.

    - `posterior`: a [`gammajax.Posterior`][] of absolute fluxes; or [`gammajax.Asimov`][] or [`gammajax.Forecast`][]
      for expected limits alone.
    - `scale`: the parameter that is proportional to the signal. - `along`, `values`: the parameter that is the mass,
      and where. All other parameters are profiled, with priors as constraints; `constraints` as of
      [`gammajax.profile`][]. The prior of the scale says only where to search.
    - `channels`: label of the model's channel; or {label: {parameter: value}} of parameters that choose a channel, such
      as branching ratios. By default the channel of the model's dark matter.
    - `expected`: a `jax.random.key` for the Asimov data set without a signal, of `points` simulated points; or an
      `Asimov` or `Forecast` of the same parameters; None for no bands.
    - `log10_j`, `log10_j_error` of the J-factor [GeV^2 cm^-5], which the model holds fixed; by default that of the
      model's dark matter, and no error. `nuisance`: "profile" or "marginal", for a log-normal likelihood of J.
    - `level` of the limits. - `target`, `instrument`: names, for combination and files.
    - `progress`: show how far it is, after some seconds.

    If the scale is a cross section or decay rate of dark matter, numbers are in its unit whatever the factor in the
    model; masses likewise. The curves of all masses and channels come from one compiled program
    (module `gammajax.statistics.scans`).

    Returns [`gammajax.Limits`][].
    Raises `ValueError` for a mixture likelihood, for a scale that is not proportional to the signal, for masses beyond
    their prior, unknown names, and events that need a signal.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.5), livetime=36000.0, energy_range=(0.5, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     signal = gj.Source(gj.DarkMatter("b", p["mass"], p["sigma_v"] * 1e-24, j_factor=1e20), gj.Point(0.0, 0.0))
    ...     return gj.Mixture(signal=signal, background=gj.InstrumentBackground(norm=p["norm"]))
    >>> events = gj.simulate(jax.random.key(0), model({"mass": 2.0, "sigma_v": 0.0, "norm": 1.0}), run)
    >>> priors = {"mass": dist.LogUniform(0.6, 20.0), "sigma_v": dist.Uniform(0.0, 1e3), "norm": dist.Uniform(0.5, 2.0)}
    >>> posterior = gj.Posterior(model, priors, run, events, per_decade=20.0)
    >>> found = gj.limits(posterior, values=[1.0, 5.0], log10_j_error=0.2)
    >>> found.channels, bool((found.limit > found.best).all()), bool((found.limit < 1e-20).all())
    (('b', 'b'), True, True)
    """
    check_choice(level, nuisance)
    check_error(log10_j_error)
    with Progress(progress, f"limits on {scale}", DELAY):
        data, asimov = (None, posterior) if isinstance(posterior, Asimov | Forecast) else (posterior, expected)
        asimov = asimov.asimov if isinstance(asimov, Forecast) else asimov
        one = asimov if data is None else data
        values = np.atleast_1d(np.asarray(values, np.float64))
        model = getattr(getattr(one, "posterior", one), "model", None)
        _check_parameters(one, scale, along, values)
        named = channels if isinstance(channels, dict) else {_channel(model, one, channels): {}}
        settings, labels = [], []
        for label, chosen in named.items():
            if not isinstance(chosen, dict):
                raise ValueError(f"channels are {{label: {{parameter: value}}}}, or one label, not {channels!r}")
            for value in values:
                settings.append({**{name: np.asarray(at, float) for name, at in chosen.items()}, along: value})
                labels.append(label)
        if len({tuple(sorted(setting)) for setting in settings}) > 1:
            raise ValueError(f"all channels must give values to the same parameters: {channels!r}")
        size = float(np.asarray(quantile(one.priors[scale], 0.84)))
        there = [{**_middle(one), **setting, scale: jnp.asarray(size)} for setting in settings]
        _check_proportional(one, there[0], scale)
        quantities = [None, None] if model is None else [find_quantity(model, there, name) for name in (scale, along)]
        factor, mass_factor = (1.0 if quantity is None else quantity.factor for quantity in quantities)
        unit = UNITS.get(quantities[0].field, "") if quantities[0] is not None else ""
        known = _log10_j(model, there) if log10_j is None else float(log10_j)

        def curves(scans: list[Scan]) -> list[LikelihoodCurves]:
            longest = max(len(at.values) for at in scans)
            columns = [
                np.stack([np.pad(array, (0, longest - array.size), constant_values=np.nan) for array in arrays])
                for arrays in ([at.values * factor for at in scans], [at.fall for at in scans])
            ]
            mass = np.array([float(setting[along]) for setting in settings]) * mass_factor
            name = (target, instrument, tuple(labels), mass)
            return [LikelihoodCurves(*name, columns[0], columns[1], known, float(log10_j_error), unit)]

        observed, none, without = [], [], {}
        if data is not None:
            scans, without = scan(data, scale, settings, constraints)
            observed = curves(scans)
        if asimov is not None:
            say("expectation without a signal")
            if not isinstance(asimov, Asimov):
                truths = [{**without, **setting, scale: at[scale]} for setting, at in zip(settings, there, strict=True)]
                asimov = _asimov(asimov, data, truths, points)
            if set(asimov.priors) != set(one.priors):
                raise ValueError(f"the expectation has parameters {sorted(asimov.priors)}, not {sorted(one.priors)}")
            truth = {**asimov.truth, scale: jnp.zeros_like(asimov.truth[scale])}
            # the maximum of an Asimov data set is its truth
            none = curves(scan(asimov.at(truth), scale, settings, constraints, truth)[0])
        return Limits.of(observed, none, level=level, nuisance=nuisance)


def combine(
    *found: Limits | LikelihoodCurves,
    j_factors: dict[str, tuple[float, float]] | None = None,
    level: float | int = 0.95,
    nuisance: str = "profile",
) -> Limits:
    """Limits of several telescopes and targets together: the sum of their ln L, at 95 % CL one-sided (q = 2.71).

    - `found`: [`gammajax.Limits`][] with their curves, or [`gammajax.LikelihoodCurves`][] such as those of files.
      Curves of one target share its J-factor, which is profiled or marginalised once; other targets have their own.
    - `j_factors`: {target: (log10 J, error)} in place of those of the curves; sigma_v J stays.
    - `level`, `nuisance`: as of [`gammajax.limits`][].

    Each channel and mass is of the curves that have it. Nuisances other than J are those of each telescope. There are
    expected limits if all parts have an expectation. Returns [`gammajax.Limits`][].
    Raises `ValueError` for limits without curves, different errors of J for one target, and different units.

    >>> import gammajax as gj, numpy as np
    >>> values = np.linspace(0.0, 16.0, 161)[None] * 1e-24
    >>> one, other = (
    ...     gj.LikelihoodCurves(target, "CTAO", ("b",), np.array([1.0]), values, (values / 2e-24) ** 2, 19.36, 0.2)
    ...     for target in ("Segue1", "Draco")
    ... )
    >>> alone, both = gj.combine(one), gj.combine(one, other)
    >>> bool(both.limit[0] < alone.limit[0])
    True
    """
    curves, asimov, complete = [], [], True
    for part in found:
        if isinstance(part, LikelihoodCurves):
            curves.append(part)
            complete = False
        elif isinstance(part, Limits):
            if not part.curves and not part.asimov:
                raise ValueError(
                    f"the limits from {part.target!r} have no curves: combine those of gammajax.limits or files"
                )
            curves += part.curves
            asimov += part.asimov
            complete &= bool(part.asimov)
        else:
            raise ValueError(f"combine takes gammajax.Limits and gammajax.LikelihoodCurves, not {part!r}")
    if curves and asimov and not complete:
        asimov = []
    j_factors = j_factors or {}
    unknown = set(j_factors) - {one.target for one in [*curves, *asimov]}
    if unknown:
        raise ValueError(f"j_factors has {sorted(unknown)}, which are no targets of these curves")

    def rescaled(some):
        return [one.with_j(*j_factors[one.target]) if one.target in j_factors else one for one in some]

    return Limits.of(rescaled(curves), rescaled(asimov), level=level, nuisance=nuisance)


def check_choice(level: float | int, nuisance: str) -> None:
    """Raise `ValueError` for a level that is none of a limit, or an unknown treatment of J."""
    if not 0.5 < level < 1.0:
        raise ValueError(f"the level of a limit must be between 0.5 and 1, not {level}")
    if nuisance not in NUISANCES:
        raise ValueError(f"nuisance must be one of {list(NUISANCES)}, not {nuisance!r}")


def _rows(curves: list[LikelihoodCurves]) -> list[tuple[str, float]]:
    """Channels and masses of all curves, in order; `ValueError` for curves that do not fit together."""
    if not curves:
        raise ValueError("limits need at least one curve")
    if len({one.unit for one in curves}) > 1:
        raise ValueError(f"curves have different units: {sorted({one.unit for one in curves})}")
    errors: dict[str, float] = {}
    for one in curves:
        if not np.isclose(errors.setdefault(one.target, one.log10_j_error), one.log10_j_error):
            raise ValueError(
                f"the curves of {one.target!r} have errors of log10 J of {errors[one.target]:g} and "
                f"{one.log10_j_error:g}: one target has one J-factor; give j_factors="
            )
    rows: list[tuple[str, float]] = []
    for one in curves:
        for channel, mass in zip(one.channels, one.mass.tolist(), strict=True):
            if not any(channel == name and np.isclose(mass, at, rtol=1e-4) for name, at in rows):
                rows.append((channel, mass))
    order = list(dict.fromkeys(channel for channel, _ in rows))
    return sorted(rows, key=lambda row: (order.index(row[0]), row[1]))


def _grid(some: list[Part]) -> Float[np.ndarray, " value"]:
    """Cross sections from zero to where the strongest of the targets excludes all, with every best fit."""
    best = [value for part in some for value in part.best]
    reach = max(min(part.reach * 10.0 ** (4.0 * part.error) for part in some), 2.0 * max(best))
    if not reach > 0:
        return np.zeros(0)
    return np.unique(np.concatenate([[0.0], np.geomspace(FINEST * reach, reach, GRID), best]))


def _profile(values, fall) -> Profile:
    """The curve relative to its minimum, which may lie between the values."""
    lowest = int(np.argmin(fall))
    best, top = float(values[lowest]), float(fall[lowest])
    if 0 < lowest < values.size - 1:
        x = values[lowest - 1 : lowest + 2] / values[lowest]
        bend, slope, _ = np.polyfit(x - 1.0, fall[lowest - 1 : lowest + 2] - top, 2)
        shift = -slope / (2.0 * bend) if bend > 0 else 0.0
        if x[0] < 1.0 + shift < x[-1]:
            best, top = best * (1.0 + shift), top - slope**2 / (4.0 * bend)
    return Profile("cross section", values, np.maximum(fall - top, 0.0), {}, {}, best, (0.0, np.inf))


def _observed(some: list[Part], level: float | int, nuisance: str) -> tuple[float, float, float, float]:
    """Best fit, TS, limit and Bayesian limit of the sum of targets; NaN without data."""
    if not some:
        return np.nan, np.nan, np.nan, np.nan
    values = _grid(some)
    if not values.size:
        return 0.0, 0.0, np.inf, np.inf
    sums = {
        how: np.sum([with_nuisance(part.fall, values, part.error, how) for part in some], axis=0)
        for how in {nuisance, "marginal"}
    }
    profile = _profile(values, sums[nuisance])
    return (
        profile.best_value,
        float(profile.fall[0]),
        _upper(profile, level),
        _quantile(values, sums["marginal"], level),
    )


def _bands(some: list[Part], level: float | int, nuisance: str) -> list[float]:
    """Expected limits for best fits of N standard deviations."""
    if not some:
        return [np.nan] * len(BANDS)
    values = _grid(some)
    if not values.size:
        return [np.inf] * len(BANDS)

    slopes = [_information(part) for part in some]
    total = np.sqrt(sum(information for information, _ in slopes))

    def limit(number) -> float:
        fall = [
            with_nuisance(
                lambda at, part=part, moved=moved: part.fall(at) - 2.0 * number / total * moved(at),
                values,
                part.error,
                nuisance,
            )
            for part, (_, moved) in zip(some, slopes, strict=True)
        ]
        return _upper(_profile(values, np.sum(fall, axis=0)), level)

    return [limit(number) if total > 0 else np.inf for number in BANDS]


def _information(part: Part) -> tuple[float, Callable[[np.ndarray], np.ndarray]]:
    """Fisher information of the cross section at zero, and Int_0^x q'(u) / (2 u) du, of an expectation of no signal.

    By parts, with g = q / u^2 the integral is x g / 2 + Int_0^x g du / 2; g is a straight line where q is rounded.
    """
    fine = part.reach * np.append(0.0, np.geomspace(1e-4, 30.0, GRID))
    q = np.maximum(part.fall(fine), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        g = q / fine**2
    seen = (q > ROUNDED) & (q < 10.0 * ROUNDED)
    if seen.sum() < 3:
        return 0.0, np.zeros_like
    slope, at_zero = np.polyfit(fine[seen] / part.reach, g[seen] * part.reach**2, 1)
    line = (at_zero + slope * fine / part.reach) / part.reach**2
    g = np.where(fine < fine[seen][0], line, g)
    inside = np.append(0.0, np.cumsum(0.5 * (g[1:] + g[:-1]) * np.diff(fine)))
    moved = 0.5 * (fine * g + inside)
    return float(line[0]), lambda at: np.interp(at, fine, moved)


def _upper(profile: Profile, level: float | int) -> float:
    """The limit, infinite where the curve does not rise enough."""
    limit = profile.upper_limit(level)
    return np.inf if np.isnan(limit) else limit


def _quantile(values, fall, level: float | int) -> float:
    """Value below which the posterior with a flat prior has the probability `level`."""
    if not fall[-1] - fall.min() > SURE:
        return np.inf
    density = np.exp(-0.5 * (fall - fall.min()))
    below = np.append(0.0, np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(values)))
    return float(np.interp(level * below[-1], below, values))


def _check_parameters(posterior, scale: str, along: str, values) -> None:
    """Raise `ValueError` for names that are no parameters, and masses outside the prior."""
    for argument, name in {"scale": scale, "along": along}.items():
        if name not in posterior.priors or np.ndim(centre(posterior.priors[name])):
            known = sorted(posterior.priors)
            raise ValueError(f"{argument}={name!r} must be a parameter that is one number, out of {known}")
    low, high = (float(end) for end in bounds(posterior.priors[along]))
    if values.size == 0 or values.ndim > 1 or not np.all((values >= low) & (values <= high)):
        raise ValueError(f"the values of {along!r} must lie in its prior, {low:g} to {high:g}, not {values.tolist()}")


def _check_proportional(posterior, there: dict, scale: str) -> None:
    """Raise `ValueError` for a mixture likelihood, and for a scale to which the signal is not proportional."""
    inner = getattr(posterior, "posterior", posterior)
    if not hasattr(inner, "expected_counts"):
        return
    if inner.model(inner.reference_parameters).weighted:
        raise ValueError("limits on a cross section need absolute fluxes: make the Mixture without weights")
    none, one, two = (float(_total(inner, {**there, scale: there[scale] * multiple})) for multiple in (0.0, 0.5, 1.0))
    if not abs((two - none) - 2.0 * (one - none)) <= LINEAR * max(abs(two), abs(none)):
        raise ValueError(
            f"the signal is not proportional to {scale!r}: halving it gives {one - none:.4g} events in place of "
            f"{0.5 * (two - none):.4g}; take a parameter that is a factor of the flux"
        )


@eqx.filter_jit
def _total(posterior, parameters) -> Float[Array, ""]:
    return sum((part.sum() for part in posterior.expected_counts(parameters).values()), start=jnp.zeros(()))


def _middle(posterior) -> dict:
    """Centres of the priors."""
    return {name: centre(prior) for name, prior in posterior.priors.items()}


def _asimov(key, posterior, truths: list[dict], points: int) -> Asimov:
    """The expectation at the best fit without a signal, with points of the signals of all masses and channels."""
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"expected must be a jax.random.key, a gammajax.Asimov or a gammajax.Forecast, not {key!r}")
    given = posterior.model, posterior.priors, posterior.observations
    return Asimov.init(key, *given, truths[0], also=tuple(truths[1:]), points=points)


def _emissions(model, there) -> list[list[Emission]]:
    """Spectra of dark matter in the model at each point."""
    leaves = [
        jax.tree.leaves(model(point), is_leaf=lambda part: isinstance(part, Emission)) if model else []
        for point in there
    ]
    return [[part for part in found if isinstance(part, Emission)] for found in leaves]


def _log10_j(model, there) -> float:
    """The J-factor that the model's dark matter has at all points, or NaN."""
    found = {
        round(float(np.log10(np.asarray(part.j_factor, np.float64))), 6)
        for some in _emissions(model, there)
        for part in some
        if isinstance(part, DarkMatter)
    }
    return found.pop() if len(found) == 1 else np.nan


def _channel(model, posterior, given: Any) -> str:
    """The label as given, or the only channel of the model's dark matter."""
    if given is not None:
        if not isinstance(given, str):
            raise ValueError(f"channels are {{label: {{parameter: value}}}}, or one label, not {given!r}")
        return given
    names = {part.channel for found in _emissions(model, [_middle(posterior)]) for part in found}
    name = names.pop() if len(names) == 1 else ""
    return name if isinstance(name, str) else "signal"
