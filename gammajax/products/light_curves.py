"""Light curves: the flux of a component times a free factor in each run, night, bin or block, with their covariance."""

from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float
from scipy.stats import chi2

from gammajax.common.display import block, document, extent, number_of, words
from gammajax.common.progress import DELAY, Progress
from gammajax.likelihood import UnbinnedTerm
from gammajax.model.mixture import Source
from gammajax.model.temporal import PerObservation, SteppedTime, Times, good_parts
from gammajax.products.norms import LEAST, Points, estimate
from gammajax.products.spectral_points import check_source, parameters_of, reference_fluxes, with_norms
from gammajax.samplers import fit

FALSE_ALARM = 0.01  # of Bayesian blocks: probability of a change too many


class LightCurve(Points):
    """Light curve of a component, from [`gammajax.light_curve`][].

    - `time_min`, `time_max` (MJD, TT) of the bins: the first start and the last stop of the good time in them.
    - `norm`: factor on the reference flux; `norm_errn`, `norm_errp`, `norm_ul`, `ts`, `covariance`, `norm_scan`,
      `stat_scan`, `stat`, `n_sigma`, `n_sigma_ul`, `npred`, `component`, `components` and `messages` as of
      [`gammajax.FluxPoints`][].
    - `livetime` [s] of the bins; `labels` of runs, or empty texts.
    - `flux_ref` [cm^-2 s^-1] between `energy_range` [TeV]: that of the fit to all times.
    - `dnde_ref` [TeV^-1 cm^-2 s^-1] at the geometric mean of the range, `eflux_ref` [TeV cm^-2 s^-1].

    >>> import gammajax as gj, numpy as np
    >>> one, none = np.ones(2), np.zeros((2, 0))
    >>> curve = gj.LightCurve(
    ...     "source", 60000.0 + one, 60000.5 + one, 1800.0 * one, (), np.array([0.9, 1.1]), 0.1 * one, 0.1 * one,
    ...     one, one, np.eye(2) / 100.0, none, none, one, (1.0, 10.0), 1e-12, 1e-12, 1e-12,
    ... )
    >>> round(curve.constancy()[0], 3)
    2.0
    """

    component: str = eqx.field(static=True)
    time_min: Float[np.ndarray, " point"]
    time_max: Float[np.ndarray, " point"]
    livetime: Float[np.ndarray, " point"]
    labels: tuple[str, ...] = eqx.field(static=True)
    norm: Float[np.ndarray, " point"]
    norm_errn: Float[np.ndarray, " point"]
    norm_errp: Float[np.ndarray, " point"]
    norm_ul: Float[np.ndarray, " point"]
    ts: Float[np.ndarray, " point"]
    covariance: Float[np.ndarray, "point point"]
    norm_scan: Float[np.ndarray, "point value"]
    stat_scan: Float[np.ndarray, "point value"]
    npred: Float[np.ndarray, " point"]
    energy_range: tuple[float, float]
    flux_ref: float
    dnde_ref: float
    eflux_ref: float
    stat: float = np.nan
    n_sigma: float = 1.0
    n_sigma_ul: float = 2.0
    messages: tuple[str, ...] = ()
    components: tuple[str, ...] = eqx.field(static=True, default=())
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Bins, the mean flux and the test of a constant."""
        statistic, degrees, probability = self.constancy()
        return block(
            f"LightCurve of {self.component}: {number_of(self.norm.size, 'bin')}, MJD "
            f"{extent(np.append(self.time_min, self.time_max))}",
            f"flux {extent(self.norm * self.flux_ref, 'cm^-2 s^-1')}, {self.energy_range[0]:.3g} to "
            f"{self.energy_range[1]:.3g} TeV",
            f"constant flux: chi-square {statistic:.1f} for {degrees} degrees of freedom, p = {probability:.2g}",
            *self.messages,
        )

    @property
    def flux(self) -> Float[np.ndarray, " point"]:
        """Flux [cm^-2 s^-1] in the energy range."""
        return self.norm * self.flux_ref

    def constancy(self) -> tuple[float, int, float]:
        """Chi-square of a constant flux with the full covariance, degrees of freedom and p-value.

        The constant is the mean weighted with the inverse covariance.
        """
        inverse = np.linalg.inv(self.covariance)
        away = self.norm - inverse.sum(0) @ self.norm / inverse.sum()
        statistic, degrees = float(away @ inverse @ away), self.norm.size - 1
        return statistic, degrees, float(chi2.sf(statistic, degrees)) if degrees else 1.0

    def summary(self):
        """Table (`pandas.DataFrame`) of the bins: times (MJD), flux [cm^-2 s^-1] with errors, limits, significance."""
        import pandas

        columns = {"time_min": self.time_min, "time_max": self.time_max, "livetime": self.livetime, "flux": self.flux}
        columns |= {"errn": self.norm_errn * self.flux_ref, "errp": self.norm_errp * self.flux_ref}
        columns |= {"ul": self.norm_ul * self.flux_ref, "sqrt_ts": self.sqrt_ts, "npred": self.npred}
        return pandas.DataFrame(columns, index=list(self.labels) if any(self.labels) else None)

    def to_gammapy(self):
        """The light curve as gammapy's `FluxPoints` with an axis of time."""
        from gammajax.io.flux_points import light_curve_to_gammapy

        return light_curve_to_gammapy(self)

    def plot(
        self,
        ax=None,
        *,
        others: dict[str, "LightCurve"] | None = None,
        time_unit: str = "d",
        energy_unit: str = "TeV",
    ):
        """Draw the flux against time, with limits as arrows and the weighted mean; returns the axes.

        `others`: more light curves by label. `time_unit`: MJD, or d, h, min and s from the start of the first day.
        `energy_unit` of the range of the flux: eV, keV, MeV, GeV, TeV, PeV or erg. Raises `ValueError` for another
        unit.
        """
        from gammajax.plots.points import plot_light_curve

        return plot_light_curve(self, ax, others or {}, time_unit=time_unit, energy_unit=energy_unit)


def light_curve(
    posterior,
    component: str,
    edges: Any = "runs",
    *,
    energy_range: tuple | None = None,
    best: Any = None,
    n_sigma: float = 1.0,
    n_sigma_ul: float = 2.0,
    progress: bool = True,
) -> LightCurve:
    """Light curve of a source: its flux times a free factor in each bin of time, all free together.

    - `posterior`: a [`gammajax.Posterior`][]; `component`: path of the source.
    - `edges`: "runs", one bin for each observation; "nights", from noon to noon of UTC; "blocks", Bayesian blocks of
      all events (Scargle et al. 2013, arXiv:1207.5578, by astropy); or edges (MJD, TT), or pairs of starts and stops.
    - `energy_range` [TeV] of the fluxes; by default that of the events.
    - `best`, `n_sigma`, `n_sigma_ul`, `progress`: as of [`gammajax.flux_points`][].

    The spectrum stays that of `best`, and so do parameters that nothing else depends on; all others are free, together
    with all factors. Runs without good time in a bin count nothing in it; times in no bin have a free factor of their
    own. Runs and nights work without times of events, and on cells.

    Returns a [`gammajax.LightCurve`][].
    Raises `ValueError` for a mixture likelihood, a component that is no source, other data than events, bins without
    expected events, and events without times where bins need them.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> runs = [
    ...     gj.io.ctao(pointing=(0.0, lat), livetime=1800.0, energy_range=(1.0, 5.0), offset_max=1.0)
    ...     for lat in (-0.5, 0.5)
    ... ]
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.5, 1e-11 * p["flux"]), gj.Point(0.0, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground())
    >>> events = gj.simulate(jax.random.key(0), model({"flux": 1.0}), runs)
    >>> posterior = gj.Posterior(model, {"flux": dist.Uniform(0.0, 5.0)}, runs, events, per_decade=20.0)
    >>> curve = gj.light_curve(posterior, "source", "runs")
    >>> curve.constancy()[2] > 1e-3
    True
    """
    with Progress(progress, f"light curve of {component}", DELAY):
        return _light_curve(posterior, component, edges, energy_range, best, n_sigma, n_sigma_ul)


def _light_curve(posterior, component, edges, energy_range, best, n_sigma, n_sigma_ul) -> LightCurve:
    check_source(posterior, component, "light curves", spectrum=False)
    term = posterior.terms[0]
    if len(posterior.terms) > 1 or not isinstance(term, UnbinnedTerm):
        raise ValueError("a light curve is of a single data set of events")
    if edges is not None and not isinstance(edges, str):
        edges = np.asarray(edges, np.float64)
    observations = term.observations
    bins = _bins(edges, term)
    best = fit(posterior, progress=False) if best is None else best
    at = parameters_of(posterior, best)
    reference = posterior.model(at).components[component].spectrum

    def change(source: Source, norms) -> Source:
        if bins.intervals is None:
            factor = PerObservation(norms[bins.owner])
        else:
            factor = SteppedTime(bins.intervals, norms[bins.owner])
        return Source(reference, source.morphology, source.response, factor)

    number = bins.number + bins.outside
    scaled, start, each = with_norms(posterior, component, change, at, number)
    low = np.flatnonzero(~(each[: bins.number] > LEAST))
    if low.size:
        raise ValueError(f"bin {low[0]} of time expects {max(each[low[0]], 0.0):.2g} events of {component!r}")
    columns: dict[str, Any] = {**estimate(scaled, start, each, bins.number, n_sigma, n_sigma_ul)._asdict()}
    span = np.array(term.energy_range if energy_range is None else energy_range, float)
    columns |= {name: float(value[0]) for name, value in reference_fluxes(reference, span).items()}
    return LightCurve(
        component=component,
        time_min=bins.time_min,
        time_max=bins.time_max,
        livetime=bins.livetime,
        labels=tuple(one.obs_id for one in observations) if isinstance(edges, str) and edges == "runs" else (),
        **columns,
        npred=columns["norm"] * each[: bins.number],
        energy_range=(float(span[0]), float(span[1])),
        n_sigma=float(n_sigma),
        n_sigma_ul=float(n_sigma_ul),
        components=tuple(posterior.model(at).components),
    )


class _Bins(NamedTuple):
    """Bins of time: `intervals` (MJD), or None for bins of whole observations.

    `owner`: norm of each observation, or of each interval and of all other times. `outside`: whether those have a norm
    of their own, after those of the bins.
    """

    number: int
    owner: np.ndarray
    intervals: Any
    outside: int
    time_min: np.ndarray
    time_max: np.ndarray
    livetime: np.ndarray


def _bins(edges, term) -> _Bins:
    observations = term.observations
    livetime = np.array([float(one.livetime) for one in observations])
    spans = [one.good_time for one in observations]
    known = all(span is not None for span in spans)
    if isinstance(edges, str) and edges in ("runs", "nights"):
        if edges == "nights" and not known:
            raise ValueError("nights need observations with good_time=, as read_gadf gives them")
        night = [0.0 if span is None else np.floor(span.min() - 0.5) for span in spans]
        owner = np.arange(len(spans)) if edges == "runs" else np.unique(night, return_inverse=True)[1]
        number = int(owner.max()) + 1
        ends = np.full((2, number), np.nan)
        for i in range(number if known else 0):
            mine = np.concatenate([span for span, of in zip(spans, owner, strict=True) if of == i])
            ends[:, i] = mine.min(), mine.max()
        return _Bins(number, owner, None, 0, ends[0], ends[1], np.bincount(owner, livetime))
    term.times.known()
    if isinstance(edges, str):
        if edges != "blocks":
            raise ValueError(f"edges must be 'runs', 'nights', 'blocks', edges or intervals (MJD), not {edges!r}")
        edges = _blocks(term.times, np.asarray(term.count))
    intervals = np.stack([edges[:-1], edges[1:]], 1) if edges.ndim == 1 else edges
    if (
        intervals.ndim != 2
        or intervals.shape[1] != 2
        or not np.all(np.diff(intervals.ravel()) >= 0)
        or not np.all(intervals[:, 0] < intervals[:, 1])
    ):
        raise ValueError("bins of time need increasing edges, or starts and stops in order (MJD)")
    parts = np.asarray(good_parts(term.times, tuple(map(tuple, intervals))), np.float64)
    lived = livetime @ parts
    empty = np.flatnonzero(lived[:-1] < 1e-6 * livetime.sum())
    if empty.size:
        raise ValueError(
            f"there is no good time in the bin from MJD {intervals[empty[0], 0]:.5f} to {intervals[empty[0], 1]:.5f}"
        )
    outside = int(lived[-1] > 1e-5 * livetime.sum())
    number = len(intervals)
    owner = np.append(np.arange(number), number if outside else 0)
    good = np.concatenate(spans)
    ends = np.empty((2, number))
    for i, (low, high) in enumerate(intervals):
        mine = np.clip(good, low, high)
        mine = mine[mine[:, 0] < mine[:, 1]]
        ends[:, i] = mine.min(), mine.max()
    return _Bins(number, owner, tuple(map(tuple, intervals)), outside, ends[0], ends[1], lived[:-1])


def _blocks(times: Times, count) -> np.ndarray:
    """Edges (MJD) of Bayesian blocks of the events, in the time without the gaps between good times."""
    from astropy.stats import bayesian_blocks

    start, stop = (np.asarray(edge, np.float64).ravel() for edge in (times.start, times.stop))
    order = np.argsort(start)
    start, stop = start[order][(stop > start)[order]], stop[order][(stop > start)[order]]
    before = np.append(0.0, np.cumsum(stop - start))
    day = np.sort(np.asarray(times.known(), np.float64)[count > 0])
    run = np.clip(np.searchsorted(start, day, side="right") - 1, 0, start.size - 1)
    live = before[run] + np.clip(day - start[run], 0.0, stop[run] - start[run])
    edges = bayesian_blocks(np.unique(live), fitness="events", p0=FALSE_ALARM)
    run = np.clip(np.searchsorted(before, edges[1:-1], side="right") - 1, 0, start.size - 1)
    inner = start[run] + edges[1:-1] - before[run]
    return float(times.reference) + np.concatenate([[start[0] - 1e-6], inner, [stop[-1] + 1e-6]])
