import inspect
from dataclasses import fields

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

import gammajax as gj
from gammajax.instrument.sky import Grid
from gammajax.model.darkmatter.halos import CM_PER_KPC, Halo
from gammajax.model.morphology import pixel_fractions

# halos with all parameters away from their defaults, and an independent formula of their density in units of rho_s
HALOS = {
    "Einasto": (gj.Einasto(alpha=0.22, r_s=19.0), lambda x: np.exp(-2.0 / 0.22 * (x**0.22 - 1.0))),
    "NFW": (gj.NFW(r_s=21.0), lambda x: 1.0 / x / (1.0 + x) ** 2),
    "generalised NFW": (gj.GeneralizedNFW(gamma=1.3, r_s=21.0), lambda x: x**-1.3 * (1.0 + x) ** -1.7),
    "shallow NFW": (gj.GeneralizedNFW(gamma=0.4), lambda x: x**-0.4 * (1.0 + x) ** -2.6),
    "cored NFW": (gj.CoredNFW(r_c=0.7, r_s=21.0), lambda x: 1.0 / (x + 0.7 / 21.0) / (1.0 + x) ** 2),
    "Burkert": (gj.Burkert(r_s=11.0), lambda x: 1.0 / (1.0 + x) / (1.0 + x**2)),
    "Moore": (gj.Moore(r_s=27.0), lambda x: x**-1.16 * (1.0 + x) ** -1.84),
    "isothermal": (gj.Isothermal(r_s=5.0), lambda x: 1.0 / (1.0 + x**2)),
    "Zhao": (gj.Zhao(alpha=0.5, beta=3.5, gamma=0.8, r_s=15.0), lambda x: x**-0.8 * (1.0 + x**2) ** -1.35),
    "dwarf": (gj.NFW(distance=80.0, r_s=0.8, rho_s=1.5), lambda x: 1.0 / x / (1.0 + x) ** 2),
}
NAMES = pytest.mark.parametrize("name", HALOS)
POWERS = pytest.mark.parametrize("power", [2, 1])


def density(name):
    halo, shape = HALOS[name]
    r_s = float(halo.r_s)
    scale = 0.3 / shape(float(halo.distance) / r_s) if halo.rho_s is None else float(halo.rho_s)
    return lambda r: scale * shape(r / r_s)


def sight(name, power, theta):
    """Line-of-sight integral [GeV^power cm^(1 - 3 power)] at theta [rad], by scipy in r from the closest approach."""
    rho, distance = density(name), float(HALOS[name][0].distance)
    b = distance * np.sin(theta)
    # l = b sinh(u) on either side
    near = np.arcsinh(1.0 / np.tan(theta))
    options = {"epsrel": 1e-9, "limit": 400}
    there = quad(lambda u: rho(b * np.cosh(u)) ** power * b * np.cosh(u), -near, 0.0, **options)[0]
    beyond = quad(lambda u: rho(b * np.cosh(u)) ** power * b * np.cosh(u), 0.0, np.arcsinh(1e6 / b), **options)[0]
    return (there + beyond) * CM_PER_KPC


def within(name, power, radius):
    """Total within a radius [deg]: panels of ln theta, down to a remainder below a part in 1e5."""
    nodes, weights = np.polynomial.legendre.leggauss(6)
    edges = np.linspace(np.log(1e-14), np.log(np.radians(radius)), 41)
    half, middle = 0.5 * np.diff(edges), 0.5 * (edges[1:] + edges[:-1])
    theta = np.exp(middle[:, None] + half[:, None] * nodes)
    values = np.array([sight(name, power, t) for t in theta.ravel()]).reshape(theta.shape)
    return (2.0 * np.pi * np.sin(theta) * theta * half[:, None] * weights * values).sum()


@eqx.filter_jit
def factor(halo, radius, power):
    return halo.j_factor(radius) if power == 2 else halo.d_factor(radius)


@eqx.filter_jit
def differential(halo, lon, power):
    return (halo.differential_j_factor if power == 2 else halo.differential_d_factor)(lon, jnp.zeros_like(lon))


@pytest.mark.slow
@POWERS
@NAMES
def test_along_the_line_of_sight(name, power):
    theta = np.array([1e-5, 0.03, 0.5, 5.0, 40.0, 91.0, 150.0])
    expected = np.array([sight(name, power, t) for t in np.radians(theta)])
    value = np.asarray(differential(HALOS[name][0], jnp.asarray(theta), power), np.float64)
    # nodes of ln chord are coarse about the anticentre
    np.testing.assert_allclose(value, expected, rtol=3e-4)


@POWERS
@pytest.mark.parametrize(("name", "radius"), [("Einasto", 1.0), ("NFW", 3.0), ("generalised NFW", 0.1), ("dwarf", 0.5)])
def test_total_within_a_radius(name, radius, power):
    value = float(factor(HALOS[name][0], jnp.asarray(radius), power))
    assert value == pytest.approx(within(name, power, radius), rel=1e-3)


@pytest.mark.parametrize("name", ["Moore", "Burkert", "Zhao"])
def test_total_of_the_whole_sky(name):
    value = float(factor(HALOS[name][0], jnp.asarray(180.0), 2))
    expected = within(name, 2, 60.0) + _outer(name)
    assert value == pytest.approx(expected, rel=1e-3)


def _outer(name):
    nodes, weights = np.polynomial.legendre.leggauss(24)
    theta = np.radians(120.0 + 60.0 * nodes)
    return sum(
        2.0 * np.pi * np.sin(t) * w * np.radians(60.0) * sight(name, 2, t) for t, w in zip(theta, weights, strict=True)
    )


@pytest.mark.slow
@NAMES
def test_finite_at_the_centre(name):
    halo = HALOS[name][0]
    value = differential(halo, jnp.array([0.0, 1e-9, 1e-6, 1e-4]), 2)
    assert np.all(np.isfinite(value)) and np.all(np.diff(value) <= 1e-4 * value[0])
    gradient = eqx.filter_jit(jax.grad(lambda lon: jnp.log(halo.differential_j_factor(lon, 0.0))))(0.0)
    assert np.isfinite(gradient)


GAMMAPY = {
    "Einasto": gj.Einasto(),
    "NFW": gj.NFW(),
    "Burkert": gj.Burkert(),
    "Moore": gj.Moore(),
    "Isothermal": gj.Isothermal(),
    "Zhao": gj.Zhao(alpha=0.8, beta=3.2, gamma=1.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GAMMAPY)
def test_against_gammapy(name):
    from astropy import units as u
    from gammapy.astro.darkmatter import JFactory, profiles
    from gammapy.maps import WcsGeom

    halo = GAMMAPY[name]
    names = {"alpha", "beta", "gamma"} if name == "Zhao" else set()
    profile = getattr(profiles, f"{name}Profile")(**{n: float(getattr(halo, n)) for n in names})
    profile.scale_to_local_density()
    radius = np.geomspace(1e-3, 50.0, 30)
    np.testing.assert_allclose(
        halo.density(jnp.asarray(radius)), profile(radius * u.kpc).to_value("GeV cm-3"), rtol=1e-5
    )
    # gammapy ends the line of sight at four distances, which matters little near the centre, and samples pixels at
    # their centres: the central pixels are left out
    geom = WcsGeom.create(skydir=(0, 0), binsz=0.05, npix=21, frame="galactic")
    offset = geom.separation(geom.center_skydir).deg
    pixels = np.where((offset > 0.2) & (offset < 0.5) & (np.arange(21) % 3 == 0))

    class Ring:  # the geometry for JFactory
        center_skydir = geom.center_skydir
        separation = staticmethod(lambda _: geom.separation(geom.center_skydir)[pixels])

    # gammapy 2.2 asks for the end
    end = {"rmax": 4 * profile.DISTANCE_GC} if "rmax" in inspect.signature(JFactory).parameters else {}
    factory = JFactory(geom=Ring(), profile=profile, distance=profile.DISTANCE_GC, **end)
    expected = factory.compute_differential_jfactor(ndecade=1e4).to_value("GeV2 cm-5 sr-1")
    value = differential(halo, jnp.asarray(offset[pixels]), 2)
    np.testing.assert_allclose(value, expected, rtol=1e-2)
    if name == "Einasto":
        grid = Grid(0.0, 0.0, 0.05, 0.6)
        cut = (grid.size - 21) // 2
        ours = np.asarray(pixel_fractions(halo, grid), float)[cut : cut + 21, cut : cut + 21] * float(halo.j_factor())
        expected = expected * geom.solid_angle().to_value("sr")[pixels]
        np.testing.assert_allclose(ours[pixels], expected, rtol=1e-2)


@pytest.mark.parametrize(
    ("halo", "zhao"),
    [
        (gj.GeneralizedNFW(gamma=1.25), (1.0, 3.0, 1.25)),
        (gj.CoredNFW(r_c=0.0), (1.0, 3.0, 1.0)),
        (gj.CoredNFW(r_c=24.42), (1.0, 3.0, 0.0)),
    ],
)
def test_what_gammapy_has_as_a_case_of_zhao(halo, zhao):
    from astropy import units as u
    from gammapy.astro.darkmatter.profiles import ZhaoProfile

    profile = ZhaoProfile(24.42 * u.kpc, *zhao)
    profile.scale_to_local_density()
    radius = np.geomspace(1e-3, 100.0, 20)
    expected = profile(radius * u.kpc).to_value("GeV cm-3")
    np.testing.assert_allclose(halo.density(jnp.asarray(radius)), expected, rtol=1e-5)


def test_decay_against_gammapy():
    from astropy import units as u
    from gammapy.astro.darkmatter import profiles

    profile = profiles.NFWProfile()
    profile.scale_to_local_density()
    theta = np.radians(0.3)
    # as JFactory does, but to a far end: rho falls with r^-3
    near = profile.integral(8.33 * np.tan(theta) * u.kpc, 8.33 * u.kpc, theta, 1e4, squared=False)
    far = profile.integral(8.33 * u.kpc, 1e4 * u.kpc, theta, 1e4, squared=False)
    value = differential(gj.NFW(decay=True), jnp.array([0.3]), 1)[0]
    assert float(value) == pytest.approx((2 * near + far).to_value("GeV cm-2"), rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("halo", "lon", "lat"),
    [
        (gj.NFW, 0.0, 0.0),
        (gj.GeneralizedNFW, 0.0113, -0.0207),
        (gj.GeneralizedNFW, 0.05, 0.05),  # on the corner of four pixels
        (gj.Isothermal, 0.05, 0.0499),
    ],
)
def test_pixels_hold_the_flux_of_the_cusp(halo, lon, lat):
    halo = halo(lon, lat, **({"gamma": 1.3} if halo is gj.GeneralizedNFW else {}))
    grid = Grid(0.0, 0.0, 0.1, 1.5)
    fractions = np.asarray(pixel_fractions(halo, grid), np.float64)
    # pixels with centres in a disk: the flux of the disk, corrected at its edge for missing and extra parts of pixels
    radius, edges = 0.75, np.linspace(0.67, 0.83, 401)
    x, y = np.meshgrid(*2 * [np.asarray(grid.coordinates, float)])
    chosen = np.hypot(x - lon, y - lat) < radius
    r, angle = np.meshgrid(0.5 * (edges[1:] + edges[:-1]), (np.arange(720) + 0.5) * np.pi / 360.0, indexing="ij")
    place = lon + r * np.cos(angle), lat + r * np.sin(angle)
    ix, iy = (np.round(p / grid.step + 0.5 * (grid.size - 1)).astype(int) for p in place)
    excess = chosen[iy, ix].astype(float) - (r < radius)
    value = np.asarray(brightness(halo, jnp.asarray(lon + r[:, 0]), jnp.asarray(lat)), np.float64)
    rings = value[:, None] * np.radians(r) * np.radians(edges[1] - edges[0]) * np.pi / 360.0
    expected = float(halo.containment(radius)) + (rings * excess).sum()
    assert fractions[chosen].sum() == pytest.approx(expected, rel=1e-3)


def test_a_halo_off_the_grid():
    # samples at the pixel centres are enough there
    halo, grid = gj.NFW(3.0, 0.2), Grid(0.0, 0.0, 0.1, 0.5)
    expected = brightness(halo, *grid.directions()) * grid.solid_angle
    np.testing.assert_allclose(pixel_fractions(halo, grid), expected, rtol=2e-3)


@eqx.filter_jit
def brightness(halo, lon, lat):
    return halo.brightness(lon, lat)


DIRECTIONS = jnp.array([0.31, 0.33, 3.0, -40.0, 120.0]), jnp.array([0.19, 0.2, -2.0, 10.0, 5.0])


@eqx.filter_jit
def seen(halo):
    """A number that depends on everything."""
    total = jnp.log(halo.j_factor(0.7)) + 0.3 * jnp.log(halo.d_factor(5.0))
    return total + jnp.log(halo.brightness(*DIRECTIONS)) @ jnp.linspace(0.5, 1.5, 5)


@eqx.filter_jit
def pixels(halo):
    fractions = pixel_fractions(halo, Grid(0.3, 0.2, 0.1, 0.8))
    return (jnp.linspace(0.5, 1.5, fractions.size).reshape(fractions.shape) * fractions).sum()


def check_gradients(function, halo):
    """Central differences in every parameter."""
    with jax.enable_x64(True):
        leaves, structure = jax.tree.flatten(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), halo))
        gradient = jax.tree.leaves(eqx.filter_jit(eqx.filter_grad(function))(jax.tree.unflatten(structure, leaves)))
        assert len(leaves) == len(gradient)
        for n, leaf in enumerate(leaves):
            step = 1e-5 * max(abs(float(leaf)), 0.1)
            moved = [[*leaves[:n], leaf + sign * step, *leaves[n + 1 :]] for sign in (1, -1)]
            above, below = (float(function(jax.tree.unflatten(structure, m))) for m in moved)
            rounding = 4e-15 * abs(above) / step
            expected = (above - below) / (2.0 * step)
            assert float(gradient[n]) == pytest.approx(expected, rel=1e-6, abs=max(rounding, 1e-9)), n


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in HALOS if name not in ("shallow NFW", "NFW", "Moore", "isothermal")])
def test_gradient_in_every_parameter(name):
    place = {"lon": 0.3013, "lat": 0.2021}
    halo = HALOS[name][0]
    check_gradients(seen, type(halo)(**{f.name: getattr(halo, f.name) for f in fields(halo)} | place))


@pytest.mark.slow
def test_gradient_of_pixels_about_the_cusp():
    check_gradients(pixels, gj.GeneralizedNFW(0.313, 0.187, gamma=1.2))


def test_decay_is_seen_less_concentrated():
    annihilation, decay = gj.NFW(), gj.NFW(decay=True)
    lon = jnp.array([0.1, 10.0])
    ratio = brightness(decay, lon, jnp.zeros(2)) / brightness(annihilation, lon, jnp.zeros(2))
    assert ratio[1] > 10 * ratio[0]
    assert float(decay.containment(5.0)) == pytest.approx(float(decay.d_factor(5.0) / decay.d_factor()), rel=1e-5)


def test_all_halos_take_the_same_arguments_in_the_same_order():
    """Positions are the place, what is the profile's own, and r_s; the other fields of all halos have names only."""
    for kind in Halo.__subclasses__():
        arguments = inspect.signature(kind).parameters
        by_position = [name for name, argument in arguments.items() if argument.kind is not argument.KEYWORD_ONLY]
        assert by_position[:2] == ["lon", "lat"] and by_position[-1] == "r_s"
        assert list(arguments)[len(by_position) :] == ["distance", "local_density", "rho_s", "decay"]


def test_density_at_the_observer_and_at_the_scale_radius():
    assert float(gj.Burkert(local_density=0.4).density(jnp.asarray(8.33))) == pytest.approx(0.4, rel=1e-6)
    assert float(gj.NFW(r_s=2.0, rho_s=1.6).density(jnp.asarray(2.0))) == pytest.approx(0.4, rel=1e-6)
    # twice the density: four times the annihilations
    assert float(gj.NFW(local_density=0.6).j_factor() / gj.NFW().j_factor()) == pytest.approx(4.0, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gj.NFW(r_s=-1.0), "r_s of a NFW must be positive, it is -1"),
        (lambda: gj.Einasto(alpha=0.0), "alpha of a Einasto must be positive"),
        (lambda: gj.Burkert(distance=0.0), "distance of a Burkert must be positive"),
        (lambda: gj.Moore(rho_s=-0.3), "rho_s of a Moore must be positive"),
        (lambda: gj.CoredNFW(r_c=-0.1), "r_c of a CoredNFW must not be negative"),
        (lambda: gj.GeneralizedNFW(gamma=1.5), "gamma of a GeneralizedNFW must be below 1.5, where the flux"),
        (lambda: gj.Zhao(gamma=3.1, decay=True), "gamma of a Zhao must be below 3"),
        (lambda: gj.Zhao(beta=0.4), "beta of a Zhao halo must be above 0.5"),
        (lambda: gj.NFW().plot_density((1.0, 0.1)), "radius_range must be two increasing positive radii"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_plots():
    import matplotlib.pyplot as plt

    ax = gj.Einasto().plot_density(label="Einasto")
    gj.Burkert().plot_density(ax=ax, label="Burkert")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("radius [kpc]", r"$\rho$ [GeV cm$^{-3}$]")
    radius, rho = ax.get_lines()[1].get_data()
    np.testing.assert_allclose(rho[0] / rho[-1], (1 + radius[-1] / 12.67) * (1 + (radius[-1] / 12.67) ** 2), rtol=1e-3)
    halo = gj.Moore()
    image = halo.plot(width=4.0).collections[0]
    assert image.colorbar.ax.get_ylabel() == r"$dJ/d\Omega$ [GeV$^2$ cm$^{-5}$ deg$^{-2}$]"
    values = np.asarray(image.get_array(), float)
    # the square contains the disk, and more
    total = values.sum() * 0.01**2
    assert float(halo.j_factor(2.0)) * 0.9 < total < 1.1 * float(halo.j_factor(2.0 * np.sqrt(2.0)))
    plt.close("all")
