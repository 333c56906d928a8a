"""Fixtures of the tests of samplers."""

import numpyro.distributions as dist
import pytest
from toys import build, counting, gaussian_toy


@pytest.fixture(scope="session")
def make_toy():
    return build


@pytest.fixture(scope="session")
def gaussian():
    return gaussian_toy()


@pytest.fixture
def on_off(make_toy):
    priors = {"signal": dist.Uniform(0.0, 1000.0), "background": dist.Uniform(0.0, 500.0)}
    return make_toy(counting, priors, {"signal": 500.0, "background": 250.0}, [120.0, 300.0])
