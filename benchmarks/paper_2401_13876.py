"""The analysis of arXiv 2401.13876 (Pinchbeck, Thrane & Balazs 2024): 1e8 events, of which 1e5 are of dark matter.

525 hours of CTAO South at the Galactic Centre: dark matter of 1 TeV annihilating to W+W- (which for masses well above
the Higgs boson's is near to what a scalar singlet does) in an Einasto halo; the instrument's background; the Galaxy's
diffuse emission; three sources of H.E.S.S. catalogues. Free are the mass and the fractions of dark matter, of diffuse
emission and of the sources. Events go into cells as they are simulated. The posterior of mass, cross section and number
of events is drawn with the intervals that the paper quotes; the evidence is that of Laplace's approximation, or with
`--smc` of SMC too.

Fermi's map of the diffuse emission is not part of this project: `--diffuse` reads it from a file; without, a ridge of
half a degree about the plane stands in its place. `--seeds` makes closure instead, at a tenth of the events with as
many of dark matter.

`--variants` changes one assumption at a time and says what each does to the intervals, without noise: errors by the
Fisher information, and, where only the data change, the shift of a fit by the unchanged model. `--nearest` samples 1e8
events of the case that is nearest to the paper's. Both need `--diffuse` and `--gammabayes`, the folder of the authors'
package as installed (`gammabayes` 0.1.9): it has the table of the scalar singlet, the H.E.S.S. catalogue and the
responses. What is known of the paper's own run is its abstract, from which `PUBLISHED` is; its field, the number of
free parameters and the composition of the background are those of the scripts in the authors' repository of that time
(`single_script_code.py`, `combine_results.py`, `gammabayes/utils/event_axes.py`), and may not be the run's.

Fermi's map about the Galactic Centre (`gll_iem_v07_gc`, of gammapy's data) has 10 deg by 10 deg, which is more than any
field here sees, and ends at 0.8 TeV: above, every pixel continues as the power law of the last two planes.
"""

import argparse
import dataclasses
import json
import tarfile
import tempfile
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
from matplotlib import rc_context
from scipy.interpolate import CubicSpline

import gammajax as gj
from benchmarks.report import RESULTS, report
from benchmarks.scale import POINTINGS, describe, memory, observations, timed
from gammajax.instrument.sky import Grid
from gammajax.plots.style import BOXED, COLOURS

SIGNAL = 1e-3  # of the events
MASS = 1.0
SIGMA_V = 1e-26  # of the model [cm^3 s^-1]: its fraction of the events says how many times that
PUBLISHED = {"mass": (0.96, 1.07), "sigma_v": (1.4e-25, 2.1e-25), "signal_events": (0.9e5, 1.3e5)}
PRIORS = {
    "mass": dist.LogUniform(0.3, 50.0),
    "signal": dist.LogUniform(1e-5, 0.1),
    "diffuse": dist.LogUniform(1e-5, 0.1),
    "sources": dist.LogUniform(1e-5, 0.1),
}
CELLS = {"energy_per_decade": 20.0, "pixel": 0.2}
EVENTS = 100_000_000
HOURS = 525.0
WOBBLES = 9  # pointings, each of 125 of the 1125 runs of 28 minutes
FIELD = {"energy_range": (0.1, 100.0), "offset_max": 3.66}  # as large as the authors' 7 deg by 6 deg
COUPLING = 0.1  # of the singlet to the Higgs boson, the default of the authors' package
HARD = gj.ExponentialCutoffPowerLaw(index=1.0, amplitude=2e-12, reference=1.0, lambda_=2.0)  # of points
MASSES = np.geomspace(0.6, 1.7, 41)  # TeV, between which densities are interpolated
POINTS = 40_000
VARIANTS = "parts", "pointing", "runs", "energies", "response", "field"


def ridge() -> gj.Source:
    """Diffuse emission along the plane: 5e-9 TeV^-1 cm^-2 s^-1 sr^-1 at 1 TeV on it, falling by e in half a degree."""
    grid = Grid(0.0, 0.0, 0.05, 6.0)
    _, lat = grid.directions()
    brightness = 5e-9 * np.exp(-np.abs(np.asarray(lat)) / 0.5)
    return gj.Source(gj.PowerLaw(2.6, float(brightness.sum()) * grid.solid_angle), gj.TemplateMap(grid, brightness))


def catalogue() -> gj.Mixture:
    """Sources near the Galactic Centre; fluxes [TeV^-1 cm^-2 s^-1] at 1 TeV of H.E.S.S. publications.

    HESS J1745-290 (doi:10.1038/nature17147), G0.9+0.1 (doi:10.1051/0004-6361:200500022), HESS J1745-303
    (doi:10.1051/0004-6361:20079230).
    """
    cutoff = gj.ExponentialCutoffPowerLaw(index=2.14, amplitude=2.55e-12, reference=1.0, lambda_=1.0 / 10.7)
    return gj.Mixture(
        centre=gj.Source(cutoff, gj.Point(359.944, -0.046)),
        g09=gj.Source(gj.PowerLaw(2.40, 8.4e-13), gj.Point(0.872, 0.076)),
        j1745=gj.Source(gj.PowerLaw(2.71, 2.84e-12), gj.Gaussian(358.71, -0.64, 0.2)),
    )


def models(diffuse: gj.Source):
    """Functions of the parameters, with and without dark matter."""
    background, sources = gj.InstrumentBackground(), catalogue()

    def without(p):
        return gj.Mixture(
            diffuse=diffuse,
            sources=sources,
            background=background,
            weights={name: p[name] for name in ("diffuse", "sources")},
        )

    def model(p):
        signal = gj.Source(gj.DarkMatter("W", mass=p["mass"], sigma_v=SIGMA_V), gj.Einasto())
        return gj.Mixture(
            signal=signal,
            diffuse=diffuse,
            sources=sources,
            background=background,
            weights={name: p[name] for name in ("signal", "diffuse", "sources")},
        )

    return model, without


def truths(model, observed, events: int, signal: float = SIGNAL) -> dict:
    """Fractions that the fluxes make of so many events."""
    parts = model({"mass": MASS, "signal": SIGNAL, "diffuse": 0.01, "sources": 0.01}).components
    counts = {
        name: sum(float(gj.expected_counts(part, observed)) for path, part in parts.items() if path.startswith(name))
        for name in ("diffuse", "sources")
    }
    return {"mass": MASS, "signal": signal, **{name: number / events for name, number in counts.items()}}


@dataclasses.dataclass(frozen=True)
class Case:
    """What a fit assumes: names of parts, whether their fractions are free, and the events that fluxes refer to."""

    signal: str = "W"
    diffuse: str | None = "ridge"
    sources: str | None = "three"
    free: bool = True
    by_rates: bool = False  # fractions as the fluxes make them in 525 hours, not in as many hours as 1e8 events take


class Points(eqx.Module):
    """Simulated points with the density of every part [TeV^-1 sr^-1] there, normalised to one over the selection.

    Sums over points with weights 1 / density of the points are integrals, as in [`gammajax.forecast`][], which gives
    the same errors; here one set of points serves every combination of parts.
    """

    volume: np.ndarray  # [TeV sr] of each
    fixed: dict[str, np.ndarray]
    signals: dict[str, CubicSpline] = eqx.field(static=True)  # of ln mass
    counts: dict[str, float]  # in 525 hours
    log_counts: dict[str, CubicSpline] = eqx.field(static=True)  # of signals, at SIGMA_V

    @classmethod
    def init(cls, signals: dict[str, tuple], others: dict, observed, points: int = POINTS):
        """Signals, each a morphology with a spectrum as function of the mass, and other parts."""
        halos = {repr(halo): halo for halo, _ in signals.values()}
        parts, one = [*halos, *others], jnp.ones(())

        def union(p):
            spectrum = p["hard"] * HARD
            for name, (_, of) in signals.items():
                spectrum = spectrum + p[name] * of(p["mass"])
            bright = {name: gj.Source(spectrum, halo) for name, halo in halos.items()}
            return gj.Mixture(
                **bright, **others, background=gj.InstrumentBackground(), weights={n: p[n] for n in parts}
            )

        def at(mass=MASS, **values):
            return {n: values.get(n, 0.0) * one for n in ("hard", *signals, *parts)} | {"mass": mass * one}

        priors = {name: PRIORS["mass"] if name == "mass" else PRIORS["signal"] for name in at()}
        # photons near the mass are few in the signal, and tell most of it
        drawn = at(**dict.fromkeys(parts, 0.8 / len(parts)), **dict.fromkeys(signals, 1.0), hard=1.0)
        events = gj.simulate(jax.random.key(0), union(drawn), observed, events=points)
        posterior = gj.Posterior(union, priors, observed, events, compact=False)
        density = eqx.filter_jit(lambda posterior, p: posterior.density(p))
        expected = eqx.filter_jit(lambda posterior, p: posterior.expected_counts(p))
        used = np.asarray(posterior.count) > 0

        def densities(**values):
            return np.asarray(density(posterior, at(**values)), np.float64)[used]

        def counts(**values):
            found = {n: float(v.sum()) for n, v in expected(posterior, at(**values)).items()}
            return {
                part: sum(v for n, v in found.items() if n.split("/")[0] == part) for part in (*others, "background")
            } | {halo: found[halo] for halo in halos}

        grid, splines, log_counts = np.log(MASSES), {}, {}
        for name, (halo, _) in signals.items():
            one_hot = {repr(halo): 1.0, name: 1.0}
            splines[name] = CubicSpline(grid, np.stack([densities(mass=mass, **one_hot) for mass in MASSES]))
            log_counts[name] = CubicSpline(grid, np.log([counts(mass=mass, **one_hot)[repr(halo)] for mass in MASSES]))
        bright = dict.fromkeys(signals, 1.0)
        return cls(
            volume=1.0 / (points * densities(**{name: float(value) for name, value in drawn.items()})),
            fixed={"background": densities(**bright)} | {n: densities(**{n: 1.0}, **bright) for n in others},
            signals=splines,
            counts={name: value for name, value in counts(**bright).items() if name not in halos},
            log_counts=log_counts,
        )

    def truth(self, case: Case) -> np.ndarray:
        """True ln mass and fractions of signal, diffuse emission and sources."""
        names = case.diffuse, case.sources
        counts = np.array([self.counts[name] if name else 0.0 for name in names])
        total = self.counts["background"] + counts.sum() if case.by_rates else EVENTS
        return np.array([np.log(MASS), SIGNAL, *(counts / total)])

    def density(self, case: Case, theta) -> tuple[np.ndarray, np.ndarray]:
        """Density of the events and its derivatives by the free parameters, [row] and [row, parameter]."""
        signal, background = self.signals[case.signal], self.fixed["background"]
        parts = [self.fixed[name] if name else background for name in (case.diffuse, case.sources)]
        bright, change = signal(theta[0]), theta[1] * signal(theta[0], 1)
        if case.free:
            excess = [part - background for part in (bright, *parts)]
            # a part that there is not has no derivative
            there = [True, *(name is not None for name in (case.diffuse, case.sources))]
            value = background + sum(weight * part for weight, part in zip(theta[1:], excess, strict=True))
            return value, np.stack(
                [change, *(part for part, is_there in zip(excess, there, strict=True) if is_there)], 1
            )
        _, _, *shares = self.truth(case) / (1.0 - SIGNAL)
        rest = background + sum(share * (part - background) for share, part in zip(shares, parts, strict=True))
        return rest + theta[1] * (bright - rest), np.stack([change, bright - rest], 1)

    def covariance(self, case: Case, theta) -> np.ndarray:
        """Of ln mass and the fractions that are free, in the order of `truth`."""
        value, score = self.density(case, theta)
        return np.linalg.inv(EVENTS * (score * (self.volume / value)[:, None]).T @ score)

    def fit(self, made: Case, fitted: Case) -> np.ndarray:
        """Maximum of the likelihood of `fitted` for the expectation of `made`, by Fisher's scoring."""
        data, _ = self.density(made, self.truth(made))
        theta = self.truth(fitted)
        free = np.array([True, True, *(fitted.free and name is not None for name in (fitted.diffuse, fitted.sources))])
        for _ in range(100):
            value, score = self.density(fitted, theta)
            # the integral of the score is zero: subtracted, its error cancels
            gradient = EVENTS * score.T @ (self.volume * (data / value - 1.0))
            step = self.covariance(fitted, theta) @ gradient
            step *= min(1.0, 0.1 / np.abs(step[0]))
            theta[free] += step
            if not MASSES[0] < np.exp(theta[0]) < MASSES[-1]:
                raise ValueError(f"the fit of {fitted} to {made} leaves {MASSES[0]:g} to {MASSES[-1]:g} TeV")
            if np.abs(step[0]) < 1e-6:
                return theta
        raise ValueError(f"the fit of {fitted} to {made} does not converge")

    def row(self, made: Case, fitted: Case | None = None) -> dict[str, float]:
        """Mass [TeV], events of the signal and cross section [cm^3 s^-1], with standard deviations."""
        fitted = made if fitted is None else fitted
        theta = self.truth(made) if fitted == made else self.fit(made, fitted)
        covariance = self.covariance(fitted, theta)[:2, :2]
        log_counts = self.log_counts[fitted.signal]
        # ln sigma v is ln of the fraction minus ln of the counts at a given cross section
        slope = np.array([-float(log_counts(theta[0], 1)), 1.0 / theta[1]])
        sigma_v = SIGMA_V * theta[1] * EVENTS / float(np.exp(log_counts(theta[0])))
        return {
            "mass": float(np.exp(theta[0])),
            "mass_sd": float(np.exp(theta[0]) * np.sqrt(covariance[0, 0])),
            "signal_events": float(theta[1] * EVENTS),
            "signal_events_sd": float(EVENTS * np.sqrt(covariance[1, 1])),
            "sigma_v": float(sigma_v),
            "sigma_v_sd": float(sigma_v * np.sqrt(slope @ covariance @ slope)),
            "diffuse": float(self.truth(made)[2]),
            "sources": float(self.truth(made)[3]),
            "background_events_in_525h": self.counts["background"],
        }


def authors_response(folder, stack) -> Path:
    """The response that the authors' package reads unless told otherwise, with cuts for 5 hours."""
    name = "CTA-Performance-prod5-v0.1-South-20deg.FITS.tar.gz"
    place = Path(stack)
    with tarfile.open(Path(folder) / "package_data" / "irf_fits_files" / "prod5" / name) as archive:
        member = next(n for n in archive.getnames() if "AverageAz" in n and n.endswith(".18000s-v0.1.fits.gz"))
        archive.extract(member, place, filter="data")
    return place / member


def singlet(folder) -> gj.ParticleModel:
    """Cross sections of the scalar singlet by DarkSUSY, of the authors' package."""
    path = Path(folder) / "dark_matter/spectral_models/Z2_ScalarSinglet/annihilation_ratio_data"
    unseen = {"Zgamma": "invisible", "hadrons (below confinement scale)": "invisible"}
    axes = {"mass": "mS [GeV]", "coupling": "lahS"}
    return gj.io.read_particle_model(path / "annihilation_ratios__darkSUSY.csv", axes, channels=unseen)


def parts_of(options) -> tuple[dict, dict]:
    """Signals, each a morphology with a spectrum as function of the mass, and other parts."""
    table = singlet(options.gammabayes)
    survey = Path(options.gammabayes) / "package_data" / "hgps_catalog_v1.fits.gz"
    found = gj.io.catalog(survey, centre=(0.0, 0.0), radius=5.0, frame="galactic", energy_range=(0.03, 200.0))

    def of_w(mass):
        return gj.DarkMatter("W", mass=mass, sigma_v=SIGMA_V)

    def of_singlet(mass):
        return gj.DarkMatter(table.ratios(mass=mass, coupling=COUPLING), mass=mass, sigma_v=SIGMA_V)

    signals = {"W": (gj.Einasto(), of_w), "singlet": (gj.Einasto(), of_singlet), "W, NFW": (gj.NFW(), of_w)}
    others = {
        "ridge": ridge(),
        "three": catalogue(),
        "fermi": gj.io.read_cube(options.diffuse, "galactic", 0.0, 0.0, 6.0, 0.1),
        "survey": gj.Mixture(**{n.replace(" ", "_"): part for n, part in found.components.items()}),
    }
    return signals, others


def centred(**options):
    """One pointing at the Galactic Centre."""
    settings = {"energy_range": (0.2, 100.0), "offset_max": 3.0, **options}
    return [gj.io.ctao("South", pointing=(0.0, 0.0), frame="galactic", livetime=HOURS * 3600.0, **settings)]


def wobbling(number: int = WOBBLES):
    """Pointings 0.7 deg from the Galactic Centre, all around it, that share the time.

    Runs of one pointing and one response are one longer run to the likelihood, so 1125 runs of 28 minutes that look in
    so many directions are these.
    """
    angle = 2.0 * np.pi * np.arange(number) / number
    settings = {"energy_range": (0.2, 100.0), "offset_max": 3.0, "livetime": HOURS * 3600.0 / number}
    places = [(0.7 * np.cos(a), 0.7 * np.sin(a)) for a in angle]
    return [
        gj.io.ctao("South", pointing=at, frame="galactic", obs_id=str(i), **settings) for i, at in enumerate(places)
    ]


def variants(options, keep) -> None:
    """Intervals without noise, one assumption changed at a time; `keep` is told every row."""
    signals, others = parts_of(options)
    base, nearest = Case(), Case("singlet", "fermi", "survey", free=False, by_rates=True)
    # sources change the errors by less than a hundredth: where the field changes they are left out
    few, alone = ({"W": signals["W"]}, {"ridge": others["ridge"]}), Case(sources=None)

    if "parts" in options.variants:
        points = Points.init(signals, others, observations())
        changes = {
            "base": base,
            "Fermi's map": Case(diffuse="fermi"),
            "singlet by table": Case(signal="singlet"),
            "sources of the survey": Case(sources="survey"),
            "no sources": alone,
            "NFW halo": Case(signal="W, NFW"),
            "fractions by rates": Case(by_rates=True),
            "composition fixed": Case(free=False),
        }
        for name, case in changes.items():
            keep("widths", name, points.row(case))
        keep("widths", "all but the field", points.row(nearest))
        keep("widths", "all but the field, fractions free", points.row(dataclasses.replace(nearest, free=True)))
        for name in ("Fermi's map", "singlet by table", "sources of the survey", "NFW halo"):
            try:
                keep("shifts", name, points.row(changes[name], base))
            except ValueError as error:  # by a ridge, Fermi's map is fitted with five times as much dark matter
                print(error, flush=True)
    if "pointing" in options.variants:
        keep("widths", "one pointing", Points.init(*few, centred()).row(alone))
    if "runs" in options.variants:
        keep("widths", "1125 runs at nine pointings", Points.init(*few, wobbling()).row(alone))
    if "energies" in options.variants:
        keep("widths", "energies from 0.1 TeV", Points.init(*few, observations(energy_range=(0.1, 100.0))).row(alone))
    if "response" in options.variants:
        with tempfile.TemporaryDirectory() as folder:
            path = authors_response(options.gammabayes, folder)
            settings = {"frame": "galactic", "energy_range": (0.2, 100.0), "offset_max": 3.0, "warn": False}
            runs = [
                gj.io.observation(path, pointing=place, livetime=HOURS * 1200.0, obs_id=str(i), **settings)
                for i, place in enumerate(POINTINGS)
            ]
            keep("widths", "response for 5 h", Points.init(*few, runs).row(alone))
    if "field" in options.variants:
        chosen = ("W", "singlet"), ("ridge", "fermi", "survey")
        points = Points.init(
            {name: signals[name] for name in chosen[0]}, {name: others[name] for name in chosen[1]}, centred(**FIELD)
        )
        keep("widths", "field and energies of the authors", points.row(alone))
        keep("widths", "all", points.row(nearest))
        keep("widths", "all, fractions free", points.row(dataclasses.replace(nearest, free=True)))


def nearest(options, keep) -> None:
    """Posterior of 1e8 events of the case that is nearest to the paper's."""
    signals, others = parts_of(options)
    halo, of = signals["singlet"]
    observed = centred(**FIELD)
    rest = gj.Mixture(diffuse=others["fermi"], sources=others["survey"], background=gj.InstrumentBackground())
    counts = dict.fromkeys(("diffuse", "sources", "background"), 0.0)
    for path, part in rest.components.items():
        counts[path.split("/")[0]] += float(gj.expected_counts(part, observed))
    shares = {name: counts[name] / sum(counts.values()) for name in ("diffuse", "sources")}
    rest = gj.Mixture(
        diffuse=others["fermi"], sources=others["survey"], background=gj.InstrumentBackground(), weights=shares
    )

    def model(p):
        return gj.Mixture(signal=gj.Source(of(p["mass"]), halo), rest=rest, weights={"signal": p["signal"]})

    priors = {name: PRIORS[name] for name in ("mass", "signal")}
    truth = {"mass": jnp.asarray(MASS), "signal": jnp.asarray(SIGNAL)}
    binning, key, row = gj.Binning.init(observed, **CELLS), jax.random.key(0), {}
    cells, row["simulate_s"] = timed(gj.simulate_cells, key, model(truth), observed, binning, events=options.events)
    print(f"{len(cells)} cells of {cells.total} events in {row['simulate_s']:.0f} s", flush=True)
    posterior, row["setup_s"] = timed(gj.Posterior, model, priors, observed, cells)
    print(f"set up in {row['setup_s']:.0f} s", flush=True)
    result, row["nuts_s"] = timed(gj.nuts, jax.random.key(1), posterior, draws=options.draws, chains=4, truths=truth)
    print(result.summary().to_string(), flush=True)
    shown = quoted(result, posterior, truth)
    for name, values in shown.samples.items():
        row[name], row[f"{name}_sd"] = float(np.median(values)), float(np.std(values))
        row[f"{name}_95"] = [float(edge) for edge in np.quantile(values, [0.025, 0.975])]
    no_signal = float(posterior.log_likelihood({**truth, "signal": jnp.zeros(())}))
    best = gj.fit(posterior, initial=truth)
    row |= {
        "ln_likelihood_over_no_signal": float(posterior.log_likelihood(best.parameters)) - no_signal,
        **{f"{name}_share": share for name, share in shares.items()},
        "events": options.events,
        "cells": len(cells),
        "background_events_in_525h": counts["background"],
        "memory_bytes": memory(),
    }
    keep("nuts", "all", row)


def quoted(result, posterior, truth) -> gj.Result:
    """Mass, cross section [cm^3 s^-1] and number of signal events: what the paper gives intervals of."""
    total = posterior.total

    def sigma_v(p):
        return SIGMA_V * posterior.flux_scales(p)["signal"]

    units = {"sigma_v": "cm$^3$ s$^{-1}$"}
    derived = result.derive(sigma_v=sigma_v, signal_events=lambda p: p["signal"] * total, units=units)
    return gj.Result.from_samples(
        {name: derived.tree["posterior"][name].to_numpy() for name in PUBLISHED},
        method="nuts",
        truths={"mass": MASS, "sigma_v": float(sigma_v(truth)), "signal_events": SIGNAL * total},
        units={**units, "mass": "TeV"},
    )


def figure(result, events):
    """Corner plot with the published intervals as bands."""
    drawn = result.plot_corner()
    axes = np.array(drawn.axes).reshape(3, 3)
    for i, (name, (low, high)) in enumerate(PUBLISHED.items()):
        scale = 10.0 ** np.floor(np.log10(abs(np.median(result.samples[name]))))
        scale = 1.0 if 0.1 <= scale <= 100.0 else scale
        axes[i, i].axvspan(low / scale, high / scale, color=COLOURS[2], alpha=0.35, lw=0, zorder=0)
    axes[0, 2].text(
        0.0,
        0.9,
        f"{events:.0e} events, 525 h\norange: intervals quoted in\narXiv 2401.13876",
        transform=axes[0, 2].transAxes,
        va="top",
    )
    return drawn


def closure(model, observed, truth, binning, events, seeds, key):
    """Pulls of fits to data sets of so many events."""
    parts = {name: part for name, part in model(truth).components.items() if isinstance(part, gj.Source)}
    engine = {name: gj.engines.PreparedKernel.init(part.morphology, observed) for name, part in parts.items()}
    pulls = {name: [] for name in truth}
    for seed in range(seeds):
        cells = gj.simulate_cells(jax.random.fold_in(key, seed), model(truth), observed, binning, events=events)
        best = gj.fit(gj.Posterior(model, PRIORS, observed, cells, engine=engine), initial=truth)
        for name, value in truth.items():
            pulls[name].append(float((best.parameters[name] - value) / best.standard_deviations[name]))
        print(seed, best, {name: round(values[-1], 2) for name, values in pulls.items()}, flush=True)
    return {
        name: {"mean_pull": float(np.mean(v)), "std_pull": float(np.std(v, ddof=1)), "pulls": v}
        for name, v in pulls.items()
    }


@rc_context(BOXED)
def draw(figures):
    """Intervals of 95 % by assumption, beside the published ones."""
    ours = json.loads((RESULTS / "paper-cpu.json").read_text())["intervals95"]
    rows = [("1e8 events, base", {n: (v["low"], v["median"], v["high"]) for n, v in ours.items()}, COLOURS[0])]
    for name, row in figures.get("nuts", {}).items():
        low_high = {n: row[f"{n}_95"] for n in PUBLISHED}
        rows.append((f"1e8 events, {name}", {n: (v[0], row[n], v[1]) for n, v in low_high.items()}, COLOURS[0]))
    for section, colour, suffix in (("widths", COLOURS[1], ""), ("shifts", COLOURS[3], ", fitted by base")):
        for name, row in figures[section].items():
            ends = {n: (row[n] - 1.96 * row[f"{n}_sd"], row[n], row[n] + 1.96 * row[f"{n}_sd"]) for n in PUBLISHED}
            rows.append((name + suffix, ends, colour))
    drawn, axes = plt.subplots(1, 3, figsize=(10.0, 0.28 * len(rows) + 1.4), sharey=True, layout="constrained")
    labels = {
        "mass": ("mass [TeV]", 1.0),
        "sigma_v": ("cross section\n[1e-25 cm$^3$ s$^{-1}$]", 1e-25),
        "signal_events": ("events of dark matter\n[1e5]", 1e5),
    }
    for axis, (name, (label, unit)) in zip(axes, labels.items(), strict=True):
        axis.axvspan(*(edge / unit for edge in PUBLISHED[name]), color=COLOURS[2], alpha=0.4, lw=0)
        for place, (_, ends, colour) in enumerate(rows):
            low, middle, high = (value / unit for value in ends[name])
            axis.plot([low, high], [place, place], color=colour, lw=2.5)
            axis.plot(middle, place, "o", color=colour, ms=4)
        axis.set_xlabel(label)
    axes[0].set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes[0].invert_yaxis()
    drawn.suptitle("95 % intervals; orange: arXiv 2401.13876; blue, purple: without noise", fontsize=10)
    return drawn


def keep(section: str, name: str, row: dict) -> None:
    """Put a row of the variants beside those of earlier runs."""
    path = RESULTS / "paper-2401-variants-cpu.json"
    figures = json.loads(path.read_text()) if path.exists() else {}
    figures.pop("machine", None)
    figures = {"widths": {}, "shifts": {}, **figures}
    figures.setdefault(section, {})[name] = row
    figures["published"] = {of: {"low": low, "high": high} for of, (low, high) in PUBLISHED.items()}
    print(name, {key: float(f"{value:.4g}") for key, value in row.items() if isinstance(value, float)}, flush=True)
    report("paper-2401-variants", figures)
    drawn = draw(figures)
    drawn.savefig(RESULTS / "paper-2401-variants.png", dpi=150)
    plt.close(drawn)


def main():
    """Simulate, compress, sample, compare with nothing, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--diffuse", help="file of Fermi's model of the Galaxy, such as gll_iem_v07.fits")
    parser.add_argument("--draws", type=int, default=500, help="of each of four chains")
    parser.add_argument("--smc", action="store_true", help="evidence by SMC too")
    parser.add_argument("--gammabayes", help="folder of the authors' package, gammabayes 0.1.9")
    parser.add_argument(
        "--variants", nargs="*", choices=VARIANTS, help="one assumption changed at a time, without noise"
    )
    parser.add_argument("--nearest", action="store_true", help="the case nearest to the paper's")
    parser.add_argument("--seeds", type=int, default=0, help="closure with so many data sets")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if options.variants is not None or options.nearest:
        options.variants = options.variants or VARIANTS
        if not (options.diffuse and options.gammabayes):
            parser.error("--variants and --nearest need --diffuse and --gammabayes")
        (nearest if options.nearest else variants)(options, keep)
        return
    begun = time.perf_counter()
    observed = observations()
    diffuse = (
        gj.io.read_cube(options.diffuse, "galactic", 0.0, 0.0, 6.0, 0.1, unit=None) if options.diffuse else ridge()
    )
    model, without = models(diffuse)
    # of a tenth of the events a thousandth would hardly be seen, and pulls of its mass mean little
    truth = truths(model, observed, 100_000_000, SIGNAL * 100_000_000 / options.events if options.seeds else SIGNAL)
    print({name: float(f"{value:.3g}") for name, value in truth.items()}, flush=True)
    truth = {name: jnp.asarray(value) for name, value in truth.items()}
    binning = gj.Binning.init(observed, **CELLS)
    key = jax.random.key(0)
    if options.seeds:
        parameters = closure(model, observed, truth, binning, options.events, options.seeds, key)
        figures = {"events": options.events, "seeds": options.seeds, "parameters": parameters}
        report("paper-closure", {**figures, "seconds": time.perf_counter() - begun})
        return
    cells, simulate_s = timed(gj.simulate_cells, key, model(truth), observed, binning, events=options.events)
    print(f"{len(cells)} cells of {cells.total} events in {simulate_s:.0f} s", flush=True)
    posterior, setup_s = timed(gj.Posterior, model, PRIORS, observed, cells)
    print(f"set up in {setup_s:.0f} s", flush=True)
    result, nuts_s = timed(gj.nuts, jax.random.key(1), posterior, draws=options.draws, chains=4, truths=truth)
    print(result.summary().to_string(), flush=True)
    shown = quoted(result, posterior, truth)
    figure(shown, options.events).savefig(RESULTS / "paper-2401-13876.png", dpi=150)
    intervals = {name: np.quantile(v, [0.025, 0.5, 0.975]).tolist() for name, v in shown.samples.items()}
    no_signal = gj.Posterior(without, {n: PRIORS[n] for n in ("diffuse", "sources")}, observed, cells)
    started = time.perf_counter()
    evidences = {"laplace": [gj.laplace(key, p).log_evidence for p in (posterior, no_signal)]}
    if options.smc:
        evidences["smc"] = [gj.smc(key, p).log_evidence for p in (posterior, no_signal)]
    report(
        "paper",
        {
            "events": options.events,
            "cells": len(cells),
            "simulate_s": simulate_s,
            "setup_s": setup_s,
            "nuts_s": nuts_s,
            "evidence_s": time.perf_counter() - started,
            "total_s": time.perf_counter() - begun,
            "memory_bytes": memory(),
            "messages": result.messages,
            "intervals95": {name: {"low": v[0], "median": v[1], "high": v[2]} for name, v in intervals.items()},
            "published": {name: {"low": v[0], "high": v[1]} for name, v in PUBLISHED.items()},
            "truth": {name: float(v) for name, v in truth.items()},
            "parameters": describe(result),
            "log_bayes_factor": {name: pair[0][0] - pair[1][0] for name, pair in evidences.items()},
        },
    )


if __name__ == "__main__":
    main()
