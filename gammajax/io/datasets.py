"""Datasets of gammapy, DL4 and OGIP files, as binned data of a posterior."""

# gammapy and astropy carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportCallIssue=false
# pyright: reportOptionalCall=false

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gammajax.io.files import UNREADABLE, expand, one_line, quiet
from gammajax.io.units import factor

KINDS = ("MapDataset", "MapDatasetOnOff", "SpectrumDataset", "SpectrumDatasetOnOff")
SUCH_AS = f"of gammapy's {', '.join(KINDS[:-1])} or {KINDS[-1]}"


def from_gammapy_datasets(
    datasets: Any,
    *,
    frame: str = "icrs",
    components: Sequence[str] | str | None = None,
    name: str | None = None,
    energy_range: tuple[float, float] | None = None,
) -> list:
    """Binned data of gammapy's datasets, for `gj.Posterior(model, priors, [...])`.

    - `datasets`: one or several of `MapDataset`, `MapDatasetOnOff`, `SpectrumDataset` and `SpectrumDatasetOnOff`, a
      `gammapy.datasets.Datasets`, or paths: YAML files of DL4 products, FITS files of one dataset, OGIP files (PHA with
      the BKG, ARF and RMF that it names). Environment variables in paths are expanded.
    - `frame`: "icrs" or "galactic", of the directions in the model.
    - `components`: those that these data see, by path; by default all sources, and the instrument's background where a
      dataset has one. `name`: of a single data set, by default gammapy's.
    - `energy_range` [TeV]: of reconstructed energies; only bins that lie in it as a whole count, besides the masks.

    Counts, exposure, point spread function, dispersion, background and masks are those of the dataset; its own models
    are ignored. Maps and spectra with a background have a Poisson likelihood (gammapy's cash), ON and OFF the profile
    likelihood (wstat): -2 ln L is gammapy's `stat_sum`. The norm and tilt of an `InstrumentBackground` multiply the
    background; without one it counts as it is. Point spread function and dispersion are those at each source's
    position, at the centres of the priors. All photons of a source are in the region of a spectrum: its exposure
    includes the part that is. Returns a list of [`gammajax.likelihood.binned.Binned`][].

    Raises `FileNotFoundError` for missing files, and `ValueError` for other objects and files, and for datasets
    without counts, mask or exposure, with other units, on other than sky pixels or regions, and with acceptances of
    zero.

    >>> import gammajax as gj, numpy as np
    >>> from astropy import units as u
    >>> from gammapy.datasets import SpectrumDataset
    >>> from gammapy.irf import EDispKernelMap
    >>> from gammapy.maps import MapAxis, RegionGeom, RegionNDMap
    >>> energy = MapAxis.from_energy_bounds("1 TeV", "10 TeV", nbin=4)
    >>> true = MapAxis.from_energy_bounds("0.5 TeV", "20 TeV", nbin=12, name="energy_true")
    >>> region, wide = (RegionGeom.create("icrs;circle(83.6, 22.0, 0.1)", axes=[axis]) for axis in (energy, true))
    >>> dataset = SpectrumDataset(
    ...     counts=RegionNDMap.from_geom(region, data=np.full((4, 1, 1), 3.0)),
    ...     background=RegionNDMap.from_geom(region, data=np.ones((4, 1, 1))),
    ...     exposure=RegionNDMap.from_geom(wide, data=np.full((12, 1, 1), 1e13), unit="cm2 s"),
    ...     edisp=EDispKernelMap.from_diagonal_response(energy, true, geom=region.to_image()),
    ...     mask_safe=RegionNDMap.from_geom(region, data=np.ones((4, 1, 1), bool)),
    ...     name="crab",
    ... )
    >>> [data.name for data in gj.io.from_gammapy_datasets(dataset)]
    ['crab']
    """
    if frame not in ("icrs", "galactic"):
        raise ValueError(f"frame must be 'icrs' or 'galactic', not {frame!r}")
    found = _datasets(datasets)
    if not found:
        raise ValueError("there are no datasets")
    if name is not None and len(found) > 1:
        raise ValueError(f"{len(found)} datasets cannot all have the name {name!r}; leave it out")
    return [_binned(dataset, frame, components, name, energy_range) for dataset in found]


def _datasets(given) -> list:
    """Datasets of gammapy, read where paths are given."""
    if isinstance(given, str | Path):
        return _read(expand(given))
    if type(given).__name__ == "Datasets" or isinstance(given, list | tuple):
        return [dataset for one in given for dataset in _datasets(one)]
    if type(given).__name__ not in KINDS:
        raise ValueError(f"a dataset must be a path or one {SUCH_AS}, not {type(given).__name__}")
    return [given]


def _read(path: Path) -> list:
    from astropy.io import fits
    from gammapy.datasets import Datasets, MapDataset, MapDatasetOnOff, SpectrumDatasetOnOff

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers and of units in lower case
            if path.suffix in (".yaml", ".yml"):
                return _datasets(list(Datasets.read(path)))
            with fits.open(path) as hdus:
                names = {hdu.name for hdu in hdus}
            if "SPECTRUM" in names:
                return [SpectrumDatasetOnOff.read(path)]
            kind = MapDatasetOnOff if "COUNTS_OFF" in names else MapDataset
            # the file of a spectrum has regions
            return [kind.read(path, name=path.name.split(".")[0])]
    except UNREADABLE as error:
        raise ValueError(f"{path}: no dataset {SUCH_AS}: {one_line(error)}") from error


def _binned(dataset, frame, components, name, energy_range):
    from gammajax.likelihood.binned import Binned

    label = name or dataset.name
    where = f"dataset {label!r}"
    if dataset.counts is None:
        raise ValueError(f"{where} has no counts")
    if dataset.exposure is None:
        raise ValueError(f"{where} has no exposure")
    if dataset.mask is None:
        raise ValueError(
            f"{where} has no mask: give it a mask_safe or mask_fit of the bins where its response is known"
        )
    geometry = dataset.counts.geom
    if geometry.is_hpx or "energy" not in geometry.axes.names or len(geometry.axes) > 1:
        raise ValueError(f"{where}: counts must be in bins of energy, and of sky pixels or one region")
    energy, true = geometry.axes["energy"], dataset.exposure.geom.axes["energy_true"]
    exposure = dataset.exposure
    if not geometry.is_region and exposure.geom.to_image() != geometry.to_image():
        exposure = exposure.interp_to_geom(geometry.to_image().to_cube([true]))
    convert = factor(exposure.unit, "cm2 s")
    if convert is None:
        raise ValueError(f"{where}: exposures must be in an area times a time, as m2 s, not {str(exposure.unit)!r}")
    on_off = type(dataset).__name__.endswith("OnOff")
    off = ratio = background = None
    if on_off:
        if dataset.counts_off is None:
            raise ValueError(f"{where} has ON counts without OFF counts")
        off = _array(dataset.counts_off)
        on, other = _array(dataset.acceptance), _array(dataset.acceptance_off)
        ratio = np.divide(on, other, out=np.zeros_like(on), where=other > 0)
    elif dataset.background is not None:
        background = _array(dataset.background)
    low, high = energy_range or (0.0, np.inf)
    edges = energy.edges.to_value("TeV")
    # an edge in single precision may lie a little beyond the end
    inside = (edges[:-1] >= low * (1.0 - 1e-6)) & (edges[1:] <= high * (1.0 + 1e-6))
    mask = np.asarray(dataset.mask.data, bool).reshape(geometry.data_shape) & inside[:, None, None]
    return Binned(
        name=label,
        counts=_array(dataset.counts),
        mask=mask,
        edges=edges,
        edges_true=true.edges.to_value("TeV"),
        exposure=convert * _array(exposure),
        response=_Response(dataset, exposure.geom, frame, where),
        background=background,
        counts_off=off,
        ratio=ratio,
        solid_angle=None if geometry.is_region else geometry.to_image().solid_angle().to_value("sr"),
        pixels=None if geometry.is_region else _pixels(geometry.to_image(), frame),
        components=components,
    )


def _array(sky) -> np.ndarray:
    """Numbers of a map [energy, y, x] in double precision, zero where they are undefined."""
    return np.nan_to_num(np.asarray(sky.data, np.float64))


class _Response:
    """Kernel of the point spread function and dispersion of a dataset, by direction, as gammapy takes them."""

    def __init__(self, dataset, geometry, frame: str, where: str):
        self.dataset, self.geometry, self.frame, self.where = dataset, geometry, frame, where

    def __call__(self, lon: float, lat: float) -> tuple[np.ndarray | None, np.ndarray]:
        """Kernel [true energy, y, x], or None without one, and dispersion [true energy, energy]."""
        from astropy.coordinates import SkyCoord
        from gammapy.irf import EDispKernel

        position = SkyCoord(lon, lat, unit="deg", frame=self.frame)
        counts = self.dataset.counts.geom
        energy, true = counts.axes["energy"], self.geometry.axes["energy_true"]
        if self.dataset.edisp is None:
            spread = EDispKernel.from_diagonal_response(energy_axis_true=true, energy_axis=energy)
        else:
            spread = self.dataset.edisp.get_edisp_kernel(position=position, energy_axis=energy)
        return self._kernel(position, true), np.asarray(spread.data, np.float64)

    def _kernel(self, position, true) -> np.ndarray | None:
        from regions import CircleSkyRegion

        psf, counts = self.dataset.psf, self.dataset.counts.geom
        if psf is None or (counts.is_region and counts.region is None):
            return None
        if getattr(psf, "energy_name", "energy_true") != "energy_true":
            raise ValueError(f"{self.where}: the point spread function must be one of true energy")
        if not counts.is_region:
            kernel = psf.get_psf_kernel(position=position, geom=self.geometry)  # as MapEvaluator, contains 0.999
            return np.asarray(kernel.psf_kernel_map.data, np.float64)
        if not isinstance(counts.region, CircleSkyRegion):
            raise ValueError(f"{self.where}: a spectrum with a point spread function must be of a circle")
        centre = {"energy_true": true.center.reshape((-1, 1, 1)), "rad": counts.region.radius}
        return np.asarray(psf.containment(**centre).to_value(""), np.float64).reshape(-1, 1, 1)


def _pixels(image, frame):
    """Directions and coordinates of the pixels of an image of gammapy."""
    from astropy.coordinates import SkyCoord

    from gammajax.likelihood.binned import Pixels

    def directions(x, y):
        sky = SkyCoord.from_pixel(np.asarray(x, float), np.asarray(y, float), image.wcs, mode="wcs").transform_to(frame)
        return sky.data.lon.to_value("deg"), sky.data.lat.to_value("deg")

    def coordinates(lon, lat):
        x, y = SkyCoord(lon, lat, unit="deg", frame=frame).to_pixel(image.wcs, mode="wcs")
        return np.asarray(x, float), np.asarray(y, float)

    return Pixels(directions, coordinates, float(image.pixel_scales.to_value("deg").max()))
