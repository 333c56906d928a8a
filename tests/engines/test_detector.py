import numpy as np
import pytest

import gammajax as gj
from gammajax.engines.detector import Detector
from gammajax.engines.energy import EnergyNodes
from gammajax.instrument.runs import Runs

OFFSETS = np.array([0.0, 0.7, 1.5])


@pytest.fixture(scope="module")
def fields(observation):
    return {"small": observation, "ctao": gj.io.ctao("North", pointing=(0.0, 0.0), energy_range=(0.5, 8.0))}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "ctao"])
@pytest.mark.parametrize("per_decade", [30.0, 40.0])
def test_dispersions_at_nodes_keep_all_photons(fields, name, per_decade):
    nodes = EnergyNodes(0.3, 10.0, per_decade)
    detector = Detector.init(Runs.of((fields[name],)), nodes, OFFSETS)
    density, y = np.asarray(detector.dispersion, np.float64)[0], np.asarray(detector.y.nodes, np.float64)
    photons = np.trapezoid(density, y, axis=1)
    # the table in y is finer than that of the file, but misses its kinks: a scatter without a mean
    np.testing.assert_allclose(photons, 1.0, atol=3e-4)
    np.testing.assert_allclose(photons.mean(0), 1.0, atol=2e-5)
