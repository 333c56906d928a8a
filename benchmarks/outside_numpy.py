"""Events of dark matter and background by numpy, scipy, astropy and gammapy alone: no code of gammajax.

The model of `gammajax run galactic-centre`: dark matter of 2 TeV annihilating to W+W- in an Einasto halo about the
Galactic Centre, and the instrument's background, in three pointings of CTAO South. Everything is thinned or drawn by
rejection in double precision: cells of proposals have upper bounds, and gammapy's own interpolation of the response
decides. The results have no grid.

Reconstructed energies and directions are drawn from gammapy's response at the true ones, normalised there, as every
photon that is detected has one energy and one direction. The spectrum is that of the table of PPPC4DMID at 2 TeV,
with dN/dlog10(x) linear between the nodes of log10(x).
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord, SkyOffsetFrame
from gammapy.irf import load_irf_dict_from_file
from scipy.interpolate import CubicSpline

POINTINGS = ((0.0, 1.0), (1.0, -0.5), (-1.0, -0.5))  # Galactic longitude and latitude [deg]
ENERGY = (0.2, 100.0)  # TeV, reconstructed
OFFSET = 3.0  # deg
MASS, CHANNEL, FRACTION = 2.0, "W", 0.05
ALPHA, SCALE_RADIUS, DISTANCE = 0.17, 28.44, 8.33  # Einasto halo [kpc]
FAR = 1.4  # deg, beyond the field of view: no photon is displaced so far, and farther out some dispersions are empty
MIGRA = 3.0  # end of the table
FILE = "cta-caldb/Prod5-South-20deg-AverageAz-14MSTs37SSTs.180000s-v0.1.fits.gz"
YIELDS = "dark_matter_spectra/PPPC4DMID/AtProduction_gammas.dat"
COLUMNS = ("energy", "lon", "lat", "energy_true", "lon_true", "lat_true", "observation")
SLACK = 1.0 + 1e-9  # rounding of the bounds
BATCH = 500_000


class Telescope(NamedTuple):
    """gammapy's response functions, in double precision."""

    aeff: object
    edisp: object
    psf: object
    bkg: object


def telescope() -> Telescope:
    """Response of the file."""
    functions = load_irf_dict_from_file(str(Path(os.environ["GAMMAPY_DATA"]) / FILE))
    for name in ("aeff", "edisp", "bkg"):
        functions[name].data = functions[name].data.astype(np.float64)
    psf = functions["psf"]
    psf.data = psf.data.astype([(name, np.float64) for name in psf.data.dtype.names])
    return Telescope(*(functions[name] for name in Telescope._fields))


def until_enough(draw: Callable[[int], np.ndarray], number: int) -> np.ndarray:
    """Columns [7, number] from a function that accepts some of as many proposals as it is given."""
    parts, found = [], 0
    while found < number:
        parts.append(draw(BATCH))
        found += parts[-1].shape[1]
    return np.concatenate(parts, axis=1)[:, :number]


def checked(value, bound):
    """Value over bound, which must not exceed one."""
    ratio = value / bound
    if ratio.size and not ratio.max() <= SLACK:
        raise ValueError(f"the bound of a rejection is too low by a factor of {ratio.max()}")
    return ratio


def divided(nodes: np.ndarray, low: float, high: float, step: float) -> np.ndarray:
    """Edges from `low` to `high` at every node between, and as many more for cells no wider than `step`."""
    ends = np.concatenate([[low], nodes[(nodes > low) & (nodes < high)], [high]])
    cells = [np.linspace(a, b, 1 + int(np.ceil((b - a) / step)))[:-1] for a, b in zip(ends, ends[1:], strict=False)]
    return np.append(np.concatenate(cells), high)


def located(rng, rate, size) -> np.ndarray:
    """Random cells, in proportion to their rates."""
    cumulative = np.cumsum(rate.ravel())
    return np.minimum(np.searchsorted(cumulative, rng.random(size) * cumulative[-1], side="right"), rate.size - 1)


def within(rng, edges, cell) -> np.ndarray:
    """Uniform positions in cells."""
    return edges[cell] + rng.random(cell.size) * (edges[cell + 1] - edges[cell])


def displaced(lon, lat, distance, angle) -> tuple[np.ndarray, np.ndarray]:
    """Direction [deg] at a distance [deg] along a position angle [rad], by unit vectors."""
    lon, lat, distance = np.radians(lon), np.radians(lat), np.radians(distance)
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
    east = np.stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)])
    here = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    x, y, z = np.cos(distance) * here + np.sin(distance) * (np.cos(angle) * north + np.sin(angle) * east)
    return np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))


def separated(lon, lat, lon0, lat0) -> np.ndarray:
    """Great-circle separation [deg]."""
    lon, lat, lon0, lat0 = map(np.radians, (lon, lat, lon0, lat0))
    square = np.sin(0.5 * (lat - lat0)) ** 2 + np.cos(lat) * np.cos(lat0) * np.sin(0.5 * (lon - lon0)) ** 2
    return np.degrees(2.0 * np.arcsin(np.sqrt(square)))


class BackgroundSource:
    """The instrument's background: cells of ln E' and field of view between the nodes of the table.

    The logarithm of the rate per ln E' is linear along each axis within a cell, so its corners bound it.
    """

    def __init__(self, response: Telescope):
        self.bkg = response.bkg
        energy = np.log(self.bkg.axes["energy"].center.to_value("TeV"))
        self.log_energy = divided(energy, *np.log(ENERGY), 0.1)
        self.sides = [divided(self.bkg.axes[a].center.to_value("deg"), -OFFSET, OFFSET, 0.1) for a in self.fields]
        rate = self.rate(*np.meshgrid(np.exp(self.log_energy), *self.sides, indexing="ij"))
        bound = np.max([rate[i:][:last, j:, k:][:, :m, :n] for i in (0, 1) for j in (0, 1) for k in (0, 1)
                        for last, m, n in [np.array(rate.shape) - 1]], axis=0)  # fmt: skip
        nearest = [np.minimum(np.abs(edges[1:]), np.abs(edges[:-1])) * (edges[1:] * edges[:-1] > 0)
                   for edges in self.sides]  # fmt: skip
        x, y = np.meshgrid(*nearest, indexing="ij")
        bound = bound * (separated(x, y, 0.0, 0.0) < OFFSET)
        self.bound = bound.ravel()
        self.weight = bound * np.diff(self.log_energy)[:, None, None]
        self.weight = self.weight * np.diff(self.sides[0])[:, None] * np.diff(self.sides[1])

    fields = ("fov_lon", "fov_lat")

    def rate(self, energy, fov_lon, fov_lat):
        """Rate per ln E' and solid angle."""
        at = {"energy": energy * u.TeV, "fov_lon": fov_lon * u.deg, "fov_lat": fov_lat * u.deg}
        return self.bkg.evaluate(**at).to_value("s-1 TeV-1 sr-1") * energy

    def draw(self, rng, number: int) -> np.ndarray:
        """Columns of events; the pointings share them at random, as they have equal livetimes and responses."""

        def some(size):
            cell = located(rng, self.weight, size)
            layer, x, y = np.unravel_index(cell, self.weight.shape)
            energy = np.exp(within(rng, self.log_energy, layer))
            fov_lon, fov_lat = within(rng, self.sides[0], x), within(rng, self.sides[1], y)
            accept = checked(self.rate(energy, fov_lon, fov_lat), self.bound[cell]) * np.cos(np.radians(fov_lat))
            keep = (rng.random(size) < accept) & (separated(fov_lon, fov_lat, 0.0, 0.0) <= OFFSET)
            energy, fov_lon, fov_lat = energy[keep], fov_lon[keep], fov_lat[keep]
            observation = rng.integers(len(POINTINGS), size=energy.size)
            lon, lat = np.empty_like(energy), np.empty_like(energy)
            for i, pointing in enumerate(POINTINGS):
                mine = observation == i
                # the table is aligned with right ascension; its longitude grows westwards
                frame = SkyOffsetFrame(origin=SkyCoord(*pointing, unit="deg", frame="galactic").icrs)
                sky = SkyCoord(-fov_lon[mine], fov_lat[mine], unit="deg", frame=frame).icrs.galactic
                lon[mine], lat[mine] = sky.l.wrap_at("180d").deg, sky.b.deg
            return np.stack([energy, lon, lat, energy, lon, lat, observation])

        return until_enough(some, number)


class DarkMatterSource:
    """Photons of dark matter that the telescope detects and reconstructs in the selection."""

    def __init__(self, response: Telescope):
        self.response = response
        x, density = photon_yields()
        area = response.aeff.axes["energy_true"].center.to_value("TeV")
        low = np.log10(ENERGY[0] / MIGRA / MASS)
        self.x = divided(np.unique(np.concatenate([x, np.log10(area / MASS)])), low, 0.0, 0.01)
        self.density = np.interp(self.x, x, density)
        offsets = np.concatenate([[0.0], response.aeff.axes["offset"].center.to_value("deg"), [6.0]])
        corners = self.area(MASS * 10.0 ** self.x[:, None], offsets[None, :]).max(1)
        self.area_bound = corners.max()  # areas grow with energy; the bound of all cells is simple, and quick enough
        self.density_bound = np.maximum(self.density[1:], self.density[:-1])
        self.log_theta = np.linspace(np.log(1e-8), np.log(OFFSET + FAR + 1.2), 4001)
        self.log_halo = CubicSpline(self.log_theta, log_halo(self.log_theta))
        corners = np.exp(self.log_halo(self.log_theta))
        self.halo_bound = 1.001 * np.maximum(corners[1:], corners[:-1])  # its maximum is at the largest angle
        self._migration()

    def area(self, energy, offset):
        """Effective area."""
        return self.response.aeff.evaluate(energy_true=energy * u.TeV, offset=offset * u.deg).to_value("m2")

    def draw(self, rng, number: int) -> np.ndarray:
        """Columns of selected events."""

        def some(size):
            cell = located(rng, self.density_bound * np.diff(self.x), size)
            x = within(rng, self.x, cell)
            photon = checked(np.interp(x, self.x, self.density), self.density_bound[cell])
            ring = located(rng, self.halo_bound * np.diff(self.log_theta), size)
            log_theta = within(rng, self.log_theta, ring)
            halo = checked(np.exp(self.log_halo(log_theta)), self.halo_bound[ring])
            keep = rng.random(size) < photon * halo
            cell, energy, theta = cell[keep], MASS * 10.0 ** x[keep], np.exp(log_theta[keep])
            lon, lat = displaced(
                np.zeros_like(theta), np.zeros_like(theta), theta, 2.0 * np.pi * rng.random(theta.size)
            )
            observation = rng.integers(len(POINTINGS), size=theta.size)
            pointing = np.array(POINTINGS)[observation].T
            offset = separated(lon, lat, *pointing)
            near = offset < OFFSET + FAR  # no photon from farther away is reconstructed in the selection
            energy, lon, lat, offset, cell = energy[near], lon[near], lat[near], offset[near], cell[near]
            observation, pointing = observation[near], pointing[:, near]
            keep = rng.random(energy.size) < checked(self.area(energy, offset), self.area_bound)
            energy, lon, lat, offset = energy[keep], lon[keep], lat[keep], offset[keep]
            observation, pointing = observation[keep], pointing[:, keep]
            rad = self.radius(rng, energy, offset)
            there = displaced(lon, lat, rad, 2.0 * np.pi * rng.random(rad.size))
            measured = energy * self.migra(rng, energy, offset)
            keep = (measured >= ENERGY[0]) & (measured <= ENERGY[1]) & (separated(*there, *pointing) <= OFFSET)
            return np.stack([measured, *there, energy, lon, lat, observation])[:, keep]

        return until_enough(some, number)

    def radius(self, rng, energy, offset):
        """Distances [deg] of reconstructed from true directions: one of the three Gaussians, then its radius."""
        p = self.response.psf.evaluate_parameters(energy_true=energy * u.TeV, offset=offset * u.deg)
        width = np.stack([p[f"sigma_{i}"].to_value("deg") for i in (1, 2, 3)])
        part = np.stack([np.ones_like(energy), p["ampl_2"].to_value(""), p["ampl_3"].to_value("")]) * width**2
        chosen = (rng.random(energy.size) > np.cumsum(part, 0) / part.sum(0)).sum(0)
        return width[chosen, np.arange(energy.size)] * np.sqrt(-2.0 * np.log1p(-rng.random(energy.size)))

    def _migration(self):
        """Bounds of the dispersion in cells of the table: in a cell it is linear along each axis, or zero."""
        axes = self.response.edisp.axes
        energy = np.log(axes["energy_true"].center.to_value("TeV"))
        first, last = np.searchsorted(energy, np.log([ENERGY[0] / MIGRA, MASS])) + [-1, 1]
        self.energy_nodes = energy[first:last]
        self.migra_edges = np.concatenate([[0.0], axes["migra"].center.to_value(""), [MIGRA]])
        self.offset_edges = np.concatenate([[0.0], axes["offset"].center.to_value("deg"), [6.0]])
        value = self.dispersion(
            np.exp(self.energy_nodes)[:, None, None], self.offset_edges[:, None], self.migra_edges[None, None, :]
        )
        bound = np.maximum(value[1:], value[:-1])
        bound = np.maximum(bound[:, 1:], bound[:, :-1])
        self.migra_bound = np.maximum(bound[..., 1:], bound[..., :-1])
        cumulative = np.cumsum(self.migra_bound * np.diff(self.migra_edges), -1)
        self.migra_cumulative = cumulative / np.where(cumulative[..., -1:] > 0, cumulative[..., -1:], 1.0)

    def dispersion(self, energy, offset, migra):
        """Density in migra, up to a factor; zero where gammapy's continuation of the table is negative."""
        at = {"energy_true": energy * u.TeV, "offset": offset * u.deg, "migra": migra * u.one}
        return self.response.edisp.evaluate(**at).value

    def migra(self, rng, energy, offset):
        """Random ratios of reconstructed to true energies: proposals until each photon has one."""
        i = np.searchsorted(self.energy_nodes, np.log(energy)) - 1
        j = np.searchsorted(self.offset_edges, offset, side="right") - 1
        row = i * (self.offset_edges.size - 1) + j
        bounds = self.migra_bound.reshape(-1, self.migra_edges.size - 1)
        rows = self.migra_cumulative.reshape(-1, self.migra_edges.size - 1)
        steps = (rows + np.arange(len(rows))[:, None]).ravel()  # the cumulative bounds of all cells, one after another
        found, open_ = np.empty_like(energy), np.arange(energy.size)
        for _ in range(10_000):
            if not open_.size:
                return found
            of = row[open_]
            cell = np.searchsorted(steps, of + rng.random(of.size), side="right") - of * rows.shape[1]
            cell = np.clip(cell, 0, rows.shape[1] - 1)
            migra = within(rng, self.migra_edges, cell)
            bound = bounds[of, cell]
            value = self.dispersion(energy[open_], offset[open_], migra)
            accepted = rng.random(of.size) * bound < checked(value, np.where(bound > 0, bound, 1.0)) * bound
            found[open_[accepted]] = migra[accepted]
            open_ = open_[~accepted]
        raise ValueError(f"{open_.size} photons have no reconstructed energy")


def photon_yields() -> tuple[np.ndarray, np.ndarray]:
    """log10(x) and dN/dlog10(x) of the table of PPPC4DMID."""
    path = Path(os.environ["GAMMAPY_DATA"]) / YIELDS
    with path.open() as lines:
        column = next(lines).split().index(CHANNEL)
        rows = np.loadtxt(lines, usecols=(0, 1, column))
    rows = rows[rows[:, 0] == 1e3 * MASS]
    return rows[:, 1], rows[:, 2]


def log_halo(log_theta: np.ndarray) -> np.ndarray:
    """Logarithm of the brightness of the halo per logarithm of the separation [deg], up to a constant.

    The square of the density along the line of sight, by Gauss-Legendre quadrature in asinh of the distance from the
    closest approach, in twenty panels.
    """
    theta = np.radians(np.exp(log_theta))[:, None]
    nodes, weights = np.polynomial.legendre.leggauss(20)
    nearest = DISTANCE * np.sin(theta)
    low, high = -np.arcsinh(1.0 / np.tan(theta)), np.arcsinh(1e5 * SCALE_RADIUS / nearest)
    total = np.zeros(theta.shape[0])
    for a, b in ((low, 0.0 * low), (0.0 * low, high)):  # the density has its peak in between
        for panel in range(20):
            half, middle = 0.025 * (b - a), a + (panel + 0.5) * 0.05 * (b - a)
            r = nearest * np.cosh(middle + half * nodes)
            total += (half * weights * np.exp(-4.0 / ALPHA * (r / SCALE_RADIUS) ** ALPHA) * r).sum(1)
    return np.log(total * np.sin(theta[:, 0]) * theta[:, 0])


def parts(total: int, size: int) -> Sequence[int]:
    """Numbers of events, of `size` at most, that add up to the total."""
    return [min(size, total - first) for first in range(0, total, size)]
