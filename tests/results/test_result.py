import json
import resource
import subprocess
from pathlib import Path

import astropy.units as u
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gammajax as gj
from gammajax.results.result import Result


@pytest.fixture
def result():
    generator = np.random.default_rng(1)
    samples = {"mass": generator.normal(2.0, 0.1, (4, 500)), "weight": generator.normal(0.0, 1.0, (4, 500, 2))}
    return Result.from_samples(
        samples,
        method="test",
        sample_stats={"diverging": np.zeros((4, 500), bool)},
        truths={"mass": 2.0},
        units={"mass": "TeV"},
        messages=["all well"],
        timings={"sampling": 1.5},
        seed=3,
    )


def test_summary(result):
    table = result.summary()
    assert list(table.index) == ["mass", "weight[0]", "weight[1]"]
    row = table.loc["mass"]
    # 2000 independent draws: 5 standard errors
    assert row["median"] == pytest.approx(2.0, abs=5 * 1.25 * 0.1 / 2000**0.5)
    assert row["68% high"] - row["68% low"] == pytest.approx(0.2, rel=0.1)
    assert row["95% high"] - row["95% low"] == pytest.approx(0.4, rel=0.1)
    assert row["ess_bulk"] > 1500 and row["r_hat"] < 1.01 and row["truth"] == 2.0
    assert np.isnan(table.loc["weight[0]", "truth"])
    assert repr(result).splitlines()[0] == "Result(test: mass, weight; 4 chains x 500 draws)"


def test_save_and_load(result, tmp_path):
    path = result.save(tmp_path / "posterior.nc")
    assert [file.name for file in tmp_path.iterdir()] == ["posterior.nc"]
    again = Result.load(path)
    assert again.tree.identical(result.tree)
    assert again.messages == ["all well"] and again.timings == {"sampling": 1.5} and again.units == {"mass": "TeV"}
    assert again.truths["mass"] == 2.0
    result.save(path)  # over a file that was there


def test_wrong_files(result, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        Result.load(tmp_path / "nothing.nc")
    (tmp_path / "text.nc").write_text("text")
    with pytest.raises(ValueError, match="not a NetCDF file"):
        Result.load(tmp_path / "text.nc")
    with pytest.raises(FileNotFoundError):
        result.save(tmp_path / "missing" / "posterior.nc")


@pytest.mark.parametrize(
    "gone", ["posterior", "posterior/mass", "posterior/chain", "method", "messages", "half", "end"]
)
def test_a_file_that_lacks_a_part(gone, result, tmp_path):
    path = result.save(tmp_path / "damaged.nc")
    if gone in ("half", "end"):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2 if gone == "half" else -1])
    else:
        with h5py.File(path, "r+") as file:
            del (file.attrs if gone in file.attrs else file)[gone]
            if gone == "posterior/mass":
                del file["posterior/weight"]
    with pytest.raises(ValueError, match="damaged.nc: not a .*, or a damaged one") as caught:
        Result.load(path)
    assert "\n" not in str(caught.value)


def test_wrong_samples():
    with pytest.raises(ValueError, match="'x' are not finite"):
        Result.from_samples({"x": np.full((2, 10), np.nan)}, method="test")
    with pytest.raises(ValueError, match="of one length"):
        Result.from_samples({"x": np.ones((2, 10)), "y": np.ones((2, 11))}, method="test")


def test_wrong_labels(result):
    draws = {"x": np.ones((2, 10)), "y": np.ones((2, 10, 3))}
    cases: list[tuple[dict, str]] = [
        ({"truths": {"z": 1.0}}, "truths name 'z', which is none of x, y"),
        ({"units": {"z": "TeV"}}, "units name 'z', which is none of x, y"),
        ({"truths": {"y": 1.0}}, r"the truth of 'y' has shape \(\), the quantity \(3,\)"),
        ({"truths": {"x": 1.0 * u.TeV}}, r"the truth of 'x' has a unit \(1.0 TeV\)"),
    ]
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            Result.from_samples(draws, method="test", **wrong)
    with pytest.raises(ValueError, match="units name 'twice', which is none of double"):
        result.derive(double=lambda p: 2.0 * p["mass"], units={"twice": "TeV"})
    with pytest.raises(ValueError, match="truths name 'mas', which is none of mass, weight"):
        result.plot_corner(truths={"mas": 1.0})


def test_corner(result):
    figure = result.plot_corner()
    assert len(figure.axes) == 9
    assert figure.axes[0].get_title().startswith("mass = $") and figure.axes[0].get_title().endswith("$ TeV")
    assert figure.axes[6].get_xlabel() == "mass [TeV]"
    # a long unit, with its power of ten, stands with the name
    draws = 5e-12 * (1.0 + 0.1 * np.random.default_rng(0).normal(size=(2, 200)))
    flux = Result.from_samples({"flux": draws}, method="test", units={"flux": "TeV$^{-1}$ cm$^{-2}$ s$^{-1}$"})
    (axes,) = flux.plot_corner().axes
    assert axes.get_title().startswith(axes.get_xlabel()) and axes.get_xlabel().endswith("s$^{-1}$]")
    assert "10^{-12}" in axes.get_title() and "= $5" in axes.get_title().replace("4.", "5.")


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (None, ["mass", "weight[0]", "weight[1]"]),
        ("mass", ["mass"]),
        (["weight", "mass"], ["weight[0]", "weight[1]", "mass"]),
        (("weight[1]",), ["weight[1]"]),
    ],
)
def test_names_of_what_is_drawn(result, names, rows):
    corner = [result.plot_corner(names), result.plot_corner(names=names)]
    for figure in corner:
        assert [axes.get_title().split(" = ")[0] for axes in figure.axes[:: len(rows) + 1]] == rows
    trace = result.plot_trace(names).axes[::3]
    assert [axes.get_ylabel().split(" [")[0] for axes in trace] == rows


def test_truths_far_from_the_draws_and_constants_are_drawn():
    draws = np.random.default_rng(0).normal(size=(2, 200))
    for samples in ({"x": draws}, {"x": draws, "fixed": np.full((2, 200), 3.0)}):
        figure = Result.from_samples(samples, method="test", truths={"x": 12.0}).plot_corner()
        figure.canvas.draw()
        low, high = figure.axes[0].get_xlim()
        assert any(np.all(np.asarray(line.get_xdata()) == 12.0) for line in figure.axes[0].get_lines())
        assert low <= 12.0 <= high


def test_wrong_names_of_what_is_drawn(result):
    for plot in (result.plot_corner, result.plot_trace):
        for wrong, message in (
            (["mas"], r"no quantity \['mas'\] in the result; there are mass, weight\[0\], weight\[1\]"),
            ([], r"no quantity \[\]"),
            ({"mass": 2.0}, "true values go to truths="),
        ):
            with pytest.raises(ValueError, match=message):
                plot(wrong)


def test_few_draws_have_no_diagnostics():
    result = Result.from_samples({"x": np.asarray(jax.random.normal(jax.random.key(0), (1, 3)))}, method="test")
    assert np.isnan(result.summary().loc["x", "r_hat"])


def test_fractions(tmp_path):
    draws = np.random.default_rng(2).dirichlet([2.0, 3.0], (4, 500))
    fractions = {"signal": draws.sum(-1) * 0.5, "signal/W": draws[..., 0] * 0.5, "signal/b": draws[..., 1] * 0.5}
    made = Result.from_samples({"fraction": np.ones((4, 500))}, method="test", fractions=fractions)
    again = Result.load(made.save(tmp_path / "r.nc"))
    assert list(again.fractions) == ["signal", "signal/W", "signal/b"]
    np.testing.assert_array_equal(again.fractions["signal/W"], fractions["signal/W"].ravel())
    table = again.summary("fractions")
    assert list(table.index) == ["signal", "signal/W", "signal/b"]
    assert table.loc["signal/W", "median"] == pytest.approx(np.median(fractions["signal/W"]))
    assert table.loc["signal/b", "ess_bulk"] > 1500
    assert Result.from_samples({"mass": np.ones((1, 5))}, method="test").fractions == {}


def nested_points(n=400):
    """Nested sampling of a line by hand: likelihood exp(-x^2 / 2 s^2) of a uniform prior on 0 to 1, one live point."""
    volume = np.arange(1, n + 1)[::-1] / n
    x = volume - 0.5 / n
    log_likelihood = -0.5 * (x / 0.1) ** 2
    return {
        "samples": {"x": x, "vector": np.stack([x, -x], axis=1)},
        "log_weight": log_likelihood + 700.0,  # any constant
        "log_likelihood": log_likelihood,
        "log_likelihood_birth": np.concatenate([[-np.inf], log_likelihood[:-1]]),
        "log_volume": np.log(volume),
    }


def test_weighted_runs_are_kept(tmp_path):
    points = nested_points()
    made = Result.from_samples(
        {"x": np.linspace(0.0, 0.1, 50)[None]},
        method="nested",
        weighted=points,
        smc_stats={"temperature": [0.1, 1.0], "ess": [80.0, 90.0], "acceptance": [0.5, 0.6]},
        log_evidence=(-12345.678901234567, 0.02),
        information=3.5,
        calls=10**10,
        events=1000,
        units={"x": "deg"},
        attributes={"nothing": None},
    )
    again = Result.load(made.save(tmp_path / "r.nc"))
    assert again.tree.identical(made.tree)
    assert again.log_evidence == (-12345.678901234567, 0.02) and again.information == 3.5 and again.calls == 10**10
    assert int(again.tree.attrs["events"]) == 1000 and "nothing" not in again.tree.attrs
    assert again.tree["weighted"].sizes == {"point": 400, "vector_dim_0": 2}
    stats = again.tree["weighted_stats"]
    assert np.exp(stats["log_weight"].to_numpy()).sum() == pytest.approx(1.0)
    np.testing.assert_array_equal(stats["log_likelihood_birth"], points["log_likelihood_birth"])
    assert again.tree["smc_stats"]["acceptance"].sizes == {"step": 2}
    np.testing.assert_array_equal(again.tree["weighted"]["vector"], points["samples"]["vector"])


def test_plain_runs_have_no_evidence(result):
    assert result.log_evidence is None and result.information is None and result.calls is None
    versions = json.loads(result.tree.attrs["versions"])
    assert {"gammajax", "jax", "numpyro", "blackjax", "optax"} <= set(versions)


def test_git_state():
    folder = Path(gj.__file__).parents[1]
    if not (folder / ".git").exists():
        pytest.skip("not a checkout")
    commit = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    state = Result.from_samples({"x": np.ones((1, 5))}, method="test").tree.attrs["git"]
    assert len(state) >= 7 and commit.startswith(state.removesuffix("+changes"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"log_evidence": (np.nan, 0.1)}, "must be a finite number"),
        ({"weighted": {"samples": {"x": np.ones(3)}, "log_weight": np.ones(2)}}, "must be of one length"),
        (
            {"weighted": {"samples": {"x": np.ones(2)}, "log_weight": np.full(2, -np.inf)}},
            "at least one of them",
        ),
    ],
)
def test_wrong_evidence_and_weights(wrong, message):
    with pytest.raises(ValueError, match=message):
        Result.from_samples({"x": np.ones((1, 5))}, method="test", **wrong)


def test_derive(result, tmp_path):
    made = result.derive(
        double=lambda p: 2.0 * p["mass"],
        pair=lambda p: jnp.stack([p["double"], p["weight"][0]]),
        units={"double": "TeV"},
    )
    assert "double" not in result.samples
    np.testing.assert_allclose(made.samples["double"], 2.0 * result.samples["mass"], rtol=1e-6)
    np.testing.assert_allclose(made.samples["pair"][:, 1], result.samples["weight"][:, 0], rtol=1e-6)
    assert made.units == {"mass": "TeV", "double": "TeV"}
    assert list(made.summary().index) == ["mass", "weight[0]", "weight[1]", "double", "pair[0]", "pair[1]"]
    assert len(made.plot_corner().axes) == 36
    assert Result.load(made.save(tmp_path / "r.nc")).tree.identical(made.tree)
    with pytest.raises(ValueError, match="'mass' is a quantity of the result already"):
        result.derive(mass=lambda p: p["mass"])
    with pytest.raises(ValueError, match="'log' is not finite"):
        result.derive(log=lambda p: jnp.log(p["weight"][0]))


def test_derive_of_truths_and_weighted_points():
    x = np.linspace(0.0, 1.0, 101)
    made = Result.from_samples(
        {"x": x[None]},
        method="nested",
        truths={"x": 0.5},
        weighted={"samples": {"x": x}, "log_weight": np.log(x + 1e-300)},
    ).derive(square=lambda p: p["x"] ** 2)
    assert made.truths["square"] == 0.25
    table = made.summary()
    # weights proportional to x: Sum k^2 / Sum k / 100 and Sum k^3 / Sum k / 100^2 over k to 100
    assert table.loc["x", "mean"] == pytest.approx(0.67)
    assert table.loc["square", "mean"] == pytest.approx(0.505)
    assert table.loc["square", "median"] == pytest.approx(0.5, abs=0.02)
    assert table.loc["x", "ess_bulk"] == pytest.approx(101 * 0.75, rel=0.02)
    assert made.upper_limit("x", 0.9) == pytest.approx(0.9**0.5, abs=0.011)


def test_chains_for_anesthetic(tmp_path):
    points = nested_points()
    x = points["samples"]["x"]
    made = Result.from_samples({"x": x[None, :9], "vector": np.zeros((1, 9, 2))}, method="nested", weighted=points)
    paths = made.save_chains(tmp_path / "run")
    assert [path.name for path in paths] == ["run_dead-birth.txt", "run.paramnames"]
    table = np.loadtxt(paths[0])
    np.testing.assert_array_equal(
        table, np.column_stack([x, x, -x, points["log_likelihood"], points["log_likelihood_birth"]])
    )
    assert [line.split()[0] for line in paths[1].read_text().splitlines()] == ["x", "vector[0]", "vector[1]"]
    with pytest.raises(ValueError, match="'test' has no points"):
        Result.from_samples({"x": np.ones((1, 5))}, method="test").save_chains(tmp_path / "none")


@pytest.mark.filterwarnings("ignore")  # anesthetic's warnings about pandas
def test_anesthetic_agrees(tmp_path):
    anesthetic = pytest.importorskip("anesthetic")
    points = nested_points()
    x = points["samples"]["x"]
    made = Result.from_samples({"x": x[None, :9], "vector": np.zeros((1, 9, 2))}, method="nested", weighted=points)
    made.save_chains(tmp_path / "run")
    samples = anesthetic.read_chains(str(tmp_path / "run"))
    # one live point leaves an error of one in ln X at each step: compare only the written numbers
    np.testing.assert_allclose(np.sort(samples["x"].to_numpy()), np.sort(x))
    assert np.all(samples.nlive == 1)


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    """HDF5 itself would write zeros, or crash."""
    rng = np.random.default_rng(0)
    result = Result.from_samples({"x": rng.normal(size=(2, 4000))}, method="nuts")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError):
            result.save(tmp_path / "posterior.nc")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
    again = Result.load(result.save(tmp_path / "posterior.nc"))
    assert (again.samples["x"] == result.samples["x"]).all()
