"""Values of a configuration: numbers with units, angles and names of parameters, and sections with known keys.

Each function takes a value of a YAML file and returns a plain one, or raises `ValueError` with the form that would be
right.
"""

import contextlib
import difflib
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    model_validator,
)

from gammajax.io.text import read_angle, read_latitude, read_quantity

LARGEST = 1e300  # numbers and whole numbers above are typing errors
LARGEST_COUNT = 10**12
PLAIN_LIVETIME = (600.0, 1e8)  # s; a plain number outside is more likely one of hours or minutes

# units of the arguments of spectra and morphologies by name; all others are numbers without
SPECTRUM_UNITS: dict[str, str] = {
    **dict.fromkeys(("reference", "ebreak", "mean", "sigma", "energy", "mass"), "TeV"),
    "amplitude": "TeV-1 cm-2 s-1",
    "lambda_": "TeV-1",
    "sigma_v": "cm3 s-1",
    "j_factor": "GeV2 cm-5",
    "decay_rate": "s-1",
    "d_factor": "GeV cm-2",
}
LINE_UNITS = SPECTRUM_UNITS | {"amplitude": "cm-2 s-1"}
MORPHOLOGY_UNITS: dict[str, str] = {
    **dict.fromkeys(("lon", "lat", "sigma", "r_0", "edge", "phi", "radius", "width", "step"), "deg"),
    **dict.fromkeys(("r_s", "r_c", "distance"), "kpc"),
    **dict.fromkeys(("local_density", "rho_s"), "GeV cm-3"),
}


class Strict(BaseModel):
    """A section with known keys only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values):
        if isinstance(values, dict):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            for key in values:
                if key not in known:
                    raise ValueError(unknown("key", key, known))
        return values


def unknown(kind: str, name: str, known) -> str:
    """Message for an unknown name, with the nearest known one or all of them."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f"unknown {kind} {name!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
    )


class RightAscension(float):
    """Degrees that were written in hours, as right ascensions alone are."""


def is_name(value) -> bool:
    """Whether a value is text that begins as a name does, and no quantity or angle."""
    return isinstance(value, str) and (value[:1].isalpha() or value[:1] == "_")


def number(value, unit: str | None = None) -> float:
    """Finite number in `unit`, also from text with a unit; without `unit` from numbers alone."""
    if isinstance(value, str) and unit is not None:
        value = read_quantity(value, unit)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a plain number, not {value!r:.60}{_spelling(value)}")
    if not abs(value) < LARGEST:
        raise ValueError(f"must be a finite number, not {value:g}" if value != value else "must be a finite number")
    return value if isinstance(value, float) else float(value)


def _spelling(value) -> str:
    """The plain number that a text with a unit stands for."""
    if isinstance(value, str):
        for unit, read in (("deg", lambda text: read_angle(text)[0]), ("TeV", None), ("s", None)):
            with contextlib.suppress(ValueError):
                plain = read(value) if read else read_quantity(value, unit)
                return f"; plain numbers are in TeV, deg, s: write {plain:.10g}"
    return ""


def longitude(value) -> float:
    """Longitude [deg], from a full turn below zero to one above."""
    if isinstance(value, str):
        value, hours = read_angle(value)
        if hours:
            return RightAscension(value)
    if not abs(value := number(value)) <= 360:
        raise ValueError(f"must be a longitude in deg, from -360 to 360, not {value:g}")
    return value


def latitude(value) -> float:
    """Latitude [deg], from pole to pole."""
    value = number(read_latitude(value) if isinstance(value, str) else value)
    if not abs(value) <= 90:
        raise ValueError(f"must be a latitude in deg, from -90 to 90, not {value:g}")
    return value


def or_name(value, read) -> Any:
    """The name of a parameter unchanged, and `read` of anything else."""
    return value if is_name(value) else read(value)


def whole(value) -> int:
    """Whole number, also one such as 1e5."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError(f"must be a whole number, not {value!r}")
    return int(value)


def count(value) -> int:
    """Whole number above zero."""
    value = whole(value)
    if not 0 < value <= LARGEST_COUNT:
        raise ValueError(
            f"must be a whole number from 1 to {LARGEST_COUNT:g}, not {value if value < 10**20 else 'one that large'}"
        )
    return value


def seed(value, precision: int) -> int:
    """Seed of random numbers that `jax.random.key` takes as it is.

    It takes 63 bits, and silently drops all but 32 in single precision.
    """
    bits = 63 if precision == 64 else 32
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**bits
    if not valid:
        shown = "one that large" if isinstance(value, int) and abs(value) >= 10**20 else repr(value)
        raise ValueError(f"seed must be a whole number from 0 to 2^{bits} - 1 (precision {precision}), not {shown}")
    return value


def switch(value) -> bool:
    """True or false, but no word that means it."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def count_or_switch(value) -> int | bool:
    """Whole number above zero, or true."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return count(value)
    if value is not True:
        raise ValueError(f"must be a number of events, or true, not {value!r}")
    return value


def pair(value):
    """List of two."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"must be a pair in brackets, as in [0.5, 1.0], not {value!r}")
    return value


def increasing(value):
    """Pair in increasing order."""
    low, high = value
    if not low < high:
        raise ValueError(f"must increase, as in [0.5, 50.0], not [{low:g}, {high:g}]")
    return value


def edges(value):
    """At least two numbers that increase."""
    if len(value) < 2 or any(not low < high for low, high in zip(value[:-1], value[1:], strict=True)):
        raise ValueError(f"must be at least two edges that increase, as in [0.5, 2.0, 10.0], not {value}")
    return value


def directions(value):
    """List of pairs."""
    if isinstance(value, list | tuple) and value and not any(isinstance(one, list | tuple) for one in value):
        raise ValueError(f"must be a list of pairs, as in [[83.6, 22.0]], not {value!r}")
    return value


def off_regions(value):
    """Word for a finder of OFF regions, or the list of their centres."""
    if isinstance(value, list | tuple):
        return [(longitude(lon), latitude(lat)) for lon, lat in map(pair, directions(value))]
    if value not in ("reflected", "wobble"):
        raise ValueError(
            "must be reflected, wobble, a list of centres, as in [[83.6, 21.5]], or a ring, as in "
            f"{{inner: 0.3, outer: 0.5}}, not {value!r}"
        )
    return value


def livetime(value) -> float:
    """Livetime [s] of a pointing; a plain number that is more likely one of hours or minutes is refused."""
    plain = not isinstance(value, str) or value.strip()[-1:].isdigit()
    value = number(value, "s")
    if plain and value > 0 and not PLAIN_LIVETIME[0] <= value <= PLAIN_LIVETIME[1]:
        raise ValueError(
            f"plain numbers are in s, and {value:g} s is no usual livetime of a pointing; write '{value:g} h' or "
            f"'{value:g} min', or '{value:g} s' if it is so"
        )
    return value


def _written_livetime(value: float) -> float | str:
    """The livetime as [`livetime`][] reads it back."""
    return value if PLAIN_LIVETIME[0] <= value <= PLAIN_LIVETIME[1] else f"{value!r} s"


def truth(value):
    """Number, or a list of them, or a list of such lists."""
    return [truth(one) for one in value] if isinstance(value, list | tuple) else number(value)


def fractions(value):
    """Fractions by name, or the name of a parameter that holds them all."""
    if isinstance(value, dict):
        return {name: or_name(one, partial(_fraction, name)) for name, one in value.items()}
    if not is_name(value):
        raise ValueError(f"must hold a fraction for each component, or be the name of a parameter, not {value!r}")
    return value


def _fraction(name, value):
    value = number(value, "")
    if not 0 <= value <= 1:
        raise ValueError(f"the fraction {name} must be from 0 to 1, not {value:g}")
    return value


def numbered(value):
    """List of numbers or names of parameters, or the name of a parameter that holds them all."""
    if isinstance(value, list | tuple):
        return [or_name(one, number) for one in value]
    if not is_name(value):
        raise ValueError(f"must be a list of numbers, or the name of a parameter, not {value!r}")
    return value


def by_run(value, unit: str):
    """Number or the name of a parameter, or a list of them with one for each run."""
    read = partial(number, unit=unit)
    if not isinstance(value, list | tuple):
        return or_name(value, read)
    if not value:
        raise ValueError("must not be an empty list; give one number, or one for each run")
    return [or_name(one, read) for one in value]


def texts(value):
    """Text, or a list of them."""
    if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise ValueError(f"must be a text or a list of texts, not {value!r}")
    return value


def number_in(unit: str) -> Any:
    """Type of numbers in a unit."""
    return Annotated[float, BeforeValidator(partial(number, unit=unit))]


def value_in(unit: str) -> Any:
    """Type of numbers in a unit or names of parameters."""
    return Annotated[Any, BeforeValidator(partial(or_name, read=partial(number, unit=unit)))]


def by_run_in(unit: str) -> Any:
    """Type of numbers in a unit or names of parameters, or lists of them with one for each run."""
    return Annotated[Any, BeforeValidator(partial(by_run, unit=unit))]


Number = Annotated[float, BeforeValidator(number)]
Positive = Annotated[Number, Field(gt=0)]
Value = value_in("")  # a number, or the name of a parameter
Whole = Annotated[int, BeforeValidator(whole)]
Count = Annotated[Whole, Field(gt=0, le=LARGEST_COUNT)]
Switch = Annotated[bool, BeforeValidator(switch)]
Events = Annotated[Any, BeforeValidator(count_or_switch)]
Truth = Annotated[Any, BeforeValidator(truth)]
Fractions = Annotated[Any, BeforeValidator(fractions)]
Numbered = Annotated[Any, BeforeValidator(numbered)]
Texts = Annotated[Any, BeforeValidator(texts)]
Frame = Literal["icrs", "galactic"]
Longitude = Annotated[Any, BeforeValidator(longitude)]
Latitude = Annotated[float, BeforeValidator(latitude)]
LongitudeValue = Annotated[Any, BeforeValidator(partial(or_name, read=longitude))]
LatitudeValue = Annotated[Any, BeforeValidator(partial(or_name, read=latitude))]
Directions = Annotated[
    list[Annotated[tuple[Longitude, Latitude], BeforeValidator(pair)]],
    BeforeValidator(directions),
    Field(min_length=1),
]
Degrees = Annotated[number_in("deg"), Field(gt=0)]
Radius = Annotated[number_in("deg"), Field(gt=0, lt=90)]
Direction = Annotated[tuple[Longitude, Latitude], BeforeValidator(pair)]


class OffRing(Strict):
    """OFF region between two radii about the target, or about another centre."""

    inner: Degrees
    outer: Radius
    center: Direction | None = None

    @model_validator(mode="after")
    def _increasing(self):
        if not self.inner < self.outer:
            raise ValueError(f"a ring has 0 < inner < outer deg, not inner: {self.inner:g}, outer: {self.outer:g}")
        return self


OffRegions = Annotated[
    Annotated[OffRing, Tag("ring")] | Annotated[Any, BeforeValidator(off_regions), Tag("regions")],
    Discriminator(lambda value: "ring" if isinstance(value, dict | OffRing) else "regions"),
]
Phases = Annotated[tuple[Number, Number], BeforeValidator(pair), AfterValidator(increasing)]
Livetime = Annotated[float, BeforeValidator(livetime), Field(gt=0), PlainSerializer(_written_livetime)]
Energy = Annotated[number_in("TeV"), Field(gt=0)]
Energies = Annotated[tuple[Energy, Energy], BeforeValidator(pair), AfterValidator(increasing)]
EnergyEdges = Annotated[list[Energy], AfterValidator(edges)]
TimeEdges = Literal["runs", "nights", "blocks"] | Annotated[list[Number], AfterValidator(edges)]
