import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gammajax as gj
from gammajax.config import Config, dark_matter, dark_matter_decay
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


def with_source(source, parameter="index"):
    """The template with another spectrum and what goes with it; `parameter` is in the place of the index."""
    text = builtin("template")
    start, end = text.index("      spectrum: {type: power-law"), text.index("      # log-parabola")
    return text[:start] + "".join(f"      {line}\n" for line in source) + text[end:].replace("index:", f"{parameter}:")


def built(text, **values):
    config = parse(text)
    again = Config.model_validate(config.model_dump(mode="json", exclude_none=True))  # what a run writes down
    assert again == config
    values = {name: jnp.asarray(value) for name, value in {"fraction": 0.3, **values}.items()}
    return jax.jit(lambda p: config.model.function()(p).components["signal"])(values)


def test_mixtures_of_channels_and_tables():
    ratio = with_source(["spectrum: {type: dark-matter, channel: {W: r, b: 0.25}, mass: 2.0}"], "r")
    energy = jnp.array([0.1, 1.0])
    expected = gj.DarkMatter({"W": 0.75, "b": 0.25}, 2.0)(energy)
    np.testing.assert_allclose(built(ratio, r=0.75).spectrum(energy), expected, rtol=1e-6)
    table = with_source(["spectrum: {type: tabulated, energy: [0.1, 10.0], flux: [1e-10, 1e-14], norm: n}"], "n")
    np.testing.assert_allclose(built(table, n=3.0).spectrum(energy), [3e-10, 3e-12], rtol=1e-5)


def test_particle_models_and_yields_by_path(tmp_path):
    (tmp_path / "model.csv").write_text(
        "m,c,bb,W+W-\n" + "".join(f"{m},{c},{c * 1e-26},{m * c * 1e-28}\n" for m in (100, 1000) for c in (0.1, 1))
    )
    rows = [f"{m} {x} {10.0**-x} {2 * 10.0**-x}" for m in (100, 1000) for x in (-2, -1, 0)]
    (tmp_path / "yields.dat").write_text("mDM Log[10,x] b W\n" + "\n".join(rows) + "\n")
    spectrum = f"type: particle-model, path: {tmp_path}/model.csv, axes: {{mass: m, coupling: c}}"
    spectrum += f", point: {{mass: 0.5, coupling: c}}, yields: {tmp_path}/yields.dat"
    seen = built(with_source([f"spectrum: {{{spectrum}}}"], "c"), c=0.2).spectrum
    # 2e-27 into b; 500 c 1e-28, with twice the photons, into W: between nodes its share is not exact
    table = gj.io.read_particle_model(tmp_path / "model.csv", {"mass": "m", "coupling": "c"})
    point = {"mass": 0.5, "coupling": 0.2}
    yields = gj.io.read_yields(tmp_path / "yields.dat")
    expected = gj.DarkMatter(table.ratios(**point), 0.5, table.sigma_v(**point), yields=yields)
    energy = jnp.array([0.02, 0.2])
    np.testing.assert_allclose(seen(energy), expected(energy), rtol=1e-5)
    assert float(expected(energy)[0]) > 0
    with pytest.raises(ValueError, match="unknown parameter 'd'; known: c, fraction"):
        parse(with_source([f"spectrum: {{{spectrum}}}".replace("coupling: c}, y", "coupling: d}, y")], "c"))
    missing = parse(with_source([f"spectrum: {{{spectrum}}}".replace("model.csv", "none.csv")], "c"))
    with pytest.raises(FileNotFoundError, match="none.csv: no such file with a particle model"):
        missing.model.function()({"c": 0.2, "fraction": 0.3})


def test_templates_by_path(tmp_path):
    from gammapy.maps import WcsNDMap

    sky = WcsNDMap.create(skydir=(0.0, 0.5), frame="galactic", width=1.0, binsz=0.1, unit="sr-1")
    sky.data += 1.0
    sky.write(tmp_path / "map.fits")
    old = "{type: gaussian, lon: 0.0, lat: 0.0, sigma: 0.2}"
    assert old in builtin("template")
    text = builtin("template").replace(old, f"{{type: template, path: {tmp_path}/map.fits, frame: galactic}}")
    morphology = built(text, index=2.0).morphology
    assert isinstance(morphology, gj.TemplateMap) and float(morphology.lat) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="template of component 'signal' is to be read in frame galactic"):
        parse(text.replace("map.fits, frame: galactic", "map.fits"))


def test_exponents_are_numbers():
    config = parse(builtin("crab").replace("1e-13", "2e-13"))
    assert config.parameters["amplitude"].low == 2e-13


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.yaml: no such file"):
        load(str(tmp_path / "nothing.yaml"))
    with pytest.raises(FileNotFoundError, match=r"did you mean 'galactic-centre'\?"):
        load("galactic-center")


TREE = """
model:
  weights: {sky: fraction}
  components:
    sky:
      type: mixture
      weights: ratios
      components:
        one: {type: source, spectrum: {type: power-law, index: 2.0}, morphology: {type: point, lon: 0, lat: 0}}
        two: {type: source, spectrum: {type: power-law, index: index}, morphology: {type: point, lon: 1, lat: 0}}
    background: {type: background}
"""


def tree(**changes):
    text = builtin("template")
    parameters = text[text.index("parameters:") :].replace(
        "parameters:", "parameters:\n  ratios: {prior: dirichlet, concentration: [1, 2], truth: [0.3, 0.7]}", 1
    )
    text = text[: text.index("model:")] + TREE.lstrip() + "\n" + parameters
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    return text


def test_mixture_within_the_mixture():
    values = {"fraction": jnp.asarray(0.3), "index": jnp.asarray(2.5), "ratios": jnp.array([0.25, 0.75])}
    model = jax.jit(parse(tree()).model.function())(values)
    assert list(model.components) == ["sky/one", "sky/two", "background"]
    np.testing.assert_allclose(model.parts[0].fractions, [0.25, 0.75])
    config = parse(tree())
    assert config.truths["ratios"] == [0.3, 0.7]
    assert config.parameters["ratios"].distribution().event_shape == (2,)
    with pytest.raises(ValueError, match=r"truth of a dirichlet prior is a list of 2 numbers, not 0.3"):
        parse(tree(truth=("truth: [0.3, 0.7]", "truth: 0.3")))
    with pytest.raises(ValueError, match="unknown component 'sy'; did you mean 'sky'"):
        parse(tree(weights=("{sky: fraction}", "{sy: fraction}")))
    with pytest.raises(ValueError, match="unknown parameter 'ratio'; did you mean 'ratios'"):
        parse(tree(weights=("weights: ratios", "weights: ratio")))


@pytest.mark.parametrize(("section", "kind"), [(dark_matter, gj.DarkMatter), (dark_matter_decay, gj.DarkMatterDecay)])
def test_defaults_of_sections_are_those_of_the_classes(section, kind):
    ours, theirs = (
        {name: argument.default for name, argument in inspect.signature(made).parameters.items()}
        for made in (section, kind)
    )
    assert ours == theirs
