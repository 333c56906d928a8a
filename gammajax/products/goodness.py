"""Goodness of fit: data against replicates from the posterior, in bins of several quantities and by the log-density.

The statistic of a binned quantity is the deviance of its counts n and the counts mu that a fit expects,

    D = 2 Sum_b [ n_b ln(n_b / mu_b) - (n_b - mu_b) ]

and of the log-densities, which need no bins, that of Anderson & Darling (1952, doi:10.1214/aoms/1177729437),

    A^2 = n Int (F_n - F)^2 / (F (1 - F)) dF

with the distribution F_n of the n events and F of the replicates. Both are ranked among those of the replicates, each
with a fit of its own ([`gammajax.products.replicates`][]). Beyond the tenth-largest of them, the p-value is that of a
gamma distribution with their mean and variance.
"""

import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray
from scipy.special import xlogy
from scipy.stats import gamma, norm

from gammajax.common.display import block, document, number_of, rows, text, words
from gammajax.common.progress import DELAY, Progress
from gammajax.common.writing import replacing
from gammajax.likelihood import OnOff, UnbinnedTerm
from gammajax.products.checked_quantities import LOG_DENSITY, OfEvents, OfRegions
from gammajax.products.event_replicates import EventReplicates
from gammajax.products.region_replicates import RegionReplicates
from gammajax.products.replicates import Replicates, replicate, simulated_terms
from gammajax.products.residuals import FINE, RADIUS, ResidualMaps, SkyCounts, residuals_of
from gammajax.products.spectral_points import parameters_of
from gammajax.results.result import Result
from gammajax.samplers import Fit

REPLICAS, FEWEST, BUDGET = 200, 50, 20_000_000  # replicates, and events of all of them together
RANKED = 10  # replicates beyond the data, below which a p-value comes from the distribution fitted to them
BANDS = (0.0228, 0.1587, 0.8413, 0.9772)
LARGEST = "largest deviation"


class CheckedQuantity(eqx.Module):
    """One quantity of a check: counts of the data in its bins, and what replicates have there.

    - `name`, `unit`; `edges` of the bins, `labels` where numbers do not name them; `places` [deg] of pixels of the sky.
    - `count`: the data; `expected`: after the fit; `band`: 2, 16, 84 and 98 % quantiles of the replicates' counts, with
      the width of the posterior.
    - `deviation`: signed root of each bin's deviance, in standard deviations of the replicates'.
    - `statistic` of all bins, `replicated`: that of each replicate with its own fit; `p_value`.

    >>> import gammajax as gj, numpy as np
    >>> gj.CheckedQuantity(
    ...     "energy", "TeV", np.array([1.0, 2.0, 4.0]), (), np.zeros((0, 2)), np.array([9.0, 16.0]),
    ...     np.array([10.0, 12.0]), np.ones((4, 2)), np.array([-0.3, 1.1]), 1.4, np.array([1.0, 2.0]), 0.7,
    ... ).region(1)
    'energy 2 to 4 TeV'
    """

    name: str = eqx.field(static=True)
    unit: str = eqx.field(static=True)
    edges: Float[np.ndarray, " edge"]
    labels: tuple[str, ...] = eqx.field(static=True)
    places: Float[np.ndarray, "pixel 2"]
    count: Float[np.ndarray, " bin"]
    expected: Float[np.ndarray, " bin"]
    band: Float[np.ndarray, "4 bin"]
    deviation: Float[np.ndarray, " bin"]
    statistic: float
    replicated: Float[np.ndarray, " replicate"]
    p_value: float
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Bins, p-value and the bin that deviates most."""
        worst = int(np.argmax(np.abs(self.deviation)))
        return block(
            f"CheckedQuantity {self.name}: {number_of(self.count.size, 'bin')}, p = {self.p_value:.2g}",
            f"{self.region(worst)}: {self.deviation[worst]:+.1f} sigma",
        )

    def region(self, number: int) -> str:
        """A bin in words."""
        if self.labels:
            return f"{self.name} {self.labels[number]}"
        if self.unit == "MJD":
            return f"{self.name} MJD {self.edges[number]:.5f} to {self.edges[number + 1]:.5f}"
        return f"{self.name} {self.edges[number]:.3g} to {self.edges[number + 1]:.3g} {self.unit}".rstrip()


class Check(eqx.Module):
    """Goodness of a fit, from [`gammajax.check`][].

    - `quantities`: a [`gammajax.CheckedQuantity`][] for each test.
    - `maps`: a [`gammajax.ResidualMaps`][] for each data set of events or cells.
    - `p_value` of all tests together: of the smallest p-value of one of them, among those of the replicates.
    - `worst`: the bin that deviates most, in words; `worst_deviation` [sigma]; `worst_p_value`: probability of as
      large a deviation in any bin.
    - `replicas`: number of replicates.

    >>> import gammajax as gj
    >>> gj.Check((), (), 0.3, worst="energy 2 to 4 TeV", worst_deviation=2.1, worst_p_value=0.5, replicas=200)
    Check against 200 simulated data sets: p = 0.3
      worst: energy 2 to 4 TeV, p = 0.5
    """

    quantities: tuple[CheckedQuantity, ...]
    maps: tuple[ResidualMaps, ...]
    p_value: float
    worst: str = eqx.field(static=True)
    worst_deviation: float
    worst_p_value: float
    replicas: int
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """The p-values, and the worst region."""
        return block(
            f"Check against {text(self.replicas)} simulated data sets: p = {text(self.p_value)}",
            *rows([f"{one.name}: p = {text(one.p_value)}" for one in self.quantities], 8),
            f"worst: {self.worst}, p = {text(self.worst_p_value)}",
        )

    @property
    def table(self):
        """Table (`pandas.DataFrame`) of the tests: statistic, bins, its mean in replicates, p-value, and worst bin."""
        import pandas

        found = {}
        for one in self.quantities:
            worst = int(np.argmax(np.abs(one.deviation)))
            found[one.name] = {
                "statistic": one.statistic,
                "expected": float(one.replicated.mean()),
                "bins": one.count.size,
                "p_value": one.p_value,
                "worst": one.region(worst),
                "deviation": float(one.deviation[worst]),
            }
        found[LARGEST] = {
            "statistic": abs(self.worst_deviation),
            "p_value": self.worst_p_value,
            "worst": self.worst,
            "deviation": self.worst_deviation,
        }
        found["all"] = {"p_value": self.p_value}
        return pandas.DataFrame.from_dict(found, orient="index").rename_axis("test")

    def __getitem__(self, name: str) -> CheckedQuantity:
        """The quantity of this name."""
        found = {one.name: one for one in self.quantities}
        if name not in found:
            raise ValueError(f"no quantity {name!r} was checked; there are {', '.join(found)}")
        return found[name]

    def write(self, path) -> Path:
        """Write the table as CSV, first under a temporary name."""
        with replacing(path) as temporary:
            self.table.to_csv(temporary)
        return Path(path)

    def plot(self, names=None, figure=None, *, energy_unit: str = "TeV", angle_unit: str = "deg"):
        """Counts of the data against bands of replicates, a panel for each quantity; returns the figure.

        Arguments and errors as of [`gammajax.plots.check_panels.plot_check`][].
        """
        from gammajax.plots.check_panels import plot_check

        return plot_check(self, names, figure, energy_unit=energy_unit, angle_unit=angle_unit)


def check(
    posterior,
    best: Any,
    *,
    key: PRNGKeyArray | None = None,
    replicas: int | None = None,
    engine: Any = None,
    progress: bool = True,
) -> Check:
    """Compare the data with data sets simulated from the posterior, each with a fit of its own.

    - `posterior`: a [`gammajax.Posterior`][]; `best`: its [`gammajax.Result`][] or [`gammajax.Fit`][].
    - `key`: a `jax.random.key` of the simulations. `progress`: show how far it is.
    - `replicas`: number of simulated data sets, by default 200, fewer for more than 1e5 events.
    - `engine` for the simulated events, as of a posterior: with a [`gammajax.engines.PreparedKernel`][] for each source
      the response is folded once for many checks. By default that of the posterior, or the usual one.

    Tests of ON and OFF events: their energies, and the runs. Tests of each data set of events: energy, offset and both
    axes of the field of view, observation, time, pixels of the sky; distance from the centre of each source, and
    energies near it; the distribution of the log-density of the events. The p-value of all tests is uniform without a
    fault, as are those of binned quantities to a few per cent; that of the log-density is conservative. All sources,
    backgrounds, cells and shared parameters of a posterior work; binned data, and counts of ON and OFF regions in
    cells, only take part in the fit.

    Returns a [`gammajax.Check`][]. Raises `ValueError` for a posterior without data of events, for one that several
    processes share, and for fewer than 50 replicates.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11 * p["flux"]), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground())
    >>> events = gj.simulate(jax.random.key(0), model({"flux": 1.0}), run)
    >>> posterior = gj.Posterior(model, {"flux": dist.Uniform(0.0, 5.0)}, run, events, per_decade=20.0)
    >>> found = gj.check(posterior, gj.fit(posterior, progress=False), replicas=50, progress=False)
    >>> found.p_value > 1e-3
    True
    """
    terms = simulated_terms(posterior, UnbinnedTerm, OnOff, of="events, cells, or ON and OFF events")
    if not isinstance(best, Result | Fit):
        raise ValueError(f"best must be a gammajax.Result or a gammajax.Fit of the posterior, not {best!r}")
    most = max(term.total for term in terms)
    replicas = int(np.clip(BUDGET // most, FEWEST, REPLICAS)) if replicas is None else replicas
    if replicas != int(replicas) or replicas < FEWEST:
        raise ValueError(f"replicas must be a whole number of at least {FEWEST}, not {replicas}")
    key, found, skies = jax.random.key(0) if key is None else key, [], []
    centre = parameters_of(posterior, best)
    with Progress(progress, "check", DELAY) as bar:
        for i, term in enumerate(terms):
            prefix = f"{term.name}: " if len(posterior.terms) > 1 else ""
            if isinstance(term, OnOff):
                maker, quantities = RegionReplicates(posterior, term, centre), OfRegions(term, prefix)
            else:
                skies.append((term, SkyCounts.init(term, FINE)))
                maker = EventReplicates(posterior, term, centre, engine, skies[-1][1].add)
                quantities = OfEvents(term, prefix)
            done = replicate(
                jax.random.fold_in(key, i),
                maker,
                best,
                int(replicas),
                quantities,
                lambda part, i=i: bar.update((i + part) / len(terms), "simulated data sets"),
            )
            found.append((done, quantities.places))
    return _check(found, tuple(residuals_of(term, sky, int(replicas), RADIUS) for term, sky in skies))


def _check(found: list[tuple[Replicates, dict]], maps) -> Check:
    """Statistics and p-values of replicates."""
    checked, statistics, deviations = [], [], []
    for done, places in found:
        roots = signed_root(done.counts, done.expected)
        spread = roots[1:].std(0, ddof=1)
        roots = roots / np.where(spread > 0, spread, 1.0)
        for quantity, place in zip(done.quantities, done.slices, strict=True):
            counts, expected = done.counts[:, place], done.expected[:, place]
            by_density = quantity.name.endswith(LOG_DENSITY)
            statistic = anderson_darling(counts, expected) if by_density else deviance(counts, expected).sum(1)
            statistics.append(statistic)
            if not by_density:  # its bins only make the steps of a distribution
                deviations.append(np.abs(roots[:, place]).max(1))
            checked.append(
                CheckedQuantity(
                    quantity.name,
                    quantity.unit,
                    quantity.edges,
                    quantity.labels,
                    places.get(quantity.name, np.zeros((0, 2))),
                    counts[0],
                    expected[0],
                    np.quantile(counts[1:], BANDS, axis=0),
                    roots[0, place],
                    float(statistic[0]),
                    statistic[1:],
                    p_value(statistic[0], statistic[1:]),
                )
            )
    largest = np.max(deviations, axis=0)
    local = 2.0 * norm.sf(largest)
    worst_p = smallest_p_value(local[0], local[1:])
    each = [one.p_value for one in checked] + [worst_p]
    # those of the replicates in the same way, each among the others
    ranked = np.stack([_ranks(values[1:]) for values in (*statistics, largest)], axis=1)
    together = smallest_p_value(min(each), ranked.min(1))
    some = [one for one in checked if not one.name.endswith(LOG_DENSITY)]
    of = max(some, key=lambda one: float(np.abs(one.deviation).max()))
    number = int(np.argmax(np.abs(of.deviation)))
    worst = (
        f"{of.region(number)}: {of.count[number]:.0f} events, {of.expected[number]:.1f} expected, "
        f"{of.deviation[number]:+.1f} sigma"
    )
    replicas = found[0][0].counts.shape[0] - 1
    return Check(tuple(checked), maps, together, worst, float(of.deviation[number]), worst_p, replicas)


def deviance(counts: Float[np.ndarray, "*shape"], expected: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Deviance of Poisson counts: 2 [n ln(n / mu) - (n - mu)]."""
    safe = np.maximum(expected, 1e-12)
    return np.maximum(2.0 * (xlogy(counts, counts / safe) - (counts - safe)), 0.0)


def signed_root(
    counts: Float[np.ndarray, "*shape"], expected: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """Root of the deviance, negative for fewer counts than expected."""
    return np.sign(counts - expected) * np.sqrt(deviance(counts, expected))


def anderson_darling(
    counts: Float[np.ndarray, "replicate bin"], expected: Float[np.ndarray, "replicate bin"]
) -> Float[np.ndarray, " replicate"]:
    """Statistic of Anderson & Darling of the distribution over bins in order, whatever the total."""
    share, part = (values / values.sum(1, keepdims=True) for values in (counts, expected))
    whole = np.cumsum(part, 1)[:, :-1]
    away = np.cumsum(share - part, 1)[:, :-1]
    weight = 0.5 * (part[:, :-1] + part[:, 1:]) / np.maximum(whole * (1.0 - whole), 1e-12)
    return counts.sum(1) * (away**2 * weight).sum(1)


def p_value(statistic: float, replicated: Float[np.ndarray, " replicate"]) -> float:
    """Probability of a statistic at least as large: its rank, or beyond the ranks that of a gamma distribution."""
    beyond = int(np.sum(replicated >= statistic))
    if beyond >= RANKED:
        return (1.0 + beyond) / (1.0 + replicated.size)
    mean, variance = float(replicated.mean()), float(replicated.var(ddof=1))
    if not (mean > 0 and variance > 0):
        return (1.0 + beyond) / (1.0 + replicated.size)
    tail = float(gamma.sf(statistic, mean**2 / variance, scale=variance / mean))
    return min(tail, (1.0 + RANKED) / (1.0 + replicated.size))


def smallest_p_value(smallest: float, replicated: Float[np.ndarray, " replicate"]) -> float:
    """Probability of so small a p-value among several: its rank, or beyond 1 - (1 - p)^k with k fitted to the ranks.

    k is the number of independent tests: -ln(1 - p) of the smallest of k has the mean 1 / k.
    """
    beyond = int(np.sum(replicated <= smallest))
    if beyond >= RANKED:
        return (1.0 + beyond) / (1.0 + replicated.size)
    number = max(1.0, replicated.size / -np.log1p(-np.minimum(replicated, 1.0 - 1e-9)).sum())
    found = -math.expm1(number * math.log1p(-min(smallest, 1.0 - 1e-9)))
    return min(found, (1.0 + RANKED) / (1.0 + replicated.size))


def _ranks(values) -> np.ndarray:
    """p-value of each replicate among the others, with itself counted as that of the data is."""
    return 1.0 - np.argsort(np.argsort(values)) / values.size
