"""Real and labelled events, against published results or recorded labels."""

import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj
from benchmarks import counts

CRAB_RUNS = [23523, 23526, 23559, 23592]
# 3-D analysis of these four runs by Mohrmann et al. 2019 (arXiv:1910.08088): at 1.45 TeV
AMPLITUDE, AMPLITUDE_ERROR = 1.731e-11, 0.083e-11
INDEX, INDEX_ERROR = 2.692, 0.066


def crab(p):
    """Power law at the position of the Crab nebula, background with free norm and tilt."""
    spectrum = gj.PowerLaw(index=p["index"], amplitude=1e-11 * p["amplitude"], reference=1.45)
    return gj.Mixture(
        crab=gj.Source(spectrum, gj.Point(lon=83.6287, lat=22.0147)),
        background=gj.InstrumentBackground(norm=p["norm"], tilt=p["tilt"]),
    )


@pytest.mark.slow
def test_crab_agrees_with_published_fit(gammapy_data):
    data = gj.io.read_gadf(gammapy_data / "hess-dl3-dr1", obs_ids=CRAB_RUNS, offset_max=2.0, energy_range=(0.6, 50.0))
    priors = {
        "index": dist.Uniform(1.5, 4.0),
        "amplitude": dist.Uniform(0.1, 10.0),
        "norm": dist.Uniform(0.2, 5.0),
        "tilt": dist.Uniform(-1.0, 1.0),
    }
    best = gj.fit(gj.Posterior(crab, priors, data))
    assert best.converged
    assert abs(1e-11 * float(best.parameters["amplitude"]) - AMPLITUDE) < AMPLITUDE_ERROR
    assert abs(float(best.parameters["index"]) - INDEX) < INDEX_ERROR


@pytest.mark.slow
def test_background_fraction_agrees_with_labels(gammapy_data):
    """Run 111630 of the data challenge without Vela X and a nebula: Vela Junior on the background."""
    excluded = "icrs; circle(128.75,-45.6,1.1)\nicrs; circle(129.45,-43.38,0.5)"
    with pytest.warns(UserWarning, match="normalised"):  # the responses of the challenge are not
        events, observations = gj.io.read_gadf(
            gammapy_data / "cta-1dc" / "index" / "gps",
            obs_ids=[111630],
            offset_max=2.5,
            energy_range=(0.15, 5.0),
            exclusion=excluded,
            labels=True,
        )
    assert events.component is not None
    truth = float(np.mean(events.component == 1))  # MC_ID 1: background

    def model(p):
        return gj.Mixture(
            vela_junior=gj.Source(gj.PowerLaw(p["index"]), gj.Disk(133.0, -46.37, 1.0, edge=0.2)),
            background=gj.InstrumentBackground(tilt=p["tilt"]),
            weights={"vela_junior": p["fraction"]},
        )

    priors = {"fraction": dist.Uniform(0.0, 0.3), "index": dist.Uniform(1.0, 4.0), "tilt": dist.Uniform(-0.5, 0.5)}
    best = gj.fit(gj.Posterior(model, priors, observations, events))
    deviation = float(best.standard_deviations["fraction"])
    assert deviation < 0.006
    assert abs(1.0 - float(best.parameters["fraction"]) - truth) < 3.0 * deviation


@pytest.fixture(scope="module")
def runs(gammapy_data):
    return {obs_id: counts.read(gammapy_data / "hess-dl3-dr1", obs_id) for obs_id in (23523, 20326)}


@pytest.mark.slow
def test_counts_of_steep_spectra_agree_with_a_quadrature(runs):
    """Maps of gammapy have the area at reconstructed directions: up to 0.6 % less."""
    for obs_id, (run, observation) in runs.items():
        place = counts.RUNS[obs_id]
        source = gj.Source(gj.PowerLaw(counts.INDEX, counts.AMPLITUDE), gj.Point(*place))
        exact = counts.Photons(run).at(float(observation.offset(*place)))
        assert float(gj.expected_counts(source, observation)) == pytest.approx(exact, rel=4e-4)


def test_counts_of_backgrounds_agree_with_a_quadrature(runs):
    """Tables of H.E.S.S. have kinks at every tenth of a degree, and falls by decades below the threshold."""
    for run, observation in runs.values():
        assert observation.offset_max == counts.OFFSET
        number = float(gj.expected_counts(gj.InstrumentBackground(), observation))
        assert number == pytest.approx(counts.background(run), rel=5e-4)
