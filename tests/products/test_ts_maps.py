"""Maps of one more source: against the fold engine, fits of a posterior, closed forms and gammapy's files."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from figures import faults
from scipy.optimize import minimize_scalar, root_scalar

import gammajax as gj
from gammajax.engines.movable import MovableSource
from gammajax.instrument.observation import Exclusion
from gammajax.instrument.sky import Grid
from gammajax.products.ts_maps import search

OPTIONS = {"per_decade": 12.0, "progress": False}
PRIORS = {"norm": dist.Uniform(0.2, 5.0)}
PLACE = 0.2, -0.1
SPECTRUM = gj.PowerLaw(2.0, 1e-12)


def sky(norm):
    return gj.InstrumentBackground(400.0 * norm)


@pytest.fixture(scope="module")
def runs(make_observation):
    return [make_observation(lat=0.3 * i, livetime=1500.0, offset_max=1.0, obs_id=f"run {i}") for i in range(2)]


@pytest.fixture(scope="module")
def events(runs):
    source = gj.Source(gj.PowerLaw(2.3, 1.5e-11), gj.Point(*PLACE))
    return gj.simulate(jax.random.key(3), gj.Mixture(source=source, sky=sky(1.0)), runs)


@pytest.fixture(scope="module")
def posterior(runs, events):
    return gj.Posterior(lambda p: gj.Mixture(sky=sky(p["norm"])), PRIORS, runs, events, **OPTIONS)


@pytest.fixture(scope="module")
def found(posterior):
    return gj.ts_map(
        posterior, center=PLACE, width=(1.0, 0.8), step=0.05, spectrum=SPECTRUM, best={"norm": 1.0}, progress=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [None, 0.1])
def test_intensities_and_counts_are_those_of_the_fold_engine(runs, events, sigma):
    lon, lat = np.random.default_rng(1).uniform(-0.6, 0.6, (2, 4))
    shape: Any = gj.Point if sigma is None else lambda *place: gj.Gaussian(*place, sigma)
    table = MovableSource.init(gj.Source(SPECTRUM, shape(0.0, 0.0)), runs, lon, lat)
    columns: Any = (table.vectors(events.lon, events.lat), table.energies(events.energy), events.energy)
    columns = (*map(jnp.asarray, columns), jnp.asarray(events.observation), jnp.asarray(table.vectors(lon, lat)))
    mine = np.asarray(eqx.filter_jit(table)(*columns))
    off, counts = [], table.counts(lon, lat)
    for i, place in enumerate(zip(lon, lat, strict=True)):
        source = gj.Source(SPECTRUM, shape(*place))
        theirs = np.asarray(gj.intensity(source, runs, events, engine="fold"))
        some = theirs > 1e-3 * theirs.max()
        off.append(mine[some, i] / theirs[some] - 1.0)
        np.testing.assert_allclose(mine[~some, i], theirs[~some], atol=1e-4 * theirs.max())
        assert mine[:, i].sum() == pytest.approx(theirs.sum(), rel=0.005)
        expected = float(gj.expected_counts(source, runs, engine="fold"))
        assert counts[i] == pytest.approx(expected, rel=1e-3)
    # moments of a Gaussian are those of the nearest node: 0.7 % here, 0.4 % for H.E.S.S.
    assert np.median(np.abs(np.concatenate(off))) < (0.005 if sigma is None else 0.01)


def test_search_is_the_maximum_of_the_formula():
    ratio = np.random.default_rng(2).exponential(1.0, (200, 5)) ** 3
    ratio[:, 4] = 0.0
    ratio[3, 3] = 500.0  # a lower end near zero
    counts = np.array([150.0, 400.0, 5000.0, 900.0, 10.0])
    norm, error, limit, ts = (np.asarray(part, float) for part in search(jnp.asarray(ratio), jnp.asarray(counts), 2.0))
    for i in range(4):

        def q(value, i=i):
            return 2.0 * (np.log1p(value * ratio[:, i]).sum() - value * counts[i])

        best: Any = minimize_scalar(
            lambda value: -q(value), bounds=(0.0, 20.0), method="bounded", options={"xatol": 1e-9}
        )
        assert norm[i] == pytest.approx(best.x, abs=2e-3 * error[i])
        assert ts[i] == pytest.approx(-best.fun, rel=1e-3, abs=2e-3)
        curvature = ((ratio[:, i] / (1.0 + best.x * ratio[:, i])) ** 2).sum()
        assert error[i] == pytest.approx(curvature**-0.5, rel=2e-3)
        end = root_scalar(lambda value, best=best: q(value) + best.fun + 4.0, bracket=(best.x, best.x + 50 * error[i]))
        assert limit[i] - norm[i] == pytest.approx(end.root - best.x, rel=2e-3)
    # without events: q falls by 4 at two expected counts
    assert norm[4] == 0.0 and np.isnan(error[4]) and limit[4] == pytest.approx(0.2) and ts[4] == 0.0
    assert norm[2] == 0.0 and ts[2] == 0.0  # fewer events than the source would have


@pytest.mark.slow
def test_pixels_are_fits_of_the_posterior(found, runs, events):
    for y, x in ((8, 10), (3, 15)):
        place = float(found.lon[y, x]), float(found.lat[y, x])

        def model(p, place=place):
            return gj.Mixture(source=gj.Source(gj.PowerLaw(2.0, 1e-12 * p["a"]), gj.Point(*place)), sky=sky(1.0))

        alone = gj.Posterior(model, {"a": dist.Uniform(-1.0, 100.0)}, runs, events, **OPTIONS)
        best = gj.fit(alone, initial={"a": max(found.flux[y, x] / found.flux_ref, 0.1)}, progress=False)
        norm, error = found.flux[y, x] / found.flux_ref, found.flux_err[y, x] / found.flux_ref
        if norm > 0:
            assert norm == pytest.approx(float(best.parameters["a"]), abs=0.03 * error)
            assert error == pytest.approx(float(best.standard_deviations["a"]), rel=0.02)
        zero = alone.log_likelihood_ratio({"a": jnp.asarray(0.0)})
        ts = 2.0 * (alone.log_likelihood_ratio({"a": jnp.asarray(norm)}) - zero)
        assert found.ts[y, x] == pytest.approx(float(ts), rel=0.01, abs=0.02)


@pytest.mark.slow
def test_without_a_source_half_of_the_pixels_have_none(runs):
    """TS is zero for one half, and a chi-square of one degree of freedom for the other."""
    events = gj.simulate(jax.random.key(5), gj.Mixture(sky=sky(1.0)), runs)
    alone = gj.Posterior(lambda p: gj.Mixture(sky=sky(p["norm"])), PRIORS, runs, events, **OPTIONS)
    empty = gj.ts_map(alone, width=1.2, step=0.1, spectrum=SPECTRUM, best={"norm": 1.0}, progress=False)
    assert 0.2 < np.mean(empty.ts == 0.0) < 0.8  # neighbours are correlated: some twenty are independent
    assert 0.1 < empty.ts.mean() < 1.2 and empty.sqrt_ts.max() < 4.0


def test_the_source_is_found(found):
    peaks = found.peaks()
    assert list(peaks.columns) == ["lon", "lat", "sqrt_ts", "flux", "flux_err", "flux_ul", "npred"]
    assert np.hypot(peaks.lon[0] - PLACE[0], peaks.lat[0] - PLACE[1]) < 0.06
    assert peaks.sqrt_ts[0] > 8.0 and np.all(found.flux_ul > found.flux)
    assert len(found.peaks(threshold=1000.0)) == 0
    assert "TSMap of a point: 20 x 16 pixels" in repr(found)


@pytest.mark.slow
def test_a_gaussian_and_the_sky_outside(posterior):
    wide = gj.ts_map(posterior, width=3.0, step=0.25, sigma=0.05, best={"norm": 1.0}, progress=False)
    assert np.isnan(wide.ts[0, 0]) and np.isfinite(wide.ts[6, 6])
    assert wide.center == pytest.approx((0.0, 0.15), abs=1e-6)
    assert faults(wide.plot().figure) == []


def test_files_and_figures(found, tmp_path):
    from gammapy.maps import Map as GammapyMap

    Map: Any = GammapyMap

    path = found.write(tmp_path / "ts.fits")
    theirs = Map.read(path, hdu="FLUX")
    np.testing.assert_allclose(theirs.data, found.flux, rtol=1e-6)
    coordinates = theirs.geom.get_coord().skycoord
    lon = (coordinates.data.lon.deg + 180.0) % 360.0 - 180.0
    np.testing.assert_allclose(lon, found.lon, atol=1e-8)
    np.testing.assert_allclose(coordinates.data.lat.deg, found.lat, atol=1e-8)
    assert theirs.unit == "cm-2 s-1" and set(found.to_gammapy()) >= {"sqrt_ts", "ts", "flux_ul"}
    with pytest.raises(FileExistsError):
        found.write(path)
    assert faults(found.plot(peaks=found.peaks()).figure) == []


def test_what_cannot_be_done_is_refused_in_one_line(posterior, runs, events):
    def weighted(p):
        source = gj.Source(SPECTRUM, gj.Point(*PLACE))
        return gj.Mixture(source=source, sky=sky(1.0), weights={"source": p["norm"]})

    def model(p):
        return gj.Mixture(sky=sky(p["norm"]))

    fractions = gj.Posterior(weighted, {"norm": dist.Uniform(0.0, 1.0)}, runs, events, **OPTIONS)
    cells = gj.Posterior(model, PRIORS, runs, events.compress(runs, 10.0, 0.2), **OPTIONS)
    sets = [gj.Unbinned(run, events[events.observation == 0], name=run.obs_id, per_decade=12.0) for run in runs[:1]]
    sets.append(gj.Unbinned(runs[0], events[events.observation == 0], name="again", per_decade=12.0))
    two = gj.Posterior(model, PRIORS, sets, progress=False)
    calls = {
        "needs absolute fluxes": {"posterior": fractions},
        "this posterior has cells": {"posterior": cells},
        "single data set": {"posterior": two},
        "center must be": {"center": (0.0, 100.0)},
        "step must be": {"step": 0.0},
        "width must be": {"width": 50.0},
        "use a larger step": {"width": 10.0, "step": 1e-4},
        "no pixel": {"center": (50.0, 0.0)},
        "sigma must be": {"sigma": -0.1},
        "n_sigma_ul must be": {"n_sigma_ul": 0.0},
        "spectrum must be": {"spectrum": 2.0},
    }
    usual = {"posterior": posterior, "width": 1.0, "step": 0.1, "best": {"norm": 1.0}, "progress": False}
    for message, changed in calls.items():
        arguments = {**usual, **changed}
        with pytest.raises(ValueError, match=message) as caught:
            gj.ts_map(arguments.pop("posterior"), **arguments)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_excluded_sky_leaves_the_expected_counts(runs, events):
    """Those of the kernel engine, which leaves it out in its own way; nothing is known in its middle."""
    grid = Grid(PLACE[0] - 0.3, PLACE[1], 0.02, 0.25)
    hole = Exclusion(grid, jnp.ones((grid.size, grid.size), bool))
    holed = [eqx.tree_at(lambda o: o.exclusion, run, hole, is_leaf=lambda x: x is None) for run in runs]
    kept = events[~np.asarray(hole(jnp.asarray(events.lon), jnp.asarray(events.lat)))]
    assert 10 < len(kept) < len(events)
    posterior = gj.Posterior(lambda p: gj.Mixture(sky=sky(p["norm"])), PRIORS, holed, kept, **OPTIONS)
    found = gj.ts_map(
        posterior, center=PLACE, width=1.0, step=0.1, spectrum=SPECTRUM, best={"norm": 1.0}, progress=False
    )
    away = np.hypot(found.lon - grid.lon, found.lat - grid.lat)
    assert np.isnan(found.ts[away < 0.02]).all() and np.isfinite(found.ts[away > 0.4]).all()
    source_there = np.hypot(found.lon - PLACE[0], found.lat - PLACE[1]) < 0.1
    assert found.sqrt_ts[source_there].max() > 8.0
    edge = np.unravel_index(np.argmin(np.abs(away - 0.28) + np.isnan(found.ts)), away.shape)
    source = gj.Source(SPECTRUM, gj.Point(float(found.lon[edge]), float(found.lat[edge])))
    with_hole, whole = (float(gj.expected_counts(source, some, per_decade=40.0)) for some in (holed, runs))
    assert with_hole < 0.9 * whole
    assert found.counts_ref[edge] == pytest.approx(with_hole, abs=0.01 * whole)
