"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def gammapy_data() -> Path:
    """Folder of the gammapy data collection; tests that need it are skipped without it."""
    path = os.environ.get("GAMMAPY_DATA")
    if not path or not Path(path).is_dir():
        pytest.skip("set GAMMAPY_DATA to the folder of the gammapy data collection to run the tests on real data")
    return Path(path)


@pytest.fixture(scope="session")
def ctao_south():
    """CTAO South, 50 h on the Galactic centre."""
    from gammajax.io import ctao

    return ctao("South", pointing=(0.0, 0.0), frame="galactic", livetime=50 * 3600.0)
