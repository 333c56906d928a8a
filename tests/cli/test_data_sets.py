"""Several data sets in a configuration, and numbers by run."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas
import pytest
from on_off import some_runs
from typer.testing import CliRunner

import gammajax as gj
from gammajax.cli import app, document
from gammajax.cli.config import Config
from gammajax.cli.configurations import check, dump, load, parse
from gammajax.cli.preparing import _background_priors

POINT = {"type": "point", "lon": 83.6, "lat": 22.0}
POWER = {"type": "power-law", "index": "index", "amplitude": 3e-11}
CTAO = {"kind": "ctao", "livetime": 600, "energy_range": [1.0, 5.0], "offset_max": 1.0}


def joint() -> dict:
    """Runs of a store, ON and OFF regions unbinned and in cells, a file of gammapy, and a simulated pointing."""
    source = {"type": "source", "spectrum": POWER, "morphology": POINT}
    regions = {"kind": "on-off", "path": "magic", "target": [83.6, 22.0]}
    return {
        "observations": {
            "hess": {"kind": "gadf", "path": "hess", "obs_ids": [1, 2], "components": ["crab", "background"]},
            "magic": {**regions, "components": ["crab", "off"]},
            "veritas": {**regions, "edges": ["300 GeV", 1.0, 10.0], "off": [[83.6, 21.2]], "components": "reported"},
            "fermi": {"kind": "gammapy", "datasets": ["fermi.yaml", "more.fits"], "components": ["crab"]},
            "ctao": {**CTAO, "pointings": [[83.6, 22.5]], "components": "south"},
        },
        "events": {"simulate": True},
        "model": {
            "components": {
                "crab": source,
                "reported": {**source, "z": "z"},
                "background": {"type": "background", "norm": "norms", "tilt": [0.0, "tilt"]},
                "off": {"type": "off-background", "log_rate": "rate", "energy_min": "500 GeV", "energy_max": 8.0},
                "south": {
                    "type": "mixture",
                    "response": {"effective_area": "area"},
                    "components": {"crab": source, "sky": {"type": "background"}},
                },
            }
        },
        "parameters": {
            "index": {"prior": "uniform", "low": 1.5, "high": 4.0, "truth": 2.5},
            "norms": {"prior": "log-normal", "mean": 0.0, "sd": 0.3, "size": 2},
            "tilt": {"prior": "normal", "mean": 0.0, "sd": 0.3},
            "z": {"prior": "normal", "mean": 0.0, "sd": 0.15},
            "rate": {"prior": "smooth", "size": 6, "scale": 0.3},
            "area": {"prior": "log-normal", "mean": 0.0, "sd": 0.1, "truth": 1.1},
        },
    }


def edited(changes: dict) -> Config:
    """The joint configuration with other values at keys such as "observations.hess.kind"; None leaves one out."""
    values = joint()
    for key, value in changes.items():
        *above, last = key.split(".")
        section = values
        for part in above:
            section = section[part]
        section[last] = value
        if value is None:
            del section[last]
    return parse(document.dump(values), "my.yaml")


def test_each_data_set_sees_its_components():
    config = edited({})
    assert parse(dump(config)) == config
    seen = {name: list(config.seen(name)) for name in config.data_sets}
    assert seen == {
        "hess": ["crab", "background"],
        "magic": ["crab", "off"],
        "veritas": ["reported"],
        "fermi": ["crab"],
        "ctao": ["south/crab", "south/sky"],
    }
    values = {name: jnp.asarray(prior.sample(jax.random.key(0))) for name, prior in config.priors().items()}
    mixture = jax.jit(config.model.function())(values)
    np.testing.assert_array_equal(mixture.components["background"].norm, values["norms"])
    np.testing.assert_allclose(mixture.components["background"].tilt, [0.0, values["tilt"]])
    assert mixture.components["reported"].spectrum.z == values["z"]
    assert mixture.components["south/crab"].response.effective_area == values["area"]
    assert mixture.components["crab"].response is None
    assert mixture.components["off"].log_rate.shape == (6,) and mixture.components["off"].energy_min == 0.5


def test_by_default_data_see_what_they_can():
    plain = {f"observations.{name}.components": None for name in ("hess", "magic", "veritas", "fermi", "ctao")}
    whole = {"type": "source", "spectrum": POWER, "morphology": POINT}
    model = {"crab": whole, "background": {"type": "background"}, "off": joint()["model"]["components"]["off"]}
    parameters = {name: joint()["parameters"][name] for name in ("index", "rate")}
    config = edited({**plain, "model.components": model, "parameters": parameters})
    seen = {name: list(config.seen(name)) for name in config.data_sets}
    both = ["crab", "background"]
    assert seen == {"hess": both, "magic": ["crab", "off"], "veritas": ["crab"], "fermi": both, "ctao": both}


def test_regions_and_bins_take_changes_of_energies():
    changes = {"effective_area": "area", "energy_scale": "z"}
    config = edited({"model.components.reported.response": changes, "observations.fermi.components": "reported"})
    mixture = config.model.function()({name: jnp.asarray(prior.mean) for name, prior in config.priors().items()})
    assert mixture.components["reported"].response.energy_scale == 0.0
    fields = {"reported": ["effective_area", "energy_scale"], "south/crab": ["effective_area"]}
    assert config.model.changed() == fields


OFF = {"type": "off-background", "log_rate": [1, 2, 3, 4], "energy_min": 1, "energy_max": 2}
SED = {"type": "flux-points", "component": "crab", "edges": [1.0, 2.0], "energy": "reconstructed"}
LIMIT = {"type": "limits", "masses": [1.0], "scale": "z", "mass": "index", "expected": True}
REFUSED = {
    "a kind": ({"observations.hess.kind": "gdaf"}, "observations.hess: unknown kind 'gdaf'; did you mean 'gadf'?"),
    "no kind": ({"observations.hess.kind": None}, "observations.hess: needs a key 'kind'"),
    "a key": ({"observations.magic.taget": [1, 2]}, "observations.magic: unknown key 'taget'; did you mean 'target'?"),
    "a name": ({"observations.a b": joint()["observations"]["ctao"]}, "'a b' cannot name a data set; use letters"),
    "a component": (
        {"observations.hess.components": ["crb", "background"]},
        "observations.hess.components: unknown component 'crb'; did you mean 'crab'?",
    ),
    "a component of nobody": (
        {
            "observations.hess.components": ["crab"],
            "model.components.background": {"type": "background"},
            "parameters.norms": None,
            "parameters.tilt": None,
        },
        "model.components.background: no data set sees this background; name it among the components of one",
    ),
    "no component": (
        {"observations.hess.components": ["off"]},
        "observations.hess.components: these data see no component; name some of type source and background",
    ),
    "frames": (
        {"observations.ctao.frame": "galactic"},
        "observations.ctao.frame: galactic, but observations.hess.frame",
    ),
    "weights": (
        {"model.weights": {"crab": 0.5}},
        "observations.hess.components: a model with weights shares the events among all components",
    ),
    "a number of events": (
        {"events.simulate": 100},
        "events.simulate: 100 events need model.weights to share them; for absolute fluxes write true",
    ),
    "no events": ({"events": None}, "of kind ctao need events to simulate, as in events: {simulate: true}"),
    "a truth": ({"parameters.area.truth": None}, "parameters.area: to simulate events, parameter 'area' needs a truth"),
    "a response of regions": (
        {"model.response": {"effective_area": "area", "psf_width": 1.1}},
        "observations.magic: 'crab' changes the psf_width of the response, but on-off data have that of their files",
    ),
    "a response of bins": (
        {"observations.fermi.components": ["south"], "model.components.south.response.energy_resolution": 1.1},
        "observations.fermi: 'south/crab' changes the energy_resolution of the response, but gammapy data have that of",
    ),
    "a wide source": (
        {"model.components.reported.morphology": {"type": "disk", "lon": 83.6, "lat": 22.0, "r_0": 0.1}},
        "observations.veritas: source 'reported' is no point, as those of ON regions are",
    ),
    "no background of OFF": (
        {"observations.magic.components": "crab", "model.components.off": None, "parameters.rate": None},
        "observations.magic: ON and OFF events need one component of type off-background, and these see none",
    ),
    "two backgrounds of OFF": (
        {
            "model.components.other": OFF,
            "observations.magic.components": None,
            "model.components.reported": None,
            "model.components.south": None,
            "parameters.z": None,
            "observations.veritas": None,
            "observations.ctao": None,
            "events": None,
            "parameters.area": None,
        },
        "one component of type off-background, and these see off, other",
    ),
    "numbers by run of bins": (
        {"observations.fermi.components": ["crab", "background"]},
        "observations.fermi: the norm of 'background' is by run; counts in bins have one",
    ),
    "a correction of bins": (
        {
            "observations.fermi.components": ["crab", "sky"],
            "model.components.sky": {"type": "background", "correction": {"numbers": [0, 0], "degree": 1}},
        },
        "observations.fermi: counts in bins know no correction of 'sky'",
    ),
    "cells by run": (
        {"observations.magic.by_run": True},
        "observations.magic: by_run is of counts in cells; give their",
    ),
    "OFF regions": ({"observations.magic.off": "ring"}, "observations.magic.off: must be reflected, wobble, a list"),
    "a ring": ({"observations.magic.off": {"inner": 0.3}}, "observations.magic.off.outer: field required"),
    "a ring of other keys": ({"observations.magic.off": {"radius": 1}}, "observations.magic.off: unknown key 'radius'"),
    "an empty ring": (
        {"observations.magic.off": {"inner": 0.6, "outer": 0.5}},
        "observations.magic.off: a ring has 0 < inner < outer deg, not inner: 0.6, outer: 0.5",
    ),
    "a phase": ({"observations.magic.phase": [[0.9, 1.1]]}, "observations.magic.phase: must be a pair in brackets"),
    "hours": (
        {
            **{f"observations.{name}.frame": "galactic" for name in joint()["observations"]},
            "observations.magic.target": ["5h34m", 22],
        },
        "observations.magic.target: a right ascension in hours, but observations.hess.frame is galactic",
    ),
    "energies of OFF": (
        {"model.components.off.energy_max": 0.1},
        "energy_max must be above energy_min, 0.5 TeV, not 0.1",
    ),
    "a number for a spline": (
        {"model.components.off.log_rate": "tilt"},
        "model.components.off.log_rate: parameter 'tilt' must stand for several numbers: give its prior a size",
    ),
    "several for a number": (
        {"model.components.reported.z": "norms"},
        "model.components.reported.z: parameter 'norms' must stand for one number, not 2",
    ),
    "no numbers": ({"model.components.background.tilt": []}, "background.tilt: must not be an empty list; give one"),
    "a negative norm": (
        {"model.components.background.norm": [1.0, -1.0], "parameters.norms": None},
        "model.components.background: norm is -1; it must be positive",
    ),
    "sizes": (
        {"parameters.norms": {"prior": "dirichlet", "concentration": [1, 1], "size": 2}},
        "the size of a dirichlet prior is that of its concentration; leave out size",
    ),
    "a centre": (
        {"parameters.rate.centre": [1, 2, 3, 4]},
        "a smooth prior is given by its centre, a list, or by its size",
    ),
    "no scale about a centre": (
        {"parameters.rate": {"prior": "smooth", "centre": [1, 2, 3, 4]}},
        "a smooth prior about a centre is given by scale; scale is missing",
    ),
    "no scale of an area": (
        {
            "model.components.south.response": {"effective_area_spline": "rate", "spline_energies": [1, 2, 3, 4, 5, 6]},
            "parameters.rate.scale": None,
            "parameters.area": None,
        },
        "only a log_rate takes it from OFF events",
    ),
    "a truth of many": (
        {"parameters.norms.truth": [1.0]},
        "truth of a log-normal prior is a list of 2 numbers, not [1.0]",
    ),
    "a light curve": (
        {"products": {"runs": {"type": "light-curve", "component": "crab"}}},
        "products.runs: a light curve is of a single data set of events; leave it out",
    ),
    "slices": (
        {"products": {"sed": SED}},
        "products.sed: flux points in reconstructed energy are of a single data set",
    ),
    "bands": (
        {"products": {"limit": LIMIT}},
        "products.limit: expected limits are of a single data set of events; write",
    ),
    "a map": (
        {"products": {"map": {"type": "ts-map", "width": 1.0, "step": 0.1}}},
        "products.map: a map of the test statistic is of a single data set of events",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_line(case):
    changes, message = REFUSED[case]
    with pytest.raises(ValueError) as caught:
        edited(changes)
    line = str(caught.value)
    assert line.startswith("my.yaml: ") and message in line and "\n" not in line and len(line) < 400, line


REGIONS = """
observations: {kind: on-off, path: magic, target: [83.6, 22.0]}
model:
  components:
    crab: {type: source, spectrum: {type: power-law, index: index}, morphology: {type: point, lon: 83.6, lat: 22.0}}
    off: {type: off-background, log_rate: rate, energy_min: 0.5, energy_max: 20}
parameters:
  index: {prior: uniform, low: 1.5, high: 4.0}
  rate: {prior: smooth, size: 6, scale: 0.3, level: 0.5}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "parameters:",
            "  weights: {crab: 0.5}\nparameters:",
            "model.weights: data of kind on-off need absolute fluxes",
        ),
        ("model:", "compress: {pixel: 0.1}\nmodel:", "compress: only events are merged in cells, and there are none"),
        (
            "model:",
            "events: {simulate: true}\nmodel:",
            "the events come from files; leave out the section events",
        ),
    ],
)
def test_a_single_data_set_of_regions(old, new, message):
    config = parse(REGIONS)
    assert list(config.seen("")) == ["crab", "off"] and parse(dump(config)) == config
    with pytest.raises(ValueError, match="--distributed is of a single data set of events"):
        config.check_shared()
    with pytest.raises(ValueError) as caught:
        parse(REGIONS.replace(old, new))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_checks_are_of_events_or_of_regions():
    """Data in bins alone have no simulated ones beside them."""
    checked = REGIONS + "products: {fit: {type: check}}"
    assert list(parse(checked).products) == ["fit"]
    binned = checked.replace("kind: on-off, path: magic, target: [83.6, 22.0]", "kind: gammapy, datasets: [a.yaml]")
    binned = "\n".join(line for line in binned.splitlines() if not line.strip().startswith(("off:", "rate:")))
    with pytest.raises(ValueError, match="products.fit: data of events are compared with simulated ones"):
        parse(binned)


@pytest.mark.slow
@pytest.mark.parametrize("center", [None, [83.0, 21.0]])
def test_a_ring_of_off_events(center, monkeypatch):
    """The region that is given to the reader, about the target by default."""
    ring = {"inner": 0.3, "outer": "30 arcmin"} | ({} if center is None else {"center": center})
    config = parse(REGIONS.replace("path: magic,", f"path: magic, radius: 0.1, off: {json.dumps(ring)},"))
    assert parse(dump(config)) == config
    asked = {}
    monkeypatch.setattr(gj.io, "read_on_off", lambda **given: asked.update(given) or [])
    assert config.observations.read() == []
    region = asked["off"]
    assert (region.inner_radius.to_value("deg"), region.outer_radius.to_value("deg")) == (0.3, 0.5)
    assert [region.center.ra.deg, region.center.dec.deg] == pytest.approx(center or [83.6, 22.0])


@pytest.mark.parametrize("scale", [", scale: 0.3", ""])
def test_a_smooth_prior_is_the_one_that_off_events_ask_for(scale):
    """About their power law, over the energies of the component; with the scale that is given, or their own."""
    config, data = parse(REGIONS.replace(", scale: 0.3", scale)), gj.OnOff(some_runs())
    assert parse(dump(config)) == config
    prior = config.priors(_background_priors(config, [data]))["rate"]
    expected = data.background_prior(6, 0.3 if scale else None, energy_range=(0.5, 20.0), level=0.5)
    np.testing.assert_allclose(prior.mean, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(prior.covariance_matrix, expected.covariance_matrix, rtol=1e-5)


PER_RUN = """
observations: {kind: ctao, pointings: [[0, 0.5], [0, -0.5], [0.5, 0]], frame: galactic, livetime: 600}
events: {simulate: true}
model:
  components:
    crab: {type: source, spectrum: {type: power-law, index: 2}, morphology: {type: point, lon: 0, lat: 0}}
    sky: {type: background, norm: norms, correction: {numbers: shapes, degree: 1}}
  response: {energy_scale: scales, psf_width: [1.0, 1.1, width]}
parameters:
  norms: {prior: log-normal, mean: 0, sd: 0.3, size: 3, truth: [1, 1, 1]}
  shapes: {prior: correction, degree: 1, size: 3, truth: [[0, 0.1], [0, 0], [0, 0]]}
  scales: {prior: normal, mean: 0, sd: 0.05, size: 3, truth: [0, 0, 0.1]}
  width: {prior: log-normal, mean: 0, sd: 0.1, truth: 1.2}
"""


@pytest.mark.slow
def test_numbers_by_run():
    config = parse(PER_RUN)
    assert parse(dump(config)) == config
    priors = config.priors()
    assert isinstance(priors["norms"], dist.Distribution) and priors["norms"].batch_shape == (3,)
    assert priors["shapes"].batch_shape == (3,) and priors["shapes"].event_shape == (2,)
    mixture = config.model.function()({name: jnp.asarray(value) for name, value in config.truths.items()})
    sky, response = mixture.components["sky"], mixture.components["crab"].response
    assert sky.norm.shape == (3,) and sky.correction.gradients.shape == (3, 2, 1)
    np.testing.assert_allclose(response.psf_width, [1.0, 1.1, 1.2], rtol=1e-6)
    np.testing.assert_allclose(response.energy_scale, [0, 0, 0.1], rtol=1e-6)
    check(config, config.observations.make())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[1.0, 1.1, width]", "[1.0, width]", "model.components.crab: psf_width of the response has shape (2,)"),
        (
            "size: 3, truth: [1, 1, 1]",
            "size: 2, truth: [1, 1]",
            "model.components.sky: the background's norm has shape (2",
        ),
        ("truth: [[0, 0.1], [0, 0], [0, 0]]", "truth: [[0, 0.1], [0]]", "is 3 lists, each a list of 2 numbers"),
    ],
)
def test_numbers_by_run_are_one_for_each(old, new, message):
    assert old in PER_RUN
    with pytest.raises(ValueError) as caught:
        config = parse(PER_RUN.replace(old, new))
        check(config, config.observations.make())
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_directions_are_those_of_the_data_that_see_them():
    pointings = {"north": [[83.6, 22.5]], "south": [[120.0, -40.0]]}
    values = {
        "observations": {
            name: {**CTAO, "pointings": pairs, "components": [name, "sky"]} for name, pairs in pointings.items()
        },
        "events": {"simulate": True},
        "model": {
            "components": {
                "north": {"type": "source", "spectrum": POWER, "morphology": POINT},
                "south": {"type": "source", "spectrum": POWER, "morphology": {**POINT, "lon": 120, "lat": -40}},
                "sky": {"type": "background"},
            }
        },
        "parameters": {"index": {"prior": "uniform", "low": 1.5, "high": 4.0, "truth": 2.5}},
    }
    config = parse(document.dump(values))
    made = {name: section.make() for name, section in config.data_sets.items()}
    check(config, made)
    values["observations"]["south"]["components"] = ["north", "south", "sky"]
    values["observations"]["north"]["components"] = ["south", "sky"]
    config = parse(document.dump(values))
    with pytest.raises(ValueError, match=r"components.north.morphology: .* nearest pointing, \(120, -40\)"):
        check(config, made)
    values["observations"]["north"] |= {"components": ["south", "north", "sky"], "energy_range": [500, 5000]}
    with pytest.raises(ValueError, match=r"observations.north.energy_range: \[500, 5000\] TeV is outside"):
        check(parse(document.dump(values)), made)


@pytest.fixture
def spectrum(tmp_path):
    """File of a spectrum of gammapy with a known background."""
    from astropy import units as u
    from gammapy.datasets import SpectrumDataset
    from gammapy.irf import EDispKernelMap
    from gammapy.maps import MapAxis, RegionGeom

    energy = MapAxis.from_energy_bounds("1 TeV", "10 TeV", nbin=4)
    true = MapAxis.from_energy_bounds("0.5 TeV", "20 TeV", nbin=12, name="energy_true")
    region = RegionGeom.create("icrs;circle(83.6, 22.0, 0.1)", axes=[energy])
    dataset = SpectrumDataset.create(region, energy_axis_true=true, name="other")
    dataset.psf, dataset.edisp = None, EDispKernelMap.from_gauss(energy, true, sigma=0.15, bias=0.0)
    dataset.exposure.quantity = 3e13 * (dataset.exposure.data * 0.0 + 1.0) * u.Unit("cm2 s")
    dataset.background.data += 1.0
    dataset.counts.data += 30.0
    dataset.mask_safe.data[:] = True
    path = tmp_path / "spectrum.fits"
    dataset.write(path)
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of gammapy's files, and of few draws
def test_a_run_of_two_data_sets(spectrum, tmp_path, monkeypatch):
    values = {
        "observations": {
            "south": {**CTAO, "pointings": [[83.6, 22.5]], "components": ["crab", "sky"]},
            "other": {"kind": "gammapy", "datasets": str(spectrum), "components": "reported"},
        },
        "events": {"simulate": True},
        "model": {
            "components": {
                "crab": {"type": "source", "spectrum": POWER, "morphology": POINT},
                "reported": {"type": "source", "spectrum": POWER, "morphology": POINT, "z": "z"},
                "sky": {"type": "background"},
            }
        },
        "parameters": {
            "index": {"prior": "uniform", "low": 1.5, "high": 4.0, "truth": 2.5},
            "z": {"prior": "normal", "mean": 0.0, "sd": 0.15},
        },
        "sampler": {"method": "laplace", "draws": 800},
        "products": {"sed": {"type": "flux-points", "component": "crab", "edges": [1.0, 5.0]}},
    }
    (tmp_path / "two.yaml").write_text(document.dump(values))
    monkeypatch.chdir(tmp_path)
    wide = jax.config.jax_enable_x64
    answer = CliRunner().invoke(app, ["run", "two.yaml", "--no-progress"])
    jax.config.update("jax_enable_x64", wide)
    assert answer.exit_code == 0, answer.output
    words = " ".join(answer.output.split())
    assert "south: " in words and "in 1 observations, other: 120 counts in 4 bins" in words
    out = tmp_path / "results" / "two"
    assert {"counts.png", "corner.png", "report.html", "sed.csv", "posterior.nc"} <= {f.name for f in out.iterdir()}
    table = pandas.read_csv(out / "summary.csv", index_col=0)
    assert list(table.index) == ["index", "z"] and abs(table.loc["index", "median"] - 2.5) < 1.0
    assert load(str(out / "config.yaml")) == load("two.yaml")
    assert "already complete" in CliRunner().invoke(app, ["run", "two.yaml", "--resume"]).output


@pytest.mark.parametrize("page", ["cli", "joint"])
def test_configurations_of_the_documentation(page):
    text = (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text(encoding="utf-8")
    found = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "observations:" in block]
    assert len(found) == 1
    config = parse(found[0])
    assert len(config.data_sets) > 1 and parse(dump(config)) == config
