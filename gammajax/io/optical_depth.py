"""Optical depths of published models of the extragalactic background light."""

from typing import Any

import numpy as np

from gammajax.io.files import UNREADABLE, expand, one_line, quiet
from gammajax.model.absorption import Absorption

ENERGY_RANGE = (0.005, 500.0)  # TeV
ROUNDING = 1e-2  # of published transmissions


def read_absorption(path, redshift: float = 0.1, alpha_norm: float = 1.0) -> Absorption:
    """Absorption from a file in the XSPEC table format, for example in `$GAMMAPY_DATA/ebl`.

    `path` of the file; `redshift`, `alpha_norm` of the result, an [`gammajax.Absorption`][], which is returned.
    The file holds transmissions by redshift and energy, in keV where there is no unit; where one is zero, tau is taken
    as 100. Raises `ValueError` for a file that is not such a table, also for transmissions that are not between 0 and 1
    and energies that do not reach 5 GeV to 500 TeV, and `FileNotFoundError` for none.

    >>> import gammajax as gj, os
    >>> file = os.path.expandvars("$GAMMAPY_DATA/ebl/ebl_franceschini.fits.gz")
    >>> absorption = gj.io.read_absorption(file, redshift=0.1) if os.path.isfile(file) else None
    >>> absorption is None or bool(absorption(10.0) < absorption(0.1))
    True
    """
    from astropy.io import fits
    from gammapy.modeling.models import EBLAbsorptionNormSpectralModel

    path = expand(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file with an absorption table")
    try:
        with quiet():
            with fits.open(path) as file:
                hdus: Any = file
                edges = np.array([hdus["ENERGIES"].data[name] for name in ("ENERG_LO", "ENERG_HI")], float)
            if not (edges.size and np.all(edges > 0) and np.all(np.diff(edges) > 0) and np.isfinite(edges).all()):
                raise ValueError("ENERG_LO and ENERG_HI of ENERGIES must be positive, finite and increasing")
            model = EBLAbsorptionNormSpectralModel.read(path)
        energy, grid, depth = optical_depths(model)
        low, high = np.min(model.data), np.max(model.data)
        if not (low >= -ROUNDING and high <= 1.0 + ROUNDING):
            raise ValueError(
                f"the transmissions INTPSPEC of SPECTRA must be between 0 and 1, they reach {low:g} and {high:g}"
            )
        if energy[-1] < ENERGY_RANGE[0] or energy[0] > ENERGY_RANGE[1]:
            raise ValueError(
                f"the energies {energy[0]:.3g} to {energy[-1]:.3g} TeV of ENERGIES are far from those of telescopes: "
                "look at their unit, keV where there is none"
            )
    except KeyError as error:
        told = f"{error.args[0]}" if " " in str(error.args[0]) else f"there is no column {error.args[0]}"
        raise ValueError(f"{path} cannot be read as an absorption table: {told}") from error
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as an absorption table: {one_line(error)}") from error
    try:
        return Absorption(energy, grid, depth, redshift, alpha_norm)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def optical_depths(model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energies [TeV], redshifts and optical depths [redshift, energy] of gammapy's absorption model."""
    transmission = np.asarray(model.data, float)
    # exp(-100) is beyond single precision
    depth = -np.log(np.clip(transmission, np.exp(-100.0), 1.0))
    return model.energy.to_value("TeV"), np.asarray(model.param, float), depth
