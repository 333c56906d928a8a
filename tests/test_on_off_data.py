"""Published spectra of the Crab nebula by MAGIC and VERITAS (Nigro et al. 2019) from their ON and OFF events."""

import os
from pathlib import Path

import numpy as np
import numpyro.distributions as dist
import pytest
import yaml

import gammajax as gj

CRAB = (83.63308, 22.01450)
# of reconstructed energies [TeV], from the published fits; errors by which values may differ: OFF regions lie elsewhere
# than in the paper, and the background is marginalised
CASES = {
    "veritas": ((0.158489319, 28.18382931), 0.2),
    "magic": ((0.0891250938, 28.18382931), 0.65),
    "fact": ((0.4, 30.0), 0.65),  # whose OFF events have a threshold within
}


@pytest.fixture(scope="module")
def joint_crab():
    beside = Path(os.environ.get("GAMMAPY_DATA", "/nowhere")).parent / "joint-crab"
    path = Path(os.environ.get("JOINT_CRAB", beside))
    if not path.is_dir():
        pytest.skip("set JOINT_CRAB to the folder of the joint-crab data to run this test")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_log_parabolas_agree_with_published_fits(joint_crab, name):
    energies, within = CASES[name]
    runs = gj.io.read_on_off(joint_crab / "data" / name, target=CRAB, energy_range=energies, warn=False)
    term = gj.OnOff(runs)

    def model(p):
        spectrum = gj.LogParabola(p["alpha"], p["beta"], 1e-11 * p["amplitude"])
        background = gj.OffBackground(p["b"], *term.energy_range)
        return gj.Mixture(crab=gj.Source(spectrum, gj.Point(*CRAB)), background=background)

    priors = {
        "amplitude": dist.Uniform(0.5, 10.0),
        "alpha": dist.Uniform(1.0, 4.0),
        "beta": dist.Uniform(-0.5, 1.0),
        "b": term.background_prior(),
    }
    fit = gj.fit(gj.Posterior(model, priors, [term], progress=False), progress=False)
    assert fit.converged
    published = yaml.safe_load((joint_crab / f"results/fit/fit_{name}.yaml").read_text())["parameters"]
    # of the logarithm to base ten
    scales = {"amplitude": 1e11, "alpha": 1.0, "beta": 1.0 / np.log(10.0)}
    for of in published:
        scale = scales.get(of["name"])
        if scale is not None:
            value, error = float(fit.parameters[of["name"]]), scale * of["error"]
            assert abs(value - scale * of["value"]) < within * error, of["name"]
            assert float(fit.standard_deviations[of["name"]]) == pytest.approx(error, rel=0.2), of["name"]
