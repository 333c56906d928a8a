"""Absorption of gamma rays by the extragalactic background light (EBL)."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.common.curves import curve_axes
from gammajax.common.display import described, document
from gammajax.common.parameters import Scalar, is_concrete, parameter, require_finite, scalar
from gammajax.common.plot_units import unit_size


class Absorption(eqx.Module):
    """Transmission exp(-alpha_norm tau(E, z)), a factor on a spectrum: `spectrum * Absorption(...)`.

    - `energy` [TeV], `redshift_grid`: increasing nodes; `optical_depth`: tau at the nodes, indexed [redshift, energy].
    - `redshift` of the source, `alpha_norm` the density of the background light relative to the model of the table.

    tau is linear in redshift and in ln E between nodes, as in gammapy's `EBLAbsorptionNormSpectralModel`, never
    negative, and zero at redshift zero. [`gammajax.io.read_absorption`][] reads the files of published models.

    Raises `ValueError` for a table that is not increasing, is negative or does not fit its nodes, and for a redshift
    or norm outside its range.

    Tables are those of the background light, for example Franceschini et al. 2008 (arXiv:0805.1841).

    >>> import gammajax as gj, jax.numpy as jnp
    >>> tau = [[0.0, 0.0, 0.0], [0.1, 1.0, 9.0]]
    >>> absorption = gj.Absorption([0.1, 1.0, 10.0], [0.0, 0.1], tau, redshift=0.1)
    >>> round(float(absorption(jnp.array(1.0))), 4)  # exp(-1)
    0.3679
    >>> absorbed = gj.PowerLaw(2.0, 1e-12) * absorption
    """

    energy: Float[Array, " energy"] = eqx.field(metadata={"unit": "TeV"})
    redshift_grid: Float[Array, " redshift"]
    optical_depth: Float[Array, "redshift energy"]
    redshift: Scalar = parameter()
    alpha_norm: Scalar = parameter("", 1.0)
    __repr__, __pdoc__ = described, document

    def __init__(self, energy, redshift_grid, optical_depth, redshift, alpha_norm=1.0):
        energy, grid, depth = (np.asarray(array, float) for array in (energy, redshift_grid, optical_depth))
        if energy.ndim != 1 or grid.ndim != 1 or depth.shape != (grid.size, energy.size):
            shape = (grid.size, energy.size)
            raise ValueError(f"optical_depth must have shape (redshift, energy) = {shape}, it has {depth.shape}")
        for name, nodes in (("energies", energy), ("redshifts", grid)):
            if not (np.all(np.isfinite(nodes)) and np.all(np.diff(nodes) > 0) and nodes[0] >= 0):
                raise ValueError(f"the {name} of an absorption table must be increasing, finite and not negative")
        if energy[0] == 0:
            raise ValueError("the energies of an absorption table must be positive")
        if not np.all(np.isfinite(depth)) or np.any(depth < 0):
            raise ValueError("the optical depths of an absorption table must be finite and not negative")
        if grid[0] > 0:
            grid, depth = np.append(0.0, grid), np.vstack([np.zeros(energy.size), depth])
        if grid.size < 2 or energy.size < 2:
            raise ValueError("an absorption table needs at least two energies and a redshift above zero")
        self.energy, self.redshift_grid, self.optical_depth = map(jnp.asarray, (energy, grid, depth))
        self.redshift, self.alpha_norm = scalar(redshift), scalar(alpha_norm)

    def __check_init__(self):
        require_finite(self)
        if is_concrete(self.redshift, self.redshift_grid):
            low, high = (float(self.redshift_grid[i]) for i in (0, -1))
            if not np.all((np.asarray(self.redshift) >= low) & (np.asarray(self.redshift) <= high * (1 + 1e-6))):
                raise ValueError(
                    f"redshift {np.asarray(self.redshift)} is outside the absorption table, {low:g} to {high:g}"
                )
        if is_concrete(self.alpha_norm) and not np.all(np.asarray(self.alpha_norm) >= 0):
            raise ValueError(f"alpha_norm must not be negative, it is {np.asarray(self.alpha_norm)}")

    def depth(self, energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Optical depth at `energy` [TeV], with the norm."""
        i, u = _locate(self.redshift_grid, self.redshift)
        row = self.optical_depth[i] + u * (self.optical_depth[i + 1] - self.optical_depth[i])
        j, v = _locate(jnp.log(self.energy), jnp.log(energy))
        return self.alpha_norm * jnp.maximum(row[j] + v * (row[j + 1] - row[j]), 0.0)

    def __call__(self, energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Transmission at `energy` [TeV]."""
        return jnp.exp(-self.depth(energy))

    def plot(self, energy_range: tuple, ax=None, *, energy_unit: str = "TeV", **options):
        """Draw the transmission over `energy_range` [TeV] and return the matplotlib axes.

        `energy_unit` of the abscissa: eV, keV, MeV, GeV, TeV, PeV or erg. `options` go to `Axes.plot` (`label`,
        `color`). Raises `ValueError` for another unit, and for energies that do not increase.
        """
        size = unit_size("energy_unit", energy_unit)
        labels = f"energy [{energy_unit}]", "transmission"
        ax = curve_axes(ax, "energy_range", "energies [TeV]", energy_range, *labels, size=size)
        energy = np.geomspace(energy_range[0], energy_range[1], 400)
        ax.plot(energy / size, np.asarray(self(jnp.asarray(energy))), **{"lw": 2.0, **options})
        ax.set(yscale="linear", ylim=(0.0, 1.05))
        return ax


def _locate(nodes, x):
    """Interval that contains x, and the fraction within it; the fraction extrapolates beyond the ends."""
    i = jnp.clip(jnp.searchsorted(nodes, x, side="right") - 1, 0, nodes.size - 2)
    return i, (x - nodes[i]) / (nodes[i + 1] - nodes[i])
