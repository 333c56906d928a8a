"""Law: the integral of the intensity over the selection is N, and small shapes are points, at every size."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj
from gammajax.engines import FoldEngine, KernelEngine, Rows
from gammajax.engines.acceptance import Acceptance
from gammajax.engines.energy import EnergyNodes
from gammajax.instrument.sky import displace

SPECTRUM, LON, LAT = gj.PowerLaw(2.0, 1e-11), 0.5, 0.1
SHAPES = {
    "Gaussian": lambda s: gj.Gaussian(LON, LAT, s),
    "elongated": lambda s: gj.Gaussian(LON, LAT, s, e=0.95, phi=30.0),
    "GeneralizedGaussian": lambda s: gj.GeneralizedGaussian(LON, LAT, s, 1.0),
    "Disk": lambda s: gj.Disk(LON, LAT, s),
    "Ring": lambda s: gj.Ring(LON, LAT, s, 0.5 * s),
    "Shell": lambda s: gj.Shell(LON, LAT, s, 0.2 * s),
}
SMALL = [1e-5, 1e-4, 1e-3]


@pytest.fixture(scope="module")
def near(make_observation):
    """An observation, and a polar quadrature about the source: events and their weights [TeV sr]."""
    observation = make_observation(energy_min=1.0, energy_max=4.0)
    x, w = np.polynomial.legendre.leggauss(10)
    edges = 1.3 * np.array([0.0, 0.02, 0.06, 0.15, 0.3, 0.6, 1.0])
    rad = (0.5 * (edges[1:] + edges[:-1])[:, None] + 0.5 * np.diff(edges)[:, None] * x).ravel()
    ring = (0.5 * np.diff(edges)[:, None] * w).ravel() * rad * np.radians(1.0) ** 2
    angle = 0.1 + np.arange(12) * 2.0 * np.pi / 12
    y, v = np.polynomial.legendre.leggauss(8)
    energy = np.exp(0.5 * np.log(4.0) * (y + 1.0))
    r, a, e = (part.ravel() for part in np.meshgrid(rad, angle, energy, indexing="ij"))
    weight = np.einsum("r,a,e->rae", ring, np.full(12, 2.0 * np.pi / 12), 0.5 * np.log(4.0) * v * energy).ravel()
    lon, lat = displace(LON, LAT, jnp.asarray(r), jnp.asarray(np.degrees(a)))
    return observation, gj.Events(e, np.asarray(lon), np.asarray(lat)), weight


@pytest.fixture(scope="module")
def point(near):
    observation, events, weight = near
    source = gj.Source(SPECTRUM, gj.Point(LON, LAT))
    return np.asarray(gj.intensity(source, observation, events), float), float(gj.expected_counts(source, observation))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_free_sizes(name, near, point):
    """The engine of a free shape, at sizes of a prior from 1e-5 deg to more than the point spread function."""
    observation, events, weight = near
    source, total = point

    def model(p):
        return gj.Mixture(source=gj.Source(SPECTRUM, SHAPES[name](p["size"])), sky=gj.InstrumentBackground())

    prior = {"size": dist.LogUniform(1e-5, 0.2)}
    posterior = gj.Posterior(model, prior, observation, events, per_decade=20.0)
    order = np.argsort(np.lexsort((events.lat, events.lon, events.energy)))
    data = posterior.events
    rows = np.lexsort((data.lat, data.lon, data.energy))

    @jax.jit
    def both(size):
        engine, source = posterior.engines["source"], posterior.model({"size": size}).components["source"]
        return engine.intensity(source), engine.expected_counts(source).sum()

    for size in [*SMALL, 0.02, 0.15]:
        density, counts = both(jnp.asarray(size))
        density = np.asarray(density, float)[np.asarray(posterior.count) > 0][rows][order]
        # if the prior fills the field, pixels about the pointing resolve a cusp between them to 0.25 %
        assert density @ weight == pytest.approx(float(counts), rel=3e-3), size
        assert float(counts) == pytest.approx(total, rel=5e-3), size
        if size in SMALL:  # ln L of 1000 events of a point: a tenth is negligible
            share, other = source * weight / (source @ weight), density / (density @ weight)
            seen = share > 0
            apart = share[seen] @ np.log((source / (source @ weight))[seen] / np.maximum(other[seen], 1e-30))
            assert abs(apart) < 1e-4, size
    slopes = jax.jit(jax.jacfwd(lambda size: both(size)[1]))
    assert np.isfinite(slopes(jnp.asarray(1e-4)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_small_shapes_of_the_direct_engine_are_points(name, near, point):
    observation, events, _ = near
    some, known = events[::601], point[0][::601]
    for size in (1e-5, 1e-3):
        source = gj.Source(SPECTRUM, SHAPES[name](size))
        found = np.asarray(gj.intensity(source, observation, some, "direct", per_decade=20.0), float)
        seen = known > 1e-4 * known.max()
        np.testing.assert_allclose(found[seen], known[seen], rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["kernel", "fold"])
@pytest.mark.parametrize("size", [30.0, 60.0])
def test_the_largest(engine, size, near):
    """The brightness is uniform over the field: N is that of the isotropic sky, scaled by the brightness."""
    observation, _, _ = near
    shape = gj.Gaussian(0.0, 0.0, size)
    found = float(gj.expected_counts(gj.Source(SPECTRUM, shape), observation, engine, per_decade=10.0))
    even = float(gj.expected_counts(gj.Source(SPECTRUM, gj.Constant()), observation, per_decade=10.0))
    ratio = float(shape.brightness(jnp.asarray(0.0), jnp.asarray(0.0))) * 4.0 * np.pi
    assert found == pytest.approx(even * ratio, rel=5e-3)


SPECTRA = {
    "steep": gj.PowerLaw(4.0, 1e-11),
    "hard": gj.PowerLaw(0.5, 1e-11),
    "cut off": gj.ExponentialCutoffPowerLaw(1.0, 1.0, 1e-11),
    "line": gj.Line(1.5, 1e-11),
    "line between nodes": gj.Line(2.03, 1e-11),
    "line at an end": gj.Line(3.8, 1e-11),
    "dark matter": gj.DarkMatter("W", 2.5),
    "dark matter with a peak": gj.DarkMatter("gamma", 1.8),
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["Point", "Gaussian"])
def test_free_positions_with_other_spectra_than_at_the_start(shape, near):
    """Engines prepared with one spectrum agree for others with the kernel engine, which needs no spectrum."""
    observation, events, _ = near
    some = events[np.arange(0, len(events), 7)]
    start = gj.PowerLaw(2.5, 1e-11)
    morphology = gj.Point(LON, LAT) if shape == "Point" else gj.Gaussian(LON, LAT, 0.1)
    rows = Rows.init(some, (observation,), 30.0)
    fold, kernel = (e.init(gj.Source(start, morphology), (observation,), rows) for e in (FoldEngine, KernelEngine))
    both = jax.jit(lambda source: (fold.intensity(source), kernel.intensity(source)))
    for name, spectrum in SPECTRA.items():
        found, expected = (np.asarray(v, float)[rows.valid] for v in both(gj.Source(spectrum, morphology)))
        seen = expected > 1e-3 * expected.max()
        ratio = found[seen] / expected[seen] - 1.0
        assert np.sqrt(np.mean(ratio**2)) < 1e-2 and np.abs(ratio).max() < 3e-2, (name, np.abs(ratio).max())


# one of each way: exact position, smooth, stretched, with rims
MOVING = {
    "Point": lambda lon, lat, s: gj.Point(lon, lat),
    "elongated": lambda lon, lat, s: gj.Gaussian(lon, lat, 0.1, e=0.5 + s, phi=300.0 * s),
    "Disk": lambda lon, lat, s: gj.Disk(lon, lat, s, 0.03),
    "Shell": lambda lon, lat, s: gj.Shell(lon, lat, s, 0.05),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MOVING)
def test_gradients_in_position_and_size(name, make_observation):
    """Slopes of intensities and counts against finite differences, for a source that crosses the edge of the field."""
    observation = make_observation(energy_min=1.0, energy_max=4.0, offset_max=0.9)
    rng = np.random.default_rng(1)
    events = gj.Events(rng.uniform(1.1, 3.9, 24), rng.uniform(0.3, 0.7, 24), rng.uniform(-0.1, 0.3, 24))
    place = np.array([0.52, 0.13, 0.15])
    with jax.enable_x64(True):
        rows = Rows.init(events, (observation,), 6.0, dtype=np.float64)
        ends = [gj.Source(SPECTRUM, MOVING[name](*(place + np.array([0, 0, d])))) for d in (0.0, -0.05, 0.05)]
        engine = FoldEngine.init(ends[0], (observation,), rows, ends[1:])

        def function(x):
            source = gj.Source(SPECTRUM, MOVING[name](*x))
            mean = jnp.log(engine.intensity(source))[rows.valid].mean()
            both = jnp.stack([mean, jnp.log(engine.expected_counts(source)[0])])
            return both, both

        compiled = jax.jit(jax.jacfwd(function, has_aux=True))  # one program for slopes and values
        found, step = np.asarray(compiled(jnp.asarray(place))[0]), 1e-4
        ends = [[compiled(jnp.asarray(place + sign * step * d))[1] for d in np.eye(3)] for sign in (1, -1)]
    numeric = (np.asarray(ends[0]) - np.asarray(ends[1])).T / (2.0 * step)
    scale = np.abs(numeric).max(1, keepdims=True)
    assert np.all(np.abs(found - numeric) < 1e-2 * np.abs(numeric) + 1e-2 * scale), (found, numeric)


COUNTED = MOVING | {
    "Gaussian": lambda lon, lat, s: gj.Gaussian(lon, lat, s),
    "GeneralizedGaussian": lambda lon, lat, s: gj.GeneralizedGaussian(lon, lat, s, 0.5),
    "Ring": lambda lon, lat, s: gj.Ring(lon, lat, s, 0.1, 0.03),
}


@pytest.fixture(scope="module")
def acceptances(make_observation):
    """Nodes, and the acceptances of points and of all other shapes, which are one for all of them."""
    observation = make_observation(energy_min=1.0, energy_max=4.0, offset_max=0.9)
    with jax.enable_x64(True):
        nodes = EnergyNodes(0.3, 10.0, 6.0)
        return nodes, *(Acceptance.init(COUNTED[name](0.5, 0.1, 0.1), observation, nodes) for name in ("Point", "Disk"))


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTED)
def test_gradients_of_counts_at_all_sizes(name, acceptances):
    nodes, point, extended = acceptances
    with jax.enable_x64(True):
        acceptance = point if name == "Point" else extended

        def log_counts(x):
            return jnp.log(acceptance(COUNTED[name](*x), nodes).sum())

        value, gradient = jax.jit(log_counts), jax.jit(jax.grad(log_counts))  # most are values, which take less
        for size in (1e-5, 1e-3, 0.05, 0.15, 0.7):
            if name == "elongated" and size > 0.45:  # its eccentricity
                continue
            place, steps = np.array([0.52, 0.13, size]), np.diag([1e-3, 1e-3, 1e-5 * min(1.0, 100.0 * size)])
            slope = gradient(jnp.asarray(place))
            ends = [[value(jnp.asarray(place + sign * d)) for d in steps] for sign in (1, -1)]
            numeric = (np.asarray(ends[0]) - np.asarray(ends[1])) / (2.0 * np.diag(steps))
            within = 5e-3  # the tables of the response are in single precision
            assert np.all(np.abs(slope - numeric) < within * np.abs(numeric).max()), (size, slope, numeric)


@pytest.mark.parametrize("shape", ["Point", "Gaussian"])
@pytest.mark.parametrize("lon", [-1.3, 0.0, 0.71])
def test_positions_between_those_of_the_prior(shape, lon, make_observation):
    """A free source is the fixed one anywhere between few values of a wide prior, near the pointing as well."""
    observation = make_observation(energy_min=1.0, energy_max=2.0, offset_max=2.5)

    def source(lon, lat):
        return gj.Source(SPECTRUM, gj.Point(lon, lat) if shape == "Point" else gj.Gaussian(lon, lat, 0.1))

    x, y = (part.ravel() for part in np.meshgrid(lon + np.linspace(-0.3, 0.3, 7), np.linspace(-0.3, 0.3, 7)))
    some = gj.Events(np.full(x.size, 1.4), x, y)
    rows = Rows.init(some, (observation,), 30.0)
    corners = [source(2.0 * i, 2.0 * j) for i in (-1, 1) for j in (-1, 1)]
    free, fixed = (
        FoldEngine.init(first, (observation,), rows, others)(source(lon, 0.0))
        for first, others in ((corners[0], corners[1:]), (source(lon, 0.0), []))
    )
    expected = np.asarray(fixed.intensity)
    np.testing.assert_allclose(free.intensity, expected, rtol=0.01, atol=1e-4 * expected.max())
    assert float(free.counts.sum()) == pytest.approx(float(fixed.counts.sum()), rel=1e-3)
