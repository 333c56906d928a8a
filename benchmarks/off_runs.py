"""Off runs: the background of the response files against 45 H.E.S.S. runs without a source, and a smooth correction.

The runs of the first public data release (doi:10.5281/zenodo.1421098) with the target "Off data", and their background
tables (Mohrmann et al. 2019, doi:10.1051/0004-6361/201936452); bright sources in the fields are not excluded, as
there. Each run has its own norm; the correction is shared: splines in ln E' and offset, gradients in the field of view.

Residuals are counts in bins minus those expected, without and with the correction, of all runs together, by energy,
offset and position angle: expected counts are sums over simulated events (`gj.simulate`), which share nothing with the
engine. The log-likelihood gain is cross-validated: numbers of the correction from nine tenths of the runs, ln L of the
rest with and without it, each at the best norms of its runs. `--calibration` instead simulates corrections from the
prior, and ranks the truth in the Gaussian of the fit (Talts et al. 2018, arXiv:1804.06788).
"""

import argparse
import json
import os
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from matplotlib import rc_context
from scipy.optimize import minimize
from scipy.stats import norm as normal

import gammajax as gj
from benchmarks.calibration import figures
from benchmarks.report import RESULTS, report
from gammajax.engines import BackgroundEngine, Rows
from gammajax.plots.style import BOXED, COLOURS

ENERGY_RANGE, OFFSET = (0.25, 40.0), 2.0  # TeV, deg; runs begin at their own thresholds
FOLDS = 10
WIDTHS = {"energy_scale": 0.2, "offset_scale": 0.1, "gradient": 0.1}
# nodes of energy [TeV] and offset [deg], and degree of the gradients
KINDS = {
    "energy": ([0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 25.0], [], 0),
    "offset": ([], [0.0, 0.5, 1.0, 1.5, 2.0], 0),
    "gradients": ([], [], 1),
    "degree 2": ([], [], 2),
    "all": ([0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 25.0], [0.0, 0.5, 1.0, 1.5, 2.0], 1),
    "fewer nodes": ([0.3, 1.2, 5.0, 25.0], [0.0, 1.0, 2.0], 1),
    "more nodes": (np.geomspace(0.3, 25.0, 12).tolist(), np.linspace(0.0, 2.0, 9).tolist(), 1),
    "all, degree 3": ([0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 25.0], [0.0, 0.5, 1.0, 1.5, 2.0], 3),
}
CHOSEN = "all"
SIMULATED = 40  # times the data, for expected counts in bins
RANKED = 3  # runs of a simulation


def widened(kind) -> dist.MultivariateNormal:
    """Prior of the numbers of a kind; powers of a coordinate of two degrees have widths that fall with them."""
    energy, offset, degree = KINDS[kind]
    gradient = [WIDTHS["gradient"] / OFFSET**k for k in range(degree)] or 1.0
    return gj.correction_prior(energy, offset, degree, **{**WIDTHS, "gradient": gradient})


def background(kind, numbers, norm=1.0) -> gj.InstrumentBackground:
    """Background with these numbers of the correction; None for none."""
    correction = None if numbers is None else gj.BackgroundCorrection.of(numbers, *KINDS[kind])
    return gj.InstrumentBackground(norm=norm, correction=correction)


class Fields(eqx.Module):
    """Value of ln L of each run at its best norm, as a function of the numbers of the correction."""

    engine: BackgroundEngine
    count: jax.Array
    kind: str = eqx.field(static=True)

    @eqx.filter_jit
    def __call__(self, numbers, chosen):
        """Sum over the chosen runs, relative to no correction, and its gradient."""

        def value(numbers):
            return (chosen * (self.each(numbers) - self.each(0.0 * numbers))).sum()

        return jax.value_and_grad(value)(numbers)

    @eqx.filter_jit
    def each(self, numbers):
        """Sum over events of ln(lambda / N): norms cancel."""
        expected = self.engine(background(self.kind, numbers))
        rows = self.count * jnp.log(jnp.where(self.count > 0, expected.intensity, 1.0))
        runs = expected.counts.shape[0]
        sums = jnp.zeros(runs).at[self.engine.observation].add(rows)
        return sums - jnp.zeros(runs).at[self.engine.observation].add(self.count) * jnp.log(expected.counts.sum(1))

    @classmethod
    def of(cls, kind, observations, rows) -> "Fields":
        """Set-up for the events of all runs."""
        zeros = background(kind, jnp.zeros(widened(kind).event_shape))
        engine = BackgroundEngine.init(zeros, observations, rows)
        return cls(engine, jnp.asarray(rows.count, float), kind)

    def best(self, chosen) -> np.ndarray:
        """Numbers of the highest posterior, given the chosen runs."""
        prior = widened(self.kind)
        # independent numbers of width one: L-BFGS needs few steps
        factor = np.asarray(prior.scale_tril, np.float64)

        def minus(z):
            found, gradient = self(jnp.asarray(factor @ z), jnp.asarray(chosen, float))
            return 0.5 * z @ z - float(found), z - factor.T @ np.asarray(gradient, np.float64)

        return factor @ minimize(minus, np.zeros(len(factor)), jac=True, method="L-BFGS-B").x


def validated(observations, rows) -> dict:
    """Cross-validated gain of ln L of each kind of correction, over no correction."""
    random = np.random.default_rng(0)
    fold = random.permutation(np.arange(len(observations)) % FOLDS)
    found = {}
    for kind in KINDS:
        started = time.perf_counter()
        fields = Fields.of(kind, observations, rows)
        prepared = time.perf_counter() - started
        gain = np.zeros(len(observations))
        for held in range(FOLDS):
            numbers = jnp.asarray(fields.best(fold != held))
            gain += (fold == held) * np.asarray(fields.each(numbers) - fields.each(0.0 * numbers))
        best = jnp.asarray(fields.best(np.ones(len(observations))))
        within = float(fields(best, jnp.ones(len(observations)))[0])
        found[kind] = {
            "numbers": int(best.size),
            "gain": float(gain.sum()),
            "gain_error": float(gain.std(ddof=1) * np.sqrt(gain.size)),
            "runs_improved": int((gain > 0).sum()),
            "gain_of_fit": within,
            "prepare_s": prepared,
            "seconds": time.perf_counter() - started,
        }
        print(kind, json.dumps(found[kind]), flush=True)
    return found


def fitted(events, observations) -> tuple[dict, gj.Fit]:
    """Fit of all runs by `gj.fit`: a norm for each, and the shared correction with its covariance."""
    runs = len(observations)

    def model(p):
        return gj.Mixture(background=background(CHOSEN, p["shape"], jnp.exp(p["log_norm"])))

    priors = {"shape": widened(CHOSEN), "log_norm": dist.Normal(0.0, 0.5).expand([runs])}
    started = time.perf_counter()
    posterior = gj.Posterior(model, priors, observations, events, progress=False)
    prepared = time.perf_counter() - started
    fit = gj.fit(posterior, progress=False)
    seconds = time.perf_counter() - started
    value = jax.jit(lambda posterior, p: jax.value_and_grad(posterior.log_likelihood_ratio)(p)[1])
    jax.block_until_ready(value(posterior, fit.parameters))
    again = time.perf_counter()
    for _ in range(10):
        jax.block_until_ready(value(posterior, fit.parameters))
    each = (time.perf_counter() - again) / 10
    return {
        "events": len(events),
        "runs": runs,
        "parameters": len(fit.names),
        "converged": bool(fit.converged),
        "scatter_of_norms": float(np.std(np.asarray(fit.parameters["log_norm"]))),
        "prepare_s": prepared,
        "fit_s": seconds - prepared,
        "value_and_grad_s": each,
    }, fit


def coordinates(events, observations) -> dict[str, np.ndarray]:
    """Energy, offset, and position angle about the pointing [deg] of events."""
    offset, angle = np.zeros((2, len(events)))
    for number, observation in enumerate(observations):
        mine = events.observation == number
        lon, lat = (
            np.asarray(c, float)
            for c in observation.fov_coordinates(*map(jnp.asarray, (events.lon[mine], events.lat[mine])))
        )
        offset[mine] = np.asarray(observation.offset(jnp.asarray(events.lon[mine]), jnp.asarray(events.lat[mine])))
        angle[mine] = np.degrees(np.arctan2(lon, lat)) % 360.0
    return {"energy": events.energy, "offset": offset, "angle": angle}


EDGES = {
    "energy": np.geomspace(0.25, 40.0, 18),
    "offset": np.linspace(0.0, OFFSET, 14),
    "angle": np.linspace(0.0, 360.0, 19),
}


def residuals(events, observations, fit) -> dict:
    """Counts by energy, offset and position angle, and those expected before and after; each with best norms."""
    measured = coordinates(events, observations)
    counts = np.bincount(events.observation, minlength=len(observations))
    found = {
        name: {"edges": EDGES[name].tolist(), "counts": np.histogram(measured[name], EDGES[name])[0].tolist()}
        for name in EDGES
    }
    longer = [eqx.tree_at(lambda o: o.livetime, o, o.livetime * SIMULATED) for o in observations]
    for label, numbers in (("before", None), ("after", fit.parameters["shape"])):
        drawn = gj.simulate(jax.random.key(0), background(CHOSEN, numbers), longer)
        each = np.bincount(drawn.observation, minlength=len(observations))
        weight = (counts / np.maximum(each, 1))[drawn.observation]
        place = coordinates(drawn, observations)
        for name in EDGES:
            expected, second = (np.histogram(place[name], EDGES[name], weights=weight**k)[0] for k in (1, 2))
            seen = np.array(found[name]["counts"])
            error = np.sqrt(np.maximum(expected, 1.0) + second)
            found[name][label] = expected.tolist()
            found[name][f"error_{label}"] = error.tolist()
            found[name][f"chi2_{label}"] = float((((seen - expected) / error) ** 2).sum())
    for name in EDGES:
        found[name]["bins"] = EDGES[name].size - 1
    return found


def calibrated(observations, simulations: int, seed: int) -> None:
    """Report ranks of the truth in the Gaussian of the fit, for corrections from the prior."""
    kind, some = "fewer nodes", observations[:RANKED]
    priors = {"shape": widened(kind), "log_norm": dist.Normal(0.0, 0.3).expand([RANKED])}

    def model(p):
        return gj.Mixture(background=background(kind, p["shape"], jnp.exp(p["log_norm"])))

    kept, pulls, started = {}, [], time.perf_counter()
    for number in range(simulations):
        keys = jax.random.split(jax.random.key(1000 * seed + number), 3)
        truth = {name: prior.sample(k) for k, (name, prior) in zip(keys[:2], priors.items(), strict=True)}
        events = gj.simulate(keys[2], model(truth), some)
        fit = gj.fit(gj.Posterior(model, priors, some, events, progress=False), progress=False)
        pulls.append([])
        for name, value in truth.items():
            best, width = (np.asarray(of[name], np.float64) for of in (fit.parameters, fit.standard_deviations))
            for i, pull in enumerate((np.asarray(value, np.float64) - best) / width):
                of = kept.setdefault(f"{name}[{i}]", {"ranks": [], "held68": 0, "held95": 0})
                of["ranks"].append(round(float(normal.cdf(pull)), 4))
                of["held68"] += int(abs(pull) < 1.0)
                of["held95"] += int(abs(pull) < 2.0)
                pulls[-1].append(float(pull))
        print(number + 1, len(events), fit.converged, f"{time.perf_counter() - started:.0f} s", flush=True)
        if number % 10 == 9 or number == simulations - 1:
            found, each = figures(kept, time.perf_counter() - started), np.array(pulls)
            for i, of in enumerate(found["parameters"].values()):
                of |= {"mean_pull": float(each[:, i].mean()), "std_pull": float(each[:, i].std(ddof=1))}
            report("off_runs-calibration", {**found, "mean_pull": float(each.mean()), "std_pull": float(each.std())})


@rc_context(BOXED)
def plot(found: dict):
    """Residuals before and after, and the gains."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 7.2), layout="constrained")
    panels = figure.subplots(2, 3)
    labels = {"energy": "reconstructed energy [TeV]", "offset": "offset [deg]", "angle": "position angle [deg]"}
    colours = {"before": COLOURS[5], "after": COLOURS[0]}
    for axes, (name, label) in zip(panels[0], labels.items(), strict=True):
        of = found["residuals"][name]
        edges, seen = np.array(of["edges"]), np.array(of["counts"])
        middle = np.sqrt(edges[1:] * edges[:-1]) if name == "energy" else 0.5 * (edges[1:] + edges[:-1])
        for shift, (when, colour) in enumerate(colours.items()):
            expected, error = (np.array(of[k]) for k in (when, f"error_{when}"))
            kept = expected > 5
            ratio = seen[kept] / expected[kept] - 1.0
            x = middle * 1.02**shift if name == "energy" else middle + shift * 0.08 * np.diff(edges).mean()
            chi2 = f"{when}, $\\chi^2$ = {of[f'chi2_{when}']:.0f} of {of['bins']} bins"
            axes.errorbar(x[kept], ratio, error[kept] / expected[kept], fmt="o", ms=4, color=colour, label=chi2, lw=1.2)
        axes.axhline(0.0, color="0.3", lw=0.8)
        axes.set(xlabel=label, xscale="log" if name == "energy" else "linear")
        axes.set_ylim(*{"energy": (-0.4, 0.6), "offset": (-0.06, 0.09), "angle": (-0.06, 0.09)}[name])
        axes.legend(frameon=False, fontsize=9)
    panels[0][0].set_ylabel("counts / expected - 1")
    low, high = panels[1][0], panels[1][1]
    names = list(found["validation"])
    gains = [found["validation"][n]["gain"] for n in names]
    errors = [found["validation"][n]["gain_error"] for n in names]
    place = np.arange(len(names))[::-1]
    low.errorbar(gains, place, xerr=errors, fmt="o", color=COLOURS[1], ms=5)
    low.set_yticks(place, names)
    low.axvline(0.0, color="0.3", lw=0.8)
    low.set_xscale("symlog", linthresh=10.0)
    low.set(xlabel="cross-validated gain of ln L")
    energy = np.geomspace(*ENERGY_RANGE, 200)
    numbers, covariance = (np.array(found["shape"][k]) for k in ("numbers", "covariance"))
    for axes, part in ((high, "energy"), (panels[1][2], "offset")):
        x = energy if part == "energy" else np.linspace(0.0, OFFSET, 200)
        rows = basis(part, x)
        middle, width = rows @ numbers, np.sqrt(np.einsum("xi,ij,xj->x", rows, covariance, rows))
        axes.fill_between(x, np.expm1(middle - width), np.expm1(middle + width), color=COLOURS[2], alpha=0.5, lw=0)
        axes.plot(x, np.expm1(middle), color=COLOURS[0], lw=1.5)
        axes.axhline(0.0, color="0.3", lw=0.8)
        axes.set(xlabel=labels[part], ylabel="factor - 1", xscale="log" if part == "energy" else "linear")
    return figure


def basis(part: str, x) -> np.ndarray:
    """Factors of all numbers of the chosen correction in its part of energy, or of offset."""
    size = widened(CHOSEN).event_shape[0]
    correction = gj.BackgroundCorrection.of(np.zeros(size), *KINDS[CHOSEN])
    whole = (
        correction.basis(jnp.asarray(x), 0.0 * x, 0.0 * x) if part == "energy" else correction.field_basis(0.0 * x, x)
    )
    rows, energies = np.zeros((x.size, size)), len(KINDS[CHOSEN][0])
    mine = np.asarray(whole.energy if part == "energy" else whole.offset)
    first = 0 if part == "energy" else energies
    rows[:, first : first + mine.shape[1]] = mine
    return rows


def main():
    """Write residuals, gains and seconds, and the figure; or the calibration."""
    parser = argparse.ArgumentParser(description=__doc__)
    data = Path(os.environ.get("GAMMAPY_DATA", ".")) / "hess-dl3-dr1"
    parser.add_argument("--data", type=Path, default=data, help="folder of the H.E.S.S. data release")
    parser.add_argument("--calibration", type=int, default=0, help="simulations of a calibration instead")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"no H.E.S.S. data release in {options.data}: set GAMMAPY_DATA")
        return
    # pulls of single precision would be those of its rounding
    jax.config.update("jax_enable_x64", options.calibration > 0)
    started = time.perf_counter()
    events, observations = gj.io.read_off_runs(options.data, energy_range=ENERGY_RANGE, offset_max=OFFSET, warn=False)
    read = time.perf_counter() - started
    if options.calibration:
        calibrated(observations, options.calibration, options.seed)
        return
    rows = Rows.init(events, observations)
    found: dict = {"read_s": read, "folds": FOLDS}
    found["fit"], fit = fitted(events, observations)
    print(json.dumps(found["fit"]), flush=True)
    prior = fit.prior("shape")
    found["shape"] = {
        "numbers": np.asarray(prior.loc, float).tolist(),
        "errors": np.sqrt(np.diag(np.asarray(prior.covariance_matrix, float))).tolist(),
        "covariance": np.asarray(prior.covariance_matrix, float).tolist(),
    }
    found["residuals"] = residuals(events, observations, fit)
    print({name: {k: of[k] for k in of if "chi2" in k} for name, of in found["residuals"].items()}, flush=True)
    found["validation"] = validated(observations, rows)
    plot(found).savefig(RESULTS / "off_runs.png", dpi=110)
    report("off_runs", found)


if __name__ == "__main__":
    main()
