"""Diffuse emission: cubes of maps at several energies, and isotropic spectra."""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false

import dataclasses

import numpy as np

from gammajax.io.files import UNREADABLE, expand, one_line, read_text
from gammajax.io.skymap import existing_map, read_map
from gammajax.io.spectral import ENERGY_RANGE, FLUX
from gammajax.io.template import resample
from gammajax.io.units import factor
from gammajax.model.mixture import Source
from gammajax.model.shapes import Constant
from gammajax.model.spectra import MEV_PER_TEV, TabulatedSpectrum
from gammajax.model.templates import TemplateCube

BRIGHTNESS = f"{FLUX} sr-1"
FAR_BELOW, FAR_ABOVE = 1e3, 10.0  # between a file and the range it is continued to


def read_cube(
    path,
    frame: str = "icrs",
    lon: float | int | None = None,
    lat: float | int | None = None,
    radius: float | int | None = None,
    step: float | int | None = None,
    *,
    unit: str | None = None,
    energy_range: tuple | None = ENERGY_RANGE,
) -> Source:
    """Source from a FITS cube of differential flux per solid angle at several true energies.

    Formats are cubes of Fermi-LAT's models of the Galaxy (planes and a table ENERGIES, for example gll_iem),
    gammapy maps with an axis `energy_true`, and HEALPix cubes of Fermi-LAT, GALPROP and the gamma-astro-data-formats
    (one column per energy, or one column of vectors, with a table ENERGIES, EBOUNDS or BANDS). The source's morphology
    is a [`gammajax.TemplateCube`][], its spectrum a [`gammajax.TabulatedSpectrum`][] of the flux on the grid. Their
    product is the file's values, interpolated log-log in energy. Multiply the spectrum to scale or tilt it,
    `2.0 * source.spectrum` or `source.spectrum * gj.PowerLaw(tilt, norm)`; replace it to keep only the morphology.

    Returns a [`gammajax.Source`][].

    **Arguments:**

    - `path` of the file; environment variables are expanded.
    - `frame`, `lon`, `lat`, `radius`, `step`: equal-area grid and part of the sky, for the sampling of every plane, as
      in [`gammajax.io.read_template`][], with the same error for a map that ends inside a field.
    - `unit` of the values, instead of the file's. gammapy reads Fermi's files with a celestial projection in
      cm-2 s-1 MeV-1 sr-1; HEALPix maps of GALPROP are in this unit too, but do not state it.
    - `energy_range` [TeV]: beyond the energies of the file and within this range the flux continues as the power law
      through the two outermost planes, with the morphology of the outermost plane. Fermi's files end at 0.5 to 0.9 TeV,
      so this covers most energies of a Cherenkov telescope. Planes far outside the range are left out. None: the flux
      is zero beyond the file.

    Raises `ValueError` for a file of another kind, for values in another unit than flux per solid angle, and as
    [`gammajax.io.read_template`][].

    >>> import pathlib, tempfile, gammajax as gj, numpy as np
    >>> from gammapy.maps import MapAxis, WcsGeom, WcsNDMap
    >>> axis = MapAxis.from_nodes([0.05, 0.2, 0.5], unit="TeV", name="energy_true", interp="log")
    >>> geom = WcsGeom.create(skydir=(0.0, 0.0), width=(10.0, 8.0), binsz=0.25, frame="galactic", axes=[axis])
    >>> where = geom.get_coord()
    >>> flux = 3e-18 * where["energy_true"].value ** -2.4 * np.exp(-np.abs(where["lat"].value))
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "diffuse.fits"
    >>> WcsNDMap(geom, flux, unit="cm-2 s-1 MeV-1 sr-1").write(file)
    >>> source = gj.io.read_cube(file, frame="galactic", lon=0.0, lat=0.0, radius=2.0)
    >>> type(source.morphology).__name__
    'TemplateCube'
    """
    path = existing_map(path, frame)
    sky = read_map(path)
    if sky.energy is None:
        raise ValueError(
            f"{path}: a cube has planes at several energies; this is a {sky.kind} with the axes {sky.axes}"
        )
    if sky.energy.size < 2:
        raise ValueError(f"{path}: a cube has planes at two energies at least, this has one")
    energy = sky.energy
    planes = needed_planes(energy, energy_range)
    factor = _flux_factor(sky.unit if unit is None else unit, path)
    part = dataclasses.replace(sky, data=sky.data[planes] * factor)
    grid, values, edge = resample(part, str(path), frame, lon, lat, radius, step)
    try:
        _check_energies(energy, energy_range)
        cube = TemplateCube(grid, energy[planes], values, edge)
        return Source(flux_table(cube, values.sum((1, 2)) * grid.solid_angle, energy_range), cube)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_isotropic(
    path, lon: float | int = 0.0, lat: float | int = 0.0, *, energy_range: tuple | None = ENERGY_RANGE
) -> Source:
    r"""Isotropic source from a text file of Fermi-LAT: columns energy [MeV] and flux [cm^-2 s^-1 MeV^-1 sr^-1].

    `path` of the file; returns a [`gammajax.Source`][]. Further columns (the uncertainty) are ignored. The source is a
    [`gammajax.Constant`][] about (`lon`, `lat`) [deg]: choose a direction near the observations for fast simulations.
    Its spectrum is 4 pi times the flux per solid angle. `energy_range` as in [`gammajax.io.read_cube`][]. Raises
    `ValueError` for a file of another format.

    >>> import pathlib, tempfile, gammajax as gj
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "isotropic.txt"
    >>> _ = file.write_text("1e4 1e-13\n1e5 4e-16\n1e6 1e-18\n")
    >>> type(gj.io.read_isotropic(file).morphology).__name__
    'Constant'
    """
    path = expand(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file with an isotropic spectrum")
    try:
        lines = [line for line in read_text(path).splitlines() if line.partition("#")[0].strip()]
        rows = np.loadtxt(lines, ndmin=2) if lines else np.empty((0, 0))
        if min(rows.shape) < 2:
            raise ValueError(f"two columns and two rows at least are needed, there are {rows.shape[1]} and {len(rows)}")
        energy, flux = rows.T[:2]
        if not np.all(np.isfinite(flux) & (flux > 0)):
            raise ValueError("the fluxes must be positive and finite")
        energy, flux = energy / MEV_PER_TEV, 4.0 * np.pi * MEV_PER_TEV * flux
        _check_energies(energy, energy_range)
        kept = needed_planes(energy, energy_range)
        return Source(TabulatedSpectrum(*continued(energy[kept], flux[kept], energy_range)), Constant(lon, lat))
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as energies and fluxes: {one_line(error)}") from error


def _check_energies(energy, energy_range) -> None:
    """Raise for energies that do not increase, and for those far from the range, which are in another unit."""
    if not (np.isfinite(energy).all() and (energy > 0).all() and (np.diff(energy) > 0).all()):
        raise ValueError("the energies must be positive, finite and increasing")
    if energy_range is None:
        return
    low, high = energy_range
    if not (low / FAR_BELOW < energy[-1] and energy[0] < high * FAR_ABOVE):
        raise ValueError(
            f"the energies {energy[0]:.3g} to {energy[-1]:.3g} TeV are far from energy_range, {low:g} to {high:g} TeV: "
            "look at their unit"
        )


def needed_planes(energy, energy_range) -> slice:
    """Nodes within a range of energies and the next on either side; at least two."""
    if energy_range is None:
        return slice(0, energy.size)
    low, high = energy_range
    first = int(np.clip(np.searchsorted(energy, low, side="right") - 1, 0, max(energy.size - 2, 0)))
    return slice(first, min(max(int(np.searchsorted(energy, high)), first + 1) + 1, energy.size))


def flux_table(cube: TemplateCube, flux, energy_range) -> TabulatedSpectrum:
    """Spectrum for a cube: spectrum times cube interpolates planes of these fluxes log-log, pixel by pixel."""
    log_nodes = np.asarray(cube.log_nodes, float)
    log_flux = np.interp(log_nodes, np.asarray(cube.axis.nodes, float), np.log(flux))
    table = np.exp(log_nodes), np.exp(log_flux + np.asarray(cube.log_norm, float))
    return TabulatedSpectrum(*continued(*table, energy_range, (np.asarray(cube.energy, float), flux)))


def continued(energy, flux, energy_range, nodes=None):
    """Energies and fluxes extended to both ends of a range, by power laws through the two outermost `nodes`."""
    at, value = map(np.log, (energy, flux) if nodes is None else nodes)

    def beyond(end, outer, inner):
        slope = (value[outer] - value[inner]) / (at[outer] - at[inner])
        return np.exp(value[outer] + slope * (np.log(end) - at[outer]))

    low, high = (energy[0], energy[-1]) if energy_range is None else energy_range
    if low < energy[0]:
        energy, flux = np.insert(energy, 0, low), np.insert(flux, 0, beyond(low, 0, 1))
    if high > energy[-1]:
        energy, flux = np.append(energy, high), np.append(flux, beyond(high, -1, -2))
    return energy, flux


def _flux_factor(unit, path) -> float:
    """Factor from the unit of a map to that of a differential flux per solid angle in gammajax."""
    from astropy import units as u

    unit = u.Unit(unit)
    if isinstance(unit, u.UnrecognizedUnit):
        raise ValueError(f"{path}: the unit {str(unit)!r} of the values is not known to astropy; give unit=")
    scale = factor(unit, BRIGHTNESS)
    if scale is None:
        raise ValueError(
            f"{path}: the values are in {str(unit)!r}, which is no flux per solid angle such as 'cm-2 s-1 MeV-1 sr-1'; "
            "give their unit=, or read relative maps by gammajax.io.from_gammapy"
        )
    return scale
