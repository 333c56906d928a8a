"""Instrument response files in the GADF formats, read by gammapy and turned into a `gammajax.Response`.

Understood: `AEFF_2D`, `EDISP_2D`, `PSF_3GAUSS`, `PSF_KING`, `PSF_TABLE`, `BKG_2D` and `BKG_3D` in both axis orders
(https://gamma-astro-data-formats.readthedocs.io). Tables are interpolated as gammapy does: nodes at the bin centres
(energies in logarithm), linear continuation through the outer half bins.

Three differences from gammapy, all there to conserve photons:

- The energy dispersion and the point spread function are normalised at every node.
- A node without simulated events (zero profile, zero scale) is filled with its neighbour: the nearest valid true
  energy at the same offset, else the nearest offset. Interpolating towards zero would lose photons, interpolating
  towards the 1 deg that gammapy puts in place of a zero width would spread them.
- The energy dispersion ends at its first and last migra node, without the half bins outside of them.
"""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false

import functools
import warnings
from pathlib import Path

import numpy as np

from gammajax.instrument.psf import PSF, GaussPSF, KingPSF, TablePSF
from gammajax.instrument.response import Background, EnergyDispersion, Response
from gammajax.instrument.sky import SQUARE_DEGREE
from gammajax.instrument.table import Axis, Table
from gammajax.io.files import expand, one_line
from gammajax.io.hdu import RATE, Refused, opened, read_response, response_class

NEEDED = {
    "aeff": "effective area (AEFF_2D)",
    "edisp": "energy dispersion (EDISP_2D)",
    "psf": "point spread function (PSF_3GAUSS, PSF_KING or PSF_TABLE)",
}
POINT_LIKE = (
    "point-like response (RAD_MAX); the full-enclosure response is needed, or ON and OFF regions by io.read_on_off"
)
# values of HDUCLAS2, and names of HDUs, of response functions
GROUPS, BACKGROUNDS = ("EFF_AREA", "EDISP", "RPSF", "PSF", "BKG"), ("BACKGROUND", "BKG")
# in these alignments the field-of-view longitude grows eastwards; in `Observation` it grows westwards
EASTWARD = ("ALTAZ", "REVERSE_LON_RADEC")


def read_irf(path, *, warn: bool = True) -> Response:
    """Instrument response of a GADF file; environment variables in `path` are expanded.

    Units are converted to TeV, deg, cm^2 and s. Returns a [`gammajax.Response`][]. `warn=False` silences the warning
    about response functions that are not normalised in the file.

    Raises `FileNotFoundError` for a missing file and `ValueError` for one that is damaged, made for point-like
    sources, or without effective area, energy dispersion or point spread function.

    >>> import pathlib, gammajax as gj
    >>> path = next(pathlib.Path(gj.__file__).parent.glob("data/Prod5-South-20deg*.fits.gz"))
    >>> response = gj.io.read_irf(path, warn=False)
    >>> response.background is not None
    True
    """
    return load_irf(path, warn=warn)[0]


def load_irf(path, warn: bool = True) -> tuple[Response, str | None]:
    """[`read_irf`][] with the alignment of the background, see [`fov_alignment`][]; files are read once."""
    path = expand(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return _load_irf(path.resolve(), path.stat().st_mtime_ns, warn)


@functools.lru_cache(maxsize=16)
def _load_irf(path: Path, modified: int, warn: bool) -> tuple[Response, str | None]:
    functions, classes = {}, []
    with opened(path) as hdus:
        for hdu in hdus:
            header = hdu.header
            group = str(header.get("HDUCLAS2", "")).strip().upper()
            if group not in GROUPS and hdu.name.upper() not in BACKGROUNDS and header.get("HDUCLAS2") != "RAD_MAX":
                continue
            if header.get("HDUCLAS3") == "POINT-LIKE" or header.get("HDUCLAS2") == "RAD_MAX":
                raise Refused(f"{path}: {POINT_LIKE}")
            classes.append(str(header.get("HDUCLAS4", hdu.name)))
            kind = response_class(header).split("_")[0]
            if kind in functions:
                warnings.warn(f"{path}: a second {classes[-1]} in HDU {hdu.name} is left out", stacklevel=2)
            else:  # refuses an unknown class: without its background a response is another one
                functions[kind] = read_response(hdu, f"{path}, HDU {hdu.name}")
    for key, needed in NEEDED.items():
        if key not in functions:
            raise ValueError(
                f"{path}: no {needed} HDU; needed: {', '.join(NEEDED.values())}; found: {', '.join(classes) or 'none'}"
            )
    background = functions.get("bkg")
    response = response_from_gammapy(
        functions["aeff"], functions["edisp"], functions["psf"], background, name=str(path), warn=warn
    )
    return response, fov_alignment(background)


def response_from_gammapy(aeff, edisp, psf, bkg, name: str, warn: bool = True) -> Response:
    """Response made of gammapy's `EffectiveAreaTable2D`, `EnergyDispersion2D`, PSF and background (or None) objects.

    `name` (of the file or run) is used in messages. A response function that is off from its normalisation by more
    than 5 % where events are expected is normalised with one `UserWarning` each, silenced by `warn=False`.

    Raises `ValueError` for point-like responses, unknown classes, units of another dimension, and functions without any
    valid node.
    """
    for function in (aeff, edisp, psf, bkg):
        if getattr(function, "is_pointlike", False):
            raise ValueError(f"{name}: {POINT_LIKE}")
    effective_area, dispersion, spread, background = functions_from_gammapy(aeff, edisp, psf, bkg, name, warn)
    assert spread is not None
    return Response(effective_area, spread, dispersion, background)


def functions_from_gammapy(
    aeff, edisp, psf, bkg, name: str, warn: bool = True
) -> tuple[Table, EnergyDispersion, PSF | None, Background | None]:
    """Tables of gammapy's objects as in [`response_from_gammapy`][], point-like or not; None where there is none."""
    from astropy.units import UnitConversionError

    at = "effective area"
    try:
        axes = (energy_axis(aeff.axes["energy_true"]), _axis(aeff.axes["offset"], "deg"))
        effective_area = Table(axes, np.nan_to_num(aeff.quantity.to_value("cm2"), posinf=0.0, neginf=0.0))
        check = functools.partial(_check_normalisation, effective_area, name) if warn else None
        at = "point spread function"
        spread = None if psf is None else _psf(psf, name, check)
        at = "energy dispersion"
        dispersion = _energy_dispersion(edisp, name, check)
        at = "background"
        background = None if bkg is None else _background(bkg, name)
    except UnitConversionError as error:
        raise ValueError(f"{name}: the {at} has a unit that does not fit ({one_line(error)})") from error
    return effective_area, dispersion, spread, background


def fov_alignment(bkg) -> str | None:
    """FOVALIGN of a gammapy background: "RADEC" (when absent: gammapy's default), "ALTAZ" or "REVERSE_LON_RADEC".

    None without background and for rates that depend on the offset only.
    """
    return None if bkg is None or "offset" in bkg.axes.names else bkg.fov_alignment.value


def _energy_dispersion(edisp, name, check) -> EnergyDispersion:
    energy, offset = energy_axis(edisp.axes["energy_true"]), _axis(edisp.axes["offset"], "deg")
    migra = np.asarray(edisp.axes["migra"].center.to_value(""), float)
    values = np.nan_to_num(np.asarray(edisp.data, float)).clip(0.0).transpose(0, 2, 1)
    integral = values @ edisp.axes["migra"].bin_width.to_value("")
    valid = integral > 0
    if check:
        check(integral, valid, edisp.axes, "energy dispersion")
    values = _fill_missing(values, valid, energy, f"{name}: the energy dispersion")
    return EnergyDispersion(energy, offset, Axis(migra), values)


def _psf(psf, name, check) -> PSF:
    energy, offset = energy_axis(psf.axes["energy_true"]), _axis(psf.axes["offset"], "deg")
    name = f"{name}: the point spread function"
    if psf.tag == "psf_table":
        edges = np.asarray(psf.axes["rad"].edges.to_value("deg"), float)
        rad, values = _radial_nodes(psf)
        valid = values.sum(-1) > 0
        result = TablePSF(energy, offset, Axis(rad), _fill_missing(values, valid, energy, name))
        rings = np.pi * np.diff(edges.clip(0.0) ** 2) * SQUARE_DEGREE
        integral = np.nan_to_num(np.asarray(psf.data, float)) @ rings * _unit_scale(psf.unit, "sr-1", "sr-1")
    elif psf.tag == "psf_king":
        sigma = np.asarray(psf.quantity["sigma"].to_value("deg"), float)
        gamma = np.asarray(psf.data["gamma"], float)
        valid = np.isfinite(sigma) & np.isfinite(gamma) & (sigma > 0) & (gamma > 1)
        shape = _fill_missing(np.stack([sigma, gamma], -1), valid, energy, name)
        return KingPSF(Table((energy, offset), shape))
    elif psf.tag == "psf_3gauss":
        widths, amplitudes, integral = _gaussians(psf)
        valid = (integral > 0) & (widths[..., 0] > 0)
        present = valid[..., None] & (amplitudes > 0) & (widths > 0)
        kept = [i for i in range(3) if present[..., i].any()] or [0]
        amplitudes = _fill_missing(np.where(present, amplitudes, 0.0), valid, energy, name)
        widths = [_fill_missing(widths[..., i], present[..., i], energy, name) for i in kept]
        axes = (energy, offset)
        result = GaussPSF(Table(axes, np.stack(widths, -1)), Table(axes, amplitudes[..., kept]))
    else:
        raise ValueError(f"{name} has the class {psf.tag.upper()}; PSF_3GAUSS, PSF_KING or PSF_TABLE is needed")
    if check:
        check(integral, valid, psf.axes, "point spread function")
    return result


def _radial_nodes(psf):
    """Radii [deg] and values of a tabulated profile at 0, the bin centres and the outer edge, straight in between."""
    rad = np.asarray(psf.axes["rad"].center.to_value("deg"), float)
    values = np.nan_to_num(np.asarray(psf.data, float)).clip(0.0)

    def continued(x, i, j):
        slope = (values[..., j] - values[..., i]) / (rad[j] - rad[i])
        return (values[..., i] + slope * (x - rad[i])).clip(0.0)[..., None]

    outer = float(psf.axes["rad"].edges[-1].to_value("deg"))
    nodes = [rad, [outer]]
    columns = [values, continued(outer, -1, -2)]
    if rad[0] > 0:
        nodes, columns = [[0.0], *nodes], [continued(0.0, 0, 1), *columns]
    return np.concatenate(nodes), np.concatenate(columns, -1)


def _gaussians(psf):
    """Widths [deg], amplitudes relative to the first [energy, offset, 3], and the integral of a three-Gaussian PSF."""
    widths = np.stack([psf.quantity[f"sigma_{i}"].to_value("deg") for i in (1, 2, 3)], -1).astype(float)
    scale = np.nan_to_num(np.asarray(psf.data["scale"], float)) * _unit_scale(psf.unit["scale"], "sr-1", "sr-1")
    amplitudes = np.stack([np.ones_like(scale), psf.data["ampl_2"], psf.data["ampl_3"]], -1).astype(float)
    widths, amplitudes = np.nan_to_num(widths), np.nan_to_num(amplitudes)
    integral = 2.0 * np.pi * scale * (amplitudes * widths**2).sum(-1) * SQUARE_DEGREE
    return widths, amplitudes, integral


def _background(bkg, name) -> Background:
    unit = _unit_scale(bkg.unit, "s-1 TeV-1 sr-1", RATE)
    # empty bins get the floor of gammapy's logarithmic interpolation, in the unit of the file
    tiny = float(np.finfo(np.float32).tiny)
    floor = np.log(tiny * unit)
    log_rate = np.log(np.maximum(np.nan_to_num(np.asarray(bkg.data, float), posinf=0.0), tiny) * unit)
    if "offset" in bkg.axes.names:
        axes = [energy_axis(bkg.axes["energy"]), _axis(bkg.axes["offset"], "deg")]
    elif "fov_lon" in bkg.axes.names:
        axes = [energy_axis(bkg.axes["energy"]), *(_axis(bkg.axes[a], "deg") for a in ("fov_lon", "fov_lat"))]
    else:
        raise ValueError(f"{name}: the background has the class {bkg.tag.upper()}; BKG_2D or BKG_3D is needed")
    if fov_alignment(bkg) in EASTWARD:
        lon = axes[1]
        axes[1] = Axis(-np.asarray(lon.nodes, float)[::-1], -lon.upper, -lon.lower)
        log_rate = log_rate[:, ::-1]
    for dimension, axis in enumerate(axes):
        axes[dimension], log_rate = _continued(axis, log_rate, dimension, floor)
    return Background(Table(axes, log_rate))


def _continued(axis: Axis, log_rate, dimension, floor):
    """Nodes at the edges of the table, continuing straight but never away from an empty bin: that invents events."""
    if axis.nodes.size == 1:
        return axis, log_rate
    nodes, values = np.asarray(axis.nodes, float), np.moveaxis(log_rate, dimension, 0)
    ends = []
    for edge, last, inner in ((axis.lower, 0, 1), (axis.upper, -1, -2)):
        slope = (values[last] - values[inner]) / (nodes[last] - nodes[inner])
        slope = np.where(values[inner] > floor + 1e-6, slope, 0.0)
        ends.append(np.maximum(values[last] + slope * (edge - nodes[last]), floor)[None])
    values = np.moveaxis(np.concatenate([ends[0], values, ends[1]]), 0, dimension)
    return Axis(np.concatenate([[axis.lower], nodes, [axis.upper]])), values


def _fill_missing(values, valid, energy: Axis, name):
    """Replace the nodes [energy, offset, ...] that are not `valid` by the nearest valid one, at equal offset first."""
    if not valid.any():
        raise ValueError(f"{name} has no valid node")
    position = np.asarray(energy.nodes)
    columns = np.flatnonzero(valid.any(0))
    filled = np.array(values)
    for column in columns:
        rows = np.flatnonzero(valid[:, column])
        nearest = rows[np.abs(position[:, None] - position[rows]).argmin(1)]
        filled[:, column] = values[nearest, column]
    for column in np.flatnonzero(~valid.any(0)):
        filled[:, column] = filled[:, columns[np.abs(columns - column).argmin()]]
    return filled


def _check_normalisation(effective_area, name, integral, valid, axes, what):
    """Warn when `integral` [energy, offset] is off by more than 5 % at a node where events are expected."""
    energy = axes["energy_true"].center.to_value("TeV")
    offset = axes["offset"].center.to_value("deg")
    area = np.asarray(effective_area(np.log(energy)[:, None], offset[None, :]), float)
    events = area * (energy**-2.5 * axes["energy_true"].bin_width.to_value("TeV"))[:, None]
    expected = valid & (events > 0.01 * events.max(0))
    distance = np.where(expected, np.abs(integral - 1.0), 0.0)
    if distance.max() > 0.05:
        i, j = np.unravel_index(distance.argmax(), distance.shape)
        warnings.warn(
            f"{name}: the {what} integrates to {integral[i, j]:.3g} at {energy[i]:.3g} TeV and {offset[j]:.2g} deg, "
            "not to 1; it was normalised",
            UserWarning,
            stacklevel=2,
        )


def energy_axis(axis) -> Axis:
    """Axis in ln(E / TeV) of a gammapy energy axis."""
    edges = np.log(axis.edges.to_value("TeV").astype(float))
    return Axis(np.log(axis.center.to_value("TeV").astype(float)), edges.min(), edges.max())


def _axis(axis, unit) -> Axis:
    edges = axis.edges.to_value(unit)
    return Axis(np.asarray(axis.center.to_value(unit), float), edges.min(), edges.max())


def _unit_scale(unit, target, otherwise) -> float:
    """Factor from `unit` to `target`; `otherwise` replaces a missing unit."""
    from astropy import units

    unit = units.Unit(unit)
    return float((units.Unit(otherwise) if unit == units.dimensionless_unscaled else unit).to(target))
