"""Free and fixed changes of the response, against observations whose response functions are changed by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj
from gammajax.cli.model_section import Model
from gammajax.engines import FoldEngine, KernelEngine, Rows
from gammajax.instrument.psf import GaussPSF, KingPSF, TablePSF
from gammajax.instrument.response import EnergyDispersion
from gammajax.instrument.runs import Runs
from gammajax.instrument.table import Axis, Table
from gammajax.model.response_change import changed_observations, scaled_psf
from gammajax.results.prediction import predict

KNOTS = (0.3, 1.0, 3.0, 10.0)
SPECTRUM = gj.PowerLaw(2.3, 1e-11)
# one value for each of two observations
CHANGES = {
    "scale": {"energy_scale": np.array([0.1, -0.08])},
    "resolution": {"energy_resolution": np.array([1.3, 0.8])},
    "area": {"effective_area": np.array([1.2, 0.9]), "effective_area_tilt": np.array([0.3, -0.2])},
    "spline": {
        "effective_area_spline": np.array([[0.1, -0.1, 0.2, 0.0], [0.0, 0.2, -0.1, 0.1]]),
        "spline_energies": KNOTS,
    },
    "psf": {"psf_width": np.array([1.2, 0.85])},
    "pointing": {"pointing_lon": np.array([0.03, -0.02]), "pointing_lat": np.array([-0.02, 0.04])},
}
CHANGES["all"] = {name: value for change in CHANGES.values() for name, value in change.items()}
NONE = {name: 0.0 * value for name, value in CHANGES["all"].items() if name != "spline_energies"}
NONE |= {name: 1.0 + NONE[name] for name in ("energy_resolution", "effective_area", "psf_width")}
MOST = {name: 2.0 * CHANGES["all"][name] - value for name, value in NONE.items() if "psf" not in name}
LEAST = {name: 2.0 * value - CHANGES["all"][name] for name, value in NONE.items()}


def change(values):
    return gj.ResponseChange(**{**NONE, "spline_energies": KNOTS, **values})


def free_fold(morphology, observations, data):
    """Rows, and a fold engine all of whose fields of the response are free."""
    rows = Rows.init(data, observations, per_decade=20.0)
    sources = [gj.Source(SPECTRUM, morphology, change(values)) for values in (NONE, CHANGES["all"], MOST, LEAST)]
    return rows, FoldEngine.init(sources[0], observations, rows, sources[1:])


@pytest.fixture(scope="module")
def free(observations, events):
    return free_fold(gj.Point(0.3, 0.2), observations, events)


def agree(rows, engine, observations, source, tolerance):
    """Free against fixed, whose observations are changed at the set-up."""
    fixed = KernelEngine.init(source, observations, rows)
    found, expected = np.asarray(engine.intensity(source)), np.asarray(fixed.intensity(source))
    some = rows.valid & (expected > 1e-3 * expected.max())
    np.testing.assert_allclose(found[some], expected[some], rtol=tolerance)
    np.testing.assert_allclose(engine.expected_counts(source), fixed.expected_counts(source), rtol=3e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHANGES)
def test_a_free_response_is_that_of_a_fixed_one(kind, free, observations):
    source = gj.Source(SPECTRUM, gj.Point(0.3, 0.2), change(CHANGES[kind]))
    rows, engine = free
    agree(rows, engine, observations, source, 0.02)


SHARED = {"effective_area": 1.2, "effective_area_tilt": 0.3}
AREAS = {"shared": SHARED, "norms of runs": {**SHARED, "effective_area": np.array([1.2, 0.9])}}
AREAS |= {"runs": CHANGES["area"], "splines of runs": {**CHANGES["area"], **CHANGES["spline"]}}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "data"), [*((kind, "events") for kind in AREAS), ("runs", "cells")])
def test_a_free_area_is_a_factor_on_the_spectrum(kind, data, observations, events):
    """Of the kernel engine, which a posterior takes for it; 5e-4 are the projection to nodes of a rising factor."""
    values = AREAS[kind]
    data = events if data == "events" else events.compress(observations, energy_per_decade=8)
    rows, place = Rows.init(data, observations, per_decade=20.0), gj.Gaussian(0.3, 0.2, sigma=0.1)
    ones = {n: (0.0 if "area_" in n else 1.0) + 0.0 * v for n, v in values.items() if n != "spline_energies"}
    knots = {n: v for n, v in values.items() if n == "spline_energies"}
    sources = [gj.Source(SPECTRUM, place, gj.ResponseChange(**some)) for some in ({**ones, **knots}, values)]
    engine = KernelEngine.init(sources[0], observations, rows, sources[1:])
    agree(rows, engine, observations, sources[1], 1e-3)
    unchanged = KernelEngine.init(sources[0], observations, rows).expected_counts(sources[0])
    np.testing.assert_allclose(engine.expected_counts(sources[0]), unchanged, rtol=1e-6)


@pytest.mark.slow
def test_sources_of_equal_areas_of_which_one_is_free(observations, events):
    """The free one must not share the kernel of the other: their areas are equal at the centre of the prior only."""

    def model(p):
        place = gj.Gaussian(0.3, 0.2, sigma=0.1)
        return gj.Mixture(
            free=gj.Source(SPECTRUM, place, gj.ResponseChange(effective_area=p["area"])),
            fixed=gj.Source(gj.PowerLaw(2.3, 1e-11 * p["flux"]), place, gj.ResponseChange(effective_area=1.5)),
            sky=gj.InstrumentBackground(),
        )

    priors = {"area": dist.Uniform(1.0, 2.0), "flux": dist.Uniform(0.5, 1.5)}
    posterior = gj.Posterior(model, priors, observations, events, progress=False)
    assert {type(posterior.terms[0].engines[name]) for name in ("free", "fixed")} == {KernelEngine}
    counts = posterior.expected_counts({"area": jnp.asarray(1.2), "flux": jnp.asarray(1.0)})
    assert float(counts["free"].sum() / counts["fixed"].sum()) == pytest.approx(1.2 / 1.5, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["image", "cells"])
def test_images_and_cells_have_a_free_response(shape, observations, events):
    morphology = gj.Gaussian(0.3, 0.2, sigma=0.2, e=0.8, phi=40.0) if shape == "image" else gj.Point(0.3, 0.2)
    data = events if shape == "image" else events.compress(observations, energy_per_decade=8)
    rows, engine = free_fold(morphology, observations, data)
    agree(rows, engine, observations, gj.Source(SPECTRUM, morphology, change(CHANGES["all"])), 0.02)


PLACED = {"point": gj.Point(0.3, 0.2), "round": gj.Gaussian(0.3, 0.2, sigma=0.3)}
PLACED["image"] = gj.Gaussian(0.3, 0.2, sigma=0.2, e=0.8, phi=40.0)


KEPT = [*((shape, "events") for shape in PLACED), ("point", "cells")]


@pytest.fixture(scope="module", params=KEPT)
def placed(request, observations, events):
    """A fold engine of a fixed source, all of whose fields but the pointing are free: its brightness is kept."""
    shape, data = request.param
    data = events if data == "events" else events.compress(observations, energy_per_decade=8)
    rows = Rows.init(data, observations, per_decade=20.0)
    return rows, placed_fold(PLACED[shape], observations, rows), PLACED[shape]


def placed_fold(morphology, observations, rows):
    some = ({n: v for n, v in values.items() if "pointing" not in n} for values in (NONE, CHANGES["all"], MOST, LEAST))
    sources = [gj.Source(SPECTRUM, morphology, change(values)) for values in some]
    return FoldEngine.init(sources[0], observations, rows, sources[1:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("placed", "kind"),
    [
        *((("point", "events"), kind) for kind in ("area", "spline")),
        *((kept, kind) for kept in KEPT for kind in ("scale", "resolution", "psf")),
    ],
    indirect=["placed"],
)
def test_the_brightness_of_a_fixed_source_is_kept(kind, placed, observations):
    rows, engine, morphology = placed
    assert all(part.placed is not None for part in engine.sources)
    agree(rows, engine, observations, gj.Source(SPECTRUM, morphology, change(CHANGES[kind])), 0.02)


@pytest.mark.parametrize("placed", [("point", "events")], indirect=True)
def test_groups_of_blocks_change_nothing(placed, observations, monkeypatch):
    """A small data set has small blocks in one group; here they are large, and further groups cost nothing."""
    rows, engine, morphology = placed
    monkeypatch.setattr("gammajax.engines.placed.SAVING", 0)
    monkeypatch.setattr("gammajax.engines.placed.SIZES", (64, 256))
    several = placed_fold(morphology, observations, rows)
    assert [len(part.sources[0].placed.groups) for part in (engine, several)] == [1, 2]
    source = gj.Source(SPECTRUM, morphology, change({**CHANGES["psf"], **CHANGES["scale"]}))
    found, expected = (np.asarray(part.intensity(source))[rows.valid] for part in (several, engine))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_resolutions_beyond_the_prior_are_those_of_its_end(placed):
    """Polynomials through tabulated resolutions would say anything there."""
    rows, engine, morphology = placed
    end, beyond = (
        engine.intensity(gj.Source(SPECTRUM, morphology, change({"energy_resolution": MOST["energy_resolution"] * f})))
        for f in (np.array([3.0, 1.0]), np.array([5.0, 1.0]))
    )
    some = rows.valid & (rows.observation == 0)
    if engine.sources[0].response.tabulated is not None:
        np.testing.assert_allclose(beyond[some], end[some], rtol=1e-5)
    assert float(jnp.max(beyond)) < 2.0 * float(jnp.max(end))


@pytest.mark.slow
def test_gradients_of_a_kept_brightness(placed):
    rows, engine, morphology = placed

    def total(log_width):
        values = {"psf_width": jnp.exp(log_width) * jnp.ones(2), "energy_scale": 0.1 * log_width * jnp.ones(2)}
        found = engine(gj.Source(SPECTRUM, morphology, change(values))).intensity
        return jnp.sum(jnp.where(rows.valid, jnp.log(jnp.maximum(found, 1e-3 * found.max())), 0.0))

    jax.test_util.check_grads(jax.jit(total), (jnp.asarray(0.03),), 1, modes=("fwd", "rev"), rtol=0.05, eps=1e-2)


@pytest.mark.slow
def test_gradients_of_a_free_response(free):
    rows, engine = free
    start = {name: jnp.asarray(0.3 * MOST.get(name, value) + 0.7 * value) for name, value in NONE.items()}
    valid = jnp.asarray(rows.valid)

    @jax.jit
    def value(values):
        expected = engine(gj.Source(SPECTRUM, gj.Point(0.3, 0.2), change(values)))
        some = valid & (expected.intensity > 0)
        return jnp.where(some, jnp.log(jnp.where(some, expected.intensity, 1.0)), 0.0).sum() - expected.counts.sum()

    slopes = jax.jit(jax.grad(value))(start)
    for name, slope in slopes.items():
        step = jnp.zeros_like(slope).at[0].set(2e-3 if "pointing" in name else 1e-2)
        up, down = (value({**start, name: start[name] + sign * step}) for sign in (1.0, -1.0))
        assert float((slope * step).sum()) == pytest.approx(0.5 * float(up - down), rel=0.03, abs=2e-3), name


def by_hand(observation, response):
    return eqx.tree_at(lambda o: o.response, observation, response)


@pytest.mark.slow
def test_a_fixed_change_is_that_of_the_files(observation, response):
    """Tables of a Gaussian response, made anew with other numbers."""
    (energy, offset), migra = response.effective_area.axes, np.linspace(0.1, 2.2, 421)
    e, o = np.exp(np.asarray(energy.nodes))[:, None], np.asarray(offset.nodes)[None, :]
    spread = 1.2 * (0.1 + 0.02 * o[..., None] + 0.0 * e[..., None])
    changed_by_hand = gj.Response(
        Table((energy, offset), 1.3 * response.effective_area.values),
        GaussPSF(
            Table((energy, offset), 0.9 * response.psf.widths.values), Table((energy, offset), np.ones((12, 6, 1)))
        ),
        EnergyDispersion(energy, offset, Axis(migra), np.exp(-0.5 * ((migra / 1.1 - 0.97) / spread) ** 2)),
        response.background,
    )
    there = by_hand(observation, changed_by_hand)
    response_change = gj.ResponseChange(0.1, 1.2, 1.3, psf_width=0.9)
    here = gj.changed(observation, response_change)
    x, true, away = jnp.asarray([0.7, 1.0, 1.25]), jnp.asarray([0.8, 1.1, 2.3]), jnp.asarray([0.1, 0.9, 1.7])
    pairs = (
        (
            o.response.area(true, away),
            o.response.psf.density(true, away, 0.2 * x),
            o.response.psf.quantile(true, away, 0.7),
        )
        + (o.response.energy_dispersion.density(x * true, true, away),)
        + (o.response.energy_dispersion.probability(0.5 * true, x * true, true, away),)
        for o in (here, there)
    )
    for found, expected in zip(*pairs, strict=True):
        # the files' tables are linear between steps of a fifth of the resolution
        np.testing.assert_allclose(found, expected, rtol=0.03)
    point = gj.Point(0.3, 0.2)
    source = gj.Source(SPECTRUM, point, response_change)
    events = gj.Events([0.7, 1.5, 4.0], [0.35, 0.2, 0.4], [0.2, 0.3, 0.15])
    expected = gj.intensity(gj.Source(SPECTRUM, point), there, events)
    counts = gj.expected_counts(gj.Source(SPECTRUM, point), there)
    np.testing.assert_allclose(gj.intensity(source, observation, events), expected, rtol=0.01)
    np.testing.assert_allclose(gj.expected_counts(source, observation), counts, rtol=3e-3)
    simulated = gj.simulate(jax.random.key(0), source, observation)
    assert abs(len(simulated) - counts) < 4.0 * counts**0.5


@pytest.mark.slow
def test_the_width_of_every_point_spread_function():
    axes = Axis(np.log([0.1, 10.0])), Axis([0.0, 3.0])
    rad = Axis(np.linspace(0.0, 1.0, 101))
    tables = [
        GaussPSF(Table(axes, np.full((2, 2, 1), 0.1)), Table(axes, np.ones((2, 2, 1)))),
        KingPSF(Table(axes, np.broadcast_to([0.05, 2.0], (2, 2, 2)).copy())),
        TablePSF(*axes, rad, np.broadcast_to(np.exp(-0.5 * (np.asarray(rad.nodes) / 0.1) ** 2), (2, 2, 101))),
    ]
    one, away = jnp.ones(4), jnp.asarray([0.02, 0.1, 0.2, 0.3])
    for psf in tables:
        wide = scaled_psf(psf, 1.5)
        np.testing.assert_allclose(wide.density(one, one, 1.5 * away), psf.density(one, one, away) / 1.5**2, rtol=1e-4)
        np.testing.assert_allclose(wide.containment(one, one, 1.5 * away), psf.containment(one, one, away), rtol=1e-4)
        np.testing.assert_allclose(wide.quantile(one, one, 0.6), 1.5 * psf.quantile(one, one, 0.6), rtol=1e-4)


@pytest.mark.slow
def test_a_changed_pointing_moves_all_directions(make_observation):
    """A source appears displaced, by as much as it would be moved; the background stays."""
    plain = make_observation(energy_min=1.0, energy_max=3.0)
    events = gj.Events([1.2, 2.0], [0.3, 0.25], [0.2, 0.1])
    source = gj.Source(SPECTRUM, gj.Point(0.3, 0.2), gj.ResponseChange(pointing_lon=0.04, pointing_lat=-0.03))
    moved = gj.Source(SPECTRUM, gj.Point(0.26, 0.23))
    np.testing.assert_allclose(gj.intensity(source, plain, events), gj.intensity(moved, plain, events), rtol=2e-3)
    simulated = gj.simulate(jax.random.key(1), source, plain)
    error = 0.12 / len(simulated) ** 0.5
    assert abs(simulated.lon.mean() - 0.26) < 4 * error and abs(simulated.lat.mean() - 0.23) < 4 * error


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_pointings_across_the_probed_ones(make_observation, sign):
    """A prior is probed with all moves low and all high; between a source and its pointing they may be opposed."""
    run = make_observation(energy_min=1.0, energy_max=3.0)
    away = 0.502 / np.sqrt(2.0)  # just beyond a node of the offsets
    events = gj.Events([1.2, 1.2, 2.0], [away, away + 0.05, away], [-away, -away, -away - 0.03])
    place, rows = gj.Point(away, -away), Rows.init(events, (run,), per_decade=20.0)

    def source(lon, lat):
        return gj.Source(SPECTRUM, place, gj.ResponseChange(pointing_lon=lon, pointing_lat=lat))

    ends = [source(*move) for move in ((0.0, 0.0), (0.06, 0.06), (-0.06, -0.06))]
    engine = FoldEngine.init(ends[0], (run,), rows, ends[1:])
    agree(rows, engine, (run,), source(0.06 * sign, -0.06 * sign), 2e-3)


def test_a_response_that_is_one_stays_one(observations):
    assert len(Runs.of(changed_observations(observations, gj.ResponseChange(energy_scale=0.1))).responses) == 1


@pytest.mark.slow
def test_simulated_changes_are_recovered(make_observation):
    runs = [make_observation(energy_min=1.0, energy_max=6.0), make_observation(0.5, energy_min=1.0, energy_max=6.0)]
    truth = {"scale": np.array([0.08, -0.06]), "lon": 0.03}

    def model(p):
        response = gj.ResponseChange(energy_scale=p["scale"], pointing_lon=p["lon"])
        return gj.Mixture(source=gj.Source(gj.PowerLaw(2.3, 3e-11), gj.Point(0.3, 0.2)), response=response)

    priors = {"scale": dist.Uniform(-0.2 * np.ones(2), 0.2), "lon": dist.Uniform(-0.1, 0.1)}
    events = gj.simulate(jax.random.key(2), model(truth), runs)
    posterior = gj.Posterior(model, priors, runs, events, per_decade=15.0, progress=False)
    assert isinstance(posterior.engines["source"], FoldEngine)
    result = gj.laplace(jax.random.key(3), posterior)
    for name, value in truth.items():
        draws = np.asarray(result.samples[name])
        pulls = (draws.mean(0) - value) / draws.std(0)
        assert np.all(np.abs(pulls) < 4.0), (name, pulls)
        assert np.all(draws.std(0) < (0.05 if name == "scale" else 0.01)), name


@pytest.mark.slow
def test_predictions_move_with_the_energy_scale(make_observation):
    """Draws with another scale than their median: the counts in a bin are those of events in the moved bin."""
    run = make_observation(energy_min=1.0, energy_max=6.0)

    def model(p):
        source = gj.Source(gj.PowerLaw(2.3, 3e-11), gj.Point(0.3, 0.2))
        return gj.Mixture(source=source, response=gj.ResponseChange(energy_scale=p["scale"], effective_area=p["area"]))

    priors = {"scale": dist.Uniform(-0.2, 0.2), "area": dist.Uniform(0.5, 2.0)}
    posterior = gj.Posterior(model, priors, [run], gj.Events([2.0], [0.3], [0.2]), per_decade=15.0, progress=False)
    samples = {"scale": np.array([-0.1, 0.0, 0.1]), "area": np.array([0.9, 1.0, 1.2])}
    edges = np.array([1.0, 1.5, 2.5, 6.0])
    found = predict(jax.random.key(5), posterior, samples, edges, events=40_000)
    for draw, counts in enumerate(found.counts[:, 0]):
        point = {name: values[draw] for name, values in samples.items()}
        bins = [
            gj.expected_counts(model(point), make_observation(energy_min=low, energy_max=high))["source"]
            for low, high in zip(edges[:-1], edges[1:], strict=True)
        ]
        np.testing.assert_allclose(counts, np.asarray(bins), rtol=0.04)


def test_configurations_have_a_response():
    section = {
        "components": {
            "source": {
                "type": "source",
                "spectrum": {"type": "power-law", "index": 2.3, "amplitude": 1e-11},
                "morphology": {"type": "point", "lon": 0.3, "lat": 0.2},
            }
        },
        "response": {
            "energy_scale": "z",
            "psf_width": 1.1,
            "effective_area_spline": "area",
            "spline_energies": [0.5, 1.0, 5.0],
        },
    }
    model = Model.model_validate(section)
    assert ("response.energy_scale", "z") in [(use.key, use.name) for use in model.references()]
    made = model.function()({"z": 0.1, "area": np.array([0.1, 0.0, -0.1])}).response
    assert made is not None and float(made.energy_scale) == pytest.approx(0.1)
    assert float(made.psf_width) == pytest.approx(1.1) and made.spline_energies == (0.5, 1.0, 5.0)
    with pytest.raises(ValueError, match="psf_widht"):
        Model.model_validate({**section, "response": {"psf_widht": 1.0}})


ERRORS = {
    "energy_scale of a ResponseChange must be above -1": {"energy_scale": -1.5},
    "psf_width of a ResponseChange must be positive": {"psf_width": 0.0},
    "effective_area of a ResponseChange must be positive": {"effective_area": -1.0},
    "energy_resolution of a ResponseChange must be positive": {"energy_resolution": -0.1},
    "must be finite": {"pointing_lon": np.nan},
    "belong together": {"effective_area_spline": np.zeros(3)},
    "must be at least three and increase": {"effective_area_spline": np.zeros(3), "spline_energies": (3.0, 1.0, 2.0)},
    "its last dimension must be": {"effective_area_spline": np.zeros(4), "spline_energies": (0.5, 1.0, 2.0)},
}


@pytest.mark.parametrize("message", ERRORS)
def test_changes_without_a_meaning(message):
    with pytest.raises(ValueError, match=message):
        gj.ResponseChange(**ERRORS[message])


@pytest.mark.slow
def test_what_cannot_be_evaluated_says_what_can(observations, events):
    def model(p):
        source = gj.Source(SPECTRUM, gj.Point(0.3, 0.2))
        return gj.Mixture(source=source, response=gj.ResponseChange(psf_width=p["width"]))

    free = {"width": dist.Uniform(0.8, 1.2)}
    for engine in ("kernel", "direct"):
        with pytest.raises(ValueError, match="engine='fold'"):
            gj.Posterior(model, free, observations, events, engine=engine)
    with pytest.raises(ValueError, match="the prior of 'width' reaches -.*psf_width of a ResponseChange must be pos"):
        gj.Posterior(model, {"width": dist.Normal(1.0, 0.5)}, observations, events)
    per_run = gj.Source(SPECTRUM, gj.Point(0.3, 0.2), gj.ResponseChange(energy_scale=np.zeros(3)))
    with pytest.raises(ValueError, match="energy_scale of the response has shape .3,.; give one value, or 2"):
        gj.expected_counts(per_run, observations)
    with pytest.raises(ValueError, match="one observation: give change.select"):
        gj.changed(observations[0], gj.ResponseChange(energy_scale=np.zeros(2)))
    for name in ("weights", "response"):
        with pytest.raises(ValueError, match=f"no component can be called '{name}'"):
            gj.Mixture(**{name: gj.InstrumentBackground()})
