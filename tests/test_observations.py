"""Every public function takes observations alike: one, or a list of at least one."""

import inspect

import jax
import numpyro.distributions as dist
import pytest

import gammajax as gj

KEY = jax.random.key(0)
SOURCE = gj.Source(gj.PowerLaw(2.0, 1e-12), gj.Point(0.0, 0.0))
EVENTS = gj.Events([1.0], [0.0], [0.0])
PRIORS = {"flux": dist.Uniform(0.0, 2.0), "index": dist.Uniform(1.0, 3.0)}
TRUTH = {"flux": 1.0, "index": 2.0}


def model(p):
    return gj.Mixture(source=gj.Source(gj.PowerLaw(p["index"], 1e-12 * p["flux"]), gj.Point(0.0, 0.0)))


def binning():
    return gj.Binning.init(gj.io.ctao(pointing=(0.0, 0.0), livetime=60.0, energy_range=(1.0, 2.0), offset_max=1.0))


CALLS = {
    "Asimov.init": lambda o: gj.Asimov.init(KEY, model, PRIORS, o, TRUTH),
    "Binning.init": lambda o: gj.Binning.init(o),
    "Events.compress": lambda o: EVENTS.compress(o),
    "Posterior": lambda o: gj.Posterior(model, PRIORS, o, EVENTS),
    "Unbinned": lambda o: gj.Unbinned(o, EVENTS),
    "compression_loss": lambda o: gj.compression_loss(model, PRIORS, o, EVENTS, TRUTH),
    "expected_counts": lambda o: gj.expected_counts(SOURCE, o),
    "exposure": lambda o: gj.exposure(o, None),
    "forecast": lambda o: gj.forecast(KEY, model, PRIORS, o, TRUTH),
    "intensity": lambda o: gj.intensity(SOURCE, o, EVENTS),
    "read_events": lambda o: gj.io.read_events("folder", o),
    "sensitivity": lambda o: gj.sensitivity(KEY, model, PRIORS, o, TRUTH, scale="flux", along="index", values=[2.0]),
    "sensitivity_map": lambda o: gj.sensitivity_map(model(TRUTH), o, width=1.0, step=0.1),
    "simulate": lambda o: gj.simulate(KEY, model(TRUTH), o),
    "simulate_cells": lambda o: gj.simulate_cells(KEY, model(TRUTH), o, binning(), events=10),
    "write_background": lambda o: gj.io.write_background("b.fits", gj.InstrumentBackground(), o, alignment="RADEC"),
    "write_events": lambda o: gj.io.write_events("folder", EVENTS, o),
}
RETURNED = {"Data", "Exposure"}
OF_GAMMAPY = {"from_gammapy_observations", "on_off_from_gammapy"}
PARTS = {
    "Cells.check_observations",
    "BackgroundCorrection.check_observations",
    "InstrumentBackground.check_observations",
}


def test_the_table_is_whole():
    found = set()
    for module in (gj, gj.io):
        for name in dir(module):
            value = getattr(module, name)
            members = {name: value} if callable(value) else {}
            if inspect.isclass(value):
                members |= {f"{name}.{key}": part for key, part in vars(value).items() if not key.startswith("_")}
            for label, part in members.items():
                function = getattr(part, "__func__", part)
                if callable(function) and "observations" in inspect.signature(function).parameters:
                    found.add(label)
    assert found - RETURNED - OF_GAMMAPY - PARTS == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_others_are_refused_in_one_line(name, tmp_path, monkeypatch, make_observation):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="the list of observations is empty"):
        CALLS[name]([])
    with pytest.raises((ValueError, TypeError), match="observations"):
        CALLS[name]([make_observation(), 3.0])
    assert not list(tmp_path.iterdir())


def test_one_is_a_list_of_one(make_observation, tmp_path):
    run = make_observation()
    gj.io.write_events(tmp_path / "one", EVENTS, run)
    gj.io.write_events(tmp_path / "list", EVENTS, [run])
    for folder, observations in (("one", [run]), ("list", run)):
        assert gj.io.read_events(tmp_path / folder, observations).energy.tolist() == [1.0]
