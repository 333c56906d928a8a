"""Likelihoods of ON and OFF regions against closed forms, quadrature, gammapy's wstat and finite differences."""

import logging

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from gammapy.stats import wstat
from on_off import HIGH, LIVETIME, LOW, RADIUS, TRUE, model, region_response, run, some_runs
from scipy.interpolate import BSpline
from scipy.optimize import minimize
from scipy.special import gammaln
from scipy.stats import gamma as gamma_distribution
from scipy.stats import norm, poisson

import gammajax as gj
from gammajax.likelihood.on_off import OnOffTerm

EDGES = np.geomspace(LOW, HIGH, 7)
SIZE = 6
SITE = np.linspace(-1.0, 1.0, SIZE)
POINT = {"amplitude": jnp.asarray(1.3), "index": jnp.asarray(2.4), "b": jnp.asarray(3.0 - 1.5 * SITE + 0.2 * SITE**2)}
SOLID_ANGLE = 4.0 * np.pi * np.sin(0.5 * np.radians(RADIUS)) ** 2


@pytest.fixture(scope="module")
def runs():
    """Two runs of other acceptance ratios, livetimes, thresholds and areas."""
    first = some_runs(1)[0]
    second = some_runs(1, seed=1)[0]
    on, off = (stream[stream > 0.8] for stream in (second.on, second.off))
    changes = {"response": region_response(0.7), "energy_min": 0.8, "obs_id": "second", "livetime": 1800.0}
    return [first, run(on, off, 0.1, **changes)]


@pytest.fixture(scope="module")
def terms(runs):
    return {"unbinned": gj.OnOff(runs), "counts": gj.OnOffCounts(runs, EDGES)}


def source_rate(energy, scale=1.0):
    """Reconstructed source counts [s^-1 TeV^-1] by a sum over fine true energies, in numpy."""
    true = np.geomspace(*TRUE[[0, -1]], 8001)
    area = scale * np.interp(np.log(true), np.log(TRUE), 1e9 * TRUE**0.6)
    migra = np.linspace(0.4, 1.6, 61)
    table = norm.pdf(migra, 0.97, 0.12)
    table /= np.trapezoid(table, migra)
    density = np.interp(energy[:, None] / true, migra, table, left=0.0, right=0.0) / true
    flux = 1e-11 * POINT["amplitude"] * true ** -float(POINT["index"])
    return np.trapezoid(flux * area * density * true, np.log(true), axis=1)


def background_rate(energy):
    """The spline by scipy [s^-1 TeV^-1 sr^-1]."""
    step = np.log(HIGH / LOW) / (SIZE - 3)
    knots = np.log(LOW) + step * np.arange(-3, SIZE + 1)
    return np.exp(BSpline(knots, np.asarray(POINT["b"]), 3)(np.log(energy)))


@pytest.mark.slow
def test_unbinned_likelihood_is_its_definition(runs, terms):
    """Rates, counts and their sum by numpy and scipy."""
    value = 0.0
    for one, scale in zip(runs, (1.0, 0.7), strict=True):
        exposure = SOLID_ANGLE * one.livetime
        value += np.log(one.livetime * source_rate(one.on, scale) + exposure * background_rate(one.on)).sum()
        value += np.log(exposure * background_rate(one.off) / one.ratio[0]).sum()
        fine = np.geomspace(one.energy_min, HIGH, 2001)
        both = one.livetime * source_rate(fine, scale) + exposure * (1 + 1 / one.ratio[0]) * background_rate(fine)
        value -= np.trapezoid(both * fine, np.log(fine))
    assert float(terms["unbinned"].log_likelihood(model(POINT))) == pytest.approx(value, abs=0.02)


def test_cells_are_integrals_over_their_background(runs):
    """The finite sum against quadrature over b of two Poissonians and the Gamma prior, for each cell."""
    shape, rate = 0.7, 0.3
    term = gj.OnOffCounts(runs, EDGES, shape=shape, rate=rate, by_run=True)
    signal = np.asarray(term.signals(model(POINT))["source"])
    b = np.geomspace(1e-6, 300.0, 20_001)
    for i, (s, ratio) in enumerate(zip(signal, term.ratio, strict=True)):
        integrand = poisson.pmf(term.on[i], s + ratio * b) * poisson.pmf(term.off[i], b)
        integrand *= gamma_distribution.pdf(b, shape, scale=1.0 / rate)
        exact = np.log(np.trapezoid(integrand * b, np.log(b)))
        assert float(term.cell_values(jnp.asarray(signal))[i]) == pytest.approx(exact, abs=2e-3), i


def test_cells_without_prior_are_known_sums():
    """A flat prior and no OFF counts, no ON counts: closed forms."""
    flat = gj.OnOffCounts(run([1.0, 1.0], [1.1]), [0.5, 2.0], shape=1.0, rate=0.0)
    s, alpha = 1.7, 1.0 / 3.0
    k = np.arange(3)
    value = poisson.pmf(2 - k, s) * alpha**k * (k + 1) / (1 + alpha) ** (k + 2)
    assert float(flat.cell_values(jnp.array([s]))[0]) == pytest.approx(np.log(value.sum()), abs=1e-5)
    none = gj.OnOffCounts(run([], [1.1, 1.2]), [0.5, 2.0], shape=1.0, rate=0.0)
    exact = -s - 3.0 * np.log1p(alpha) + gammaln(3) - gammaln(3)
    assert float(none.cell_values(jnp.array([s]))[0]) == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("prior", [{}, {"shape": 0.5, "rate": 0.0}, {"shape": 1.0, "rate": 0.0}])
def test_cells_agree_with_wstat_where_counts_are_large(prior, scale):
    """Differences of 2 ln L over four standard deviations; wstat from gammapy."""
    on, off = 40_000, 90_000
    term = gj.OnOffCounts(run(np.full(on, 1.0), np.full(off, 1.1)), [0.5, 2.0], **prior)
    best = on - off / 3.0
    signal = best + scale * np.sqrt(on + off / 9.0) * np.linspace(-2.0, 2.0, 9)
    value = jax.vmap(term.cell_values)(jnp.asarray(signal)[:, None])[:, 0]
    expected = -0.5 * wstat(on, off, 1.0 / 3.0, signal)
    difference = 2.0 * (np.asarray(value) - np.asarray(value)[4] - expected + expected[4])
    assert np.abs(difference).max() < 0.03


@pytest.mark.slow
def test_unbinned_agrees_with_wstat_where_counts_are_large():
    """A background whose shape is free, of thousands of events: the curvature in the amplitude is that of wstat."""
    on, off = 6000, 9000
    runs = some_runs(1, on=on, off=off)
    term, edges = gj.OnOff(runs), np.geomspace(LOW, HIGH, 13)
    cells = gj.OnOffCounts(runs, edges)
    prior = term.background_prior(SIZE, 2.0)
    one = cells.expected_counts(model({**POINT, "amplitude": 1.0, "index": 3.3}))["source"]
    scale = float((on - off / 3.0) / one[0])

    def at(amplitude, b):
        return model({"amplitude": scale * amplitude, "index": 3.3, "b": b})

    @jax.jit
    @jax.value_and_grad
    def minus(b, amplitude):
        return -referred.log_likelihood_ratio(at(amplitude, b)) - prior.log_prob(b)

    referred = term.with_reference(at(1.0, prior.loc))

    def profiled(amplitude):
        found = minimize(lambda b: tuple(np.asarray(v, float) for v in minus(b, amplitude)), prior.loc, jac=True)
        return -found.fun

    amplitudes = jnp.array([0.9, 1.0, 1.1])
    unbinned = np.array([profiled(a) for a in amplitudes])
    signal = np.array([np.asarray(cells.signals(at(a, POINT["b"]))["source"]) for a in amplitudes])
    binned = -0.5 * wstat(cells.on, cells.off, cells.ratio, signal).sum(1)
    curvature = [np.diff(values, 2)[0] for values in (unbinned, binned)]
    assert curvature[0] == pytest.approx(curvature[1], rel=0.1)


@pytest.mark.parametrize("kind", ["unbinned", "counts"])
def test_gradients_are_differences(terms, kind):
    term = terms[kind]

    def value(p):
        return term.log_likelihood(model(p))

    gradient = jax.jit(jax.grad(value))(POINT)
    for name in POINT if kind == "unbinned" else ("amplitude", "index"):
        step = jnp.where(jnp.arange(POINT[name].size) == 2, 1e-2, 0.0) if name == "b" else 1e-2
        high, low = (value({**POINT, name: POINT[name] + sign * step}) for sign in (1, -1))
        slope = gradient[name][2] if name == "b" else gradient[name]
        assert float(slope) == pytest.approx(float(high - low) / 2e-2, rel=0.02, abs=0.02), name


def test_no_signal_has_the_right_gradient(terms):
    """At an amplitude of zero, for cells: the limit from above."""
    function = jax.jit(jax.grad(lambda a: terms["counts"].log_likelihood(model({**POINT, "amplitude": a}))))
    assert float(function(0.0)) == pytest.approx(float(function(1e-4)), rel=1e-2)


@pytest.mark.parametrize("kind", ["unbinned", "counts"])
def test_a_term_is_relative_to_any_reference(terms, kind):
    term = terms[kind]
    other = {**POINT, "amplitude": jnp.asarray(0.4)}
    referred = term.with_reference(model(other))
    ratio = float(referred.log_likelihood_ratio(model(POINT)))
    assert float(referred.log_likelihood_ratio(model(other))) == pytest.approx(0.0, abs=1e-5)
    assert ratio == pytest.approx(
        float(term.log_likelihood(model(POINT)) - term.log_likelihood(model(other))), abs=1e-3
    )
    assert float(referred.log_reference) + ratio == pytest.approx(float(term.log_likelihood(model(POINT))), abs=1e-3)
    assert referred.log_reference_exact() == pytest.approx(float(referred.log_reference), abs=1e-3)


def test_expected_counts(runs, terms):
    """ON and OFF of each run; cells see ON only."""
    found = terms["unbinned"].expected_counts(model(POINT))
    fine = np.geomspace(LOW, HIGH, 2001)
    source = LIVETIME * np.trapezoid(source_rate(fine) * fine, np.log(fine))
    assert float(found["source"][0]) == pytest.approx(source, rel=2e-3)
    cells = terms["counts"].expected_counts(model(POINT))
    assert float(cells["source"][0]) == pytest.approx(float(found["source"].sum()), rel=1e-3)


def test_cells_do_not_hide_a_signal():
    """The default prior of the background does not grow with the number of cells: 12 cells or 600."""
    best = []
    runs = some_runs(2, on=60, off=60, ratio=0.2)
    grid = jnp.linspace(0.0, 30.0, 241)
    for number in (12, 600):
        term = gj.OnOffCounts(runs, np.geomspace(LOW, HIGH, number + 1))
        value = jax.jit(jax.vmap(lambda a, term=term: term.log_likelihood(model({**POINT, "amplitude": a}))))(grid)
        weight = np.exp(np.asarray(value) - float(value.max()))
        mean = np.asarray(grid) @ weight / weight.sum()
        best.append((mean, np.sqrt((np.asarray(grid) - mean) ** 2 @ weight / weight.sum())))
    assert abs(best[0][0] - best[1][0]) < 0.4 * best[0][1]


@pytest.mark.slow
def test_programs_do_not_know_the_number_of_runs(caplog):
    """The same rows in 2 and in 20 runs: nothing but arrays differs, and no program is compiled for a run."""
    compiled = []
    for count in (2, 20):
        runs = some_runs(count, on=60 // count, off=120 // count)
        jax.clear_caches()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            caplog.clear()
            term = gj.OnOff(runs)
            jax.block_until_ready(jax.jit(lambda term, p: term.log_likelihood(model(p)))(term, POINT))
            compiled.append(sum("Compiling" in record.getMessage() for record in caplog.records))
    assert compiled[0] == compiled[1] > 0


@pytest.mark.slow
def test_padding_changes_nothing(runs, terms):
    padded = gj.OnOff(runs, rows=(40, 100))
    assert float(padded.log_likelihood(model(POINT))) == pytest.approx(
        float(terms["unbinned"].log_likelihood(model(POINT))), abs=1e-3
    )
    empty = gj.OnOff(run([], []), rows=(8, 8))
    counts = sum(float(part.sum()) for part in empty.expected_counts(model(POINT)).values())
    assert float(empty.log_likelihood(model(POINT))) == pytest.approx(-counts, rel=1e-5)


def test_components_of_other_data_are_not_seen(runs):
    p = POINT
    term = gj.OnOff(runs, components=("source", "background"))
    mixture = gj.Mixture(
        source=model(p).components["source"],
        background=model(p).components["background"],
        far=gj.Source(gj.PowerLaw(2.0), gj.Gaussian(3.0, 0.0, 0.2)),
        others=gj.OffBackground(p["b"] + 1.0, LOW, HIGH),
        sky=gj.InstrumentBackground(),
    )
    assert float(term.log_likelihood(mixture)) == pytest.approx(
        float(gj.OnOff(runs).log_likelihood(model(p))), abs=1e-3
    )


@pytest.mark.slow
def test_a_norm_for_each_run(runs):
    term = gj.OnOff(runs)
    p, norms = POINT, jnp.array([1.3, 0.6])
    parts = model(p).components
    free = gj.Mixture(source=parts["source"], background=gj.OffBackground(p["b"], LOW, HIGH, norm=norms))
    single = [
        float(
            gj.OnOff(one).log_likelihood(
                gj.Mixture(source=parts["source"], background=gj.OffBackground(p["b"] + jnp.log(norm), LOW, HIGH))
            )
        )
        for one, norm in zip(runs, norms, strict=True)
    ]
    assert float(term.log_likelihood(free)) == pytest.approx(sum(single), abs=2e-2)


def wrong_mixtures():
    source, background = model(POINT).parts
    gaussian = gj.Source(gj.PowerLaw(2.0), gj.Gaussian(0.0, 0.0, 0.2))
    return {
        "one OffBackground; the mixture has none": gj.Mixture(source=source),
        "has one, two: name": gj.Mixture(source=source, one=background, two=background),
        "'source' is a Gaussian": gj.Mixture(source=gaussian, b=background),
        "absolute fluxes": gj.Mixture(source=source, b=background, weights={"source": 0.5}),
        "has shape \\(3,\\); give one number, or 2": gj.Mixture(
            source=source, b=gj.OffBackground(POINT["b"], LOW, HIGH, norm=np.ones(3))
        ),
    }


@pytest.mark.parametrize("message", wrong_mixtures())
def test_mixtures_that_do_not_fit(terms, message):
    with pytest.raises(ValueError, match=message):
        terms["unbinned"].log_likelihood(wrong_mixtures()[message])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: gj.OnOff([]), "at least one"),
        (lambda: gj.OnOff(run([1.0], [])), "ON events without OFF events"),
        (lambda: gj.OnOffCounts(run([1.0], []), EDGES), "ON events without OFF events"),
        (lambda: gj.OnOffCounts(run([1.0], [1.0]), [2.0, 1.0]), "positive and increasing"),
        (lambda: gj.OnOffCounts(run([1.0], [1.0]), [20.0, 30.0]), "no run selects"),
        (lambda: gj.OnOffCounts(run([1.0], [1.0]), EDGES, shape=0.0), "shapes above zero"),
        (lambda: gj.OnOff(run([1.0], [1.0]), rows=(1, 0)), "too few"),
        (lambda: gj.OffBackground(np.zeros(3), LOW, HIGH), "at least 4"),
        (lambda: gj.OffBackground(np.zeros(4), HIGH, LOW), "positive and increase"),
        (lambda: gj.smooth_prior(np.zeros(2), 1.0), "at least three"),
        (lambda: gj.smooth_prior(np.zeros(5), 0.0), "scale .* positive"),
    ],
)
def test_one_line_for_bad_input(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_the_spline_is_that_of_scipy():
    energy = np.geomspace(LOW, HIGH, 50)
    background = gj.OffBackground(POINT["b"], LOW, HIGH)
    np.testing.assert_allclose(background.rate(jnp.asarray(energy)), background_rate(energy), rtol=1e-5)
    # coefficients on a line are a power law, also beyond the ends
    power = gj.OffBackground(np.linspace(2.0, -1.0, SIZE), LOW, HIGH)
    energy = np.geomspace(0.1, 40.0, 30)
    slope = np.diff(np.log(power.rate(jnp.asarray(energy)))) / np.diff(np.log(energy))
    np.testing.assert_allclose(slope, -0.6 * (SIZE - 3) / np.log(HIGH / LOW), rtol=1e-3)


def test_the_smooth_prior_has_the_stated_scales():
    """Second differences, mean and slope are independent, with these standard deviations."""
    centre, size = np.linspace(1.0, -4.0, 9), 9
    prior = gj.smooth_prior(centre, 0.3, level=0.8, tilt=1.7)
    covariance = np.asarray(prior.covariance_matrix, np.float64)
    line = np.linspace(-1.0, 1.0, size)
    rows = np.vstack([np.diff(np.eye(size), 2, axis=0), np.full(size, 1 / size), line / (line @ line)])
    np.testing.assert_allclose(rows @ covariance @ rows.T, np.diag([0.3**2] * 7 + [0.8**2, 1.7**2]), atol=1e-4)
    np.testing.assert_allclose(prior.loc, centre, rtol=1e-6)


@pytest.fixture(scope="module")
def posterior(runs):
    term = gj.OnOff(some_runs(2, on=60, off=90))
    priors = {
        "amplitude": dist.LogNormal(0.7, 0.7),
        "index": dist.Normal(2.5, 0.2),
        "b": term.background_prior(SIZE, 0.3),
    }
    return gj.Posterior(model, priors, [term], progress=False)


@pytest.mark.slow
def test_samplers_agree(posterior):
    """`fit`, `nuts` and `nested` on one posterior; the last two agree in mean and width."""
    fit = gj.fit(posterior, progress=False)
    assert fit.converged
    nuts = gj.nuts(jax.random.key(0), posterior, draws=400, warmup=200, chains=2, progress=False)
    nested = gj.nested(jax.random.key(1), posterior, live=60, precision=0.3, progress=False)
    one, other = (np.log(result.samples["amplitude"]) for result in (nuts, nested))
    assert abs(one.mean() - other.mean()) < 0.35 * one.std()
    assert 0.6 < one.std() / other.std() < 1.6
    assert abs(np.log(float(fit.parameters["amplitude"])) - one.mean()) < one.std()


def test_terms_add_up(posterior, runs):
    """ON/OFF and cells of other runs in one posterior."""
    term = posterior.terms[0]
    cells = gj.OnOffCounts(runs, EDGES, components="source", name="cells")
    both = gj.Posterior(model, posterior.priors, [gj.OnOff(term.runs, name="on"), cells], progress=False)
    p = {**posterior.reference_parameters, "amplitude": jnp.asarray(1.1)}
    expected = float(posterior.log_likelihood(p) + cells.log_likelihood(model(p)))
    assert float(both.log_likelihood(p)) == pytest.approx(expected, abs=1e-2)
    assert isinstance(both.terms[0], OnOffTerm)
    assert eqx.tree_equal(both.terms[0].kernel, term.kernel)


@pytest.mark.slow
def test_simulated_streams_are_those_of_the_likelihood(runs, terms):
    """Counts of many runs against expected ones, and mean logarithms of energies against integrals of the rates."""
    p = {**POINT, "amplitude": jnp.asarray(80.0), "b": POINT["b"] + 4.0}
    drawn = gj.simulate_on_off(jax.random.key(3), model(p), runs)
    expected = terms["unbinned"].expected_counts(model(p))
    off_part = [1.0 / (1.0 + one.ratio[0]) for one in runs]
    for i, one in enumerate(drawn):
        off = float(expected["background"][i]) * off_part[i]
        on = float(expected["background"][i]) - off + float(expected["source"][i])
        assert abs(one.off.size - off) < 4.0 * np.sqrt(off)
        assert abs(one.on.size - on) < 4.0 * np.sqrt(on)
        fine = np.geomspace(one.energy_min, HIGH, 2001)
        rate = one.livetime * (80.0 / 1.3 * source_rate(fine, (1.0, 0.7)[i]))
        rate += SOLID_ANGLE * one.livetime * np.exp(4.0) * background_rate(fine)
        mean = np.trapezoid(rate * fine * np.log(fine), np.log(fine)) / np.trapezoid(rate * fine, np.log(fine))
        assert abs(np.log(one.on).mean() - mean) < 4.0 * np.log(one.on).std() / np.sqrt(one.on.size)
    with pytest.raises(ValueError, match="one OffBackground"):
        gj.simulate_on_off(jax.random.key(3), gj.Mixture(source=model(p).parts[0]), runs)
