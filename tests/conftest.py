"""Fixtures shared by all tests."""

import inspect
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

# compiling takes nine tenths of the time: less of what makes functions fast that run a few times
QUICK_TO_COMPILE = [
    "--xla_backend_optimization_level=1",
    "--xla_cpu_prefer_vector_width=128",
    "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling,xla_cpu_disable_slp_vectorizer,xla_cpu_optimize_for_size",
]
if tuple(map(int, version("jax").split(".")[:2])) < (0, 11):  # later ones do not know this option and end
    QUICK_TO_COMPILE.append("--xla_cpu_use_fusion_emitters=false")


def pytest_configure(config):
    """Compile quickly, and once what tests have in common: for both workers and for the next run.

    `XLA_FLAGS= make test` compiles as users do.
    """
    if "XLA_FLAGS" not in os.environ:
        os.environ["XLA_FLAGS"] = " ".join(QUICK_TO_COMPILE)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(config.cache.mkdir("jax"))  # before jax is imported; processes too
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


@pytest.fixture(scope="module", autouse=True)
def forget_compiled():
    """Compiled functions take memory maps, of which a process may have 65530; a thousand tests need more."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 25_000:
        import jax

        jax.clear_caches()


@pytest.fixture(scope="session")
def gammapy_data() -> Path:
    """Folder of the gammapy data collection; tests that need it are skipped without it."""
    path = os.environ.get("GAMMAPY_DATA")
    if not path or not Path(path).is_dir():
        pytest.skip("set GAMMAPY_DATA to the folder of the gammapy data collection to run the tests on real data")
    return Path(path)


def spelled(function, **arguments):
    """Call with the names of gammapy 2.2 where it has them: `mDM` for mass, `factor` for jfactor, `rmax`, `source`."""
    known = inspect.signature(function).parameters
    names = {"mDM": "mass", "factor": "jfactor"}
    given = {name if name in known else names.get(name, name): value for name, value in arguments.items()}
    return function(**{name: value for name, value in given.items() if name in known})


@pytest.fixture(scope="session")
def dark_matter_of_gammapy():
    """`make(kind, mass, channel, factor, **others)`: "Annihilation" or "Decay" spectral model of any gammapy."""
    from astropy import units as u
    from gammapy.astro import darkmatter

    def make(kind, mass, channel, factor, **others):
        function = getattr(darkmatter, f"DarkMatter{kind}SpectralModel")
        unit = "GeV cm-2" if kind == "Decay" else "GeV2 cm-5"
        return spelled(
            function, mDM=mass * u.TeV, channel=channel, factor=factor * u.Unit(unit), source="pppc4", **others
        )

    return make


@pytest.fixture(scope="session")
def ctao_south():
    """CTAO South, 50 h on the Galactic centre."""
    from gammajax.io import ctao

    return ctao("South", pointing=(0.0, 0.0), frame="galactic", livetime=50 * 3600.0)


def small_response():
    """A small smooth response: Gaussian spread and dispersion, all changing with energy and offset."""
    import jax.numpy as jnp

    import gammajax as gj
    from gammajax.instrument.psf import GaussPSF
    from gammajax.instrument.response import Background, EnergyDispersion
    from gammajax.instrument.table import Axis, Table

    energy, offset = np.geomspace(0.1, 30.0, 12), np.linspace(0.0, 5.0, 6)
    migra, background_energy = np.linspace(0.4, 1.8, 71), np.geomspace(0.3, 10.0, 8)
    e, o = energy[:, None], offset[None, :]
    true = Axis(np.log(energy)), Axis(offset)
    width = 0.12 * e**-0.2 * (1.0 + 0.08 * o)
    spread = 0.1 + 0.02 * o[..., None] + 0.0 * e[..., None]
    rate = -2.7 * np.log(background_energy)[:, None] - 0.15 * o**2 + np.log(0.05)
    return gj.Response(
        Table(true, 1e9 * e**0.6 * np.exp(-0.05 * o**2)),
        GaussPSF(Table(true, width[..., None]), Table(true, np.ones((12, 6, 1)))),
        EnergyDispersion(*true, Axis(migra), np.exp(-0.5 * ((migra - 0.97) / spread) ** 2)),
        Background(Table((Axis(np.log(background_energy)), Axis(offset)), jnp.asarray(rate))),
    )


@pytest.fixture(scope="session")
def response():
    """That of `small_response`."""
    return small_response()


@pytest.fixture(scope="session")
def make_observation(response):
    """`make_observation(lon=..., ...)`: ten hours with the small response at 0.5 to 8 TeV, within 2 deg."""
    import gammajax as gj

    def make(lon=0.0, lat=0.0, livetime=36000.0, **changes):
        selection = {"energy_min": 0.5, "energy_max": 8.0, "offset_max": 2.0, "frame": "galactic"}
        return gj.Observation(lon, lat, livetime, response, **{**selection, **changes})

    return make


@pytest.fixture(scope="session")
def observation(make_observation):
    """One observation of ten hours at the origin."""
    return make_observation()


@pytest.fixture(scope="session")
def observations(make_observation):
    """Two at 1 to 3 TeV, side by side; modules with other needs define their own."""
    selection = {"energy_min": 1.0, "energy_max": 3.0}
    return [make_observation(**selection), make_observation(lon=0.5, livetime=20000.0, obs_id="second", **selection)]


@pytest.fixture(scope="session")
def events(observations):
    """Sixty of the two observations, at three energies."""
    import gammajax as gj

    random = np.random.default_rng(0)
    lon, lat = random.normal([0.3, 0.2], [0.2, 0.2], (60, 2)).T
    return gj.Events(np.resize([1.1, 1.6, 2.8], 60), lon, lat, random.integers(0, 2, 60))


@pytest.fixture(scope="session")
def make_toy():
    from toys import build

    return build


@pytest.fixture(scope="session")
def gaussian():
    from toys import gaussian_toy

    return gaussian_toy()


@pytest.fixture
def on_off(make_toy):
    import numpyro.distributions as dist
    from toys import counting

    priors = {"signal": dist.Uniform(0.0, 1000.0), "background": dist.Uniform(0.0, 500.0)}
    return make_toy(counting, priors, {"signal": 500.0, "background": 250.0}, [120.0, 300.0])
