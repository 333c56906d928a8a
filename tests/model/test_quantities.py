"""Units come from the model or from the user, never from the name of a parameter."""

import jax.numpy as jnp
import numpy as np
import pytest

import gammajax as gj
from gammajax.model.quantities import LABELS, find_quantity
from gammajax.plots.cross_sections import THERMAL_RELIC

POINT = gj.Point(0.0, 0.0)
ABSORPTION = gj.Absorption([0.1, 1.0, 10.0], [0.0, 1.0], [[0.0, 0.0, 0.0], [0.1, 1.0, 9.0]], redshift=0.1)


def of(*spectra):
    parts = {f"s{i}": gj.Source(spectrum, POINT) for i, spectrum in enumerate(spectra)}
    return gj.Mixture(**parts, sky=gj.InstrumentBackground())


def annihilation(sigma_v, mass=2.0, channel: str | dict = "W"):
    return gj.DarkMatter(channel, mass, sigma_v)


def decay(rate, mass=2.0):
    return gj.DarkMatterDecay("b", mass, rate)


# model, parameter, and the quantity with its factor, or None
CASES = {
    "itself": (lambda p: of(annihilation(p["sigma_v"])), "sigma_v", ("sigma_v", 1.0)),
    "by power": (lambda p: of(annihilation(p["sigma_v"] * 1e-24)), "sigma_v", ("sigma_v", 1e-24)),
    "another name": (lambda p: of(annihilation(2e-26 * p["a"])), "a", ("sigma_v", 2e-26)),
    "mixed": (lambda p: of(annihilation(1e-24 * p["a"], channel={"W": 0.3, "b": 0.7})), "a", ("sigma_v", 1e-24)),
    "absorbed": (lambda p: of(annihilation(1e-24 * p["a"]) * ABSORPTION), "a", ("sigma_v", 1e-24)),
    "summed": (lambda p: of(annihilation(1e-24 * p["a"]) + gj.PowerLaw(2.0)), "a", ("sigma_v", 1e-24)),
    "two alike": (lambda p: of(annihilation(1e-24 * p["a"]), annihilation(1e-24 * p["a"])), "a", ("sigma_v", 1e-24)),
    "one of two": (lambda p: of(annihilation(1e-24 * p["a"]), annihilation(1e-26)), "a", ("sigma_v", 1e-24)),
    "inner": (
        lambda p: gj.Mixture(dark=of(annihilation(1e-24 * p["a"])), sky=gj.InstrumentBackground()),
        "a",
        ("sigma_v", 1e-24),
    ),
    "rate": (lambda p: of(decay(1e-27 * p["a"])), "a", ("decay_rate", 1e-27)),
    "mass": (lambda p: of(annihilation(1e-26, p["mass"])), "mass", ("mass", 1.0)),
    "mass in GeV": (lambda p: of(decay(1e-27, p["mass"] / 1000.0)), "mass", ("mass", 1e-3)),
    "two that differ": (lambda p: of(annihilation(1e-24 * p["a"]), annihilation(2e-24 * p["a"])), "a", None),
    "exponent": (lambda p: of(annihilation(10.0 ** -p["sigma_v"])), "sigma_v", None),
    "offset": (lambda p: of(annihilation(1e-26 * (1.0 + p["sigma_v"]))), "sigma_v", None),
    "clipped": (lambda p: of(annihilation(1e-26 * jnp.minimum(p["sigma_v"], 4.0))), "sigma_v", None),
    "power law": (lambda p: of(gj.PowerLaw(2.0, 1e-12 * p["sigma_v"])), "sigma_v", None),
    "position": (lambda p: gj.Mixture(s=gj.Source(annihilation(1e-26), gj.Point(p["mass"], 0.0))), "mass", None),
    "of the mass": (lambda p: of(annihilation(1e-26 * p["sigma_v"] * p["mass"], p["mass"])), "sigma_v", None),
    "fraction": (
        lambda p: gj.Mixture(
            s=gj.Source(annihilation(1e-26), POINT), sky=gj.InstrumentBackground(), weights={"s": p["sigma_v"] / 100.0}
        ),
        "sigma_v",
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_model_knows_the_unit_or_nobody_does(case):
    model, name, expected = CASES[case]
    points = [{"sigma_v": 3.0, "a": 3.0, "mass": mass} for mass in ((3.0, 30.0) if name != "mass" else (1.0, 5.0))]
    found = find_quantity(model, points, name)
    if expected is None:
        assert found is None
        return
    assert found is not None and found.field == expected[0]
    assert found.factor == pytest.approx(expected[1], rel=1e-5)


def sensitivity(model=None, scale="sigma_v", along="mass", values=(1.0, 3.0, 9.0), size=5.0):
    """Limits of about `size`, as made of a model."""
    values = np.asarray(values)
    limits = size * np.array([0.5, 0.7, 1.0, 1.4, 2.0])[:, None] * np.ones(values.size)
    points = [{scale: jnp.asarray(size), along: jnp.asarray(value)} for value in values]
    quantities = [find_quantity(model, points, name) if model else None for name in (scale, along)]
    return gj.Sensitivity(scale, along, values, limits, 3.0 * limits[2], values, points[0], 0.95, *quantities)


def drawn(axes):
    """Labels, median limit and height of the relic, or None."""
    lines = {line.get_label(): np.asarray(line.get_ydata(), float) for line in axes.get_lines()}
    relic = next((values[0] for label, values in lines.items() if "relic" in label), None)
    return axes.get_xlabel(), axes.get_ylabel(), lines["median 95 % CL upper limit"][0], relic


def test_sensitivity_in_units_of_the_model():
    found = sensitivity(lambda p: of(annihilation(1e-24 * p["sigma_v"], p["mass"])))
    x, y, limit, relic = drawn(found.plot())
    assert (x, y) == (LABELS["mass"], LABELS["sigma_v"])
    assert limit == pytest.approx(5e-24, rel=1e-5) and relic == pytest.approx(THERMAL_RELIC)
    # given labels win; the relic stays at its value
    x, y, limit, relic = drawn(found.plot(ylabel="mine", unit=100.0, xlabel="m"))
    assert (x, y, limit) == ("m", "mine", 500.0) and relic == pytest.approx(THERMAL_RELIC / 1e-26, rel=1e-5)
    assert drawn(found.plot(ylabel="mine"))[2] == 5.0
    assert drawn(found.plot(unit=2.0))[1:3] == ("sigma_v", 10.0)
    assert drawn(found.plot(unit=1e-24))[1] == LABELS["sigma_v"]


@pytest.mark.parametrize("name", ["sigma_v", "mass", "energy", "lon", "flux"])
def test_a_name_alone_has_no_unit(name):
    x, y, limit, relic = drawn(sensitivity(scale=name, along="mass" if name != "mass" else "sigma_v").plot())
    assert {x, y} == {name, "mass" if name != "mass" else "sigma_v"} and limit == 5.0 and relic is None
    draws = np.random.default_rng(0).normal(5.0, 1.0, (2, 100))
    result = gj.Result.from_samples({name: draws}, method="test")
    assert result.plot_corner().axes[0].get_xlabel() == name
    assert result.plot_trace().axes[0].get_ylabel() == name
    assert list(result.summary().index) == [name]
    table = gj.ParticleModel({name: [0.1, 1.0]}, {"W": [1e-26, 2e-26]})
    assert table.plot().get_xlabel() == name
    table = gj.ParticleModel({name: [0.1, 1.0]}, {"W": [1e-26, 2e-26]}, {name: "PeV"})
    assert table.plot().get_xlabel() == f"{name} [PeV]"


@pytest.mark.parametrize("values", [[2.0], [3.0, 1.0, 9.0], [-1.0, 0.0, 2.0], [2.0, 2.1]])
def test_any_values_are_drawn(values):
    axes = sensitivity(along="index", values=values).plot()
    axes.figure.canvas.draw()
    line = next(line for line in axes.get_lines() if "median 95" in str(line.get_label()))
    assert sorted(values) == list(np.asarray(line.get_xdata()))
    low, high = axes.get_xlim()
    assert low <= min(values) and high >= max(values)
    assert axes.get_xscale() == ("log" if min(values) > 0 and max(values) > 3 * min(values) else "linear")
