"""Several processes over loopback: the same numbers as one process, and the end of all after the loss of one."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_cli import FILES
from typer.testing import CliRunner

from gammajax.cli import app, document
from gammajax.cli.configurations import builtin
from gammajax.common import distributed
from gammajax.results.result import Result

HERE = Path(__file__).parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMPI_"))}


@pytest.fixture
def port():
    """A free port of this machine."""
    try:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            return found.getsockname()[1]
    except OSError as error:
        pytest.skip(f"processes cannot meet on this machine, which has no loopback ports: {error}")


def launch(commands, **environment):
    """Exit status, output and errors of commands that run in parallel."""
    started = [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**ENVIRONMENT, **environment, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for arguments, own in commands
    ]
    try:
        said = [made.communicate(timeout=300) for made in started]
        return [(made.returncode, *texts) for made, texts in zip(started, said, strict=True)]
    finally:
        for made in started:
            made.kill()


def run(port, processes, task, *arguments):
    """Output of tests/processes.py in each of a number of processes; 0 for a process on its own."""
    script = HERE / "processes.py"
    commands = [([script, port, processes, i, task, *arguments], {}) for i in range(max(processes, 1))]
    made = launch(commands, JAX_ENABLE_X64="1")
    for status, _, errors in made:
        assert status == 0, errors
    return [json.loads(output.splitlines()[-1]) for _, output, _ in made]


def assert_same(found, alone, count):
    names = [name for name in found if ":" in name]
    assert len(names) == count
    for name in names:
        # sums in another order: differences grow along a chain
        assert found[name] == pytest.approx(alone[name], rel=1e-6 if "samplers" in name else 1e-9), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(0, 0, "numbers", tmp_path_factory.mktemp("alone"))[0]


@pytest.mark.slow
def test_two_processes(port, alone, tmp_path):
    both = run(port, 2, "everything", tmp_path)
    assert [found["held"] for found in both] == [101 / 201, 100 / 201]
    for found in both:
        assert found["placed"] == 0.5
        assert_same(found, alone, 18 + 3 * 2)
        assert found["events"] == alone["events"] == 201
        assert found["laplace"] == pytest.approx(alone["laplace"], rel=1e-6)
        # one was told to stop, both stopped, and resumed to the same result
        assert found["status"] == 75 and found["before"] > 0.0 and found["the same"]
        # an error on one process is raised on both
        assert found["outside"].startswith("ValueError: process 1: event 91 lies")
        assert "several processes give the same events" in found["the same events"]
        assert "direct engine works in one process" in found["direct"]
        assert "processes hold different events" in found["different"]
        assert "1 events cannot be shared by 2 processes" in found["few"]
        assert found["first"].startswith("FileNotFoundError: ") and "/not/there" in found["first"]
        assert found["together"] == "RuntimeError: process 1: KeyError: 'mine'"
        assert found["gathered"] == [[0, 3.141592653589793], [1, 3.141592653589793]]
        assert found["spans"] == [True, False, False]
    assert [file.name for file in tmp_path.iterdir()] == ["run.checkpoint"]


@pytest.mark.slow
def test_four_processes(port, alone):
    for found in run(port, 4, "events"):
        assert found["placed"] == 0.25
        assert_same(found, alone, 6)


@pytest.fixture
def configuration(tmp_path):
    """A run of a few seconds that is the same on any number of processes: its draws are independent."""
    values = document.values(builtin("template"))
    values["observations"] |= {"pointings": [[0.0, 0.5]], "energy_range": [0.5, 5.0], "offset_max": 1.0}
    values["events"] = {"simulate": 301}
    values["model"]["components"]["signal"]["morphology"] = {"type": "point", "lon": 0.0, "lat": 0.0}
    values["sampler"] = {"method": "laplace", "draws": 2000}
    path = tmp_path / "small.yaml"
    path.write_text(document.dump(values))
    return path


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run_which_then_goes_on(port, configuration, tmp_path):
    results = tmp_path / "results"
    arguments = ["run", configuration, "--no-progress", "--out", results / "shared", "--distributed"]
    # found by SLURM's variables
    job = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "JAX_COORDINATOR_PORT": str(port),
    }
    commands = [
        ([HERE / "processes.py", "command", *arguments], {**job, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)})
        for i in range(2)
    ]
    (status, output, errors), (killed, _, _) = launch(commands)
    assert killed == -signal.SIGKILL and status == distributed.LOST, errors
    assert "should one be lost, the run goes on from" in output and "2 processes with 2 devices" in output
    assert "another process of this run is gone; --resume goes on from" in errors
    assert [file.name for file in results.iterdir()] == [".shared.checkpoint"]

    with np.load(results / ".shared.checkpoint") as file:
        drawn = file["record 0"][:, 1]  # of the index, which has no bounds and comes after the fraction

    arguments += ["--resume", "--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process"]
    main = ["-c", "from gammajax.cli import app; app()"]
    (status, output, errors), (other, silent, _) = launch([([*main, *arguments, i], {}) for i in range(2)])
    assert status == other == 0, errors
    assert "301 events in 1 observations" in output and "done in" in output and "events" not in silent
    assert [file.name for file in results.iterdir()] == ["shared"]
    assert sorted(file.name for file in (results / "shared").iterdir()) == FILES

    result = Result.load(results / "shared" / "posterior.nc")
    assert "before" in result.timings and result.tree.attrs["events"] == 301 and not result.messages
    # the draws of the killed run, and the missing ones
    assert result.weighted["index"].size == 2000
    np.testing.assert_array_equal(result.weighted["index"][: drawn.size], drawn)


def test_what_names_no_other_processes_is_wrong_input(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["run", "crab", "--processes", "2"])
    assert answer.exit_code == 2 and "are for a run with --distributed" in answer.stderr
    with pytest.raises(ValueError, match="give all of coordinator, processes and process"):
        distributed.initialize("127.0.0.1:1", 2)


def test_alone():
    """With one process everything is its own."""
    assert distributed.is_first() and distributed.gather("x") == ["x"] and not distributed.spans(distributed.mesh())
    assert distributed.share([1, 2]) == [1, 2] and distributed.from_first(lambda: 3) == 3
    with pytest.raises(KeyError), distributed.together():
        raise KeyError
    assert not distributed.lost(ValueError("Gloo failed"))
