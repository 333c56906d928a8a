"""Compiled programs that the command line keeps."""

import json
import os
import subprocess
import sys

import jax
import pytest

from gammajax.common import cache

SETTINGS = ("jax_enable_compilation_cache", "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No folder that the tests keep themselves; the user's folder of caches is empty; settings are put back."""
    before = {name: jax.config.values[name] for name in SETTINGS}
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(cache, "_order_priors", lambda: None)
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize(
    ("variable", "given_to_jax", "wanted", "expected"),
    [
        (None, None, True, "user/gammajax"),
        ("{}/own", None, True, "own"),
        ("$PLACE/own", None, True, "place/own"),
        ("{}/own", "{}/jax", True, "own"),
        (None, "{}/jax", True, "jax"),
        ("", None, True, False),
        ("0", None, True, False),
        ("off", "{}/jax", True, False),
        ("{}/own", None, False, False),
        (None, "{}/jax", False, False),
    ],
)
def test_which_folder(variable, given_to_jax, wanted, expected, alone, monkeypatch, tmp_path):
    monkeypatch.setenv("PLACE", str(tmp_path / "place"))
    if variable is not None:
        monkeypatch.setenv(cache.VARIABLE, variable.format(tmp_path))
    if given_to_jax:
        jax.config.update("jax_compilation_cache_dir", given_to_jax.format(tmp_path))
    assert cache.keep_compiled(wanted) is None
    assert jax.config.values["jax_enable_compilation_cache"] == bool(expected)
    if expected == "jax":  # as it is: nothing is made there
        assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "jax") and not list(tmp_path.iterdir())
    elif expected:
        (folder,) = (tmp_path / expected).iterdir()
        assert jax.config.values["jax_compilation_cache_dir"] == str(folder) and not list(folder.iterdir())
        assert jax.config.values["jax_persistent_cache_min_compile_time_secs"] == cache.LEAST
    else:
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variable", ["{}/file", "{}/file/folder", "$NOWHERE/folder"])
def test_a_folder_that_cannot_be_written_is_one_line(variable, alone, monkeypatch, tmp_path):
    monkeypatch.delenv("NOWHERE", raising=False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.VARIABLE, variable.format(tmp_path))
    line = cache.keep_compiled()
    assert line and "\n" not in line and "not kept" in line and cache.VARIABLE in line
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_what_was_not_used_for_longest_goes(tmp_path):
    for age, name in enumerate(("new", "older", "oldest")):
        (tmp_path / f"{name}-cache").write_bytes(bytes(400))
        os.utime(tmp_path / f"{name}-cache", (1e9 - age, 1e9 - age))
    os.utime(tmp_path / "oldest-cache", (1e9 + 1, 1e9 - 2))  # read since
    cache._evict(tmp_path, 900)
    assert {path.name for path in tmp_path.iterdir()} == {"new-cache", "oldest-cache"}
    cache._evict(tmp_path, 900)
    assert len(list(tmp_path.iterdir())) == 2


def test_damaged_programs_are_forgotten_and_nobody_hears_of_them(alone, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    for name in ("jit__climb-12ab-cache", "jit__climber-12ab-cache"):
        (tmp_path / name).write_text("")
    found = "Error {}ing persistent compilation cache entry for 'jit__climb': zlib.error: Error -5"
    assert cache.forget_damaged(["first", found.format("writ"), found.format("read"), "last"]) == ["first", "last"]
    assert [path.name for path in tmp_path.iterdir()] == ["jit__climber-12ab-cache"]


# priors are arguments, as those of a posterior are
PROGRAM = """
import collections, json
import jax, jax.monitoring
import numpyro.distributions as dist
from gammajax.common import cache

cache.LEAST = 0.0
assert cache.keep_compiled() is None
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name.split("/")[-1]]))
priors = {"a": dist.Uniform(1.0, 2.0), "b": dist.LogUniform(1.0, 2.0), "c": dist.Normal(0.0, 1.0)}

@jax.jit
def density(priors, x):
    return sum(prior.log_prob(x) for prior in priors.values()) + dist.LogNormal(0.0, 1.0).log_prob(x)

@jax.jit
def other(x):
    return x * 2.0

density(priors, other(1.5))
print(json.dumps({name: counts["cache_" + name] for name in ("hits", "misses")}))
"""


@pytest.mark.slow
def test_the_next_process_compiles_nothing(tmp_path):
    def run(seed):
        environment = {**os.environ, "GAMMAJAX_CACHE": str(tmp_path), "PYTHONHASHSEED": str(seed)}
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return json.loads(done.stdout)

    first = run(1)
    assert first["misses"] > 1
    (program,) = tmp_path.glob("*/jit_other-*-cache")
    program.write_bytes(program.read_bytes()[:100])  # as a process leaves it that is killed
    # sets of names have another order there
    assert run(2) == {"hits": first["hits"] + first["misses"] - 1, "misses": 1}
