"""Exposure on the sky: livetime times effective area, as gammapy maps."""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false

from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from gammajax.common.display import block, extent, listed, number_of, words
from gammajax.common.plot_units import unit_size
from gammajax.common.writing import replacing
from gammajax.instrument.observation import as_tuple
from gammajax.io.files import to_write

PER_DECADE = 10  # energies per decade for a geometry without energies


class Exposure(NamedTuple):
    """Exposure maps [cm^2 s] of [`exposure`][], `gammapy.maps.WcsNDMap` over `energy_true` and the sky.

    - `total`: sum of all observations; `observations`: one map per observation, in their order.
    - `masks`: one image per observation, true for selected directions; `pointings`: one SkyCoord per observation.
    - `offset_max` [deg] and `obs_ids`, one per observation.

    >>> import gammajax as gj
    >>> from gammapy.maps import WcsGeom
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), frame="galactic", livetime=3600.0, offset_max=1.0)
    >>> maps = gj.exposure(run, WcsGeom.create(skydir=(0.0, 0.0), frame="galactic", width=3.0, binsz=0.2))
    >>> maps.total.unit.to_string(), len(maps.observations)
    ('cm2 s', 1)
    """

    total: Any
    observations: tuple
    masks: tuple
    pointings: tuple
    offset_max: tuple[float, ...]
    obs_ids: tuple[str, ...]

    @words
    def __repr__(self) -> str:
        """Observations, pixels and largest exposure."""
        data = getattr(self.total, "data", self.total)
        return block(
            f"Exposure of {number_of(len(self.obs_ids), 'observation')}: {listed(self.obs_ids)}",
            f"{' x '.join(map(str, getattr(data, 'shape', ())))} pixels of {extent(data, 'cm^2 s')}",
        )

    def write(self, path, overwrite: bool = False) -> Path:
        """Write a FITS file, first under a temporary name, so that `path` is never incomplete.

        HDUs are in gammapy's format (`gammapy.maps.Map.read(path, hdu="EXPOSURE")`): EXPOSURE is the total, EXPOSURE_0
        and MASK_0 (1 for selected pixels) belong to the first observation, with OBS_ID in the header, and so on.
        Raises `FileExistsError` if the file exists and `overwrite` is false.
        """
        from astropy.io import fits
        from gammapy.maps import Map

        path = to_write(path, overwrite)
        hdus = self.total.to_hdulist(hdu="EXPOSURE", hdu_bands="EXPOSURE_BANDS")
        for number, (sky, mask) in enumerate(zip(self.observations, self.masks, strict=True)):
            image = Map.from_geom(mask.geom, data=mask.data.astype(np.int16))
            for name, one in ((f"EXPOSURE_{number}", sky), (f"MASK_{number}", image)):
                parts = one.to_hdulist(hdu=name, hdu_bands=f"{name}_BANDS")[1:]
                parts[0].header["OBS_ID"] = self.obs_ids[number]
                hdus += parts
        with replacing(path) as temporary:
            fits.HDUList(list(hdus)).writeto(temporary, overwrite=True)
        return path

    def plot(self, energy: float | int = 1.0, figure=None, *, energy_unit: str = "TeV"):
        """Draw the total at the true energy nearest to `energy` [TeV], and exposures by energy; returns the figure.

        Crosses are pointings, circles their `offset_max`. Curves are in the direction of the largest total exposure.
        `figure`: a figure or subfigure to draw in. `energy_unit` of the curves and the title: eV, keV, MeV, GeV, TeV,
        PeV or erg. Raises `ValueError` for another unit.
        """
        from astropy import units as u
        from matplotlib import rc_context
        from regions import CircleSkyRegion

        from gammajax.common.ticks import PlainLinear, plain_ticks
        from gammajax.plots.directions import LABELS
        from gammajax.plots.style import BOXED, COLOURS, figure_of

        size = unit_size("energy_unit", energy_unit)
        axis = self.total.geom.axes["energy_true"]
        energies = axis.center.to_value("TeV")
        at = int(np.abs(np.log(energies / energy)).argmin())
        image = self.total.slice_by_idx({"energy_true": at})
        with rc_context(BOXED):
            figure = figure_of(figure, (12.0, 4.8))
            sky = figure.add_subplot(1, 2, 1, projection=self.total.geom.wcs)
            drawn = sky.imshow(image.data, origin="lower", cmap="viridis", vmin=0.0, interpolation="nearest")
            figure.colorbar(drawn, ax=sky, label="exposure [cm$^2$ s]", shrink=0.85, format=PlainLinear())
            for pointing, radius in zip(self.pointings, self.offset_max, strict=True):
                region = CircleSkyRegion(pointing, radius * u.deg).to_pixel(self.total.geom.wcs)
                region.plot(ax=sky, edgecolor="white", facecolor="none", lw=0.8, ls="--")
                sky.plot(*self.total.geom.to_image().coord_to_pix(pointing), "+", color="white", ms=8)
            sky.set(xlim=(-0.5, image.data.shape[1] - 0.5), ylim=(-0.5, image.data.shape[0] - 0.5))
            labels = LABELS.get(self.total.geom.frame, LABELS["icrs"])
            title = f"{energies[at] / size:.3g} {energy_unit}"
            sky.set(xlabel=f"{labels[0]} [deg]", ylabel=f"{labels[1]} [deg]", title=title)
            curves = figure.add_subplot(1, 2, 2)
            y, x = np.unravel_index(np.argmax(self.total.data.sum(0)), image.data.shape)
            some = len(self.observations) > 1
            for number, one in enumerate(self.observations if some else ()):
                value = one.data[:, y, x]
                name = "each observation" if number == 0 else None
                curves.plot(energies / size, np.where(value > 0, value, np.nan), color="0.6", lw=1.0, label=name)
            value = self.total.data[:, y, x]
            curves.plot(energies / size, np.where(value > 0, value, np.nan), color=COLOURS[0], lw=2.0, label="total")
            curves.set(xscale="log", yscale="log", xlabel=f"true energy [{energy_unit}]", ylabel="exposure [cm$^2$ s]")
            place = self.total.geom.to_image().pix_to_coord((x, y))
            curves.set_title(f"where it is largest: {place[0].to_value('deg'):.2f}, {place[1].to_value('deg'):.2f} deg")
            curves.set_ylim(1e-4 * value.max(), 2.0 * value.max())  # files contain noise below
            plain_ticks(curves.xaxis)
            plain_ticks(curves.yaxis)
            curves.grid(True, alpha=0.3, lw=0.6)
            curves.legend(frameon=False, loc="lower right")
        return figure


def exposure(observations, geom, *, masked: bool = True) -> Exposure:
    """Exposure t A(E, offset) [cm^2 s] of one or several observations at the pixel centres of a gammapy `WcsGeom`.

    `observations`: one [`gammajax.Observation`][] or a list. Returns an [`gammajax.io.Exposure`][].
    `geom` is an image, or has one axis `energy_true`; the effective area is evaluated at the centres of its bins. An
    image gets ten energies per decade over the energies of all responses.

    The selection is in reconstructed directions and energies. Maps apply it to true directions: a pixel beyond
    `offset_max`, or with its centre in an excluded region, has no exposure, as in gammapy's stacked data sets.
    `masked=False` gives the exposure of the whole field, also for photons that a source outside scatters into the
    selection; masks are returned in both cases. There is no selection in energy.

    Raises `ValueError` for any other geometry.

    >>> import gammajax as gj
    >>> from gammapy.maps import WcsGeom
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), frame="galactic", livetime=3600.0, offset_max=1.0)
    >>> maps = gj.exposure(run, WcsGeom.create(skydir=(0.0, 0.0), frame="galactic", width=3.0, binsz=0.2))
    >>> bool((maps.total.data.max((1, 2)) > 0).any())
    True
    """
    from astropy.coordinates import SkyCoord
    from gammapy.maps import Map, WcsGeom

    observations = as_tuple(observations)
    if not isinstance(geom, WcsGeom) or geom.axes.names not in ([], ["energy_true"]):
        axes = getattr(getattr(geom, "axes", None), "names", None)
        raise ValueError(
            "geom must be a gammapy.maps.WcsGeom, an image or with the one axis 'energy_true', not "
            f"{type(geom).__name__}" + (f" with the axes {axes}" if axes else "")
        )
    if geom.is_image:
        geom = geom.to_cube([_energy_axis(observations)])
    image = geom.to_image()
    centres = image.get_coord().skycoord
    energy = geom.axes["energy_true"].center.to_value("TeV")
    maps, masks, pointings = [], [], []
    for observation in observations:
        at: Any = centres.transform_to(observation.frame).spherical
        # pixels outside an all-sky projection have no direction
        known = np.isfinite(at.lon.deg)
        lon, lat = (jnp.asarray(np.where(known, np.asarray(angle.deg), 0.0)) for angle in (at.lon, at.lat))
        value, selected = map(np.asarray, _exposure(observation, jnp.asarray(energy), lon, lat))
        selected = selected & known
        kept = selected if masked else known
        maps.append(Map.from_geom(geom, data=np.where(kept, value.astype(float), 0.0), unit="cm2 s"))
        masks.append(Map.from_geom(image, data=selected))
        pointings.append(SkyCoord(float(observation.lon), float(observation.lat), unit="deg", frame=observation.frame))
    total = Map.from_geom(geom, data=np.sum([one.data for one in maps], axis=0), unit="cm2 s")
    return Exposure(
        total,
        tuple(maps),
        tuple(masks),
        tuple(pointings),
        tuple(observation.offset_max for observation in observations),
        tuple(observation.obs_id for observation in observations),
    )


@eqx.filter_jit
def _exposure(observation, energy, lon, lat):
    offset = observation.offset(lon, lat)
    area = observation.response.area(energy[:, None, None], offset[None])
    return observation.livetime * area, observation.selected(lon, lat)


def _energy_axis(observations):
    from gammapy.maps import MapAxis

    axes = [observation.response.effective_area.axes[0] for observation in observations]
    low, high = np.exp(min(axis.lower for axis in axes)), np.exp(max(axis.upper for axis in axes))
    return MapAxis.from_energy_bounds(low, high, PER_DECADE, unit="TeV", per_decade=True, name="energy_true")
