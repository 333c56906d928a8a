"""Counts of ON regions in bins of reconstructed energy, and what a model expects there: for figures."""

import functools
import operator

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.likelihood.binned import best_background
from gammajax.likelihood.off_events import panels
from gammajax.likelihood.on_off import OnOff, OnOffTerm
from gammajax.model.mixture import Mixture, Source


class OnBins(eqx.Module):
    """ON counts of all runs of a `term` between `edges` [TeV], with the responses and background exposures there."""

    term: OnOffTerm
    edges: Float[np.ndarray, " edge"]
    on: Float[np.ndarray, " bin"]
    off: Float[np.ndarray, " bin"]
    limits: Float[Array, "run edge"]  # of the bins, in the selection [TeV]
    kernel: Float[Array, "bin energy"]  # of the files' response, of all runs [cm^2 s]
    point: Float[np.ndarray, "run bin point"]  # of integrals over reconstructed energies [TeV]
    exposure: Float[np.ndarray, "run bin point"]  # of the background in ON, times its weight [sr s TeV]
    ratio: Float[np.ndarray, " bin"]  # of the acceptances of ON and OFF; zero where no run selects energies

    @classmethod
    def init(cls, term: OnOffTerm, edges: Float[np.ndarray, " edge"]) -> "OnBins":
        """Bins of the runs of a term."""
        runs = term.runs
        limits = jnp.asarray([np.clip(edges, run.energy_min, run.energy_max) for run in runs])
        rules = [panels(np.clip(edges, run.energy_min, run.energy_max)) for run in runs]
        exposures = [
            [weight * exposure(point) for exposure in (run.on_exposure, run.off_exposure)]
            for run, (point, weight) in zip(runs, rules, strict=True)
        ]
        on, off = (sum(pair[stream].sum(1) for pair in exposures) for stream in (0, 1))
        return cls(
            term=term,
            edges=edges,
            on=np.histogram(np.concatenate([run.on for run in runs]), edges)[0].astype(float),
            off=np.histogram(np.concatenate([run.off for run in runs]), edges)[0].astype(float),
            limits=limits,
            kernel=term.region.exposure(limits).sum(0),
            point=np.array([point for point, _ in rules]),
            exposure=np.array([pair[0] for pair in exposures]),
            ratio=np.divide(on, off, out=np.zeros_like(on), where=off > 0),
        )

    def by_energy(self, mixture: Mixture) -> dict[str, Float[Array, " bin"]]:
        """Expected ON counts of each source and of the background; without one in the model, the best for the counts.

        Raises `ValueError` as the term does.
        """
        found = {path: self._source(source) for path, source in self.term.sources(mixture).items()}
        if isinstance(self.term, OnOff):
            path, background = self.term.background(mixture)
            norm = jnp.broadcast_to(background.norm, (len(self.point),))
            return found | {path: norm @ (self.exposure * background.rate(jnp.asarray(self.point))).sum(-1)}
        signal = functools.reduce(operator.add, found.values(), jnp.zeros(self.on.shape))
        some = self.ratio > 0
        counts = jnp.asarray(self.on), jnp.asarray(self.off)
        best = best_background(*counts, jnp.where(some, self.ratio, 1.0), signal)
        return found | {"OFF": jnp.where(some, self.ratio * best, 0.0)}

    def _source(self, source: Source) -> Float[Array, " bin"]:
        """Expected ON counts of a source, of all runs."""
        region = self.term.region
        flux, changes = region.flux(source), region.changes(source.response)
        if flux.ndim == 1 and changes is None:
            return self.kernel @ flux
        return region.counts(flux, self.limits, changes).sum(0)
