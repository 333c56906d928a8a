"""ON and OFF regions: likelihoods of streams of energies, unbinned with a free background, and binned without one.

A source of flux F in the ON region of run r has the rate of reconstructed energies

s_r(E') = T_r Int F(E) A_r(E) D_r(E'|E) dE   with A_r after the cut on direction (times containment),

the background B(E') of one solid angle has the exposure X_r = T_r Omega_r in the ON region and X_r / alpha_r in the OFF
regions. [`gammajax.OnOff`][] takes every event,

log L = Sum_on log(s_r + X_r B) + Sum_off log(X_r B / alpha_r) - Sum_r Int s_r - Sum_r Int (1 + 1 / alpha_r) X_r B,

[`gammajax.OnOffCounts`][] takes counts in cells of energy and integrates over the background of each cell,

L = Prod_i Int Poisson(n_on | s_i + alpha_i b) Poisson(n_off | b) Gamma(b | shape, rate) db,

which is a finite sum over the number k of background events among the ON counts:

L_i = Sum_k Poisson(n_on - k | s_i) alpha^k Gamma(n_off + k + shape) / (k! n_off! Gamma(shape))
      x rate^shape / (1 + alpha + rate)^(n_off + k + shape)

(Loredo 1992, in "Statistical Challenges in Modern Astronomy", p. 275, for shape = 1 and rate = 0).
"""

import abc
import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer
from numpyro.distributions import MultivariateNormal
from scipy.special import gammaln

from gammajax.common.display import block, document, length, number_of, total, words
from gammajax.engines.detector import Detector
from gammajax.engines.energy import EnergyNodes
from gammajax.engines.rows import PER_DECADE, true_energy_range
from gammajax.events.on_off_run import OnOffRun, as_runs
from gammajax.instrument.observation import Aside
from gammajax.instrument.runs import Runs
from gammajax.likelihood.off_events import background_prior, panels, quadrature, selected_energies, smooth_counts
from gammajax.likelihood.sums import accurate_sum, extended_likelihood, sum_of_logs
from gammajax.likelihood.term import Reference, Setup, Term, require_own_response, seen
from gammajax.model.mixture import Mixture, Source, or_undefined
from gammajax.model.morphology import Point
from gammajax.model.off_background import OffBackground

CHUNK = 2**14  # events whose kernel is made at once
LEAST_SIGNAL = 1e-30
STRENGTH, MOST = 2.0, 5.0  # of the prior of the background of a cell: in observations, and at most in events
INDEX = 3.0  # of the background's power law, to average acceptance ratios that change within a cell


class OnOffTerm(Term):
    """What both likelihoods of ON and OFF regions share: the sources that they see.

    `components`: names of the components that belong to the regions, None for all of the mixture.
    """

    nodes: eqx.AbstractVar[EnergyNodes]
    components: eqx.AbstractVar[tuple[str, ...] | None]
    aside: eqx.AbstractVar[Aside]

    def prepare(self, setup: Setup) -> Term:
        """The term at its reference, with the name of the data set."""
        return setup.referred(self if self.name else _changed(self, name=setup.name))

    def relative_to(self, reference: Reference) -> Term:
        """The same term with other values at its reference."""
        return _changed(self, reference=reference)

    @abc.abstractmethod
    def log_likelihood(self, mixture: Mixture) -> Float[Array, ""]:
        """Value of log L of a mixture with absolute fluxes."""

    @property
    def runs(self) -> tuple[OnOffRun, ...]:
        """The runs."""
        return self.aside.value

    @property
    def energy_range(self) -> tuple[float, float]:
        """Lowest and highest reconstructed energy [TeV] of the selections."""
        return selected_energies(self.runs)

    def own(self, mixture: Mixture, kind: type) -> dict[str, Any]:
        """Components of the mixture of this kind that belong to the regions, by path.

        Raises `ValueError` for a mixture with weights, and for unknown names.
        """
        if mixture.weighted:
            raise ValueError("ON and OFF regions need absolute fluxes: leave out the weights of the mixture")
        mine = mixture if self.components is None else mixture.only(self.components)
        return {path: part for path, part in mine.components.items() if isinstance(part, kind)}

    def fluxes(self, mixture: Mixture) -> dict[str, Float[Array, " energy"]]:
        """Flux [cm^-2 s^-1] of each source in the ON regions at the nodes of true energy.

        Raises `ValueError` as `own` does, and for sources that are not points.
        """
        sources = self.own(mixture, Source)
        for path, source in sources.items():
            require_own_response(path, source)
            if not isinstance(source.morphology, Point):
                kind = type(source.morphology).__name__
                raise ValueError(
                    f"source {path!r} is a {kind}, but the response of an ON region is that of a Point at its centre; "
                    "name the components that belong to the region by components=(...)"
                )
        return {path: or_undefined(source, self.nodes.flux(source.spectrum)) for path, source in sources.items()}


class OnOff(OnOffTerm):
    """Unbinned likelihood of ON and OFF events with a free background (module [`gammajax.likelihood.on_off`][]).

        ln L = Sum_on ln(s(E') + b(E')) + Sum_off ln b(E') - N_s - N_b

    with the rate s of sources in the ON region, and the rate b of the background, which ON and OFF share.

    **Arguments:**

    - `runs`: one [`gammajax.OnOffRun`][] or a list, as `gammajax.io.read_on_off` returns.
    - `components`: those that belong to the regions, by path, or an inner mixture for all in it: sources, which are
      [`gammajax.Point`][]s at the centre of the ON region, and one [`gammajax.OffBackground`][]. By default all of
      these kinds; an [`gammajax.InstrumentBackground`][] belongs to other data.
    - `name` of the data set in messages and figures.
    - `per_decade`: true-energy nodes per decade.
    - `rows`: number of ON and of OFF events with padding, so that data sets of several sizes share programs.

    Raises `ValueError` for ON events without OFF events, and for a response that does not cover the selection.

    >>> import gammajax as gj, jax, numpy as np
    >>> full = gj.io.ctao(pointing=(0.0, 0.0), livetime=3600.0).response
    >>> region = gj.RegionResponse.at(full.effective_area, full.energy_dispersion, full.psf, offset=0.5, radius=0.1)
    >>> run = gj.OnOffRun([], [], 0.2, 3600.0, region, radius=0.1, energy_min=1.0, energy_max=10.0)
    >>> source = gj.Source(gj.PowerLaw(2.5, 3e-11), gj.Point(0.0, 0.0))
    >>> background = gj.OffBackground(5.0 - 2.0 * np.arange(4), energy_min=1.0, energy_max=10.0)
    >>> runs = gj.simulate_on_off(jax.random.key(0), gj.Mixture(source=source, background=background), run)
    >>> data = gj.OnOff(runs)
    >>> faint = gj.Source(gj.PowerLaw(2.5, 1e-13), gj.Point(0.0, 0.0))
    >>> good, bad = (data.log_likelihood(gj.Mixture(source=each, background=background)) for each in (source, faint))
    >>> bool(good > bad)
    True
    """

    nodes: EnergyNodes
    energy: Float[Array, " row"]  # ON events first
    run: Int[Array, " row"]
    exposure: Float[Array, " row"]  # of the background [sr s]
    count: Integer[Array, " row"]  # zero for padding
    kernel: Float[Array, "on energy"]  # [cm^2 s TeV^-1]
    source_exposure: Float[Array, "run energy"]  # [cm^2 s]
    point: Float[Array, " point"]  # of the integral over reconstructed energies [TeV]
    background_exposure: Float[Array, "run point"]  # times its weight [sr s TeV]
    reference: Reference  # rates of the rows, and expected counts
    name: str | None = eqx.field(static=True)
    components: tuple[str, ...] | None = eqx.field(static=True)
    aside: Aside = eqx.field(static=True)  # the runs
    __pdoc__ = document

    def __init__(
        self,
        runs: OnOffRun | Sequence[OnOffRun],
        *,
        components: Sequence[str] | str | None = None,
        name: str | None = None,
        per_decade: float = PER_DECADE,
        rows: tuple[int, int] | None = None,
    ):
        runs = as_runs(runs)
        self.components, self.name, self.aside = seen(components), name, Aside(runs)
        self.nodes = EnergyNodes(*true_energy_range(runs), per_decade)
        stacked = Runs.of(runs)
        detector = Detector.init(stacked, self.nodes, np.zeros(1))
        streams = [(run.on, run.on_exposure) for run in runs] + [(run.off, run.off_exposure) for run in runs]
        energy = np.concatenate([energies for energies, _ in streams])
        exposure = np.concatenate([function(energies) for energies, function in streams])
        number = np.repeat(np.tile(np.arange(len(runs)), 2), [energies.size for energies, _ in streams])
        on = sum(run.on.size for run in runs)
        sizes = (on, energy.size - on) if rows is None else rows
        if sizes[0] < on or sizes[1] < energy.size - on:
            raise ValueError(f"rows {sizes} are too few for {on} ON and {energy.size - on} OFF events")
        # padding repeats an energy, with a count of zero
        index = np.concatenate([np.arange(sizes[0]) % max(on, 1), on + np.arange(sizes[1]) % max(energy.size - on, 1)])
        valid = np.concatenate([np.arange(sizes[0]) < on, np.arange(sizes[1]) < energy.size - on])
        index = np.minimum(index, max(energy.size - 1, 0))
        if energy.size == 0:  # rows of nothing but padding
            energy, exposure, number = np.array([runs[0].energy_min]), np.ones(1), np.zeros(1, int)
        self.energy, self.exposure = jnp.asarray(energy[index]), jnp.asarray(exposure[index])
        self.run, self.count = jnp.asarray(number[index], jnp.int32), jnp.asarray(valid, jnp.int32)
        self.kernel = _kernel(detector, stacked, self.nodes, self.energy[: sizes[0]], self.run[: sizes[0]])
        self.source_exposure = detector.exposure(stacked, self.nodes.energy)[..., 0]
        point, weight = quadrature(runs)
        inside = np.array([(point > run.energy_min) & (point < run.energy_max) for run in runs])
        both = np.array([run.on_exposure(point) + run.off_exposure(point) for run in runs])
        self.point, self.background_exposure = jnp.asarray(point), jnp.asarray(weight * inside * both)
        self.reference = Reference(jnp.ones(self.energy.shape), {})

    @words
    def __repr__(self) -> str:
        """Numbers of events and runs."""
        on, off = sum(run.on.size for run in self.runs), sum(run.off.size for run in self.runs)
        return block(f"OnOff: {on} ON and {off} OFF events in {number_of(len(self.runs), 'run')}, unbinned")

    def background_prior(
        self,
        size: int | None = None,
        scale: float | None = None,
        *,
        energy_range: tuple[float, float] | None = None,
        level: float = 1.0,
        tilt: float = 1.0,
    ) -> MultivariateNormal:
        """Prior of the coefficients of an [`gammajax.OffBackground`][], as smooth as the OFF events are.

        A [`gammajax.smooth_prior`][] about the power law that fits the OFF events best. A background that is not as
        smooth as its prior bends the spectrum of the source without a sign in it; so the OFF events say what they need.

        - `size`: number of coefficients. By default the fewest of 6 to 32 whose evidence, given the OFF events alone,
          is within a factor e of the largest.
        - `scale` of second differences. By default the one of largest evidence times a wide prior about 0.3 h^1.5, with
          h the length of an interval in ln E'.
        - `energy_range` [TeV] of the background, by default `energy_range` of the data.
        - `level`, `tilt` as of [`gammajax.smooth_prior`][].

        Raises `ValueError` for fewer than four coefficients, scales that are not positive, and for energies that do not
        increase.
        """
        return background_prior(self.runs, size, scale, energy_range, level, tilt)

    def refer(self, mixture: Mixture) -> Reference:
        """Rate of each row [TeV^-1], and expected counts of each component in ON and OFF, as the terms of their sums.

        Raises `ValueError` for sources outside the ON region, and for a mixture without the background, or with
        several.
        """
        fluxes, (path, background) = self.fluxes(mixture), self.background(mixture)
        norm = jnp.broadcast_to(background.norm, (self.background_exposure.shape[0],))
        rate = background.rate(jnp.concatenate([self.energy, self.point]))
        density = self.exposure * norm[self.run] * rate[: self.energy.size]
        counts = {path: norm[:, None] * self.background_exposure * rate[self.energy.size :]}
        density, counts = or_undefined(background, (density, counts))
        if fluxes:
            on = self.kernel.shape[0]
            source = self.kernel @ functools.reduce(operator.add, fluxes.values())
            density = jnp.concatenate([density[:on] + source, density[on:]])
        return Reference(density, {path: flux * self.source_exposure for path, flux in fluxes.items()} | counts)

    def log_likelihood(self, mixture: Mixture) -> Float[Array, ""]:
        """Value of log L of a mixture with absolute fluxes."""
        return _log_likelihood(self.refer(mixture), self.count)

    def log_likelihood_ratio(self, mixture: Mixture) -> Float[Array, ""]:
        """Value of log L relative to the reference."""
        now, before = self.refer(mixture), self.reference
        counts = list(now.counts.values()), [before.counts[path] for path in now.counts]
        return extended_likelihood([now.rows], counts[0], before.rows, counts[1], self.count)

    @property
    def log_reference(self) -> Float[Array, ""]:
        """Value of log L at the reference."""
        return _log_likelihood(self.reference, self.count)

    def log_reference_exact(self) -> float:
        """`log_reference` in double precision, on the host."""
        rows = np.asarray(self.reference.rows, np.float64)[np.asarray(self.count) > 0]
        return float(np.log(rows).sum() - sum(np.asarray(c, np.float64).sum() for c in self.reference.counts.values()))

    def expected_counts(self, mixture: Mixture) -> dict[str, Float[Array, " observation"]]:
        """Expected counts in ON and OFF of every run."""
        return {path: part.sum(1) for path, part in self.refer(mixture).counts.items()}

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the runs."""
        return tuple(run.obs_id for run in self.runs)

    def background(self, mixture: Mixture) -> tuple[str, OffBackground]:
        """Path and background of the regions; raises `ValueError` for none or several, and for other runs."""
        found = self.own(mixture, OffBackground)
        if len(found) != 1:
            raise ValueError(
                f"ON and OFF regions need one OffBackground; the mixture has {', '.join(found) or 'none'}: name the "
                "components that belong to the regions by components=(...)"
            )
        (path, background), number = next(iter(found.items())), self.background_exposure.shape[0]
        shape = jnp.shape(background.norm)
        if shape not in ((), (number,)):
            raise ValueError(f"the norm of {path!r} has shape {shape}; give one number, or {number}, one for each run")
        return path, background


class OnOffCounts(OnOffTerm):
    """Likelihood of ON and OFF counts in cells of energy, integrated over the background of each cell.

        L = Prod_i Int Poisson(n_on | s_i + r_i b_i) Poisson(n_off | b_i) Gamma(b_i) db_i

    with n_on, n_off counts in cell i, s_i expected counts of the sources, and the ratio r_i of the acceptances.

    **Arguments:**

    - `runs`, `components`, `name`, `per_decade` as of [`gammajax.OnOff`][].
    - `edges` [TeV]: of the cells in reconstructed energy. Cells take the part that each run selects.
    - `shape`, `rate`: of the Gamma prior of the expected OFF counts of each cell; a number, or one for each cell.
      The default is about the counts m of the smooth background that fits all OFF events best, as in
      `OnOff.background_prior`, and worth 2 m events, at most five: rate = min(2, 5 / max(m, n_off)) and shape = m rate.
      Its information does not grow with the number of cells, and where counts are large the data decide. A constant
      shape (1/2 of Jeffreys' prior, 1 of a flat one) puts background into every empty cell: many cells then hide a
      faint signal.
    - `by_run`: cells of each run, with a background of its own. By default runs share the background of a solid angle,
      as in the unbinned likelihood, and their counts are added.

    The mixture needs no background. Raises `ValueError` for edges that do not increase or hold no events of the
    selection, for shapes that are not positive, and for rates that are negative.

    >>> import gammajax as gj, jax, numpy as np
    >>> full = gj.io.ctao(pointing=(0.0, 0.0), livetime=3600.0).response
    >>> region = gj.RegionResponse.at(full.effective_area, full.energy_dispersion, full.psf, offset=0.5, radius=0.1)
    >>> run = gj.OnOffRun([], [], 0.2, 3600.0, region, radius=0.1, energy_min=1.0, energy_max=10.0)
    >>> source = gj.Source(gj.PowerLaw(2.5, 3e-11), gj.Point(0.0, 0.0))
    >>> background = gj.OffBackground(5.0 - 2.0 * np.arange(4), energy_min=1.0, energy_max=10.0)
    >>> runs = gj.simulate_on_off(jax.random.key(0), gj.Mixture(source=source, background=background), run)
    >>> data = gj.OnOffCounts(runs, edges=[1.0, 3.0, 10.0])
    >>> bool(data.log_likelihood(gj.Mixture(source=source)) < 0.0)
    True
    """

    nodes: EnergyNodes
    on: Integer[np.ndarray, " cell"]
    off: Integer[np.ndarray, " cell"]
    ratio: Float[np.ndarray, " cell"]
    kernel: Float[Array, "cell energy"]  # [cm^2 s]
    cell: Int[Array, " term"]  # terms of the sums over k, those of all cells after one another
    power: Float[Array, " term"]  # n_on - k
    log_coefficient: Float[Array, " term"]  # less the largest of the cell
    log_largest: Float[Array, " cell"]
    count: Integer[Array, " cell"]  # of ON and OFF
    reference: Reference  # ln of the probability of every term of a cell, and expected counts
    name: str | None = eqx.field(static=True)
    components: tuple[str, ...] | None = eqx.field(static=True)
    aside: Aside = eqx.field(static=True)  # the runs
    __pdoc__ = document

    def __init__(
        self,
        runs: OnOffRun | Sequence[OnOffRun],
        edges,
        *,
        shape=None,
        rate=None,
        by_run: bool = False,
        components: Sequence[str] | str | None = None,
        name: str | None = None,
        per_decade: float = PER_DECADE,
    ):
        runs, edges = as_runs(runs), np.asarray(edges, np.float64)
        if edges.ndim != 1 or edges.size < 2 or not np.all(edges > 0) or np.any(np.diff(edges) <= 0):
            raise ValueError(f"the edges of the cells must be positive and increasing energies [TeV], not {edges}")
        self.components, self.name, self.aside = seen(components), name, Aside(runs)
        self.nodes = EnergyNodes(*true_energy_range(runs), per_decade)
        stacked = Runs.of(runs)
        detector = Detector.init(stacked, self.nodes, np.zeros(1))
        kernel = binned_kernel(detector, stacked, self.nodes, jnp.asarray(edges))
        streams = [run.on for run in runs], [run.off for run in runs]
        on, off = (np.array([np.histogram(events, edges)[0] for events in stream]) for stream in streams)
        exposures = np.array([_mean_exposures(run, edges) for run in runs])  # run, ON or OFF, cell
        # not needed where the prior is given
        smooth = smooth_counts(runs, edges) if shape is None or rate is None else np.ones_like(off, float)
        if not by_run:
            on, off, exposures, smooth = (column.sum(0)[None] for column in (on, off, exposures, smooth))
            kernel = kernel.sum(0)[None]
        exposed = exposures[:, 0] > 0
        if not exposed.any():
            raise ValueError(f"no run selects energies of the cells, {edges[0]:g} to {edges[-1]:g} TeV")
        self.on, self.off = on[exposed], off[exposed]
        self.ratio = exposures[:, 0][exposed] / exposures[:, 1][exposed]
        self.kernel = kernel[exposed]
        least = np.maximum(smooth, np.finfo(float).tiny)
        rate = np.minimum(STRENGTH, MOST / np.maximum(least, off)) if rate is None else np.asarray(rate, np.float64)
        shape = least * rate if shape is None else np.asarray(shape, np.float64)
        if not np.all(shape > 0) or not np.all(np.greater_equal(rate, 0)):
            raise ValueError(f"the Gamma prior needs shapes above zero and rates from zero on, not {shape} and {rate}")
        shape, rate = (np.broadcast_to(v, exposed.shape)[exposed] for v in (shape, rate))
        self.cell, self.power, self.log_coefficient, self.log_largest = _terms(
            self.on, self.off, self.ratio, shape, rate
        )
        self.count, self.reference = jnp.asarray(self.on + self.off), Reference(self.log_coefficient, {})

    @words
    def __repr__(self) -> str:
        """Numbers of counts and cells."""
        return block(
            f"OnOffCounts: {total(self.on)} ON and {total(self.off)} OFF counts in {number_of(length(self.on), 'cell')}"
        )

    def signals(self, mixture: Mixture) -> dict[str, Float[Array, " cell"]]:
        """Expected ON counts of each source. Raises `ValueError` for sources outside the ON region."""
        return {path: self.kernel @ flux for path, flux in self.fluxes(mixture).items()}

    def log_likelihood(self, mixture: Mixture) -> Float[Array, ""]:
        """Value of log L of a mixture with absolute fluxes.

        Improper priors (`rate` = 0) have no constant: rate^shape / Gamma(shape) is left out.
        """
        return accurate_sum(self.cell_values(self._sum(self.signals(mixture))))

    def cell_values(self, signal: Float[Array, " cell"]) -> Float[Array, " cell"]:
        """Value of log L_i of each cell at these expected ON counts of the sources."""
        return self._log_sum(_log(signal), self.log_coefficient) + self.log_largest - signal

    def log_likelihood_ratio(self, mixture: Mixture) -> Float[Array, ""]:
        """Value of log L relative to the reference."""
        now, before = self._sum(self.signals(mixture)), self._before
        # the sum over k of probabilities at the reference times (s / s_ref)^(n_on - k)
        return accurate_sum(self._log_sum(_log(now) - _log(before), self.reference.rows) - (now - before))

    @property
    def log_reference(self) -> Float[Array, ""]:
        """Value of log L at the reference."""
        return accurate_sum(self.cell_values(self._before))

    def log_reference_exact(self) -> float:
        """`log_reference`; its terms are few."""
        return float(self.log_reference)

    def refer(self, mixture: Mixture) -> Reference:
        """Logarithm of the probability of every number of background events, and expected counts of the sources."""
        signals = self.signals(mixture)
        log_signal = _log(self._sum(signals))
        value = self._powers(log_signal) + self.log_coefficient
        probability = value - self._log_sum(log_signal, self.log_coefficient)[self.cell]
        return Reference(probability, {path: part[None] for path, part in signals.items()})

    def expected_counts(self, mixture: Mixture) -> dict[str, Float[Array, " observation"]]:
        """Expected ON counts of every source, of all runs together."""
        return {path: part.sum()[None] for path, part in self.signals(mixture).items()}

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of the data set: counts of its runs are added."""
        return (self.name or "counts",)

    @property
    def _before(self) -> Float[Array, " cell"]:
        return self._sum({path: part[0] for path, part in self.reference.counts.items()})

    def _sum(self, signals) -> Float[Array, " cell"]:
        return functools.reduce(operator.add, signals.values(), jnp.zeros(self.on.shape))

    def _powers(self, log_signal) -> Float[Array, " term"]:
        return jnp.where(self.power > 0, self.power * log_signal[self.cell], 0.0)

    def _log_sum(self, log_signal, log_coefficient) -> Float[Array, " cell"]:
        """Value of log Sum_k exp(log_coefficient) signal^(n_on - k) of each cell."""
        number = self.on.size
        value = self._powers(log_signal) + log_coefficient
        peak = jax.lax.stop_gradient(jax.ops.segment_max(value, self.cell, number, indices_are_sorted=True))
        scaled = jnp.exp(value - peak[self.cell])
        return peak + jnp.log(jax.ops.segment_sum(scaled, self.cell, number, indices_are_sorted=True))


def _log(signal):
    """Logarithm of a number that may be zero: its smallest value keeps gradients of its exponential right there.

    Projections of dispersions undershoot zero next to nothing.
    """
    return jnp.log(jnp.where(signal >= 0, signal, 0.0) + LEAST_SIGNAL)


def _changed(term: OnOffTerm, **fields) -> Any:
    """A copy with other fields: `dataclasses.replace` would call the constructor, which takes runs."""
    copy = object.__new__(type(term))
    for field in dataclasses.fields(term):
        object.__setattr__(copy, field.name, fields.get(field.name, getattr(term, field.name)))
    return copy


def _log_likelihood(values: Reference, count) -> Float[Array, ""]:
    total = sum((part.sum() for part in values.counts.values()), start=jnp.zeros(()))
    return sum_of_logs(values.rows, jnp.ones_like(values.rows), count) - total


def _kernel(detector, stacked, nodes, energy, run):
    """Livetime x area x dispersion [cm^2 s TeV^-1] of events at the nodes."""
    if energy.size == 0:
        return jnp.zeros((0, nodes.energy.size))
    size = min(CHUNK, energy.size)
    chunks = -(-energy.size // size)
    pad = (0, chunks * size - energy.size)
    energy, run = (jnp.pad(column, pad, mode="edge").reshape(chunks, size) for column in (energy, run))
    kernel = jnp.concatenate([_chunk(detector, stacked, nodes, *chunk) for chunk in zip(energy, run, strict=True)])
    return kernel[: kernel.shape[0] - pad[1]]


@eqx.filter_jit
def _chunk(detector, stacked, nodes, energy, run):
    size, number = nodes.energy.size, energy.size
    node = jnp.broadcast_to(jnp.arange(size), (number, size))
    energy_true = jnp.broadcast_to(nodes.energy, (number, size))
    first = jnp.zeros(number, jnp.int32)
    kernel = detector(stacked.response[run], energy[:, None], node, energy_true, first, 1)[:, 0]
    return stacked.livetime[run][:, None] * kernel


@eqx.filter_jit
def binned_kernel(detector, stacked, nodes, edges) -> Float[Array, "run cell energy"]:
    """Livetime x area x probability of a reconstructed energy in each cell that the run selects [cm^2 s]."""

    def one(run):
        limits = jnp.clip(edges, stacked.energy_min[run], stacked.energy_max[run])
        one_run = eqx.tree_at(
            lambda r: (r.livetime, r.response, r.energy_min, r.energy_max),
            stacked,
            (
                jnp.broadcast_to(stacked.livetime[run], limits[1:].shape),
                jnp.broadcast_to(stacked.response[run], limits[1:].shape),
                limits[:-1],
                limits[1:],
            ),
        )
        return detector.exposure(one_run, nodes.energy)[..., 0]

    return jax.lax.map(one, jnp.arange(stacked.response.size))


def _mean_exposures(run: OnOffRun, edges) -> np.ndarray:
    """Background exposures of ON and OFF [sr s] in the part of each cell that the run selects, [2, cell].

    Means over a power law; ratios of two cells of one run are exact where its acceptance ratio does not change.
    """
    point, weight = panels(np.clip(edges, run.energy_min, run.energy_max))
    weight = weight * point**-INDEX
    whole = (edges[:-1] ** (1.0 - INDEX) - edges[1:] ** (1.0 - INDEX)) / (INDEX - 1.0)
    return np.array([(weight * e).sum(1) / whole for e in (run.on_exposure(point), run.off_exposure(point))])


def _terms(on, off, ratio, shape, rate):
    """Cell, power of the signal and log coefficient of every term of the sums over k, and the largest of each cell."""
    cell = np.repeat(np.arange(on.size), on + 1)
    k = np.concatenate([np.arange(n + 1) for n in on])
    power, n_off = on[cell] - k, off[cell]
    a, r, alpha = shape[cell], rate[cell], ratio[cell]
    value = k * np.log(alpha) - gammaln(k + 1) - gammaln(power + 1) + gammaln(n_off + k + a) - gammaln(n_off + 1)
    value -= (n_off + k + a) * np.log1p(alpha + r)
    value += np.where(r > 0, a * np.log(np.where(r > 0, r, 1.0)) - gammaln(a), 0.0)
    largest = np.full(on.size, -np.inf)
    np.maximum.at(largest, cell, value)
    return (
        jnp.asarray(cell, jnp.int32),
        jnp.asarray(power, float),
        jnp.asarray(value - largest[cell]),
        jnp.asarray(largest),
    )
