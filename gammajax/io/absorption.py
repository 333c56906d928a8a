"""Optical depths of published models of the extragalactic background light."""

import numpy as np

from gammajax.absorption import Absorption
from gammajax.io.files import UNREADABLE, expand, one_line, quiet


def read_absorption(path, redshift: float = 0.1, alpha_norm: float = 1.0) -> Absorption:
    """Absorption from a file in the XSPEC table format, for example in `$GAMMAPY_DATA/ebl`.

    The file holds transmissions by redshift and energy; a transmission of zero is read as tau = 100.
    Raises `ValueError` for a file of another format, `FileNotFoundError` for a missing file.
    """
    from astropy.io.registry import IORegistryError
    from gammapy.modeling.models import EBLAbsorptionNormSpectralModel

    path = expand(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file with an absorption table")
    try:
        with quiet():
            model = EBLAbsorptionNormSpectralModel.read(path)
        energy, grid, depth = optical_depths(model)
    except (*UNREADABLE, IORegistryError) as error:
        raise ValueError(f"{path} cannot be read as an absorption table: {one_line(error)}") from error
    return Absorption(energy, grid, depth, redshift, alpha_norm)


def optical_depths(model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energies [TeV], redshifts and optical depths [redshift, energy] of gammapy's absorption model."""
    transmission = np.asarray(model.data, float)
    # exp(-100) is beyond single precision
    depth = -np.log(np.clip(transmission, np.exp(-100.0), 1.0))
    return model.energy.to_value("TeV"), np.asarray(model.param, float), depth
