"""Catalogues: small tables in the formats of the published files, against gammapy's own models of their sources."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from gammapy.catalog import (
    SourceCatalog2FHL,
    SourceCatalog2HWC,
    SourceCatalog3FGL,
    SourceCatalog3FHL,
    SourceCatalog3HWC,
    SourceCatalog4FGL,
    SourceCatalogHGPS,
)

import gammajax as gj

DNDE = u.Unit("cm-2 s-1 TeV-1")
PLACES = {
    "ra": [83.63, 84.5, 120.0],
    "dec": [22.01, 21.0, -10.0],
    "glon": [184.55, 185.8, 229.8],
    "glat": [-5.79, -5.6, 9.9],
}


def write_2hwc(folder):
    table = Table({"source_name": ["2HWC J0534+220", "2HWC A", "2HWC far"]})
    for name, values in PLACES.items():
        table[name] = values * u.deg
    table["pos_err"] = [0.1, 0.1, 0.1] * u.deg
    for i, flux in enumerate(([1.8e-13, 5e-15, 1e-14], [np.nan, 9e-15, np.nan])):
        table[f"spec{i}_dnde"], table[f"spec{i}_dnde_err"] = flux * DNDE, 0.1 * np.array(flux) * DNDE
        table[f"spec{i}_index"], table[f"spec{i}_index_err"] = [-2.58, -2.4, -2.0], [0.1, 0.1, 0.1]
        table[f"spec{i}_radius"] = [0.0, 0.7 * i, 0.0] * u.deg
    table.write(folder / "2HWC.ecsv", format="ascii.ecsv")
    return folder / "2HWC.ecsv", SourceCatalog2HWC


def write_3hwc(folder):
    table = Table({"source_name": ["3HWC J0534+220", "3HWC A", "3HWC far"]})
    for name, values in PLACES.items():
        table[name] = values * u.deg
    table["pos_err"], table["spec0_radius"] = [0.1, 0.1, 0.1] * u.deg, [0.0, 0.7, 0.0] * u.deg
    for name, value in {"dnde": [2.3e-13, 6e-15, 1e-14] * DNDE, "index": np.array([-2.58, -2.4, -2.0])}.items():
        table[f"spec0_{name}"] = value
        table[f"spec0_{name}_errn"], table[f"spec0_{name}_errp"] = -0.1 * abs(value), 0.1 * abs(value)
    table.write(folder / "3HWC.ecsv", format="ascii.ecsv")
    return folder / "3HWC.ecsv", SourceCatalog3HWC


def fermi(sources, extended, more, header=()):
    names = ["Source_Name", "Extended_Source_Name", "ASSOC1", "ASSOC2", "ASSOC_TEV", "ASSOC_GAM", "SpectrumType"]
    table = Table({name: sources.get(name, ["", "", ""]) for name in names} | sources)
    table["RAJ2000"], table["DEJ2000"] = PLACES["ra"] * u.deg, PLACES["dec"] * u.deg
    for name in ("Conf_95_SemiMajor", "Conf_95_SemiMinor", "Conf_95_PosAng"):
        table[name] = [0.02, 0.02, 0.02] * u.deg
    hdus = [fits.PrimaryHDU()]
    for name, part in {"LAT_Point_Source_Catalog": table, "ExtendedSources": extended, **more}.items():
        hdus.append(fits.table_to_hdu(part))
        hdus[-1].name = name
    hdus[1].header.update(dict(header))
    return fits.HDUList(hdus)


def shape(kind):
    axes = {name: [value] * u.deg for name, value in (("Model_SemiMajor", 0.5), ("Model_SemiMinor", 0.3))}
    return Table({"Source_Name": ["Cloud"], kind[0]: [kind[1]], **axes, "Model_PosAng": [30.0] * u.deg})


BOUNDS = Table({"LowerEnergy": [50.0, 100.0] * u.MeV, "UpperEnergy": [100.0, 300.0] * u.MeV})


def write_3fhl(folder):
    flux = [2e-10, 3e-12, 1e-12] * u.Unit("cm-2 s-1 GeV-1")
    sources = {
        "Source_Name": ["3FHL J0534.5+2201", "3FHL A", "3FHL far"], "Extended_Source_Name": ["", "Cloud", ""],
        "SpectrumType": ["PowerLaw", "LogParabola", "PowerLaw"], "Pivot_Energy": [40.0, 30.0, 20.0] * u.GeV,
        "Flux_Density": flux, "Unc_Flux_Density": 0.1 * flux, "PowerLaw_Index": [2.2, 2.3, 2.5],
        "Unc_PowerLaw_Index": [0.1, 0.1, 0.1], "Spectral_Index": [2.2, 1.9, 2.5], "Unc_Spectral_Index": [0.1, 0.1, 0.1],
        "beta": [0.0, 0.2, 0.0], "Unc_beta": [0.0, 0.1, 0.0], "Flux_Band": np.ones((3, 5)),
    }  # fmt: skip
    more = {"ROIs": Table({"ROI": [1]}), "EnergyBounds": BOUNDS}
    fermi(sources, shape(("Spatial_Function", "RadialDisk")), more).writeto(folder / "3fhl.fits")
    return folder / "3fhl.fits", SourceCatalog3FHL


def write_4fgl(folder):
    flux = [2e-12, 3e-14, 1e-14] * u.Unit("cm-2 s-1 MeV-1")
    sources = {
        "Source_Name": ["4FGL J0534.5+2200", "4FGL A", "4FGL far"], "Extended_Source_Name": ["", "Cloud", ""],
        "SpectrumType": ["PLSuperExpCutoff", "LogParabola", "PowerLaw"], "Pivot_Energy": [1e3, 3e3, 2e3] * u.MeV,
        "Flux_Band": np.ones((3, 2)),
        "PL_Index": [2.2, 2.3, 2.5], "LP_Index": [2.2, 1.9, 2.5], "LP_beta": [0.0, 0.1, 0.0],
        "PLEC_IndexS": [2.1, 0.0, 0.0], "PLEC_ExpfactorS": [0.3, 0.0, 0.0], "PLEC_Exp_Index": [0.67, 0.0, 0.0],
    }  # fmt: skip
    sources |= {f"{kind}_Flux_Density": flux for kind in ("PL", "LP", "PLEC")}
    sources |= {f"Unc_{name}": 0.1 * u.Quantity(value) for name, value in sources.items() if name[:2] in ("PL", "LP")}
    sources |= {name: ["", "", ""] for name in ("ASSOC_FGL", "ASSOC_FHL", "ASSOC_GAM1", "ASSOC_GAM2", "ASSOC_GAM3")}
    hdus = fermi(sources, shape(("Model_Form", "2D Gaussian")), {"EnergyBounds": BOUNDS}, [("VERSION", "v32")])
    hdus.writeto(folder / "4fgl.fits")
    return folder / "4fgl.fits", SourceCatalog4FGL


def write_hgps(folder):
    place = {"GLON": [184.55, 185.8, 229.8] * u.deg, "GLAT": [-5.79, -5.6, 9.9] * u.deg}
    sources = Table({"Source_Name": ["HESS J0534+220", "HESS A", "HESS far"], "Source_Class": ["Unid"] * 3, **place})
    sources["RAJ2000"], sources["DEJ2000"] = PLACES["ra"] * u.deg, PLACES["dec"] * u.deg
    sources["Identified_Object"] = ["", "", ""]
    sources["Spatial_Model"] = ["Shell", "2-Gaussian", "Point-Like"]
    sources["Components"] = ["", "HGPSC 001, HGPSC 002", ""]
    sources["Size"], sources["Flux_Map"] = [0.4, 0.2, 0.0] * u.deg, [1e-11, 4e-12, 1e-12] * u.Unit("cm-2 s-1")
    sources["Spectral_Model"] = ["ECPL", "PL", "PL"]
    for kind in ("PL", "ECPL"):
        sources[f"Index_Spec_{kind}"] = [2.3, 2.1, 2.6]
        sources[f"Flux_Spec_{kind}_Diff_Pivot"] = [3e-12, 4e-13, 1e-13] * DNDE
        sources[f"Energy_Spec_{kind}_Pivot"] = [1.5, 2.0, 1.0] * u.TeV
        for name in ("Index_Spec_{}_Err", "Flux_Spec_{}_Diff_Pivot_Err"):
            sources[name.format(kind)] = 0.1 * sources[name.format(kind)[:-4]]
    sources["Lambda_Spec_ECPL"], sources["Lambda_Spec_ECPL_Err"] = [0.1, 0, 0] / u.TeV, [0.01, 0, 0] / u.TeV
    parts = Table(
        {"Component_ID": ["HGPSC 001", "HGPSC 002"], "GLON": [185.7, 185.9] * u.deg, "GLAT": [-5.6] * 2 * u.deg}
    )
    parts["Size"], parts["Flux_Map"] = [0.2, 0.0] * u.deg, [3e-12, 1e-12] * u.Unit("cm-2 s-1")
    for table in (sources, parts):
        for name in ("GLON", "GLAT", "Size"):
            table[f"{name}_Err"] = np.full(len(table), 0.01) * u.deg
    other = Table({"Source_Name": ["HESS J0534+220"], "Separation": [0.1] * u.deg})
    tables = {"HGPS_SOURCES": sources, "HGPS_GAUSS_COMPONENTS": parts, "HGPS_ASSOCIATIONS": other}
    tables |= {"HGPS_IDENTIFICATIONS": other, "HGPS_LARGE_SCALE_COMPONENT": other}
    hdus = [fits.PrimaryHDU()]
    for name, table in tables.items():
        hdus.append(fits.table_to_hdu(table))
        hdus[-1].name = name
    fits.HDUList(hdus).writeto(folder / "hgps.fits")
    return folder / "hgps.fits", SourceCatalogHGPS


WRITERS = {"2hwc": write_2hwc, "3hwc": write_3hwc, "3fhl": write_3fhl, "4fgl": write_4fgl, "hgps": write_hgps}
CENTRE = SkyCoord(0.0, 0.0, unit="deg", frame="galactic")
ENERGY = np.array([0.5, 2.0, 7.0])


@pytest.mark.parametrize("name", WRITERS)
def test_sources_of_a_region(name, tmp_path):
    path, kind = WRITERS[name](tmp_path)
    ours = gj.io.catalog(path, centre=(84.0, 21.5), radius=3.0)
    sources = kind(str(path))
    crab, second = sources[0], sources[1]
    parts = ["HGPSC 001", "HGPSC 002"] if name == "hgps" else []
    assert set(ours.components) == {crab.name} | ({f"{second.name} {part}" for part in parts} or {second.name})
    for source in (crab, second):
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # a size of zero
            models = source.components_models() if name == "hgps" else [source.sky_model()]
        for model in models:
            component = ours.components[model.name if model.name == source.name else f"{source.name} {model.name}"]
            np.testing.assert_allclose(
                np.asarray(component.spectrum(ENERGY)),
                model.spectral_model(ENERGY * u.TeV).to_value(DNDE),
                rtol=1e-4,
                atol=1e-28,
            )
            place = model.spatial_model.position.icrs
            assert float(component.morphology.lon) == pytest.approx(place.ra.deg, abs=1e-4)
            assert float(component.morphology.lat) == pytest.approx(place.dec.deg, abs=1e-4)
    # the flux of the crab alone is larger than this
    flux = crab.spectral_model().integral(1 * u.GeV, 10 * u.GeV).to_value("cm-2 s-1")
    limit = {"minimum_flux": 0.9 * flux * u.Unit("cm-2 s-1"), "flux_range": (1e-3, 1e-2)}
    bright = gj.io.catalog(sources, centre=(184.5, -5.8), radius=3.0, frame="galactic", **limit)
    assert list(bright.components) == [crab.name]


def test_shapes_of_catalogues(tmp_path):
    extended = gj.io.catalog(write_2hwc(tmp_path)[0], centre=(84.5, 21.0), radius=0.1, which="extended").components[
        "2HWC A"
    ]
    assert isinstance(extended.morphology, gj.Disk) and float(extended.morphology.r_0) == pytest.approx(0.7)
    cloud = gj.io.catalog(write_4fgl(tmp_path)[0], centre=(84.5, 21.0), radius=0.1).components["4FGL A"].morphology
    assert isinstance(cloud, gj.Gaussian) and float(cloud.axis_ratio) == pytest.approx(0.6)
    # a Gaussian of no size is a point
    parts = gj.io.catalog(write_hgps(tmp_path)[0], centre=(84.5, 21.0), radius=0.1).components
    assert isinstance(parts["HESS A HGPSC 002"].morphology, gj.Point)


def test_a_source_without_spectrum_is_named(tmp_path, monkeypatch):
    path, kind = write_2hwc(tmp_path)
    # the catalogue of LHAASO has sources that one of its arrays did not see
    original = kind.source_object_class.sky_model
    unseen = lambda source, **options: None if source.name == "2HWC A" else original(source, **options)  # noqa: E731
    with monkeypatch.context() as changed:
        changed.setattr(kind.source_object_class, "sky_model", unseen)
        found = gj.io.catalog(path, centre=(84.0, 21.5), radius=3.0)
    assert found.notes == ["2HWC A: left out; the catalogue has no spectrum of it"]
    table = Table.read(path, format="ascii.ecsv")
    table["spec0_dnde"][1] = np.nan
    table.write(path, format="ascii.ecsv", overwrite=True)
    found = gj.io.catalog(path, centre=(84.0, 21.5), radius=3.0)
    assert list(found.components) == ["2HWC J0534+220"]
    assert found.notes == ["2HWC A: left out; the catalogue has no spectrum of it"]


def test_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("GAMMAPY_DATA", str(tmp_path))
    region = {"centre": (84.0, 21.5), "radius": 3.0}
    with pytest.raises(
        FileNotFoundError, match=f"{tmp_path}/catalogs/hgps_catalog_v1.fits.gz: no such.*set GAMMAPY_DATA"
    ):
        gj.io.catalog("hgps", **region)
    with pytest.raises(ValueError, match="unknown catalogue 'hess', and no such file; known: .*4fgl.*hgps"):
        gj.io.catalog("hess", **region)
    other = tmp_path / "other.fits"
    fits.HDUList([fits.PrimaryHDU()]).writeto(other)
    with pytest.raises(ValueError, match="other.fits cannot be read as a catalogue: it is none of hgps"):
        gj.io.catalog(other, **region)
    path, _ = write_2hwc(tmp_path)
    with pytest.raises(ValueError, match=r"2hwc: no source within 1 deg of \(10, 10\) deg with that flux; the nearest"):
        gj.io.catalog(path, centre=(10.0, 10.0), radius=1.0)
    with pytest.raises(ValueError, match="2hwc, 2HWC J0534.220: No extended source analysis"):
        gj.io.catalog(path, which="extended", **region)
    # found by its name as well
    (tmp_path / "catalogs").mkdir()
    path.rename(tmp_path / "catalogs" / "2HWC.ecsv")
    assert len(gj.io.catalog("2HWC", **region).components) == 2


def test_rows_of_the_published_3hwc(tmp_path):
    """Albert et al. 2020 (arXiv:2007.08582), table 1, in the layout of the file that gammapy distributes."""
    columns = ["ra", "dec", "glon", "glat", "pos_err", "search_radius", "ts"]
    columns += [f"spec0_dnde{suffix}" for suffix in ("", "_errn", "_errp", "_sys_errn", "_sys_errp")]
    columns += [f"spec0_index{suffix}" for suffix in ("", "_errn", "_errp", "_sys_errn", "_sys_errp")]
    rows = """
        "3HWC J0617+224" 94.394 22.468 189.184 3.049 0.142 0.0 32.3 4.5e-15 -7.89e-16 7.9e-16 -7.74e-16 1.23e-15 -3.05 -0.11 0.11 -0.02 0.06 0.000
        "3HWC J0634+067" 98.657 6.730 205.029 -0.649 0.219 0.5 36.2 8.98e-15 -1.39e-15 1.34e-15 -1.23e-15 2.73e-15 -2.27 -0.10 0.10 -0.01 0.09 0.500
        "3HWC J0659+147" 104.854 14.747 200.605 8.397 0.122 0.0 28.8 nan nan nan nan nan nan nan nan nan nan nan
        "3HWC J1104+381" 166.113 38.158 179.945 65.047 0.057 0.0 3025.3 6.94e-14 -1.33e-15 1.34e-15 -1.14e-14 1.66e-14 -3.04 -0.01 0.01 -0.02 0.06 0.000
    """  # noqa: E501
    units = dict.fromkeys(["ra", "dec", "glon", "glat", "pos_err", "search_radius", "spec0_radius"], "deg")
    head = ["# %ECSV 0.9", "# ---", "# datatype:", "# - {name: source_name, datatype: string}"]
    for name in [*columns, "spec0_radius"]:
        unit = units.get(name, "1 / (cm2 s TeV)" if "dnde" in name else None)
        head.append(f"# - {{name: {name}, {'' if unit is None else f'unit: {unit}, '}datatype: float64}}")
    names = " ".join(["source_name", *columns, "spec0_radius"])
    lines = [line.strip() for line in rows.strip().splitlines()]
    (tmp_path / "3HWC.ecsv").write_text("\n".join([*head, "# schema: astropy-2.0", names, *lines]) + "\n")
    found = gj.io.catalog(tmp_path / "3HWC.ecsv", centre=(99.0, 15.0), radius=15.0)
    assert sorted(found.components) == ["3HWC J0617+224", "3HWC J0634+067"]
    assert found.notes == ["3HWC J0659+147: left out; the catalogue has no spectrum of it"]
    source = found.components["3HWC J0634+067"]
    assert isinstance(source.morphology, gj.Disk) and float(source.morphology.r_0) == 0.5
    assert float(source.spectrum(np.array([7.0]))[0]) == pytest.approx(8.98e-15, rel=1e-4)  # at the pivot of the paper


def test_catalogues_of_fermi():
    folder = os.environ.get("FERMI_CATALOGS")
    if not folder:
        pytest.skip("set FERMI_CATALOGS to a folder with gll_psc_v16.fit (3FGL), gll_psc_v41.fit (4FGL-DR4) and so on")
    kinds = {"gll_psch_v08.fit": SourceCatalog2FHL, "gll_psc_v16.fit": SourceCatalog3FGL}
    for name, kind in {**kinds, "gll_psch_v13.fit": SourceCatalog3FHL, "gll_psc_v41.fit": SourceCatalog4FGL}.items():
        if not (Path(folder) / name).is_file():
            continue
        found = gj.io.catalog(f"{folder}/{name}", centre=(0.0, 0.0), radius=3.0, frame="galactic")
        sources = kind(f"{folder}/{name}")
        assert len(found.components) == (sources.positions.separation(CENTRE).deg < 3.0).sum()
        for key, component in found.components.items():
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # of masked uncertainties
                expected = sources[key].spectral_model()(ENERGY * u.TeV).to_value(DNDE)
            np.testing.assert_allclose(np.asarray(component.spectrum(ENERGY)), expected, rtol=1e-4, atol=1e-30)


def test_the_galactic_plane_survey():
    path = os.environ.get("HGPS_CATALOG")
    if not path:
        pytest.skip("set HGPS_CATALOG to the path of hgps_catalog_v1.fits.gz to read the published survey")
    ours = gj.io.catalog(path, centre=(0.0, 0.0), radius=180.0, frame="galactic")
    # 78 sources, of which 13 have two or three Gaussians (H.E.S.S. collaboration 2018, arXiv:1804.02432)
    assert len({name.split(" HGPSC")[0] for name in ours.components}) == 78 and len(ours.components) == 96
    # what the components of a source emit is what gammapy has for the whole
    for source in SourceCatalogHGPS(path):
        parts = [c for name, c in ours.components.items() if name.split(" HGPSC")[0] == source.name]
        total = sum(float(np.asarray(c.spectrum.integral(np.array([1.0, 10.0])))[0]) for c in parts)
        expected = source.spectral_model().integral(1 * u.TeV, 10 * u.TeV).to_value("cm-2 s-1")
        assert total == pytest.approx(expected, rel=1e-4), source.name
    # H.E.S.S. collaboration 2016 (arXiv:1603.07730): 2.55e-12 at 1 TeV, index 2.14, cut-off at 10.7 TeV
    centre = ours.components["HESS J1745-290"].spectrum
    assert float(centre(np.array([1.0]))[0]) == pytest.approx(2.55e-12 * np.exp(-1.0 / 10.7), rel=1e-3)
