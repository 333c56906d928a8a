"""Limits on cross sections, their files, J-factors and combinations, against closed forms and direct scans."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from figures import faults
from scipy.integrate import trapezoid
from scipy.optimize import brentq, minimize_scalar
from scipy.special import gammaincc
from scipy.stats import binom
from toys import counting

import gammajax as gj
from gammajax.plots.cross_sections import THERMAL_RELIC
from gammajax.statistics.forecasts import BANDS

Z = 1.644854
TRACED: list[int] = []
MASSES = np.array([1.0, 5.0])
OPTIONS = {"per_decade": 12.0, "progress": False}


def known(p, counts):
    """Counts of a signal, `mass` for a scale of one, above a known background."""
    TRACED.append(1)
    mean = p["scale"] * p["mass"] + counts[1]
    return counts[0] * jnp.log(mean) - mean


def unknown(p, counts):
    return counting({"signal": p["scale"] * p["mass"], "background": p["background"]}, counts)


@pytest.fixture(scope="module")
def poisson(make_toy):
    priors = {"scale": dist.Uniform(0.0, 1e3), "mass": dist.Uniform(0.0, 1e4)}
    return make_toy(known, priors, {"scale": 1.0, "mass": 1.0}, [9.0, 5.0])


def given(toy, *counts):
    return eqx.tree_at(lambda toy: toy.data, toy, jnp.asarray(counts, float))


def of(toy, masses=(1.0,), **options):
    return gj.limits(toy, scale="scale", along="mass", values=masses, progress=False, **options)


def curve(sigma, best=0.0, target="Segue1", instrument="A", error=0.0, mass=1.0, log10_j=19.0, channel="b"):
    """A parabola in cross sections of 1e-24."""
    values = np.linspace(0.0, max(best, 0.0) + 8.0 * sigma, 321)[None]
    fall = ((values - best) / sigma) ** 2
    names = target, instrument, (channel,), np.array([mass])
    return gj.LikelihoodCurves(*names, values * 1e-24, fall - fall.min(), log10_j, error)


@pytest.mark.parametrize("count", [0.0, 2.0, 5.0, 9.0, 30.0])
def test_counts_above_a_known_background(poisson, count):
    found = of(given(poisson, count, 5.0), [0.01, 1.0, 300.0])

    def height(signal):
        return (count * np.log(signal + 5.0) if count else 0.0) - signal

    best = max(count - 5.0, 0.0)
    limit = brentq(lambda s: 2.0 * (height(best) - height(s)) - Z**2, best, 100.0)
    # the posterior is a truncated Gamma distribution
    bayesian = brentq(lambda s: gammaincc(count + 1.0, 5.0 + s) / gammaincc(count + 1.0, 5.0) - 0.05, 0.0, 100.0)
    np.testing.assert_allclose(found.best * found.mass, best, atol=0.01)
    np.testing.assert_allclose(found.limit * found.mass, limit, rtol=2e-3)
    np.testing.assert_allclose(found.bayesian * found.mass, bayesian, rtol=3e-3)
    np.testing.assert_allclose(found.ts, 2.0 * (height(best) - height(0.0)), atol=5e-3)
    assert found.messages == () and found.unit == ""


def test_more_masses_compile_nothing(poisson):
    of(poisson, [1.0, 2.0])
    TRACED.clear()
    of(poisson, np.geomspace(0.1, 10.0, 17))
    assert not TRACED


@pytest.mark.slow
def test_a_free_background_is_profiled(make_toy):
    priors = {"scale": dist.LogUniform(1e-3, 1e3), "mass": dist.Uniform(0.0, 1e4), "background": dist.Uniform(1.0, 1e3)}
    toy = make_toy(unknown, priors, {"scale": 1.0, "mass": 1.0, "background": 50.0}, [80.0, 300.0])
    background = np.linspace(20.0, 120.0, 200_001)

    def height(signal, on):
        mean = signal + background
        return (on * np.log(mean) - mean + 300.0 * np.log(5.0 * background) - 5.0 * background).max()

    for on in (50.0, 80.0):
        found = of(given(toy, on, 300.0), [0.02, 3.0])
        top = max(height(s, on) for s in np.linspace(0.0, 40.0, 401))
        limit = brentq(lambda s: 2.0 * (top - height(s, on)) - Z**2, max(on - 60.0, 0.0), 100.0)  # noqa: B023
        np.testing.assert_allclose(found.limit * found.mass, limit, rtol=2e-3)
        np.testing.assert_allclose(found.ts, 2.0 * (top - height(0.0, on)), atol=5e-3)
    assert found.limit[1] == pytest.approx(gj.profile(_at_mass(toy, 80.0), "scale").upper_limit() / 3.0, rel=5e-3)
    # a constraint on the background counts, unless it is left out
    narrow = make_toy(
        unknown, {**priors, "background": dist.Normal(30.0, 0.1)}, toy.reference_parameters, [50.0, 300.0]
    )
    assert of(narrow).limit[0] > of(narrow, constraints=[]).limit[0] * 1.5


def _at_mass(toy, on):
    """The same with a mass of one that is no parameter."""
    function = unknown

    def at(p, counts):
        return function({**p, "mass": 1.0}, counts)

    priors = {name: dist.Uniform(0.0, 1e3) for name in ("scale",)} | {"background": toy.priors["background"]}
    start = {name: toy.reference_parameters[name] for name in priors}
    return type(toy)(at, priors, start, jnp.array([on, 300.0]))


def test_coverage_of_a_signal(poisson):
    # 95 % within the discreteness of counts and the asymptotic formula: 3 sigma of 40 experiments
    drawn = np.random.default_rng(1).poisson(40.0 + 12.0, 40)
    over = [bool(of(given(poisson, float(count), 40.0)).limit[0] >= 12.0) for count in drawn]
    assert binom.ppf(1e-3, 40, 0.93) <= sum(over) <= binom.ppf(0.999, 40, 0.97)


@pytest.mark.parametrize("best", [-1.5, 0.0, 2.5])
def test_j_factor_against_direct_profile_and_marginal(best):
    error = 0.25
    one = curve(2.0, best, error=error)

    def profiled(x):
        fine = np.linspace(-1.5, 1.5, 30_001)
        return (one(0, x * 10.0**fine * 1e-24) + (fine / error) ** 2).min()

    def weighed(x):
        u = np.linspace(-6.0, 6.0, 4001)
        return trapezoid(np.exp(-0.5 * (one(0, x * 10.0 ** (error * u) * 1e-24) + u**2)), u) / np.sqrt(2.0 * np.pi)

    found = gj.combine(one)
    limit = brentq(lambda x: profiled(x) - Z**2, max(best, 0.0), 60.0)
    assert found.limit[0] == pytest.approx(limit * 1e-24, rel=2e-3)
    assert found.best[0] == pytest.approx(max(best, 0.0) * 1e-24, abs=0.02e-24)
    marginal = gj.combine(one, nuisance="marginal")
    top = minimize_scalar(lambda x: -weighed(x), bounds=(0.0, 10.0), method="bounded")
    top = max(-top.fun, weighed(0.0))
    start = max(best, 0.3)
    limit = brentq(lambda x: -2.0 * np.log(weighed(x) / top) - Z**2, start, 80.0, xtol=1e-4)
    assert marginal.limit[0] == pytest.approx(limit * 1e-24, rel=4e-3)
    fine = np.concatenate([np.linspace(0.0, 20.0, 400), np.geomspace(20.2, 500.0, 100)])
    density = np.array([weighed(x) for x in fine])
    below = np.append(0.0, np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(fine)))
    assert found.bayesian[0] == pytest.approx(np.interp(0.95 * below[-1], below, fine) * 1e-24, rel=0.01)
    assert found.limit[0] > gj.combine(curve(2.0, best)).limit[0]


def test_one_target_has_one_j_factor_and_others_their_own():
    parts = [curve(2.0, 1.0, error=0.3), curve(3.0, -1.0, instrument="B", error=0.3)]
    other = curve(2.5, 0.5, target="Draco", instrument="B", error=0.2)
    found = gj.combine(*parts, other)
    shift = np.linspace(-1.5, 1.5, 3001)

    def fall(x):
        at = x * 10.0**shift * 1e-24
        segue = (parts[0](0, at) + parts[1](0, at) + (shift / 0.3) ** 2).min()
        return segue + (other(0, at) + (shift / 0.2) ** 2).min()

    top = minimize_scalar(fall, bounds=(0.0, 5.0), method="bounded", options={"xatol": 1e-6})
    limit = brentq(lambda x: fall(x) - top.fun - Z**2, top.x, 30.0)
    assert found.limit[0] == pytest.approx(limit * 1e-24, rel=3e-3)
    assert found.best[0] == pytest.approx(top.x * 1e-24, rel=0.02)
    assert found.ts[0] == pytest.approx(fall(0.0) - top.fun, abs=0.01)
    assert found.target == "Segue1, Draco"
    with pytest.raises(ValueError, match="one target has one J-factor"):
        gj.combine(parts[0], curve(3.0, instrument="B", error=0.2))
    # a larger J-factor: sigma_v J stays
    moved = gj.combine(curve(2.0), j_factors={"Segue1": (19.5, 0.0)})
    assert moved.limit[0] == pytest.approx(gj.combine(curve(2.0)).limit[0] / 10.0**0.5, rel=1e-3)
    with pytest.raises(ValueError, match=r"j_factors has \['Draco'\]"):
        gj.combine(parts[0], j_factors={"Draco": (19.0, 0.1)})


def test_bands_of_gaussian_experiments():
    expected = [1e-24 * 2.0 * (np.sqrt(Z**2 + min(n, 0) ** 2) + n) for n in BANDS]
    found = gj.Limits.of([], [curve(2.0)])
    np.testing.assert_allclose(found.expected[:, 0], expected, rtol=2e-3)
    assert np.isnan(found.limit[0]) and np.isnan(found.ts[0])
    # two targets as one with their weights
    both = gj.Limits.of([], [curve(2.0), curve(3.0, target="Draco")])
    sigma = 1.0 / np.sqrt(1.0 / 4.0 + 1.0 / 9.0)
    np.testing.assert_allclose(both.expected[:, 0], np.array(expected) * sigma / 2.0, rtol=2e-3)
    # few events: those of a Poisson distribution with n = b + N sqrt(b)
    values = np.append(0.0, np.geomspace(0.05, 200.0, 300))

    def counts(count):
        fall = 2.0 * (values - count * np.log(1.0 + values / 5.0))
        names = "Segue1", "A", ("b",), np.array([1.0])
        return gj.LikelihoodCurves(*names, 1e-24 * values[None], (fall - fall.min())[None], 19.0)

    few = gj.Limits.of([], [counts(5.0)]).expected[:, 0]
    exact = [gj.combine(counts(5.0 + number * np.sqrt(5.0))).limit[0] for number in BANDS]
    np.testing.assert_allclose(few, exact, rtol=0.01)
    # J is the same in all experiments: that of a fluctuation is of its own curve
    uncertain = gj.Limits.of([], [curve(2.0, error=0.2)])
    for row, number in zip(uncertain.expected[:, 0], BANDS, strict=True):
        assert row == pytest.approx(gj.combine(curve(2.0, 2.0 * number, error=0.2)).limit[0], rel=3e-3)


GLIKE = """\
19.36          500            1000           50000
1e-22          1214.2         1120.6         1000
1e-23          1020.2         1008.6         1000
5e-24          1008.0         1002.6         1000
2e-24          1002.1         1000.4         1000
1e-24          1000.7         1000.1         1000
5e-25          1000.2         1000           1000
1e-26          1000           1000.1         1000
"""


def test_files_of_glike_and_lklcom(tmp_path):
    # as `jointLklDM` and `lklcom_to_gLike` write them: masses in GeV, -2 ln L with any constant, falling cross sections
    path = tmp_path / "bb_Segue1_MAGIC.txt"
    path.write_text(GLIKE)
    found = gj.LikelihoodCurves.read(path, log10_j_error=0.3)
    assert (found.target, found.instrument, found.channels) == ("Segue1", "MAGIC", ("b", "b"))
    assert found.mass.tolist() == [0.5, 1.0] and found.log10_j == 19.36 and found.log10_j_error == 0.3
    assert found(0, 5e-24) == pytest.approx(8.0, abs=0.01) and found.best(1) == 5e-25
    assert found(0, 0.0) == pytest.approx(0.0, abs=0.01) and found(1, 0.0) == pytest.approx(0.1, abs=0.01)
    assert found(0, 2e-22) > found(0, 1e-22)
    named = gj.LikelihoodCurves.read(path, channel="tau", target="x", instrument="y")
    assert (named.channels[0], named.target, named.instrument) == ("tau", "x", "y")
    # rising cross sections, as in the example of gLike
    head, *rows = GLIKE.splitlines()
    (tmp_path / "WW_Segue1_HAWC.txt").write_text("\n".join([head, *rows[::-1]]))
    rising = gj.LikelihoodCurves.read(tmp_path / "WW_Segue1_HAWC.txt")
    np.testing.assert_allclose(rising.fall, found.fall)
    assert rising.channels == ("W", "W")
    for text, match in {
        "19 500\n1e-22 a\n": "not a table of numbers",
        "19 500\n1e-22 1\n1e-23 1 2\n1e-24 3\n": "the first line has log10 J",
        "19 500\n1e-22 1\n1e-22 1\n1e-24 3\n": "cross sections must differ",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=match):
            gj.LikelihoodCurves.read(path)
    with pytest.raises(FileNotFoundError):
        gj.LikelihoodCurves.read(tmp_path / "none.txt")
    path.rename(tmp_path / "some.txt")
    with pytest.raises(ValueError, match="give channel="):
        gj.LikelihoodCurves.read(tmp_path / "some.txt")


def test_what_is_written_is_read_again(tmp_path):
    values = np.linspace(0.0, 30.0, 601) * 1e-24
    fall = np.stack([(values / 2e-24) ** 2, (values / 5e-24 - 1.0) ** 2])
    names = "Segue1", "CTAO", ("b", "tau"), MASSES
    curves = gj.LikelihoodCurves(*names, np.stack([values, values]), fall - fall.min(1, keepdims=True), 19.36, 0.3)
    paths = curves.write(tmp_path)
    assert [path.name for path in paths] == ["bb_Segue1_CTAO.txt", "tautau_Segue1_CTAO.txt"]
    # LklCom: the first word is log10 J, then masses in GeV; falling cross sections
    table = np.array([line.split() for line in paths[0].read_text().splitlines()], float)
    assert table[0].tolist() == [19.36, 1000.0] and np.all(np.diff(table[1:, 0]) < 0) and len(table) == 1002
    again = [gj.LikelihoodCurves.read(path, log10_j_error=0.3) for path in paths]
    both = gj.combine(*again)
    assert both.channels == ("b", "tau") and both.mass.tolist() == [1.0, 5.0]
    for name in ("limit", "bayesian"):
        np.testing.assert_allclose(getattr(both, name), getattr(gj.combine(curves), name), rtol=3e-3)
    np.testing.assert_allclose(both.ts, gj.combine(curves).ts, atol=0.01)
    with pytest.raises(FileExistsError):
        curves.write(tmp_path)
    curves.write(tmp_path, values=np.geomspace(1e-27, 1e-22, 60), overwrite=True)
    with pytest.raises(ValueError, match="do not reach about the limit"):
        curves.write(tmp_path, values=np.geomspace(1e-27, 1e-26, 60), overwrite=True)
    with pytest.raises(ValueError, match="a name without '_'"):
        curve(2.0, target="Segue_1").write(tmp_path)
    with pytest.raises(ValueError, match="these curves do not have"):
        curve(2.0, log10_j=np.nan).write(tmp_path)


def model(p):
    spectrum = gj.DarkMatter({"b": p["ratios"][0], "W": p["ratios"][1]}, p["mass"], 1e-24 * p["scale"], 1e21)
    return gj.Mixture(
        signal=gj.Source(spectrum, gj.Point(0.2, 0.1)), sky=gj.InstrumentBackground(400.0 * p.get("norm", 1.0))
    )


PRIORS = {"mass": dist.LogUniform(0.7, 20.0), "scale": dist.Uniform(0.0, 1e3), "ratios": dist.Dirichlet(jnp.ones(2))}
TRUTH = {"mass": jnp.array(2.0), "scale": jnp.array(0.0), "ratios": jnp.array([1.0, 0.0])}
CHANNELS = {"b": {"ratios": [1.0, 0.0]}, "W": {"ratios": [0.0, 1.0]}}


@pytest.fixture(scope="module")
def runs(make_observation):
    return [make_observation(lat=0.1 * i, livetime=5400.0, offset_max=1.0) for i in range(2)]


@pytest.fixture(scope="module")
def cells(runs):
    found = [gj.simulate(jax.random.key(i), model(TRUTH), run) for i, run in enumerate(runs)]
    return [gj.Binning.init(run)(events) for run, events in zip(runs, found, strict=True)]


@pytest.fixture(scope="module")
def both(runs, cells):
    named = zip(runs, cells, "ab", strict=True)
    sets = [gj.Unbinned(run, part, name=name, per_decade=12.0) for run, part, name in named]
    posterior = gj.Posterior(model, PRIORS, sets, progress=False)
    options = {"values": MASSES, "channels": CHANNELS, "target": "Segue1", "progress": False}
    return gj.limits(posterior, scale="scale", **options)


@pytest.mark.slow
def test_halves_of_the_data_combine_to_the_whole(runs, cells, both):
    halves = [
        gj.limits(
            gj.Posterior(model, PRIORS, run, part, **OPTIONS),
            scale="scale",
            values=MASSES,
            channels=CHANNELS,
            target="Segue1",
            instrument=name,
            progress=False,
        )
        for run, part, name in zip(runs, cells, "ab", strict=True)
    ]
    together = gj.combine(*halves)
    assert together.channels == both.channels == ("b", "b", "W", "W")
    assert both.unit == "cm^3 s^-1" and both.curves[0].log10_j == pytest.approx(21.0, abs=1e-5)
    np.testing.assert_allclose(together.limit, both.limit, rtol=5e-3)
    np.testing.assert_allclose(together.bayesian, both.bayesian, rtol=5e-3)
    np.testing.assert_allclose(together.ts, both.ts, atol=0.02)
    assert np.all(halves[0].limit[0] != both.limit[0])


@pytest.fixture(scope="module")
def expected(runs, cells):
    priors = {**PRIORS, "norm": dist.LogNormal(0.0, 0.2)}
    posterior = gj.Posterior(model, priors, runs[0], cells[0], **OPTIONS)
    options = {"scale": "scale", "values": MASSES, "channels": CHANNELS, "log10_j_error": 0.2, "progress": False}
    return gj.limits(posterior, expected=jax.random.key(2), points=10_000, target="Segue1", instrument="A", **options)


@pytest.mark.slow
def test_expected_limits_are_those_of_gj_sensitivity(runs, cells, expected):
    def of_b(p):
        return model({**p, "ratios": jnp.array([1.0, 0.0])})

    priors = {"mass": PRIORS["mass"], "scale": PRIORS["scale"], "norm": dist.LogNormal(0.0, 0.2)}
    # the norm that the counts and its prior say without a signal
    background, count = float(gj.expected_counts(model(TRUTH), runs[0])["sky"].sum()), cells[0].total
    fitted = brentq(lambda x: background * np.exp(x) - count + x / 0.2**2, -2.0, 2.0)
    truth = {"mass": 1.0, "scale": 1.0, "norm": np.exp(fitted)}
    wanted = gj.sensitivity(
        jax.random.key(3), of_b, priors, runs[0], truth, scale="scale", values=MASSES, points=10_000, **OPTIONS
    )
    # without the uncertainty of J, which is in the curves of neither
    fixed = gj.combine(expected, j_factors={"Segue1": (21.0, 0.0)})
    np.testing.assert_allclose(fixed.expected[2, :2], wanted.limits[2] * 1e-24, rtol=0.04)
    # bands follow the curve where it is no parabola: few events
    np.testing.assert_allclose(fixed.expected[:, :2], wanted.limits * 1e-24, rtol=0.15)
    assert np.all(expected.expected > fixed.expected) and np.all(expected.limit > fixed.limit)
    assert np.all(np.diff(expected.expected, axis=0) > 0)
    # the observation is one of the experiments
    assert np.all((expected.limit > 0.5 * expected.expected[0]) & (expected.limit < 2.0 * expected.expected[4]))


def test_tables_words_and_figures(expected, tmp_path):
    path = expected.write(tmp_path / "limits.ecsv")
    again = gj.Limits.read(path)
    for name in ("mass", "limit", "bayesian", "best", "ts", "expected"):
        np.testing.assert_allclose(getattr(again, name), getattr(expected, name), rtol=1e-12)
    assert again.channels == expected.channels and again.unit == expected.unit and again.level == 0.95
    assert "cm3 / s" in path.read_text() and "one-sided 0.95 CL" in path.read_text()
    with pytest.raises(FileExistsError):
        expected.write(path)
    with pytest.raises(ValueError, match="written as .ecsv"):
        expected.write(tmp_path / "limits.txt")
    with pytest.raises(ValueError, match="have no curves"):
        gj.combine(again)
    (tmp_path / "other.ecsv").write_text("# %ECSV 1.0\n# ---\n# datatype:\n# - {name: a, datatype: int64}\na\n1\n")
    with pytest.raises(ValueError, match="not a table of limits"):
        gj.Limits.read(tmp_path / "other.ecsv")
    assert "4 rows, 1 to 5 TeV, channels b, W" in repr(expected) and "one-sided profile likelihood" in repr(expected)
    assert "log10 J = 21 +- 0.2" in repr(expected.curves[0])
    axes = expected.plot(channel="b", others={"again": again})
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == "95 % of experiments" and "thermal relic (Steigman et al. 2012)" in labels and "again" in labels
    relic = next(line for line in axes.get_lines() if "relic" in str(line.get_label()))
    assert relic.get_ydata()[0] == THERMAL_RELIC
    assert not faults(axes.figure)
    axes = expected.plot()
    assert axes.get_ylabel() == r"$\langle\sigma v\rangle$ [cm$^3$ s$^{-1}$]" and not faults(axes.figure)
    with pytest.raises(ValueError, match="there is no channel 'tau'"):
        expected.plot(channel="tau")


def test_what_has_no_limit_says_so(poisson, make_toy):
    # a mass of zero: the scale has no effect
    found = of(poisson, [0.0, 1.0])
    assert found.limit[0] == np.inf and found.bayesian[0] == np.inf and np.isfinite(found.limit[1])
    assert "no cross section is excluded" in found.messages[0]


def test_wrong_calls_are_refused_in_one_line(poisson, runs, cells):
    cases = {
        "must be a parameter that is one number": {"scale": "none"},
        "must lie in its prior, 0 to 10000": {"values": [1e5]},
        "between 0.5 and 1": {"level": 95},
        r"nuisance must be one of \['profile', 'marginal'\]": {"nuisance": "none"},
        "the error of log10 J": {"log10_j_error": -0.1},
        r"channels are \{label": {"channels": ("b", "W")},
        "is no parameter beside": {"channels": {"b": {"ratio": 1.0}}},
        "constraints must be a list": {"constraints": ["other"]},
    }
    for match, change in cases.items():
        with pytest.raises(ValueError, match=match):
            gj.limits(poisson, **{"scale": "scale", "values": [1.0], "progress": False, **change})
    with pytest.raises(ValueError, match="the events are impossible with scale = 0"):
        of(given(poisson, 9.0, 0.0))
    with pytest.raises(ValueError, match="at least one curve"):
        gj.combine()

    def squared(p):
        return model({**p, "scale": p["scale"] ** 2, "ratios": jnp.array([1.0, 0.0])})

    def weighted(p):
        parts = model({**p, "ratios": jnp.array([1.0, 0.0]), "scale": 1.0})
        return gj.Mixture(**dict(zip(parts.names, parts.parts, strict=True)), weights={"signal": 1e-3 * p["scale"]})

    priors = {name: PRIORS[name] for name in ("mass", "scale")}
    for wrong, match in ((squared, "not proportional to 'scale'"), (weighted, "need absolute fluxes")):
        posterior = gj.Posterior(wrong, priors, runs[0], cells[0], **OPTIONS)
        with pytest.raises(ValueError, match=match):
            gj.limits(posterior, scale="scale", values=[1.0], progress=False)
