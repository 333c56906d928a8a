"""Factors in time of a source: flares, phase curves, steps and any function.

A source emits phi(E, Omega) f(t). The intensity of an event at t_k has the factor f(t_k), and the expected counts of an
observation its mean over the good time intervals, since the dead time is constant within a run:

    lambda_k -> lambda_k f(t_k),     N_o -> N_o Int_GTI f(t) dt / Int_GTI dt

Functions of time are normalised: their mean over the good time of all observations, weighted with the livetime, is one,
so that the spectrum is the mean flux of the data. Steps in time, and norms of observations, are taken as they are.
"""

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gammajax.common.display import described, document
from gammajax.common.parameters import Scalar, floating, parameter, require_finite, require_positive, scalar

ORDER = 16  # quadrature nodes of each good time interval


class Times(eqx.Module):
    """Times of events and observations, for factors of sources.

    - `time` [day] after `reference` (MJD, TT, a whole day) of every row, and `phase`; None if the events have none.
    - `observation`: index of every row.
    - `nodes` [day] over the good time of every observation, and their `weights`, which add up to one; `start`, `stop`
      [day] of the intervals, of no length where there are fewer. Empty if the observations have none.
    - `livetime` [s].
    """

    reference: Float[Array, ""]
    time: Float[Array, " row"] | None
    phase: Float[Array, " row"] | None
    observation: Int[Array, " row"]
    nodes: Float[Array, "observation node"]
    weights: Float[Array, "observation node"]
    start: Float[Array, "observation interval"]
    stop: Float[Array, "observation interval"]
    livetime: Float[Array, " observation"]

    @classmethod
    def of(cls, observations, time, phase, observation, place: Callable = jnp.asarray) -> "Times":
        """Times of rows, in MJD on the host, relative to the first day; `place` puts rows on their devices."""
        spans = [one.good_time for one in observations if one.good_time is not None]
        known, number = len(spans) == len(observations), len(observations)
        reference = math.floor(min(span.min() for span in spans)) if known else 0.0
        count = max(len(span) for span in spans) if known else 0
        start, stop = np.zeros((number, count)), np.zeros((number, count))
        for run, span in enumerate(spans if known else ()):
            start[run, : len(span)], stop[run, : len(span)] = span[:, 0] - reference, span[:, 1] - reference
            start[run, len(span) :] = stop[run, len(span) :] = span[-1, 1] - reference
        x, weight = np.polynomial.legendre.leggauss(ORDER)
        length = stop - start
        nodes = (start[..., None] + length[..., None] * (0.5 + 0.5 * x)).reshape(number, -1)
        weights = (0.5 * length[..., None] * weight).reshape(number, -1)
        weights = weights / np.maximum(weights.sum(1, keepdims=True), 1e-30)
        dtype = jnp.zeros(()).dtype

        def rows(values):
            return None if values is None else place(np.asarray(values, float).astype(dtype))

        return cls(
            reference=jnp.asarray(reference, dtype),
            time=rows(np.asarray(time) - reference) if known and time is not None else None,
            phase=rows(phase),
            observation=observation,
            nodes=jnp.asarray(nodes, dtype),
            weights=jnp.asarray(weights, dtype),
            start=jnp.asarray(start, dtype),
            stop=jnp.asarray(stop, dtype),
            livetime=jnp.asarray([float(one.livetime) for one in observations]),
        )

    def after(self, mjd) -> Float[Array, "*shape"]:
        """Days of `reference` after other times (MJD); whole days are exact in single precision."""
        whole = np.floor(mjd)
        return (self.reference - whole) - (mjd - whole)

    def known(self) -> Float[Array, " row"]:
        """Times of the rows; raises `ValueError` unless events and observations have times."""
        if self.time is None or not self.start.size:
            raise ValueError(
                "a factor in time needs events with time= and observations with good_time=, as read_gadf gives them; "
                "cells have no times"
            )
        return self.time


class TimeFactor(eqx.Module):
    """Interface of factors in time."""

    normalised: ClassVar[bool] = True
    __repr__, __pdoc__ = described, document

    def __check_init__(self):
        require_finite(self)

    @abc.abstractmethod
    def rows(self, times: Times) -> Float[Array, " row"]:
        """Factor of every row."""

    @abc.abstractmethod
    def observations(self, times: Times) -> Float[Array, " observation"]:
        """Mean factor over the good time of every observation."""

    def factors(self, times: Times) -> tuple[Float[Array, " row"], Float[Array, " observation"]]:
        """Both, normalised if this is a function of time."""
        rows, means = self.rows(times), self.observations(times)
        if not self.normalised:
            return jnp.asarray(rows), jnp.asarray(means)
        mean = (means * times.livetime).sum() / times.livetime.sum()
        return rows / mean, means / mean


class _Function(TimeFactor):
    """A function of the days since `reference`."""

    reference: eqx.AbstractVar[float]

    @abc.abstractmethod
    def __call__(self, day: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Factor at a time [day] after `reference`, before it is normalised."""

    def rows(self, times):
        """Factor of every row."""
        return self(times.known() + times.after(self.reference))

    def observations(self, times):
        """Mean over the nodes of the good time."""
        times.known()
        return (self(times.nodes + times.after(self.reference)) * times.weights).sum(1)


class GaussianFlare(_Function):
    """A Gaussian flare above a constant flux, f(t) = baseline + height exp(-(t - t_0)^2 / 2 width^2), then normalised.

    `time` t_0 [d] after `reference` (MJD, TT), and `width` [d]; `height`, and `baseline=0.0` for the flare alone.
    Raises `ValueError` for a width that is not positive.

    >>> import gammajax as gj, jax.numpy as jnp
    >>> flare = gj.GaussianFlare(0.5, 0.1, 3.0, reference=60000.0)
    >>> flare(jnp.array([0.0, 0.5])).round(2).tolist()
    [1.0, 4.0]
    """

    time: Scalar = parameter("d")
    width: Scalar = parameter("d")
    height: Scalar = parameter("", 1.0)
    baseline: Scalar = parameter("", 1.0)
    reference: float = eqx.field(static=True, default=0.0)

    def __check_init__(self):
        require_positive(self, "width")

    def __call__(self, day):
        """Factor at a time."""
        return self.baseline + self.height * jnp.exp(-0.5 * ((day - self.time) / self.width) ** 2)


class ExponentialFlare(_Function):
    """An exponential flare above a constant flux, f(t) = baseline + height exp(-|t - t_0| / tau), then normalised.

    tau is `rise` [d] before t_0 and `decay` [d] after it, with `time` t_0 [d] after `reference` (MJD, TT); `height`,
    and `baseline=0.0` for the flare alone. The part after t_0 is gammapy's `ExpDecayTemporalModel`.
    Raises `ValueError` for a rise or decay that is not positive.

    >>> import gammajax as gj, jax.numpy as jnp
    >>> flare = gj.ExponentialFlare(0.5, 0.01, 0.1, 3.0, reference=60000.0)
    >>> flare(jnp.array([0.0, 0.5])).round(2).tolist()
    [1.0, 4.0]
    """

    time: Scalar = parameter("d")
    rise: Scalar = parameter("d")
    decay: Scalar = parameter("d")
    height: Scalar = parameter("", 1.0)
    baseline: Scalar = parameter("", 1.0)
    reference: float = eqx.field(static=True, default=0.0)

    def __check_init__(self):
        require_positive(self, "rise", "decay")

    def __call__(self, day):
        """Factor at a time."""
        away = day - self.time
        scale = jnp.where(away < 0, self.rise, self.decay)
        return self.baseline + self.height * jnp.exp(-jnp.abs(away) / scale)


class TimeFunction(_Function):
    """Any positive function of the days after `reference` (MJD, TT), made of functions of jax.numpy.

    `function` may be an `equinox.Module` with parameters, or a closure over them.

    >>> import gammajax as gj, jax.numpy as jnp
    >>> rising = gj.TimeFunction(lambda day: 1.0 + 0.5 * day, reference=60000.0)
    >>> rising(jnp.array([0.0, 1.0])).tolist()
    [1.0, 1.5]
    """

    function: Any
    reference: float = eqx.field(static=True, default=0.0)

    def __call__(self, day):
        """Factor at a time."""
        return self.function(day)


class PhaseCurve(TimeFactor):
    """Steps in phase: `values` in equal bins of phase from 0 to 1, relative to each other.

    The phase is that of the events' own column, with equal exposure in all phases; or with a `period` [d] that of
    (t - `reference`) / period, with `reference` in MJD (TT) and the exposure of the good time.

    >>> import gammajax as gj
    >>> orbit = gj.PhaseCurve([1.0, 2.0, 0.5], period=3.9, reference=60000.0)
    >>> gj.Source(gj.PowerLaw(2.5), gj.Point(0.0, 0.0), time=orbit).time is orbit
    True
    """

    values: Float[Array | np.ndarray, " bin"] = eqx.field(converter=floating)
    period: Scalar | None = eqx.field(converter=lambda value: None if value is None else scalar(value), default=None)
    reference: float = eqx.field(static=True, default=0.0)

    def rows(self, times):
        """Factor of every row."""
        if self.period is None:
            if times.phase is None:
                raise ValueError("a phase curve without a period needs events with phase=")
            return self._at(times.phase)
        return self._at((times.known() + times.after(self.reference)) / self.period)

    def observations(self, times):
        """Mean over the phases of the good time."""
        if self.period is None:
            return jnp.full(times.livetime.shape, self.values.mean())
        shift = times.after(self.reference)
        first, last = ((edge + shift) / self.period for edge in (times.start, times.stop))
        return (self._below(last) - self._below(first)).sum(1) / (last - first).sum(1)

    def _at(self, phase):
        count = self.values.size
        return self.values[jnp.clip((phase % 1.0 * count).astype(jnp.int32), 0, count - 1)]

    def _below(self, phase):
        """Integral from phase zero."""
        count = self.values.size
        part = phase % 1.0 * count
        index = jnp.clip(part.astype(jnp.int32), 0, count - 1)
        before = jnp.concatenate([jnp.zeros(1), jnp.cumsum(self.values)])
        return (jnp.floor(phase) * before[-1] + before[index] + (part - index) * self.values[index]) / count


class SteppedTime(TimeFactor):
    """A factor in each interval of time, for light curves: `norms` of the `intervals` (MJD, TT), last of other times.

    Intervals have a start and a stop each, in order and without overlaps.
    Raises `ValueError` for other intervals, and for another number of norms.

    >>> import gammajax as gj
    >>> steps = gj.SteppedTime([[60000.0, 60000.5], [60000.5, 60001.0]], [1.0, 2.0, 0.5])
    >>> len(steps.intervals)
    2
    """

    normalised: ClassVar[bool] = False
    intervals: tuple[tuple[float, float], ...] = eqx.field(static=True)
    norms: Float[Array | np.ndarray, " norm"] = eqx.field(converter=floating)

    def __init__(self, intervals, norms):
        self.intervals = tuple((float(low), float(high)) for low, high in intervals)
        self.norms = floating(norms)

    def __check_init__(self):
        ends = np.ravel(self.intervals)
        if not ends.size or not np.all(np.diff(ends) >= 0) or not all(low < high for low, high in self.intervals):
            raise ValueError("intervals of time need a start before their stop, in order and without overlaps")
        if self.norms.shape != (len(self.intervals) + 1,):
            raise ValueError(f"{len(self.intervals)} intervals of time need as many norms and one for other times")

    def rows(self, times):
        """Norm of the interval of every row."""
        time, (low, high) = times.known(), -times.after(np.array(self.intervals)).T
        index = jnp.clip(jnp.searchsorted(low, time, side="right") - 1, 0)
        return self.norms[jnp.where((time >= low[index]) & (time < high[index]), index, low.size)]

    def observations(self, times):
        """Mean of the norms over the good time."""
        times.known()
        return good_parts(times, self.intervals) @ self.norms


class PerObservation(TimeFactor):
    """A factor for each observation, for light curves in runs and nights: `norms` in the order of the observations.

    >>> import gammajax as gj
    >>> each = gj.PerObservation([1.0, 1.2, 0.8])
    >>> gj.Source(gj.PowerLaw(2.5), gj.Point(0.0, 0.0), time=each).time is each
    True
    """

    normalised: ClassVar[bool] = False
    norms: Float[Array | np.ndarray, " observation"] = eqx.field(converter=floating)

    def rows(self, times):
        """Norm of the observation of every row."""
        self.observations(times)
        return jnp.asarray(self.norms)[times.observation]

    def observations(self, times):
        """The norms."""
        if self.norms.shape != times.livetime.shape:
            raise ValueError(
                f"a factor for each observation has shape {self.norms.shape}; give {times.livetime.size}, one for each"
            )
        return self.norms


def good_parts(times: Times, intervals) -> Float[Array, "observation part"]:
    """Part of the good time of every observation in each interval (MJD), and last in none."""
    low, high = -times.after(np.array(intervals)).T
    overlap = jnp.minimum(times.stop[..., None], high) - jnp.maximum(times.start[..., None], low)
    inside = jnp.maximum(overlap, 0.0).sum(1) / (times.stop - times.start).sum(1)[:, None]
    return jnp.concatenate([inside, jnp.maximum(1.0 - inside.sum(1), 0.0)[:, None]], axis=1)
