import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits

import gammajax as gj
from gammajax.cli.configurations import builtin, parse

ENERGY = np.geomspace(1e7, 1e11, 40)  # keV, 10 GeV to 100 TeV
REDSHIFT = np.array([0.01, 0.1, 0.3])


def transmission(energy_kev, redshift):
    return np.exp(-10.0 * redshift * (energy_kev / 1e9) ** 0.8)


@pytest.fixture
def path(tmp_path):
    """A file in the XSPEC table format with the units that published files leave out."""
    edges = np.append(ENERGY, ENERGY[-1] ** 2 / ENERGY[-2])
    middle = np.sqrt(edges[1:] * edges[:-1])
    parameters = fits.BinTableHDU.from_columns([fits.Column("VALUE", "3E", array=REDSHIFT[None])], name="PARAMETERS")
    energies = fits.BinTableHDU.from_columns(
        [fits.Column("ENERG_LO", "E", array=edges[:-1]), fits.Column("ENERG_HI", "E", array=edges[1:])],
        name="ENERGIES",
    )
    spectra = fits.BinTableHDU.from_columns(
        [
            fits.Column("PARAMVAL", "E", array=REDSHIFT),
            fits.Column("INTPSPEC", "40E", array=transmission(middle, REDSHIFT[:, None])),
        ],
        name="SPECTRA",
    )
    path = tmp_path / "ebl.fits"
    fits.HDUList([fits.PrimaryHDU(), parameters, energies, spectra]).writeto(path)
    return path


def test_file_against_gammapy_and_its_formula(path):
    from gammapy.modeling.models import EBLAbsorptionNormSpectralModel

    absorption = gj.io.read_absorption(path, redshift=0.1, alpha_norm=0.8)
    energy = np.geomspace(0.02, 5.0, 30)
    value = np.asarray(absorption(jnp.asarray(energy)))
    np.testing.assert_allclose(value, transmission(energy * 1e9, 0.1) ** 0.8, rtol=2e-2)
    model = EBLAbsorptionNormSpectralModel.read(path, redshift=0.1, alpha_norm=0.8)
    np.testing.assert_allclose(value, model(energy * u.TeV).to_value(""), rtol=1e-4)


def test_in_a_configuration(path):
    text = builtin("template").replace("{type: power-law, index: index}", "{type: power-law, index: 0, amplitude: 1}")
    text = text.replace("      morphology: {", f"      absorption: {{path: {path}, redshift: z}}\n      morphology: {{")
    model = parse(text.replace("  index: {", "  z: {")).model.function()

    @jax.jit
    def flux(z):
        return model({"z": z, "fraction": 0.3}).components["signal"].spectrum(jnp.ones(1))[0]

    assert float(flux(0.2)) == pytest.approx(transmission(1e9, 0.2), rel=2e-2)
    assert float(jax.grad(flux)(0.2)) == pytest.approx(-10.0 * transmission(1e9, 0.2), rel=3e-2)


def test_zeros_are_dark(path):
    with fits.open(path, mode="update") as file:
        file["SPECTRA"].data["INTPSPEC"][:, -1] = 0.0
    absorption = gj.io.read_absorption(path, redshift=0.3)
    assert float(absorption(jnp.asarray(100.0))) < 1e-30 and np.all(np.isfinite(absorption.optical_depth))


def test_bad_files(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file with an absorption table"):
        gj.io.read_absorption(tmp_path / "none.fits")
    (tmp_path / "text.fits").write_text("no table")
    with pytest.raises(ValueError, match="cannot be read as an absorption table"):
        gj.io.read_absorption(tmp_path / "text.fits")
    with pytest.raises(ValueError, match="redshift 2.0 is outside"):
        gj.io.read_absorption(path, redshift=2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda file: file["ENERGIES"].data["ENERG_LO"].fill(np.nan),
            "ENERG_LO and ENERG_HI .* positive, finite",
        ),
        (
            lambda file: file["ENERGIES"].data["ENERG_HI"].fill(-1.0),
            "ENERG_LO and ENERG_HI .* positive, finite",
        ),
        (lambda file: file["ENERGIES"].columns.change_name("ENERG_LO", "FOO"), "ENERG_LO' does not exist"),
        (lambda file: file["SPECTRA"].columns.change_name("INTPSPEC", "FOO"), "there is no column INTPSPEC"),
        (lambda file: file.pop(3), "Extension 'SPECTRA' not found"),
        (lambda file: file["SPECTRA"].data["INTPSPEC"].__imul__(3.0), "between 0 and 1, they reach 0 and 2.9"),
        (lambda file: file["SPECTRA"].data["INTPSPEC"].fill(np.nan), "between 0 and 1, they reach nan"),
        (lambda file: unit(file, "GeV"), "TeV of ENERGIES are far .*: look at their unit, keV where there is none"),
        (lambda file: unit(file, "banana"), "'banana' is unrecognized"),
        (lambda file: unit(file, "cm"), "'cm' .* not convertible"),
    ],
)
def test_faults_are_named(change, message, path, tmp_path):
    with fits.open(path) as file:
        change(file)
        file.writeto(tmp_path / "edited.fits")
    with pytest.raises(ValueError, match=f"edited.fits cannot be read as an absorption table: .*{message}") as error:
        gj.io.read_absorption(tmp_path / "edited.fits")
    assert "\n" not in str(error.value)


def unit(file, text):
    for name in ("ENERG_LO", "ENERG_HI"):
        file["ENERGIES"].columns.change_unit(name, text)
