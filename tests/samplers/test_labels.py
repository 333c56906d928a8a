"""Names of the elements of vector parameters: from the model, kept by results."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj
from gammajax.samplers.driver import Run, Sampler
from gammajax.samplers.labels import element_labels
from gammajax.samplers.outcome import finish

SKY = gj.InstrumentBackground()


def source(index=2.0, lon=0.0, lat=0.0):
    return gj.Source(gj.PowerLaw(index), gj.Point(lon, lat))


def three(weights):
    return gj.Mixture(W=source(1.0), b=source(2.0), tau=source(3.0), weights=weights)


def signal(weights, p):
    return gj.Mixture(signal=three(weights), sky=SKY, weights={"signal": p["f"]})


def annihilation(r):
    return gj.Source(gj.DarkMatter({"W": r[0], "b": r[1], "tau": r[2]}, 2.0), gj.Point(0.0, 0.0))


FLAT = dist.Dirichlet(jnp.ones(3))
NORMS = dist.LogNormal(0.0, 0.3).expand([3])
NORMAL = dist.Normal(0.0, 1.0)

# model, prior of "v", and its labels
CASES = {
    "weights": (lambda p: three(p["v"]), FLAT, ["W", "b", "tau"]),
    "weights within": (lambda p: signal(p["v"], p), FLAT, ["W", "b", "tau"]),
    "another order": (lambda p: three(p["v"][jnp.array([2, 0, 1])]), FLAT, ["b", "tau", "W"]),
    "a dict": (lambda p: three({"tau": p["v"][0], "W": p["v"][1], "b": p["v"][2]}), FLAT, ["tau", "W", "b"]),
    "all but one": (
        lambda p: three({"W": p["v"][0], "b": p["v"][1]}),
        dist.Uniform(0.0, 0.5).expand([2]).to_event(1),
        ["W", "b"],
    ),
    "hardly any": (lambda p: three(p["v"]), dist.Dirichlet(0.05 * jnp.ones(3)), ["W", "b", "tau"]),
    "sticks": (lambda p: three(gj.stick_breaking(p["v"])), dist.Beta(1.0, jnp.array([2.0, 1.0])), None),
    "channels": (lambda p: gj.Mixture(dark=annihilation(p["v"]), sky=SKY), FLAT, ["W", "b", "tau"]),
    "norms": (lambda p: gj.Mixture(sky=gj.InstrumentBackground(norm=p["v"])), NORMS, ["10", "11", "12"]),
    "tilts": (lambda p: gj.Mixture(sky=gj.InstrumentBackground(tilt=p["v"])), NORMAL.expand([3]), ["10", "11", "12"]),
    "correction": (
        lambda p: gj.Mixture(
            sky=gj.InstrumentBackground(correction=gj.BackgroundCorrection.of(p["v"], (0.5, 1.0, 2.0), (), 2))
        ),
        NORMAL.expand([7]),
        ["0.5 TeV", "1 TeV", "2 TeV", "lon", "lon^2", "lat", "lat^2"],
    ),
    "nodes": (
        lambda p: gj.Mixture(
            sky=gj.InstrumentBackground(correction=gj.BackgroundCorrection(p["v"], energy_nodes=(0.5, 1.0, 2.0)))
        ),
        NORMAL.expand([3]),
        ["0.5 TeV", "1 TeV", "2 TeV"],
    ),
    "scatter": (lambda p: gj.Mixture(sky=gj.InstrumentBackground(norm=jnp.exp(p["v"]))), NORMAL.expand([3]), None),
    "position": (lambda p: gj.Mixture(a=source(lat=p["v"][1], lon=p["v"][0])), NORMAL.expand([2]), ["lon", "lat"]),
    "spectrum": (
        lambda p: gj.Mixture(a=gj.Source(gj.LogParabola(alpha=p["v"][0], beta=p["v"][1]), gj.Point(0.0, 0.0))),
        NORMAL.expand([2]),
        ["alpha", "beta"],
    ),
    "twice the same": (lambda p: gj.Mixture(a=source(p["v"][0]), b=source(p["v"][0])), NORMAL.expand([2]), None),
    "nothing": (lambda p: gj.Mixture(a=source(p["v"].sum())), NORMAL.expand([2]), None),
    "a number": (lambda p: gj.Mixture(a=source(p["v"])), NORMAL, None),
}


class Model:
    """The interface of a posterior, without events."""

    def __init__(self, model, priors):
        self.model, self.priors = model, priors
        self.terms = [SimpleNamespace(labels=("10", "11", "12"))]
        self.reference_parameters = self.sample_prior(jax.random.key(1))

    def fractions(self, parameters):
        raise AssertionError("asked only whether it is there")

    def sample_prior(self, key):
        return {name: prior.sample(key) for name, prior in self.priors.items()}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_names_are_those_of_the_model_or_none(case):
    model, prior, expected = CASES[case]
    found = element_labels(Model(model, {"v": prior, "f": dist.Uniform(0.0, 1.0)}))
    assert found == ({} if expected is None else {"v": expected})


def test_no_names_without_a_model():
    assert element_labels(SimpleNamespace(priors={})) == {}


def test_names_in_tables_plots_and_files(tmp_path):
    draws = np.random.default_rng(0).dirichlet([3.0, 2.0, 1.0], (2, 300))
    points = {"samples": {"ratios": draws[0]}, "log_weight": np.zeros(300), "log_likelihood_birth": np.full(300, -9.0)}
    points |= {"log_likelihood": np.zeros(300), "log_volume": -np.arange(300.0)}
    result = gj.Result.from_samples(
        {"ratios": draws, "mass": draws[..., 0]},
        method="nested",
        truths={"ratios": [0.5, 0.3, 0.2]},
        labels={"ratios": ["W", "b", "tau mu"]},
        weighted=points,
    )
    rows = ["ratios[W]", "ratios[b]", "ratios[tau mu]", "mass"]
    again = gj.Result.load(result.save(tmp_path / "r.nc"))
    assert again.tree.identical(result.tree)
    for one in (result, again, result.derive(twice=lambda p: 2.0 * p["mass"])):
        assert one.labels == {"ratios": ["W", "b", "tau mu"]}
        assert list(one.summary().index)[:4] == rows and one.summary().loc["ratios[b]", "truth"] == 0.3
    drawn = again.plot_corner(["ratios", "mass"])
    assert [axes.get_title().split("=")[0].strip() for axes in drawn.axes[::5]] == rows
    assert again.plot_trace("ratios[tau mu]").axes[0].get_ylabel() == "ratios[tau mu]"
    assert again.upper_limit("ratios[W]", 0.9) == pytest.approx(np.quantile(draws[0, :, 0], 0.9), abs=0.01)
    names = result.derive(x=lambda p: p["mass"]).plot_trace().axes[::3]
    assert [axes.get_ylabel() for axes in names] == [*rows, "x"]
    chains = gj.Result.from_samples(
        {"ratios": draws[:1]}, method="nested", weighted=points, labels={"ratios": ["W", "b", "tau mu"]}
    ).save_chains(tmp_path / "chain")
    assert [line.split()[0] for line in chains[1].read_text().splitlines()] == [
        "ratios[W]",
        "ratios[b]",
        "ratios[tau_mu]",
    ]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"rat": ["W", "b"]}, "labels are of 'rat', which is no vector; there are ratios"),
        ({"mass": ["W"]}, "labels are of 'mass', which is no vector"),
        ({"ratios": ["W"]}, r"must be 2 different texts, not \['W'\]"),
        ({"ratios": ["W", "W"]}, "must be 2 different texts"),
        ({"ratios": ["W", ""]}, "must be 2 different texts"),
        ({"ratios": "Wb"}, "must be 2 different texts, not 'Wb'"),
    ],
)
def test_wrong_labels(labels, message):
    draws = np.random.default_rng(0).dirichlet([3.0, 2.0], (2, 30))
    with pytest.raises(ValueError, match=message):
        gj.Result.from_samples({"ratios": draws, "mass": draws[..., 0]}, method="test", labels=labels)


@pytest.mark.slow
def test_every_sampler_ends_with_them(observation):
    """All samplers end with `finish`: elements of Dirichlet weights have the names of the components."""

    def model(p):
        tilts = {"W": 0.0, "b": 1.0, "tau": -1.0}
        return gj.Mixture(weights=p["ratios"], **{k: gj.InstrumentBackground(tilt=v) for k, v in tilts.items()})

    events = gj.simulate(jax.random.key(0), model({"ratios": jnp.array([0.5, 0.3, 0.2])}), observation, events=50)
    posterior = gj.Posterior(model, {"ratios": FLAT}, observation, events)
    samples = {"ratios": np.random.default_rng(0).dirichlet([3.0, 2.0, 1.0], (2, 30))}
    sampler = Sampler("test", {}, prepare=dict, start=dict, step=dict, done=dict)
    result = finish(Run(posterior, {}, None, None, {}), sampler, jax.random.key(0), samples)
    assert list(result.summary().index) == ["ratios[W]", "ratios[b]", "ratios[tau]"]
