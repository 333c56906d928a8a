import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from test_samplers import SHORT, run
from toys import Toy, gaussian_toy

import gammajax as gj
from gammajax.common.writing import read_archive, write_archive
from gammajax.samplers import checkpoint as checkpoints
from gammajax.samplers.driver import PREEMPTED, Preempted


class Killed(BaseException):
    """Stands for the end of a process."""


def sample(name, toy=None, key=5, **options):
    method, short = SHORT[name]
    toy = gaussian_toy()[0] if toy is None else toy
    return method(jax.random.key(key), toy, truths={"size": 0.5}, progress=False, **{**short, **options})


def kill_after(monkeypatch, writes):
    """End a run right after a number of checkpoints; later writes are lost."""
    write, done = checkpoints.write, []

    def counted(*arguments):
        if len(done) >= writes:
            return
        write(*arguments)
        done.append(None)
        if len(done) == writes:
            raise Killed

    monkeypatch.setattr(checkpoints, "write", counted)


def same(one, two):
    for group in one.tree.children:
        for name, values in one.tree[group].data_vars.items():
            np.testing.assert_array_equal(values.to_numpy(), two.tree[group][name].to_numpy(), err_msg=name)
    assert one.log_evidence == two.log_evidence and one.calls == two.calls


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nuts", "smc", "nested", "svi flow", "laplace"])
def test_a_killed_run_goes_on_to_the_same_result(tmp_path, monkeypatch, name):
    path = tmp_path / "run.checkpoint"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, 2)
        sample(name, checkpoint=path, checkpoint_every=0.0)
    same(sample(name, checkpoint=path), run(name))
    # a finished run returns its result again
    before = path.stat().st_mtime_ns
    same(sample(name, checkpoint=path), run(name))
    assert path.stat().st_mtime_ns == before


SCRIPT = """
import os, signal, sys
sys.path[:0] = [{folder!r}, os.path.dirname({folder!r})]
from pathlib import Path
from test_checkpoint import sample
path = Path({path!r})
replace, count = os.replace, []

def killing(*names):
    count.append(None)
    if len(count) == 3:  # in the middle of writing
        os.kill(os.getpid(), signal.{signal})
    replace(*names)

os.replace = killing
sample("nuts", checkpoint=path, checkpoint_every=0.0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_signals(tmp_path, name):
    path = tmp_path / "run.checkpoint"
    script = SCRIPT.format(folder=str(Path(__file__).parent), path=str(path), signal=name)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == (-signal.SIGKILL if name == "SIGKILL" else PREEMPTED), done.stderr
    assert path.exists()
    same(sample("nuts", checkpoint=path), run("nuts"))


def test_checkpoints_of_others_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "run.checkpoint"
    sample("laplace", checkpoint=path)
    toy = gaussian_toy()[0]
    with pytest.raises(ValueError, match="checkpoint of another data set or priors"):
        sample("laplace", eqx.tree_at(lambda t: t.data, toy, toy.data * 1.001), checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint of another model"):
        other = Toy(lambda p, d: 2.0 * toy.function(p, d), toy.priors, toy.reference_parameters, toy.data)
        sample("laplace", other, checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint of another options: draws 1000, now 1200"):
        sample("laplace", draws=1200, checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint of another key"):
        sample("laplace", key=6, checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint of another method: laplace, now nuts"):
        sample("nuts", checkpoint=path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "version", lambda name: "0")
        with pytest.raises(ValueError, match="checkpoint of another versions: gammajax"):
            sample("laplace", checkpoint=path)
    for content in ("text", "{}"):
        path.write_text(content)
        with pytest.raises(ValueError, match="not a checkpoint .*, or a damaged one; delete it to start again"):
            sample("laplace", checkpoint=path)
    write_archive(path, {"kind": "posterior"}, {"0": np.zeros(3)})
    with pytest.raises(ValueError, match="not a checkpoint"):
        sample("laplace", checkpoint=path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        sample("laplace", checkpoint=tmp_path / "nowhere" / "run.checkpoint")


@pytest.mark.parametrize("change", ["state 0", "record 0", "prepared starts", "prepared x", "shape", "type", "text"])
def test_arrays_of_another_run_are_refused(change, tmp_path):
    path = tmp_path / "run.checkpoint"
    sample("nuts", checkpoint=path)
    header, arrays = read_archive(io.BytesIO(path.read_bytes()))
    if change in arrays:
        del arrays[change]
    elif change == "text":
        arrays["prepared starts"] = arrays["prepared starts"].astype(str)
    else:
        arrays["record 0"] = arrays["record 0"][..., None] if change == "shape" else arrays["record 0"].astype("i2")
    write_archive(path, header, arrays)
    with pytest.raises(ValueError, match="damaged .*; delete it to start again"):
        sample("nuts", checkpoint=path)


def test_preempted_says_where_it_stopped():
    stop = Preempted("here.checkpoint")
    assert stop.code == PREEMPTED == 75 and "here.checkpoint" in str(stop)
    assert os.EX_TEMPFAIL == PREEMPTED
    assert isinstance(stop, SystemExit) and gj.nuts is SHORT["nuts"][0]
