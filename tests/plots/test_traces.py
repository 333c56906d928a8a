from types import SimpleNamespace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from matplotlib.figure import Figure

import gammajax as gj
from gammajax.plots.traces import live_points


@pytest.fixture(scope="module")
def nested():
    """A run of 50 live points on a likelihood that is a power of the remaining prior volume."""
    generator, size = np.random.default_rng(0), 50
    live, birth, points, log_volume = generator.uniform(size=size), np.full(size, -np.inf), [], 0.0
    for _ in range(6 * size):
        worst = np.argmax(live)
        log_volume -= 1.0 / size
        points.append((live[worst], birth[worst], log_volume))
        birth[worst] = -100.0 * live[worst]
        live[worst] *= generator.uniform()
    for left, worst in zip(range(size, 0, -1), np.argsort(-live), strict=True):
        log_volume += np.log(left / (left + 1))
        points.append((live[worst], birth[worst], log_volume))
    x, birth, log_volume = np.array(points).T
    width = np.exp(np.append(0.0, log_volume[:-1])) - np.exp(log_volume)
    log_weight = -100.0 * x + np.log(width)
    result = gj.Result.from_samples(
        {"x": x[None, -40:]},
        method="nested",
        weighted={
            "samples": {"x": x, "pair": np.stack([x, -x], axis=1)},
            "log_weight": log_weight,
            "log_likelihood": -100.0 * x,
            "log_likelihood_birth": birth,
            "log_volume": log_volume,
        },
        log_evidence=(np.log(np.exp(log_weight).sum()), 0.3),
    )
    return result


def lines(axes):
    return [np.asarray(line.get_xydata(), float) for line in axes.get_lines()]


def test_nested_run(nested):
    figure = nested.plot_run()
    figure.canvas.draw()
    live, likelihood, mass, evidence = figure.axes
    curve = lines(live)[0]
    # constant until the last ones are only taken away
    assert np.all(curve[:300, 1] == 50) and curve[-1, 1] == 1
    assert lines(likelihood)[0][-1, 1] == 0.0 and lines(mass)[0][-1, 1] == pytest.approx(1.0)
    # of exp(-100 x), x uniform, half of the evidence lies below x = ln 2 / 100
    x, grown = lines(evidence)[0].T
    assert x[np.argmin(np.abs(grown - np.log(0.5)))] == pytest.approx(-np.log(np.log(2) / 100), abs=1.0)
    assert figure.axes[-1].get_title(loc="right").startswith("ln Z = -4.")


def test_live_points():
    # two born at once, one dies, one is born at its place, both die
    assert live_points(np.array([1.0, 2.0, 3.0]), np.array([-np.inf, -np.inf, 1.0])).tolist() == [2, 2, 1]


def test_tempered_run():
    steps = {"temperature": [0.01, 0.1, 1.0], "ess": [80.0, 90.0, 85.0], "acceptance": [0.6, 0.5, 0.7]}
    made = gj.Result.from_samples({"x": np.ones((1, 5))}, method="smc", smc_stats=steps)
    figure = made.plot_run()
    figure.canvas.draw()
    for axes, values in zip(figure.axes, steps.values(), strict=True):
        np.testing.assert_allclose(lines(axes)[0], np.stack([[1, 2, 3], values], axis=1))
    with pytest.raises(ValueError, match="'nuts' keeps no run to plot"):
        gj.Result.from_samples({"x": np.ones((1, 5))}, method="nuts").plot_run()


def test_trace_shows_chains_that_disagree():
    draws = np.random.default_rng(1).normal(size=(4, 200)) + np.array([0.0, 0.0, 0.0, 3.0])[:, None]
    made = gj.Result.from_samples({"x": draws, "y": 1e-26 * draws}, method="nuts", units={"y": "cm"})
    figure = made.plot_trace("x")
    figure.canvas.draw()
    trace, rank, marginal = figure.axes
    np.testing.assert_allclose(lines(trace)[3][:, 1], draws[3])
    counts = [patch.get_data().values for patch in rank.patches]
    assert all(values.sum() == 200 for values in counts) and counts[3][0] == 0 and counts[3][-1] > 30
    for curve in lines(marginal):
        assert np.trapezoid(curve[:, 1], curve[:, 0]) == pytest.approx(1.0, abs=0.02)
    assert made.plot_trace().axes[3].get_ylabel().endswith("cm]")
    with pytest.raises(ValueError, match="no quantity \\['z'\\]"):
        made.plot_trace(["z"])


class Absolute(eqx.Module):
    """A posterior for the plot of spectra: two sources in an inner mixture, and a background."""

    priors: dict
    observations: tuple
    reference_parameters: dict

    def model(self, p):
        inner = gj.Mixture(
            line=gj.Source(gj.PowerLaw(index=p["index"], amplitude=p["amplitude"] * 1e-12), gj.Point(0.3, 0.0)),
            halo=gj.Source(gj.PowerLaw(index=2.0, amplitude=1e-12), gj.Point(-0.3, 0.0)),
        )
        return gj.Mixture(sky=inner, background=gj.InstrumentBackground())

    @property
    def terms(self):
        ranges = [(float(o.energy_min), float(o.energy_max)) for o in self.observations]
        return tuple(SimpleNamespace(energy_range=one) for one in ranges)

    def flux_scales(self, p):
        return dict.fromkeys(self.model(p).components, jnp.ones(()))


def test_spectrum_is_the_closed_form(observation):
    priors = {"index": dist.Normal(2.5, 0.5), "amplitude": dist.Uniform(0.0, 10.0)}
    posterior = Absolute(priors, (observation,), {"index": jnp.array(2.5), "amplitude": jnp.array(3.0)})
    amplitude = np.random.default_rng(2).normal(3.0, 0.1, (2, 100))
    truths = {"index": 2.5, "amplitude": 3.3}
    made = gj.Result.from_samples(
        {"index": np.full((2, 100), 2.5), "amplitude": amplitude}, method="test", truths=truths
    )
    axes = made.plot_spectrum(posterior, "sky/line")
    axes.figure.canvas.draw()
    truth, median = lines(axes)[:2]
    assert median[:, 0].min() < 0.55 and median[:, 0].max() > 7.5  # the selection
    # bins are narrow, 6 %: their mean equals the value at the middle within 0.1 %
    np.testing.assert_allclose(truth[:, 1], 3.3e-12 * truth[:, 0] ** -0.5, rtol=2e-3)
    np.testing.assert_allclose(median[:, 1], np.median(amplitude) * 1e-12 * median[:, 0] ** -0.5, rtol=2e-3)
    wide, narrow = (band.get_paths()[0].vertices for band in axes.collections[:2])
    for band, levels in ((wide, (0.0228, 0.9772)), (narrow, (0.1587, 0.8413))):
        at = np.isclose(band[:, 0], median[0, 0])
        low, high = np.quantile(amplitude, levels) * 1e-12 * median[0, 0] ** -0.5
        assert band[at, 1].min() == pytest.approx(low, rel=2e-3)
        assert band[at, 1].max() == pytest.approx(high, rel=2e-3)
    other = Figure().subplots()
    assert made.plot_spectrum(posterior, "sky/line", ax=other) is other and len(lines(other)) == len(lines(axes))
    # the sum of an inner mixture
    both = lines(made.plot_spectrum(posterior, "sky", energy_range=(1.0, 4.0)))[1]
    expected = np.median(amplitude) * 1e-12 * both[:, 0] ** -0.5 + 1e-12
    np.testing.assert_allclose(both[:, 1], expected, rtol=2e-3)
    with pytest.raises(ValueError, match="'background' is no source; the sources are"):
        made.plot_spectrum(posterior, "background")
