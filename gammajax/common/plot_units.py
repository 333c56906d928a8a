"""Units that plots can be asked for, by the names of their arguments; the package itself has TeV, deg and days."""

import numpy as np

ENERGIES = {"eV": 1e-12, "keV": 1e-9, "MeV": 1e-6, "GeV": 1e-3, "TeV": 1.0, "PeV": 1e3, "erg": 0.62415091}
UNITS = {
    "energy_unit": ENERGIES,
    "flux_unit": ENERGIES,  # the energy in E^2 dN/dE
    "angle_unit": {"deg": 1.0, "arcmin": 1.0 / 60.0, "arcsec": 1.0 / 3600.0},
    "time_unit": {"MJD": 1.0, "d": 1.0, "h": 1.0 / 24.0, "min": 1.0 / 1440.0, "s": 1.0 / 86400.0},
}


def span_text(low: float, high: float, unit: str) -> str:
    """A range in words, without powers of ten."""
    ends = [np.format_float_positional(end, 3, unique=False, fractional=False, trim="-") for end in (low, high)]
    return f"{ends[0]} to {ends[1]} {unit}"


def unit_size(argument: str, unit: str) -> float:
    """Size of a unit in TeV, deg or days; raises `ValueError` for one that the `argument` does not take."""
    if not isinstance(unit, str) or unit not in UNITS[argument]:
        raise ValueError(f"{argument} must be one of {', '.join(UNITS[argument])}, not {unit!r}")
    return UNITS[argument][unit]
