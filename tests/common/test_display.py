"""What objects print: every public class is in the table below, and every entry keeps the law of `check`."""

import inspect
import logging
import re
from io import StringIO
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import on_off
import pytest
from rich.console import Console

import gammajax as gj
from gammajax import engines, io, samplers
from gammajax.cli import terminal as cli
from gammajax.common.display import LINES, WIDTH, estimates, text
from gammajax.engines.energy import EnergyNodes
from gammajax.engines.rows import Rows
from gammajax.instrument.observation import Exclusion
from gammajax.instrument.psf import KingPSF, TablePSF
from gammajax.instrument.sky import Grid
from gammajax.instrument.table import Axis, Table
from gammajax.model import darkmatter
from gammajax.model.darkmatter.yields import embedded
from gammajax.model.templates import Edge
from gammajax.results.prediction import Prediction

MODULES = (gj, io, darkmatter, samplers, engines)
LONG = "a_component_whose_name_somebody_made_by_joining_everything_that_is_known_about_it_with_underscores"
GRID = Grid(1.0, 2.0, 0.5, 1.0)
MAP = np.ones((GRID.size, GRID.size))
NODES = np.array([0.1, 1.0, 10.0])
POWER_LAW = gj.PowerLaw(2.3, 3e-12)
SOURCE = gj.Source(POWER_LAW, gj.Gaussian(83.6, 22.0, 0.1))
PARAMETERS = {"index": jnp.asarray(2.25), "ratios": jnp.asarray([0.25, 0.75])}
NAMES = ("index", "ratios[0]", "ratios[1]")
AXES = Axis(np.log(NODES)), Axis(np.linspace(0.0, 2.0, 3))


ARRAYS: Any = (jnp.ones(3), jnp.arange(3))


def nodes():
    return EnergyNodes(0.1, 10.0, 5.0)


def table(*more):
    return Table(AXES, np.ones((3, 3, *more)))


def result(names=("index", "flux"), chains=4, draws=100, shape=(), **options):
    rng = np.random.default_rng(0)
    samples = {name: rng.normal(2.0, 0.1, (chains, draws, *shape)) for name in names}
    return gj.Result.from_samples(samples, method="nuts", **options)


def fit(parameters=PARAMETERS, names=NAMES, messages=()):
    matrix, vector = np.eye(len(names)), np.zeros(len(names))
    return gj.Fit(parameters, parameters, names, matrix, vector, matrix, -12.5, 1e-6, True, messages)


def asimov(posterior):
    ones = jnp.ones(posterior.count.size)
    return gj.Asimov(posterior, ones, jnp.ones(()), PARAMETERS, ones)


def exposure(count=2):
    from gammapy.maps import MapAxis, WcsNDMap

    axis = MapAxis.from_energy_bounds("0.1 TeV", "10 TeV", nbin=3, name="energy_true")
    sky: Any = WcsNDMap.create(npix=4, axes=[axis], unit="cm2 s")
    sky.data = np.full(sky.data.shape, 3e13)
    ids = tuple(map(str, range(count)))
    return io.Exposure(sky, (sky,) * count, (sky,) * count, (None,) * count, (2.0,) * count, ids)


def gammapy_models():
    from gammapy.modeling.models import PointSpatialModel, PowerLawSpectralModel, SkyModel

    position = PointSpatialModel(lon_0="83.6 deg", lat_0="22 deg")
    return io.from_gammapy(SkyModel(PowerLawSpectralModel(index=2.6), position, name="crab"))


def flux_points():
    one, none = np.ones(2), np.zeros((2, 0))
    errors = 0.1 * one, 0.1 * one, 1.2 * one, 99.0 * one, np.eye(2) / 100.0
    fluxes = 1e-12 * one, 1e-12 * one, 1e-12 * one, 50.0 * one
    nothing = np.zeros(0), np.zeros((3, 0))
    return gj.FluxPoints("source", np.array([1.0, 3.0, 10.0]), one, *errors, none, none, *fluxes, *nothing)


def light_curve():
    one, none = np.ones(2), np.zeros((2, 0))
    times, norms = (60000.0 + one, 60000.5 + one, 1800.0 * one, ()), (np.array([0.9, 1.1]), 0.1 * one, 0.1 * one)
    more = one, one, np.eye(2) / 100.0, none, none, one, (1.0, 10.0), 1e-12, 1e-12, 1e-12
    return gj.LightCurve("source", *times, *norms, *more)


def likelihood_curves():
    values = np.linspace(0.0, 16.0, 33)[None] * 1e-24
    names = "Segue1", "CTAO", ("b",), np.array([2.0])
    return gj.LikelihoodCurves(*names, values, (values / 2e-24) ** 2, 19.36, 0.3)


def significances():
    one = np.ones((2, 2))
    return gj.TSMap("icrs", (0.0, 0.0), 0.1, one, one, 9.0 * one, one, one, one, one, one, 1.0, (1.0, 10.0))


def quantity():
    columns = np.array([9.0, 16.0]), np.array([10.0, 12.0]), np.ones((4, 2)), np.array([-0.3, 1.1])
    edges = np.array([1.0, 2.0, 4.0])
    return gj.CheckedQuantity("energy", "TeV", edges, (), np.zeros((0, 2)), *columns, 1.4, np.array([1.0, 2.0]), 0.7)


def residual_maps():
    one = np.ones((3, 3))
    return gj.ResidualMaps("events", "icrs", 83.6, 22.0, 0.1, 0.15, one, one, one, one, one > 2, one > 0)


def rows(observation):
    return Rows.init(gj.Events([1.0, 2.0], [0.0, 0.1], [0.0, 0.1]), (observation,), 10.0)


def cells(observation):
    return gj.Events([1.0, 2.0, 2.0], [0.0, 0.1, 0.1], [0.0, 0.1, 0.1]).compress(observation, 4.0, 0.5)


def halo(kind):
    return lambda o, p: kind(lon=1.5, rho_s=0.4), ["lon=1.5 deg", "distance=8.33 kpc", "rho_s=0.4 GeV cm^-3"]


FLUX = "TeV^-1 cm^-2 s^-1"
# by class: an object from an observation and a posterior, and what it must say
MADE = {
    gj.Absorption: (
        lambda o, p: gj.Absorption(NODES, [0.1, 0.2], np.ones((2, 3)), 0.15),
        ["redshift=0.15", "3 numbers", "TeV"],
    ),
    gj.Binning: (lambda o, p: cells(o).binning, ["1 observation", "0.5 to 8 TeV"]),
    gj.Cells: (lambda o, p: cells(o), ["3 events", "0.5 to 8 TeV"]),
    gj.CompressionLoss: (
        lambda o, p: gj.CompressionLoss(
            NAMES, 1000, 120, np.eye(3), np.eye(3), 0.0125, np.array([1.0, 1.02, 1.01]), *np.ones((2, 3))
        ),
        ["1000 events", "120 cells", "0.0125", "index 1", "ratios[0] 1.02"],
    ),
    gj.Criteria: (lambda o, p: gj.Criteria((-12.0, 0.1), scores=np.ones(5)), ["log_evidence", "-12"]),
    gj.Comparison: (
        lambda o, p: gj.compare({"a": gj.Criteria((3.0, 0.1)), "b": gj.Criteria((0.0, 0.1))}),
        ["2 models", "a: ln Z 3.00 +- 0.10", "moderate evidence against it"],
    ),
    gj.FluxPoints: (lambda o, p: flux_points(), ["source", "1 to 3 TeV", "cm^-2 s^-1"]),
    gj.LightCurve: (lambda o, p: light_curve(), ["source", "2 bins", "cm^-2 s^-1", "chi-square"]),
    gj.SensitivityMap: (
        lambda o, p: gj.SensitivityMap("icrs", (0.0, 0.0), 0.1, *(4 * [np.ones((2, 2))]), (1.0, 10.0)),
        ["a point at 5", "2 x 2 pixels", "1 to 10 TeV"],
    ),
    gj.TSMap: (lambda o, p: significances(), ["a point", "2 x 2 pixels", "sqrt(TS)", "1 to 10 TeV"]),
    gj.CheckedQuantity: (lambda o, p: quantity(), ["energy", "2 bins", "p = 0.7", "2 to 4 TeV", "sigma"]),
    gj.ResidualMaps: (lambda o, p: residual_maps(), ["events", "3 x 3", "deg"]),
    gj.Check: (
        lambda o, p: gj.Check((quantity(),), (residual_maps(),), 0.3, "energy 2 to 4 TeV", 2.1, 0.5, 200),
        ["200 simulated", "p = 0.3", "energy", "worst"],
    ),
    gj.LikelihoodCurves: (
        lambda o, p: likelihood_curves(),
        ["Segue1", "CTAO", "1 row", "2 TeV", "log10 J = 19.36 +- 0.3"],
    ),
    gj.Limits: (
        lambda o, p: gj.Limits.of([likelihood_curves()]),
        ["Segue1", "1 row", "2 TeV", "cm^3 s^-1", "profile likelihood", "TS"],
    ),
    gj.SteppedSpectrum: (
        lambda o, p: gj.SteppedSpectrum(gj.PowerLaw(2.0), [1.0, 3.0], [1.0, 2.0, 0.5]),
        ["index=2", "norms"],
    ),
    gj.GaussianFlare: (lambda o, p: gj.GaussianFlare(0.5, 0.1, 3.0, reference=60000.0), ["3", "60000"]),
    gj.ExponentialFlare: (lambda o, p: gj.ExponentialFlare(0.5, 0.01, 0.1, 3.0, reference=60000.0), ["0.01", "60000"]),
    gj.TimeFunction: (lambda o, p: gj.TimeFunction(lambda day: 1.0 + 0.5 * day, reference=60000.0), ["60000"]),
    gj.PhaseCurve: (lambda o, p: gj.PhaseCurve([1.0, 2.0, 0.5], period=3.9, reference=60000.0), ["3.9", "60000"]),
    gj.SteppedTime: (lambda o, p: gj.SteppedTime([[60000.0, 60000.5], [60000.5, 60001.0]], [1.0, 2.0, 0.5]), ["0.5"]),
    gj.PerObservation: (lambda o, p: gj.PerObservation([1.0, 1.2, 0.8]), ["1.2"]),
    gj.NFW: halo(gj.NFW),
    gj.Burkert: halo(gj.Burkert),
    gj.CoredNFW: halo(gj.CoredNFW),
    gj.Einasto: halo(gj.Einasto),
    gj.GeneralizedNFW: halo(gj.GeneralizedNFW),
    gj.Isothermal: halo(gj.Isothermal),
    gj.Moore: halo(gj.Moore),
    gj.Zhao: halo(gj.Zhao),
    gj.DarkMatter: (
        lambda o, p: gj.DarkMatter({"W": 0.75, "b": 0.25}, 2.0),
        ["'W'", "[0.75, 0.25]", "mass=2 TeV", "sigma_v=2.2e-26 cm^3 s^-1", "j_factor=1e+23 GeV^2 cm^-5"],
    ),
    gj.DarkMatterDecay: (
        lambda o, p: gj.DarkMatterDecay("b", 2.0),
        ["'b'", "mass=2 TeV", "decay_rate=1e-27 s^-1", "d_factor=2e+23 GeV cm^-2"],
    ),
    gj.ParticleModel: (
        lambda o, p: gj.ParticleModel({"mass": NODES, "g": [1, 2]}, {"W": np.ones((3, 2))}, {"mass": "TeV"}),
        ["mass from 0.1 to 10 TeV", "g from 1 to 2", "W"],
    ),
    gj.Unbinned: (
        lambda o, p: gj.Unbinned(o, gj.Events([1.0, 2.0], [0.0, 0.1], [0.0, 0.1]), components=["sky"], name="hess"),
        ["hess", "2 events", "1 observation", "sky"],
    ),
    gj.OnOffRun: (lambda o, p: on_off.some_runs(1)[0], ["12", "30", "0.5 to 8 TeV"]),
    gj.RegionResponse: (lambda o, p: on_off.RESPONSE, ["TeV"]),
    gj.BackgroundCorrection: (
        lambda o, p: gj.BackgroundCorrection(np.zeros(3), None, np.ones((2, 1)), (0.5, 1.0, 2.0)),
        ["energy_nodes=(0.5, 1, 2)"],
    ),
    gj.OffBackground: (lambda o, p: gj.OffBackground(np.zeros(6), 0.5, 8.0), ["6"]),
    gj.OnOff: (lambda o, p: gj.OnOff(on_off.some_runs(2)), ["24 ON", "60 OFF", "2 runs"]),
    gj.OnOffCounts: (
        lambda o, p: gj.OnOffCounts(on_off.some_runs(2), [0.5, 1.0, 8.0]),
        ["24 ON", "60 OFF", "2 cells"],
    ),
    gj.Events: (lambda o, p: gj.Events([1.0, 2.0], [3, 4], [5, 6], component=1), ["2", "1 to 2 TeV", "3 to 4 deg"]),
    gj.Asimov: (
        lambda o, p: asimov(p),
        ["2 points", "index = 2.25"],
    ),
    gj.Forecast: (
        lambda o, p: gj.Forecast(PARAMETERS, PARAMETERS, NAMES, np.eye(3), np.eye(3), 0.01, asimov(p)),
        ["index = 2.25 +- 2.2", "ratios[1] = 0.75"],
    ),
    gj.Sensitivity: (
        lambda o, p: gj.Sensitivity("flux", "mass", NODES, np.outer(range(5), NODES), NODES, NODES, PARAMETERS),
        ["flux", "mass", "95 %", "0.2 to 20", "0.1 to 10"],
    ),
    gj.GaussianLine: (
        lambda o, p: gj.GaussianLine(),
        ["amplitude=1e-12 cm^-2 s^-1", "mean=1 TeV", "sigma=0.1 TeV"],
    ),
    gj.Line: (lambda o, p: gj.Line(2.0), ["energy=2 TeV", "amplitude=1e-12 cm^-2 s^-1"]),
    gj.ResponseChange: (
        lambda o, p: gj.ResponseChange(0.1, pointing_lon=0.02),
        ["energy_scale=0.1", "pointing_lon=0.02 deg"],
    ),
    gj.InstrumentBackground: (
        lambda o, p: gj.InstrumentBackground([1.0, 1.5], -0.1),
        ["norm=[1, 1.5]", "tilt=-0.1", "reference=1 TeV"],
    ),
    gj.Mixture: (
        lambda o, p: gj.Mixture(crab=SOURCE, background=gj.InstrumentBackground(), weights={"crab": 0.2}),
        ["crab (0.2)", "background (0.8)", "index=2.3", f"amplitude=3e-12 {FLUX}", "sigma=0.1 deg", "norm=1"],
    ),
    gj.Source: (lambda o, p: SOURCE, ["index=2.3", "sigma=0.1 deg"]),
    gj.Gaussian: (lambda o, p: SOURCE.morphology, ["lon=83.6 deg", "lat=22 deg", "sigma=0.1 deg", "e=0", "phi=0 deg"]),
    gj.GeneralizedGaussian: (lambda o, p: gj.GeneralizedGaussian(0.0, 0.0, 0.2), ["r_0=0.2 deg", "eta=0.5"]),
    gj.Point: (lambda o, p: gj.Point(83.6, 22), ["lon=83.6 deg", "lat=22 deg"]),
    gj.Observation: (lambda o, p: o, ["36000 s", "(0, 0) deg", "galactic", "0.5 to 8 TeV", "2 deg", "GaussPSF"]),
    gj.Posterior: (
        lambda o, p: p,
        [
            "2 parameters",
            "2 events",
            "1 observation",
            "index: Uniform(low=1, high=4)",
            "flux: Normal(loc=1, scale=0.5)",
        ],
    ),
    gj.Profile: (
        lambda o, p: gj.Profile("flux", np.arange(9.0), (np.arange(9.0) - 4) ** 2, {}, {}, 4.0, (0.0, 9.0), ("note",)),
        ["flux", "highest at 4", "68.3 %: 3 to 5", "0 to 8", "note"],
    ),
    gj.TestStatistic: (
        lambda o, p: gj.TestStatistic("flux", 0.0, 25.0, 2.9e-7, True, PARAMETERS, PARAMETERS, (), ("a note",)),
        ["flux = 0", "TS = 25", "5.00 sigma", "p = 2.9e-07", "index = 2.25", "end of the support", "a note"],
    ),
    gj.Response: (
        lambda o, p: o.response,
        ["0.1 to 30 TeV", "0 to 5 deg", "12 x 6", "GaussPSF", "0.4 to 1.8", "Background"],
    ),
    gj.Result: (
        lambda o, p: result(units={"flux": "cm$^{-2}$ s$^{-1}$"}, log_evidence=(-12.5, 0.1), messages=["one", "two"]),
        ["nuts", "4 chains x 100 draws", "index = ", "cm^-2 s^-1", "log evidence -12.500 +- 0.100", "2 warnings"],
    ),
    gj.Fit: (lambda o, p: fit(), ["index = 2.25 +- 2.2", "ratios[1] = 0.75 +- 0.75"]),
    gj.Constant: (lambda o, p: gj.Constant(), ["lon=0 deg"]),
    gj.EnergyDependent: (
        lambda o, p: gj.EnergyDependent(gj.Gaussian(0.0, 0.0, 0.2), (0.1, 100.0), [2.0, 0.5]),
        ["sigma=0.2 deg"],
    ),
    gj.Disk: (lambda o, p: gj.Disk(0.0, 0.0, 0.3), ["r_0=0.3 deg", "edge=0.01 deg"]),
    gj.Ring: (lambda o, p: gj.Ring(0.0, 0.0, 0.3, 0.1), ["r_0=0.3 deg", "width=0.1 deg"]),
    gj.Shell: (lambda o, p: gj.Shell(0.0, 0.0, 0.3, 0.1), ["radius_in=0.3 deg", "width=0.1 deg"]),
    gj.BayesFactor: (lambda o, p: result().bayes_factor("index", 2.0, prior_density=0.5), ["ln B = "]),
    gj.Significance: (lambda o, p: result().significance("index", 1.9), ["sigma"]),
    gj.BrokenPowerLaw: (lambda o, p: gj.BrokenPowerLaw(1.5, 2.5), ["index1=1.5", "ebreak=1 TeV", FLUX]),
    gj.ExponentialCutoffPowerLaw: (
        lambda o, p: gj.ExponentialCutoffPowerLaw(1.5, 0.1),
        ["index=1.5", "lambda_=0.1 TeV^-1", f"amplitude=1e-12 {FLUX}", "reference=1 TeV", "alpha=1"],
    ),
    gj.LogParabola: (lambda o, p: gj.LogParabola(2.0, 0.1), ["alpha=2", "beta=0.1", FLUX, "reference=1 TeV"]),
    gj.PowerLaw: (lambda o, p: POWER_LAW, ["index=2.3", f"amplitude=3e-12 {FLUX}", "reference=1 TeV"]),
    gj.RescaledSpectrum: (lambda o, p: gj.RescaledSpectrum(POWER_LAW, 0.1), ["index=2.3", "z=0.1"]),
    gj.ProductSpectrum: (lambda o, p: 0.5 * POWER_LAW, ["index=2.3", "0.5"]),
    gj.SmoothBrokenPowerLaw: (lambda o, p: gj.SmoothBrokenPowerLaw(1.5, 2.5), ["index2=2.5", "ebreak=1 TeV", FLUX]),
    gj.SumSpectrum: (lambda o, p: POWER_LAW + gj.Line(2.0), ["index=2.3", "energy=2 TeV"]),
    gj.SuperExponentialCutoffPowerLaw4FGL: (
        lambda o, p: gj.SuperExponentialCutoffPowerLaw4FGL(),
        [FLUX, "expfactor=1e-14 MeV^-index_2"],
    ),
    gj.TabulatedSpectrum: (
        lambda o, p: gj.TabulatedSpectrum(np.geomspace(0.1, 10.0, 30), np.full(30, 2e-12)),
        ["30 numbers, 0.1 to 10 TeV", f"2e-12 {FLUX}", "norm=1"],
    ),
    gj.TemplateCube: (
        lambda o, p: gj.TemplateCube(GRID, NODES, np.stack([MAP] * 3)),
        ["lon=1 deg", "step=0.5 deg", "numbers"],
    ),
    gj.TemplateMap: (lambda o, p: gj.TemplateMap(GRID, MAP), ["TemplateMap(lon=1 deg", "step=0.5 deg", "numbers"]),
    io.Data: (lambda o, p: io.Data(gj.Events([1.0, 2.0], [3, 4], [5, 6]), [o]), ["1 observation", "2 of 1 to 2 TeV"]),
    io.Exposure: (lambda o, p: exposure(), ["2 observations", "3e+13 cm^2 s"]),
    io.GammapyModels: (
        lambda o, p: gammapy_models(),
        ["1 component", "crab.spectral.index = 2.6", "cm-2 s-1 TeV-1", "83.6 deg"],
    ),
    darkmatter.Yields: (lambda o, p: embedded(), ["62 masses", "0.005 to 100 TeV", "e_L"]),
    darkmatter.YieldTable: (lambda o, p: darkmatter.yield_table("W"), ["numbers"]),
    engines.BackgroundEngine: (
        lambda o, p: engines.BackgroundEngine.init(gj.InstrumentBackground(), [o], rows(o)),
        ["MB"],
    ),
    engines.DenseEngine: (
        lambda o, p: engines.DenseEngine(
            nodes(), AXES, ARRAYS[0], ARRAYS[0], ((0, 0, True),), ((0, ARRAYS[0]),), "linear"
        ),
        ["MB"],
    ),
    engines.DirectEngine: (
        lambda o, p: engines.DirectEngine(nodes(), (o,), *(ARRAYS, ARRAYS, ARRAYS, ARRAYS), (0.1,), ARRAYS, 4, 3),
        ["MB"],
    ),
    engines.FixedEngine: (lambda o, p: p.engines["sky"], ["MB"]),
    engines.FoldEngine: (
        lambda o, p: engines.FoldEngine.init(gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.0, 0.0)), [o], rows(o)),
        ["MB"],
    ),
    engines.KernelEngine: (lambda o, p: p.engines["source"], ["MB"]),
    engines.PreparedKernel: (
        lambda o, p: engines.PreparedKernel.init(gj.Point(0.0, 0.0), o, 10.0),
        ["1 observation", "lon=0 deg"],
    ),
    engines.Rows: (lambda o, p: rows(o), ["2 events"]),
    # not exported, but held by what is
    Axis: (lambda o, p: AXES[1], ["3", "0 to 2"]),
    Table: (lambda o, p: table(), ["3 x 3"]),
    KingPSF: (lambda o, p: KingPSF(table(2)), ["0.1 to 10 TeV", "0 to 2 deg"]),
    TablePSF: (lambda o, p: TablePSF(*AXES, Axis(NODES), np.ones((3, 3, 3))), ["0.1 to 10 TeV", "0.1 to 10 deg"]),
    Grid: (lambda o, p: GRID, ["lon=1 deg", "step=0.5 deg"]),
    Exclusion: (lambda o, p: Exclusion(GRID, jnp.zeros((GRID.size, GRID.size), bool)), ["step=0.5 deg"]),
    Edge: (lambda o, p: Edge("map.fits", np.arange(9.0), np.arange(9.0)), ["map.fits"]),
    EnergyNodes: (lambda o, p: nodes(), ["0.1 to 10 TeV"]),
    type(gj.TemplateCube(GRID, NODES, [MAP] * 3).at(1.0)): (
        lambda o, p: gj.TemplateCube(GRID, NODES, np.stack([MAP] * 3)).at(jnp.asarray(NODES)),
        ["lon=1 deg"],
    ),
    Prediction: (
        lambda o, p: Prediction(("a",), NODES, np.ones((9, 1, 2)), np.ones(2), (gj.Events([], [], []),), (NODES,)),
        ["9 x 1 x 2 numbers", "Events: none"],
    ),
    type(gj.Events([1.0], [0.0], [0.0]).points()): (
        lambda o, p: gj.Events([1.0], [0.0], [0.0]).points(),
        ["1 x 1 numbers"],
    ),
}


def model(p):
    return gj.Mixture(
        source=gj.Source(gj.PowerLaw(p["index"], p["flux"] * 1e-11), gj.Point(0.1, 0.0)), sky=gj.InstrumentBackground()
    )


@pytest.fixture(scope="module")
def posterior(observation):
    events = gj.Events([1.0, 2.0], [0.0, 0.1], [0.0, 0.1])
    priors = {"index": dist.Uniform(1.0, 4.0), "flux": dist.Normal(1.0, 0.5)}
    return gj.Posterior(model, priors, observation, events, per_decade=10.0)


@pytest.fixture(scope="module")
def made(observation, posterior):
    """Each object once: `made(class)`."""
    known = {}

    def get(kind):
        if kind not in known:
            known[kind] = MADE[kind][0](observation, posterior)
        return known[kind]

    return get


def check(value, *words):
    """The law: at most twelve lines of at most eighty columns, the name of the class, and no dumps."""
    for shown in {repr(value), str(value)}:
        lines = shown.split("\n")
        assert len(lines) <= LINES, shown
        assert max(map(len, lines)) <= WIDTH, shown
        assert "array(" not in shown and "f32[" not in shown and "object at 0x" not in shown, shown
    shown = " ".join(repr(value).split())
    assert type(value).__name__ in shown, shown
    for word in words:
        assert word in shown, f"{word!r} is not in {shown}"
    return shown


def exported():
    found = [part for module in MODULES for name, part in vars(module).items() if not name.startswith("_")]
    ours = [part for part in found if inspect.isclass(part) and part.__module__.startswith("gammajax")]
    return {kind for kind in ours if not inspect.isabstract(kind)}


def test_every_exported_class_is_in_the_table():
    assert exported() <= set(MADE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)
def test_a_few_lines_say_what_an_object_is(kind, made, caplog):
    value = made(kind)
    assert type(value) is kind
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        check(value, *MADE[kind][1])
    assert not [record for record in caplog.records if "ompil" in record.getMessage()]  # it only reads


def is_array(leaf):
    return isinstance(leaf, jax.Array | np.ndarray)


def is_real(leaf):
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def say(part, others, kept):
    kept.append(eqx.combine(part, others))
    check(kept[-1])
    kept[-1] = repr(kept[-1])
    return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(part) if is_real(leaf)), start=jnp.zeros(()))


def copies(leaf):
    return jnp.stack([jnp.asarray(leaf)] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)
def test_what_is_traced_says_so(kind, made):
    value = made(kind)
    if not jax.tree.leaves(eqx.filter(value, is_array)):
        pytest.skip("no arrays")
    kept = []
    arrays, others = eqx.partition(value, is_array)
    jax.eval_shape(lambda part: say(part, others, kept), arrays)
    jax.eval_shape(jax.vmap(lambda part: say(part, others, kept)), jax.tree.map(copies, arrays))
    reals, others = eqx.partition(value, is_real)
    if jax.tree.leaves(reals):
        jax.eval_shape(jax.grad(lambda part: say(part, others, kept)), reals)
    sizes_only = (engines.Engine, gj.Response, gj.RegionResponse, gj.OnOff, gj.ParticleModel, Axis, KingPSF, TablePSF)
    sizes_only += (gj.Check,)
    assert isinstance(value, sizes_only) or all("traced" in shown for shown in kept[:2]), kept[0]


REPLACEMENTS = {
    "None": None,
    "object": object(),
    "shape": jax.ShapeDtypeStruct((3,), jnp.float32),
    "tuple": (3, 4),
    "text": "text",
    "nan": float("nan"),
    "infinite": -np.inf,
    "axis of vmap": 0,
    "true": True,
    "empty": np.zeros(0),
    "matrix": np.ones((40, 50)),
    "vector": jnp.arange(7.0),
    "booleans": np.ones(3, bool),
    "texts": np.array(["a", "b"]),
    "objects": np.array([None, {}], object),
    "complex": 1.0 + 2.0j,
    "half": jnp.asarray(1.5, jnp.bfloat16),
    "key": jax.random.key(0),
    "function": jnp.sin,
    "prior": dist.Uniform(0.0, 1.0),
    "sharding": jax.sharding.PartitionSpec("events"),
    "long": "very " * 400,
    "many": list(range(500)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)
def test_anything_may_stand_in_the_place_of_a_leaf(kind, made):
    value = made(kind)
    leaves, structure = jax.tree.flatten(value)
    if any(leaf is value for leaf in leaves) or kind in (gj.BayesFactor, gj.Significance):
        pytest.skip("no tree of arrays")
    for name, replacement in REPLACEMENTS.items():
        for some in (len(leaves), 1):
            changed = [replacement] * some + leaves[some:]
            try:
                check(jax.tree.unflatten(structure, changed))
            except Exception as error:
                raise AssertionError(f"with {name}") from error


@pytest.mark.slow
@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)
def test_fields_may_be_gone(kind, made):
    """As `eqx.tree_at`, `eqx.filter` and `jax.tree.map` leave a module, and as it is while it is made."""
    value = made(kind)
    if not isinstance(value, eqx.Module):
        pytest.skip("no module")
    names = [name for name in vars(value) if not kind.__dataclass_fields__[name].metadata.get("static")]
    for name in names:
        for put in (None, object(), 3, (), {}):
            check(eqx.tree_at(lambda v, n=name: getattr(v, n), value, put, is_leaf=lambda leaf: leaf is None))


def test_arrays_that_are_deleted_say_so():
    array = jnp.arange(3.0) + 1.0
    spectrum = gj.TabulatedSpectrum(array, array)
    array.delete()
    check(spectrum, "energy=deleted")


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)
def test_an_object_inside_another_prints_as_by_itself(kind, made):
    value = made(kind)
    inside = [[value], {"name": value}, (value, value)]
    shown = [repr(inside[0])]
    if isinstance(value, eqx.Module):
        shown += [eqx.tree_pformat(one) for one in inside]
        methods = [name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]
        shown += [repr(getattr(value, name)) for name in methods]
    for words in shown:
        assert max(map(len, words.split("\n"))) <= 100, words
        assert words.count("\n") <= 2 * LINES + 4, words
        assert "f32[" not in words, words


def many(count):
    return [f"parameter_{number}" for number in range(count)]


LARGE = {
    "no events": lambda o: gj.Events([], [], []),
    "no cells": lambda o: gj.Events([], [], []).compress(o),
    "names": lambda o: gj.Mixture(**{LONG: SOURCE, LONG[::-1]: gj.Mixture(**{LONG: SOURCE})}),
    "components": lambda o: gj.Mixture(**dict.fromkeys(many(60), SOURCE)),
    "nodes": lambda o: gj.Mixture(a=gj.Mixture(b=gj.Mixture(**dict.fromkeys(many(5), SOURCE)), )),
    "sum": lambda o: sum([POWER_LAW * i for i in range(40)]),
    "product": lambda o: 2.0 * (POWER_LAW * (POWER_LAW * (POWER_LAW * (POWER_LAW * POWER_LAW)))),
    "channels": lambda o: gj.DarkMatter({name: 1.0 / 20 for name in darkmatter.channels()[:20]}, 2.0),
    "norms": lambda o: gj.InstrumentBackground(np.arange(1.0, 300.0)),
    "data": lambda o: io.Data(gj.Events([1.0], [0.0], [0.0]), [o] * 80),
    "exposure": lambda o: exposure(80),
    "fit": lambda o: fit(dict.fromkeys(many(40), jnp.ones(())), tuple(many(40)), ("words " * 80,)),
    "long fit": lambda o: fit({LONG: jnp.ones(())}, (LONG,)),
    "result": lambda o: result(many(40)),
    "long result": lambda o: result([LONG], units={LONG: "a unit that is long " * 8}),
    "vectors": lambda o: result(["a", "b"], shape=(50,)),
    "one draw": lambda o: result(["a"], 1, 1),
    "many messages": lambda o: gj.TestStatistic(LONG, 0.0, 1.0, 0.1, False, {}, {}, (), ("note " * 90,) * 9),
    "infinite": lambda o: gj.TestStatistic("a", 0.0, np.inf, 0.0, True, {}, {}),
    "not known": lambda o: gj.Profile("a", np.zeros(0), np.zeros(0), {}, {}, np.nan, (0.0, 1.0), ("words " * 300,)),
    "flat": lambda o: gj.Profile("a", np.arange(3.0), np.zeros(3), {}, {}, 1.0, (0.0, 2.0)),
    "no best": lambda o: gj.Profile("a", np.arange(3.0), np.array([np.inf, 0.0, np.nan]), {}, {}, 1.0, (0.0, 2.0)),
    "axes": lambda o: gj.ParticleModel({n: [1, 2] for n in many(8)}, {n: np.ones((2,) * 8) for n in many(30)}),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_large_and_empty_objects_stay_short(name, observation):
    check(LARGE[name](observation))


PRIORS = {
    "Uniform(low=0, high=1)": dist.Uniform(0.0, 1.0),
    "LogUniform(low=1e-13, high=1e-10)": dist.LogUniform(1e-13, 1e-10),
    "Dirichlet(concentration=[1, 1, 2])": dist.Dirichlet(jnp.array([1.0, 1.0, 2.0])),
    "LeftTruncatedDistribution(Normal(loc=0, scale=1), low=0)": dist.TruncatedNormal(0.0, 1.0, low=0.0),
    "Uniform(low=0, high=1) x 3": dist.Uniform(jnp.zeros(()), 1.0).expand([3]),
    "Delta(v=2, log_density=0)": dist.Delta(2.0),
}


@pytest.mark.parametrize("words", PRIORS)
def test_priors_show_their_numbers(words):
    assert text(PRIORS[words]) == words


def test_units_are_those_of_gammapy():
    """Where both have the same parameter, astropy reads the unit as gammapy's."""
    from astropy import units as u
    from gammapy.modeling import models as gp

    pairs = {
        gj.PowerLaw: gp.PowerLawSpectralModel, gj.LogParabola: gp.LogParabolaSpectralModel,
        gj.BrokenPowerLaw: gp.BrokenPowerLawSpectralModel,
        gj.SmoothBrokenPowerLaw: gp.SmoothBrokenPowerLawSpectralModel,
        gj.ExponentialCutoffPowerLaw: gp.ExpCutoffPowerLawSpectralModel,
        gj.GaussianLine: gp.GaussianSpectralModel, gj.Gaussian: gp.GaussianSpatialModel,
        gj.Disk: gp.DiskSpatialModel, gj.GeneralizedGaussian: gp.GeneralizedGaussianSpatialModel,
        gj.Shell: gp.ShellSpatialModel,
    }  # fmt: skip
    compared = 0
    for ours, theirs in pairs.items():
        for field in ours.__dataclass_fields__.values():
            name = {"lon": "lon_0", "lat": "lat_0", "radius_in": "radius"}.get(field.name, field.name)
            if name in theirs.default_parameters.names:
                unit = u.Unit(field.metadata.get("unit", ""))
                assert unit.is_equivalent(theirs.default_parameters[name].unit), (ours, name)
                compared += 1
    assert compared > 35


NARROW = {"long": LONG, "usual": "crab.spectral.index", "short": "x", "spaces": "a name of several words that is long"}
UNITS = {"flux": "TeV$^{-1}$ cm$^{-2}$ s$^{-1}$", "deg": "deg", "none": None}


@pytest.fixture(scope="module", params=[-1.2345e-12, 83.633, 1.2345e7])
def table_of_run(request):
    """Summary of long and short names with units, of numbers about this one, and the units."""
    cases = [(f"{name}_{unit}", UNITS[unit]) for name in NARROW.values() for unit in UNITS]
    rng = np.random.default_rng(0)
    samples = {name: request.param * (1.0 + 0.1 * rng.normal(size=(2, 20, 2))) for name, _ in cases}
    units = {name: unit for name, unit in cases if unit}
    truths = {name: np.full(2, request.param) for name in samples}
    made = gj.Result.from_samples(samples, method="nuts", units=units, truths=truths)
    return made.summary(), made.units


@pytest.mark.parametrize("width", [60, 80, 81, 110, 200])
@pytest.mark.parametrize("truth", [False, True])
def test_the_table_of_a_run_fits_its_console(width, truth, table_of_run, monkeypatch):
    """Names are folded and columns are left out, but numbers stay whole."""
    summary, units = table_of_run
    summary = summary if truth else summary.drop(columns="truth")
    written = StringIO()
    monkeypatch.setattr(cli, "console", Console(file=written, width=width, soft_wrap=True))
    cli.show(summary, units)
    title, header, _, *lines = [line.rstrip() for line in written.getvalue().rstrip().split("\n")]
    assert max(map(len, [title, header, *lines])) <= width
    assert "…" not in "".join(lines)
    words = " ".join(lines) + " "
    for column in ("median", "68% low", "68% high"):
        assert all(f" {value:.4g} " in words for value in summary[column])
    if "95 %" in header:
        assert all(f" {value:.4g} " in words for value in summary["95% high"])
    else:
        assert "95 % " in title and "summary.csv" in title and width < 110
    # names go on below their numbers
    names = "".join(re.split(r"\s+\S+\s+\S+ to ", line)[0].replace(" ", "") for line in lines)
    assert all(name.replace(" ", "") in names for name in summary.index)
    assert names.count("(TeV^-1cm^-2s^-1)") == 2 * len(NARROW)


def test_a_background_of_many_numbers_hides_no_flux():
    names = tuple(f"b[{i}]" for i in range(9)) + ("flux",)
    values = {"b": np.arange(9.0), "flux": np.array(2.0)}
    assert estimates(names, values, values).startswith("flux")
