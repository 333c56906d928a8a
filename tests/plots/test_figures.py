"""Every figure of the package is readable, also with difficult names, numbers and ranges."""

import numpy as np
import pytest
from figures import faults

import gammajax as gj

LONG = "normalisation_of_the_galactic_diffuse_emission"
FLUX = "TeV$^{-1}$ cm$^{-2}$ s$^{-1}$"
ABSORPTION = gj.Absorption([0.1, 1.0, 10.0], [0.0, 1.0], [[0.0, 0.0, 0.0], [0.1, 1.0, 9.0]], redshift=0.1)
# centre, width and unit of a quantity
QUANTITIES = {
    "index": (2.3, 0.1, ""),
    "tiny": (3e-26, 1e-27, "cm$^3$ s$^{-1}$"),
    "large": (1.2345e6, 3e4, "TeV"),
    "narrow": (83.63, 0.001, "deg"),
    LONG: (1.0, 0.2, ""),
    "amplitude": (4e-11, 1e-12, FLUX),
    "negative": (-0.03, 0.01, "deg"),
    "huge_and_narrow": (123456.0, 0.01, ""),
}


def result(names, **options):
    random = np.random.default_rng(0)
    draws = {n: QUANTITIES[n][0] + QUANTITIES[n][1] * random.normal(size=(2, 300)) for n in names}
    units = {n: QUANTITIES[n][2] for n in names if QUANTITIES[n][2]}
    return gj.Result.from_samples(draws, method="test", units=units, **options)


def vector():
    draws = np.random.default_rng(0).dirichlet(np.ones(8), (2, 300))
    labels = [f"component_with_a_long_name_{i}" for i in range(8)]
    return gj.Result.from_samples({"ratios": draws}, method="test", labels={"ratios": labels})


def profile(name):
    centre, width, _ = QUANTITIES[name]
    steps = np.linspace(-3.0, 3.0, 13)
    values = centre + width * steps
    return gj.Profile(name, values, steps**2, {}, {}, centre, (-np.inf, np.inf))


def limit(size):
    values = size * np.linspace(0.0, 3.0, 13)
    q = (values / size) ** 2 + 0.4 * values / size
    return gj.Profile("amplitude", values, q, {}, {}, 0.0, (0.0, 10.0 * size), unit=FLUX)


def sensitivity(values, size=1e-25, scale=LONG):
    values = np.asarray(values, float)
    limits = size * np.array([0.5, 0.7, 1.0, 1.4, 2.0])[:, None] * np.ones(values.size)
    return gj.Sensitivity(scale, "mass", values, limits, 3.0 * limits[2], values, {}).plot()


def nested():
    x = np.linspace(1.0, 0.01, 300)
    points = {
        "samples": {"x": x},
        "log_likelihood": -5e4 * x**2,
        "log_volume": 9.0 * np.log(x),
        "log_weight": -50 * x**2,
    }
    points |= {"log_likelihood_birth": np.append(-np.inf, -5e4 * x[:-1] ** 2)}
    run = gj.Result.from_samples({"x": x[None]}, method="nested", weighted=points, log_evidence=(-123456.789, 0.2))
    return run.plot_run()


def tempered(steps):
    stats = {
        "temperature": np.geomspace(1e-9, 1.0, steps),
        "ess": np.full(steps, 8e5),
        "acceptance": np.full(steps, 0.5),
    }
    return gj.Result.from_samples(
        {"x": np.ones((1, 5))}, method="smc", smc_stats=stats, log_evidence=(-1.0, 0.1)
    ).plot_run()


def particle(channels):
    axes = {"a_coupling_with_a_very_long_name": [1e-6, 1e-3, 1.0]}
    return gj.ParticleModel(axes, {name: [1e-26, 3e-25, 1e-22] for name in channels}).plot()


SPECTRA = {
    "wide": (gj.PowerLaw(2.0, 1e-12), (1e-3, 1e3)),
    "decade": (gj.PowerLaw(2.0, 1e-12), (0.5, 8.0)),
    "narrow": (gj.PowerLaw(2.0, 1e-12), (1.0, 1.3)),
    "very narrow": (gj.PowerLaw(2.0, 1e-12), (83.62, 83.64)),
    "faint": (gj.PowerLaw(2.0, 1e-26), (0.1, 100.0)),
    "flat": (gj.PowerLaw(2.0, 3e-12), (1.0, 100.0)),
    "line": (gj.GaussianLine(1.0, 0.05), (0.5, 2.0)),
}
MAPS = {
    "gaussian": (gj.Gaussian(83.63, 22.01, 0.2), None),
    "tiny": (gj.Gaussian(83.63, 22.01, 1e-4), None),
    "narrow": (gj.Gaussian(83.63, 22.01, 0.2), 0.002),
    "across zero": (gj.Disk(359.999, -60.0, 0.004), None),
    "wide": (gj.Gaussian(0.0, 0.0, 10.0), 80.0),
    "pole": (gj.Gaussian(0.0, 85.0, 1.0), None),
    "point": (gj.Point(83.633, 22.014), 0.003),
    "halo": (gj.NFW(), 10.0),
    "decay": (gj.Einasto(decay=True), None),
}
FIGURES = {
    **{f"corner of {name}": lambda _, name=name: result([name]).plot_corner() for name in QUANTITIES},
    "corner of all": lambda _: result(QUANTITIES, truths={n: q[0] for n, q in QUANTITIES.items()}).plot_corner(),
    "corner of two": lambda _: result(["narrow", "tiny"]).plot_corner(),
    "corner of a vector": lambda _: vector().plot_corner(),
    **{f"trace of {name}": lambda _, name=name: result([name]).plot_trace() for name in QUANTITIES},
    "trace of all": lambda _: result(QUANTITIES).plot_trace(),
    "trace of a vector": lambda _: vector().plot_trace(),
    "nested run": lambda _: nested(),
    **{f"tempered run of {n}": lambda _, n=n: tempered(n) for n in (1, 3, 40)},
    **{f"profile of {name}": lambda _, name=name: profile(name).plot().figure for name in QUANTITIES},
    **{f"profile of a limit of {size:g}": lambda _, size=size: limit(size).plot().figure for size in (1.0, 3e-13)},
    "sensitivity": lambda _: sensitivity([0.1, 1.0, 10.0, 100.0]).figure,
    "sensitivity in a decade": lambda _: sensitivity([0.5, 1.0, 4.0], 83.63).figure,
    "sensitivity in a narrow range": lambda _: sensitivity([83.62, 83.63, 83.64]).figure,
    "sensitivity at one value": lambda _: sensitivity([2.0]).figure,
    "observation": lambda observation: observation.plot(),
    "response": lambda observation: observation.response.plot([0.0, 0.5, 1.0, 1.5, 2.0, 3.0]),
    "narrow response": lambda observation: observation.response.plot([0.0]),
    "absorption": lambda _: ABSORPTION.plot((0.2, 0.9)).figure,
    **{f"spectrum, {n}": lambda _, s=s, r=r: s.plot(r).figure for n, (s, r) in SPECTRA.items()},
    **{f"map, {n}": lambda _, m=m, w=w: m.plot(width=w).figure for n, (m, w) in MAPS.items()},
    "density": lambda _: gj.NFW().plot_density((1.0, 3.0)).figure,
    "particle model": lambda _: particle(["W", "b", "tau", "mu", "e", "t", "h", "Z", "g", "gamma"]).figure,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Creating legend with loc")  # of a busy machine
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_can_be_read(name, observation):
    import matplotlib.pyplot as plt

    figure = FIGURES[name](observation)
    try:
        assert faults(figure) == []
    finally:
        plt.close("all")
