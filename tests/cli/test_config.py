import codecs
import inspect
import re
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import gammajax as gj
from gammajax.cli import app
from gammajax.cli.config import Config
from gammajax.cli.configurations import builtin, check, dump, load, parse
from gammajax.cli.model_section import dark_matter, dark_matter_decay
from gammajax.io.ctao_prod5 import EMBEDDED
from gammajax.model.mixture import mixture_of

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


SHAPE = "energy_nodes: [0.5, 1, 2], offset_nodes: [0, 1, 2], degree: 1"


def corrected(part=f"{{numbers: shape, {SHAPE}}}", prior=f"{{prior: correction, {SHAPE}, gradient: 0.2}}"):
    shape = prior.replace("}", ", truth: [0, 0, 0.1, 0, 0, 0, 0.2, 0]}")
    text = tree(
        background=("background: {type: background}", f"background: {{type: background, correction: {part}}}"),
        parameters=("parameters:", f"parameters:\n  shape: {shape}"),
    )
    return text


@pytest.mark.slow
def test_a_correction_of_the_background():
    config = parse(corrected())
    prior = config.parameters["shape"].distribution()
    np.testing.assert_allclose(np.sqrt(np.diag(prior.covariance_matrix))[6:], 0.2, rtol=1e-5)
    values = {"fraction": 0.3, "index": 2.5, "ratios": jnp.array([0.25, 0.75]), "shape": jnp.arange(8.0)}
    background = config.model.function()(values).components["background"]
    np.testing.assert_array_equal(background.correction.offset, [3.0, 4.0, 5.0])
    np.testing.assert_array_equal(background.correction.gradients, [[6.0], [7.0]])
    assert background.correction.energy_nodes == (0.5, 1.0, 2.0)
    assert parse(dump(config)) == config
    # numbers, some of them of parameters
    part = "{numbers: [0.1, index, 0.3], energy_nodes: [0.5, 1, 2]}"
    one = parse(
        tree(background=("background: {type: background}", f"background: {{type: background, correction: {part}}}"))
    )
    np.testing.assert_allclose(one.model.function()(values).components["background"].correction.energy, [0.1, 2.5, 0.3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": "{numbers: shape, energy_nodes: [0.5, 1, 2]}"}, "must be those of the prior of 'shape'"),
        ({"part": f"{{numbers: index, {SHAPE}}}"}, "'index' must stand for numbers of a correction prior"),
        ({"part": "{numbers: [0, 0], degree: 2}"}, "a correction of these nodes and degree has 4, not 2"),
        ({"part": "{numbers: shape, degree: -1}"}, r"from 0 \(no gradients\) to 6, not -1"),
        ({"part": "{numbers: shape, energy_nodes: [2, 1, 3]}"}, "must be at least 3, increase"),
        ({"prior": "{prior: correction, degree: -1}"}, "not -1"),
        (
            {"prior": "{prior: normal, mean: 0, sd: 1, degree: 1}"},
            "a normal prior is given by mean and sd, not by degree",
        ),
    ],
)
def test_mistakes_of_corrections_are_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        parse(corrected(**changes))
    assert "\n" not in str(error.value)


def by_energy(part):
    return builtin("template").replace("sigma: 0.2}", f"sigma: 0.2}}\n      by_energy: {part}")


def test_a_size_that_changes_with_energy():
    part = "{energy: [100 GeV, 100], size: [2, index], shift_lat: [0, 6 arcmin]}"
    config = parse(by_energy(part))
    nebula = config.model.function()({"fraction": 0.1, "index": 0.5}).components["signal"].morphology
    assert isinstance(nebula, gj.EnergyDependent) and nebula.shift_lon is None
    found = nebula.energy, nebula.size, nebula.shift_lat
    np.testing.assert_allclose(found, [[0.1, 100], [2, 0.5], [0, 0.1]], rtol=1e-6)
    assert parse(dump(config)) == config
    with pytest.raises(ValueError, match="unknown parameter 'indx'; did you mean 'index'"):
        parse(by_energy(part.replace("index", "indx")))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("{energy: [1], size: [1]}", "energy: at least two that increase"),
        ("{energy: [2, 1], size: [1, 1]}", "energy: at least two that increase"),
        ("{energy: [1, 10], size: [1]}", "size: one number for each of the 2 energies, not 1"),
        ("{energy: [1, 10], size: [1, 1], shift_lon: [0]}", "shift_lon: one number for each of the 2 energies, not 1"),
        ("{energy: [1, 10]}", "by_energy.size: field required"),
        ("{energy: [1, 10], size: [1, 1], shift: [0, 0]}", "unknown key 'shift'"),
        ("{energy: [1 deg, 10], size: [1, 1]}", "deg"),
    ],
)
def test_mistakes_of_sizes_by_energy_are_one_line(part, message):
    with pytest.raises(ValueError, match=message) as error:
        parse(by_energy(part))
    assert "\n" not in str(error.value)


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


# Everything below: what people type. A row changes the template (or another base) and says what comes of it.
SPECTRUM = "{type: power-law, index: index}"
PLACE = "lon: 0.0, lat: 0.0"
POINTINGS = "[[0.0, 0.7], [0.0, -0.7]]"
INDEX = "{prior: normal, mean: 2.5, sd: 1.0, truth: 2.3}"
FRACTION = "{prior: beta, a: 1.0, b: 9.0, truth: 0.1}"
ICRS = ("frame: galactic", "frame: icrs")


def edited(changes, base="template"):
    text = builtin(base)
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


# the key and its fault, and the parts that the one line must have
REFUSED = {
    # YAML
    "a key twice": (
        [("livetime: 3600.0", "livetime: 3600.0\n  livetime: 7200.0")],
        "key 'livetime' is there twice, in",
    ),
    "a key twice in braces": (
        [("index: index", "index: index, index: 2")],
        "key 'index' is there twice, in lines 26 and 26",
    ),
    "a section twice": ([("seed: 0", "seed: 0\nprecision: 32")], "key 'precision' is there twice, in lines 48 and 50"),
    "a tab": ([("  kind: ctao ", "\tkind: ctao ")], "line 5: a tab stands where YAML wants spaces"),
    "two documents": ([("events:", "---\nevents:")], "begins another document"),
    "a Python tag": ([("seed: 0", "seed: !!python/object/apply:os.getcwd []")], "tag !!python/object/apply:os.getcwd"),
    "another tag": ([("seed: 0", "seed: !seed 0")], "the tag !seed is not known"),
    "an older YAML": ([("observations:", "%YAML 1.1\n---\nobservations:")], "%YAML 1.1 asks for another YAML"),
    "a key that is no text": ([("    signal:", "    1:")], "the key 1 is not text"),
    "an anchor in itself": ([(POINTINGS, "&p [*p]")], "the anchor &p holds itself"),
    "anchors of anchors": (
        [(POINTINGS, "[&a0 [0, 0], " + "".join(f"&a{i + 1} [{10 * f'*a{i},'}], " for i in range(6)) + "*a6]")],
        "line 10: anchors make more than 100000 values of this",
    ),
    "an anchor twice": (
        [(POINTINGS, "[&a [0.0, 0.7], &a [0.0, -0.7]]")],
        "an anchor is there twice, in lines 10 and 10",
    ),
    "no such anchor": ([(POINTINGS, "*p")], "undefined alias"),
    "a NUL": ([("seed: 0", "seed: \x000")], "line 49 holds the character '\\x00'"),
    "an open bracket": ([(POINTINGS, "[[0.0, 0.7], [0.0, -0.7]")], "not valid YAML in line 11"),
    # observations
    "a word for a frame": (
        [("frame: galactic", "frame: ICRS")],
        "frame: input should be 'icrs' or 'galactic', not 'ICRS'",
    ),
    "another kind": ([("kind: ctao", "")], "observations: needs a key 'kind'"),
    "a site": ([("site: South", "site: south")], "no response for site: south, zenith: 20, hours: 50 is embedded"),
    "a zenith": ([("zenith: 20", "zenith: 40")], "write kind: response and path: FILE"),
    "hours": ([("hours: 50", "hours: 5 h")], "hours: 5 is embedded; there is site: South, zenith: 20, hours: 50"),
    "one pointing": (
        [(POINTINGS, "[0.0, 0.7]")],
        "pointings: must be a list of pairs, as in [[83.6, 22.0]], not [0.0, 0.7]",
    ),
    "no pointing": ([(POINTINGS, "[]")], "observations.pointings: must not be empty"),
    "three numbers": ([(POINTINGS, "[[0.0, 0.7, 1.0]]")], "pointings.0: must be a pair in brackets"),
    "a pole": ([(POINTINGS, "[[0.0, 97]]")], "pointings.0.1: must be a latitude in deg, from -90 to 90, not 97"),
    "turns": ([(POINTINGS, "[[1000, 0]]")], "pointings.0.0: must be a longitude in deg, from -360 to 360, not 1000"),
    "hours of galactic": ([(POINTINGS, "[[05:34:31.94, 0.5]]")], "pointings.0: a right ascension in hours, but"),
    "hours of latitude": ([(POINTINGS, "[[0.0, 5h34m]]")], "'5h34m' is in hours, a latitude is in degrees"),
    "two numbers": ([(POINTINGS, "[[05:34, 0.5]]")], "colons separate three numbers, as in 05:34:31.94"),
    "degrees as hours": ([ICRS, (POINTINGS, "[[83:37:43, 22]]")], "degrees are written as in 83d37m43s"),
    "sixty minutes": ([ICRS, (POINTINGS, "[[05:60:00, 22]]")], "'05:60:00' is no angle"),
    "a decimal comma": (
        [(POINTINGS, "[['0,5', 0]]")],
        "must be a number in deg, or one with a unit as in '6 arcmin', not '0,5'",
    ),
    "hours of livetime": (
        [("livetime: 3600.0", "livetime: 50")],
        "observations.livetime: plain numbers are in s, and 50 s",
    ),
    "a negative livetime": ([("livetime: 3600.0", "livetime: -1 h")], "livetime: input should be greater than 0"),
    "a time in base 60": (
        [("livetime: 3600.0", "livetime: 01:00:00")],
        "livetime: must be a number in s, or one with a unit",
    ),
    "a livetime in deg": ([("livetime: 3600.0", "livetime: 2 deg")], "'2 deg' is of another kind"),
    "an unknown unit": ([("livetime: 3600.0", "livetime: 10 hours")], "not '10 hours'; did you mean hour?"),
    "no livetime": ([("livetime: 3600.0", "livetime:")], "livetime: must be a plain number, not None"),
    "an infinite livetime": ([("livetime: 3600.0", "livetime: .inf")], "livetime: must be a finite number"),
    "true livetime": ([("livetime: 3600.0", "livetime: true")], "livetime: must be a plain number, not True"),
    "a falling range": (
        [("[0.2, 50.0]", "[50, 0.2]")],
        "energy_range: must increase, as in [0.5, 50.0], not [50, 0.2]",
    ),
    "a range as text": ([("[0.2, 50.0]", "0.2-50")], "energy_range: must be a pair in brackets"),
    "an energy in cm": ([("[0.2, 50.0]", "[2 cm, 50]")], "energy_range.0: must be a number in TeV"),
    "an energy of zero": ([("[0.2, 50.0]", "[0, 50]")], "energy_range.0: input should be greater than 0"),
    "a large offset": ([("offset_max: 2.5", "offset_max: 95")], "offset_max: input should be less than 90"),
    "an offset in hours": ([("offset_max: 2.5", "offset_max: 1h")], "offset_max: must be a number in deg"),
    "an exclusion of numbers": (
        [("offset_max: 2.5", "offset_max: 2.5\n  exclusion: [1, 2]")],
        "exclusion: must be a text",
    ),
    # events
    "words for true": (
        [("simulate: 20000", "simulate: yes")],
        "events.simulate: must be a number of events, or true, not 'yes'",
    ),
    "half an event": ([("simulate: 20000", "simulate: 0.5")], "events.simulate: must be a whole number, not 0.5"),
    "no events": ([("simulate: 20000", "simulate: 0")], "events.simulate: must be a whole number from 1"),
    "true for fractions": ([("simulate: 20000", "simulate: true")], "true is for a model without weights"),
    # model
    "a quoted number": ([("sigma: 0.2", "sigma: x2")], "the model uses an unknown parameter 'x2'"),
    "a size in base 60": ([("sigma: 0.2", "sigma: 0:12:00")], "morphology.sigma: must be a number in deg"),
    "a size in TeV": ([("sigma: 0.2", "sigma: 2 TeV")], "morphology.sigma: must be a number in deg"),
    "true for a number": (
        [("index: index}", "index: index, reference: true}")],
        "reference: must be a plain number, not True",
    ),
    "not a number": ([("sigma: 0.2", "sigma: .nan")], "morphology.sigma: must be a finite number, not nan"),
    "an enormous number": ([("sigma: 0.2", "sigma: 1" + 400 * "0")], "morphology.sigma: must be a finite number"),
    "a fraction above one": ([("{signal: fraction}", "{signal: 5}")], "the fraction signal must be from 0 to 1, not 5"),
    "weights in order": ([("{signal: fraction}", "[0.1, 0.9]")], "must hold a fraction for each component"),
    "a name with a slash": ([("    signal:", "    a/b:"), ("signal: f", "a/b: f")], "no component can be called 'a/b'"),
    "a halo without place": (
        [ICRS, (f"gaussian, {PLACE}, sigma: 0.2", "nfw")],
        "is the Galactic centre in frame galactic",
    ),
    "no for false": ([(f"gaussian, {PLACE}, sigma: 0.2", "nfw, decay: no")], "decay: must be true or false, not 'no'"),
    "no section": (
        [("background: {type: background}", "background: background")],
        "must be a section of keys and values",
    ),
    "a number for all weights": (
        [("{signal: fraction}", "fraction")],
        "weights: parameter 'fraction' must stand for fr",
    ),
    # parameters
    "fractions for a number": (
        [(INDEX, "{prior: dirichlet, concentration: [1, 1], truth: [0.4, 0.6]}")],
        "model.components.signal.spectrum.index: parameter 'index' must stand for one number, not 2",
    ),
    "fractions of half": (
        [(INDEX, "{prior: dirichlet, concentration: [1, 1], truth: [0.2, 0.3]}")],
        "truth = [0.2, 0.3] adds up to 0.5; fractions add up to one",
    ),
    "an angle for a name": ([("index: index", "index: 5h"), ("  index: {", "  5h: {")], "index: must be a number"),
    "a number for a name": ([("  index: {", "  '7': {")], "parameters: '7' reads as a number or an angle"),
    "a truth below": (
        [(INDEX, "{prior: uniform, low: 3, high: 4, truth: 2.3}")],
        "truth = 2.3 is outside the uniform prior, which goes from 3 to 4",
    ),
    "a truth above": (
        [(FRACTION, "{prior: beta, a: 1, b: 9, truth: 10}")],
        "parameters.fraction: truth = 10.0 is outside the beta prior",
    ),
    "a negative truth": (
        [(INDEX, "{prior: half-normal, sd: 2, truth: -1}")],
        "outside the half-normal prior, which goes above zero",
    ),
    "a zero": ([(INDEX, "{prior: log-normal, mean: 1, sd: 2, truth: 0}")], "outside the log-normal prior"),
    "a list of truths": ([("truth: 2.3", "truth: [2.3]")], "the truth of a normal prior is a number, not [2.3]"),
    "a low end": (
        [(INDEX, "{prior: normal, low: 1, mean: 2, sd: 1, truth: 2}")],
        "given by mean and sd, not by low: 1",
    ),
    "a bound with a unit": (
        [(INDEX, "{prior: uniform, low: 200 GeV, high: 9, truth: 1}")],
        "parameters.index.low: must be a plain number, not '200 GeV'; plain numbers are in TeV, deg, s: write 0.2",
    ),
    "a truth in base 60": ([("truth: 2.3", "truth: 05:34:31.94")], "write 83.63308333"),
    "an infinite end": (
        [(INDEX, "{prior: uniform, low: 0, high: .inf, truth: 1}")],
        "index.high: must be a finite number",
    ),
    "no width": ([("sd: 1.0", "sd: 0")], "parameters.index.sd: input should be greater than 0, not 0"),
    "a number for a prior": ([(INDEX, "2.3")], "parameters.index: must be a section of keys and values, not 2.3"),
    "a label in GeV": (
        [(SPECTRUM, "{type: power-law, index: 2, reference: index}"), ("truth: 2.3", "truth: 2.3, unit: GeV")],
        "parameters.index.unit: the model reads index in TeV",
    ),
    # sampler, precision, seed
    "a word for a count": ([("draws: 1000", "draws: many")], "sampler.draws: must be a whole number, not 'many'"),
    "true for a count": ([("draws: 1000", "draws: true")], "sampler.draws: must be a whole number, not True"),
    "a half chain": ([("chains: 4", "chains: 2.5")], "sampler.chains: must be a whole number, not 2.5"),
    "a precision": ([("precision: 64", "precision: double")], "precision: input should be 32 or 64, not 'double'"),
    "a large seed": ([("seed: 0", f"seed: {2**70}")], "seed must be a whole number from 0 to 2^63 - 1 (precision 64)"),
    "a large seed for 32 bits": (
        [("seed: 0", f"seed: {2**40}"), ("precision: 64", "precision: 32")],
        "from 0 to 2^32 - 1",
    ),
    "a power": ([("seed: 0", "seed: 2**70")], "seed: must be a whole number, not '2**70'"),
    "a negative seed": (
        [("seed: 0", "seed: -1")],
        "seed must be a whole number from 0 to 2^63 - 1 (precision 64), not -1",
    ),
    "true for a seed": ([("seed: 0", "seed: true")], "seed: must be a whole number, not True"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_fault_is_one_line_with_its_key(case):
    changes, message = REFUSED[case]
    with pytest.raises(ValueError) as caught:
        parse(edited(changes), "my.yaml")
    line = str(caught.value)
    assert line.startswith("my.yaml: ") and message in line and "\n" not in line and len(line) < 400, line


def pointing(config):
    return config.observations.pointings[0]


def place(config):
    return config.model.components["signal"].morphology


# what is accepted, and what it means
CRAB = 15.0 * (5 + 34 / 60 + 31.94 / 3600), 22 + 52 / 3600
MEANT = {
    "no octal": ([("livetime: 3600.0", "livetime: 03600")], lambda c: c.observations.livetime, 3600.0),
    "hours": ([("livetime: 3600.0", "livetime: 10 h")], lambda c: c.observations.livetime, 36000.0),
    "seconds": ([("livetime: 3600.0", "livetime: 50 s")], lambda c: c.observations.livetime, 50.0),
    "digits apart": ([("livetime: 3600.0", "livetime: 3_600")], lambda c: c.observations.livetime, 3600.0),
    "quotes": ([("livetime: 3600.0", "livetime: '3600'")], lambda c: c.observations.livetime, 3600.0),
    "GeV": ([("[0.2, 50.0]", "[200 GeV, 50 TeV]")], lambda c: c.observations.energy_range, (0.2, 50.0)),
    "arcmin": ([("offset_max: 2.5", "offset_max: 150 arcmin")], lambda c: c.observations.offset_max, 2.5),
    "colons": ([ICRS, (POINTINGS, "[[05:34:31.94, +22:00:52]]")], pointing, CRAB),
    "spaces": ([ICRS, (POINTINGS, "[[05 34 31.94, 22 00 52]]")], pointing, CRAB),
    "letters": ([ICRS, (POINTINGS, "[[5h34m31.94s, 22d00m52s]]")], pointing, CRAB),
    "signs": ([ICRS, (POINTINGS, "[[83°37'59.1\", 22°0′52″]]")], pointing, (83 + 37 / 60 + 59.1 / 3600, CRAB[1])),
    "degrees": ([(POINTINGS, "[[184d33m27s, -0:30:00]]")], pointing, (184.5575, -0.5)),
    "units": ([(POINTINGS, "[[1.5 rad, -30 arcmin]]")], pointing, (np.degrees(1.5), -0.5)),
    "a place": ([ICRS, (PLACE, "lon: 05:34:31.94, lat: +22:00:52")], lambda c: (place(c).lon, place(c).lat), CRAB),
    "a free place": ([(PLACE, "lon: index, lat: 0.5 deg")], lambda c: (place(c).lon, place(c).lat), ("index", 0.5)),
    "a size": ([("sigma: 0.2", "sigma: 6 arcmin")], lambda c: place(c).sigma, 0.1),
    "a mass": (
        [(SPECTRUM, "{type: dark-matter, channel: W, mass: 500 GeV, sigma_v: index}")],
        lambda c: c.model.components["signal"].spectrum.mass,
        0.5,
    ),
    "a flux": (
        [(SPECTRUM, "{type: power-law, index: index, amplitude: 1e-9 GeV-1 m-2 s-1}")],
        lambda c: c.model.components["signal"].spectrum.amplitude,
        1e-10,
    ),
    "percent": (
        [("{signal: fraction}", "{signal: 10 %}"), ("sigma: 0.2", "sigma: fraction")],
        lambda c: c.model.weights["signal"],
        0.1,
    ),
    "names like words": (
        [("    signal:", "    on:"), ("signal: f", "on: f")],
        lambda c: list(c.model.components),
        ["on", "background"],
    ),
    "a date": (
        [("offset_max: 2.5", "offset_max: 2.5\n  exclusion: 2026-01-01")],
        lambda c: c.observations.exclusion,
        "2026-01-01",
    ),
    "a power of ten": ([("simulate: 20000", "simulate: 2e4")], lambda c: c.events.simulate, 20000),
    "one event": (
        [("simulate: 20000", "simulate: 1")],
        lambda c: (c.events.simulate, c.events.simulate is True),
        (1, False),
    ),
    "a merge": (
        [(INDEX, "&p {prior: normal, mean: 2.5, sd: 1.0, truth: 2.3}"), (FRACTION, "{<<: *p, truth: 0.5}")],
        lambda c: c.truths,
        {"index": 2.3, "fraction": 0.5},
    ),
    "a truth at an end": (
        [(FRACTION, "{prior: uniform, low: 0, high: 1, truth: 0}")],
        lambda c: c.truths["fraction"],
        0.0,
    ),
    "the last seed": ([("seed: 0", f"seed: {2**63 - 1}")], lambda c: c.seed, 2**63 - 1),
    "a label": (
        [(SPECTRUM, "{type: power-law, index: 2, reference: index}"), ("truth: 2.3", "truth: 2.3, unit: TeV")],
        lambda c: c.units,
        {"index": "TeV"},
    ),
    "a response of its own": (
        [
            ("kind: ctao", "kind: response\n  path: irf.fits"),
            ("  site: South", "#"),
            ("  zenith: 20", "#"),
            ("  hours: 50", "#"),
        ],
        lambda c: c.observations.path,
        "irf.fits",
    ),
}


@pytest.mark.parametrize("case", MEANT)
def test_a_configuration_means_what_it_says(case):
    changes, read, expected = MEANT[case]
    config = parse(edited(changes))
    again = parse(dump(config))  # what a run writes down
    assert again == config
    for found in (read(config), read(again)):
        if isinstance(expected, (float, tuple)) and not any(
            isinstance(x, (str, bool)) for x in np.atleast_1d(expected)
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-12)
        else:
            assert found == expected


TEXT = builtin("crab")  # with a character beyond ASCII
FILES = {
    "UTF-8": (TEXT.encode(), None),
    "a byte order mark": (codecs.BOM_UTF8 + TEXT.encode(), None),
    "UTF-16": (TEXT.encode("utf-16"), None),
    "CRLF": (TEXT.replace("\n", "\r\n").encode(), None),
    "CR": (TEXT.replace("\n", "\r").encode(), None),
    "latin-1": (
        TEXT.replace("kind: gadf", "kind: gadf # é").encode("latin-1", "replace"),
        "line 6 is not UTF-8 (byte 0xe9); save",
    ),
    "empty": (b"", "is empty; it must hold sections such as observations, model and parameters"),
    "comments": (b"# nothing yet\n", "is empty"),
    "text": (b"hello", "holds 'hello'; it must hold sections"),
    "a list": (b"- 1\n- 2\n", "holds [1, 2]; it must hold sections"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00", "line 1 is not UTF-8 (byte 0x89)"),
    "zeros": (b"seed: 1\n\x00\x00\x00", "line 2 holds the character '\\x00'"),
    "a folder": (None, "is a folder; give the YAML file in it"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_are_read_or_refused_in_one_line(case, tmp_path):
    data, message = FILES[case]
    path = tmp_path / "my.yaml"
    path.mkdir() if data is None else path.write_bytes(data)
    if message is None:
        assert load(str(path)) == load("crab")
        return
    with pytest.raises(ValueError) as caught:
        load(str(path))
    assert str(caught.value).startswith(str(path)) and message in str(caught.value) and "\n" not in str(caught.value)


# against the response: CTAO South from 0.0126 to 199.5 TeV and up to 6 deg
SKY = "model.components.signal.morphology: "
AGAINST_RESPONSE = {
    "energies in GeV": (
        [("[0.2, 50.0]", "[200, 50000]")],
        "[200, 50000] TeV is outside of the response's 0.0126 to 199.5 TeV; are these GeV? then write [200 GeV, 50000",
    ),
    "a wide range in GeV": ([("[0.2, 50.0]", "[20, 1000]")], "are these GeV? then write [20 GeV, 1000 GeV]"),
    "beyond everything": ([("[0.2, 50.0]", "[0.2, 1e6]")], "energy_range: [0.2, 1e+06] TeV is outside"),
    "low energies": ([("[0.2, 50.0]", "[0.001, 0.01]")], "energy_range: [0.001, 0.01] TeV is outside"),
    "a wide field": (
        [("offset_max: 2.5", "offset_max: 20")],
        "observations.offset_max: 20 deg is beyond the response, which ends at 6 deg",
    ),
    "a line in GeV": (
        [(SPECTRUM, "{type: line, energy: 300, amplitude: index}")],
        "model.components.signal.spectrum.energy: 300 TeV is outside of the response's",
    ),
    "a mass in GeV": (
        [(SPECTRUM, "{type: dark-matter, channel: W, mass: 2000, sigma_v: index}")],
        "spectrum.mass: 2000 TeV is outside",
    ),
    "a mass that is free": (
        [
            (SPECTRUM, "{type: dark-matter, channel: W, mass: index}"),
            (INDEX, "{prior: log-uniform, low: 5, high: 5000, truth: 2000}"),
        ],
        "parameters.index.truth: 2000 TeV is outside",
    ),
    "a prior in GeV": (
        [(SPECTRUM, "{type: line, energy: index}"), (INDEX, "{prior: log-uniform, low: 50, high: 5000, truth: 60}")],
        "parameters.index: 50 to 5000 TeV is outside of the response's 0.0126 to 199.5 TeV; is it in GeV?",
    ),
    "a prior below": (
        [(SPECTRUM, "{type: line, energy: index}"), (INDEX, "{prior: uniform, low: 0.001, high: 0.01, truth: 0.005}")],
        "parameters.index.truth: 0.005 TeV is outside",
    ),
    "a reference in GeV": (
        [(SPECTRUM, "{type: power-law, index: index, reference: 1000}")],
        "spectrum.reference: 1000 TeV",
    ),
    "a table in GeV": (
        [(SPECTRUM, "{type: tabulated, energy: [200, 2000], flux: [1e-9, 1e-12], norm: index}")],
        "spectrum.energy: 200 to 2000 TeV",
    ),
    "a channel": (
        [(SPECTRUM, "{type: dark-matter, channel: Q, mass: 2, sigma_v: index}")],
        "model.components.signal: unknown annihilation channel 'Q'",
    ),
    "a negative size": (
        [("sigma: 0.2", "sigma: -0.2")],
        "model.components.signal: sigma of a Gaussian must be positive",
    ),
    "the end of a prior": (
        [
            (SPECTRUM, "{type: dark-matter, channel: W, mass: index}"),
            (INDEX, "{prior: uniform, low: 1, high: 150, truth: 2}"),
        ],
        "parameters: the prior of 'index' reaches 150",
    ),
    "weights above one": (
        [("{signal: fraction}", "{signal: fraction, background: 0.95}")],
        "model: the weights add up to",
    ),
    "a pointing in icrs": (
        [(POINTINGS, "[[83.6, 22.0]]"), (PLACE, "lon: 184.56, lat: -5.78")],
        "is 102 deg from the nearest pointing, (83.6, 22), which sees 2.5 deg; the pointing looks like one in icrs",
    ),
    "a galactic pointing": (
        [ICRS, (POINTINGS, "[[184.56, -5.78]]"), (PLACE, "lon: 83.63, lat: 22.01")],
        "the pointing looks like one in galactic: convert it, or set observations.frame",
    ),
    "a galactic source": (
        [ICRS, (POINTINGS, "[[83.6, 22.0]]"), (PLACE, "lon: 184.56, lat: -5.78")],
        "deg; it looks like one in galactic: convert it, or set observations.frame",
    ),
    "one pointing of two": (
        [ICRS, (POINTINGS, "[[83.6, 22.0], [184.56, -5.78]]"), (PLACE, "lon: 83.63, lat: 22.01")],
        "pointings.1: (184.56, -5.78) deg, icrs, is 102 deg from the nearest source; it looks like one in",
    ),
    "a galactic pointing at a halo": (
        [ICRS, (f"gaussian, {PLACE}, sigma: 0.2", "nfw, lon: 266.4, lat: -28.94")],
        "deg from the nearest pointing, (0, -0.7), which sees 2.5 deg; the pointing looks like one in galactic",
    ),
    "far away": (
        [(PLACE, "lon: 40, lat: 0")],
        SKY + "(40, 0) deg, galactic, is 40 deg from the nearest pointing, (0, 0.7), which sees 2.5 deg",
    ),
    "a free place": (
        [(PLACE, "lon: index, lat: 0"), ("truth: 2.3", "truth: 23")],
        SKY + "(23, 0) deg, galactic, is 23 deg",
    ),
    "no such map": (
        [
            (f"gaussian, {PLACE}, sigma: 0.2", "template, frame: galactic, path: none.fits"),
            (SPECTRUM, "{type: power-law, index: index}"),
        ],
        "model.components.signal: none.fits",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", AGAINST_RESPONSE)
def test_checks_against_the_response(case):
    changes, message = AGAINST_RESPONSE[case]
    config = parse(edited(changes))
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        check(config, config.observations.make())
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_response_allows():
    halo = [(f"gaussian, {PLACE}, sigma: 0.2", "nfw"), (POINTINGS, "[[60.0, 0.7]]")]  # it is in every field of view
    for changes in (
        [],
        halo,
        [(PLACE, "lon: 3.9, lat: 0"), (POINTINGS, "[[0.5, 0.0]]")],
        [("[0.2, 50.0]", "[0.001, 1000]")],
    ):
        config = parse(edited(changes))
        check(config, config.observations.make())
    config = parse(edited([(POINTINGS, "[[0.0, 0.7], [20.0, 0.7]]")]))
    with pytest.warns(UserWarning, match=r"pointings.1: \(20, 0.7\) deg, galactic, is 20 deg .* and sees none"):
        check(config, config.observations.make())
    config = parse(edited([(SPECTRUM, "{type: exp-cutoff, index: index, lambda_: 2e-4}")]))
    with pytest.warns(UserWarning, match=r"lambda_: the cut-off 1 / 0.0002 = 5e\+03 TeV is outside"):
        check(config, config.observations.make())


def test_a_response_by_its_path(tmp_path):
    changes = MEANT["a response of its own"][0]
    path = Path(gj.__file__).parent / "data" / EMBEDDED["South", 20, 50]
    config = parse(edited(changes).replace("irf.fits", str(path)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the embedded files are known not to be normalised
        config.observations.make()
    ours, theirs = config.observations.make()[1], load("template").observations.make()[1]
    np.testing.assert_array_equal(ours.response.effective_area.values, theirs.response.effective_area.values)
    assert (ours.obs_id, float(ours.lat), float(ours.livetime)) == ("1", pytest.approx(-0.7), 3600.0)
    with pytest.raises(FileNotFoundError, match="none.fits: no such file"):
        parse(edited(changes).replace("irf.fits", f"{tmp_path}/none.fits")).observations.make()


@pytest.mark.parametrize("precision", [32, 64])
def test_seeds_are_those_that_jax_keeps_apart(precision):
    config = parse(edited([("precision: 64", f"precision: {precision}")]))
    last = 2 ** (63 if precision == 64 else 32) - 1
    assert config.with_seed(last).seed == last
    with jax.enable_x64(precision == 64):
        keys = [jax.random.key_data(jax.random.key(seed)).tolist() for seed in (0, 1, last - 1, last)]
    assert len(set(map(tuple, keys))) == 4
    for seed in (last + 1, 2**70, -1, True):
        with pytest.raises(ValueError, match="seed must be a whole number from 0 to"):
            config.with_seed(seed)


def test_a_parameter_that_is_missing():
    model = load("template").model.function()
    with pytest.raises(ValueError, match="the model reads parameter 'fraction', which has no value; known: index"):
        model({"index": 2.0})
    table = {"a": 1.0}
    with pytest.raises(KeyError, match="typo"):  # not of a parameter: the user's own
        mixture_of(lambda p: table[p["name"]], {"name": "typo", "typo": 1.0})
    with pytest.raises(ValueError, match="the model reads parameter 'mass', which has no prior; known: index, norm"):
        mixture_of(lambda p: p["mass"], {"index": 1.0, "norm": 2.0})


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        (
            [("[0.2, 50.0]", "[200, 50000]")],
            (),
            "observations.energy_range: [200, 50000] TeV is outside of the response",
        ),
        ([], ("--seed", "-1"), "seed must be a whole number from 0 to 2^63 - 1 (precision 64), not -1"),
        (
            [],
            ("--seed", str(2**70)),
            "seed must be a whole number from 0 to 2^63 - 1 (precision 64), not one that large",
        ),
    ],
)
def test_a_run_is_refused_before_it_simulates(changes, arguments, message, tmp_path, monkeypatch):
    (tmp_path / "my.yaml").write_text(edited(changes), encoding="utf-8")
    monkeypatch.setattr(sys.modules["gammajax.simulation"], "simulate", None)  # it would not survive a call
    wide = jax.config.jax_enable_x64
    answer = CliRunner().invoke(app, ["run", str(tmp_path / "my.yaml"), "--out", str(tmp_path / "out"), *arguments])
    jax.config.update("jax_enable_x64", wide)
    assert answer.exit_code == 2 and message in answer.stderr and answer.stderr.count("\n") == 1, answer.output
    assert [file.name for file in tmp_path.iterdir()] == ["my.yaml"]


def test_free_fluxes_that_weights_cancel_are_a_warning():
    text = builtin("template").replace("index: index}", "index: 2.3, amplitude: index}")
    config = parse(text)
    with pytest.warns(
        UserWarning, match=r"signal.spectrum.amplitude: the weights fix the counts .* 'index' has no effect"
    ):
        check(config, config.observations.make())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("index: index}", "index: index, amplitude: -1e-12}", "amplitude is -1e-12; it must be positive"),
        ("index: index}", "index: index, reference: 0}", "reference is 0; it must be positive"),
        ("method: nuts", "method: nested, live: 1", "sampler.live: 1 is below 6, twice the dimensions plus two"),
        ("method: nuts", "method: nested, precision: 64", "sampler.precision: 64 must be below 1"),
        ("  index: {prior", "  chain: {prior", "a parameter cannot be called 'chain'"),
        ("  index: {prior", "  i/j: {prior", "a parameter cannot be called 'i/j'"),
    ],
)
def test_numbers_and_names_that_cannot_be(old, new, message):
    text = builtin("template")
    assert old in text
    text = text.replace(old, new)
    if "method" in new:
        head, tail = text.split("sampler:")
        text = f"{head}sampler: {{{new}}}\n" + tail[tail.index("precision: 64 ") :]
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(text)
