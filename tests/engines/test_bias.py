"""Intensities and expected counts agree so well that fractions of 1e8 events have no bias.

A fraction w of a small component, known to an error s, is off by n s |M - 1| errors at n events, if its intensities
add up to M times its counts: at 1e8 events with s = 1e-4, a tenth of an error for M - 1 = 1e-5. The response is as
rough as tables from simulations are.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import gammajax as gj
from benchmarks.fold import by_event
from gammajax.engines import ENGINES, BackgroundEngine, FoldEngine, Rows
from gammajax.instrument.response import Background, EnergyDispersion
from gammajax.instrument.sky import DEGREE
from gammajax.instrument.table import Axis, Table

ENERGIES, OFFSET, PER_DECADE = (0.8, 5.0), 1.0, 20.0
POINT, EXTENDED = gj.Point(0.23, 0.11), {"lon": 0.2, "lat": 0.1, "sigma": 0.15}
SHAPES = {
    "point": POINT,
    "gaussian": gj.Gaussian(**EXTENDED),
    "elongated": gj.Gaussian(**EXTENDED, e=0.8, phi=30.0),
    "halo": gj.Einasto(),
}
# two offsets stand for all true directions: intensities have kinks, which few points of a cell do not average
TOLERANCE = {("halo", "fold"): 1e-4}
CASES = [(shape, engine) for shape in SHAPES for engine in ("kernel", "fold")]


@pytest.fixture(scope="module")
def rough(make_observation):
    """Observation with bins of dispersion and background that scatter as those of simulations do."""
    observation = make_observation(energy_min=ENERGIES[0], energy_max=ENERGIES[1], offset_max=OFFSET)
    random = np.random.default_rng(0)
    profile = observation.response.energy_dispersion.profile
    # of all energies alike: such structure does not average out
    scatter = np.exp(random.normal(0.0, 0.3, profile.axes[2].nodes.size))
    true, away, migra = profile.axes
    dispersion = EnergyDispersion(true, away, migra, np.asarray(profile.values) * scatter)
    table = observation.response.background.log_rate
    energy, offset = table.axes[0], np.linspace(0.0, 5.0, 26)
    coarse = np.asarray(table.values)[:, :1] - 0.15 * offset**2
    rate = coarse + random.normal(0.0, 0.3, (len(coarse), 1)) + random.normal(0.0, 0.01, coarse.shape)
    background = Background(Table((energy, Axis(offset)), jnp.asarray(rate)))
    return eqx.tree_at(
        lambda o: (o.response.energy_dispersion, o.response.background), observation, (dispersion, background)
    )


def all_cells(observation, pixel, per_decade):
    """Rows of all cells of an observation, and their volumes [TeV sr]."""
    binning = gj.Binning.init(observation, 12.0, pixel)
    offset_max = float(observation.offset_max)
    within = np.asarray(binning._table(0).within)
    volume = []
    for low, high, rings in zip(binning.edges[:-1], binning.edges[1:], binning.rings[0], strict=True):
        caps = -np.diff(np.cos(DEGREE * np.linspace(0.0, offset_max, rings + 1)))
        in_ring = np.diff(within[: rings + 1])
        volume.append(np.repeat((high - low) * 2.0 * np.pi * caps / in_ring, in_ring))
    volume = np.concatenate(volume)
    cells = gj.Cells(binning, np.zeros(volume.size, int), np.arange(volume.size), np.ones(volume.size, int))
    return Rows.init(cells, [observation], per_decade, bands=200), volume


@pytest.fixture(scope="module")
def everywhere(rough):
    """All cells of an observation with a rough response."""
    return all_cells(rough, 0.1, PER_DECADE)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "engine"), CASES)
def test_cells_of_a_source_add_up_to_its_counts(rough, everywhere, engine, shape):
    rows, volume = everywhere
    source = gj.Source(gj.PowerLaw(2.5, 1e-11), SHAPES[shape])
    built = ENGINES[engine].init(source, [rough], rows)
    total = by_event(rows, built.intensity(source)).astype(float) @ volume
    assert total == pytest.approx(float(built.expected_counts(source).sum()), rel=TOLERANCE.get((shape, engine), 2e-5))


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["gaussian", "elongated", "halo"])
def test_cells_add_up_with_the_response_of_ctao(shape):
    """Area and point spread functions change between the nodes of offset, most of all near the edge of the field."""
    observation = gj.io.ctao("South", pointing=(0.0, 1.0), livetime=3600.0, energy_range=(0.2, 1.0), offset_max=3.0)
    rows, volume = all_cells(observation, 0.3, 40.0)
    place = {"lon": 0.3, "lat": 3.0, "sigma": 0.4}
    shapes = {
        "gaussian": gj.Gaussian(**place),
        "elongated": gj.Gaussian(**place, e=0.8, phi=40.0),
        "halo": gj.Einasto(),
    }
    source = gj.Source(gj.PowerLaw(2.5, 1e-11), shapes[shape])
    built = FoldEngine.init(source, [observation], rows)
    total = by_event(rows, built.intensity(source)).astype(float) @ volume
    assert total == pytest.approx(float(built.expected_counts(source).sum()), rel=4e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "engine"), [case for case in CASES if case[0] in ("point", "halo")])
def test_events_and_cells_of_a_source_add_up_alike(rough, engine, shape):
    """Over reconstructed energies, in one direction."""
    source = gj.Source(gj.PowerLaw(2.5, 1e-11), SHAPES[shape])
    binning = gj.Binning.init(rough, 12.0, 0.002)
    middle = np.sqrt(binning.edges[1:] * binning.edges[:-1])
    start = np.full(middle.size, 0.3)
    cells = binning(gj.Events(middle, start, start))
    # all intervals have cells of equal size there; events lie in the middle of one
    points = cells.points()
    lon, lat = float(points.lon[0].mean()), float(points.lat[0].mean())
    cells = binning(gj.Events(middle, np.full(middle.size, lon), np.full(middle.size, lat)))
    edges = np.geomspace(*ENERGIES, 3001)
    energy = 0.5 * (edges[1:] + edges[:-1])
    totals = []
    for data, width in (
        (gj.Events(energy, np.full(energy.size, lon), np.full(energy.size, lat)), np.diff(edges)),
        (cells, np.diff(binning.edges)),
    ):
        rows = Rows.init(data, [rough], PER_DECADE, bands=200)
        built = ENGINES[engine].init(source, [rough], rows)
        totals.append(by_event(rows, built.intensity(source)).astype(float) @ width)
    assert totals[0] == pytest.approx(totals[1], rel=2e-5)


def test_backgrounds_add_up_to_the_integral_of_their_table(rough, everywhere):
    rows, volume = everywhere
    background = gj.InstrumentBackground()
    built = BackgroundEngine.init(background, [rough], rows)
    # by quadrature between the nodes of the table: it is linear in ln E' and offset
    table = rough.response.background.log_rate
    log_energy, offset = (np.asarray(axis.nodes, float) for axis in table.axes)
    x, weight = np.polynomial.legendre.leggauss(8)

    def panels(nodes, low, high):
        edges = np.concatenate([[low], nodes[(nodes > low) & (nodes < high)], [high]])
        half, middle = 0.5 * np.diff(edges)[:, None], 0.5 * (edges[1:] + edges[:-1])[:, None]
        return (middle + half * x).ravel(), (half * weight).ravel()

    e, width = panels(log_energy, *np.log(ENERGIES))
    o, ring = panels(offset, 0.0, OFFSET)
    values = np.array([np.interp(e, log_energy, column) for column in np.asarray(table.values, float).T]).T
    rate = np.exp(np.array([np.interp(o, offset, row) for row in values]))
    exact = float(rough.livetime) * (np.exp(e) * width) @ rate @ (2.0 * np.pi * DEGREE * np.sin(DEGREE * o) * ring)
    assert float(built.expected_counts(background).sum()) == pytest.approx(exact, rel=1e-5)
    assert by_event(rows, built.intensity(background)).astype(float) @ volume == pytest.approx(exact, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["kernel", "fold"])
@pytest.mark.parametrize("channel", ["W", "gamma"])
def test_noise_beyond_an_endpoint_adds_up_to_nothing(rough, everywhere, channel, engine):
    rows, volume = everywhere
    source = gj.Source(gj.DarkMatter(channel, mass=2.0), POINT)
    built = ENGINES[engine].init(source, [rough], rows)
    values = by_event(rows, built.intensity(source)).astype(float)
    assert values @ volume == pytest.approx(float(built.expected_counts(source).sum()), rel=1e-5)
    assert np.maximum(values, 0.0) @ volume > (1.0 + 1e-6) * values @ volume  # there is some
