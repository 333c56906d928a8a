"""Excluded sky: membership on the sphere against astropy, closed forms, DS9 texts, masks and messages."""

import operator

import astropy.units as u
import equinox as eqx
import numpy as np
import pytest
from astropy.coordinates import SkyCoord, SkyOffsetFrame
from gammapy.maps import HpxGeom, Map, MapAxis, RegionGeom, RegionNDMap, WcsGeom
from regions import (
    CircleAnnulusSkyRegion,
    CirclePixelRegion,
    CircleSkyRegion,
    CompoundSkyRegion,
    EllipseAnnulusSkyRegion,
    EllipseSkyRegion,
    LineSkyRegion,
    PixCoord,
    PointSkyRegion,
    PolygonSkyRegion,
    RectangleAnnulusSkyRegion,
    RectangleSkyRegion,
    Regions,
    TextSkyRegion,
)

import gammajax as gj
from gammajax.io import ctao
from gammajax.io.exclusion import exclusion_map

SKY = "icrs; circle(0, 0, 180)\n"
POINTINGS = {
    "anywhere": (83.6, 22.0, "icrs"),
    "zero": (0.0, 0.0, "icrs"),
    "wrap": (359.95, -45.0, "galactic"),
    "pole": (10.0, 89.6, "icrs"),
    "south": (200.0, -90.0, "galactic"),
}


def pixels(lon, lat, frame, exclusion, radius=1.0):
    """Directions of the pixels within the radius, and whether each is excluded."""
    result = exclusion_map(exclusion, lon, lat, frame, radius)
    sky = SkyCoord(*(np.asarray(c, float) for c in result.grid.directions()), unit="deg", frame=frame)
    near = sky.separation(SkyCoord(lon, lat, unit="deg", frame=frame)).deg <= radius
    return sky[near], np.asarray(result.excluded)[near]


def fraction(exclusion, lon=83.6, lat=22.0, frame="icrs"):
    return pixels(lon, lat, frame, exclusion)[1].mean()


def in_rectangle(sky, center, width, height, angle):
    # the rotation of the frame is a position angle, from north to east: that of the height
    there = sky.transform_to(SkyOffsetFrame(origin=center, rotation=angle))
    return (np.abs(there.lon.wrap_at("180d")) <= width / 2) & (np.abs(there.lat) <= height / 2)


def in_ellipse(sky, center, width, height, angle):
    distance, along = center.separation(sky), center.position_angle(sky) - angle
    return (2 * distance * np.sin(along) / width) ** 2 + (2 * distance * np.cos(along) / height) ** 2 <= 1


def in_convex_polygon(sky, vertices):
    corners = vertices.transform_to(sky.frame).cartesian.xyz.value.T
    there = np.moveaxis(sky.cartesian.xyz.value, 0, -1)
    sides = [there @ np.cross(a, b) > 0 for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)]
    return np.all(sides, axis=0) | ~np.any(sides, axis=0)  # the corners may run either way


def around(center, radius, number):
    return center.directional_offset_by(np.arange(number) * 360 / number * u.deg + 11 * u.deg, radius)


def shapes(center, size, angle):
    """Each class with its definition, from astropy's separations, position angles and offset frames."""
    large, small = size * 1.6, size * 0.5
    radius = min(size, 179.8 * u.deg)

    def within(radius):
        return lambda sky: sky.separation(center) <= radius

    corners = around(center, min(size, 80 * u.deg), 5)
    return {
        "circle": (CircleSkyRegion(center, radius), within(radius)),
        "annulus": (
            CircleAnnulusSkyRegion(center, small, radius),
            lambda sky: within(radius)(sky) & ~within(small)(sky),
        ),
        "ellipse": (
            EllipseSkyRegion(center, large, small, angle),
            lambda sky: in_ellipse(sky, center, large, small, angle),
        ),
        "box": (
            RectangleSkyRegion(center, large, small, angle),
            lambda sky: in_rectangle(sky, center, large, small, angle),
        ),
        "ellipses": (
            EllipseAnnulusSkyRegion(center, size, large, small, size, angle),
            lambda sky: in_ellipse(sky, center, large, size, angle) & ~in_ellipse(sky, center, size, small, angle),
        ),
        "boxes": (
            RectangleAnnulusSkyRegion(center, size, large, small, size, angle),
            lambda sky: in_rectangle(sky, center, large, size, angle) & ~in_rectangle(sky, center, size, small, angle),
        ),
        "polygon": (PolygonSkyRegion(corners), lambda sky: in_convex_polygon(sky, corners) & within(90 * u.deg)(sky)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("shape", list(shapes(SkyCoord(0, 0, unit="deg"), 1 * u.deg, 0 * u.deg)))
@pytest.mark.parametrize("place", ["centre", "edge", "quarter", "antipode"])
@pytest.mark.parametrize("pointing", list(POINTINGS))
def test_regions_are_the_same_wherever_they_lie(shape, place, pointing):
    lon, lat, frame = POINTINGS[pointing]
    there = SkyCoord(lon, lat, unit="deg", frame=frame)
    distance = {"centre": 0.1, "edge": 0.4, "quarter": 90.0, "antipode": 179.9}[place]
    seen = 0
    for size, other in [(0.35, "fk5"), (89.9, "galactic"), (112.5, "icrs"), (224.9, "barycentricmeanecliptic")]:
        # the far side of a region is as good as the near one
        center = there.directional_offset_by(140 * u.deg, distance * u.deg).transform_to(other)
        center = SkyCoord(center.spherical.lon, center.spherical.lat, frame=center.frame.replicate_without_data())
        region, definition = shapes(center, size * u.deg, 35 * u.deg)[shape]
        sky, excluded = pixels(lon, lat, frame, region, radius=0.5)
        expected = np.asarray(definition(sky))
        # directions in single precision move a few pixels over the edge
        assert np.mean(excluded != expected) < 2e-3
        seen += 0 < expected.mean() < 1
        region.meta["include"] = False
        np.testing.assert_array_equal(pixels(lon, lat, frame, [SKY, region], radius=0.5)[1], ~excluded)
    assert seen or place in ("quarter", "antipode")


def test_fractions_are_those_of_caps_and_strips():
    def cap(radius):
        return 1 - np.cos(np.radians(radius))

    strip = 2 / np.pi * (np.arcsin(0.5) + 0.5 * np.sqrt(0.75))
    # (83.6, 22.0) and its antipode (263.6, -22.0)
    for text, expected in [
        ("icrs; circle(83.6, 22, 0.5)", cap(0.5) / cap(1.0)),
        ("icrs; circle(263.6, -22, 1)", 0.0),
        ("icrs; circle(263.6, -22, 179.5)", 1 - cap(0.5) / cap(1.0)),
        ("icrs; circle(173.6, 0, 180)", 1.0),
        ("icrs; circle(83.6, 22, 100)", 1.0),
        ("icrs; annulus(83.6, 22, 0.25, 0.5, 0.75)", (cap(0.75) - cap(0.25)) / cap(1.0)),
        ("icrs; box(83.6, 22, 360, 1, 0)", strip),
        ("icrs; box(83.6, 22, 1, 180, 0)", strip),
        ("icrs; box(83.6, 22, 360, 180, 30)", 1.0),
        ("icrs; box(263.6, -22, 360, 1, 0)", strip),
        ("icrs; box(263.6, -22, 360, 180, 0)", 1.0),
        ("icrs; box(263.6, -22, 10, 10, 0)", 0.0),
        ("icrs; ellipse(83.6, 22, 0.8, 0.4, 70)", 0.32),
        ("icrs; ellipse(83.6, 22, 0.8, 0.4)", 0.32),
        ("icrs; ellipse(83.6, 22, 0.4, 0.2, 0.8, 0.4, 70)", 0.24),
        ("icrs; box(83.6, 22, 0.4, 0.2, 0.8, 0.4, 70)", 0.24 / np.pi),
        ("icrs; polygon(83.6, 22, 173.6, 0, 83.6, 89)", 0.25),  # a corner of nearly 90 deg at the pointing
        ("icrs; polygon(263, -22, 264, -22, 264, -21)", 0.0),
        ("icrs; polygon(83.1, 21.5, 84.1, 22.5, 84.1, 21.5, 83.1, 22.5)", 0.5 * np.cos(np.radians(22)) / np.pi),
        (SKY + "-circle(83.6, 22, 0.5)", 1 - cap(0.5) / cap(1.0)),
    ]:
        assert fraction(text) == pytest.approx(expected, abs=0.006), text


def test_negated_regions_are_taken_out_in_any_order():
    ring = fraction("icrs; annulus(83.6, 22, 0.3, 0.8)")
    inner, outer = "circle(83.6, 22, 0.3)", "circle(83.6, 22, 0.8)"
    for given in [
        f"icrs; {outer}; -{inner}",
        f"icrs\n-{inner}\n+{outer}",
        [f"icrs; -{inner}", f"icrs; {outer}"],
        f"icrs; {outer} # color=red text={{a; b}}; {inner} # include=0",
        f"global color=green\nICRS\n# composite(83.6,22,0) || composite=1\n{outer.upper()} ||\n-{inner} # color=#f00",
    ]:
        assert fraction(given) == pytest.approx(ring, abs=1e-3), given
    # a property has the last word over the sign, and a text is none
    assert fraction(f"icrs; -{outer} # include=1") == fraction(f"icrs; {outer} # text={{include=0}}")


def test_compound_regions():
    center = SkyCoord(83.6, 22.0, unit="deg")
    one, two = CircleSkyRegion(center, 0.6 * u.deg), RectangleSkyRegion(center, 3 * u.deg, 0.4 * u.deg)
    sky, inside = pixels(83.6, 22.0, "icrs", one)
    across = pixels(83.6, 22.0, "icrs", two)[1]
    for combine in (operator.and_, operator.or_, operator.xor):
        np.testing.assert_array_equal(pixels(83.6, 22.0, "icrs", combine(one, two))[1], combine(inside, across))
    not_two = RectangleSkyRegion(center, 3 * u.deg, 0.4 * u.deg, meta={"include": False})
    np.testing.assert_array_equal(pixels(83.6, 22.0, "icrs", one & not_two)[1], inside & ~across)
    nested = (one & not_two) | CircleSkyRegion(center.galactic, 0.1 * u.deg)
    np.testing.assert_array_equal(
        pixels(83.6, 22.0, "icrs", nested)[1], (inside & ~across) | (sky.separation(center).deg <= 0.1)
    )
    with pytest.raises(
        ValueError, match="region 1 .* CompoundSkyRegion, .*first member is negated.*other member first"
    ):
        fraction(not_two & one)
    with pytest.raises(ValueError, match="operator of a compound region must be &, | or ^, not"):
        fraction(CompoundSkyRegion(one, two, operator.sub))


@pytest.mark.parametrize(
    "text",
    [
        "icrs; circle(5:34:24, 22:00:00, 30')",
        'icrs; circle(5h34m24s, 22d0m0s, 1800")',
        "fk5; circle 83.6d 22.d 0.5",
        "j2000; circle(1.4590952r, 0.38397244r, 0.0087266463r)",
        "fk4; circle({fk4.ra.deg}, {fk4.dec.deg}, .5)",
        "B1950\ncircle({fk4.ra.deg}, {fk4.dec.deg}, 5e-1)",
        "galactic; circle({galactic.l.deg}, {galactic.b.deg}, 0.5d)",
        "ecliptic; circle({ecliptic.lon.deg}, {ecliptic.lat.deg}, 0.5)",
        "\ufeff# a comment; circle(83.6, 22, 9)\r\nicrs\r\n\r\n  circle(443.6,+22.,30.')\r\n",
    ],
)
def test_units_and_frames_of_ds9(text):
    center = SkyCoord(83.6, 22.0, unit="deg")
    values = {name: center.transform_to(name) for name in ("fk4", "galactic")}
    text = text.format(ecliptic=center.barycentricmeanecliptic, **values)
    expected = pixels(83.6, 22.0, "icrs", CircleSkyRegion(center, 0.5 * u.deg))[1]
    assert np.mean(pixels(83.6, 22.0, "icrs", text)[1] != expected) < 2e-3


def test_the_background_of_what_is_left(make_observation):
    def counts(text):
        excluded = exclusion_map(text, 40.0, 60.0, "galactic", 2.0)
        return float(gj.expected_counts(gj.InstrumentBackground(), make_observation(40.0, 60.0, exclusion=excluded)))

    # the rate falls with the offset from the pointing: parts that are as large at each offset
    whole = counts("galactic; circle(220, -60, 170)")
    half, quarter = "galactic; box(130, 0, 180, 180, 0)", "galactic; polygon(40, 60, 130, 0, 40, -30)"
    assert counts(half) == pytest.approx(0.5 * whole, rel=0.01)
    assert counts(quarter) == pytest.approx(0.75 * whole, rel=0.01)
    assert counts("galactic; circle(0, 0, 180)\n-polygon(40, 60, 130, 0, 40, -30)") == pytest.approx(
        0.25 * whole, rel=0.02
    )


DS9 = "galactic\ncircle(0.5,0.2,0.4)\nbox(359.0,-1.0,1.0,0.2,30)\n"


@pytest.mark.parametrize("form", ["text", "path", "home", "latin-1", "regions", "texts", "mask"])
def test_exclusion(form, tmp_path, monkeypatch):
    regions = Regions.parse(DS9, format="ds9")
    (tmp_path / "a (1).reg").write_text(DS9)
    (tmp_path / "latin.reg").write_bytes(("# Straße\n" + DS9).encode("latin-1"))
    monkeypatch.setenv("HOME", str(tmp_path))
    geom = WcsGeom.create(skydir=(0.0, 0.0), frame="galactic", binsz=0.01, width=5.0)
    given = {
        "text": DS9,
        "path": tmp_path / "a (1).reg",
        "home": "~/a (1).reg",
        "latin-1": "$HOME/latin.reg",
        "regions": list(regions),
        "texts": ["galactic; " + line for line in DS9.splitlines() if "(" in line],
        "mask": Map.from_geom(geom, data=~geom.region_mask(regions).data),
    }[form]
    run = ctao(pointing=(0.0, 0.0), frame="galactic", exclusion=given, offset_max=2.0)
    random = np.random.default_rng(3)
    lon, lat = random.uniform(-2.0, 2.0, 4000), random.uniform(-2.0, 2.0, 4000)
    sky = SkyCoord(lon, lat, unit="deg", frame="galactic")
    expected = RegionGeom.from_regions(regions).contains(sky) if form != "mask" else geom.region_mask(regions).data
    if form == "mask":
        expected = np.asarray(given.get_by_coord(sky)) == 0
    value = np.asarray(eqx.filter_jit(run.exclusion)(lon, lat))
    assert expected.sum() > 100
    # the raster has pixels of 0.02 deg
    assert np.mean(value != expected) < 0.01
    inside = eqx.filter_jit(run.selected)(lon, lat)
    np.testing.assert_array_equal(inside, (np.asarray(run.offset(lon, lat)) <= 2.0) & ~value)


CENTER = SkyCoord(83.6, 22.0, unit="deg")


@pytest.mark.parametrize("pointing", [(83.6, 22.0, "icrs"), (180.0, 0.0, "galactic"), (0.0, 89.5, "icrs")])
@pytest.mark.parametrize(
    "geom",
    [
        WcsGeom.create(skydir=(0.0, 0.0), frame="galactic", binsz=0.5, proj="CAR"),
        WcsGeom.create(skydir=(83.6, 22.0), frame="icrs", binsz=0.5, proj="AIT"),
        HpxGeom.create(nside=64, frame="galactic", nest=True),
        HpxGeom.create(nside=64, frame="icrs", nest=False),
        WcsGeom.create(skydir=(83.6, 22.0), width=3.0, binsz=0.05, proj="TAN"),
        WcsGeom.create(
            skydir=(263.6, -22.0), width=3.0, binsz=0.05, axes=[MapAxis.from_energy_bounds("1 TeV", "9 TeV", 1)]
        ),
    ],
    ids=["car", "ait", "nested", "ring", "part", "antipode"],
)
@pytest.mark.parametrize("kind", [bool, int, float])
def test_masks(geom, pointing, kind):
    lon, lat, frame = pointing
    # stripes: half of the sky
    sky = geom.to_image().get_coord().skycoord.icrs
    data = np.floor(np.nan_to_num(sky.dec.deg) / 0.8) % 2
    mask = Map.from_geom(geom, data=data.reshape(geom.data_shape).astype(kind))
    there, excluded = pixels(lon, lat, frame, mask)
    inside = geom.to_image().contains(there)
    expected = np.zeros(inside.shape, bool)
    if inside.any():
        value = mask.get_image_by_idx([0] * len(geom.axes.names)).get_by_coord(there[inside])
        expected[inside] = value == 0
    assert np.mean(excluded != expected) < 1e-3
    assert inside.all() or not inside.any() or geom.is_image


def axis(number):
    return [MapAxis.from_energy_bounds("1 TeV", "9 TeV", number)]


SMALL = {"skydir": CENTER, "width": 3.0, "binsz": 0.5}


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Map.create(**SMALL, axes=axis(2)), r"must be an image, it has the axes \['energy'\]"),
        (Map.from_geom(WcsGeom.create(**SMALL), data=np.full((6, 6), np.nan)), "value nan in the field of view"),
        (Map.from_geom(WcsGeom.create(**SMALL), data=np.full((6, 6), 0.5)), "true or 1 .* value 0.5"),
        (Map.from_geom(WcsGeom.create(**SMALL), data=np.full((6, 6), 2)), "true or 1 .* value 2 in"),
        (RegionNDMap.create("icrs; circle(83.6, 22, 1)"), "must be an image of the sky; .* give mask.geom.region"),
        (Map.from_geom(HpxGeom.create(nside=8, region="DISK(80,20,10)")), "HEALPix map of the whole sky"),
    ],
)
def test_masks_that_say_nothing(mask, message):
    with pytest.raises(ValueError, match=message):
        fraction(mask)


def test_nan_out_of_sight_is_no_matter():
    geom = WcsGeom.create(skydir=(0.0, 0.0), frame="icrs", binsz=5.0, proj="AIT")
    mask = Map.from_geom(geom, data=np.where(geom.get_coord().skycoord.separation(CENTER).deg < 30, 1.0, np.nan))
    assert fraction(mask) == 0.0


@pytest.mark.parametrize("given", [None, [], (), Regions([]), [[]]])
def test_nothing_excluded(given):
    assert exclusion_map(given, 83.6, 22.0, "icrs", 1.0) is None


def circle(radius, lon=83.6):
    region = CircleSkyRegion(SkyCoord(lon, 22.0, unit="deg"), 1 * u.deg)
    region.radius = radius * u.deg
    return region


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("image\ncircle(1,2,3)", "line 2 .*must be made of sky regions, such as .*, not CirclePixelRegion"),
        ("circle(83.6, 22.0, 0.2)", "line 1 .* no DS9 region with a frame, such as 'icrs; circle"),
        ([1.0], "must be made of sky regions, such as .*, not float"),
        (CENTER, "must be made of sky regions, such as .*, not SkyCoord"),
        (WcsGeom.create(npix=3), "must be made of sky regions, such as .*, not WcsGeom"),
        (CirclePixelRegion(PixCoord(1, 2), 3), "must be made of sky regions, .* not CirclePixelRegion"),
        ("icrs; -circle(83.6, 22, 0.2)", r"all regions .* negated.*without the minus; to keep .*circle\(0, 0, 180\)"),
        ("# only a comment\n", "the exclusion holds no DS9 region"),
        ("icrs; circle(83.6, 22, 1)\nphysical\ncircle(3, 4, 5)", "line 2 .*'physical', must be a celestial frame"),
        ("wcsa; circle(83.6, 22, 1)", "'wcsa', must be a celestial frame"),
        ("icrs circle(83.6, 22, 1)", "line 1 .*must have a semicolon .* after icrs"),
        (
            "icrs; panda(83.6, 22, 0, 360, 4, 0.1, 0.2, 1)",
            r"'panda\(.*shapes are circle, annulus, ellipse, box, polygon",
        ),
        ("icrs; circel(83.6, 22, 1)", r"'circel\(.*shapes are circle"),
        ("icrs; !circle(83.6, 22, 1)", r"'!circle\(.*shapes are circle"),
        ("icrs; point(83.6, 22)", r"'point\(83.6, 22\)', has no area"),
        ("icrs; line(83.6, 22, 84, 23)", "has no area"),
        ("icrs; text(83.6, 22) # text={Crab}", "has no area"),
        ("icrs; vector(83.6, 22, 1, 30)", "has no area"),
        ("icrs; circle(83.6, 22, 1)\n\n-circle(83.6, 22)", "line 3 .*must have lon, lat, radius; it has 2 values"),
        ("icrs; circle(83.6, 22, 1, 2)", "must have lon, lat, radius; it has 4 values"),
        ("icrs; circle(83.6, 22, 1) & box(83.6, 22, 1, 1, 0)", "must have lon, lat, radius; it has 10 values"),
        ("icrs; annulus(83.6, 22, 1)", "must have lon, lat and two or more radii"),
        ("icrs; annulus(83.6, 22, 1, 2, n=4)", "'n=4', which is no angle such as"),
        ("icrs; annulus(83.6, 22, 2, 1)", "line 1 .*cannot be read: outer_radius must be greater"),
        ("icrs; ellipse(83.6, 22, 1)", "must have lon, lat, radius, radius, angle"),
        ("icrs; polygon(83.6, 22, 84, 22)", "must have lon, lat of three or more corners"),
        ("icrs; polygon(83.6, 22, 84, 22, 84)", "must have lon, lat of three or more corners"),
        ("icrs; polygon(83.6, 22, 84, 22, 84, 22)", "line 1 .*a polygon needs three corners"),
        ("icrs; polygon(0, 0, 180, 0, 0, 90)", "opposite: give a corner between"),
        ("icrs; polygon(0, 0, 90, 0, 180, 0, 270, 0)", "halve the sky"),
        ("icrs; circle(83.6, 22, nan)", "'nan', which is no angle such as"),
        ("icrs; circle(83.6, 22, inf)", "'inf', which is no angle such as"),
        ("icrs; circle(83.6, 22, -1)", "line 1 .*cannot be read: 'radius' must be strictly positive"),
        ("icrs; circle(83.6, 22, 0)", "line 1 .*cannot be read: 'radius' must be strictly positive"),
        ("icrs; circle(83.6, 22, 0.2deg)", "'0.2deg', which is no angle"),
        ("icrs; circle(83.6, 22, 0.2m)", "has the unit 'm'; units of sizes are d, ', \" and r"),
        ("icrs; circle(83.6, 22, 3p)", "'3p', which is no angle"),
        ("icrs; circle(5:34:31, 22:60:00, 1)", "line 1 .*cannot be read: .*minute"),
        ("icrs; circle(22, 183.6, 1)", "line 1 .*cannot be read: Latitude"),
        ("icrs; circle(83.6, 22, 720)", 'radius of 720 deg must be at most 180 deg .*30"'),
        ("icrs; # -composite(83.6, 22, 0) || composite=1\ncircle(83.6, 22, 1)", None),
        ("icrs\n# -composite(83.6, 22, 0) || composite=1\ncircle(83.6, 22, 1)", "line 2 .*negate the shapes"),
        ("global include=0\nicrs; circle(83.6, 22, 1)", "line 1 .*write - before each excluded region"),
        (circle(181.0), "region 1 of the exclusion, a CircleSkyRegion, .*radius of 181 deg"),
        ([circle(1.0), circle(np.inf)], "region 2 of the exclusion, .*radius of inf deg"),
        (circle(1.0, lon=np.nan), "region 1 .*must be finite"),
        (PolygonSkyRegion(SkyCoord([1, 2, np.nan], [3, 4, 5], unit="deg")), "region 1 .*must be finite"),
        (PointSkyRegion(CENTER), "region 1 .*PointSkyRegion has no area"),
        (LineSkyRegion(CENTER, CENTER), "region 1 .*LineSkyRegion has no area"),
        (TextSkyRegion(CENTER, "a"), "region 1 .*TextSkyRegion has no area"),
        (CircleSkyRegion(SkyCoord(1, 2, unit="deg", frame="altaz"), 1 * u.deg), "region 1 .*cannot be excluded"),
        ("#CRTFv0\ncircle[[83.6deg, 22deg], 1deg]", "in the CRTF format; give exclusion=regions.Regions.read"),
    ],
)
def test_wrong_exclusion(given, message):
    if message is None:  # after another statement, a # begins properties
        assert fraction(given) == 1.0
        return
    with pytest.raises(ValueError, match=message) as error:
        fraction(given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.reg holds no DS9 region"),
        (b"# Region file format: DS9 version 4.1\nglobal color=green\nicrs\n", "a.reg holds no DS9 region"),
        (b"SIMPLE  =                    T", "a.reg is a FITS file; give a mask as exclusion=Map.read"),
        (
            "icrs; circle(83.6, 22, 1)".encode("utf-16"),
            "a.reg cannot be read as DS9 regions: .* UTF-16; save it in UTF-8",
        ),
        (b"#CRTFv0\ncircle[[83.6deg, 22deg], 1deg]", "a.reg is in the CRTF format"),
        (b"icrs\ncircle(83.6, 22, 1)\nbpanda(83.6, 22, 1)", "line 3 of .*a.reg, 'bpanda"),
    ],
)
def test_wrong_files(content, message, tmp_path):
    (tmp_path / "a.reg").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        fraction(tmp_path / "a.reg")


@pytest.mark.parametrize("given", ["none.reg", "", "~/none.reg", "$UNSET_VARIABLE/a.reg", "."])
def test_missing_files(given):
    with pytest.raises(FileNotFoundError, match="no such region file.*written 'icrs|such as 'icrs|is not set"):
        fraction(given)


def test_regions_of_other_formats():
    crtf = "#CRTFv0\ncircle[[83.6deg, 22deg], 0.5deg], coord=icrs\n-circle[[83.6deg, 22deg], 0.2deg], coord=icrs"
    given = Regions.parse(crtf, format="crtf")
    assert fraction(given) == pytest.approx(0.25 - 0.04, abs=0.005)
