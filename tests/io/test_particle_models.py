import os
from pathlib import Path

import numpy as np
import pytest

import gammajax as gj

AXES = {"mass": "mS [GeV]", "coupling": "lahS"}


def write_csv(path, rows, columns='"mS [GeV]" lahS bb W+W- uu Zgamma'):
    lines = [" " + columns, *(f"{n} " + " ".join(map(str, row)) for n, row in enumerate(rows))]
    path.write_text("\n".join(lines) + "\n")
    return path


def rows(masses=(100.0, 1000.0), couplings=(0.01, 0.1, 1.0), other=0.0):
    # either order of the axes occurs
    return [(m, c, c * 1e-26, m * c * 1e-28, 1e-27, other) for c in couplings for m in masses]


def test_csv_in_the_layout_of_the_scalar_singlet(tmp_path):
    model = gj.io.read_particle_model(write_csv(tmp_path / "z2.csv", rows()), AXES)
    assert model.channels == ("b", "W", "q") and model.names == ("mass", "coupling")
    assert float(model.sigma_v(mass=1.0, coupling=0.1)) == pytest.approx(1e-27 + 1e-26 + 1e-27, rel=1e-4)
    assert float(model.ratios(mass=1.0, coupling=0.1)["W"]) == pytest.approx(10 / 12, rel=1e-5)
    again = gj.io.read_particle_model(write_csv(tmp_path / "b.csv", rows()[::-1]), AXES)
    np.testing.assert_array_equal(again.branching.values, model.branching.values)


def test_hdf5_in_the_layout_of_two_components(tmp_path):
    import h5py

    one, two = (a.ravel() for a in np.meshgrid([100.0, 300.0, 900.0], [100.0, 900.0], indexing="ij"))
    with h5py.File(tmp_path / "z5.h5", "w") as file:
        file["mdm1"], file["mdm2"], file["units"] = one, two, "GeV"
        for group, share in (("x1X1", 0.75), ("x2X2", 0.25)):
            for state, part in (("W+W-", 0.6), ("bB", 0.4), ("hX1", 0.0)):
                file[f"{group}/{state}"] = np.full(one.size, share * part)
    parts = {
        name: gj.io.read_particle_model(tmp_path / "z5.h5", {"mass_1": "mdm1", "mass_2": "mdm2"}, group=group)
        for name, group in (("mass_1", "x1X1"), ("mass_2", "x2X2"))
    }
    point = {"mass_1": 0.3, "mass_2": 0.5}
    spectra = [
        gj.DarkMatter(part.ratios(**point), mass=point[name], sigma_v=2e-26 * part.sigma_v(**point))
        for name, part in parts.items()
    ]
    assert [float(s.sigma_v) for s in spectra] == pytest.approx([1.5e-26, 0.5e-26], rel=1e-5)
    assert float(sum(spectra)(np.array([0.2]))[0]) > float(spectra[0](np.array([0.2]))[0]) > 0
    with pytest.raises(ValueError, match=r"no group 'y'; there are \['x1X1', 'x2X2'\]"):
        gj.io.read_particle_model(tmp_path / "z5.h5", {"mass_1": "mdm1"}, group="y")


@pytest.mark.parametrize(
    ("table", "axes", "message"),
    [
        (rows(other=1e-27), AXES, "final state 'Zgamma' has no channel"),
        (rows()[:-1], AXES, "has 5 points, which are not a full grid"),
        (rows(), {"mass": "mDM"}, "there is no 'mDM'"),
        ([("x",) * 6], AXES, "cannot be read as a particle model"),
    ],
)
def test_errors(tmp_path, table, axes, message):
    with pytest.raises(ValueError, match=message):
        gj.io.read_particle_model(write_csv(tmp_path / "a.csv", table), axes)


def test_a_channel_of_ones_own(tmp_path):
    path = write_csv(tmp_path / "a.csv", rows(other=1e-27))
    model = gj.io.read_particle_model(path, AXES, channels={"Zgamma": "invisible"})
    assert "invisible" in model.channels


@pytest.fixture(scope="module")
def gammabayes_data():
    path = os.environ.get("GAMMABAYES_DATA")
    if not path or not Path(path).is_dir():
        pytest.skip("set GAMMABAYES_DATA to gammabayes/dark_matter/spectral_models to read its tables")
    return Path(path)


@pytest.mark.parametrize("name", ["darkSUSY", "dimauromattia"])
def test_the_scalar_singlet(gammabayes_data, name):
    path = gammabayes_data / f"Z2_ScalarSinglet/annihilation_ratio_data/annihilation_ratios__{name}.csv"
    unseen = {"Zgamma": "invisible", "hadrons (below confinement scale)": "invisible"}
    model = gj.io.read_particle_model(path, AXES, channels=unseen)
    ratios = model.ratios(mass=2.0, coupling=0.1)
    # Goldstone equivalence: W+W- : ZZ : hh = 2 : 1 : 1 far above the thresholds, where each is open
    assert float(ratios["W"]) / float(ratios["Z"]) == pytest.approx(2.0, rel=0.05)
    low, high = (float(model.sigma_v(mass=2.0, coupling=c)) for c in (0.05, 0.1))
    assert high / low == pytest.approx(4.0, rel=0.15)


def test_the_z5_model(gammabayes_data):
    path = gammabayes_data / "Z5/annihilation_ratio_data/z5_101x101_ratios.h5"
    axes, unseen = {"mass_1": "mdm1", "mass_2": "mdm2"}, dict.fromkeys(["hX1", "hx1", "hx2", "AW+W-"], "invisible")
    groups = [gj.io.read_particle_model(path, axes, unseen, group) for group in ("x1X1", "x2X2")]
    # of equal masses each component makes half of the annihilations
    assert float(sum(g.sigma_v(mass_1=0.1, mass_2=0.1) for g in groups)) == pytest.approx(1.0, abs=0.01)
