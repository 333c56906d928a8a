"""Likelihood of events: of a mixture with weights, or the extended one of absolute fluxes."""

import warnings
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Integer

from gammajax.common import distributed
from gammajax.common.display import block, document, length, listed, number_of, text, total, words
from gammajax.common.progress import DELAY, Progress
from gammajax.engines import Engine, Rows
from gammajax.engines.choice import EngineChoice, engines_of
from gammajax.engines.engine import Expected
from gammajax.engines.rows import PER_DECADE, data_of
from gammajax.events.cells import Cells
from gammajax.events.event_list import Events
from gammajax.instrument.observation import Aside, Observation
from gammajax.likelihood.sums import (
    extended_likelihood,
    mixture_density,
    mixture_likelihood,
    sum_of_logs,
    total_intensity,
)
from gammajax.likelihood.term import Data, Reference, Setup, Term, seen
from gammajax.model.mixture import Component, Mixture, Source, or_undefined
from gammajax.model.temporal import Times


class Unbinned(Data):
    """Events or cells of some observations, as one of several data sets of a [`gammajax.Posterior`][].

    **Arguments:**

    - `observations`, `events`: as for a posterior; `observations` may be the pair that `gammajax.io.read_gadf` returns.
    - `components`: those that these observations see, by path, or an inner mixture for all in it. By default all.
    - `name` of the data set in messages and figures.
    - `engine`, `per_decade`, `bands`, `mesh`, `compact`, `dtype`: as for a posterior.

    Raises `ValueError` for other observations or events.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11 * p["flux"]), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground())
    >>> events = gj.simulate(jax.random.key(0), model({"flux": 1.0}), run)
    >>> data = gj.Unbinned(run, events, name="CTAO", per_decade=20.0)
    >>> posterior = gj.Posterior(model, {"flux": dist.Uniform(0.0, 5.0)}, [data])
    >>> posterior.total == len(events)
    True
    """

    observations: tuple[Observation, ...]
    events: Events | Cells
    components: tuple[str, ...] | None = eqx.field(static=True)
    name: str | None = eqx.field(static=True)
    engine: Any
    per_decade: float = eqx.field(static=True)
    bands: int | None = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True)
    compact: bool = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Numbers of events and observations."""
        return block(
            f"Unbinned data {self.name or ''}: {length(self.events.observation)} "
            f"{'events' if isinstance(self.events, Events) else 'cells'} in "
            f"{number_of(len(self.observations), 'observation')}, observations {text(self.events.observation)}",
            f"components {'all' if self.components is None else listed(self.components)}",
        )

    def __init__(
        self,
        observations: Any,
        events: Events | Cells | None = None,
        *,
        components: Sequence[str] | None = None,
        name: str | None = None,
        engine: EngineChoice | dict[str, EngineChoice] | None = None,
        per_decade: float = PER_DECADE,
        bands: int | None = None,
        mesh: Mesh | None = None,
        compact: bool = True,
        dtype: Any = np.float32,
    ):
        self.observations, self.events = data_of(observations, events)
        self.components, self.name = seen(components), name
        self.engine, self.per_decade, self.bands = engine, per_decade, bands
        self.mesh, self.compact, self.dtype = mesh, compact, dtype

    def prepare(self, setup: Setup) -> Term:
        """Engines for these events; see [`gammajax.Posterior`][] for the errors."""
        observations, events, explored = self.observations, self.events, setup.explored
        if any(o.exclusion is not None for o in observations) and not any(o.excludes for o in observations):
            # at the line that makes the posterior: equinox adds two calls on the stack
            warnings.warn(
                "the excluded sky lies in none of the fields of view; are its frame and place right?", stacklevel=5
            )
        if not events.total and explored.mixture.weighted:
            raise ValueError(
                "there are no events: fractions of none mean nothing; use a model of absolute fluxes, without weights"
            )
        if self.components is not None:
            explored = explored._replace(
                mixture=explored.mixture.only(self.components),
                variants=[variant.only(self.components) for variant in explored.variants],
            )
        rows = Rows.init(events, observations, self.per_decade, self.bands, self.mesh, self.dtype, setup.progress)
        with Progress(rows.progress, "set-up", DELAY):
            engines = engines_of(explored, rows, self.engine, self.compact)
        term = setup.referred(
            UnbinnedTerm(
                name=self.name or setup.name,
                count=rows.place(rows.count),
                reference=Reference(jnp.zeros(0), {}),
                data=rows.placed_data(),
                engines=engines,
                weighted=explored.mixture.weighted,
                times=_times(rows),
                _aside=Aside(observations),
            )
        )
        rows.require_possible(term.reference.rows)
        return term


class UnbinnedTerm(Term):
    """Log-likelihood of events (module [`gammajax.likelihood.sums`][]).

    `data` and `count` of each row (count zero for padding), `engines` by path of the component. The reference is the
    density of each row, and terms of the expected counts.
    """

    name: str = eqx.field(static=True)
    _aside: Aside = eqx.field(static=True)  # the observations
    data: Events | Cells
    engines: dict[str, Engine]
    count: Integer[Array, " row"]
    reference: Reference
    weighted: bool = eqx.field(static=True)
    times: Times
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Numbers of events and observations, and engines of the components."""
        # without `total`: all processes would have to ask for it
        cells = f" in {length(self.data.count)} cells" if isinstance(self.data, Cells) else ""
        engines = [f"{name}: {type(engine).__name__}" for name, engine in self.engines.items()]
        return block(
            f"{total(self.count)} events{cells} in {number_of(len(self.observations), 'observation')}",
            f"components {listed(engines)}",
        )

    @property
    def observations(self) -> tuple[Observation, ...]:
        """The observations."""
        return self._aside.value

    @property
    def energy_range(self) -> tuple[float, float]:
        """Reconstructed energies [TeV] of the selections."""
        return min(o.energy_min for o in self.observations), max(o.energy_max for o in self.observations)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the observations."""
        return tuple(observation.obs_id for observation in self.observations)

    @property
    def events(self) -> Events | Cells:
        """Events or cells of this process, sorted by energy, without truth columns."""
        valid = distributed.local(self.count) > 0
        if isinstance(self.data, Cells):
            columns = (self.data.observation, self.data.cell, self.data.count)
            return Cells(self.data.binning, *(distributed.local(column)[valid] for column in columns))
        return jax.tree.map(lambda column: distributed.local(column)[valid], self.data)

    def refer(self, mixture: Mixture) -> Reference:
        """Density of every row, and terms of the expected counts of every component."""
        expected = self._expected(mixture)
        return Reference(_density(mixture, expected), {name: part.counts for name, part in expected.items()})

    def log_likelihood_ratio(self, mixture: Mixture) -> Float[Array, ""]:
        """Mixture likelihood for a mixture with weights, else extended likelihood, relative to the reference."""
        expected = self._expected(mixture)
        intensities = [part.intensity for part in expected.values()]
        if mixture.weighted:
            return mixture_likelihood(intensities, *_shares(mixture, expected), self.reference.rows, self.count)
        counts = [part.counts for part in expected.values()]
        before = [self.reference.counts[name] for name in expected]
        return extended_likelihood(intensities, counts, self.reference.rows, before, self.count)

    @property
    def log_reference(self) -> Float[Array, ""]:
        """Value of log L at the reference."""
        value = sum_of_logs(self.reference.rows, jnp.ones_like(self.reference.rows), self.count)
        return value - sum((counts.sum() for counts in self._expectations), start=jnp.zeros(()))

    def log_reference_exact(self) -> float:
        """`log_reference` in double precision, on the host."""
        count, reference = (distributed.local(array) for array in (self.count, self.reference.rows))
        value = count[count > 0] @ np.log(reference[count > 0].astype(np.float64))
        value = float(distributed.over(distributed.spans(self.count), np.sum, value))
        return value - float(sum(distributed.local(part).sum(dtype=np.float64) for part in self._expectations))

    def density(self, mixture: Mixture) -> Float[Array, " row"]:
        """Density of every row, with padding: mixture density, or total intensity for absolute fluxes."""
        return _density(mixture, self._expected(mixture))

    def expected_counts(self, mixture: Mixture) -> dict[str, Float[Array, " observation"]]:
        """Expected counts of every component in the selection of every observation, without the intensities."""
        parts = self._seen(mixture).items()
        counts = {name: self.engines[name].expected_counts(part) * _mean(part, self.times) for name, part in parts}
        return {name: or_undefined(part, counts[name]) for name, part in parts}

    @property
    def _expectations(self) -> list[Float[Array, "observation _"]]:
        """Terms of the expected counts that the likelihood needs: those of absolute fluxes."""
        return [] if self.weighted else list(self.reference.counts.values())

    def _seen(self, mixture) -> dict[str, Component]:
        return {name: part for name, part in mixture.components.items() if name in self.engines}

    def _expected(self, mixture) -> dict[str, Expected]:
        """Intensities and counts of every component."""
        parts = self._seen(mixture).items()
        return {name: or_undefined(part, _timed(part, self.engines[name](part), self.times)) for name, part in parts}


def _times(rows) -> Times:
    """Times of the rows; cells have none."""
    events = rows.data if isinstance(rows.data, Events) else None
    time, phase = (None if events is None else getattr(events, name) for name in ("time", "phase"))
    time, phase = (None if column is None else np.asarray(column)[rows.index] for column in (time, phase))
    return Times.of(rows.runs.observations, time, phase, rows.place(np.asarray(rows.observation)), rows.place)


def _timed(part, expected: Expected, times) -> Expected:
    """Intensities and counts with the factor in time of a source."""
    if not isinstance(part, Source) or part.time is None:
        return expected
    factor, mean = part.time.factors(times)
    return Expected(expected.intensity * factor.astype(expected.intensity.dtype), expected.counts * mean[:, None])


def _mean(part, times) -> Float[Array, " observation"] | float:
    """Mean factor in time of every observation."""
    if not isinstance(part, Source) or part.time is None:
        return 1.0
    return part.time.factors(times)[1]


def _density(mixture, expected) -> Float[Array, " row"]:
    intensities = [part.intensity for part in expected.values()]
    if mixture.weighted:
        return mixture_density(intensities, *_shares(mixture, expected))
    return total_intensity(intensities)


def _shares(mixture, expected) -> tuple[Float[Array, " component"], Float[Array, " component"]]:
    """Expected counts and fractions of all components."""
    totals = {name: part.counts.sum() for name, part in expected.items()}
    return jnp.stack(list(totals.values())), jnp.stack(list(mixture.component_fractions(totals).values()))
