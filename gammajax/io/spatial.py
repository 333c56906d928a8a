"""Spatial models of gammapy as morphologies of gammajax, and back."""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gammajax.instrument.sky import Grid
from gammajax.io.diffuse import BRIGHTNESS, flux_table, needed_planes
from gammajax.io.skymap import from_gammapy_map
from gammajax.io.spectral import Reader, number
from gammajax.io.template import SKY, resample
from gammajax.model.morphology import Gaussian, GeneralizedGaussian, Morphology, Point, pixel_fractions
from gammajax.model.shapes import Constant, Disk, Shell
from gammajax.model.spectra import TabulatedSpectrum
from gammajax.model.templates import TemplateCube, TemplateMap

FINEST, PIXELS = 0.01, 100  # finest pixels [deg], and pixels per radius, of a raster without geom
CUT_OFF = "the map ends while it is bright; beyond there is nothing, as in gammapy"
ORDER = 8  # points per side of a pixel for a map of a morphology


def to_frame(model, frame: str, done: set) -> None:
    """Convert position and position angle of a gammapy spatial model to `frame`, in place.

    `done` holds the parameters already converted: models may share them. If one coordinate of a position is free, both
    become free, and bounds and priors of the old coordinates are dropped.
    """
    from astropy.coordinates import SkyCoord

    template = type(model).__name__ == "TemplateSpatialModel"  # its frame is fixed by its map
    if "lon_0" not in model.parameters.names or model.frame == frame or template:
        return
    lon, lat = model.lon_0, model.lat_0
    if id(lon) not in done:
        position = model.position.transform_to(frame)
        if "phi" in model.parameters.names and id(model.phi) not in done:
            north = SkyCoord(0.0, 90.0, unit="deg", frame=model.frame).transform_to(frame)
            turned = model.phi.quantity.to_value("deg") + position.position_angle(north).deg
            model.phi.quantity = ((turned + 180.0) % 360.0 - 180.0) * _degree()
            done.add(id(model.phi))
        free = not (lon.frozen and lat.frozen)
        for parameter, value in ((lon, position.spherical.lon), (lat, position.spherical.lat)):
            parameter.quantity = value.to("deg")
            parameter.frozen, parameter.prior = not free, None
        lon.min = lon.max = np.nan
        lat.min, lat.max = -90.0, 90.0
        done.update((id(lon), id(lat)))
    model.frame = frame


def morphology_from_gammapy(model, read: Reader, frame: str, geom=None) -> tuple[Morphology, Any]:
    """Morphology of a gammapy spatial model in `frame`, and the factor on the spectrum that keeps the flux.

    The factor is None for models that integrate to one over the sky, and a table for models that change with energy.
    """
    kind = type(model)
    name, ours = kind.__name__, kind.__module__.startswith("gammapy.")
    if ours and name in NATIVE:
        return NATIVE[name](model, read), None
    if ours and name == "ConstantSpatialModel":
        return Constant(), 4.0 * math.pi * read(model.value, "sr-1")
    if ours and name in ("ConstantFluxSpatialModel", "TemplateNDSpatialModel"):
        raise ValueError(f"{read.prefix}: {name} has no counterpart; it is not a function of the direction alone")
    if name == "TemplateSpatialModel" and ours and model.is_energy_dependent:
        return read.table(model, lambda: _cube(model, read, frame, geom))
    if model.is_energy_dependent:
        raise ValueError(f"{read.prefix}: {name} changes with energy; give a spatial model that does not")
    return read.table(model, lambda: _raster(model, read, frame, geom))


def _raster(model, read, frame, geom):
    place = {} if geom is None else _place(geom, frame)
    template = type(model).__name__ == "TemplateSpatialModel"
    moved = template and model.position.separation(model.map_center).deg > 1e-6
    if moved and model.map.geom.is_hpx:
        raise ValueError(f"{read.prefix}: a HEALPix template moved from the centre of its map; move the map itself")
    own = _template(model, "sr-1", read.prefix) if template else None
    whole = own is not None and geom is None and not moved
    if whole and (grid := _own_grid(model.map.geom, frame)) is not None:
        values = np.nan_to_num(own.data).reshape(grid.size, grid.size)[:, ::-1]
    else:
        sky = _ModelSky(model, read.prefix, place) if own is None or moved else own
        grid, values, edge = resample(sky, f"{read.prefix}: {type(model).__name__}", frame, **place)
        if template and edge is not None:
            read.note(CUT_OFF)
    if not template or any(id(parameter) in read.names for parameter in model.parameters):
        read.note_frozen(model, f"a map of {grid.size} x {grid.size} pixels of {grid.step:.3g} deg")
    flux = values.sum() * grid.solid_angle
    if own is not None and geom is None:
        # the flux of the map itself; resampling keeps it to about 1e-3
        flux = float(own.flux)
    try:
        return TemplateMap(grid, values), None if abs(flux - 1.0) < 1e-5 else float(flux)
    except ValueError as error:
        raise ValueError(f"{read.prefix}: {error}") from error


def _cube(model, read, frame, geom):
    """Cube of a gammapy template, and the table of its integral over the sky: a flux or dimensionless, like the map."""
    name, sky = f"{read.prefix}: {type(model).__name__}", model.map
    if model.position.separation(model.map_center).deg > 1e-6:
        raise ValueError(f"{name} changes with energy and is moved from the centre of its map; move the map itself")
    unit = BRIGHTNESS if sky.unit.is_equivalent(BRIGHTNESS) else "sr-1"
    axis = sky.geom.axes["energy_true"]
    kept = needed_planes(axis.center.to_value("TeV"), read.energy_range)
    energy = axis.center.to_value("TeV")[kept]
    planes = _template(model, unit, read.prefix)
    planes = dataclasses.replace(planes, data=planes.data[kept])
    if geom is None and (grid := _own_grid(sky.geom, frame)) is not None:
        values = np.nan_to_num(planes.data).reshape(-1, grid.size, grid.size)[:, :, ::-1]
    else:
        place = {} if geom is None else _place(geom, frame)
        grid, values, edge = resample(planes, name, frame, **place)
        if edge is not None:
            read.note(CUT_OFF)
    flux = planes.flux if geom is None else values.sum((1, 2)) * grid.solid_angle
    if any(id(parameter) in read.names for parameter in model.parameters):
        read.note_frozen(
            model, f"a cube of {energy.size} maps of {grid.size} x {grid.size} pixels of {grid.step:.3g} deg"
        )
    # gammapy extends the map to the ends of the outer bins
    low, high = axis.edges.to_value("TeV")[[0, -1]]
    if low > read.energy_range[0] or high < read.energy_range[1]:
        read.note(f"nothing below {low:.3g} and above {high:.3g} TeV, as gammapy has it: the energies of its map")
    try:
        cube = TemplateCube(grid, energy, values)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    ends = max(low, min(read.energy_range[0], energy[0])), min(high, max(read.energy_range[1], energy[-1]))
    return cube, flux_table(cube, flux, ends)


def _template(model, unit, prefix):
    try:
        return from_gammapy_map(model.map.copy(data=model.map.quantity.to_value(unit).clip(0.0), unit=unit))
    except ValueError as error:
        raise ValueError(f"{prefix}: {error}") from error


def _place(geom, frame):
    """Centre, radius and step of a gammapy geometry."""
    centre = geom.center_skydir.transform_to(frame).spherical
    width = geom.to_image().width.to_value("deg")
    step = float(np.min(geom.pixel_scales.to_value("deg")))
    return {"lon": centre.lon.deg, "lat": centre.lat.deg, "radius": 0.5 * float(np.max(width)), "step": step}


class _ModelSky:
    """Any gammapy spatial model, for sampling on a grid."""

    def __init__(self, model, prefix, place):
        self.model, self.frame, self.prefix = model, model.frame, prefix
        extent = model.evaluation_radius
        if extent is None and not place:
            raise ValueError(f"{prefix}: {type(model).__name__} has no extent of its own; give the geom to draw it on")
        self.extent = 180.0 if extent is None else float(np.max(extent.to_value("deg")))
        self.step = place["step"] if place else max(FINEST, self.extent / PIXELS)

    def bright(self):
        """A cross with the width of the model."""
        position = self.model.position.transform_to(self.frame)
        ends = position.directional_offset_by([0, 90, 180, 270] * _degree(), self.extent * _degree()).spherical
        return ends.lon.deg, ends.lat.deg

    def values_at(self, lon, lat):
        value = self.model(lon * _degree(), lat * _degree())
        return np.nan_to_num(np.broadcast_to(value.to_value("sr-1"), lon.shape)).clip(0.0)


def _degree():
    from astropy import units as u

    return u.deg


def _own_grid(geom, frame) -> Grid | None:
    """The grid of an equal-area map written by [`morphology_to_gammapy`][], or None for other maps."""
    if geom.is_hpx or geom.frame != frame or geom.projection != "ZEA":
        return None
    geom = geom.to_image()
    size, (lon, lat) = geom.data_shape[0], geom.wcs.wcs.crval
    step = float(geom.wcs.wcs.cdelt[1])
    if geom.data_shape != (size, size) or not np.allclose(geom.wcs.wcs.cdelt, [-step, step], rtol=1e-9):
        return None
    if not np.allclose(geom.wcs.wcs.crpix, 0.5 * (size + 1), atol=1e-9):
        return None
    grid = Grid(lon, lat, step, (size - 1) // 2 * step * (1.0 - 1e-9))
    return grid if grid.size == size else None


def _elongated(model, read):
    return {"e": read(model.e), "phi": read(model.phi, "deg")}


def _disk(model, read):
    r_0 = read(model.r_0, "deg")
    return Disk(*_position(model, read), r_0, edge=r_0 * read(model.edge_width), **_elongated(model, read))


def _shell_2(model, read):
    outer, eta = read(model.r_0, "deg"), read(model.eta)
    return Shell(*_position(model, read), (1.0 - eta) * outer, eta * outer)


def _position(model, read):
    return read(model.lon_0, "deg"), read(model.lat_0, "deg")


NATIVE: dict[str, Callable[[Any, Reader], Morphology]] = {
    "PointSpatialModel": lambda m, read: Point(*_position(m, read)),
    "GaussianSpatialModel": lambda m, read: Gaussian(
        *_position(m, read), read(m.sigma, "deg"), **_elongated(m, read)
    ),
    "GeneralizedGaussianSpatialModel": lambda m, read: GeneralizedGaussian(
        *_position(m, read), read(m.r_0, "deg"), read(m.eta), **_elongated(m, read)
    ),
    "DiskSpatialModel": _disk,
    "ShellSpatialModel": lambda m, read: Shell(*_position(m, read), read(m.radius, "deg"), read(m.width, "deg")),
    "Shell2SpatialModel": _shell_2,
}  # fmt: skip


def morphology_to_gammapy(morphology: Morphology, frame: str, geom, energy_range, name: str) -> tuple[Any, Any]:
    """Gammapy spatial model for a morphology in `frame`, and the factor on the spectrum or None.

    A morphology without counterpart becomes a map of the flux in each pixel, with the centre, size and pixels of
    `geom`. Cubes cover `energy_range` [TeV].
    """
    from astropy import units as u
    from gammapy.modeling import models as gp

    if isinstance(morphology, Constant):
        # gammapy writes no other value than 1 sr-1
        return gp.ConstantSpatialModel(), 0.25 / math.pi
    place = {"lon_0": number(morphology.lon) * u.deg, "lat_0": number(morphology.lat) * u.deg, "frame": frame}
    if isinstance(morphology, Point):
        return gp.PointSpatialModel(**place), None
    if isinstance(morphology, Shell):
        radii = {"radius": number(morphology.radius_in) * u.deg, "width": number(morphology.width) * u.deg}
        return gp.ShellSpatialModel(**place, **radii), None
    if isinstance(morphology, TemplateMap):
        return _template_to_gammapy(morphology.grid, frame, np.asarray(morphology.values, float)), None
    if isinstance(morphology, TemplateCube):
        return _cube_to_gammapy(morphology, frame, energy_range)
    if type(morphology) in COUNTERPARTS:
        kind, fields = COUNTERPARTS[type(morphology)]
        shape = {field: number(getattr(morphology, field)) * u.Unit(unit) for field, unit in fields.items()}
        if isinstance(morphology, Disk):
            shape["edge_width"] = float(morphology.edge) / float(morphology.r_0)
        shape["phi"] = number((morphology.phi + 180.0) % 360.0 - 180.0) * u.deg
        return getattr(gp, kind)(**place, **shape), None
    if morphology.is_energy_dependent:
        kind = type(morphology).__name__
        raise ValueError(
            f"component {name!r}: gammapy has no counterpart of {kind}; write it with morphology.at(energy)"
        )
    if geom is None:
        raise ValueError(
            f"component {name!r}: gammapy has no counterpart of {type(morphology).__name__}; give geom=, a WcsGeom to "
            "draw it on"
        )
    at = _place(geom, frame)
    grid = Grid(at["lon"], at["lat"], at["step"], min(at["radius"], SKY))
    x, y = np.meshgrid(*2 * [np.asarray(grid.coordinates, float)])
    fractions = np.where(np.hypot(x, y) < SKY, np.asarray(pixel_fractions(morphology, grid, ORDER), float), 0.0)
    return _template_to_gammapy(grid, frame, fractions / grid.solid_angle), None


def _template_to_gammapy(grid, frame, values):
    from gammapy.modeling.models import TemplateSpatialModel

    # constant within pixels, as in gammajax; the brightness is absolute
    return TemplateSpatialModel(
        _map_to_gammapy(grid, frame, values), normalize=False, interp_kwargs={"method": "nearest"}
    )


def _map_to_gammapy(grid, frame, values, axes=()):
    from gammapy.maps import WcsGeom, WcsNDMap

    centre = (number(grid.lon), number(grid.lat))
    geom = WcsGeom.create(skydir=centre, npix=grid.size, binsz=grid.step, frame=frame, proj="ZEA", axes=list(axes))
    return WcsNDMap(geom, values[..., ::-1], unit="sr-1")


def _cube_to_gammapy(cube, frame, energy_range):
    """Template with the outer planes repeated at the ends of the range, and 1 / norm, which gammapy lacks."""
    from gammapy.maps import MapAxis
    from gammapy.modeling.models import TemplateSpatialModel

    values, energy = np.asarray(cube.values, float), np.asarray(cube.energy, float)
    nodes = np.exp(np.asarray(cube.log_nodes, float))
    inverse = np.exp(-np.asarray(cube.log_norm, float))
    low, high = energy_range
    if low < energy[0]:
        energy, values = np.insert(energy, 0, low), np.concatenate([values[:1], values])
        nodes, inverse = np.insert(nodes, 0, low), np.insert(inverse, 0, 1.0)
    if high > energy[-1]:
        energy, values = np.append(energy, high), np.concatenate([values, values[-1:]])
        nodes, inverse = np.append(nodes, high), np.append(inverse, 1.0)
    axis = MapAxis.from_nodes(energy, unit="TeV", name="energy_true", interp="log")
    sky = _map_to_gammapy(cube.grid, frame, values, [axis])
    factor = TabulatedSpectrum(nodes, inverse) if inverse.max() > 1.0 + 1e-5 else None
    return TemplateSpatialModel(sky, normalize=False), factor


COUNTERPARTS: dict[type, tuple[str, dict[str, str]]] = {
    Gaussian: ("GaussianSpatialModel", {"sigma": "deg", "e": ""}),
    GeneralizedGaussian: ("GeneralizedGaussianSpatialModel", {"r_0": "deg", "eta": "", "e": ""}),
    Disk: ("DiskSpatialModel", {"r_0": "deg", "e": ""}),
}
