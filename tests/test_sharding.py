"""Events on several virtual devices: the same numbers as on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def printed(**environment):
    """`printed(task)`: output of tests/sharded.py for a task, for no mesh and meshes of some of eight virtual devices.

    One process for all tasks of a precision, which share posteriors.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    made = subprocess.run(
        [sys.executable, Path(__file__).parent / "sharded.py"],
        env={**os.environ, "XLA_FLAGS": flags, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    found = [json.loads(line) for line in made.stdout.splitlines() if line.startswith("[")]
    return lambda task: [values for name, values in found if name == task]


@pytest.fixture(scope="module")
def double():
    return printed(JAX_ENABLE_X64="1")


@pytest.fixture(scope="module")
def single():
    return printed(JAX_ENABLE_X64="0")


def assert_same(found, alone, relative, absolute):
    for name in alone.keys() - {"devices", "part"}:
        assert found[name] == pytest.approx(alone[name], rel=relative, abs=absolute), name


@pytest.mark.slow
def test_the_same_on_every_number_of_devices(double):
    alone, *shared = double("double")
    for found, devices in zip(shared, [1, 2, 4, 8], strict=True):
        assert found["devices"] == devices and found["part"] == 1.0 / devices
        assert_same(found, alone, 1e-9, 1e-9)


def test_samplers_draw_the_same(double):
    alone, shared = double("samplers")
    assert len(alone) == 6 + 3 * 4 and shared["devices"] == 4
    assert_same(shared, alone, 1e-6, 1e-6)


@pytest.mark.slow
def test_samplers_and_single_precision(single):
    alone, shared = single("single")
    assert shared["devices"] == 4
    for found in (alone, shared):  # few draws of a fraction of about one half, known to 0.05
        halo, *_ = (found.pop(f"nuts {what}") for what in ("halo", "index", "evidence"))
        assert len(halo) == 10 and 0.3 < sum(halo) / 10 < 0.7
    # sums of 200 logarithms of either sign
    assert_same(shared, alone, 1e-6, 2e-4)


def test_a_free_morphology_on_several_devices(single):
    alone, shared = single("free")
    assert shared["devices"] == 8
    assert_same(shared, alone, 1e-5, 2e-4)


def test_flux_points_and_light_curves(single):
    alone, shared = single("products")
    assert shared["devices"] == 4
    assert_same(shared, alone, 3e-3, 3e-3)  # of single precision, in norms with errors of some hundredths
