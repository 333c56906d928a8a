import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from toys import check_moments

from gammajax.samplers import nuts
from gammajax.samplers.nuts_sampler import _kernel

SHORT = {"draws": 500, "warmup": 100, "progress": False}


@pytest.mark.parametrize("start", ["laplace", "pathfinder"])
def test_moments_of_a_gaussian(start, gaussian):
    toy, mean, covariance = gaussian
    result = nuts(jax.random.key(1), toy, truths={"size": 0.5}, start=start, **SHORT)
    assert result.messages == []
    table = result.summary()
    assert list(table.index) == ["position[0]", "position[1]", "size"]
    # started and scaled by the Laplace approximation, which is exact here
    assert (table["ess_bulk"] > 500).all()
    mean, deviation = np.asarray(mean), np.sqrt(np.diag(covariance))
    check_moments(result, "position", mean[:2], deviation[:2])
    check_moments(result, "size", mean[2], deviation[2])


def test_bounded_parameters(on_off):
    # reference: a fine grid
    result = nuts(jax.random.key(2), on_off, **SHORT)
    signal, background = np.meshgrid(np.linspace(0.5, 200, 400), np.linspace(30, 100, 300), indexing="ij")
    log = 120 * np.log(signal + background) - signal - background + 300 * np.log(5 * background) - 5 * background
    density = np.exp(log - log.max())
    density /= density.sum()
    for name, grid in {"signal": signal, "background": background}.items():
        mean = (density * grid).sum()
        check_moments(result, name, mean, ((density * grid**2).sum() - mean**2) ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 40])
def test_scales_and_their_number_cost_no_gradients(make_toy, number):
    # widths of a millidegree beside those of hundreds, and a sum that is ten times as wide
    width = np.geomspace(1e-3, 300.0, number)

    def normal(p, _):
        y = p["x"] / width
        return -0.5 * ((y**2).sum() - 0.99 * y.sum() ** 2 / number)

    priors = {"x": dist.Normal(jnp.zeros(number), 1e4).to_event(1)}
    result = nuts(jax.random.key(0), make_toy(normal, priors, {"x": jnp.zeros(number)}), **SHORT)
    assert result.tree["sample_stats"]["n_steps"].mean() < 10.0
    covariance = np.eye(number) + 99.0 / number  # of y
    check_moments(result, "x", np.zeros(number), width * np.sqrt(np.diag(covariance)))


def test_same_key_same_draws(on_off):
    first, second = (nuts(jax.random.key(3), on_off, **SHORT).samples for _ in range(2))
    other = nuts(jax.random.key(4), on_off, **SHORT).samples
    np.testing.assert_array_equal(first["signal"], second["signal"])
    assert not np.array_equal(first["signal"], other["signal"])


def test_bad_chains_are_said(make_toy):
    # a funnel, too narrow for any step size, and far too few draws
    def funnel(p, _):
        return -0.5 * (p["x"] / jnp.exp(p["scale"])) ** 2 - p["scale"]

    priors = {"scale": dist.Normal(0.0, 3.0), "x": dist.Normal(0.0, 1e3)}
    toy = make_toy(funnel, priors, {"scale": 0.0, "x": 0.5})
    with pytest.warns(UserWarning) as caught:
        result = nuts(jax.random.key(0), toy, draws=100, warmup=50, progress=False)
    said = [str(warning.message) for warning in caught]
    assert any("divergent transitions" in message for message in result.messages)
    assert any("effective draws" in message for message in result.messages)
    assert sorted(said) == sorted(result.messages)


def test_wrong_numbers(on_off):
    for name in ("draws", "warmup", "chains"):
        with pytest.raises(ValueError, match=f"{name} must be at least"):
            nuts(jax.random.key(0), on_off, **{**SHORT, name: 0})


@pytest.mark.slow
def test_events_are_arguments_of_the_compiled_step(on_off):
    def size(toy):
        kernel = _kernel(100, 0.8, 8)
        prepared = {"x": jnp.zeros(2), "starts": jnp.zeros((2, 2)), "axes": jnp.eye(2)}
        chains = kernel.start(toy, jax.random.key(0), prepared)
        return len(kernel.block.lower(toy, chains).as_text())

    many = eqx.tree_at(lambda toy: toy.data, on_off, jnp.pad(on_off.data, (0, 100_000), constant_values=1.0))
    assert size(many) < size(on_off) + 1000
