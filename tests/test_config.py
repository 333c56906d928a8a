import jax.numpy as jnp
import pytest

import gammajax as gj
from gammajax.configs import builtin, load, parse

# what is changed in the template, and what the one line of the error must say
MISTAKES = {
    "key": ("pointings:", "pointing:", "observations: unknown key 'pointing'; did you mean 'pointings'?"),
    "section": ("sampler:", "samplr:", "unknown key 'samplr'; did you mean 'sampler'?"),
    "nested": (
        "sigma: 0.2",
        "sigm: 0.2",
        "signal.morphology: unknown key 'sigm'; did you mean 'sigma'?",
    ),
    "type": (
        "type: power-law",
        "type: powerlaw",
        "spectrum: unknown type 'powerlaw'; did you mean 'power-law'?",
    ),
    "kind": ("kind: ctao", "kind: ctoa", "observations: unknown kind 'ctoa'; did you mean 'ctao'?"),
    "parameter": ("index: index", "index: indx", "the model uses an unknown parameter 'indx'; did you mean 'index'?"),
    "component": ("signal: fraction", "signl: fraction", "unknown component 'signl'; did you mean 'signal'?"),
    "prior": ("a: 1.0, ", "", "parameters.fraction: a beta prior is given by a and b"),
    "truth": ("truth: 2.3", "unit: x", "to simulate events, parameter 'index' needs a truth"),
    "number": ("chains: 4", "chains: 0", "sampler.chains: input should be greater than 0, not 0"),
    "unused": ("{signal: fraction}", "{signal: 0.1}", "parameter 'fraction' is not used in the model"),
    "yaml": ("components:", "components: [", "not valid YAML"),
    "missing": ("index: index", "", "model.components.signal.spectrum.index: field required"),
}


@pytest.mark.parametrize("name", ["galactic-centre", "crab", "template"])
def test_builtin_configurations(name):
    config = load(name)
    values = {k: jnp.asarray(1.0 if p.truth is None else p.truth) for k, p in config.parameters.items()}
    model = config.model.function()(values)
    assert isinstance(model, gj.Mixture) and set(model.names) == set(config.model.components)
    assert all(parameter.distribution().support is not None for parameter in config.parameters.values())


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(case):
    old, new, message = MISTAKES[case]
    text = builtin("template")
    assert old in text
    with pytest.raises(ValueError) as caught:
        parse(text.replace(old, new), "my.yaml")
    line = str(caught.value)
    assert line.startswith("my.yaml: ") and message in line and "\n" not in line


def test_values_reach_the_model():
    config = parse(builtin("template"))
    model = config.model.function()({"index": jnp.asarray(2.7), "fraction": jnp.asarray(0.3)})
    assert float(model.components["signal"].spectrum.index) == pytest.approx(2.7)
    assert model.fractions.tolist() == pytest.approx([0.3, 0.7])
    assert config.truths == {"index": 2.3, "fraction": 0.1}


def test_exponents_are_numbers():
    config = parse(builtin("crab").replace("1e-13", "2e-13"))
    assert config.parameters["amplitude"].low == 2e-13


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.yaml: no such file"):
        load(str(tmp_path / "nothing.yaml"))
    with pytest.raises(FileNotFoundError, match=r"did you mean 'galactic-centre'\?"):
        load("galactic-center")
