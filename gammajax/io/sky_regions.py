"""Regions of the `regions` package on the sphere, and DS9 region files read line by line."""

# astropy and regions carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import operator
import re
import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from gammajax.io.files import one_line

SUCH_AS = "such as 'icrs; circle(83.6, 22.0, 0.2)'"

# shapes that cover sky, with the numbers of their arguments
AREAS = {
    "circle": ("lon, lat, radius", lambda n: n == 3),
    "annulus": ("lon, lat and two or more radii", lambda n: n >= 4),
    "ellipse": ("lon, lat, radius, radius, angle, with more pairs of radii for annuli", lambda n: n >= 4),
    "box": ("lon, lat, width, height, angle, with more pairs of sizes for annuli", lambda n: n >= 4),
    "polygon": ("lon, lat of three or more corners", lambda n: n >= 6 and n % 2 == 0),
}
LINES = ("point", "line", "text", "vector", "ruler", "compass", "projection", "segment")
FRAMES = ("icrs", "fk5", "j2000", "fk4", "b1950", "galactic", "ecliptic", "image")  # `image` is refused with its shapes
OTHER_FRAMES = re.compile(r"physical|linear|amplifier|detector|tile|wcs[0a-z]?")

# one statement and its properties, up to a semicolon that is not within a text
STATEMENT = re.compile(r"""([^;\#]*)(\#(?:\{[^}]*\}|"[^"]*"|'[^']*'|[^;])*)?(?:;|$)""")
ANGLE = re.compile(r"""[+-]?[\d.][\d.:dhms]*(e[+-]?\d+)?['"dr]?""", re.IGNORECASE)
OPERATORS = (operator.and_, operator.or_, operator.xor)

# evenly spread directions (Fibonacci lattice) that tell the smaller side of a polygon from the larger
_NUMBER = np.arange(8000)
_SINE, _LON = (2.0 * _NUMBER + 1.0) / _NUMBER.size - 1.0, np.pi * (1.0 + np.sqrt(5.0)) * _NUMBER
EVERYWHERE = np.stack([np.sqrt(1 - _SINE**2) * np.cos(_LON), np.sqrt(1 - _SINE**2) * np.sin(_LON), _SINE], axis=-1)
START = np.array([0.3230917, -0.7731342, 0.5458129])  # where paths to all directions begin: no corner lies here
START = START / np.linalg.norm(START)


def negated(region) -> bool:
    """Whether a region is an excluded one (DS9's `-` before a shape, `include=False` in its meta)."""
    return not region.meta.get("include", True)


def contains(region, vectors_in: Callable) -> Bool[np.ndarray, "*shape"]:
    """Whether directions lie in a sky region, by its definition on the sphere; its own negation is left to the caller.

    `vectors_in(frame)` gives the directions as unit vectors [*shape, 3] in the frame of the region. With the separation
    from the centre s, the position angle p from the axis of the width, and the longitude l and latitude b of the
    frame that has its origin at the centre and its equator along the width (astropy's `SkyOffsetFrame`):

    - circle: s <= radius; annulus: between two of them;
    - ellipse: (s cos(p) / a)^2 + (s sin(p) / b)^2 <= 1, for half the width a and half the height b;
    - rectangle (DS9's box): |l| <= width / 2 and |b| <= height / 2;
    - annuli of ellipses and rectangles: in the outer and not in the inner one;
    - polygon: the smaller of the two sides of its edges, which are great circles; where they cross, as
      `regions` does, what is enclosed an odd number of times;
    - compound regions: the operation (&, |, ^) on the two members, where a negated member is all but itself.

    Raises `ValueError` for regions without area and for sizes that are not finite or larger than the sky.
    """
    import regions as shapes

    match region:
        case shapes.CompoundSkyRegion():
            return _compound(region, vectors_in)
        case shapes.PolygonSkyRegion():
            return _in_polygon(region.vertices, vectors_in(region.vertices.frame))
        case shapes.CircleSkyRegion():
            radius = _angle(region, "radius")
            return _separation(*_local(region, vectors_in)) <= radius
        case shapes.CircleAnnulusSkyRegion():
            inner, outer = _angle(region, "inner_radius"), _angle(region, "outer_radius")
            distance = _separation(*_local(region, vectors_in))
            return (inner <= distance) & (distance <= outer)
        case shapes.EllipseSkyRegion() | shapes.RectangleSkyRegion():
            sizes = _angle(region, "width"), _angle(region, "height")
            inside = _in_ellipse if isinstance(region, shapes.EllipseSkyRegion) else _in_rectangle
            return inside(_local(region, vectors_in), *sizes)
        case shapes.EllipseAnnulusSkyRegion() | shapes.RectangleAnnulusSkyRegion():
            inner = _angle(region, "inner_width"), _angle(region, "inner_height")
            outer = _angle(region, "outer_width"), _angle(region, "outer_height")
            inside = _in_ellipse if isinstance(region, shapes.EllipseAnnulusSkyRegion) else _in_rectangle
            there = _local(region, vectors_in)
            return inside(there, *outer) & ~inside(there, *inner)
        case shapes.PointSkyRegion() | shapes.LineSkyRegion() | shapes.TextSkyRegion():
            raise ValueError(f"a {type(region).__name__} has no area: leave it out, or give a circle")
        case _:
            raise ValueError(f"{type(region).__name__} is not among the known sky regions")


def _compound(region, vectors_in):
    if region.operator not in OPERATORS:
        raise ValueError(f"the operator of a compound region must be &, | or ^, not {region.operator}")
    if negated(region) and negated(region.region1):
        # regions hands the properties of the first member on, and then negates twice
        raise ValueError(
            "a compound region whose first member is negated counts as negated itself: put the other member first"
        )
    members = region.region1, region.region2
    return np.asarray(region.operator(*(contains(member, vectors_in) ^ negated(member) for member in members)))


def _angle(region, name) -> float:
    """A size in rad."""
    value, limit = getattr(region, name).to_value("deg"), 180.0 if "radius" in name else 360.0
    if not value <= limit:
        raise ValueError(
            f"the {name.replace('_', ' ')} of {value:g} deg must be at most {limit:g} deg (sizes without a unit are in "
            "deg; arcminutes and arcseconds are written 12' and 30\")"
        )
    return np.radians(value)


def local_axes(lon: float, lat: float) -> Float[np.ndarray, "3 3"]:
    """Unit vectors towards a direction [rad], and to the east and north of it."""
    toward = [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]
    north = [-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)]
    return np.array([toward, [-np.sin(lon), np.cos(lon), 0.0], north])


def _local(region, vectors_in):
    """Components of directions towards the centre of a region, along its width (to the west at angle 0) and height."""
    lon, lat = region.center.spherical.lon.rad, region.center.spherical.lat.rad
    angle = region.angle.to_value("rad") if hasattr(region, "angle") else 0.0
    if not np.isfinite([lon, lat, angle]).all():
        raise ValueError("the centre and the angle must be finite")
    toward, east, north = local_axes(lon, lat)
    axes = toward, np.sin(angle) * north - np.cos(angle) * east, np.cos(angle) * north + np.sin(angle) * east
    vectors = vectors_in(region.center.frame)
    return tuple(vectors @ axis for axis in axes)


def _separation(toward, along, across):
    return np.arctan2(np.hypot(along, across), toward)


def _in_ellipse(components, width, height):
    distance, angle = _separation(*components), np.arctan2(components[2], components[1])
    return np.hypot(np.cos(angle) / width, np.sin(angle) / height) * distance <= 0.5


def _in_rectangle(components, width, height):
    toward, along, across = components
    lat = np.arctan2(across, np.hypot(toward, along))
    return (np.abs(np.arctan2(along, toward)) <= 0.5 * width) & (np.abs(lat) <= 0.5 * height)


def _in_polygon(vertices, vectors):
    corners = np.moveaxis(np.asarray(vertices.represent_as("unitspherical").to_cartesian().xyz.value), 0, -1)
    if not np.isfinite(corners).all():
        raise ValueError("the corners of a polygon must be finite")
    corners = corners[np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=-1) > 1e-12]
    if len(corners) < 3:
        raise ValueError("a polygon needs three corners or more")
    following = np.roll(corners, -1, axis=0)
    if (np.linalg.norm(corners + following, axis=-1) < 1e-9).any():
        raise ValueError("two corners of a polygon in a row are opposite: give a corner between them")
    fraction = np.mean(_crossed(EVERYWHERE, corners, following))
    if abs(fraction - 0.5) < 0.005:
        raise ValueError("the edges of a polygon halve the sky: give the side as a circle or a box")
    return _crossed(vectors, corners, following) ^ bool(fraction > 0.5)


def _crossed(vectors: Float[np.ndarray, "*shape 3"], corners, following) -> Bool[np.ndarray, "*shape"]:
    """Whether great circles from `START` to directions cross an odd number of the edges."""
    odd = np.zeros(vectors.shape[:-1], bool)
    side = vectors @ np.cross(START, corners[0]) > 0
    for corner, end in zip(corners, following, strict=True):
        # two arcs cross where these four triple products have one sign
        normal = np.cross(corner, end)
        beyond, from_start = vectors @ normal < 0, normal @ START > 0
        side_end = vectors @ np.cross(START, end) > 0
        odd ^= (beyond == from_start) & (side == from_start) & (side_end != from_start)
        side = side_end
    return odd


def parse_ds9(text: str, origin: str) -> list:
    """Sky regions in a text in the DS9 format, as pairs of a region and its place in `origin` for messages.

    Lines that begin with # are comments, but for negated composites. Sizes and angles without a unit are in deg.
    Raises `ValueError`, with the number of the line, for everything else that is not a frame, `global` or a shape
    with an area in a celestial frame.
    """
    found, frame = [], None
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        if re.match(r"#\s*-\s*composite\b", line.strip(), re.IGNORECASE):
            raise ValueError(f"line {number} of {origin}: negate the shapes of a composite, not the composite")
        if line.strip().startswith("#"):
            continue
        for statement, properties in STATEMENT.findall(line):
            statement = statement.strip(" \t|")
            if not statement:
                continue
            place = f"line {number} of {origin}, {statement!r},"
            if statement.lower() in FRAMES:
                frame = statement.lower()
            elif re.match(r"global\b", statement, re.IGNORECASE):
                if re.search(r"\binclude\s*=\s*0", line):
                    raise ValueError(f"{place} must not exclude all regions: write - before each excluded region")
            else:
                found += [(region, place) for region in _parse_shape(statement, properties, frame, place)]
    return found


def _parse_shape(statement, properties, frame, place) -> list:
    from astropy.utils.exceptions import AstropyWarning
    from regions import Regions

    sign, name, arguments = re.fullmatch(r"([+-]?)(\w*)(.*)", statement).groups()  # pyright: ignore
    name = name.lower()
    if name in FRAMES and arguments:
        raise ValueError(f"{place} must have a semicolon or an end of line after {name}, {SUCH_AS}")
    if OTHER_FRAMES.fullmatch(name):
        raise ValueError(f"{place} must be a celestial frame: icrs, fk5, fk4, galactic or ecliptic")
    if name in LINES:
        raise ValueError(f"{place} has no area: leave it out, or give a circle")
    if name not in AREAS:
        raise ValueError(f"{place} is not in the DS9 region format: shapes are {', '.join(AREAS)}, {SUCH_AS}")
    if frame is None:
        raise ValueError(f"{place} is no DS9 region with a frame, {SUCH_AS}")
    values = re.sub(r"[(),]", " ", arguments).split()
    described, is_right = AREAS[name]
    if not is_right(len(values)):
        raise ValueError(f"{place} must have {described}; it has {len(values)} values")
    for value in values:
        if not ANGLE.fullmatch(value):
            raise ValueError(f"{place} has {value!r}, which is no angle such as 0.2, 12', 30\", 83d37m59s or 5:34:31.9")
    if name in ("ellipse", "box") and len(values) % 2 == 0:
        values.append("0")  # the angle may be left out; regions would take the last size for it
    values = [value + "0" if value.endswith(".") else value for value in values]  # regions takes the dot for a unit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", AstropyWarning)  # shapes that regions would skip
            found = list(Regions.parse(f"{frame}\n{name}({','.join(values)})", format="ds9"))
    except KeyError as error:
        raise ValueError(f"{place} has the unit {error}; units of sizes are d, ', \" and r") from error
    except (ValueError, TypeError, IndexError, AstropyWarning) as error:
        raise ValueError(f"{place} cannot be read: {one_line(error)}") from error
    # a property has the last word over the sign
    properties = re.sub(r"""\{[^}]*\}|"[^"]*"|'[^']*'""", "", properties)
    include = re.search(r"\binclude\s*=\s*([01])", properties)
    for region in found:
        region.meta["include"] = include[1] == "1" if include else sign != "-"
    return found
