import numpy as np
import pytest

import gammajax as gj
from gammajax.model.darkmatter.yields import embedded

MASS, LOG10_X = [100.0, 200.0, 500.0], [-2.0, -1.0, -0.5, 0.0]


def write(path, columns, change=lambda rows: rows):
    rows = [[m, x, *(c * 10.0 ** (-x) * m for c in range(1, len(columns) - 1))] for m in MASS for x in LOG10_X]
    lines = [" ".join(columns), *(" ".join(map(str, row)) for row in change(rows))]
    path.write_text("\n".join(lines) + "\n")
    return path


PPPC = ["mDM", "Log[10,x]", r"\[Mu]L", r"\[Tau]", "WT", r"\[Gamma]", r"\[Nu]\[Mu]", r"V->\[Tau]", "b"]
COSMIXS = ["#", "DM", "Log10[x]", *(f"dNdLog10x[{n}]" for n in ("muL", "tau", "WT", "a", "numu", "H", "aZ"))]


def test_both_formats(tmp_path):
    pppc = gj.io.read_yields(write(tmp_path / "AtProductionNoEW_gammas.dat", PPPC))
    assert pppc.channels == ("mu_L", "tau", "W_T", "gamma", "nu_mu", "V->tau", "b")
    path = tmp_path / "AtProduction-Gamma.dat"
    write(path, COSMIXS[1:])
    path.write_text("# " + path.read_text())
    cosmixs = gj.io.read_yields(path)
    assert cosmixs.channels == ("mu_L", "tau", "W_T", "gamma", "nu_mu", "h", "aZ")
    np.testing.assert_allclose(cosmixs.mass, [0.1, 0.2, 0.5])
    np.testing.assert_allclose(cosmixs.values[1, 2], np.arange(1, 8) * 10**0.5 * 200.0)
    assert float(gj.DarkMatter("aZ", mass=0.3, yields=cosmixs)(np.array([0.1]))[0]) > 0
    with pytest.raises(ValueError, match="unknown annihilation channel 'b'; the channels are mu_L"):
        gj.DarkMatter("b", mass=0.3, yields=cosmixs)


def test_the_table_of_gammapy_is_the_embedded_one(gammapy_data):
    table, ours = gj.io.read_yields(gammapy_data / "dark_matter_spectra/PPPC4DMID/AtProduction_gammas.dat"), embedded()
    assert table.channels == ours.channels
    np.testing.assert_allclose(table.values, ours.values, rtol=1e-3)


@pytest.mark.parametrize(
    ("columns", "change", "message"),
    [
        (PPPC, lambda rows: rows[::-1], "must hold a full grid, with the masses and then log10 x increasing"),
        (PPPC, lambda rows: rows[:-1], "must hold a full grid"),
        (PPPC, lambda rows: [[*r[:-1], -1.0] for r in rows], "must be finite and not negative"),
        (["m", "x", "b"], lambda rows: rows, "must have the columns mDM"),
        (PPPC, lambda rows: [["a"] * 9], "cannot be read as a table of photon yields"),
    ],
)
def test_errors(tmp_path, columns, change, message):
    with pytest.raises(ValueError, match=message):
        gj.io.read_yields(write(tmp_path / "a.dat", columns, change))
    with pytest.raises(FileNotFoundError):
        gj.io.read_yields(tmp_path / "none.dat")


def test_axes_must_increase():
    with pytest.raises(ValueError, match="the masses of a table of photon yields must be finite and increasing"):
        gj.darkmatter.Yields(np.array([2.0, 1.0]), np.array([-1.0, 0.0]), ("b",), np.ones((2, 2, 1)))
