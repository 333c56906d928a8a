"""A campaign of many runs: set-up, compilation, fits and memory, beside gammapy's 3-D analysis of the same events.

Without options the source is the supernova remnant RX J1713.7-3946 in 15 runs of the first public H.E.S.S. data
release. Any other DL3 store: `--store --obs-ids --lon --lat --shape --size --reference --energy-range`.

- `fixed`: position and size fixed; index, amplitude, and norm and tilt of the background.
- `free`: position and size free, too.
- `per-run`: position, size, a spectrum with cut-off, norm and tilt of each run; fit, and NUTS.
- `responses-60`: `fixed` with as many responses as runs: 45 off runs of the store look at the source, too (simulated).
- `cta-1125`: `fixed` with 1125 simulated runs of 28 min of CTAO, each with its own pointing, livetime and threshold.
- `cold`: whole runs of the command line, import and reading included.

Each row comes from a process of its own, so that memory and compilations are its own. `cold_total_s`: from the start of
the process to the end of its first fit, with an empty folder of compiled programs; `warm_total_s`: with those that this
has left. Last line: JSON.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gammajax_command import LARGE_PAGES, TUNABLES

TARGET, OFF = "RX J1713.7-3946", "Off data"  # TARGET_NAME of the index of the H.E.S.S. store
# the size is that of the Gaussian that fits best; the rest as in Mohrmann et al. 2019 (arXiv:1910.08088)
SOURCE = {"lon": 258.3879, "lat": -39.7622, "size": 0.35, "reference": 1.15}
# below 0.3 TeV the tables of the background turn over; norm and tilt (0.5) do not describe these runs there, and
# results depend on the width of bins
ENERGIES, OFFSET = (0.3, 40.0), 2.0
# 3-D analyses of these runs by Mohrmann et al. 2019; their morphology is a template made of the excess
PUBLISHED = {
    "gammapy": {"amplitude": [1.331e-11, 0.047e-11], "index": [2.214, 0.035]},
    "ctools": {"amplitude": [1.286e-11, 0.049e-11], "index": [2.219, 0.044]},
}
AMPLITUDE = 1e-11  # TeV^-1 cm^-2 s^-1: amplitudes are in this unit
START = {"index": 2.2, "amplitude": 1.5, "lambda": 0.05, "norm": 1.0, "tilt": 0.0}
WOBBLE = 0.7  # deg, of simulated runs
CTA_RUNS, CTA_LIVETIME, CTA_OFFSET = 1125, 28 * 60.0, 2.0
CTA_THRESHOLDS, CTA_MOST = (0.5, 0.6, 0.7, 0.8, 1.0), 100.0  # TeV: the nights differ
JOINT_MOST = 100  # runs: gammapy keeps some ten MB for each of a joint fit
# chains start from the Laplace approximation: a short warm-up, and trajectories of three gradients
NUTS = {"warmup": 60, "target_accept": 0.65, "max_tree_depth": 2}
CASES = ("fixed", "free", "per-run", "responses-60", "cta-1125", "cold")
SIDES = ("gammajax", "gammapy_joint", "gammapy_stacked")
COMPILED = "/jax/core/compile/backend_compile_duration"


class Problem(NamedTuple):
    """A source, and which of its parameters are free; angles in deg, energies in TeV."""

    lon: float
    lat: float
    shape: str
    size: float
    reference: float
    pixel: float  # of gammapy's maps
    free: bool
    per_run: bool
    cutoff: bool
    start: dict


def problem_of(options, case) -> Problem:
    """The problem of a case."""
    free, per_run = case in ("free", "per-run"), case == "per-run"
    place = (options.lon, options.lat, options.shape, options.size, options.reference)
    return Problem(*place, options.pixel, free, per_run, per_run, START)


def model_of(problem, number):
    """Model, priors and start of `number` runs for gammajax."""
    import jax.numpy as jnp
    import numpyro.distributions as dist

    import gammajax as gj

    shapes = {
        "point": lambda lon, lat, _: gj.Point(lon, lat),
        "gaussian": gj.Gaussian,
        "disk": gj.Disk,
        "shell": lambda lon, lat, size: gj.Shell(lon, lat, size, 0.2 * SOURCE["size"]),
    }

    def model(p):
        amplitude = AMPLITUDE * p["amplitude"]
        if problem.cutoff:
            spectrum = gj.ExponentialCutoffPowerLaw(p["index"], p["lambda"], amplitude, problem.reference)
        else:
            spectrum = gj.PowerLaw(p["index"], amplitude, problem.reference)
        place = [p.get(name, getattr(problem, name)) for name in ("lon", "lat", "size")]
        return gj.Mixture(
            source=gj.Source(spectrum, shapes[problem.shape](*place)),
            background=gj.InstrumentBackground(norm=p["norm"], tilt=p["tilt"]),
        )

    priors = {"index": dist.Uniform(1.0, 4.0), "amplitude": dist.Uniform(0.01, 100.0)}
    if problem.cutoff:
        priors["lambda"] = dist.Uniform(0.0, 0.5)
    if problem.free:
        priors["lon"] = dist.Uniform(problem.lon - 0.5, problem.lon + 0.5)
        priors["lat"] = dist.Uniform(problem.lat - 0.5, problem.lat + 0.5)
        if problem.shape != "point":
            priors["size"] = dist.Uniform(0.2 * problem.size, 3.0 * problem.size)
    size = (number,) if problem.per_run else ()
    priors["norm"] = dist.Uniform(jnp.full(size, 0.2), 5.0)
    priors["tilt"] = dist.Uniform(jnp.full(size, -1.0), 1.0)
    given = {**problem.start, **{name: getattr(problem, name) for name in ("lon", "lat", "size")}}
    start = {name: jnp.full(prior.batch_shape, given[name], float) for name, prior in priors.items()}
    return model, priors, start


def targets(store, name) -> list[int]:
    """Runs of a store on a target."""
    from astropy.table import Table

    index = Table.read(store / "obs-index.fits.gz")
    return [int(i) for i in index["OBS_ID"][[str(target).strip() == name for target in index["TARGET_NAME"]]]]


def read(options, obs_ids):
    """Events and observations of runs of the store."""
    import gammajax as gj

    selection = {"offset_max": options.offset_max, "energy_range": options.energy_range}
    return gj.io.read_gadf(options.store, obs_ids=obs_ids, warn=False, **selection)


def around(options, number, random):
    """Pointings [deg] about the source, four wobbles with some scatter."""
    angle = 0.5 * np.pi * np.arange(number)
    north, east = WOBBLE * np.cos(angle), WOBBLE * np.sin(angle)
    north, east = north + random.normal(0.0, 0.1, number), east + random.normal(0.0, 0.1, number)
    return options.lon + east / np.cos(np.radians(options.lat)), options.lat + north


def plan(options, case) -> dict:
    """Runs of a simulated case, as columns; `response` is the number of a run in the store, or a site of CTAO."""
    random = np.random.default_rng(1)
    if case == "cta-1125":
        number = min(CTA_RUNS, options.runs or CTA_RUNS)
        lon, lat = around(options, number, random)
        return {
            "lon": lon,
            "lat": lat,
            "livetime": CTA_LIVETIME * random.uniform(0.8, 1.0, number),
            "energy_min": random.choice(CTA_THRESHOLDS, number),
            "energy_max": np.full(number, CTA_MOST),
            "offset_max": np.full(number, CTA_OFFSET),
            "response": np.where(np.arange(number) % 2, "North", "South"),
        }
    ids = [*options.obs_ids, *options.more_obs_ids]
    ids = ids if options.runs is None else ids[: options.runs]
    observations = read(options, ids).observations
    lon, lat = around(options, len(ids), random)
    for i, o in enumerate(observations[: len(options.obs_ids)]):
        lon[i], lat[i] = float(o.lon), float(o.lat)
    columns = ("livetime", "energy_min", "energy_max", "offset_max")
    return {
        "lon": lon,
        "lat": lat,
        **{name: np.array([float(getattr(o, name)) for o in observations]) for name in columns},
        "response": np.array(ids),
    }


def observations_of(options, runs):
    """Observations of gammajax for simulated runs."""
    import gammajax as gj

    rows = [dict(zip(runs, row, strict=True)) for row in zip(*runs.values(), strict=True)]
    if rows[0]["response"] in ("North", "South"):
        return [
            gj.io.ctao(
                str(row["response"]),
                pointing=(row["lon"], row["lat"]),
                livetime=row["livetime"],
                energy_range=(row["energy_min"], row["energy_max"]),
                offset_max=row["offset_max"],
                obs_id=str(i),
            )
            for i, row in enumerate(rows)
        ]
    stored = read(options, [int(row["response"]) for row in rows]).observations
    columns = ("lon", "lat", "livetime", "energy_min", "energy_max", "offset_max")
    return [
        gj.Observation(
            **{name: row[name] for name in columns}, response=o.response, fov_angle=o.fov_angle, obs_id=str(i)
        )
        for i, (row, o) in enumerate(zip(rows, stored, strict=True))
    ]


def simulate(options, case, file):
    """Write the runs of a case and their events."""
    import jax

    import gammajax as gj

    runs = plan(options, case)
    model, _, start = model_of(problem_of(options, case), len(runs["lon"]))
    events = gj.simulate(jax.random.key(0), model(start), observations_of(options, runs))
    columns = {name: np.asarray(getattr(events, name)) for name in ("energy", "lon", "lat", "observation")}
    np.savez(file, **{f"run_{k}": v for k, v in runs.items()}, **{f"event_{k}": v for k, v in columns.items()})


def load(file):
    """Runs and events, as columns, that `simulate` has written."""
    with np.load(file) as held:
        return tuple({k.removeprefix(p): held[k] for k in held.files if k.startswith(p)} for p in ("run_", "event_"))


def gammajax_row(options, case) -> dict:
    """Unbinned extended likelihood."""
    import equinox as eqx
    import jax

    import gammajax as gj
    from benchmarks.likelihood import median_seconds

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(seconds) if name == COMPILED else None
    )
    begun = time.perf_counter()
    if options.data:
        runs, columns = load(options.data)
        observations, events = observations_of(options, runs), gj.Events(**columns)
    else:
        events, observations = read(options, options.obs_ids)
    model, priors, start = model_of(problem_of(options, case), len(observations))
    read_s, begun = time.perf_counter() - begun, time.perf_counter()
    posterior = jax.block_until_ready(gj.Posterior(model, priors, observations, events, progress=False))
    setup_s, begun = time.perf_counter() - begun, time.perf_counter()
    best = gj.fit(posterior, initial=start, progress=False)
    row = {
        "runs": len(observations),
        "events": len(posterior.events),
        "total_s": time.time() - options.started,
        "read_s": read_s,
        "setup_s": setup_s,
        "first_fit_s": time.perf_counter() - begun,
        "compile_s": sum(compiled),
        "compilations": len(compiled),
        "converged": best.converged,
    }
    if options.once:
        return row
    gradient = eqx.filter_jit(lambda posterior, p: jax.value_and_grad(posterior.log_likelihood_ratio)(p))
    (row["value_and_grad_s"],), _ = median_seconds([lambda: gradient(posterior, start)], repeats=5)
    begun = time.perf_counter()
    row["fit_calls"] = gj.fit(posterior, initial=start, progress=False).calls
    row["fit_s"] = time.perf_counter() - begun
    values, errors = (numbered(found) for found in (best.parameters, best.standard_deviations))
    row["parameters"] = {name: [value, errors[name]] for name, value in values.items()}
    if case == "per-run" and options.draws:
        begun = time.perf_counter()
        result = gj.nuts(jax.random.key(1), posterior, draws=options.draws, chains=4, progress=False, **NUTS)
        row["nuts_s"] = time.perf_counter() - begun
        summary = result.summary()
        row |= {"nuts_r_hat": float(summary["r_hat"].max()), "nuts_ess": float(summary["ess_bulk"].min())}
        means, deviations = (
            numbered({name: getattr(np, of)(draws, axis=0) for name, draws in result.samples.items()})
            for of in ("mean", "std")
        )
        row["nuts_parameters"] = {name: [mean, deviations[name]] for name, mean in means.items()}
    row["peak_memory_bytes"] = peak()
    return row


def numbered(parameters: dict) -> dict[str, float]:
    """Numbers by name, as in `norm[0]`; amplitudes in TeV^-1 cm^-2 s^-1."""
    found = {}
    for name, value in parameters.items():
        values = np.asarray(value, float) * (AMPLITUDE if name == "amplitude" else 1.0)
        found |= {name: float(values)} if values.ndim == 0 else {f"{name}[{i}]": float(v) for i, v in enumerate(values)}
    return found


def gammapy_row(options, case, stacked) -> dict:
    """Binned likelihood with gammapy's own makers, models and fit."""
    from benchmarks import campaign_gammapy as peer
    from gammajax.io.ctao_prod5 import EMBEDDED

    problem = problem_of(options, case)
    if options.data:
        runs, events = load(options.data)
        columns = ("energy_min", "energy_max", "offset_max")
        selections = [peer.Selection(*row) for row in zip(*(runs[name] for name in columns), strict=True)]
        if runs["response"][0] in ("North", "South"):
            folder = resources.files("gammajax") / "data"
            responses = [str(folder / EMBEDDED[str(site), 20, 50]) for site in runs["response"]]
        else:
            responses = peer.stored(options.store, [int(i) for i in runs["response"]])
        found = peer.made(runs, events, responses)
    else:
        found = peer.stored(options.store, options.obs_ids)
        low, high = options.energy_range
        # as gammajax takes them; gammapy's makers would round them to bins
        selections = [
            peer.Selection(max(low, safe_low), min(high, safe_high), options.offset_max)
            for safe_low, safe_high in peer.safe_energies(found)
        ]
    row = peer.analyse(problem, found, selections, stacked, options.started)
    return {**row, "peak_memory_bytes": peak()}


def peak() -> float:
    """Largest memory of this process [bytes]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def child(options, case, side, folder, *more) -> dict:
    """Row of a case from a process of its own, with its compiled programs in `folder`."""
    given = [sys.executable, "-m", "benchmarks.campaign", *options.given, "--child", case, side, *more]
    # numpyro orders the fields of priors by hashes: without the seed, no program would be found again
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "0",
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        TUNABLES: LARGE_PAGES,  # as in docs/choose/index.md
    }
    try:
        done = subprocess.run(
            [*given, "--started", repr(time.time())],
            capture_output=True,
            text=True,
            env=environment,
            timeout=options.limit,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {options.limit:g} s"}
    if done.returncode:
        return {"failed": ["no reason", *done.stderr.strip().splitlines()][-1]}
    return json.loads(done.stdout.splitlines()[-1])


def measure(options, case) -> dict:
    """Rows of a case."""
    with tempfile.TemporaryDirectory() as name:
        folder, more = Path(name), []
        if case in ("responses-60", "cta-1125"):
            more = ["--data", str(folder / "data.npz")]
            made = child(options, case, "simulation", folder / "other", *more)
            if "failed" in made:
                return {"simulation": made}
        rows = {}
        for side in options.sides:
            if side == "gammapy_joint" and case == "cta-1125" and (options.runs or CTA_RUNS) > JOINT_MOST:
                continue
            row = child(options, case, side, folder / "programs", *more)
            if side == "gammajax" and "failed" not in row:
                warm = child(options, case, side, folder / "programs", *more, "--once")
                row = {"cold_total_s": row.pop("total_s"), "warm_total_s": warm.get("total_s"), **row}
                row |= {"warm_setup_s": warm.get("setup_s"), "warm_compile_s": warm.get("compile_s")}
            rows[side] = row
            print(case, side, {k: v for k, v in row.items() if k not in ("parameters", "nuts_parameters")}, flush=True)
        return rows


def cold(options) -> dict:
    """Whole runs of the command line, with an empty folder of compiled programs and with a filled one."""
    rows = {}
    for name in ("crab", "galactic-centre"):
        with tempfile.TemporaryDirectory() as folder:
            row = {}
            for kind in ("cold", "warm"):
                environment = {**os.environ, "GAMMAJAX_CACHE": f"{folder}/programs"}
                command = [Path(sys.executable).with_name("gammajax"), "run", name, "--no-progress", "--overwrite"]
                begun = time.perf_counter()
                subprocess.run([*command, "--out", f"{folder}/out"], check=True, capture_output=True, env=environment)
                row[f"{kind}_total_s"] = time.perf_counter() - begun
                log = (Path(folder) / "out" / "run.log").read_text().splitlines()
                times = [line.removeprefix("time for ").split(": ") for line in log if line.startswith("time for ")]
                row |= {f"{kind}_{step}_s": float(seconds.split()[0]) for step, seconds in times}
            rows[name] = row
            print(name, row, flush=True)
    return rows


def compared(rows) -> dict:
    """Parameters of gammajax minus gammapy's joint ones, in gammapy's errors."""
    ours, theirs = (rows.get(side, {}).get("parameters", {}) for side in SIDES[:2])
    return {name: (ours[name][0] - value) / error for name, (value, error) in theirs.items() if name in ours}


def arguments() -> argparse.Namespace:
    """Options, with what follows from them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--runs", type=int, help="no more runs than this, for development")
    parser.add_argument("--draws", type=int, default=500, help="of each of four chains of NUTS; 0 for none")
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds for one row")
    parser.add_argument("--store", type=Path, help="folder with a DL3 store")
    parser.add_argument("--obs-ids", type=int, nargs="+")
    parser.add_argument("--more-obs-ids", type=int, nargs="+", default=[], help="runs with further responses")
    parser.add_argument("--lon", type=float, default=SOURCE["lon"], help="right ascension [deg]")
    parser.add_argument("--lat", type=float, default=SOURCE["lat"], help="declination [deg]")
    parser.add_argument("--shape", choices=("point", "gaussian", "disk", "shell"), default="gaussian")
    parser.add_argument("--size", type=float, default=SOURCE["size"], help="sigma or radius [deg]")
    parser.add_argument("--reference", type=float, default=SOURCE["reference"], help="energy of the amplitude [TeV]")
    parser.add_argument("--energy-range", type=float, nargs=2, default=ENERGIES, help="TeV")
    parser.add_argument("--offset-max", type=float, default=OFFSET, help="deg")
    parser.add_argument("--pixel", type=float, default=0.04, help="of gammapy's maps [deg]")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.given = sys.argv[1:]
    if options.store is None:
        data = os.environ.get("GAMMAPY_DATA")
        options.store = Path(data or ".") / "hess-dl3-dr1"
        if data is None or not options.store.is_dir():
            parser.exit(
                message="nothing to do: GAMMAPY_DATA names no folder with hess-dl3-dr1, and there is no --store\n"
            )
        options.obs_ids = options.obs_ids or targets(options.store, TARGET)
        options.more_obs_ids = options.more_obs_ids or targets(options.store, OFF)
    elif not options.obs_ids:
        parser.error("a --store needs --obs-ids")
    if options.runs:
        options.obs_ids = options.obs_ids[: options.runs]
    options.energy_range = tuple(options.energy_range)
    return options


def main():
    """Measure and report."""
    options = arguments()
    if options.child:
        warnings.simplefilter("ignore")  # gammapy's on units and on what a fit tries
        case, side = options.child
        if side == "simulation":
            simulate(options, case, options.data)
            print("{}")
        elif side == "gammajax":
            print(json.dumps(gammajax_row(options, case)))
        else:
            print(json.dumps(gammapy_row(options, case, side == "gammapy_stacked")))
        return
    from benchmarks.report import RESULTS, report

    kept = not options.runs and options.lon == SOURCE["lon"]
    # cases and sides that were left out now stay as they are
    path = RESULTS / "campaign-cpu.json"
    figures = json.loads(path.read_text()) if kept and path.exists() else {}
    figures.pop("machine", None)
    for case in options.cases:
        figures[case] = figures.get(case, {}) | (cold(options) if case == "cold" else measure(options, case))
        if off := compared(figures[case]):
            figures[case]["off_joint_errors"] = {"parameters": off}
            print(case, "gammajax - gammapy joint, in its errors:", flush=True)
            for name, value in off.items():
                print(f"  {name:12s} {value:+.2f}", flush=True)
    if kept and "fixed" in figures:
        figures["fixed"]["published"] = {"parameters": PUBLISHED["gammapy"]}
        figures["fixed"]["published_ctools"] = {"parameters": PUBLISHED["ctools"]}
    figures = {case: figures[case] for case in CASES if case in figures}
    if kept:
        report("campaign", figures)
    else:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
