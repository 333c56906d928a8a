"""Replicates of ON and OFF regions: two streams of energies, simulated from the source and the free background."""

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from gammajax.events.on_off_run import OnOffRun
from gammajax.likelihood import OnOff
from gammajax.likelihood.term import Parameters
from gammajax.model.mixture import Mixture, Source
from gammajax.model.off_background import OffBackground
from gammajax.products.replicates import Maker, slopes
from gammajax.simulation import simulate_on_off

PADDING = 2**12  # numbers of events are multiples, so that programs serve several lists


class Streams(NamedTuple):
    """Events of ON and OFF regions as columns: energy [TeV], run, and whether it is in the ON region."""

    energy: Float[np.ndarray, " row"]
    run: Int[np.ndarray, " row"]
    on: Bool[np.ndarray, " row"]

    @classmethod
    def of(cls, runs: list[OnOffRun]) -> "Streams":
        """All events of some runs."""
        every = [run.on for run in runs] + [run.off for run in runs]
        place = np.repeat(np.arange(len(every)), [energy.size for energy in every])
        return cls(np.concatenate(every), place % len(runs), place < len(runs))

    def runs(self, like: list[OnOffRun]) -> tuple[list[OnOffRun], Int[np.ndarray, " row"]]:
        """These events as runs, and the rows in the order of an [`gammajax.OnOff`][] of these."""
        place = self.run + len(like) * ~self.on
        order = np.argsort(place, kind="stable")
        every = np.split(self.energy[order], np.searchsorted(place[order], np.arange(1, 2 * len(like))))
        each = zip(like, every[: len(like)], every[len(like) :], strict=True)
        return [eqx.tree_at(lambda r: (r.on, r.off), run, (on, off)) for run, on, off in each], order


class RegionReplicates(Maker):
    """Replicates of ON and OFF events."""

    def __init__(self, posterior, term: OnOff, centre: Parameters):
        super().__init__(posterior, term, centre)
        self.per_decade = float(np.log(10.0) / term.nodes.log_step)
        self.mixture, self.fixed = self._seen(centre), False

    def _seen(self, parameters) -> Mixture:
        mixture = self.posterior.model(parameters)
        return mixture.only([path for kind in (Source, OffBackground) for path in self.term.own(mixture, kind)])

    def draw(self, key: PRNGKeyArray, parameters: Parameters, times: int) -> tuple[Streams, Int[np.ndarray, " row"]]:
        """Events of livetimes that are `times` as long, each given to a replicate at random."""
        key, other = jax.random.split(key)
        longer = [eqx.tree_at(lambda r: r.livetime, run, run.livetime * times) for run in self.term.runs]
        events = Streams.of(simulate_on_off(key, self._seen(parameters), longer))
        random = np.random.default_rng(np.asarray(jax.random.key_data(other)).ravel())
        return events, random.integers(times, size=events.energy.size)

    def join(self, parts: list[Streams]) -> Streams:
        """One list of events, in order."""
        return Streams(*map(np.concatenate, zip(*parts, strict=True)))

    def rows(
        self, events: Streams, data: bool
    ) -> tuple[Streams, Float[np.ndarray, " row"], Float[np.ndarray, "row number"]]:
        """Events, ones and scores, of the data first if they are asked for."""
        if data:
            events = self.join([Streams.of(list(self.term.runs)), events])
        runs, order = events.runs(list(self.term.runs))
        sizes = [-(-int(part.sum()) // PADDING) * PADDING for part in (events.on, ~events.on)]
        term = OnOff(runs, components=self.term.components, per_decade=self.per_decade, rows=(sizes[0], sizes[1]))
        density, slope = map(np.asarray, slopes(_rates, self.centre, self.posterior.model, term))
        valid = np.asarray(term.count) > 0
        score = np.empty((order.size, slope.shape[0]))
        score[order] = (slope[:, valid] / density[valid]).T
        return events, np.ones(order.size), score


def _rates(parameters, model, term):
    return term.refer(model(parameters)).rows
