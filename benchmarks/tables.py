"""Write benchmarks/RESULTS.md, and the comparison in README.md, from the JSON files in benchmarks/results.

`python -m benchmarks.tables`
"""

import json
import re

from benchmarks.report import RESULTS

ABOUT = {
    "accelerator": (
        "python -m benchmarks.accelerator",
        "Likelihood, set-up, samplers, free shapes and simulation in ten minutes; all sizes times `scale`, 0.01 on a "
        "CPU. `value_bytes_per_s`, `gradient_bytes_per_s`: bytes of the kernel, read once for a value and twice with a "
        "gradient, against `copy_bytes_per_s` and `read_bytes_per_s` of the same array. Large posteriors are the rows "
        "of the demonstration, tiled. `seconds` of samplers with compilation. On a CPU shared with other work.",
    ),
    "accuracy": (
        "python -m benchmarks.accuracy",
        "Relative errors. Cases: `kernel_*` kernel against direct where the intensity exceeds 1e-4 (and 1e-6) of its "
        "maximum at that energy; `direct_*` direct against numpy quadrature with gammapy's IRF objects; `npred` "
        "expected counts against "
        "gammapy's `MapDataset`; `closure` integral of the kernel's intensity over the selected region against its own "
        "expected counts, minus one. `free`: round shapes by the engine of free ones, prepared for positions within "
        "0.2 deg and sizes of 0.03 to 0.5 deg, against direct at other values (size in the name), and their counts. "
        "Target: 1 % (3 % down to 1e-6), median 0.2 %, npred 0.5 %, closure 1e-4.",
    ),
    "checks": (
        "python -m benchmarks.checks",
        "p-values of `gammajax.check`. `without_fault`: Kolmogorov and Smirnov's test of uniformity, fraction below "
        "0.05 and mean, by test; `rough`: of replicates that keep the parameters of the data's fit. `faults`: p-value "
        "of all tests together, and the test with the smallest. Figure: [checks.png](results/checks.png).",
    ),
    "check-regions": (
        "python -m benchmarks.check_regions",
        "p-values of `gammajax.check` of ON and OFF events without a fault: Kolmogorov and Smirnov's test of "
        "uniformity, fraction below 0.05 and mean, by test.",
    ),
    "closure": (
        "python -m benchmarks.closure --events 1000000 --seeds 20",
        "Pulls of the fit on simulated events (truth: 2 % signal, 2 TeV). Target: mean within 0.7, standard deviation "
        "0.7 to 1.3. `closure-from-20`: the next twenty seeds (`--first 20`). Their `against_nuts_1e5`: shift and "
        "ratio of NUTS against the fit; one of two chains sat in a far peak for 80 of 500 draws; R-hat reported it.",
    ),
    **{
        f"closure-{shape}": (
            f"python -m benchmarks.closure --shape {shape} --events 1000000 --seeds 6",
            f"Pulls of a {source} with a power law, 5 % of the events: fraction, index, position and size free. "
            "Target: mean within 0.7, standard deviation 0.7 to 1.3.",
        )
        for shape, source in {"gaussian": "Gaussian source", "disk": "disk source", "shell": "shell source"}.items()
    },
    "closure-check": (
        "python -m benchmarks.closure --seeds 0",
        "1e5 events, in the standard deviations of the fit: four chains of NUTS against the fit, `exact_*` of the "
        "posterior on a grid against the fit, and `nuts_quantiles_off` (16, 50, 84 %) of NUTS against the grid. A "
        "second peak of the mass, forty deviations away, has 0.02 % of the posterior.",
    ),
    "dense": (
        "python -m benchmarks.dense",
        "Marginals with the conventions of GammaBayes 0.1.9, from response tables: 4438 occupied nodes, 41 masses, "
        "55 x 26 x 26 true nodes. `max_abs_err`: largest difference of log-marginals from GammaBayes' own in reference "
        "case A. Target: 3 s after compilation and 1e-6.",
    ),
    "fold": (
        "python -m benchmarks.fold",
        "CTAO South. Relative deviations of the fold engine from the direct engine where the intensity exceeds 1e-4 of "
        "its maximum at that energy, and of gradients in parameters of shape and position from central differences. "
        "Target: 1 %, median 0.2 %. `value_s`, `value_and_grad_s`: a posterior with a free position, extension and "
        "index, by number of events; `ratio_to_kernel`: to value and gradient with position and extension fixed.",
    ),
    "joint_crab": (
        "python -m benchmarks.joint_crab",
        "Log-parabola of the Crab Nebula at 1 TeV from published OGIP spectra: value and error of each parameter (beta "
        "of the common logarithm), beside the published ones (doi:10.1051/0004-6361/201834938); "
        "`off_in_published_errors`: difference of value and of error. Target: 0.2. `joint_scales_nuts`: means and "
        "standard deviations of the posterior. `seconds` with set-up and compilation, on two cores shared with other "
        "work. Figure: [joint-crab.png](../docs/images/joint-crab.png).",
    ),
    "likelihood": (
        "python -m benchmarks.likelihood --events 1000000 --bands 48",
        "`read_s` is `jnp.sum` over the kernel in the same process. Target: `value_and_grad_s` at most 3 times it; "
        "`setup_s` at most 30 on two cores.",
    ),
    "one-pass": (
        "python -m benchmarks.one_pass",
        "Value and gradient of a kernel's likelihood in one pass over memory, in units of the time of reading; "
        "`two passes` is the package's way. Target: 1.3. XLA on a CPU copies the blocks of a loop and does not keep "
        "them in the cache between two products, so none of the ways wins reliably, and none is in the package. The "
        "kernel of Pallas is right in interpret mode (`tests/test_one_pass.py`); its speed is not measured, for want "
        "of an accelerator. Another process ran at the same time.",
    ),
    "peers": (
        "python -m benchmarks.peers",
        "Other packages on the same events and response files, in the same run. `gammabayes`: GammaBayes 0.1.9 as "
        "released, halo and instrumental background of CTAO South at 41 masses, on the axes of its reference case; "
        "`gammajax_dense`: its conventions on the same true grid, with its priors as given (`max_abs_diff_of_log`: "
        "difference of marginals); `gammajax_kernel`: gammajax's own engine, without grid. Seconds are for repeated "
        "calls; `first_*` includes compilation, which later rows partly reuse; GammaBayes is called once. Errors are "
        "against the direct engine (for 100000 events against kernel), which interpolates the same background table "
        "as kernel; they include GammaBayes' shift of events to nodes. `fraction_off_sd`: error of the signal's "
        "fraction at the true mass, in its standard deviation; `membership_max_err`: error of an event's signal "
        "probability; `simulated_energy_off_errors`: error of the mean ln E of simulated events, in standard errors. "
        "`crab`: unbinned extended likelihood and gammapy's binned one for four H.E.S.S. runs; fits from the same "
        "start, each run from its own safe energy. gammapy's stacked response ignores that these energies differ; the "
        "joint fit uses them.",
    ),
    "campaign": (
        "python -m benchmarks.campaign",
        "A campaign of many runs, each row in a process of its own: RX J1713.7-3946 in 15 runs of H.E.S.S. with index, "
        "amplitude, norm and tilt of the background (`fixed`), position and size too (`free`), and a cut-off, norm and "
        "tilt of each run too (`per-run`); 60 runs with as many responses, and 1125 runs of 28 min of CTAO with their "
        "own pointings, livetimes and thresholds, both simulated; whole runs of the command line (`cold`). "
        "`cold_total_s`: from the start of the process to the end of its first fit, imports and reading included, "
        "with an empty folder of compiled programs; `warm_total_s`: with a filled one. `compile_s` and `compilations` "
        "are of that first part, `fit_s` of a second fit. gammapy's joint fit has an energy axis for each run, which "
        "begins at its threshold; stacked, the runs share their edges. `off_joint_errors`: gammajax minus gammapy's "
        "joint fit, in its errors. Target: 0.5. `published`: arXiv 1910.08088, with a template of the excess as "
        "morphology.",
    ),
    "samplers": (
        "python -m benchmarks.samplers",
        "The problem of `make demo`, 1e5 events. `largest_shift_sd`: shift of medians from dynesty, in standard "
        "deviations; `evidence_shift_errors`: shift in combined errors; `ratio_to_dynesty`: ratio of seconds at equal "
        "error of the evidence. Target: 0.1, 2, and 1.5 for nested, 1 for smc.",
    ),
    "targets": (
        "python -m benchmarks.targets",
        "Densities with known moments and evidence, 50 seeds. Target: mean of the pulls of log Z within 0.4, standard "
        "deviation 0.8 to 1.2; means and covariances within 4 Monte-Carlo errors. smc on the slab and spike has 60 "
        "moves, as its warning recommends: with the default 8 the mean is -0.3, the deviation 1.7, and most runs warn.",
    ),
    "calibration": (
        "python -m benchmarks.calibration",
        "Ranks of the truth among draws, prior draw to inference. Target: inside the simultaneous 95 % band, p above "
        "0.01, coverage within binomial errors. `inside_joint_band`: 95 % for the four parameters together; ranks "
        "leave one of four 95 % bands by chance in up to 19 % of the cases. All methods use the same simulations "
        "(nuts more of them), so common deviations come from the simulations. `mean_rank_sigma`: deviation of the "
        "mean rank from one half, in its standard deviations. The run continues after the simulations in the file.",
    ),
    "calibration-from-1000": (
        "python -m benchmarks.calibration --methods nuts --first 1000",
        "As `calibration`, with the next thousand simulations.",
    ),
    "calibration-extended": (
        "python -m benchmarks.calibration_extended",
        "As `calibration`, with absolute fluxes: the number of events is data. Cases: free position and size "
        "(`shape`), response (`response`), smooth correction of the background (`background`). Only the cases in the "
        "file have run. Figures: [background](results/calibration-extended-background.png), "
        "[shape](results/calibration-extended-shape.png), [response](results/calibration-extended-response.png).",
    ),
    "calibration-closure": (
        "python -m benchmarks.calibration --closure 20",
        "Pulls of fits to a million events of the model of `calibration`, with truths from its priors: a bias of a "
        "twentieth of a standard deviation at 2000 events would be 1.1 standard deviations here.",
    ),
    "forecast": (
        "python -m benchmarks.forecast",
        "A faint point source on the background of two hours of CTAO South, and of forty (`--hours 40`). `below`: "
        "fraction of the experiments without the source with a limit below the bands of `gj.sensitivity` (-2 to 2 "
        "standard deviations), to compare with `expected_below`; `significance_median`: median over experiments with "
        "the flux of a median discovery; expected: 5.",
    ),
    "compression": (
        "python -m benchmarks.compression",
        "Cells against the same 1e5 single events. `lost`: largest fraction of the information lost on any combination "
        "of the parameters; `errors_*`: factor on the standard deviation of each parameter. Few events make the "
        "difference: the last digits are random.",
    ),
    "scale": (
        "python -m benchmarks.scale --events 10000000 --energy-per-decade 20 --pixel 0.2 --peak",
        "A thousandth of the events from dark matter of 1 TeV at the Galactic Centre. Seconds of each step; "
        "`likelihood_bytes_per_s`: value and gradient, which read the kernel once each; with cells, rows are cells. "
        "`setup_peak_over_kept`: memory; for few rows most of it is for the fold.",
    ),
    "scale-2e7": (
        "python -m benchmarks.scale --events 20000000 --draws 0 --peak",
        "As above, with single events and without sampling. Target: `setup_peak_over_kept` 1.2, "
        "`likelihood_bytes_per_s` at least 60 % of `copy_bytes_per_s`. Another process ran during the set-up.",
    ),
    "scaling": (
        "python -m benchmarks.scaling",
        "Seconds of value and gradient, bytes kept (`table_bytes`: for 60 x 60 values per event). Figure: "
        "[scaling.png](results/scaling.png).",
    ),
    "paper": (
        "python -m benchmarks.paper_2401_13876",
        "The analysis of arXiv 2401.13876, from simulation to posterior and evidence, with 1e8 events in "
        "cells; the paper gives no time. Target: 15 minutes on two cores for simulation, cells and NUTS. Intervals of "
        "95 %; the cross section for the same number of events depends on halo, pointings and selection, which differ "
        "from the paper's. Figure: [paper-2401-13876.png](results/paper-2401-13876.png).",
    ),
    "paper-2412": (
        "python -m benchmarks.paper_2412_17172 --live 100 --draws 1000",
        "Seven annihilation channels with free ratios, flat on the simplex, from 2e7 events with a signal of six "
        "errors (arXiv 2412.17172 asks this of 525 hours; its table of ratios is not here, see the docstring). "
        "`evidence`: of the first channels of `truth`, by number. With a signal this weak, one channel of another mass "
        "stands for all, and more pay for their priors. Loaded machine: seconds are about twice those of a quiet one. "
        "Figure: [paper-2412-17172.png](results/paper-2412-17172.png).",
    ),
    "paper-2401-variants": (
        "python -m benchmarks.paper_2401_13876 --variants --diffuse gll_iem_v07_gc.fits.gz --gammabayes FOLDER",
        "As `paper`, without noise, with one assumption changed at a time. `widths`: standard deviations by the Fisher "
        "information of 1e8 events, 1e5 of them of dark matter, and the cross section that these are; `sources` zero: "
        "left out, compare with `no sources`. `shifts`: events of the changed model fitted by the base one; by a "
        "ridge, Fermi's map is fitted with several times as much dark matter, at another mass. The published standard "
        "deviations are 0.028 TeV and 1.0e4 events, a quarter of the widths of the intervals. "
        "docs/coming-from/gammabayes.md says what follows. Figure: "
        "[paper-2401-variants.png](results/paper-2401-variants.png).",
    ),
    "paper-closure": (
        "python -m benchmarks.paper_2401_13876 --events 10000000 --seeds 10",
        "Pulls of fits of the same model to 1e7 events in cells, 1e5 of them from dark matter. Target: mean within "
        "1, standard deviation 0.6 to 1.4.",
    ),
    "outside": (
        "python -m benchmarks.outside",
        "The model of `gammajax run galactic-centre`, with events that numpy draws from gammapy's response, by "
        "rejection in double precision and without gammajax (`benchmarks.outside_numpy`). `fits`: those events fitted "
        "by gammajax, as single events and in cells; target: pulls within 3. `p_values`: the same number of events of "
        "`gj.simulate`, compared by component (Kolmogorov-Smirnov of one variable, chi2 of histograms of two); the "
        "smallest of so many tests is expected near their inverse. `more signal`: three million photons of each. "
        "Figure: [outside.png](results/outside.png).",
    ),
    "outside-1e8": (
        "python -m benchmarks.outside --wide --events 100000000",
        "As `outside`, 1e8 events in wide cells. Target: 3. `before`: dispersions averaged over a cell by four "
        "points of energy. `after`: by exact means, on the same events; with `--seed 1` projections to true energies "
        "are whole, too, which before lost 3.4e-4 of every dispersion. An error of the fraction is 1.1e-4.",
    ),
    "off_runs": (
        "python -m benchmarks.off_runs",
        "The background tables of 45 H.E.S.S. runs without a source, with a norm for each run, and a smooth correction "
        "that they share. `chi2_before` and `chi2_after`: of counts against those expected, of all runs together. "
        "`gain`: of ln L of runs that the fit has not seen, in ten parts; its error is the scatter of the runs. "
        "`gain_of_fit`: on the runs of the fit. On two cores shared with other work. "
        "Figure: [off_runs.png](results/off_runs.png).",
    ),
    "off_runs-calibration": (
        "python -m benchmarks.off_runs --calibration 40",
        "Corrections and norms from the prior, simulated in three of the runs, and ranked in the Gaussian of the fit. "
        "Target: inside the band, and standard deviations of pulls of one. `[i]` of `shape`: values at nodes of "
        "energy, of offset, and two gradients.",
    ),
    "faults": (
        "python -m benchmarks.faults",
        "`kills`: SIGKILL at random moments of each phase, one after the other in the same run, which then ends with "
        "`--resume`: `episodes` of up to four kills, and those with the bits of an undisturbed run. `disk`: results on "
        "a disk with so much room, and `resumed` when there is more. `checkpoints`: with one byte flipped or cut short "
        "at random places; `unchanged`: a byte of the archive's bookkeeping, all arrays as before; `wrong`: other "
        "arrays, or more than one line. `folders`: two runs write one. `caches`: of compiled programs. `files`: "
        "mutated, `read` or refused in `one_line`; `failed`: traceback, or more than 30 s. `one_line`: no traceback.",
    ),
    "flux-points": (
        "python -m benchmarks.flux_points",
        "Flux points of the Crab nebula from four H.E.S.S. runs, beside gammapy's 3-D analysis of the same runs. "
        "`slices`: bins of reconstructed energy, beside its FluxPointsEstimator, the background fitted in each bin "
        "(`reoptimized`) or kept (`fixed`). `steps`: bins of true energy, its fit of the same definition; larger "
        "errors, and anticorrelated neighbours. `off`, `limit_off`: differences in gammapy's errors. "
        "Figure: [flux-points.png](results/flux-points.png).",
    ),
    "light-curve": (
        "python -m benchmarks.light_curve",
        "Light curve of RX J1713.7-3946 in 15 H.E.S.S. runs, beside gammapy's LightCurveEstimator on the same runs. "
        "`off`: difference in its errors. `chi_square`, `p_value`: of a constant flux. "
        "Figure: [light-curve.png](results/light-curve.png).",
    ),
    "limits": (
        "python -m benchmarks.limits",
        "Limits on annihilation to b quarks in a dwarf galaxy, J fixed, events in cells, free norm of the background. "
        "`below_bands`: share of experiments without a signal whose limit lies below the median and the ends of the "
        "expected bands. The bands are of events that are not binned, the experiments of coarse cells: they differ. "
        "`coverage`: share of experiments with a signal of the median limit at 3 TeV whose limit lies "
        "above it. `within_binomial`: 99 % of the distribution of that share. Figure: "
        "[limits.png](results/limits.png).",
    ),
    "systematics": (
        "python -m benchmarks.systematics",
        "Data with an effective area 10 % larger and energies 5 % higher than in the files, fitted with the response "
        "of the `files`, and with a `free` one under priors as wide as these errors: pulls of each data set. `pulls`: "
        "with area and scale drawn from their priors, by the Gaussian of the fit; the likelihood of a scale has bumps, "
        "which that error does not see. `cost`: milliseconds of processor time of a value with gradient for a point "
        "source, by number of events and free field. On two cores shared with other work. "
        "Figure: [systematics.png](results/systematics.png).",
    ),
    "on-off": (
        "python -m benchmarks.on_off",
        "ON and OFF regions with few counts, by the number of expected ON counts of the source: bias of the maximum "
        "relative to the truth, its scatter, and coverage of intervals, unbinned, in cells with the background "
        "integrated out (conjugate), and by wstat. `calibration`: ranks of the truth, of 200 simulations. "
        "Figure: [on-off.png](results/on-off.png).",
    ),
    "counts": (
        "python -m benchmarks.counts",
        "Expected counts of H.E.S.S. runs by an independent quadrature of the tables (`counts`), and relative "
        "differences from it. `gammapy_20_true`: its maps with 20 bins of true energy per decade; `at_source`: its "
        "exposure and dispersion at the source in place of the maps'; `area_at_reconstructed`: the quadrature with "
        "the area at the reconstructed direction. `gammapy_10_bins`: of its background, with 10 bins of reconstructed "
        "energy per decade. docs/physics.md explains the differences.",
    ),
    "bias": (
        "python -m benchmarks.bias --pointings 1 --direct 0 --background 2.5e8 --events 1e9 --sets 10",
        "`expected`: biases at 1e8 events in standard deviations, by term and parameter, without noise: of "
        "intensities in all cells that do not add up to the expected counts, and of the shape of the background in "
        "cells against an integral of its table. Target: 0.1 each, their sum 0.3. `details`: `excess` is the sum over "
        "cells divided by the counts, minus one. `background_only`: fraction of a signal of 1 TeV in events of the "
        "background alone. `fit_1e9`: pulls of the model of `paper` with the number of events in `fit`. Before "
        "energies of cells were integrated exactly, that fraction was 3.3e-4 +- 0.8e-4, and the signal of the paper's "
        "model too high by 3.0e-4 (5.4 standard deviations at 5e8 events): the cells of the halo added up to 1.07e-4 "
        "more than its counts, those of a point source to 9e-4 less, the counts of the background were 2.6e-5 too "
        "high, and those of free images 5.2e-4. `sets`: pulls of ten parts of 1e8 events. The figures here are "
        "of several runs put together, at the first pointing, without single events; those of the paper's model are "
        "of an earlier version and lack the shape of the background. "
        "Figure: [bias.png](results/bias.png).",
    ),
    "ts-map": (
        "python -m benchmarks.ts_map",
        "Map of TS of one more point source, four H.E.S.S. runs on the Crab, 200 x 200 pixels, against gammapy's "
        "`TSMapEstimator` of the same events in the same run. `off_*`: relative differences where gammapy's sqrt(TS) "
        "is above 5; `rms_difference_elsewhere` of sqrt(TS), where gammapy has negative fluxes and this map zero. "
        "Target: 5 %, and a quarter of gammapy's time.",
    ),
    "simulate": ("python -m benchmarks.simulate", "Target: 3e5 events per second on two cores."),
}

PAIR = 2  # a value with its error
TWO = ({"files", "free"}, {"off_in_published_errors"})  # columns that hold two results in a pair, if all are there


def number(value, between: str = " +- ") -> str:
    """Four significant digits, two decimals for a logarithm of evidence; empty for None."""
    if isinstance(value, dict):
        parts = {name: part for name, part in value.items() if not isinstance(part, list) or len(part) == PAIR}
        return ", ".join(f"{name} {number(part, between)}" for name, part in parts.items())
    if isinstance(value, list):
        return between.join(map(number, value))
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.2f}"
    return "" if value is None else str(value)


def rows(figures: dict) -> list[str]:
    """Markdown tables: scalars first, then each dict of dicts as a table of its own."""
    tables = {k: v for k, v in figures.items() if isinstance(v, dict) and all(isinstance(r, dict) for r in v.values())}
    plain = {k: v for k, v in figures.items() if k not in tables and not isinstance(v, list)}
    lines = []
    if plain:
        lines = ["| " + " | ".join(plain) + " |", "|" + " --- |" * len(plain)]
        lines += ["| " + " | ".join(number(v) for v in plain.values()) + " |", ""]
    for name, table in tables.items():
        heads = list(dict.fromkeys(k for row in table.values() for k, v in row.items() if not isinstance(v, list)))
        lines += [f"| {name} | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
        two = {head for names in TWO if names <= set(heads) for head in names}
        for key, row in table.items():
            cells = (number(row.get(head, ""), " and " if head in two else " +- ") for head in heads)
            lines.append(f"| {key} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def seconds(value: float) -> str:
    """A time with two digits, in a unit of its size."""
    factor, unit = next((pair for pair in ((1e6, "us"), (1e3, "ms")) if value * pair[0] < 1e3), (1.0, "s"))
    value *= factor
    return f"{value:.{0 if value >= 10.0 else 1}f} {unit}"


def comparison() -> str:
    """Markdown table against other tools, from the results."""
    campaign, peers = (json.loads((RESULTS / f"{name}-cpu.json").read_text()) for name in ("campaign", "peers"))
    lines = ["| two CPU cores | gammajax | the other |", "| --- | --- | --- |"]
    tools = ("gammajax", "gammapy_joint", "gammapy_stacked")
    first = campaign["fixed"]["gammajax"]
    lines.append(f"| **RX J1713.7-3946, {first['runs']} runs, {first['events']} events** | | **gammapy 2.1, binned** |")
    for case, words in (("fixed", "Gaussian, fixed"), ("free", "Gaussian, position and size free")):
        rows = [campaign[case][tool] for tool in tools]
        for key, what in (
            ("cold_total_s", "from cold to the fit"),
            ("fit_s", "the fit again"),
            ("value", "one likelihood, here with its gradient"),
        ):
            times = [row[key] if key in row else row.get("value_and_grad_s", row.get("value_s")) for row in rows]
            ours, joint, stacked = map(seconds, times)
            lines.append(f"| {words}: {what} | {ours} | joint {joint}, stacked {stacked} |")
    ours, theirs = (peers[tool]["1000"] for tool in ("gammajax_kernel", "gammabayes"))
    lines.append("| **dark matter, 1000 events of CTAO** | | **GammaBayes 0.1.9** |")
    for key, what in (
        ("setup_s", "set-up"),
        ("marginal_s", "marginal likelihoods of all events for 41 masses"),
        ("simulate_s", "simulation"),
    ):
        lines.append(f"| {what} | {seconds(ours[key])} | {seconds(theirs[key])} |")
    return "\n".join(lines)


def write_readme() -> None:
    """Put the comparison between its two marks in README.md."""
    path = RESULTS.parent.parent / "README.md"
    marks = "<!-- comparison -->", "<!-- /comparison -->"
    table = f"{marks[0]}\n\n{comparison()}\n\n{marks[1]}"
    path.write_text(re.sub(f"{marks[0]}.*{marks[1]}", lambda _: table, path.read_text(), flags=re.DOTALL))


def two_papers() -> dict:
    """Numbers of the analyses of two papers, which notebooks/15_two_papers.ipynb shows beside its own."""
    names = "paper", "paper-2401-variants", "paper-2412"
    whole, variants, channels = (json.loads((RESULTS / f"{name}-cpu.json").read_text()) for name in names)
    widths = {name: {k: row[k] for k in ("mass_sd", "signal_events_sd")} for name, row in variants["widths"].items()}
    return {
        "2401.13876": {k: whole[k] for k in ("events", "truth", "published", "intervals95", "nuts_s")} | {"sd": widths},
        "2412.17172": {k: channels[k] for k in ("events", "truth", "intervals95", "evidence", "nuts_s")},
    }


def main():
    """Read every result and write the pages."""
    write_readme()
    (RESULTS.parents[1] / "notebooks" / "two_papers.json").write_text(json.dumps(two_papers(), indent=1) + "\n")
    lines = ["# Benchmarks", "", "Written by `python -m benchmarks.tables` from the files in `results`.", ""]
    for path in sorted(RESULTS.glob("*.json")):
        figures = json.loads(path.read_text())
        machine = figures.pop("machine")
        name = path.stem.rsplit("-", 1)[0]  # without the device
        for model, terms in figures.pop("expected", {}).items():
            figures[f"expected, {model}"] = terms
        for method, row in figures.get("methods", {}).items():
            if "parameters" in row:
                figures = {**figures, f"{method}, parameter": row.pop("parameters")}
        command, about = ABOUT.get(name) or ABOUT[name.split("-")[0]]
        versions = ", ".join(f"{k} {v}" for k, v in machine.items() if k not in ("device", "processor"))
        lines += [f"## {path.stem}", "", f"`{command}`", "", about, ""]
        lines += [f"Machine: {machine['processor']}; {machine['device']}; {versions}.", "", *rows(figures)]
    (RESULTS.parent / "RESULTS.md").write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
