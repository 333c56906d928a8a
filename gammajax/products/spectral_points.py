"""Flux points: the spectrum of a component times one free factor in each bin of energy, with their covariance."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from gammajax.common.display import block, document, extent, number_of, words
from gammajax.common.progress import DELAY, Progress
from gammajax.engines import DenseEngine, FixedEngine
from gammajax.likelihood import UnbinnedTerm
from gammajax.model.dependences import dependence
from gammajax.model.mixture import Source
from gammajax.model.spectra import SteppedSpectrum
from gammajax.posterior import Parameters, Posterior
from gammajax.products.energy_slices import norms_by_slice
from gammajax.products.norms import NORM, Norms, Points, estimate, most_norm, replaced, require_events
from gammajax.results.result import Result
from gammajax.samplers import Fit, fit

ENERGIES = ("true", "reconstructed")
BAND_PER_DECADE, BAND_DRAWS = 40, 400
QUANTILES = (0.1587, 0.5, 0.8413)


class FluxPoints(Points):
    """Flux points of a component, from [`gammajax.flux_points`][].

    - `energy_edges` [TeV] of the bins, `energy_ref` their geometric means.
    - `norm`: factor on the reference spectrum in each bin; `norm_errn`, `norm_errp`: errors where the profile falls by
      `n_sigma`^2; `norm_ul`: upper limit, by `n_sigma_ul`^2; `ts`: 2 (ln L_max - ln L(norm = 0)).
    - `covariance` of the norms, with all other parameters free: the inverse of the curvature of ln L.
    - `norm_scan`, `stat_scan`: values of each norm, and q = 2 (ln L_max - ln L) there; NaN where there are fewer.
    - `dnde_ref` [TeV^-1 cm^-2 s^-1] at `energy_ref`, `flux_ref` [cm^-2 s^-1] and `eflux_ref` [TeV cm^-2 s^-1] in the
      bins: the reference spectrum, that of the fit to all energies.
    - `band_energy` [TeV], `band` [TeV^-1 cm^-2 s^-1]: lower end, best and upper end of that fit (68 %), or empty.
    - `npred`: expected events of each bin with the best norm; NaN if unknown.
    - `component`; `energy`: "true" or "reconstructed", which the bins are of, or "" if that is not known; `stat`:
      -2 ln L at the maximum, the sum over bins of reconstructed energy; `messages`: problems, in words;
      `components`: paths of all components of the model, for colours.

    >>> import gammajax as gj, numpy as np
    >>> one, none = np.ones(2), np.zeros((2, 0))
    >>> points = gj.FluxPoints(
    ...     "source", np.array([1.0, 3.0, 10.0]), one, 0.1 * one, 0.1 * one, 1.2 * one, 99.0 * one, np.eye(2) / 100.0,
    ...     none, none, 1e-12 * one, 1e-12 * one, 1e-12 * one, 50.0 * one, np.zeros(0), np.zeros((3, 0)),
    ... )
    >>> points.norm_err.round(2).tolist()
    [0.1, 0.1]
    """

    component: str = eqx.field(static=True)
    energy_edges: Float[np.ndarray, " edge"]
    norm: Float[np.ndarray, " point"]
    norm_errn: Float[np.ndarray, " point"]
    norm_errp: Float[np.ndarray, " point"]
    norm_ul: Float[np.ndarray, " point"]
    ts: Float[np.ndarray, " point"]
    covariance: Float[np.ndarray, "point point"]
    norm_scan: Float[np.ndarray, "point value"]
    stat_scan: Float[np.ndarray, "point value"]
    dnde_ref: Float[np.ndarray, " point"]
    flux_ref: Float[np.ndarray, " point"]
    eflux_ref: Float[np.ndarray, " point"]
    npred: Float[np.ndarray, " point"]
    band_energy: Float[np.ndarray, " energy"]
    band: Float[np.ndarray, "3 energy"]
    stat: float = np.nan
    n_sigma: float = 1.0
    n_sigma_ul: float = 2.0
    messages: tuple[str, ...] = ()
    energy: str = eqx.field(static=True, default="")
    components: tuple[str, ...] = eqx.field(static=True, default=())
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Bins, and each point with its errors or limit."""
        power = self.energy_ref**2 * self.dnde_ref
        lines = [
            f"{low:.3g} to {high:.3g} TeV: "
            + (f"below {ul * p:.3g}" if limit else f"{n * p:.3g} +{up * p:.2g} -{down * p:.2g}")
            for low, high, n, down, up, ul, p, limit in zip(
                self.energy_edges[:-1],
                self.energy_edges[1:],
                self.norm,
                self.norm_errn,
                self.norm_errp,
                self.norm_ul,
                power,
                self.is_ul,
                strict=True,
            )
        ]
        of = f"{extent(self.energy_edges, 'TeV')}{f' of {self.energy} energy' if self.energy else ''}"
        head = f"FluxPoints: {number_of(self.norm.size, 'bin')} of {self.component}, {of}"
        return block(f"{head}, E^2 dN/dE [TeV cm^-2 s^-1]", *lines, *self.messages)

    @property
    def energy_ref(self) -> Float[np.ndarray, " point"]:
        """Reference energies [TeV], the geometric means of the edges."""
        return np.sqrt(self.energy_edges[1:] * self.energy_edges[:-1])

    @property
    def dnde(self) -> Float[np.ndarray, " point"]:
        """Differential flux [TeV^-1 cm^-2 s^-1] at the reference energies."""
        return self.norm * self.dnde_ref

    def summary(self):
        """Table (`pandas.DataFrame`) of the points: energies [TeV], E^2 dN/dE [TeV cm^-2 s^-1] with errors, TS."""
        import pandas

        power = self.energy_ref**2 * self.dnde_ref
        columns = {"e_min": self.energy_edges[:-1], "e_max": self.energy_edges[1:], "e_ref": self.energy_ref}
        columns |= {"e2dnde": self.norm * power, "errn": self.norm_errn * power, "errp": self.norm_errp * power}
        columns |= {"ul": self.norm_ul * power, "sqrt_ts": self.sqrt_ts, "is_ul": self.is_ul, "npred": self.npred}
        return pandas.DataFrame(columns)

    def to_gammapy(self):
        """The points as gammapy's `FluxPoints`, with scans on one axis of norms; it has no place for a covariance."""
        from gammajax.io.flux_points import to_gammapy

        return to_gammapy(self)

    @classmethod
    def from_gammapy(cls, points, component: str = "gammapy") -> "FluxPoints":
        """Points from gammapy's `FluxPoints` of one energy axis; the covariance is diagonal, of its errors.

        Raises `ValueError` for other axes.
        """
        from gammajax.io.flux_points import columns_of

        return cls(component=component, **columns_of(points))

    def write(self, path, *, overwrite: bool = False) -> Path:
        """Write a file that gammapy's `FluxPoints.read` takes, `.ecsv` or `.fits`, with the covariance as a column.

        Raises `FileExistsError` for an existing file unless `overwrite`, and `ValueError` for another suffix.
        """
        from gammajax.io.flux_points import write

        return write(self, path, overwrite)

    @classmethod
    def read(cls, path, component: str | None = None) -> "FluxPoints":
        """Read a file that `write` or gammapy wrote; a file of gammapy has no covariance but its errors."""
        from gammajax.io.flux_points import read

        return cls(**read(path, component))

    def plot(
        self,
        others: dict[str, "FluxPoints"] | None = None,
        *,
        energy_power: float | int = 2,
        ax=None,
        energy_unit: str = "TeV",
        flux_unit: str = "TeV",
    ):
        """Draw the points with errors and limits, the band of the fit to all energies, and residuals.

        `others`: more points by label, for comparison, beside these. `ax`: axes to draw in, then without residuals.
        `energy_unit` of the abscissa and `flux_unit`, the energy in E^2 dN/dE: eV, keV, MeV, GeV, TeV, PeV or erg.
        Returns the axes of the points. Raises `ValueError` for another unit.
        """
        from gammajax.plots.points import plot_flux_points

        units = {"energy_unit": energy_unit, "flux_unit": flux_unit}
        return plot_flux_points(self, others or {}, energy_power, ax, **units)

    def plot_correlation(self, ax=None, *, energy_unit: str = "TeV"):
        """Draw the correlation matrix of the norms, in the axes `ax` if they are given; returns the axes.

        `energy_unit`: eV, keV, MeV, GeV, TeV, PeV or erg. Raises `ValueError` for another one.
        """
        from gammajax.plots.points import plot_correlation

        return plot_correlation(self, ax, energy_unit=energy_unit)


def flux_points(
    posterior,
    component: str,
    edges,
    *,
    energy: str = "true",
    reoptimize: bool = True,
    best: Any = None,
    n_sigma: float = 1.0,
    n_sigma_ul: float = 2.0,
    progress: bool = True,
) -> FluxPoints:
    """Flux points of a source: its spectrum times a free factor in each bin of energy.

    - `posterior`: a [`gammajax.Posterior`][]; `component`: path of the source.
    - `edges` [TeV] of the bins.
    - `energy`: "true", factors on the spectrum in bins of true energy, all free together; or "reconstructed", a factor
      on the whole source for the events with reconstructed energies in each bin, as gammapy's `FluxPointsEstimator`.
    - `reoptimize`: fit the other parameters anew; False keeps them at `best`.
    - `best`: [`gammajax.Fit`][] or [`gammajax.Result`][] of the posterior, whose spectrum is the reference; by default
      [`gammajax.fit`][] is called.
    - `n_sigma`, `n_sigma_ul`: of the errors and the upper limits, in standard deviations: q of their squares.
    - `progress`: show how far it is, after some seconds.

    Factors are not negative.

    In bins of true energy the reference spectrum stays as it is, and so do parameters that nothing else depends on. All
    others are free: the background, position and size of the source, other sources, nuisances with their priors. The
    likelihood is that of all events at once: migration between bins is in it, so neighbours are anticorrelated. Below
    the first and above the last edge the factor is that of the next bin, or free of its own if the events go beyond the
    edge by more than half of that bin.

    In bins of reconstructed energy the whole source stays as it is but for the factor, and the parameters of other
    components are fitted in each bin alone, to its events. Points are independent, have smaller errors, and follow the
    reference spectrum within the energy resolution. The data are one list of events, without factors in time.

    Returns a [`gammajax.FluxPoints`][].
    Raises `ValueError` for a mixture likelihood (fluxes must be absolute), for a component that is no source, in bins
    of true energy has no free parameter or is tabulated by the dense engine, for other data in bins of reconstructed
    energy, and for edges that do not increase or bins without expected events.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> observation = gj.io.ctao(pointing=(0.0, 0.0), livetime=3600.0, energy_range=(1.0, 10.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.5, 1e-11 * p["flux"]), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground())
    >>> events = gj.simulate(jax.random.key(0), model({"flux": 1.0}), observation)
    >>> posterior = gj.Posterior(model, {"flux": dist.Uniform(0.0, 5.0)}, observation, events, per_decade=20.0)
    >>> points = gj.flux_points(posterior, "source", [1.0, 3.0, 10.0])
    >>> bool((abs(points.norm - 1.0) < 4.0 * points.norm_err).all())
    True
    """
    with Progress(progress, f"flux points of {component}", DELAY):
        return _flux_points(posterior, component, edges, energy, reoptimize, best, n_sigma, n_sigma_ul)


def _flux_points(posterior, component, edges, energy, reoptimize, best, n_sigma, n_sigma_ul) -> FluxPoints:
    edges = _checked_edges(edges)
    if energy not in ENERGIES:
        raise ValueError(f"energy must be 'true' or 'reconstructed', not {energy!r}")
    check_source(posterior, component, "flux points", spectrum=energy == "true")
    best = fit(posterior, progress=False) if best is None else best
    at = parameters_of(posterior, best)
    reference = posterior.model(at).components[component].spectrum
    if energy == "true":
        norms, each = _norms(posterior, component, edges, reference, at, reoptimize, n_sigma, n_sigma_ul)
    else:
        norms, each = norms_by_slice(posterior, component, edges, at, reoptimize, n_sigma, n_sigma_ul)
    band_energy, band = _band(posterior, component, best, edges)
    columns: dict[str, Any] = {**norms._asdict(), **reference_fluxes(reference, edges)}
    return FluxPoints(
        component=component,
        energy=energy,
        energy_edges=edges,
        **columns,
        npred=norms.norm * each,
        band_energy=band_energy,
        band=band,
        n_sigma=float(n_sigma),
        n_sigma_ul=float(n_sigma_ul),
        components=tuple(posterior.model(at).components),
    )


def _norms(posterior, component, edges, reference, at, reoptimize, n_sigma, n_sigma_ul) -> tuple[Norms, np.ndarray]:
    """Norms of bins of true energy, and the expected events of each norm of one."""
    outside = _outside(posterior, edges)
    bins = edges.size - 1
    first, last = bins, bins + int(outside[0])
    order = np.array([first if outside[0] else 0, *range(bins), last if outside[1] else bins - 1])

    def change(source: Source, norms) -> Source:
        spectrum = SteppedSpectrum(reference, edges, jnp.asarray(norms)[order])
        return Source(spectrum, source.morphology, source.response, source.time)

    scaled, start, each = with_norms(posterior, component, change, at, bins + sum(outside), reoptimize)
    require_events(each[:bins], edges, component)
    return estimate(scaled, start, each, bins, n_sigma, n_sigma_ul), each[:bins]


def check_source(posterior, component: str, what: str, spectrum: bool = True) -> None:
    """Raise `ValueError` for what is no source of absolute flux, or for a `spectrum` that its engine keeps fixed."""
    if not isinstance(posterior, Posterior):
        raise ValueError(f"{what} are of a gammajax.Posterior, not {posterior!r}")
    mixture = posterior.model(posterior.reference_parameters)
    if mixture.weighted:
        raise ValueError(f"{what} need absolute fluxes: make the Mixture without weights")
    sources = [path for path, part in mixture.components.items() if isinstance(part, Source)]
    if component not in sources:
        kind = "has no spectrum of photons" if component in mixture.components else "is no component"
        raise ValueError(f"{component!r} {kind}; {what} are of one of the sources {sources}")
    for term in posterior.terms if spectrum else ():
        engine = term.engines.get(component) if isinstance(term, UnbinnedTerm) else None
        if isinstance(engine, FixedEngine):
            raise ValueError(
                f"{component!r} has no free parameter, so its spectrum is fixed: free its flux, or make the posterior "
                "with compact=False"
            )
        if isinstance(engine, DenseEngine):
            raise ValueError(f"the dense engine tabulates the spectrum of {component!r}: use engine='kernel'")


def with_norms(
    posterior: Posterior, component: str, change, at: Parameters, number: int, reoptimize: bool = True
) -> tuple[Posterior, Parameters, Float[np.ndarray, " number"]]:
    """Posterior with the source of this path as `change(source, norms)` makes it, with free norms.

    Parameters that nothing else depends on stay `at` these values, or all without `reoptimize`. Also returned: the
    parameters at norms of one, and the expected events of each norm.
    """
    at = {name: jnp.asarray(value) for name, value in at.items()}

    def whole(p):
        mixture = posterior.model({name: p[name] for name in at})
        return replaced(mixture, component, lambda source: change(source, p[NORM]))

    ones = jnp.ones(number)
    unused = dependence(whole, {**at, NORM: ones}).unused if reoptimize else tuple(at)
    fixed = {name: at[name] for name in unused}

    def model(p):
        return whole({**fixed, **p})

    start = {name: value for name, value in at.items() if name not in fixed}
    each = np.asarray(_counts(posterior, whole, {**at, NORM: ones}, component), np.float64)
    most = most_norm(each)
    priors = {name: posterior.priors[name] for name in posterior.names if name not in fixed}
    priors[NORM] = dist.Uniform(jnp.zeros(number), jnp.asarray(most, jnp.zeros(()).dtype))
    return Posterior(model, priors, list(posterior.terms), progress=False), {**start, NORM: ones}, each


def parameters_of(posterior, best: Any) -> Parameters:
    """Parameters of a fit, or the means of a result."""
    if isinstance(best, Fit):
        return dict(best.parameters)
    if not isinstance(best, Result):
        raise ValueError(f"best must be a gammajax.Fit or a gammajax.Result of the posterior, not {best!r}")
    return {name: jnp.asarray(best.samples[name].mean(0)) for name in posterior.names}


@eqx.filter_jit
def _counts(posterior, model, parameters, component) -> Float[Array, " number"]:
    """Expected events of each norm."""

    def counts(norms):
        mixture = model({**parameters, NORM: norms})
        parts = [term.expected_counts(mixture) for term in posterior.terms]
        return sum((part[component].sum() for part in parts if component in part), start=jnp.zeros(()))

    return jax.jacrev(counts)(parameters[NORM])


def _checked_edges(edges) -> np.ndarray:
    edges = np.asarray(edges, np.float64)
    if edges.ndim != 1 or edges.size < 2 or not (edges[0] > 0 and np.all(np.isfinite(edges))):
        raise ValueError(f"edges must be at least two positive energies [TeV], not {edges.tolist()}")
    if not np.all(np.diff(edges) > 0):
        raise ValueError(f"edges must increase, not {edges.tolist()}")
    return edges


def _outside(posterior, edges) -> tuple[bool, bool]:
    """Whether the events go beyond the first and the last edge by more than half of the bin there."""
    low = min(term.energy_range[0] for term in posterior.terms)
    high = max(term.energy_range[1] for term in posterior.terms)
    return bool(low < edges[0] * np.sqrt(edges[0] / edges[1])), bool(high > edges[-1] * np.sqrt(edges[-1] / edges[-2]))


def reference_fluxes(spectrum, edges) -> dict[str, Float[np.ndarray, " point"]]:
    """Fluxes of the reference spectrum; those of the energy from eighty parts of a bin."""
    parts = np.arange(80) / 80.0
    fine = np.append(np.exp(np.log(edges[:-1, None]) + parts * np.diff(np.log(edges))[:, None]), edges[-1])
    flux = np.asarray(spectrum.integral(jnp.asarray(fine)), np.float64)
    energy = np.sqrt(fine[1:] * fine[:-1])
    return {
        "dnde_ref": np.asarray(spectrum(jnp.asarray(np.sqrt(edges[1:] * edges[:-1]))), np.float64),
        "flux_ref": flux.reshape(-1, 80).sum(1),
        "eflux_ref": (flux * energy).reshape(-1, 80).sum(1),
    }


def _band(posterior, component, best: Any, edges) -> tuple[np.ndarray, np.ndarray]:
    """Energies, and the spectrum of the fit to all energies with its 68 % band."""
    count = 2 + int(BAND_PER_DECADE * np.log10(edges[-1] / edges[0]))
    energy = np.geomspace(edges[0], edges[-1], count)
    if isinstance(best, Fit):
        parameters = {name: jnp.asarray(value) for name, value in best.parameters.items()}
        value, slopes = _log_spectrum(posterior, component, parameters, jnp.asarray(energy))
        slopes = np.concatenate([np.asarray(slopes[name], float).reshape(count, -1) for name in sorted(slopes)], 1)
        deviation = np.sqrt(np.einsum("ei,ij,ej->e", slopes, best.covariance, slopes))
        value = np.asarray(value, np.float64)
        return energy, np.exp(np.stack([value - deviation, value, value + deviation]))
    draws = {name: best.samples[name] for name in posterior.names}
    number = len(next(iter(draws.values())))
    chosen = np.linspace(0, number - 1, min(number, BAND_DRAWS)).astype(int)
    some = {name: jnp.asarray(values[chosen]) for name, values in draws.items()}
    return energy, np.quantile(np.asarray(_spectra(posterior, component, some, jnp.asarray(energy))), QUANTILES, axis=0)


@eqx.filter_jit
def _log_spectrum(posterior, component, parameters, energy):
    def value(parameters):
        return jnp.log(posterior.model(parameters).components[component].spectrum(energy))

    return value(parameters), jax.jacfwd(value)(parameters)


@eqx.filter_jit
def _spectra(posterior, component, draws, energy):
    return jax.lax.map(lambda p: posterior.model(p).components[component].spectrum(energy), draws)
