import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gammajax as gj
from benchmarks.fold import by_event
from gammajax.engines import ENGINES, BackgroundEngine, FixedEngine, Rows
from gammajax.instrument.sky import Grid, deproject, displace, separation
from gammajax.samplers.particles import _inner

PER_DECADE = 15.0
EXACT = [name for name in ENGINES if name != "dense"]  # test_dense.py has the tables
SPECTRUM = gj.PowerLaw(2.3, 1e-11)


def narrowing_cube():
    """A Gaussian with a width that falls with energy; pixels of 0.05 deg are smaller than the point spread function."""
    grid = Grid(0.3, 0.2, 0.05, 1.2)
    x, y = np.meshgrid(grid.coordinates, grid.coordinates)
    sigma = np.array([0.35, 0.3, 0.22, 0.18])[:, None, None]
    return gj.TemplateCube(grid, [0.3, 0.9, 2.7, 8.1], np.exp(-0.5 * (x**2 + y**2) / sigma**2))


def template():
    """A Gaussian off the centre of 0.2 deg pixels, which are wider than the point spread function."""
    grid = Grid(0.3, 0.2, 0.2, 0.5)
    x, y = np.meshgrid(grid.coordinates, grid.coordinates)
    return gj.TemplateMap(grid, np.exp(-0.5 * (x**2 + (y - 0.1) ** 2) / 0.2**2))


# (morphology, size [deg], tolerance of kernel against direct)
SOURCES = {
    "point": (gj.Point(0.3, 0.2), 0.15, 1e-3),
    "point off axis": (gj.Point(-1.1, 1.2), 0.15, 1e-3),
    "Gaussian": (gj.Gaussian(-0.7, 0.2, 0.3), 0.4, 1e-2),
    "disk": (gj.Disk(0.3, 0.2, 0.5, 0.1), 0.4, 1e-2),
    "elongated Gaussian": (gj.Gaussian(0.3, 0.2, 0.3, e=0.9, phi=40.0), 0.3, 1e-2),
    "exponential": (gj.GeneralizedGaussian(0.3, 0.2, 0.15, 0.9), 0.4, 1e-2),
    "elongated disk": (gj.Disk(0.3, 0.2, 0.5, 0.1, e=0.8, phi=40.0), 0.4, 1e-2),
    # in its middle photons come from all around, with other point spread functions on every side
    "ring": (gj.Ring(0.3, 0.2, 0.4, 0.2, 0.1), 0.4, 2e-2),
    "shell": (gj.Shell(0.3, 0.2, 0.4, 0.2), 0.4, 1e-2),
    "narrow Gaussian": (gj.Gaussian(0.3, 0.2, 0.01), 0.15, 1e-2),
    "template": (template(), 0.4, 1e-2),
    "constant": (gj.Constant(), 0.5, 1e-2),
    "halo": (gj.Einasto(0.3, 0.2), 0.5, 1e-2),
    "cube": (narrowing_cube(), 0.3, 1e-2),
}


NAMES = pytest.mark.parametrize("name", SOURCES)


def source(name):
    return gj.Source(SPECTRUM, SOURCES[name][0])


def events(name):
    """Forty events about the source, at two energies: the blocks of the engines are padded by energy."""
    random = np.random.default_rng(0)
    morphology, size, _ = SOURCES[name]
    rad, angle = size * np.sqrt(-2.0 * np.log(random.uniform(0.01, 1.0, 40))), random.uniform(0.0, 360.0, 40)
    lon, lat = (np.asarray(c, float) for c in displace(float(morphology.lon), float(morphology.lat), rad, angle))
    inside = np.hypot(lon, lat) < 1.99
    return gj.Events(np.resize([1.1, 2.5], 40)[inside], lon[inside], lat[inside])


@pytest.fixture(scope="module")
def observation(make_observation):
    """A narrow range of energies has few nodes: small and fast."""
    return make_observation(energy_min=1.0, energy_max=3.0)


@pytest.fixture(scope="module")
def built(observation):
    """`built(name, engine, bands)`: engine of a source, made once."""
    made = {}

    def build(name, engine, bands=None):
        key = name, engine, bands
        if key not in made:
            rows = Rows.init(events(name), [observation], PER_DECADE, bands)
            made[key] = rows, ENGINES[engine].init(source(name), [observation], rows)
        return made[key]

    return build


@eqx.filter_jit
def evaluate(engine, source):
    return engine.intensity(source), engine.expected_counts(source)


@pytest.fixture(scope="module")
def values(built):
    """`values(name, engine, bands)`: intensity of the events and expected counts."""
    made = {}

    def value(name, engine, bands=None):
        key = name, engine, bands
        if key not in made:
            rows, ready = built(*key)
            intensity, counts = evaluate(ready, source(name))
            made[key] = by_event(rows, intensity), float(counts[0])
        return made[key]

    return value


class Marked(gj.PowerLaw):
    """A power law whose integrals are recognised in programs."""

    def integral(self, edges):
        return marked(super().integral(edges))


@jax.jit
def marked(values):
    return 1.0 * values


def number_of_marks(program):
    inner = [number_of_marks(part) for step in program.eqns for part in _inner(step.params.values())]
    return sum(inner) + sum(step.params.get("name") == "marked" for step in program.eqns)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_intensity_and_counts_come_from_one_flux(engine, observation):
    name = "point"
    component = gj.Source(Marked(SPECTRUM.index, SPECTRUM.amplitude), SOURCES[name][0])
    rows = Rows.init(events(name), [observation], PER_DECADE)
    ready = ENGINES[engine].init(component, [observation], rows)
    assert number_of_marks(jax.make_jaxpr(lambda s: ready(s))(component).jaxpr) == 1
    expected = jax.jit(lambda s: ready(s))(component)
    assert expected.counts.shape[0] == 1 and expected.counts.ndim == 2
    np.testing.assert_allclose(ready.intensity(component), expected.intensity, rtol=1e-5)
    np.testing.assert_allclose(ready.expected_counts(component), expected.counts.sum(-1), rtol=1e-5)
    # numbers alone, for a component that never changes
    fixed = FixedEngine(expected.intensity, expected.counts, ready.expected_counts)
    assert number_of_marks(jax.make_jaxpr(lambda s: fixed(s))(component).jaxpr) == 0


@pytest.mark.slow
@NAMES
def test_kernel_agrees_with_direct(name, values):
    kernel, direct = values(name, "kernel")[0], values(name, "direct")[0]
    seen = direct > 1e-4 * direct.max()
    assert seen.sum() > 20
    np.testing.assert_allclose(kernel[seen], direct[seen], rtol=SOURCES[name][2])
    assert np.median(np.abs(kernel[seen] / direct[seen] - 1.0)) < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SOURCES if name != "cube"])
def test_fold_agrees_with_direct(name, values):
    # a round source has no bands, which leave out a little of few nodes per decade
    (fold, counts), (direct, expected) = values(name, "fold", 64), values(name, "direct", 64)
    top = direct.max()
    seen = direct > 1e-4 * top
    # transforms in single precision carry noise of a few 1e-6 of the maximum
    np.testing.assert_allclose(fold[seen], direct[seen], rtol=max(1e-2, SOURCES[name][2]), atol=5e-6 * top)
    assert np.median(np.abs(fold[seen] / direct[seen] - 1.0)) < 2e-3
    assert counts == pytest.approx(expected, rel=3e-3)


@pytest.mark.slow
def test_fields_far_apart_do_not_share_a_grid(make_observation):
    """A wide source is resolved in every field, however far they are from each other."""
    runs = [make_observation(lon, lat, energy_min=1.0, energy_max=3.0) for lon, lat in ((0.0, 0.0), (25.0, -8.0))]
    made = gj.Events(
        [1.1] * 6, [0.2, 0.0, 1.2, 25.3, 24.2, 25.1], [0.1, -0.4, 0.8, -8.1, -8.9, -7.0], [0] * 3 + [1] * 3
    )
    halo = gj.Source(SPECTRUM, gj.Einasto(25.0, -8.0))
    rows = Rows.init(made, runs, 64.0)
    fold, direct = (evaluate(ENGINES[engine].init(halo, runs, rows), halo) for engine in ("fold", "direct"))
    np.testing.assert_allclose(by_event(rows, fold[0]), by_event(rows, direct[0]), rtol=1e-2)
    np.testing.assert_allclose(fold[1], direct[1], rtol=3e-3)


@pytest.mark.slow
def test_template_is_the_sum_of_its_pixels(observation):
    morphology = SOURCES["template"][0]
    grid = morphology.grid
    made = gj.Events([1.1, 2.5, 2.5, 1.1], [0.3, 0.43, 0.71, -0.2], [0.2, 0.31, 0.2, -0.1])
    value = gj.intensity(gj.Source(SPECTRUM, morphology), observation, made, per_decade=PER_DECADE)
    # every pixel by 8^2 points
    inner = (np.arange(grid.size * 8) + 0.5) / 8 - 0.5 * grid.size
    lon, lat = deproject(*map(jnp.asarray, np.meshgrid(inner * grid.step, inner * grid.step)), grid.lon, grid.lat)
    weight = np.repeat(np.repeat(np.asarray(morphology.values), 8, 0), 8, 1) * grid.solid_angle / 8**2
    energy = jnp.geomspace(0.4, 10.0, 120)
    width = SPECTRUM.amplitude * energy**-1.3 * np.log(energy[1] / energy[0])

    @eqx.filter_jit
    def total(observation, e, x, y):
        response = observation.response

        def row(at):
            shape = (energy.size, at[0].size)
            offset = jnp.broadcast_to(observation.offset(at[0], at[1]), shape)
            rad = jnp.broadcast_to(separation(x, y, at[0], at[1]), shape)
            true = jnp.broadcast_to(energy[:, None], shape)
            kernel = response.area(true, offset) * response.psf.density(true, offset, rad)
            return width @ (kernel * response.energy_dispersion.density(e, true, offset)) @ at[2]

        return 36000.0 * jax.lax.map(row, (lon, lat, jnp.asarray(weight))).sum()

    expected = [
        float(total(observation, *map(jnp.asarray, at))) for at in zip(made.energy, made.lon, made.lat, strict=True)
    ]
    np.testing.assert_allclose(value, expected, rtol=1e-2)


def test_the_direct_engine_evaluates_every_event_once(built):
    rows, direct = built("point", "direct")
    assert direct.columns[0][0].size == 40 < rows.index.size


@NAMES
def test_expected_counts_agree(name, values):
    kernel, direct = values(name, "kernel")[1], values(name, "direct")[1]
    assert kernel == pytest.approx(direct, rel=3e-3)


@pytest.mark.slow
def test_point_source_against_a_plain_integral(observation):
    # lambda = t Int phi A P D dE, on a fine grid of true energies; nodes finer than elsewhere
    name = "point off axis"
    morphology, made = SOURCES[name][0], events(name)
    energy = np.geomspace(0.1001, 29.99, 1000)
    response = observation.response
    lon, lat = float(morphology.lon), float(morphology.lat)
    offset = jnp.full(energy.shape, np.degrees(np.arccos(np.cos(np.radians(lon)) * np.cos(np.radians(lat)))))

    @eqx.filter_jit
    def detected(response, reconstructed, rad):
        spread = response.psf.density(jnp.asarray(energy), offset, jnp.full(energy.shape, rad))
        area = response.area(jnp.asarray(energy), offset)
        return area * spread * response.energy_dispersion.density(reconstructed, jnp.asarray(energy), offset)

    expected = []
    for e, x, y in zip(made.energy, made.lon, made.lat, strict=True):
        rad = np.hypot((x - lon) * np.cos(np.radians(0.5 * (y + lat))), y - lat)
        kernel = np.asarray(detected(response, jnp.asarray(e), jnp.asarray(rad)), np.float64)
        expected.append(36000.0 * np.trapezoid(1e-11 * energy**-2.3 * kernel * energy, np.log(energy)))
    value = np.asarray(gj.intensity(source(name), observation, made, per_decade=50.0))
    seen = value > 1e-4 * value.max()
    np.testing.assert_allclose(value[seen], np.array(expected)[seen], rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("engine", EXACT)
def test_gradient_in_spectral_parameters(engine, built):
    rows, ready = built("point", engine)

    @eqx.filter_jit
    def log_likelihood(ready, p):
        changed = gj.Source(gj.LogParabola(p["alpha"], p["beta"], p["amplitude"] * 1e-11), SOURCES["point"][0])
        return jnp.log(ready.intensity(changed)[rows.valid]).sum() - ready.expected_counts(changed).sum()

    at = {"alpha": jnp.asarray(2.3), "beta": jnp.asarray(0.1), "amplitude": jnp.asarray(1.0)}
    gradient = jax.grad(lambda p: log_likelihood(ready, p))(at)
    for parameter, value in at.items():
        ends = [float(log_likelihood(ready, {**at, parameter: value + sign * 5e-3})) for sign in (1.0, -1.0)]
        # single precision, and the third derivative over a step of 5e-3
        limit = 1e-6 * abs(ends[0]) / 1e-2 + 1e-3 * abs(float(gradient[parameter]))
        assert float(gradient[parameter]) == pytest.approx((ends[0] - ends[1]) / 1e-2, abs=limit)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fold", "direct"])
def test_gradient_in_position_extension_and_index(engine, make_observation):
    # in double precision from the response on
    with jax.enable_x64(True):
        observation = make_observation(energy_min=1.0, energy_max=1.3, offset_max=1.0)
        observation = jax.tree.map(lambda x: jnp.asarray(x, float), observation)
        # one energy, one block; an event at the centre, where neither distance nor angle has a gradient
        made = gj.Events(np.full(3, 1.2), [-0.6, -0.4, 0.3], [0.3, 0.1, 0.5])
        rows = Rows.init(made, [observation], 8.0)
        at = jnp.array([-0.4, 0.1, 0.3, 2.3])

        def build(p):
            return gj.Source(gj.PowerLaw(p[3], 1e-11), gj.Gaussian(*p[:3]))

        ready = ENGINES[engine].init(build(at), [observation], rows)

        def log_likelihood(ready, p):
            changed = build(p)
            value = jnp.log(ready.intensity(changed)[rows.valid])
            return value.sum() - ready.expected_counts(changed).sum()

        gradient = eqx.filter_jit(eqx.filter_grad(lambda p, ready: log_likelihood(ready, p)))(at, ready)
        evaluate = eqx.filter_jit(log_likelihood)
        for i in range(4):
            # a larger step than the region where the nodes rotate with the direction of an event at the centre
            step = 3e-4 * np.eye(4)[i]
            expected = (evaluate(ready, at + step) - evaluate(ready, at - step)) / 6e-4
            assert float(gradient[i]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("engine", EXACT)
def test_order_of_events_does_not_matter(engine, values, observation):
    made = events("point")
    order = np.random.default_rng(1).permutation(len(made))
    value = gj.intensity(source("point"), observation, made[order], engine, per_decade=PER_DECADE)
    np.testing.assert_allclose(value, values("point", engine)[0][order], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("engine", EXACT)
def test_intensity_works_under_jit(engine, values, observation):
    made = events("point")

    @jax.jit
    def scaled(amplitude):
        changed = gj.Source(gj.PowerLaw(2.3, amplitude), SOURCES["point"][0])
        counts = gj.expected_counts(changed, observation, engine, per_decade=PER_DECADE)
        return gj.intensity(changed, observation, made, engine, per_decade=PER_DECADE), counts

    intensity, counts = scaled(2e-11)
    np.testing.assert_allclose(intensity, 2.0 * values("point", engine)[0], rtol=1e-5)
    assert float(counts) == pytest.approx(2.0 * values("point", engine)[1], rel=1e-5)


def test_observations_keep_their_own_response_and_livetime(observation, make_observation, values):
    # the second half of the events in an observation twice as long
    made = events("point")
    number = (np.arange(len(made)) >= 20).astype(int)
    both = gj.Events(made.energy, made.lon, made.lat, number)
    pair = [observation, make_observation(livetime=72000.0, energy_min=1.0, energy_max=3.0)]
    value = gj.intensity(source("point"), pair, both, per_decade=PER_DECADE)
    np.testing.assert_allclose(value, values("point", "kernel")[0] * (1 + number), rtol=1e-4)
    counts = gj.expected_counts(source("point"), pair, per_decade=PER_DECADE)
    assert float(counts) == pytest.approx(3.0 * values("point", "kernel")[1], rel=1e-4)


def test_background_counts_and_rates(observation):
    background = gj.InstrumentBackground(norm=2.0, tilt=0.3)
    made = events("Gaussian")
    value = gj.intensity(background, observation, made, per_decade=PER_DECADE)
    expected = (
        2.0
        * made.energy**-0.3
        * np.asarray(observation.background(*map(jnp.asarray, (made.energy, made.lon, made.lat))))
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    # quadrature in energy and offset, in which the table is round
    energy, offset = np.geomspace(1.0, 3.0, 2001), np.linspace(0.0, 2.0, 401)
    e, o = (jnp.asarray(a) for a in np.meshgrid(energy, offset, indexing="ij"))
    rate = np.asarray(eqx.filter_jit(observation.background)(e, o, jnp.zeros_like(o)), np.float64)
    rate *= 2.0 * energy[:, None] ** -0.3 * 2 * np.pi * np.sin(np.radians(offset)) * np.radians(1.0)
    total = np.trapezoid(np.trapezoid(rate, offset, axis=1) * energy, np.log(energy))
    assert float(gj.expected_counts(background, observation, per_decade=PER_DECADE)) == pytest.approx(total, rel=2e-3)


def test_errors(observation, response):
    made = events("point")
    with pytest.raises(ValueError, match="unknown engine 'fast'; the engines are kernel, fold, direct"):
        gj.intensity(source("point"), observation, made, "fast")
    with pytest.raises(ValueError, match="the kernel engine needs a fixed morphology"):
        jax.jit(lambda lon: gj.expected_counts(gj.Source(SPECTRUM, gj.Point(lon, 0.0)), observation))(0.0)
    without = eqx.tree_at(lambda o: o.response.background, observation, None)
    with pytest.raises(ValueError, match="observation 0 has no background response"):
        BackgroundEngine.init(gj.InstrumentBackground(), [without], Rows.init(made, [without], PER_DECADE))


@pytest.mark.slow
@pytest.mark.parametrize("engine", EXACT)
def test_an_observation_without_events_changes_nothing(engine, make_observation):
    """As in a run without events after cuts."""
    pair = [make_observation(lon=lon, energy_min=1.0, energy_max=3.0) for lon in (0.0, 0.5)]
    made = events("point")
    both, one = (gj.intensity(source("point"), o, made, engine, per_decade=PER_DECADE) for o in (pair, pair[:1]))
    np.testing.assert_allclose(both, one, rtol=1e-5)
