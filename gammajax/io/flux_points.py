"""Flux points to and from gammapy and files: ECSV and FITS tables in the format of gamma-astro-data-formats."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from gammajax.common.writing import replacing

FLUX, DNDE, EFLUX = "cm-2 s-1", "TeV-1 cm-2 s-1", "TeV cm-2 s-1"
COVARIANCE = "norm_covariance"  # a column of ours, which gammapy leaves out
SCANNED = 41  # norms of the common axis of scans


def table_of(points: Any):
    """The points as a table of astropy of SED type "likelihood", with the covariance as a column."""
    from astropy import units as u
    from astropy.table import Table
    from scipy.stats import norm

    columns = {
        "e_ref": points.energy_ref * u.TeV,
        "e_min": points.energy_edges[:-1] * u.TeV,
        "e_max": points.energy_edges[1:] * u.TeV,
        "ref_dnde": points.dnde_ref * u.Unit(DNDE),
        "ref_flux": points.flux_ref * u.Unit(FLUX),
        "ref_eflux": points.eflux_ref * u.Unit(EFLUX),
        **{name: getattr(points, name) for name in ("norm", "norm_err", "norm_errn", "norm_errp", "norm_ul", "ts")},
        "sqrt_ts": points.sqrt_ts,
        "stat": np.full(points.norm.size, points.stat),
        "stat_null": points.stat + points.ts,
        "is_ul": points.is_ul,
        COVARIANCE: points.covariance,
    }
    if points.stat_scan.size:
        # gammapy has one axis of norms for all points
        axis = np.linspace(0.0, np.nanmax(points.norm_scan), SCANNED)
        columns["norm_scan"] = np.tile(axis, (points.norm.size, 1))
        columns["stat_scan"] = points.stat + np.stack([_scan(points, i, axis) for i in range(points.norm.size)])
    # the level of a two-sided interval of so many standard deviations, as gammapy has it
    meta = {"SED_TYPE": "likelihood", "UL_CONF": round(1.0 - 2.0 * float(norm.sf(points.n_sigma_ul)), 7)}
    meta |= {"n_sigma": points.n_sigma, "OBJECT": points.component, "ENERGY": points.energy}
    meta["PARTS"] = ",".join(points.components)  # of the model
    return Table(columns, meta=meta)


def _scan(points, i, axis) -> np.ndarray:
    """Values of q of one point on the common axis; NaN beyond its own."""
    values, fall = np.append(points.norm_scan[i], points.norm[i]), np.append(points.stat_scan[i], 0.0)
    some = np.isfinite(values) & np.isfinite(fall)
    values, first = np.unique(values[some], return_index=True)
    # the root is nearly straight on both sides of the maximum
    root = np.sign(values - points.norm[i]) * np.sqrt(fall[some][first])
    if values.size < 2:
        return np.full(axis.size, np.nan)
    return PchipInterpolator(values, root, extrapolate=False)(axis) ** 2


def to_gammapy(points: Any) -> Any:
    """Gammapy's `FluxPoints`."""
    from gammapy.estimators import FluxPoints

    table = table_of(points)
    table.remove_column(COVARIANCE)
    return FluxPoints.from_table(table, sed_type="likelihood", format="gadf-sed")


def light_curve_to_gammapy(curve: Any) -> Any:
    """Gammapy's `FluxPoints` with axes of energy and time. Raises `ValueError` for bins without times."""
    from astropy import units as u
    from astropy.table import Table
    from gammapy.estimators import FluxPoints
    from gammapy.modeling.models import PowerLawSpectralModel
    from scipy.optimize import brentq
    from scipy.stats import norm

    if not np.all(np.isfinite(curve.time_min)):
        raise ValueError("a light curve without times has no place in gammapy: give the observations good_time=")
    number, (low, high) = curve.norm.size, curve.energy_range
    fixed = {"e_ref": (np.sqrt(low * high), "TeV"), "e_min": (low, "TeV"), "e_max": (high, "TeV")}
    fixed |= {
        "ref_dnde": (curve.dnde_ref, DNDE),
        "ref_flux": (curve.flux_ref, FLUX),
        "ref_eflux": (curve.eflux_ref, EFLUX),
    }
    columns = {"time_min": curve.time_min, "time_max": curve.time_max}
    columns |= {name: np.full((number, 1), value) * u.Unit(unit) for name, (value, unit) in fixed.items()}
    names = ("norm", "norm_err", "norm_errn", "norm_errp", "norm_ul", "ts", "sqrt_ts", "is_ul")
    columns |= {name: getattr(curve, name)[:, None] for name in names}
    level = round(1.0 - 2.0 * float(norm.sf(curve.n_sigma_ul)), 7)
    meta = {"SED_TYPE": "likelihood", "UL_CONF": level, "MJDREFI": 0, "MJDREFF": 0.0, "TIMESYS": "tt", "TIMEUNIT": "d"}
    # a power law with the same differential and integral flux
    reference = PowerLawSpectralModel(amplitude=curve.dnde_ref * u.Unit(DNDE), reference=np.sqrt(low * high) * u.TeV)

    def excess(index) -> float:
        reference.index.value = index
        return float(np.log(reference.integral(low * u.TeV, high * u.TeV).to_value(FLUX) / curve.flux_ref))

    # the integral is least for an index of one
    reference.index.value = brentq(excess, 1.0 + 1e-6, 20.0) if excess(1.0 + 1e-6) < 0 else 1.0 + 1e-6
    table = Table(columns, meta=meta)
    return FluxPoints.from_table(table, sed_type="likelihood", format="lightcurve", reference_model=reference)


def columns_of(points: Any) -> dict[str, Any]:
    """Fields of [`gammajax.FluxPoints`][] from gammapy's points. Raises `ValueError` unless energy is the only axis."""
    if (
        getattr(points, "geom", None) is None
        or points.geom.axes.names != ["energy"]
        or points.geom.data_shape[1:]
        != (
            1,
            1,
        )
    ):
        raise ValueError(f"flux points have one axis, of energy, not {points!r}")
    edges = points.geom.axes["energy"].edges.to_value("TeV")
    number = edges.size - 1

    def values(name, unit="", missing=np.nan):
        if name not in {"dnde_ref", "flux_ref", "eflux_ref"} and name not in points.available_quantities:
            return np.full(number, missing)
        return np.asarray(getattr(points, name).quantity.to_value(unit), float).reshape(number, -1)[:, 0]

    error = values("norm_err")
    ts = values("ts")
    found = {
        "energy_edges": np.asarray(edges, float),
        "norm": values("norm"),
        "norm_errn": _or(values("norm_errn"), error),
        "norm_errp": _or(values("norm_errp"), error),
        "norm_ul": values("norm_ul"),
        "ts": _or(ts, values("sqrt_ts") ** 2),
        "covariance": np.diag(error**2),
        "norm_scan": np.zeros((number, 0)),
        "stat_scan": np.zeros((number, 0)),
        "npred": np.full(number, np.nan),
        "band_energy": np.zeros(0),
        "band": np.zeros((3, 0)),
        "n_sigma": float(points.n_sigma),
        "n_sigma_ul": float(points.n_sigma_ul or 2.0),
        "dnde_ref": np.asarray(points.dnde_ref.to_value(DNDE), float).reshape(number),
        "flux_ref": np.asarray(points.flux_ref.to_value(FLUX), float).reshape(number),
        "eflux_ref": np.asarray(points.eflux_ref.to_value(EFLUX), float).reshape(number),
    }
    stat = values("stat")
    found["stat"] = float(stat[0]) if np.all(stat == stat[0]) else np.nan
    if points.has_stat_profiles:
        axis = points.stat_scan.geom.axes["norm"].center
        found["norm_scan"] = np.tile(np.asarray(axis, float), (number, 1))
        found["stat_scan"] = points.stat_scan.data.reshape(number, -1) - stat[:, None]
    return found


def write(points: Any, path, overwrite: bool) -> Path:
    """Write the table to an `.ecsv` or `.fits` file, complete or not at all."""
    from astropy.io import fits

    path = Path(path)
    kind = _kind(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; write to another path, or with overwrite=True")
    table = table_of(points)
    with replacing(path) as temporary:
        if kind == "ecsv":
            table.write(temporary, format="ascii.ecsv", overwrite=True)
        else:
            hdus = [fits.PrimaryHDU(), fits.BinTableHDU(table, name="FLUXPOINTS")]
            fits.HDUList(hdus).writeto(temporary, overwrite=True)
    return path


def read(path, component: str | None) -> dict[str, Any]:
    """Fields of [`gammajax.FluxPoints`][] from a file of gammapy's formats, with the covariance if it is there."""
    from astropy.table import Table
    from gammapy.estimators import FluxPoints

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    table = Table.read(path, format="ascii.ecsv") if _kind(path) == "ecsv" else Table.read(path, hdu="FLUXPOINTS")
    # headers of FITS files have capitals
    meta = {key.lower(): value for key, value in table.meta.items()}
    name = component or str(meta.get("object", path.stem))
    covariance = np.asarray(table[COVARIANCE], float) if COVARIANCE in table.colnames else None
    if covariance is not None:
        table.remove_column(COVARIANCE)
    try:
        found = columns_of(FluxPoints.from_table(table, format="gadf-sed"))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a table of flux points: {error}") from error
    if covariance is not None:
        found["covariance"] = covariance
    found["n_sigma"] = float(meta.get("n_sigma", found["n_sigma"]))
    parts = tuple(part for part in str(meta.get("parts", "")).split(",") if part)
    return {"component": name, "energy": str(meta.get("energy", "")), "components": parts, **found}


def _kind(path: Path) -> str:
    kinds = {".ecsv": "ecsv", ".fits": "fits"}
    if path.suffix not in kinds:
        raise ValueError(f"{path.name}: flux points are written as .ecsv or .fits")
    return kinds[path.suffix]


def _or(values, others) -> np.ndarray:
    return np.where(np.isfinite(values), values, others)
