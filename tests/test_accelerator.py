"""The benchmark of accelerators runs from one file, on a machine without astronomy packages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import accelerator

CODE = """
import sys
sys.modules |= dict.fromkeys(["astropy", "gammapy", "scipy.io"])  # an import of one raises
from pathlib import Path
import jax
import gammajax as gj
from benchmarks import accelerator, report

report.RESULTS = Path(sys.argv[2])
loaded = gj.load_posterior(sys.argv[1], accelerator.model)
assert accelerator.tiled(loaded, 3).total == 3 * loaded.total
point = {"fraction": jax.numpy.array(0.11), "log_mass": jax.numpy.array(0.3)}
one, three = (accelerator.tiled(loaded, n).log_likelihood_ratio(point) for n in (1, 3))
assert abs(three - 3.0 * one) < 1e-4 * abs(three) and one != 0.0

def fail(*_):
    raise RuntimeError("out of memory\\nin two lines")

accelerator.set_up = fail
accelerator.sampled = lambda sampler, *_: {"likelihoods": 10**9 if sampler is gj.nested else 1}
accelerator.free_shapes = accelerator.simulation = lambda *_: {}
accelerator.run(Path(sys.argv[1]), 5.0, 1e-5)
"""


@pytest.mark.slow
def test_it_runs_from_a_file_without_astronomy(tmp_path):
    path = tmp_path / "demonstration.npz"
    accelerator.prepare(path, 100)
    root = Path(accelerator.__file__).parents[1]
    code = [sys.executable, "-c", CODE, path, tmp_path]
    done = subprocess.run(code, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    (written,) = tmp_path.glob("accelerator-*.json")  # and nothing temporary
    found = json.loads(written.read_text())
    assert found["likelihood"]["1e+03 events"]["events"] == 1000
    assert found["likelihood"]["1e+03 events"]["value_bytes_per_s"] > 0.0
    assert found["set-up of events"]["set-up"] == {"error": "RuntimeError: out of memory in two lines"}
    assert "step_s" in found["samplers"]["smc, 1e+03 events"] and "step_s" in found["simulated"]["simulation"]
    # one likelihood for each would take longer than there is time
    assert "left_out" in found["samplers"]["nested, 1e+03 events"]
    # after each step
    assert len(done.stdout.strip().splitlines()) == 3 + 1 + 6 + 2
