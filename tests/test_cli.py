import warnings

import jax
import pandas
import pytest
from typer.testing import CliRunner

from gammajax import __version__
from gammajax.cli import app, doctor, document, running, terminal
from gammajax.cli.configurations import builtin, dump, load
from gammajax.cli.output_folder import alone
from gammajax.common import cache, progress
from gammajax.plots import counts as plot
from gammajax.products.spectral_points import FluxPoints
from gammajax.products.upper_limits import Limits
from gammajax.results.result import Result
from gammajax.samplers import driver

CACHE = ("jax_enable_compilation_cache", "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
FILES = ["config.yaml", "corner.png", "counts.png", "fractions.csv", "posterior.nc", "report.html"]
FILES += ["run.log", "summary.csv"]


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    """Run a command in an empty folder; the precision it chooses is put back."""
    monkeypatch.chdir(tmp_path)
    wide = jax.config.jax_enable_x64

    def run(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments])

    yield run
    jax.config.update("jax_enable_x64", wide)


@pytest.fixture
def small(tmp_path):
    """A run of a few seconds: one pointing, a point source, 300 events, few draws."""
    values = document.values(builtin("template"))
    values["observations"] |= {"pointings": [[0.0, 0.5]], "energy_range": [0.5, 5.0], "offset_max": 1.0}
    values["events"] = {"simulate": 300}
    values["model"]["components"]["signal"]["morphology"] = {"type": "point", "lon": 0.0, "lat": 0.0}
    values["sampler"] = {"draws": 100, "warmup": 50, "chains": 2}
    values["precision"] = 32
    path = tmp_path / "small.yaml"
    path.write_text(document.dump(values))
    return path


@pytest.mark.slow
def test_run(invoke, small, tmp_path):
    out = tmp_path / "results" / "small"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few draws; the command prints its warnings
        answer = invoke("run", small, "--no-progress", "--seed", 3)
    assert answer.exit_code == 0, answer.output
    assert "300 events in 1 observations" in answer.output and "done in" in answer.output
    lines = answer.output.splitlines()  # one for each step, without a progress bar too
    assert [line.split()[0] for line in lines[:4]] == ["events", "response", "sampling", "plots"]
    assert sorted(file.name for file in out.iterdir()) == FILES
    assert [file.name for file in out.parent.iterdir()] == ["small"]  # nothing temporary is left
    result = Result.load(out / "posterior.nc")
    assert result.truths["index"] == 2.3 and result.tree.attrs["seed"] == 3
    table = pandas.read_csv(out / "summary.csv", index_col=0)
    assert list(table.index) == ["fraction", "index"]
    resolved = load(str(out / "config.yaml"))
    assert resolved.seed == 3 and resolved.model == load(str(small)).model
    log = (out / "run.log").read_text()
    assert "version of jax" in log and "time for sampling" in log and "seed: 3" in log
    # the folder is there now
    answer = invoke("run", small)
    assert answer.exit_code == 2 and "already there" in answer.stderr and "--overwrite" in answer.stderr


@pytest.mark.slow
def test_a_run_of_cells(invoke, small, tmp_path):
    values = document.values(small.read_text()) | {"compress": {"energy_per_decade": 10, "pixel": 0.2}}
    values["sampler"] = {"method": "laplace", "draws": 800}
    values["observations"]["exclusion"] = "galactic; circle(0.5, 0.5, 0.1)"
    small.write_text(document.dump(values))
    answer = invoke("run", small, "--no-progress", "--out", tmp_path / "cells")
    assert answer.exit_code == 0, answer.output
    assert "300 events in 2" in answer.output and "cells, in 1 observations" in answer.output
    assert Result.load(tmp_path / "cells" / "posterior.nc").tree.attrs["events"] == 300
    assert load(str(tmp_path / "cells" / "config.yaml")).compress.pixel == 0.2


@pytest.mark.slow
def test_an_interrupted_run_is_resumed(invoke, small, tmp_path, monkeypatch):
    values = document.values(small.read_text())
    values["sampler"] = {"method": "smc", "particles": 100, "moves": 2}
    small.write_text(document.dump(values))
    results = tmp_path / "results"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few particles
        with monkeypatch.context() as patch:
            patch.setattr(driver._Terminated, "__call__", lambda _: True)  # as SIGTERM would
            answer = invoke("run", small, "--no-progress")
        assert answer.exit_code == 75 and "pass --resume" in answer.output
        assert [file.name for file in results.iterdir()] == [".small.checkpoint"]
        answer = invoke("run", small, "--no-progress")
        assert answer.exit_code == 2 and "pass --resume, or --overwrite" in answer.stderr
        answer = invoke("run", small, "--no-progress", "--resume")
    assert answer.exit_code == 0 and "log evidence" in answer.output, answer.output
    assert [file.name for file in results.iterdir()] == ["small"]
    result = Result.load(results / "small" / "posterior.nc")
    assert "before" in result.timings and result.log_evidence[1] < 1.0
    assert (results / "small" / "run.png").exists()
    assert "already complete" in invoke("run", small, "--resume").output


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("~/res", "home/res"),
        ("$PLACE/res", "place/res"),
        ("${PLACE}/a/b", "place/a/b"),
        ("plain", "plain"),
        (None, "results/small"),
        (".", ValueError),
        ("$NOWHERE/res", ValueError),
    ],
)
def test_out_is_expanded(out, expected, invoke, small, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PLACE", str(tmp_path / "place"))
    monkeypatch.delenv("NOWHERE", raising=False)
    called = []
    monkeypatch.setattr(running, "run", lambda config, out, *_: called.append(out))
    answer = invoke("run", small, *([] if out is None else [f"--out={out}"]))
    if expected is ValueError:
        assert answer.exit_code == 2 and answer.stderr.count("\n") == 1 and not called
    else:
        assert answer.exit_code == 0 and called[0].absolute() == tmp_path / expected
    assert not (tmp_path / "~").exists() and not list(tmp_path.glob("*$*"))


def test_a_place_that_cannot_be_written_is_an_error_before_anything_is_done(invoke, small, tmp_path):
    (tmp_path / "file").write_text("")
    answer = invoke("run", small, "--out", tmp_path / "file" / "res")
    assert answer.exit_code == 2 and "nothing can be written there (" in answer.stderr
    assert answer.stderr.count("\n") == 1 and "events" not in answer.output.replace(answer.stderr, "")


@pytest.mark.slow
def test_whatever_fails_after_sampling_the_posterior_is_on_disk(invoke, small, tmp_path, monkeypatch):
    values = document.values(small.read_text())
    values["sampler"] = {"method": "laplace", "draws": 800}
    small.write_text(document.dump(values))
    out, run = tmp_path / "results" / "small", ("run", small, "--no-progress")

    def fail(*_, **__):
        raise RuntimeError("no such font")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(plot, "plot_counts", fail)
        answer = invoke(*run)
    assert answer.exit_code == 1, answer.output
    assert (
        "the plot counts.png failed (RuntimeError: no such font)" in answer.stderr and "Traceback" not in answer.output
    )
    assert sorted(file.name for file in out.iterdir()) == [name for name in FILES if name != "counts.png"]
    first = Result.load(out / "posterior.nc")
    # a full disk: what is there stays, and the run goes on from its checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(Result, "save", full)
        answer = invoke(*run, "--resume")
    assert answer.exit_code == 74 and "No space left on device" in answer.stderr and answer.stderr.count("\n") == 1
    assert "--resume goes on from" in answer.stderr
    assert sorted(file.name for file in out.parent.iterdir()) == [".small.checkpoint", "small"]
    answer = invoke(*run, "--resume")
    assert answer.exit_code == 0, answer.output
    assert sorted(file.name for file in out.iterdir()) == FILES
    assert [file.name for file in out.parent.iterdir()] == ["small"]
    again = Result.load(out / "posterior.nc")
    assert all((first.samples[name] == again.samples[name]).all() for name in first.samples)
    assert "time for plots" in (out / "run.log").read_text()


def test_only_results_are_replaced_or_complete(invoke, small, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(running, "run", lambda config, out, *_: called.append(out))
    precious, empty = tmp_path / "precious", tmp_path / "empty"
    for folder in (precious, empty):
        folder.mkdir()
    (precious / "thesis.tex").write_text("text")
    for out in (precious, small):
        for option in ("--overwrite", "--resume"):
            answer = invoke("run", small, "--out", out, option)
            assert answer.exit_code == 2 and "holds no results of gammajax" in answer.stderr
    assert (precious / "thesis.tex").exists() and small.is_file() and not called
    assert invoke("run", small, "--out", empty, "--resume").exit_code == 0 and called == [empty]
    # results of another configuration are not those of this one
    (empty / "posterior.nc").write_text("")
    for seed, expected in ((0, 0), (99, 2)):
        (empty / "config.yaml").write_text(dump(load(str(small)).with_seed(seed)))
        answer = invoke("run", small, "--out", empty, "--resume")
        assert answer.exit_code == expected, answer.output
        assert ("already complete" if expected == 0 else "(seed is 99 there and 0 here)") in answer.output


def test_output_that_is_gone_does_not_stop_a_run(monkeypatch):
    class Gone:
        encoding = "utf-8"

        def write(self, _):
            raise BrokenPipeError

        flush = isatty = lambda self: False

    with monkeypatch.context() as patch:
        patch.setattr(terminal, "console", terminal._Console(file=Gone()))
        patch.setattr(terminal.sys, "stdout", Gone())
        terminal.tell("line")
        terminal.tell("line")
        progress.tell("line")
        terminal.sys.stdout.close()


def test_compiled_programs_are_kept_unless_told_not_to(invoke, small, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "run", lambda *_: None)
    monkeypatch.setattr(cache, "_order_priors", lambda: None)
    monkeypatch.setenv("GAMMAJAX_CACHE", str(tmp_path / "programs"))
    before = {name: jax.config.values[name] for name in CACHE}
    try:
        assert invoke("run", small, "--no-cache").exit_code == 0
        assert not jax.config.values["jax_enable_compilation_cache"] and not (tmp_path / "programs").exists()
        jax.config.update("jax_enable_compilation_cache", True)
        assert "note" not in invoke("run", small).output
        assert jax.config.values["jax_compilation_cache_dir"].startswith(str(tmp_path / "programs"))
        monkeypatch.setenv("GAMMAJAX_CACHE", str(small))
        answer = invoke("run", small)
        assert answer.exit_code == 0 and answer.output.count("\n") == 1
        assert "note: compiled programs are not kept between runs" in answer.output
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_errors_are_one_red_line(invoke, small, tmp_path, monkeypatch):
    small.write_text(small.read_text().replace("offset_max", "ofset_max"))
    answer = invoke("run", small)
    assert answer.exit_code == 2
    assert "unknown key 'ofset_max'; did you mean 'offset_max'?" in answer.stderr
    assert answer.stderr.count("\n") == 1 and "Traceback" not in answer.output
    assert not (tmp_path / "results").exists()
    assert "no such file" in invoke("run", "nothing.yaml").stderr
    monkeypatch.delenv("GAMMAPY_DATA", raising=False)
    answer = invoke("run", "crab")
    assert answer.exit_code == 2 and answer.stderr.count("\n") == 1
    assert "GAMMAPY_DATA is not set; set it" in answer.stderr
    assert not list((tmp_path / "results").iterdir())


@pytest.mark.slow
def test_a_place_for_figures_that_cannot_be_written_is_one_line(invoke, small, tmp_path):
    values = document.values(small.read_text())
    values["sampler"] = {"method": "laplace", "draws": 800}
    small.write_text(document.dump(values))
    out = tmp_path / "results" / "small"
    assert invoke("run", small, "--no-progress").exit_code == 0
    (tmp_path / "file").write_text("")
    answer = invoke("plot", out, "--out", tmp_path / "file" / "figures")
    assert answer.exit_code == 74 and "Not a directory" in answer.stderr and answer.stderr.count("\n") == 1
    # another run has the folder
    with alone(out):
        answer = invoke("run", small, "--overwrite")
    assert answer.exit_code == 2 and "is being written by process" in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_template_is_valid(invoke, tmp_path):
    answer = invoke("init", "mine.yaml")
    assert answer.exit_code == 0 and "gammajax run mine.yaml" in answer.output
    assert load(str(tmp_path / "mine.yaml")) == load("template")
    answer = invoke("init", "mine.yaml")
    assert answer.exit_code == 2 and "already there" in answer.stderr


def test_version(invoke):
    assert invoke("version").output.strip() == __version__


@pytest.mark.slow
def test_products_and_report(invoke, small, tmp_path):
    values = document.values(small.read_text())
    del values["model"]["weights"]
    values["model"]["components"]["signal"]["spectrum"] |= {"amplitude": "amplitude"}
    values["parameters"] = {
        "index": values["parameters"]["index"],
        "amplitude": {"prior": "log-uniform", "low": 1e-13, "high": 1e-9, "truth": 1e-11, "unit": "TeV-1 cm-2 s-1"},
    }
    values["events"] = {"simulate": True}
    values["products"] = {
        "sed": {"type": "flux-points", "component": "signal", "edges": ["500 GeV", 1.5, 5.0]},
        "runs": {"type": "light-curve", "component": "signal"},
        "high": {"type": "flux-points", "component": "signal", "edges": [200.0, 300.0]},
        "more": {"type": "ts-map", "width": 0.6, "step": "6 arcmin", "threshold": 3},
    }
    small.write_text(document.dump(values))
    out = tmp_path / "products"
    answer = invoke("run", small, "--no-progress", "--out", out)
    assert answer.exit_code == 1 and "the product high failed" in answer.stderr  # and all others are there
    made = {"sed.csv", "sed.ecsv", "sed.png", "sed-correlation.png", "runs.csv", "runs.png"}
    made |= {"more.csv", "more.fits", "more.png"}
    assert {file.name for file in out.iterdir()} == {*FILES, *made}
    points = FluxPoints.read(out / "sed.ecsv")
    assert points.component == "signal" and abs(points.norm - 1.0).max() < 1.0
    page = (out / "report.html").read_text()
    assert page.count("<img") == 6 and "sed: flux points of signal" in page and "http" not in page
    assert "more: ts map" in page and "sqrt_ts" in page
    assert list(pandas.read_csv(out / "more.csv", index_col=0).columns)[:3] == ["lon", "lat", "sqrt_ts"]
    assert all(word in page for word in ("amplitude [TeV", "version of jax", "log-uniform"))
    # drawn again, without the events
    answer = invoke("plot", out, "--parameter", "index", "--format", "pdf", "--out", tmp_path / "paper")
    assert answer.exit_code == 0 and [file.name for file in (tmp_path / "paper").iterdir()] == ["corner.pdf"]
    # the fit against simulated data
    answer = invoke("check", out, "--replicas", 50, "--no-progress")
    assert answer.exit_code == 0 and "distance from signal" in answer.output and "all tests together" in answer.output
    assert {"check.csv", "check.png", "check-map.png"} <= {file.name for file in out.iterdir()}
    assert pandas.read_csv(out / "check.csv", index_col=0).loc["all", "p_value"] > 1e-3
    assert (out / "report.html").read_text().count("<img") == 8


@pytest.mark.slow
def test_limits_as_a_product(invoke, small, tmp_path):
    values = document.values(small.read_text())
    del values["model"]["weights"]
    values["model"]["components"]["signal"]["spectrum"] = {
        "type": "dark-matter", "channel": "W", "mass": "mass", "sigma_v": "sigma_v", "j_factor": 1e21
    }  # fmt: skip
    values["model"]["components"]["background"] = {"type": "background", "norm": 0.01}
    values["parameters"] = {
        "mass": {"prior": "log-uniform", "low": 0.6, "high": 20.0, "truth": 2.0},
        "sigma_v": {"prior": "log-uniform", "low": 1e-28, "high": 1e-22, "truth": 1e-25},
    }
    values |= {"events": {"simulate": True}, "sampler": {"method": "laplace", "draws": 800}}
    values["products"] = {"limit": {"type": "limits", "masses": ["1 TeV", 5.0], "log10_j_error": 0.2, "expected": True}}
    small.write_text(document.dump(values))
    out = tmp_path / "limits"
    answer = invoke("run", small, "--no-progress", "--out", out)
    assert answer.exit_code == 0, answer.output
    assert {"limit.csv", "limit.ecsv", "limit.png"} <= {file.name for file in out.iterdir()}
    found = Limits.read(out / "limit.ecsv")
    assert found.mass.tolist() == [1.0, 5.0] and (found.limit > found.best).all() and (found.limit < 1e-22).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["plot", "nowhere"], "holds no results"),
        (["plot", "nowhere", "--format", "gif"], "png, pdf, svg"),
        (["check", "nowhere"], "holds no results"),
    ],
)
def test_other_folders_are_refused(invoke, arguments, message):
    answer = invoke(*arguments)
    assert answer.exit_code == 2 and message in answer.stderr and answer.stderr.count("\n") == 1


PRODUCT = {"type": "flux-points", "component": "signal", "edges": [0.5, 2.0]}


@pytest.mark.parametrize(
    "products, message",
    [
        ({"sed": PRODUCT}, "absolute fluxes"),
        ({"corner": PRODUCT}, "name of files"),
        ({"a/b": PRODUCT}, "name of files"),
        ({"sed": PRODUCT | {"component": "signl"}}, "did you mean 'signal'"),
        ({"sed": PRODUCT | {"component": "background"}}, "is a background"),
        ({"sed": PRODUCT | {"edges": [2.0, 1.0]}}, "edges that increase"),
        ({"sed": {"type": "flux-point"}}, "did you mean 'flux-points'"),
        ({"limit": {"type": "limits", "masses": [1.0]}}, "unknown parameter 'sigma_v'"),
        ({"limit": {"type": "limits", "masses": [1.0], "scale": "index", "mass": "fraction"}}, "absolute fluxes"),
        ({"fit": {"type": "check", "replicas": 0}}, "products.fit.replicas"),
        ({"map": {"type": "ts-map", "width": 1.0, "step": -0.1}}, "products.map.step"),
        ({"map": {"type": "ts-map", "width": 1.0, "step": 0.1}}, "absolute fluxes"),
        ({"sed": {"type": "light-curve", "component": "signal", "edges": "weeks"}}, "products.sed"),
    ],
)
def test_products_are_checked_before_anything_runs(invoke, small, products, message):
    small.write_text(document.dump(document.values(small.read_text()) | {"products": products}))
    answer = invoke("run", small)
    assert answer.exit_code == 2 and message in answer.stderr and answer.stderr.count("\n") == 1, answer.stderr


@pytest.mark.slow
def test_doctor(invoke, monkeypatch, tmp_path):
    monkeypatch.setenv("GAMMAPY_DATA", str(tmp_path / "none"))
    answer = invoke("doctor")
    assert answer.exit_code == 0 and "no such folder" in answer.output
    lines = [line for line in answer.output.splitlines() if line[1:3] in ("ok", "! ", "x ")]
    names = ["python", "gammajax", "packages", "devices", "precision", "cores", "pages", "cache", "data", "space"]
    assert [line.split()[1] for line in lines] == names
    monkeypatch.setattr(doctor, "version", lambda name: "0.0.1")
    answer = invoke("doctor")
    assert answer.exit_code == 1 and "numpyro 0.0.1 is not" in answer.output.replace("\n", " ")
