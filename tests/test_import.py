"""Importing the package has no side effects; in a fresh process."""

import subprocess
import sys

import pytest

CODE = """
import sys
import jax

before = jax.config.jax_enable_x64
import gammajax
from jax._src import xla_bridge

heavy = ("astropy", "gammapy", "matplotlib", "arviz", "arviz_base", "arviz_stats")
loaded = [name for name in heavy if name in sys.modules]
assert not loaded, f"importing gammajax loads {loaded}"
assert not xla_bridge._backends, "importing gammajax starts a jax backend"
assert jax.config.jax_enable_x64 == before, "importing gammajax changes the precision of jax"
"""


@pytest.mark.slow
def test_import_is_light_and_changes_nothing():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
