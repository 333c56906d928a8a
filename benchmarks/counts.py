"""Expected counts of H.E.S.S. runs: gammajax and gammapy against a quadrature by numpy and scipy alone.

A steep power law (index 3.75) at one position, and in a disk of half a degree, and the instrument's background, each
within 2 deg of the pointing and in the safe energies of its run. The quadrature takes the tables of the files: linear
between bin centres (energies in logarithm; the logarithm of the background), dispersions normalised, in panels that end
at the centres. Photons have the effective area and dispersion of their true direction.
"""

import argparse
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import astropy.units as u
import jax
import numpy as np
from astropy.coordinates import SkyCoord
from gammapy.data import DataStore
from gammapy.datasets import MapDataset
from gammapy.makers import MapDatasetMaker
from gammapy.maps import MapAxis, WcsGeom
from gammapy.modeling import models as gammapy_models
from scipy.interpolate import RegularGridInterpolator

import gammajax as gj
from benchmarks.report import report

INDEX, AMPLITUDE = 3.75, 1e-11  # at 1 TeV [TeV^-1 cm^-2 s^-1]
OFFSET = 2.0  # deg
RADIUS = 0.5  # deg, of the disk
RUNS = {23523: (83.633, 22.0145), 20326: (258.35, -39.77), 20900: (258.35, -39.77)}
PIXEL = 0.02  # deg, of gammapy's maps


class Run(NamedTuple):
    """A gammapy observation, and its safe energies [TeV]."""

    irfs: object
    energy_min: float
    energy_max: float


def panels(edges, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss-Legendre quadratures between edges."""
    node, weight = np.polynomial.legendre.leggauss(points)
    half, middle = 0.5 * np.diff(edges)[:, None], 0.5 * (edges[1:] + edges[:-1])[:, None]
    return (middle + half * node).ravel(), (half * weight).ravel()


def between(nodes, low, high) -> np.ndarray:
    """Both ends, and the nodes between them."""
    return np.concatenate([[low], nodes[(nodes > low) & (nodes < high)], [high]])


def centres(table, name: str, unit: str) -> np.ndarray:
    """Bin centres of an axis; logarithms of energies."""
    values = table.axes[name].center.to_value(unit).astype(float)
    return np.log(values) if "energy" in name else values


class Photons:
    """Counts of a power law at an offset, without regard to where they are reconstructed."""

    def __init__(self, run: Run):
        aeff, edisp = run.irfs.aeff, run.irfs.edisp
        self.migra = centres(edisp, "migra", "")
        table = np.nan_to_num(np.asarray(edisp.data, float)).clip(0.0)
        total = table.sum(1, keepdims=True)
        table = np.moveaxis(table / np.where(total > 0, total, 1.0), 1, 2)
        ends = [centres(edisp, "energy_true", "TeV"), centres(edisp, "offset", "deg")]
        dispersion = RegularGridInterpolator(ends, table, bounds_error=False, fill_value=None)
        area_nodes = [centres(aeff, "energy_true", "TeV"), centres(aeff, "offset", "deg")]
        area = aeff.quantity.to_value("cm2").astype(float)
        self._area = RegularGridInterpolator(area_nodes, area, bounds_error=False, fill_value=None)
        self.offsets = area_nodes[1]
        edges = np.log(aeff.axes["energy_true"].edges.to_value("TeV"))[[0, -1]]
        # the probability of the selected energies has kinks where their ends cross a node of migra: short panels
        inner = np.concatenate([*(nodes[0] for nodes in (ends, area_nodes)), np.linspace(*edges, 400)])
        self.log_energy, weight = panels(between(np.unique(inner), *edges), 8)
        energy = np.exp(self.log_energy)
        livetime = run.irfs.observation_live_time_duration.to_value("s")
        self.rate = livetime * weight * energy * AMPLITUDE * energy**-INDEX
        self.limits = [limit / energy for limit in (run.energy_min, run.energy_max)]
        self._dispersion = dispersion

    def area(self, offset) -> np.ndarray:
        """Effective area at the energies of the quadrature, at an offset or one for each."""
        return self._area(np.stack(np.broadcast_arrays(self.log_energy, offset), -1)).clip(0.0)

    def selected(self, offset) -> np.ndarray:
        """Probability of the selected energies: the profile is linear between the nodes of migra."""
        profile = self._dispersion(np.stack(np.broadcast_arrays(self.log_energy, offset), -1)).clip(0.0)
        steps = 0.5 * np.diff(self.migra) * (profile[:, 1:] + profile[:, :-1])
        cumulative = np.concatenate([np.zeros((len(steps), 1)), np.cumsum(steps, 1)], 1)
        row, below = np.arange(len(steps)), []
        for limit in self.limits:
            at = np.clip(limit, self.migra[0], self.migra[-1])
            i = np.clip(np.searchsorted(self.migra, at, side="right") - 1, 0, self.migra.size - 2)
            rest, width = at - self.migra[i], self.migra[i + 1] - self.migra[i]
            rise = (profile[row, i + 1] - profile[row, i]) * rest / width
            below.append(cumulative[row, i] + rest * (profile[row, i] + 0.5 * rise))
        return (below[1] - below[0]) / np.where(cumulative[:, -1] > 0, cumulative[:, -1], 1.0)

    def at(self, offset: float) -> float:
        """Expected counts of a point source whose point spread function lies within the field."""
        return float((self.rate * self.area(offset) * self.selected(offset)).sum())

    def disk(self, offset: float) -> float:
        """Expected counts of a disk within the field.

        Counts by offset are smooth between the nodes of the tables: cubic there, from four offsets.
        """
        most = offset + RADIUS
        known = []
        for low, high in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            x = np.linspace(low, high, 4)
            known.append(np.polyfit(x, [self.at(one) for one in x], 3) if low < most else np.zeros(4))
        rho, weight = panels(np.linspace(0.0, RADIUS, 41), 4)
        angle = np.pi * (np.arange(200) + 0.5) / 200
        c = np.radians(offset), np.radians(rho)[:, None]
        away = np.degrees(np.arccos(np.cos(c[0]) * np.cos(c[1]) + np.sin(c[0]) * np.sin(c[1]) * np.cos(angle)))
        index = np.clip(np.searchsorted(self.offsets, away, side="right") - 1, 0, len(known) - 1)
        value = sum(np.array(known)[index, power] * away ** (3 - power) for power in range(4))
        share = weight * np.sin(np.radians(rho))
        return float((value.mean(1) * share).sum() / share.sum())

    def area_afterwards(self, psf, offset: float) -> float:
        """Counts of a point source with the area at the reconstructed direction, as gammapy's maps have it."""
        rad, width = panels(np.linspace(0.0, psf.axes["rad"].edges[-1].to_value("deg"), 41), 2)
        at = {"energy_true": np.exp(self.log_energy)[:, None] * u.TeV, "offset": offset * u.deg, "rad": rad * u.deg}
        share = psf.evaluate(**at).value * rad * width
        total = share.sum(1, keepdims=True)
        share = share / np.where(total > 0, total, 1.0)  # empty where there is no area
        angle = np.pi * (np.arange(24) + 0.5) / 24
        away = np.sqrt(offset**2 + rad[:, None] ** 2 + 2.0 * offset * rad[:, None] * np.cos(angle))
        grid = np.linspace(0.0, offset + rad[-1], 200)
        area = np.stack([self.area(one) for one in grid], 1)
        mean = np.stack([np.interp(away, grid, row).mean(1) for row in area])
        return float((self.rate * (share * mean).sum(1) * self.selected(offset)).sum())


def background(run: Run) -> float:
    """Expected counts of a background in three dimensions."""
    bkg, radius = run.irfs.bkg, np.radians(OFFSET)
    scale = bkg.unit.to("s-1 TeV-1 sr-1")
    nodes = [centres(bkg, "energy", "TeV"), centres(bkg, "fov_lon", "deg"), centres(bkg, "fov_lat", "deg")]
    log_rate = np.log(np.maximum(np.asarray(bkg.data, float), np.finfo(np.float32).tiny) * scale)
    table = RegularGridInterpolator(nodes, log_rate, bounds_error=False, fill_value=None)
    log_energy, width = panels(between(nodes[0], *np.log([run.energy_min, run.energy_max])), 6)
    # chords of the circle, shorter ones next to its ends
    rim = OFFSET - np.geomspace(1e-4, 0.5, 12)
    points, weights = [], []
    for lat, height in zip(*panels(between(np.unique([*nodes[2], *rim, *-rim]), -OFFSET, OFFSET), 3), strict=True):
        cosine = np.cos(np.radians(lat))
        end = np.degrees(np.arccos(min(np.cos(radius) / cosine, 1.0)))
        lon, length = panels(between(nodes[1], -end, end), 3)
        points.append(np.stack([lon, np.full(lon.size, lat)], -1))
        weights.append(length * height * cosine * np.radians(1.0) ** 2)
    points, weights = np.concatenate(points), np.concatenate(weights)
    total = 0.0
    for energy, share in zip(log_energy, width * np.exp(log_energy), strict=True):
        at = np.concatenate([np.full((len(points), 1), energy), points], 1)
        total += share * (weights * np.exp(table(at))).sum()
    return float(total * run.irfs.observation_time_duration.to_value("s"))


def gammapy_counts(run: Run, models: list, per_decade: int, true_per_decade: int, oversampling=None) -> dict:
    """Counts of gammapy's maps, by model, and of its background: makers as in its tutorials."""
    pointing = run.irfs.get_pointing_icrs(run.irfs.tmid)
    bins = int(np.ceil(per_decade * np.log10(run.energy_max / run.energy_min)))
    axis = MapAxis.from_energy_bounds(run.energy_min * u.TeV, run.energy_max * u.TeV, nbin=bins)
    true = MapAxis.from_energy_bounds(
        0.05 * u.TeV, 100.0 * u.TeV, nbin=true_per_decade, per_decade=True, name="energy_true"
    )
    geom = WcsGeom.create(skydir=pointing, binsz=PIXEL, width=2.0 * OFFSET + 2.0 * PIXEL, axes=[axis])
    selection = ["exposure", "psf", "edisp"] if models else ["background"]
    maker = MapDatasetMaker(selection=selection, background_oversampling=oversampling)
    dataset = maker.run(MapDataset.create(geom, energy_axis_true=true, name="run"), run.irfs)
    within = geom.separation(pointing) <= OFFSET * u.deg
    if not models:
        return {"background": float((dataset.background.data * within).sum())}
    dataset.models = models
    return {model.name: float((dataset.npred_signal([model.name]).data * within).sum()) for model in models}


def at_source(run: Run, offset: float, true_per_decade: int) -> float:
    """Counts of gammapy with the exposure and the dispersion at the position of the source."""
    true = MapAxis.from_energy_bounds(
        0.05 * u.TeV, 100.0 * u.TeV, nbin=true_per_decade, per_decade=True, name="energy_true"
    )
    axis = MapAxis.from_energy_bounds(run.energy_min * u.TeV, run.energy_max * u.TeV, nbin=20)
    kernel = run.irfs.edisp.to_edisp_kernel(offset * u.deg, energy_axis_true=true, energy_axis=axis)
    area = run.irfs.aeff.evaluate(energy_true=true.center, offset=offset * u.deg).to_value("cm2")
    flux = spectrum().integral(true.edges[:-1], true.edges[1:]).to_value("cm-2 s-1")
    return float((flux * area) @ kernel.pdf_matrix.sum(1) * run.irfs.observation_live_time_duration.to_value("s"))


def spectrum():
    """The power law of gammapy."""
    return gammapy_models.PowerLawSpectralModel(
        index=INDEX, amplitude=AMPLITUDE * u.Unit("cm-2 s-1 TeV-1"), reference=1.0 * u.TeV
    )


def read(folder, obs_id: int):
    """The run, and gammajax's observation."""
    data = gj.io.read_gadf(folder, [obs_id], offset_max=OFFSET, warn=False)
    (observation,) = data.observations
    irfs = DataStore.from_dir(folder).obs(obs_id)
    return Run(irfs, float(observation.energy_min), float(observation.energy_max)), observation


def ours(observation, place) -> dict[str, float]:
    """Counts of gammajax."""
    power_law = gj.PowerLaw(index=INDEX, amplitude=AMPLITUDE, reference=1.0)
    components = {
        "point": gj.Source(power_law, gj.Point(*place)),
        "disk": gj.Source(power_law, gj.Disk(*place, RADIUS)),
        "background": gj.InstrumentBackground(),
    }
    return {name: float(np.sum(gj.expected_counts(part, observation))) for name, part in components.items()}


def main():
    """Relative differences from the quadrature."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    found = {"point": {}, "disk": {}, "background": {}}
    for obs_id, place in RUNS.items():
        run, observation = read(Path(os.environ["GAMMAPY_DATA"]) / "hess-dl3-dr1", obs_id)
        photons, offset = Photons(run), float(observation.offset(*place))
        exact = {"point": photons.at(offset), "disk": photons.disk(offset), "background": background(run)}
        away = SkyCoord(*place, unit="deg")
        point = gammapy_models.PointSpatialModel(lon_0=away.ra, lat_0=away.dec, frame="icrs")
        disk = gammapy_models.DiskSpatialModel(lon_0=away.ra, lat_0=away.dec, r_0=RADIUS * u.deg, frame="icrs")
        models = [
            gammapy_models.SkyModel(spectrum(), shape, name=name) for name, shape in (("point", point), ("disk", disk))
        ]
        mine = ours(observation, place)
        rows = {name: {"counts": exact[name], "gammajax": mine[name] / exact[name] - 1.0} for name in exact}
        for true in (20, 100):
            for name, counts in gammapy_counts(run, models, 20, true).items():
                rows[name][f"gammapy_{true}_true"] = counts / exact[name] - 1.0
        rows["point"]["gammapy_at_source_100_true"] = at_source(run, offset, 100) / exact["point"] - 1.0
        rows["point"]["gammapy_at_source_400_true"] = at_source(run, offset, 400) / exact["point"] - 1.0
        afterwards = photons.area_afterwards(run.irfs.psf, offset)
        rows["point"]["area_at_reconstructed"] = afterwards / exact["point"] - 1.0
        for per_decade, oversampling in ((10, None), (20, None), (20, 8), (20, 40)):
            counts = gammapy_counts(run, [], per_decade, 2, oversampling)["background"]
            name = f"gammapy_{per_decade}_bins" + (f"_oversampled_{oversampling}" if oversampling else "")
            rows["background"][name] = counts / exact["background"] - 1.0
        for name, row in rows.items():
            found[name][str(obs_id)] = {"offset": offset, "energy_min": run.energy_min, **row}
        print(obs_id, rows, flush=True)
    report("counts", {"index": INDEX, **found})


if __name__ == "__main__":
    main()
