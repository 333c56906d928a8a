"""What holds for every plot of the package: where it draws, what it returns, units, labels and colours."""

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
import pytest
from figures import faults
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import gammajax as gj
from gammajax.common.plot_units import UNITS
from gammajax.model.quantities import Quantity
from gammajax.plots import response_panels
from gammajax.plots.bands import plot_spectrum
from gammajax.plots.counts import plot_counts
from gammajax.plots.style import component_colours
from gammajax.products.source_search import tangent_grid

ENERGY, FLUX, ANGLE, TIME = "energy_unit", "flux_unit", "angle_unit", "time_unit"
BEST = 0  # code of that place of a legend
PATHS = ("halo", "disk", "background")


def model(p):
    return gj.Mixture(
        halo=gj.Source(gj.PowerLaw(2.6, 1e-12 * p["halo"]), gj.Gaussian(0.0, 0.0, 0.3)),
        disk=gj.Source(gj.PowerLaw(2.2, 1e-12 * p["disk"]), gj.Point(0.4, 0.2)),
        background=gj.InstrumentBackground(),
    )


def draws(**centres):
    random = np.random.default_rng(0)
    return {name: centre * (1.0 + 0.05 * random.normal(size=(2, 150))) for name, centre in centres.items()}


pytestmark = pytest.mark.filterwarnings("ignore:Creating legend with loc")  # of a busy machine; see BEST


@pytest.fixture(scope="module")
def posterior():
    run = gj.io.ctao(pointing=(0.0, 0.0), frame="galactic", livetime=7200.0, energy_range=(0.5, 20.0), offset_max=1.5)
    truth = {"halo": jnp.array(4.0), "disk": jnp.array(3.0)}
    events = gj.simulate(jax.random.key(5), model(truth), run)
    priors = {name: dist.Uniform(0.0, 10.0) for name in truth}
    return gj.Posterior(model, priors, [run], events, per_decade=10.0, progress=False)


def result():
    truths, units = {"halo": 4.0, "disk": 3.0}, {"halo": "10$^{-12}$ TeV$^{-1}$ cm$^{-2}$ s$^{-1}$"}
    return gj.Result.from_samples(draws(halo=4.0, disk=3.0), method="test", truths=truths, units=units)


def tempered():
    stats = {"temperature": np.geomspace(1e-4, 1.0, 9), "ess": np.full(9, 800.0), "acceptance": np.full(9, 0.6)}
    return gj.Result.from_samples({"x": np.ones((1, 5))}, method="smc", smc_stats=stats, log_evidence=(-1.0, 0.1))


def flux_points(component="halo"):
    edges = np.geomspace(0.5, 20.0, 7)
    norm = np.array([1.1, 0.9, 1.05, 1.2, 0.6, 0.3])
    error, none = np.array([0.08, 0.1, 0.12, 0.2, 0.2, 0.3]), np.zeros((6, 0))
    reference = 4e-12 * (edges[1:] * edges[:-1]) ** -1.3
    energy = np.geomspace(0.5, 20.0, 40)
    band = 4e-12 * energy**-2.6 * np.array([[0.95], [1.0], [1.05]])
    near = np.abs(np.subtract.outer(np.arange(6), np.arange(6))) == 1
    covariance = np.outer(error, error) * (np.eye(6) - 0.2 * near)
    fluxes = reference, reference, reference, 50.0 * norm
    errors = error, error, norm + 2.0 * error, (norm / error) ** 2, covariance
    of = {"components": PATHS, "energy": "true"}
    return gj.FluxPoints(component, edges, norm, *errors, none, none, *fluxes, energy, band, **of)


def light_curve():
    start = 60000.0 + np.array([0.9, 1.88, 3.1, 4.9, 5.93])
    norm, error, none = np.array([1.0, 1.3, 0.8, 0.1, 1.1]), np.full(5, 0.12), np.zeros((5, 0))
    norms = norm, error, error, norm + 2.0 * error, (norm / error) ** 2, np.diag(error**2), none, none, 50.0 * norm
    times = start, start + 0.06, np.full(5, 5000.0), ()
    return gj.LightCurve("disk", *times, *norms, (0.5, 20.0), 3.1e-12, 1e-12, 1e-12, components=PATHS)


def limits():
    masses = np.array([0.3, 1.0, 3.0, 10.0])

    def curves(channel, best):
        size = 1e-25 * np.array([[1.0], [1.5], [3.0], [9.0]]) * (1.0 if channel == "b" else 2.0)
        values = np.linspace(0.0, 16.0, 161)[None] * size
        fall = ((values - best * size) / (2.0 * size)) ** 2
        names = "Segue1", "CTAO", (channel,) * 4, masses
        return gj.LikelihoodCurves(*names, values, fall - fall.min(1, keepdims=True), 19.36)

    channels = "b", "tau"
    return gj.Limits.of([curves(name, 0.6) for name in channels], [curves(name, 0.0) for name in channels])


def sensitivity():
    values = np.array([0.3, 1.0, 3.0, 10.0])
    bands = 1e-25 * np.array([0.5, 0.7, 1.0, 1.4, 2.0])[:, None] * values**0.5
    quantities = Quantity("sigma_v", 1.0), Quantity("mass", 1.0)
    return gj.Sensitivity("sigma_v", "mass", values, bands, 3.0 * bands[2], values, {}, 0.95, *quantities)


def sky(center=(83.63, 22.01), size=40):
    lon, lat = tangent_grid(center, (2.0, 2.0), 2.0 / size)
    away = np.hypot((lon - center[0]) * np.cos(np.radians(lat)), lat - center[1])
    return center, 2.0 / size, lon, lat, away


def ts_map():
    center, step, lon, lat, away = sky()
    ts, one = 60.0 * np.exp(-0.5 * (away / 0.15) ** 2) + 1.0, np.ones(away.shape)
    return gj.TSMap("icrs", center, step, lon, lat, ts, one, one, one, one, one, 1.0, (1.0, 10.0))


def sensitivity_map():
    center, step, lon, lat, away = sky()
    return gj.SensitivityMap("icrs", center, step, lon, lat, 1e-13 * (1.0 + away**2), 30.0 + 0.0 * away, (1.0, 10.0))


def residual_maps():
    side = np.linspace(-0.975, 0.975, 40)
    away = np.hypot(*np.meshgrid(side, side))
    expected = 5.0 * np.exp(-0.5 * away**2)
    counts = np.random.default_rng(0).poisson(expected).astype(float)
    ts = (counts - expected) / np.sqrt(expected)
    excluded = np.hypot(*np.meshgrid(side - 0.5, side - 0.4)) < 0.2
    return gj.ResidualMaps("events", "icrs", 83.63, 22.01, 0.05, 0.15, counts, expected, ts, ts, excluded, ~excluded)


def quantity(name, unit, edges, places=None):
    random, bins = np.random.default_rng(1), len(edges) - 1
    expected = np.linspace(90.0, 30.0, bins)
    band = expected + np.array([-2.0, -1.0, 1.0, 2.0])[:, None] * np.sqrt(expected)
    labels = () if places is None else tuple(f"at {i}, 0.4 deg wide" for i in range(bins))
    places = np.zeros((0, 2)) if places is None else places
    columns = random.poisson(expected).astype(float), expected, band, random.normal(size=bins)
    return gj.CheckedQuantity(name, unit, np.asarray(edges, float), labels, places, *columns, 9.0, np.ones(5), 0.4)


def check():
    side = np.meshgrid(83.63 + 0.43 * np.arange(-2, 3), 22.01 + 0.4 * np.arange(-2, 3))
    quantities = (
        quantity("energy", "TeV", np.geomspace(0.5, 20.0, 13)),
        quantity("offset", "deg", np.linspace(0.0, 2.0, 9)),
        quantity("time", "MJD", 60000.0 + np.linspace(0.1, 0.3, 7)),
        quantity("sky", "deg", np.arange(26.0), np.stack([part.ravel() for part in side], axis=1)),
    )
    return gj.Check(quantities, (), 0.3, "energy 2 to 4 TeV", 2.1, 0.5, 200)


def comparison():
    names = {"power law": (3.0, -30.0), "log parabola": (2.2, -29.0), "with a cut-off": (0.0, -33.0)}
    return gj.compare(
        {n: gj.Criteria((z, 0.1), log_likelihood=peak, aic=-2.0 * peak) for n, (z, peak) in names.items()}
    )


def profile():
    values = np.linspace(0.0, 8.0, 17)
    flux = "10$^{-12}$ TeV$^{-1}$ cm$^{-2}$ s$^{-1}$"
    return gj.Profile("halo", values, (values - 4.0) ** 2, {}, {}, 4.0, (0.0, 10.0), unit=flux)


def exposure(observation):
    from gammapy.maps import WcsGeom

    geometry = WcsGeom.create(skydir=(0.0, 0.0), frame="galactic", width=5.0, binsz=0.2)
    return gj.exposure([observation, observation], geometry)


ABSORPTION = gj.Absorption([0.1, 1.0, 10.0], [0.0, 1.0], [[0.0, 0.0, 0.0], [0.1, 1.0, 9.0]], redshift=0.1)
CHANNELS = {"W": [1e-26, 2e-26, 3e-26], "b": [2e-26] * 3}
PARTICLE = gj.ParticleModel({"mass": [0.1, 1.0, 3.0]}, CHANNELS, {"mass": "TeV"})
SPAN = (0.5, 20.0)
# by qualified name: the plot of an observation `o` and a posterior `p`, where it draws, its units, and a name to choose
PLOTS = {
    "Spectrum.plot": (lambda o, p, **k: gj.PowerLaw(2.3, 1e-12).plot(SPAN, **k), "ax", (ENERGY, FLUX), None),
    "Absorption.plot": (lambda o, p, **k: ABSORPTION.plot((0.2, 9.0), **k), "ax", (ENERGY,), None),
    "Morphology.plot": (lambda o, p, **k: gj.Gaussian(83.63, 22.01, 0.2).plot(**k), "ax", (ANGLE,), None),
    "Point.plot": (lambda o, p, **k: gj.Point(83.63, 22.01).plot(**k), "ax", (ANGLE,), None),
    "Halo.plot": (lambda o, p, **k: gj.NFW().plot(width=2.0, **k), "ax", (ANGLE,), None),
    "Halo.plot_density": (lambda o, p, **k: gj.NFW().plot_density(**k), "ax", (), None),
    "ParticleModel.plot": (lambda o, p, **k: PARTICLE.plot(**k), "ax", (), None),
    "Profile.plot": (lambda o, p, **k: profile().plot(**k), "ax", (), None),
    "Sensitivity.plot": (lambda o, p, **k: sensitivity().plot(**k), "ax", (ENERGY,), None),
    "Limits.plot": (lambda o, p, **k: limits().plot(**k), "ax", (ENERGY,), None),
    "TSMap.plot": (lambda o, p, **k: ts_map().plot(peaks=ts_map().peaks(), **k), "ax", (ANGLE,), None),
    "SensitivityMap.plot": (lambda o, p, **k: sensitivity_map().plot(**k), "ax", (ENERGY, ANGLE), None),
    "FluxPoints.plot": (
        lambda o, p, **k: flux_points().plot({"published": flux_points("disk")}, **k),
        "ax",
        (ENERGY, FLUX),
        None,
    ),
    "FluxPoints.plot_correlation": (lambda o, p, **k: flux_points().plot_correlation(**k), "ax", (ENERGY,), None),
    "LightCurve.plot": (lambda o, p, **k: light_curve().plot(**k), "ax", (TIME, ENERGY), None),
    "Result.plot_spectrum": (lambda o, p, **k: result().plot_spectrum(p, **k), "ax", (ENERGY, FLUX), "halo"),
    "plot_effective_area": (
        lambda o, p, ax=None, **k: response_panels.plot_effective_area(o.response, ax or single(), [0.0, 1.0], **k),
        "ax",
        (ENERGY,),
        None,
    ),
    "plot_psf": (
        lambda o, p, ax=None, **k: response_panels.plot_psf(o.response, ax or single(), [0.0, 1.0], **k),
        "ax",
        (ENERGY, ANGLE),
        None,
    ),
    "plot_energy_dispersion": (
        lambda o, p, ax=None, **k: response_panels.plot_energy_dispersion(o.response, ax or single(), 0.0, **k),
        "ax",
        (ENERGY,),
        None,
    ),
    "plot_background": (
        lambda o, p, ax=None, **k: response_panels.plot_background(o.response, ax or single(), [0.0, 1.0], **k),
        "ax",
        (ENERGY, ANGLE),
        None,
    ),
    "Response.plot": (lambda o, p, **k: o.response.plot(**k), "figure", (ENERGY, ANGLE), None),
    "Observation.plot": (lambda o, p, **k: o.plot(**k), "figure", (ENERGY, ANGLE), None),
    "Exposure.plot": (lambda o, p, **k: exposure(o).plot(**k), "figure", (ENERGY,), None),
    "ResidualMaps.plot": (lambda o, p, **k: residual_maps().plot(**k), "figure", (ANGLE,), None),
    "Check.plot": (lambda o, p, **k: check().plot(**k), "figure", (ENERGY, ANGLE), "offset"),
    "Comparison.plot": (lambda o, p, **k: comparison().plot(**k), "figure", (), "log parabola"),
    "Result.plot_corner": (lambda o, p, **k: result().plot_corner(**k), "figure", (), "disk"),
    "Result.plot_trace": (lambda o, p, **k: result().plot_trace(**k), "figure", (), "disk"),
    "Result.plot_run": (lambda o, p, **k: tempered().plot_run(**k), "figure", (), None),
    "Result.plot_counts": (
        lambda o, p, **k: result().plot_counts(p, events=2000, **k),
        "figure",
        (ENERGY, ANGLE),
        None,
    ),
}
# functions behind these methods, and the command
BEHIND = {"plot_response", "plot_check", "plot_comparison", "plot_trace", "plot_run", "plot_counts", "plot_corner"}
BEHIND |= {"plot_spectrum", "plot_residuals", "plot_significance", "plot_sensitivity", "plot_limits", "plot_profile"}
BEHIND |= {"plot_expected", "plot_flux_points", "plot_correlation", "plot_light_curve", "plot"}


def single():
    return Figure(layout="constrained").subplots()


def test_the_table_holds_every_plot():
    found = set()
    for info in pkgutil.walk_packages(gj.__path__, "gammajax."):
        for name, thing in vars(importlib.import_module(info.name)).items():
            if getattr(thing, "__module__", None) != info.name:
                continue
            if inspect.isfunction(thing) and name.split("_")[0] == "plot":
                found.add(name)
            if inspect.isclass(thing):
                found |= {f"{name}.{one}" for one in vars(thing) if one.split("_")[0] == "plot"}
    assert found == set(PLOTS) | BEHIND


@pytest.fixture
def pyplot_untouched():
    """Nothing is a figure of pyplot, and its settings are as they were."""
    plt.close("all")
    settings = dict(plt.rcParams)
    yield
    assert plt.get_fignums() == [] and dict(plt.rcParams) == settings


@pytest.mark.slow
@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_draws_where_it_is_told(name, observation, posterior, pyplot_untouched):
    draw, place, *_ = PLOTS[name]
    figure = Figure(figsize=(13.0, 9.0), layout="constrained")
    if place == "ax":
        given = figure.subplots()
        assert isinstance(given, Axes) and draw(observation, posterior, ax=given) is given
        assert given.has_data()
    else:
        # corner lays out a whole figure
        given = figure if name == "Result.plot_corner" else figure.subfigures(1, 1)
        assert draw(observation, posterior, figure=given) is given
    assert figure.axes and faults(figure) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_alone_can_be_read(name, observation, posterior):
    draw, place, *_ = PLOTS[name]
    drawn = draw(observation, posterior)
    assert isinstance(drawn, Axes if place == "ax" else Figure)
    figure = drawn.figure if place == "ax" else drawn
    assert faults(figure) == []
    for axes in figure.axes:  # matplotlib searches long for the best place beside the many corners of a mesh
        if axes.get_legend() and any(isinstance(part, QuadMesh) for part in axes.collections):
            assert axes.get_legend()._get_loc() != BEST
    plt.close("all")


# axes without a unit: numbers, names and ratios
PURE = (
    "transmission",
    "draw",
    "rank",
    "rank among",
    "step",
    "temperature",
    "effective particles",
    "acceptance",
    "counts",
)
PURE += ("(data - model)", "(point - fit)", "reconstructed / true", "$2\\,", "ln Z,", "-AIC", "correlation", "disk")
PURE += ("probability per", "events per", "events", "value", "number of", "model")


@pytest.mark.slow
@pytest.mark.parametrize("name", PLOTS)
def test_axes_have_units(name, observation, posterior):
    draw, place, *_ = PLOTS[name]
    drawn = draw(observation, posterior)
    figure = drawn.figure if place == "ax" else drawn
    figure.canvas.draw()
    labels = [axis.get_label_text() for axes in figure.axes if axes.axison for axis in (axes.xaxis, axes.yaxis)]
    assert [text for text in labels if text and "[" not in text and not text.startswith(PURE)] == []
    plt.close("all")


ASKED = {ENERGY: ("GeV", 1e-3), FLUX: ("erg", 0.62415091), ANGLE: ("arcmin", 1.0 / 60.0), TIME: ("h", 1.0 / 24.0)}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "unit"), [(name, unit) for name in PLOTS for unit in PLOTS[name][2]])
def test_units_can_be_chosen(name, unit, observation, posterior):
    draw, place, *_ = PLOTS[name]
    word, _ = ASKED[unit]
    drawn = draw(observation, posterior, **{unit: word})
    figure = drawn.figure if place == "ax" else drawn
    assert faults(figure) == []
    texts = [axis.get_label_text() for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    assert any(word in text for text in texts)
    with pytest.raises(ValueError, match=f"{unit} must be one of .*, not 'furlong'") as error:
        draw(observation, posterior, **{unit: "furlong"})
    assert "\n" not in str(error.value)
    plt.close("all")


OPTIONS_OF = {"plot_counts": plot_counts, "plot_spectrum": plot_spectrum}


@pytest.mark.parametrize("name", PLOTS)
def test_arguments_have_the_same_names_everywhere(name):
    _, place, units, chosen = PLOTS[name]
    owner, _, method = name.rpartition(".")
    if not owner:
        function = getattr(response_panels, method)
    else:
        classes = {c.__name__: c for c in vars(gj).values() if inspect.isclass(c)}
        classes |= {"Spectrum": gj.PowerLaw, "Morphology": gj.Gaussian, "Halo": gj.NFW, "Exposure": gj.io.Exposure}
        function = getattr(classes[owner], method)
    arguments = inspect.signature(function).parameters
    if method in OPTIONS_OF:  # which the method passes on
        arguments = inspect.signature(OPTIONS_OF[method]).parameters
    assert place in arguments and ("names" in arguments) == (chosen is not None)
    assert {one for one in arguments if one in UNITS} == set(units)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PLOTS if PLOTS[name][3]])
def test_names_can_be_chosen(name, observation, posterior):
    draw, place, _, chosen = PLOTS[name]
    whole, part = draw(observation, posterior), draw(observation, posterior, names=chosen)
    numbers = []
    for one in (whole, part):
        lines = one.lines if place == "ax" else [line for axes in one.axes for line in axes.lines]
        numbers.append(sum(len(line.get_xdata()) for line in lines))
    assert numbers[1] < numbers[0]
    with pytest.raises(ValueError, match="nothing") as error:
        draw(observation, posterior, names=["nothing"])
    assert "\n" not in str(error.value)


def values(axes):
    return [np.asarray(line.get_xydata(), float) for line in axes.get_lines() if len(line.get_xdata()) > 2]


def test_numbers_follow_the_units(observation, posterior):
    """The same curves, times the sizes of the units; E^2 dN/dE in erg is that in TeV times 1.602."""
    for name, sizes in {
        "Spectrum.plot": {"x": ENERGY, "y": FLUX},
        "FluxPoints.plot": {"x": ENERGY, "y": FLUX},
        "Result.plot_spectrum": {"x": ENERGY, "y": FLUX},
        "Absorption.plot": {"x": ENERGY},
        "Sensitivity.plot": {"x": ENERGY},
        "Limits.plot": {"x": ENERGY},
        "LightCurve.plot": {"x": TIME},
        "plot_effective_area": {"x": ENERGY},
        "plot_psf": {"x": ENERGY, "y": ANGLE},
    }.items():
        draw = PLOTS[name][0]
        usual = values(draw(observation, posterior))
        other = values(draw(observation, posterior, **{unit: ASKED[unit][0] for unit in sizes.values()}))
        factors = [1.0 / ASKED[sizes[side]][1] if side in sizes else 1.0 for side in "xy"]
        for a, b in zip(usual, other, strict=True):
            np.testing.assert_allclose(b, a * factors, rtol=1e-6, err_msg=name)
    plt.close("all")
    # of E^0 and E^1 the flux has other powers of the energy
    line = {p: gj.PowerLaw(2.0, 1e-12).plot((1.0, 2.0), energy_power=p, flux_unit="GeV").lines[0] for p in (0, 1, 2)}
    first = [float(np.asarray(line[p].get_ydata())[0]) for p in (0, 1, 2)]
    np.testing.assert_allclose(first, [1e-15, 1e-12, 1e-9], rtol=0.02)
    assert line[0].axes.get_ylabel() == "$dN/dE$ [GeV$^{-1}$ cm$^{-2}$ s$^{-1}$]"
    plt.close("all")


def test_offsets_on_the_sky():
    """A map in arcmin has the same coordinates, and ticks that count from the middle, to the east on the left."""
    axes = gj.Gaussian(83.63, 60.0, 0.2).plot(width=1.0, angle_unit="arcmin")
    other = gj.Gaussian(83.63, 60.0, 0.2).plot(width=1.0)
    assert axes.get_xlim() == other.get_xlim() and axes.get_ylim() == other.get_ylim()
    assert axes.get_xlabel() == "longitude from 83.63° [arcmin]" and axes.get_ylabel() == "latitude from 60° [arcmin]"
    ticks = {
        float(text.get_text().replace("\N{MINUS SIGN}", "-")): x
        for x, text in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    }
    assert min(ticks) == -30.0 or min(ticks) == -20.0
    for offset, lon in ticks.items():
        assert (lon - 83.63) * np.cos(np.radians(60.0)) * 60.0 == pytest.approx(offset, abs=1e-3)
    bright = [float(one.collections[0].get_array().max()) for one in (axes, other)]
    assert bright[0] == pytest.approx(bright[1] / 3600.0, rel=1e-5)
    plt.close("all")


def test_a_component_has_its_colour_in_every_plot(observation, posterior):
    colours = component_colours(PATHS)
    lines = {line.get_label(): to_hex(line.get_color()) for line in result().plot_spectrum(posterior).lines}
    assert {name: lines[name] for name in ("halo", "disk")} == {name: colours[name] for name in ("halo", "disk")}
    assert to_hex(flux_points("disk").plot().lines[0].get_color()) == colours["disk"]
    assert to_hex(flux_points("halo").plot().lines[0].get_color()) == colours["halo"]
    curve = light_curve().plot()
    assert to_hex(curve.lines[0].get_color()) == colours["disk"]
    # a channel has one colour, alone and beside others
    bands = to_hex(limits().plot(channel="tau").collections[0].get_facecolor()[0])
    both = {line.get_label(): to_hex(line.get_color()) for line in limits().plot().lines}
    assert both["tau, observed"] == bands


@pytest.mark.slow
def test_one_corner_over_another():
    figure = result().plot_corner()
    assert result().plot_corner(figure=figure, color="black") is figure
    with pytest.raises(ValueError, match="figure must be a Figure, empty or with a corner plot of 2 numbers"):
        result().plot_corner(figure=Figure().subfigures(1, 1))
    figure = Figure()
    figure.subplots(1, 2)
    with pytest.raises(ValueError, match="figure must be a Figure"):
        result().plot_corner(figure=figure)
