"""Batches of particles: sized by the memory of one likelihood, for every engine."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import gammajax as gj
from gammajax.samplers import particles
from gammajax.samplers.particles import batch_size, working_size
from gammajax.samplers.space import dimension, log_likelihood

EVENTS = gj.Events(jnp.linspace(1.0, 3.0, 300), jnp.linspace(-0.5, 0.5, 300), jnp.zeros(300))
MORPHOLOGIES = {
    "kernel": lambda x: gj.Point(0.3, 0.2),
    "fold of a point": lambda x: gj.Point(0.3 + 0.01 * x, 0.2),
    "fold of a disk": lambda x: gj.Gaussian(0.3, 0.2, 0.1 + 0.1 * x),
    "direct": lambda x: gj.Gaussian(0.3, 0.2, 0.1),
}


@pytest.fixture(scope="module")
def make(make_observation):
    observation = make_observation(energy_min=1.0, energy_max=4.0, offset_max=1.0)

    def build(name):
        def model(p):
            source = gj.Source(gj.PowerLaw(2.0 + p["x"]), MORPHOLOGIES[name](p["x"]))
            return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": 0.3})

        engine = {"source": "direct"} if name == "direct" else None
        events = EVENTS[:40] if name == "direct" else EVENTS
        return gj.Posterior(model, {"x": dist.Uniform(0.0, 1.0)}, observation, events, engine=engine, per_decade=10.0)

    return build


@pytest.mark.slow
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", MORPHOLOGIES)
def test_the_working_size_is_that_of_the_compiled_program(name, gradient, make):
    posterior = make(name)

    def function(x):
        return log_likelihood(posterior, x)

    function = jax.jit(jax.grad(function) if gradient else function)
    compiled = function.lower(jnp.zeros(dimension(posterior))).compile().memory_analysis().temp_size_in_bytes
    estimate = working_size(posterior, gradient)
    # tests compile with little fusion
    assert 0.25 < estimate / compiled < 30.0


def test_batches_fit(make, monkeypatch):
    small, large = make("kernel"), make("fold of a disk")
    assert batch_size(small, 96) == 96
    each = working_size(large)
    monkeypatch.setattr(particles, "ROOM", 10 * each)
    assert batch_size(large, 96) == 8 and batch_size(large, 96, gradient=True) < 8
    monkeypatch.setattr(particles, "ROOM", each // 2)
    assert batch_size(large, 96) == 1
