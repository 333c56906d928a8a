"""gammajax beside its peers, in one run: GammaBayes 0.1.9 and gammapy, on the same events and the same responses.

- GammaBayes, in a virtual environment of its own (`--venv` keeps it): marginals of events of an Einasto halo and the
  instrumental background of CTAO South at 41 masses, and simulation. gammajax computes the same twice: with the
  conventions of GammaBayes on its grid (`dense`), and as it does by itself (`kernel`).
- gammapy, of this environment: the binned 3-D likelihood of four runs of H.E.S.S. on the Crab nebula, against the
  unbinned one.

Set-up and first calls, which compile, are timed apart from repeated calls. Last line: JSON.
"""

import argparse
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from importlib import resources
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import gammajax as gj
from benchmarks import dense
from benchmarks.likelihood import median_seconds
from benchmarks.report import report
from gammajax.io.ctao_prod5 import EMBEDDED

REQUIREMENTS = ["gammabayes==0.1.9", "setuptools<81", "matplotlib<3.10", "pandas<3"]
PYTHON = "3.11"  # that these requirements are tried with
NUMBERS, MANY = (100, 1000), 100_000  # events: of GammaBayes, and of what is quick enough for more
MASS_NODE, FRACTION = 16, 0.2  # truth: a node of GammaBayes' masses, so that it has no error from their grid
EDGE = 2.6  # deg: the outer nodes, 2.5 deg, and half their distance

CRAB_RUNS = [23523, 23526, 23559, 23592]
CRAB = {"lon": 83.6287, "lat": 22.0147}
CRAB_ENERGIES, CRAB_OFFSET, CRAB_REFERENCE = (0.6, 50.0), 2.0, 1.45
CRAB_WIDTH = 7.2  # deg: two of the runs point 1.5 deg beside the nebula
# the lowest safe energies of the runs are edges, so that both likelihoods have the same events; then ten per decade
CRAB_EDGES = np.append(10.0 ** np.r_[-0.18, -0.15, np.arange(-0.06, 1.68, 0.1)] * (1.0 + 1e-9), CRAB_ENERGIES[1])
START = {"amplitude": 2.0, "index": 2.5, "norm": 1.0, "tilt": 0.0}  # of both fits
# 3-D analysis of these runs by Mohrmann et al. 2019 (arXiv:1910.08088)
PUBLISHED = {"amplitude": 1.731e-11, "amplitude_error": 0.083e-11, "index": 2.692, "index_error": 0.066}


def timed(call):
    """Seconds that a call takes, and what it returns."""
    started = time.perf_counter()
    value = jax.block_until_ready(call())
    return time.perf_counter() - started, value


def in_turn(call, repeats=5):
    """Seconds of the first call, and the median of others."""
    (seconds,), (first,) = median_seconds([call], repeats)
    return first, seconds


def environment(path: Path) -> Path | None:
    """Python of the virtual environment at `path` with GammaBayes, made unless it is complete; None with a message."""
    stamp, interpreter = path / "complete", path / "bin" / "python"
    if stamp.exists() and stamp.read_text().split("\n") == REQUIREMENTS:
        return interpreter
    here = ".".join(map(str, sys.version_info[:2])) == PYTHON
    base = sys.executable if here else shutil.which(f"python{PYTHON}")
    if base is None:
        print(f"GammaBayes is left out: it needs Python {PYTHON}, and there is no python{PYTHON} here", flush=True)
        return None
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS]
    for command in ([base, "-m", "venv", str(path)], pip):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = ["no reason", *(done.stdout + done.stderr).strip().splitlines()][-1]
            print(f"GammaBayes is left out: pip cannot install it ({reason})", flush=True)
            return None
    stamp.write_text("\n".join(REQUIREMENTS))
    return interpreter


def run_gammabayes(python: Path, folder: Path, given: dict) -> dict | None:
    """What benchmarks/peer_gammabayes.py writes for what it is given; None with a message."""
    np.savez(folder / "given.npz", **given)
    # -P: the other scripts in its folder are no modules for it
    script = [str(python), "-P", str(Path(__file__).with_name("peer_gammabayes.py")), "given.npz", "found.npz"]
    done = subprocess.run(script, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        print(f"GammaBayes is left out: it failed ({done.stderr.strip().splitlines()[-1]})", flush=True)
        return None
    with np.load(folder / "found.npz") as file:
        return {name: file[name] for name in file.files}


def halo_model(p):
    """Halo and instrumental background by their fractions of the detected events."""
    return gj.Mixture(
        signal=gj.Source(gj.DarkMatter("W", mass=p["mass"]), gj.Einasto()),
        background=gj.InstrumentBackground(),
        weights={"signal": p["fraction"]},
    )


def square(energies):
    """CTAO South, 50 h, with the cells of GammaBayes' reconstructed nodes for the selection."""
    step = np.sqrt(energies[1] / energies[0])
    # boxes outside the square: centre, width and height
    outside = [(0, 5, 20, 10 - 2 * EDGE), (0, -5, 20, 10 - 2 * EDGE), (5, 0, 10 - 2 * EDGE, 20)]
    outside.append((-5, 0, 10 - 2 * EDGE, 20))
    return gj.io.ctao(
        site="South",
        pointing=(0.0, 0.0),
        frame="galactic",
        livetime=180e3,
        energy_range=(energies[0] / step, energies[-1] * step),
        offset_max=1.01 * np.sqrt(2.0) * EDGE,
        exclusion="\n".join("galactic; box({}d,{}d,{}d,{}d,0)".format(*box) for box in outside),
    )


def nodes_of(events, reference):
    """Nearest reconstructed nodes (energy, lon, lat) of events, by index."""
    columns = [(np.log(events.energy), np.log(reference["E_recon"]))]
    lon = (np.asarray(events.lon) + 180.0) % 360.0 - 180.0
    columns += [(lon, reference["lon_recon"]), (events.lat, reference["lat_recon"])]
    index = [np.rint((np.asarray(x) - axis[0]) / (axis[1] - axis[0])).astype(int) for x, axis in columns]
    sizes = [axis.size for _, axis in columns]
    return np.stack([np.clip(i, 0, size - 1) for i, size in zip(index, sizes, strict=True)], 1)


def fraction(densities):
    """Mean and standard deviation of the signal's fraction, uniform prior, from densities [component, event]."""
    signal, background = densities
    nodes = np.linspace(0.0, 1.0, 2001)[1:-1]
    value = np.array([np.log(f * signal + (1.0 - f) * background).sum() for f in nodes])
    weight = np.exp(value - value.max())
    mean = np.average(nodes, weights=weight)
    return float(mean), float(np.sqrt(np.average((nodes - mean) ** 2, weights=weight)))


def accuracy(densities, exact):
    """Fraction at the true mass, its distance from the exact one, and the densities' errors; all [component, event]."""
    (mean, deviation), (truth, exact_deviation) = fraction(densities), fraction(exact)
    possible = exact > 0  # the halo ends at the mass
    errors = [float(np.median(np.abs(d[k] / e[k] - 1.0))) for d, e, k in zip(densities, exact, possible, strict=True)]
    member, exact_member = ((FRACTION * s) / (FRACTION * s + (1 - FRACTION) * b) for s, b in (densities, exact))
    return {
        "fraction": mean,
        "fraction_sd": deviation,
        "fraction_off_sd": (mean - truth) / exact_deviation,
        "signal_median_rel_err": errors[0],
        "background_median_rel_err": errors[1],
        "membership_max_err": float(np.abs(member - exact_member).max()),
    }


def densities_of(observation, events, mass, engine):
    """Densities lambda / N of halo and background at events."""
    mixture = halo_model({"mass": mass, "fraction": FRACTION})
    rows = []
    for part in mixture.components.values():
        counts = float(gj.expected_counts(part, observation, engine=engine))
        rows.append(np.asarray(gj.intensity(part, observation, events, engine=engine), float) / counts)
    return np.stack(rows)


@eqx.filter_jit
def kernel_table(posterior, masses):
    """Densities lambda / N [mass, row] of the halo."""

    def one(mass):
        part = posterior.model({"mass": mass, "fraction": FRACTION}).components["signal"]
        engine = posterior.engines["signal"]
        return engine.intensity(part) / engine.expected_counts(part).sum()

    return jax.lax.map(one, masses)


def kernel_figures(observation, events, masses, number):
    """Set-up, table of marginals and simulation of gammajax by itself."""
    priors = {"mass": dist.LogUniform(masses[0], masses[-1]), "fraction": dist.Uniform(0.0, 1.0)}
    masses, truth = jnp.asarray(masses, float), {"mass": masses[MASS_NODE], "fraction": FRACTION}
    first_setup, _ = timed(lambda: gj.Posterior(halo_model, priors, observation, events))
    setup, posterior = timed(lambda: gj.Posterior(halo_model, priors, observation, events))
    first, seconds = in_turn(lambda: kernel_table(posterior, masses))
    mixture = halo_model(truth)
    first_simulated, simulated = in_turn(lambda: gj.simulate(jax.random.key(1), mixture, observation, events=number))
    return {
        "first_setup_s": first_setup,
        "setup_s": setup,
        "first_marginal_s": first,
        "marginal_s": seconds,
        "marginal_per_event_s": seconds / number,
        "first_simulate_s": first_simulated,
        "simulate_s": simulated,
        "simulate_per_event_s": simulated / number,
    }


def dense_figures(reference, nodes, number):
    """Set-up and marginals [component, node] of gammajax with the grid and the conventions of GammaBayes."""
    with jax.enable_x64(True):
        index = jnp.asarray(np.stack([nodes[:, 0], nodes[:, 1] * reference["lat_recon"].size + nodes[:, 2]], 1))
        setup, case = timed(lambda: dense.Case(reference))
        arrays = {name: jnp.asarray(reference[name]) for name in ("logJ_Einasto", "logdNdE")}
        prior = jnp.asarray(reference["logprior_CCR_BKG"], float)
        tables = []

        def both():
            tables[:] = dense.dark_matter(case, arrays, index), dense.fixed(case, prior, index)
            return tables

        first, seconds = in_turn(both)
        signal, background = (np.asarray(table) for table in tables)
    figures = {"setup_s": setup, "first_marginal_s": first, "marginal_s": seconds}
    return figures | {"marginal_per_event_s": seconds / number}, signal, background


def common_unit(logs, reference):
    """Densities [TeV^-1 sr^-1] of GammaBayes' marginals: its weights of energy are too large by a constant."""
    step = np.log(reference["E_recon"][1] / reference["E_recon"][0])
    unit = np.exp(step) / step / np.radians(1.0) ** 2
    return unit * np.exp(np.stack([logs[0][:, MASS_NODE], logs[1]]))


def at_events(table, nodes, events):
    """Columns of a table [component, node] for events, by the indices (energy, lon, lat) of their nodes."""
    column = {tuple(node): i for i, node in enumerate(nodes.tolist())}
    return table[:, [column[tuple(node)] for node in events.tolist()]]


def gammabayes_figures(found, number, energies):
    """Seconds of GammaBayes, and its simulated mean of ln E from that of `energies` in its standard errors."""
    simulated = np.log(found[f"simulated_{number}"][:, 0])
    marginal, simulate = float(found[f"marginal_s_{number}"]), float(found[f"simulate_s_{number}"])
    return {
        "setup_s": float(found["setup_s"]),
        "marginal_s": marginal,
        "marginal_per_event_s": marginal / number,
        "simulate_setup_s": float(found["simulate_setup_s"]),
        "simulate_s": simulate,
        "simulate_per_event_s": simulate / number,
        "simulated_energy_off_errors": float((simulated.mean() - energies.mean()) / energies.std() * number**0.5),
    }


def against_gammabayes(python: Path, folder: Path) -> dict:
    """Figures of GammaBayes, and of gammajax with its conventions and by itself."""
    reference, _ = dense.load()
    masses = np.asarray(reference["masses"], float)
    mass = float(masses[MASS_NODE])
    observation, truth = square(reference["E_recon"]), halo_model({"mass": mass, "fraction": FRACTION})
    first_simulated, events = timed(lambda: gj.simulate(jax.random.key(0), truth, observation, events=MANY))
    nodes = nodes_of(events, reference)
    names = [f"{axis}_{kind}" for kind in ("recon", "true") for axis in ("E", "lon", "lat")]
    with resources.as_file(resources.files("gammajax") / "data" / EMBEDDED["South", 20, 50]) as path:
        given = {name: reference[name] for name in (*names, "masses", "pointing", "livetime_s")} | {
            "mass": mass,
            "fraction": FRACTION,
            "response": str(path.resolve()),
            "events": np.stack([reference[name][nodes[: max(NUMBERS), i]] for i, name in enumerate(names[:3])], 1),
            "numbers": np.array(NUMBERS),
        }
        found = run_gammabayes(python, folder, given)
    if found is None:
        return {}
    rows = {"gammabayes": {}, "gammajax_dense": {}, "gammajax_kernel": {}}
    for number in (*NUMBERS, MANY):
        few, where = events[:number], nodes[:number]
        ours = {"gammajax_kernel": kernel_figures(observation, few, masses, number)}
        kernel = densities_of(observation, few, mass, "kernel")
        # direct takes long for many, and kernel has been compared with it by then
        exact = densities_of(observation, few, mass, "direct") if number in NUMBERS else kernel
        errors = accuracy(kernel, exact)
        ours["gammajax_kernel"] |= errors if number in NUMBERS else {k: errors[k] for k in ("fraction", "fraction_sd")}
        occupied = np.unique(where, axis=0)
        ours["gammajax_dense"], *logs = dense_figures(reference, occupied, number)
        if number in NUMBERS:
            assert np.array_equal(occupied, found[f"nodes_{number}"])
            theirs = [found[f"{name}_{number}"] for name in ("signal", "background")]
            off = [np.abs(a - b)[b > dense.REPRESENTED].max() for a, b in zip(logs, theirs, strict=True)]
            ours["gammajax_dense"]["max_abs_diff_of_log"] = float(max(off))
            ours["gammabayes"] = gammabayes_figures(found, number, np.log(reference["E_recon"])[nodes[:, 0]])
            ours["gammabayes"] |= accuracy(at_events(common_unit(theirs, reference), occupied, where), exact)
        ours["gammajax_dense"] |= accuracy(at_events(common_unit(logs, reference), occupied, where), exact)
        for name, row in ours.items():
            rows[name][str(number)] = row
            print(number, name, row, flush=True)
    rows["gammajax_kernel"][str(MANY)]["first_simulate_s"] = first_simulated  # before all others
    return {"mass_TeV": mass, "fraction_injected": FRACTION, **rows}


def crab_model(p):
    """Power law at the position of the Crab nebula, background with free norm and tilt."""
    spectrum = gj.PowerLaw(index=p["index"], amplitude=1e-11 * p["amplitude"], reference=CRAB_REFERENCE)
    return gj.Mixture(
        crab=gj.Source(spectrum, gj.Point(**CRAB)),
        background=gj.InstrumentBackground(norm=p["norm"], tilt=p["tilt"]),
    )


def crab_gammajax(path: Path) -> dict:
    """Unbinned extended likelihood."""
    priors = {
        "index": dist.Uniform(1.5, 4.0),
        "amplitude": dist.Uniform(0.1, 10.0),
        "norm": dist.Uniform(0.2, 5.0),
        "tilt": dist.Uniform(-1.0, 1.0),
    }

    def prepare():
        read = gj.io.read_gadf(path, obs_ids=CRAB_RUNS, offset_max=CRAB_OFFSET, energy_range=CRAB_ENERGIES)
        return gj.Posterior(crab_model, priors, read)

    first_setup, _ = timed(prepare)
    setup, posterior = timed(prepare)
    start = {name: jnp.asarray(value) for name, value in START.items()}
    value = eqx.filter_jit(lambda posterior, p: posterior.log_likelihood_ratio(p))
    gradient = eqx.filter_jit(lambda posterior, p: jax.value_and_grad(posterior.log_likelihood_ratio)(p))
    (value_s, gradient_s), (first_value, first_gradient) = median_seconds(
        [lambda: value(posterior, start), lambda: gradient(posterior, start)]
    )
    first_fit, _ = timed(lambda: gj.fit(posterior, initial=start).parameters)
    fit_s, best = timed(lambda: gj.fit(posterior, initial=start))
    assert best.converged
    return {
        "counts": len(posterior.events),
        "first_setup_s": first_setup,
        "setup_s": setup,
        "first_value_s": first_value,
        "value_s": value_s,
        "first_value_and_grad_s": first_gradient,
        "value_and_grad_s": gradient_s,
        "first_fit_s": first_fit,
        "fit_s": fit_s,
        "amplitude": 1e-11 * float(best.parameters["amplitude"]),
        "amplitude_error": 1e-11 * float(best.standard_deviations["amplitude"]),
        "index": float(best.parameters["index"]),
        "index_error": float(best.standard_deviations["index"]),
    }


def crab_datasets(path: Path, stacked: bool):
    """Gammapy's datasets of the four runs, or one: pixels of 0.02 deg, twenty true energies per decade."""
    import astropy.units as u
    from astropy.coordinates import SkyCoord
    from gammapy.data import DataStore
    from gammapy.datasets import MapDataset
    from gammapy.makers import DatasetsMaker, MapDatasetMaker, SafeMaskMaker
    from gammapy.maps import MapAxis, WcsGeom

    energy = MapAxis.from_energy_edges(CRAB_EDGES * u.TeV)
    true = MapAxis.from_energy_bounds(0.3 * u.TeV, 100.0 * u.TeV, nbin=20, per_decade=True, name="energy_true")
    centre = SkyCoord(CRAB["lon"], CRAB["lat"], unit="deg")
    geom = WcsGeom.create(skydir=centre, binsz=0.02, width=CRAB_WIDTH, axes=[energy])
    maker = DatasetsMaker(
        [MapDatasetMaker(), SafeMaskMaker(["aeff-default", "offset-max"], offset_max=CRAB_OFFSET * u.deg)],
        stack_datasets=stacked,
        cutout_mode="partial",
        cutout_width=2.0 * CRAB_OFFSET * u.deg,
    )
    empty = MapDataset.create(geom, energy_axis_true=true, name="crab")
    return maker.run(empty, DataStore.from_dir(path).get_observations(CRAB_RUNS))


def crab_gammapy(path: Path, stacked: bool) -> dict:
    """Binned likelihood with gammapy's own models and fit."""
    import astropy.units as u
    from gammapy.modeling import Fit
    from gammapy.modeling.models import FoVBackgroundModel, PointSpatialModel, PowerLawSpectralModel, SkyModel

    first_setup, _ = timed(lambda: crab_datasets(path, stacked))
    setup, datasets = timed(lambda: crab_datasets(path, stacked))
    spectrum = PowerLawSpectralModel(reference=CRAB_REFERENCE * u.TeV)
    place = PointSpatialModel(lon_0=CRAB["lon"] * u.deg, lat_0=CRAB["lat"] * u.deg, frame="icrs")
    place.lon_0.frozen = place.lat_0.frozen = True
    backgrounds = [FoVBackgroundModel(dataset_name=dataset.name) for dataset in datasets]
    shape = backgrounds[0].spectral_model
    shape.tilt.frozen = False
    for background in backgrounds[1:]:
        background.spectral_model.norm, background.spectral_model.tilt = shape.norm, shape.tilt
    datasets.models = [SkyModel(spectrum, place, name="nebula"), *backgrounds]

    def start():
        spectrum.amplitude.quantity = START["amplitude"] * 1e-11 * u.Unit("TeV-1 cm-2 s-1")
        spectrum.index.value, shape.norm.value, shape.tilt.value = START["index"], START["norm"], START["tilt"]

    def value():
        spectrum.index.value += 1e-3  # it keeps the counts of unchanged models
        return datasets.stat_sum()

    def fit():
        start()
        return Fit().run(datasets)

    start()
    first_value, value_s = in_turn(value, 31)
    first_fit, _ = timed(fit)
    fit_s, best = timed(fit)
    assert best.success
    return {
        "counts": int(sum(dataset.counts.data[dataset.mask_safe.data].sum() for dataset in datasets)),
        "first_setup_s": first_setup,
        "setup_s": setup,
        "first_value_s": first_value,
        "value_s": value_s,
        "first_fit_s": first_fit,
        "fit_s": fit_s,
        "amplitude": float(spectrum.amplitude.value),
        "amplitude_error": float(spectrum.amplitude.error),
        "index": float(spectrum.index.value),
        "index_error": float(spectrum.index.error),
    }


def against_gammapy() -> dict:
    """Figures of both on the Crab nebula, beside the published ones."""
    # takes seconds, which are no part of anyone's set-up
    for module in ("gammapy.makers", "gammapy.modeling.models"):
        importlib.import_module(module)

    data = os.environ.get("GAMMAPY_DATA")
    path = Path(data or ".") / "hess-dl3-dr1"
    if data is None or not path.is_dir():
        print("gammapy is left out: GAMMAPY_DATA names no folder with hess-dl3-dr1", flush=True)
        return {}
    for file in path.rglob("*.fits*"):
        file.read_bytes()  # neither reads from a cold disk
    figures = {
        "gammajax": crab_gammajax(path),
        "gammapy, joint": crab_gammapy(path, stacked=False),
        "gammapy, stacked": crab_gammapy(path, stacked=True),
        "published": PUBLISHED,
    }
    print(figures, flush=True)
    return {"crab": figures}


def main():
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, help="folder of GammaBayes' environment, kept; by default a temporary one")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # gammapy's on units and on what a fit tries
    started, figures = time.perf_counter(), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = environment((options.venv or folder / "venv").absolute())
        if python is not None:
            figures |= against_gammabayes(python, folder)
    figures |= against_gammapy()
    report("peers", {"run_s": time.perf_counter() - started, **figures})


if __name__ == "__main__":
    main()
