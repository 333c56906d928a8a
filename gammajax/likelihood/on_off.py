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
from gammajax.engines.energy import EnergyNodes
from gammajax.engines.kernel import free_fields
from gammajax.engines.region import Changes, Region
from gammajax.engines.rows import PER_DECADE, true_energy_range
from gammajax.events.on_off_run import OnOffRun, as_runs
from gammajax.instrument.observation import Aside
from gammajax.instrument.runs import Runs
from gammajax.likelihood.off_events import background_prior, panels, quadrature, selected_energies, smooth_counts
from gammajax.likelihood.sums import accurate_sum, extended_likelihood, sum_of_logs
from gammajax.likelihood.term import Reference, Setup, Term, require_energies_alone, seen
from gammajax.model.mixture import Mixture, Source, or_undefined
from gammajax.model.morphology import Point
from gammajax.model.off_background import OffBackground
from gammajax.model.response_change import DISPERSION

LEAST_SIGNAL = 1e-30
STRENGTH, MOST = 2.0, 5.0  # of the prior of the background of a cell: in observations, and at most in events
INDEX = 3.0  # of the background's power law, to average acceptance ratios that change within a cell


class OnOffTerm(Term):
    """What both likelihoods of ON and OFF regions share: the sources that they see.

    `components`: names of the components that belong to the regions, None for all of the mixture. `region`: responses
    of the runs; `kernels`: what the term keeps of sources whose energy scale and resolution are not those of the files,
    but fixed, by path.
    """

    region: eqx.AbstractVar[Region]
    kernels: eqx.AbstractVar[dict[str, Any]]
    components: eqx.AbstractVar[tuple[str, ...] | None]
    aside: eqx.AbstractVar[Aside]

    def prepare(self, setup: Setup) -> Term:
        """The term at its reference, with the name of the data set."""
        explored = setup.explored
        kernels = {}
        every = [self.sources(mixture) for mixture in (explored.mixture, *explored.variants)]
        for path, source in every[0].items():
            changes = self.region.changes(source.response)
            free = free_fields(source, [sources[path] for sources in every[1:]])
            if changes is not None and not set(free) & set(DISPERSION):
                kernels[path] = self.keep(changes)
        return setup.referred(_changed(self, name=self.name or setup.name, kernels=kernels))

    @abc.abstractmethod
    def keep(self, changes: Changes) -> Any:
        """What the term keeps of a source with fixed changes."""

    @property
    def nodes(self) -> EnergyNodes:
        """Nodes of true energy."""
        return self.region.nodes

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

    def sources(self, mixture: Mixture) -> dict[str, Source]:
        """Sources in the ON regions, by path.

        Raises `ValueError` as `own` does, for sources that are not points, that change in time, and for a change of the
        response in directions.
        """
        sources = self.own(mixture, Source)
        for path, source in sources.items():
            require_in_region(path, source)
        return sources


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

    region: Region
    kernels: dict[str, tuple[Array, Array]]  # as `kernel` and `source_exposure`
    energy: Float[Array, " row"]  # ON events first
    run: Int[Array, " row"]
    exposure: Float[Array, " row"]  # of the background [sr s]
    count: Integer[Array, " row"]  # zero for padding
    limits: Float[Array, "run end"]  # of the selections [TeV]
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
        self.region = Region.init(Runs.of(runs), EnergyNodes(*true_energy_range(runs), per_decade))
        self.kernels = {}
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
        self.limits = jnp.asarray([(run.energy_min, run.energy_max) for run in runs])
        self.kernel = self.region.kernel(self.energy[: sizes[0]], self.run[: sizes[0]])
        self.source_exposure = self.region.exposure(self.limits)[:, 0]
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
        sources, (path, background) = self.sources(mixture), self.background(mixture)
        norm = jnp.broadcast_to(background.norm, (self.background_exposure.shape[0],))
        rate = background.rate(jnp.concatenate([self.energy, self.point]))
        density = self.exposure * norm[self.run] * rate[: self.energy.size]
        counts = {path: norm[:, None] * self.background_exposure * rate[self.energy.size :]}
        density, counts = or_undefined(background, (density, counts))
        on = self.kernel.shape[0]
        signal, found = jnp.zeros(on), {}
        for name, source in sources.items():
            more, found[name] = or_undefined(source, self._source(name, source))
            signal = signal + more
        density = jnp.concatenate([density[:on] + signal, density[on:]]) if sources else density
        return Reference(density, found | counts)

    def _source(self, path: str, source: Source) -> tuple[Float[Array, " on"], Float[Array, "run energy"]]:
        """Rate of a source at each ON event, and its expected counts."""
        flux = self.region.flux(source)
        on, changes = self.kernel.shape[0], None if path in self.kernels else self.region.changes(source.response)
        kernel, exposure = self.kernels.get(path, (self.kernel, self.source_exposure))
        if changes is not None:
            kernel, exposure = self.keep(changes)
        rate = kernel @ flux if flux.ndim == 1 else (kernel * flux[self.run[:on]]).sum(1)
        return rate, flux * exposure

    def keep(self, changes: Changes) -> tuple[Float[Array, "on energy"], Float[Array, "run energy"]]:
        """Kernel of the ON events and exposure of a changed response."""
        on = self.kernel.shape[0]
        kernel = self.region.kernel(self.energy[:on], self.run[:on], changes)
        return kernel, self.region.exposure(self.limits, changes)[:, 0]

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

    region: Region
    kernels: dict[str, Array]  # as `kernel`
    on: Integer[np.ndarray, " cell"]
    off: Integer[np.ndarray, " cell"]
    ratio: Float[np.ndarray, " cell"]
    limits: Float[Array, "run edge"]  # of the cells, in the selection [TeV]
    exposed: Int[Array, " cell"]  # those of all cells of all runs, or of all cells, that some run selects
    by_run: bool = eqx.field(static=True)
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
        self.region = Region.init(Runs.of(runs), EnergyNodes(*true_energy_range(runs), per_decade))
        self.kernels = {}
        self.limits = jnp.asarray([np.clip(edges, run.energy_min, run.energy_max) for run in runs])
        streams = [run.on for run in runs], [run.off for run in runs]
        on, off = (np.array([np.histogram(events, edges)[0] for events in stream]) for stream in streams)
        exposures = np.array([_mean_exposures(run, edges) for run in runs])  # run, ON or OFF, cell
        # not needed where the prior is given
        smooth = smooth_counts(runs, edges) if shape is None or rate is None else np.ones_like(off, float)
        if not by_run:
            on, off, exposures, smooth = (column.sum(0)[None] for column in (on, off, exposures, smooth))
        exposed = exposures[:, 0] > 0
        if not exposed.any():
            raise ValueError(f"no run selects energies of the cells, {edges[0]:g} to {edges[-1]:g} TeV")
        self.on, self.off = on[exposed], off[exposed]
        self.ratio = exposures[:, 0][exposed] / exposures[:, 1][exposed]
        self.by_run, self.exposed = by_run, jnp.asarray(np.flatnonzero(exposed))
        self.kernel = self._of_cells(self.region.exposure(self.limits))
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
        sources = self.sources(mixture)
        return {path: or_undefined(source, self._source(path, source)) for path, source in sources.items()}

    def _source(self, path: str, source: Source) -> Float[Array, " cell"]:
        """Expected ON counts of a source."""
        flux = self.region.flux(source)
        if flux.ndim == 1 and path in self.kernels:
            return self.kernels[path] @ flux
        changes = self.region.changes(source.response)
        if flux.ndim == 1 and changes is None:
            return self.kernel @ flux
        return self._of_cells(self.region.counts(flux, self.limits, changes))

    def keep(self, changes: Changes) -> Float[Array, "cell energy"]:
        """Kernel of a changed response."""
        return self._of_cells(self.region.exposure(self.limits, changes))

    def _of_cells(self, values: Float[Array, "run all ..."]) -> Float[Array, "cell ..."]:
        """Values of the cells, of each run or of all together."""
        each = values if self.by_run else values.sum(0)[None]
        return each.reshape(-1, *each.shape[2:])[self.exposed]

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


def require_in_region(path: str, source: Source) -> None:
    """Raise `ValueError` for a source that is no point, changes in time, or changes the response in directions."""
    require_energies_alone(path, source)
    if not isinstance(source.morphology, Point):
        kind = type(source.morphology).__name__
        raise ValueError(
            f"source {path!r} is a {kind}, but the response of an ON region is that of a Point at its centre; name the "
            "components that belong to the region by components=(...)"
        )


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
