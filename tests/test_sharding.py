"""Events on several devices, which are virtual here: the same numbers as on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(meshes, fit="", **environment):
    """What tests/sharded.py prints for no mesh (0) and meshes of some of eight virtual devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    made = subprocess.run(
        [sys.executable, Path(__file__).parent / "sharded.py", ",".join(map(str, meshes)), fit],
        env={**os.environ, "XLA_FLAGS": flags, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return [json.loads(line) for line in made.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(("x64", "tolerance"), [("1", 1e-9), ("0", 1e-6)])
def test_the_same_on_every_number_of_devices(x64, tolerance):
    meshes = [0, 1, 2, 4, 8] if x64 == "1" else [0, 8]
    alone, *shared = run(meshes, JAX_ENABLE_X64=x64)
    for found, devices in zip(shared, meshes[1:], strict=True):
        assert found["devices"] == devices and found["part"] == 1.0 / devices
        for name in alone.keys() - {"devices", "part"}:
            # sums of terms of either sign: relative to what the parameters' own sizes make of the log-likelihood
            assert found[name] == pytest.approx(alone[name], rel=tolerance, abs=tolerance * abs(alone["value"])), name


def test_samplers_take_a_posterior_on_several_devices():
    alone, shared = run([0, 4], "fit")
    for name, value in alone.items():
        if name.startswith("best"):
            assert shared[name] == pytest.approx(value, rel=2e-3)
    for method, draws in (("nuts", 20), ("smc", 32)):
        assert shared[method][1] == draws
        # few draws of an index known to about 0.1
        assert shared[method][0] == pytest.approx(alone[method][0], abs=0.2)
