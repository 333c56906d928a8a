"""Law: programs do not know how many runs there are, nor their pointings, livetimes, thresholds, sky and responses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from on_off import LOW, region_response, run
from on_off import model as power_law

import gammajax as gj
from gammajax.instrument.observation import Exclusion
from gammajax.instrument.runs import Runs
from gammajax.instrument.sky import Grid

compiled = []


def count(event: str, duration_secs: float, **kwargs):
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.append(duration_secs)


jax.monitoring.register_event_duration_secs_listener(count)


def campaign(response, number):
    """Runs that differ in everything."""
    made = []
    for i in range(number):
        own = eqx.tree_at(lambda r: r.effective_area.values, response, replace_fn=lambda v, i=i: v * (1.0 + 0.1 * i))
        lon, lat = 0.1 * i, -0.07 * i
        grid = Grid(lon, lat, 0.05, 1.5)
        excluded = np.hypot(*np.meshgrid(grid.coordinates - 0.1 * i, grid.coordinates - 0.5)) < 0.2
        made.append(
            gj.Observation(
                lon,
                lat,
                1000.0 * (2 + i),
                own,
                energy_min=0.8 + 0.02 * i,
                energy_max=6.0,
                offset_max=1.5,
                frame="galactic",
                exclusion=Exclusion(grid, jnp.asarray(excluded)),
                obs_id=f"run {i}",
            )
        )
    return made


def programs(step):
    """Number of programs that a step compiles, and its value."""
    before = len(compiled)
    value = jax.block_until_ready(step())
    return len(compiled) - before, value


def numbers(model, priors, runs):
    """Programs of simulation, set-up, value, and gradient, from nothing."""
    jax.clear_caches()
    start = {name: jnp.asarray(0.5 * (prior.low + prior.high)) for name, prior in priors.items()}
    simulated, events = programs(lambda: gj.simulate(jax.random.key(1), model(start), runs))
    made, posterior = programs(lambda: gj.Posterior(model, priors, runs, events, per_decade=10.0, progress=False))
    value = programs(lambda: eqx.filter_jit(lambda p, x: p.log_likelihood_ratio(x))(posterior, start))[0]
    gradient = programs(
        lambda: eqx.filter_jit(lambda p, x: jax.grad(lambda x: p.log_likelihood_ratio(x))(x))(posterior, start)
    )[0]
    fitted = programs(lambda: gj.fit(posterior, initial=start, progress=False).log_posterior)[0]
    return simulated, made, value, gradient, fitted


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fixed", "round", "elongated"])
def test_programs_do_not_know_the_number_of_runs(response, kind):
    def model(p):
        e = 0.7 if kind == "elongated" else 0.0
        source = gj.Source(gj.PowerLaw(p["index"], 1e-11), gj.Gaussian(p.get("lon", 0.2), 0.1, 0.1, e=e))
        return gj.Mixture(source=source, sky=gj.InstrumentBackground())

    priors = {"index": dist.Uniform(1.8, 2.6)} | ({"lon": dist.Uniform(0.1, 0.3)} if kind != "fixed" else {})
    few, many = (numbers(model, priors, campaign(response, number)) for number in (3, 7))
    # an array may have the shape of another one by chance, and be transferred by the same program
    assert abs(few[0] - many[0]) <= 2 and abs(few[1] - many[1]) <= 2
    assert few[2:] == many[2:] and few[2:4] == (1, 1)


def test_programs_of_regions_do_not_know_the_number_of_runs():
    """ON and OFF runs that differ in everything."""

    def numbers(number):
        jax.clear_caches()
        changes = [
            {"ratio": 0.2 + 0.05 * i, "livetime": 3600.0 + 500.0 * i, "energy_min": LOW + 0.05 * i}
            for i in range(number)
        ]
        empty = [run([], [], response=region_response(1.0 + 0.1 * i), **one) for i, one in enumerate(changes)]
        truth = {"amplitude": 2.0, "index": 2.4, "b": jnp.linspace(8.0, 3.0, 6)}
        simulated, runs = programs(lambda: gj.simulate_on_off(jax.random.key(1), power_law(truth), empty))
        made, term = programs(lambda: gj.OnOff(runs))
        function = eqx.filter_jit(lambda term, p: jax.value_and_grad(lambda p: term.log_likelihood(power_law(p)))(p))
        return simulated, made, programs(lambda: function(term, truth))[0]

    few, many = numbers(2), numbers(6)
    assert abs(few[0] - many[0]) <= 2 and abs(few[1] - many[1]) <= 2, (few, many)
    assert few[2] == many[2]


def test_equal_responses_are_one(response, make_observation):
    copy = jax.tree.map(lambda leaf: leaf + 0, response)
    other = eqx.tree_at(lambda r: r.effective_area.values, response, replace_fn=lambda v: 2.0 * v)
    runs = [make_observation(), make_observation(lon=1.0)]
    runs += [eqx.tree_at(lambda o: o.response, make_observation(lat=0.5), new) for new in (copy, other)]
    stacked = Runs.of(tuple(runs))
    assert np.asarray(stacked.response).tolist() == [0, 0, 0, 1] and len(stacked.responses) == 2
    np.testing.assert_allclose(stacked.lon, [0.0, 1.0, 0.0, 0.0])
    assert [run.obs_id for run in stacked.observations] == ["0"] * 4
