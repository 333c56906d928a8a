"""Units that files name: read in any spelling, and converted to those of the formats."""

# astropy carries no types
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

import warnings

# the first is that of FITS; the others read spellings such as 1/s/TeV/sr
SPELLINGS = ("fits", "generic", "cds", "ogip", "vounit")


def parse(text: str):
    """Unit of a text in any of the spellings that astropy knows, None for another."""
    from astropy import units

    for spelling in SPELLINGS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return units.Unit(text, format=spelling)
        except (ValueError, TypeError):
            continue
    return None


def factor(unit, wanted: str) -> float | None:
    """Factor from a unit, also one of counts or photons, to the `wanted` one; None where they do not convert.

    Logarithmic units, as "dex(TeV)", do not.
    """
    from astropy import units

    if isinstance(unit, units.function.FunctionUnitBase) or unit in (units.mag, units.dex, units.dB):
        return None
    for counted in (units.dimensionless_unscaled, units.ct, units.ph):
        if (unit / counted).is_equivalent(units.Unit(wanted)):
            return float((unit / counted).to(wanted))
    return None
