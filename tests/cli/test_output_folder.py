"""One run at a time writes a folder, and nothing of killed runs stays."""

import os
import signal
import subprocess
import sys

import pytest

from gammajax.cli import output_folder

HOLDER = """
import sys, time
from pathlib import Path
from gammajax.cli.output_folder import alone
with alone(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path):
    """A folder that another process is writing."""
    out = tmp_path / "results" / "run"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, out], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield out, process
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_second_run_is_refused_until_the_first_is_gone(held):
    out, process = held
    message = f"{out} is being written by process {process.pid} on .*choose another --out"
    with pytest.raises(ValueError, match=message), output_folder.alone(out):
        pass
    with output_folder.alone(out.with_name("other")):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert [path.name for path in out.parent.iterdir()] == [".run.lock"]  # a file that nobody holds
    with output_folder.alone(out):
        assert (out.parent / ".run.lock").read_text().startswith(f"process {os.getpid()} on ")
    assert not list(out.parent.iterdir())


def test_what_killed_runs_left_goes_and_results_come_back(tmp_path):
    out = tmp_path / "run"
    left = [".run-abcd_123", ".abcd_123-.run.checkpoint"]
    kept = [".run.checkpoint", ".run-2.checkpoint", ".other-abcd1234", "run-2", ".abcd_123-.run-2.checkpoint"]
    for name in (*left, *kept):
        path = tmp_path / name
        path.write_text("") if name.endswith("checkpoint") else path.mkdir()
    before = tmp_path / ".run-abcd_456-old"  # killed between two renames
    before.mkdir()
    (before / "posterior.nc").write_text("results")
    with output_folder.alone(out):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "run"])
    assert (out / "posterior.nc").read_text() == "results"


def test_without_locks_a_run_goes_on(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with output_folder.alone(tmp_path / "file" / "run"):  # nothing can be written there
        pass
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / ".run-abcd_123").mkdir()
    with output_folder.alone(tmp_path / "run"):
        assert (tmp_path / ".run-abcd_123").exists()  # it may be that of another run
