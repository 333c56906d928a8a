"""Residual maps: sums in circles, significances of gammapy, and files with the coordinates of the pixels."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from figures import faults

import gammajax as gj
from gammajax.products.residuals import within

OPTIONS = {"per_decade": 12.0, "progress": False}
HOT = 359.6, 0.5  # deg, of a source that the model does not have


def model(p):
    return gj.Mixture(sky=gj.InstrumentBackground(300.0 * p["norm"]))


@pytest.fixture(scope="module")
def fitted(make_observation):
    run = make_observation(
        exclusion=gj.io.exclusion.exclusion_map("galactic; circle(0.5, -0.4, 0.3)", 0.0, 0.0, "galactic", 1.5),
        offset_max=1.5,
    )
    hot = gj.Source(gj.PowerLaw(2.3, 8e-13), gj.Point(*HOT))
    events = gj.simulate(jax.random.key(0), gj.Mixture(hot=hot, **dict(model({"norm": 1.0}).components)), run)
    posterior = gj.Posterior(model, {"norm": dist.Uniform(0.1, 9.0)}, run, events, **OPTIONS)
    return run, events, posterior, gj.fit(posterior, progress=False)


@pytest.fixture(scope="module")
def maps(fitted):
    _, _, posterior, best = fitted
    return gj.residual_maps(posterior, best, step=0.05, radius=0.2, progress=False)


@pytest.mark.slow
def test_maps(maps, fitted):
    run, events, posterior, best = fitted
    assert maps.counts.sum() == len(events)
    # the norm is fitted: as many are expected as seen; from twenty times as many simulated, or 2e6
    assert maps.model.sum() == pytest.approx(len(events), rel=5.0 / np.sqrt(20 * len(events)))
    lon, lat, value = maps.peak
    assert np.hypot(lon - HOT[0], lat - HOT[1]) < 0.1 and value > 5.0
    assert np.nanstd(maps.sqrt_ts) > 0.8
    # the excluded circle has no events and none expected
    assert maps.excluded.sum() * maps.step**2 == pytest.approx(np.pi * 0.3**2, rel=0.1)
    assert maps.counts[maps.excluded].sum() <= 3 and not np.any(maps.seen & maps.excluded)
    assert maps.seen.sum() * maps.step**2 == pytest.approx(np.pi * (1.5**2 - 0.3**2), rel=0.03)
    assert "ResidualMaps of events" in str(maps)


def test_significances_are_those_of_gammapy(maps):
    """In one circle, counted by hand."""
    from gammapy.stats import CashCountsStatistic

    x, y = np.meshgrid(maps.along, maps.along)
    row, column = 30, 40
    inside = np.hypot(x - x[row, column], y - y[row, column]) <= 0.2 + 1e-9
    expected = CashCountsStatistic(maps.counts[inside].sum(), maps.model[inside].sum()).sqrt_ts
    assert maps.sqrt_ts[row, column] == pytest.approx(float(expected), abs=1e-3)
    known = np.isfinite(maps.sqrt_ts)
    # the statistics of the simulation are small
    np.testing.assert_allclose(maps.li_ma[known], maps.sqrt_ts[known], rtol=0.03, atol=0.02)
    assert np.all(np.abs(maps.li_ma[known]) <= np.abs(maps.sqrt_ts[known]) + 1e-6)


def test_sums_in_circles():
    counts = np.zeros((21, 21))
    counts[10, 10], counts[12, 10] = 3.0, 5.0
    summed = within(counts, 2.0)
    assert summed[10, 10] == 8.0 and summed[11, 11] == 8.0 and summed[14, 10] == 5.0 and summed[9, 9] == 3.0
    assert summed[12, 12] == 5.0 and summed[13, 12] == 0.0
    np.testing.assert_array_equal(within(counts, 0.3), counts)


def test_files_are_read_by_gammapy(maps, tmp_path):
    from astropy.coordinates import SkyCoord
    from gammapy.maps import Map

    path = maps.write(tmp_path / "residuals.fits")
    found = Map.read(path, hdu="SQRT_TS")
    lon, lat, value = maps.peak
    assert found.get_by_coord(SkyCoord(lon, lat, unit="deg", frame="galactic"))[0] == pytest.approx(value)
    assert Map.read(path, hdu="COUNTS").data.sum() == maps.counts.sum()
    # a pixel far from the middle
    y, x = 12, 50
    from gammajax.instrument.sky import deproject

    place = [float(side) for side in deproject(maps.along[x], maps.along[y], maps.lon, maps.lat)]
    model_map = Map.read(path, hdu="MODEL")
    assert model_map.get_by_coord(SkyCoord(*place, unit="deg", frame="galactic"))[0] == pytest.approx(maps.model[y, x])
    with pytest.raises(FileExistsError, match="exists; pass overwrite=True"):
        maps.write(path)
    maps.write(path, overwrite=True)


def test_figure(maps):
    figure = maps.plot()
    assert faults(figure) == []
    assert [axes.get_title() for axes in figure.axes[:3]] == ["counts", "model", "significance within 0.2°"]


def test_wrong_calls(fitted):
    _, _, posterior, best = fitted
    with pytest.raises(ValueError, match="radius must be a positive angle"):
        gj.residual_maps(posterior, best, radius=0.0)
    with pytest.raises(ValueError, match=r"data_set must be one of \['events'\], not 'other'"):
        gj.residual_maps(posterior, best, data_set="other")
    with pytest.raises(ValueError, match="best must be a gammajax.Fit or a gammajax.Result"):
        gj.residual_maps(posterior, {"norm": 1.0})
