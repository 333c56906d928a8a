"""Small response functions made with gammapy, and the files they are written to."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def functions():
    """`{name: gammapy response function}`: one effective area and energy dispersion, all PSF and background classes."""
    from astropy import units as u
    from gammapy.irf import (
        PSF3D,
        Background2D,
        Background3D,
        EffectiveAreaTable2D,
        EnergyDependentMultiGaussPSF,
        EnergyDispersion2D,
        PSFKing,
    )
    from gammapy.maps import MapAxis

    true = MapAxis.from_energy_bounds("0.05 TeV", "50 TeV", nbin=12, name="energy_true")
    reco = MapAxis.from_energy_bounds("0.1 TeV", "20 TeV", nbin=7, name="energy")
    offset = MapAxis.from_edges([0.0, 1.0, 2.0, 3.5, 5.0], unit="deg", name="offset")
    migra = MapAxis.from_bounds(0.0, 3.0, 150, name="migra", node_type="edges")
    rad = MapAxis.from_edges(np.linspace(0.0, 0.7, 71) ** 1.5, unit="deg", name="rad")
    lon = MapAxis.from_bounds(-5.0, 5.0, 25, unit="deg", name="fov_lon", node_type="edges")
    lat = MapAxis.from_bounds(-4.0, 4.0, 16, unit="deg", name="fov_lat", node_type="edges")
    e, o = true.center.value[:, None], offset.center.value[None, :]

    gauss = np.zeros((12, 4), [(n, np.float32) for n in EnergyDependentMultiGaussPSF.required_parameters])
    gauss["sigma_1"], gauss["sigma_2"], gauss["sigma_3"] = 0.06 * e**-0.2 * (1 + 0.1 * o), 0.15 + 0.02 * o, 0.3
    gauss["ampl_2"], gauss["ampl_3"] = 0.2 + 0.01 * o, 0.0
    sigma2 = gauss["sigma_1"] ** 2 + gauss["ampl_2"] * gauss["sigma_2"] ** 2
    gauss["scale"] = 1.0 / (2 * np.pi * sigma2 * (np.pi / 180) ** 2)
    king = np.zeros((12, 4), [(n, np.float32) for n in PSFKing.required_parameters])
    king["sigma"], king["gamma"] = 0.05 * e**-0.2 * (1 + 0.1 * o), 2.0 + 0.1 * o
    profile = np.exp(-0.5 * (rad.center.value / 0.1) ** 2) * np.ones((12, 4, 1)) / (2 * np.pi * 0.1**2)

    bumps = 1e-4 * reco.center.value[:, None, None] ** -2.7 * np.exp(-0.1 * (lon.center.value[:, None] - 1.0) ** 2)
    bumps = bumps * np.exp(-0.05 * (lat.center.value - 0.5) ** 2)
    bumps[-1, 3] = 0.0
    rates = 1e-4 * reco.center.value[:, None] ** -2.7 * np.exp(-0.2 * o**2)
    gauss_unit = {n: u.Unit("deg" if "sigma" in n else "sr-1" if n == "scale" else "") for n in gauss.dtype.names}
    return {
        "aeff": EffectiveAreaTable2D([true, offset], 1e5 * e**0.5 * np.exp(-0.1 * o**2), "m2"),
        "edisp": EnergyDispersion2D.from_gauss(true, migra, offset, bias=0.05, sigma=0.15),
        "psf_3gauss": EnergyDependentMultiGaussPSF([true, offset], gauss, gauss_unit),
        "psf_king": PSFKing([true, offset], king, {"sigma": u.deg, "gamma": u.one}),
        "psf_table": PSF3D([true, offset, rad], profile * (180 / np.pi) ** 2, "sr-1"),
        "bkg_2d": Background2D([reco, offset], rates, "s-1 MeV-1 sr-1"),
        "bkg_3d": Background3D([reco, lon, lat], bumps, "s-1 MeV-1 sr-1"),
        "bkg_altaz": Background3D([reco, lon, lat], bumps, "s-1 MeV-1 sr-1", fov_alignment="ALTAZ"),
    }


@pytest.fixture(scope="session")
def make_hdu(functions):
    """`make_hdu("aeff")` is the table of a response function."""
    from gammapy.irf.io import IRF_DL3_HDU_SPECIFICATION

    def make(name):
        function = functions[name]
        hdu = function.to_table_hdu(format="gadf-dl3")
        # gammapy leaves these out for parametric point spread functions
        keywords = IRF_DL3_HDU_SPECIFICATION[function.tag]["mandatory_keywords"]
        hdu.header.update({k: v for k, v in keywords.items() if k not in hdu.header})
        return hdu

    return make


@pytest.fixture(scope="session")
def write(make_hdu):
    """`write(path, "aeff", ...)` writes response functions to one file, `change(hdu)` can edit each."""
    from astropy.io import fits

    def write(path, *names, change=lambda hdu: hdu):
        hdus = [change(make_hdu(name)) for name in names]
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
        return path

    return write
