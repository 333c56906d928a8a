"""A posterior in a file: equal values for every kind of data, engine and prior, and one line for bad files."""

import functools
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gammajax as gj
from gammajax.common.trees import read_tree, write_tree
from tests import on_off

LINEAR = functools.partial(gj.engines.DenseEngine.init, method="linear")
PLACE = gj.Point(0.3, 0.0)


@pytest.fixture(scope="module")
def run():
    return gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)


def fixed(p):
    source = gj.Source(gj.PowerLaw(p["index"], 1e-11), PLACE)
    return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})


FIXED = {"index": dist.Uniform(1.5, 3.0), "fraction": dist.Uniform(0.0, 1.0)}


def free(p):
    morphology = gj.Gaussian(p["lon"], 0.0, 0.1)
    change = gj.ResponseChange(effective_area=p["area"])
    near = gj.Source(gj.PowerLaw(2.0, 1e-11), morphology)
    far = gj.Source(gj.PowerLaw(2.0, 1e-11), PLACE, response=change)
    return gj.Mixture(near=near, far=far, sky=gj.InstrumentBackground(norm=p["norm"][0]))


FREE = {
    "lon": dist.TruncatedNormal(0.1, 0.1, low=-0.2, high=0.3),
    "area": dist.LogNormal(0.0, 0.1),
    "norm": dist.Dirichlet(jnp.ones(2)),
}


@pytest.fixture(scope="module")
def posteriors(run):
    """Kinds of posterior, with their models."""
    events = gj.simulate(jax.random.key(0), fixed({"index": 2.0, "fraction": 0.3}), run, events=300)
    both = [
        gj.Unbinned(run, events, name="first"),
        gj.OnOff(on_off.some_runs(), name="second", components=["source", "b"]),
    ]

    def several(p):
        parts = on_off.model(p).components
        return gj.Mixture(source=parts["source"], b=parts["background"], sky=gj.InstrumentBackground())

    on_off_priors = {
        "index": dist.Normal(2.0, 0.3),
        "amplitude": dist.HalfNormal(3.0),
        "b": gj.smooth_prior(np.zeros(6), 1.0),
    }
    return {
        "kernel": gj.Posterior(fixed, FIXED, run, events),
        "bfloat16": gj.Posterior(fixed, FIXED, run, events, dtype=jnp.bfloat16),
        "cells": gj.Posterior(fixed, FIXED, run, events.compress(run)),
        "dense": gj.Posterior(fixed, FIXED, run, events, engine=LINEAR, per_decade=10.0),
        "fold": gj.Posterior(free, FREE, run, events),
        "on and off": gj.Posterior(on_off.model, on_off_priors, [gj.OnOff(on_off.some_runs())]),
        "several": gj.Posterior(several, on_off_priors, both),
    }


@eqx.filter_jit
def value_and_gradient(posterior, p):
    """One program for a posterior and what its file gives."""
    return jax.value_and_grad(posterior.log_likelihood)(p)


KINDS = ["kernel", "bfloat16", "cells", "dense", "fold", "on and off", "several"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_same_posterior(posteriors, kind, tmp_path):
    posterior = posteriors[kind]
    posterior.save(tmp_path / "posterior.npz")
    again = gj.load_posterior(tmp_path / "posterior.npz", posterior.model)
    assert again.names == posterior.names and again.total == posterior.total
    for one, other in zip(jax.tree.leaves(posterior), jax.tree.leaves(again), strict=True):
        assert type(one) is type(other)
        np.testing.assert_array_equal(one, other)
    for number in range(3):
        p = posterior.sample_prior(jax.random.key(number))
        assert all(np.array_equal(p[name], again.sample_prior(jax.random.key(number))[name]) for name in p)
        assert posterior.log_prior(p) == again.log_prior(p)
        one, other = (value_and_gradient(which, p) for which in (posterior, again))
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_data_of_gammapy(gammapy_data, tmp_path):
    folder = gammapy_data / "fermi-3fhl-crab"
    (data,) = gj.io.from_gammapy_datasets(folder / "Fermi-LAT-3FHL_data_Fermi-LAT.fits")

    def model(p):
        return gj.Mixture(crab=gj.Source(gj.PowerLaw(p["index"], 1e-11), gj.Point(83.63, 22.01)))

    posterior = gj.Posterior(model, {"index": dist.Uniform(1.5, 3.0)}, [data])
    posterior.save(tmp_path / "posterior.npz")
    again = gj.load_posterior(tmp_path / "posterior.npz", model)
    p = {"index": jnp.array(2.2)}
    assert again.log_likelihood(p) == posterior.log_likelihood(p)


@pytest.mark.slow
def test_a_sampler_takes_a_loaded_posterior(posteriors, tmp_path):
    posteriors["kernel"].save(tmp_path / "posterior.npz")
    again = gj.load_posterior(tmp_path / "posterior.npz", fixed)
    first, second = (gj.fit(which, progress=False) for which in (posteriors["kernel"], again))
    assert first.parameters == second.parameters


@pytest.mark.slow
def test_reading_needs_no_astronomy_and_no_code_of_the_file(posteriors, tmp_path):
    posteriors["kernel"].save(tmp_path / "posterior.npz")
    code = f"""
import sys
sys.modules |= dict.fromkeys(["astropy", "gammapy", "scipy.io"])  # an import of one raises
import gammajax as gj
def model(p):
    source = gj.Source(gj.PowerLaw(p["index"], 1e-11), gj.Point(0.3, 0.0))
    return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={{"source": p["fraction"]}})
posterior = gj.load_posterior({str(tmp_path / "posterior.npz")!r}, model)
print(gj.fit(posterior, progress=False))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "model, message",
    [
        (lambda p: gj.Mixture(sky=gj.InstrumentBackground()), "components"),
        (lambda p: eqx.tree_at(lambda m: m.components["source"].spectrum.index, fixed(p), 2.9), "intensities"),
        (lambda p: fixed({**p, "other": p["none"]}), "none"),
    ],
)
def test_another_model_is_refused(posteriors, model, message, tmp_path):
    posteriors["kernel"].save(tmp_path / "posterior.npz")
    with pytest.raises(ValueError, match=message):
        gj.load_posterior(tmp_path / "posterior.npz", model)


def test_no_file_and_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        gj.load_posterior(tmp_path / "none.npz", fixed)
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    (tmp_path / "text.npz").write_text("text")
    write_tree(tmp_path / "tree.npz", {"a": np.ones(3)}, {"kind": "posterior"})
    for name in ("other", "text", "tree"):
        with pytest.raises(ValueError, match="not a posterior that gammajax wrote"):
            gj.load_posterior(tmp_path / f"{name}.npz", fixed)


def test_arrays_that_do_not_fit_are_one_line(posteriors, tmp_path):
    path = tmp_path / "posterior.npz"
    eqx.tree_at(lambda q: q.engines["source"].exposure, posteriors["kernel"], jnp.zeros((1, 0))).save(path)
    with pytest.raises(ValueError, match="posterior.npz: its arrays do not fit this model, or one another") as caught:
        gj.load_posterior(path, fixed)
    assert "\n" not in str(caught.value)


class Own(eqx.Module):
    value: int = 1


@pytest.mark.parametrize("value", [Own(), np.array([None]), lambda: 0, print, {"a": [object()]}])
def test_what_no_file_can_hold_is_named_and_nothing_is_written(value, tmp_path):
    with pytest.raises(ValueError, match="part"):
        write_tree(tmp_path / "tree.npz", {"part": value}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["os:system", "gammajax.common.cache:os.system", "gammajax.common.cache:Path", "numpy:load"]
)
def test_a_file_names_no_code_of_others(name, tmp_path):
    path = tmp_path / "tree.npz"
    write_tree(path, {"a": gj.PowerLaw(2.0)}, {})
    with np.load(path) as file:
        text = file["header"].tobytes().decode().replace("gammajax.model.spectra:PowerLaw", name)
        np.savez(path, **{**file, "header": np.frombuffer(text.encode(), np.uint8)})
    with pytest.raises(ValueError, match="cannot read it"):
        read_tree(path, "posterior")


@pytest.mark.parametrize(
    "array", [np.array(["text"]), np.zeros((2, 2), np.complex128), np.array([b"x"]), np.array("2026", "datetime64[s]")]
)
def test_arrays_of_another_kind_are_refused_in_one_line(array, tmp_path):
    path = tmp_path / "tree.npz"
    write_tree(path, {"a": jnp.arange(3.0)}, {})
    with np.load(path) as file:
        np.savez(path, **{**file, "0": array})
    try:
        read_tree(path, "posterior")
    except ValueError as error:
        assert "tree.npz: " in str(error) and "\n" not in str(error)
    else:
        assert array.dtype.kind == "c"  # which JAX takes


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0.0, 1.0, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_damaged_files_are_refused_in_one_line(tmp_path_factory, place, bit, cut):
    path = tmp_path_factory.mktemp("damaged") / "tree.npz"
    write_tree(path, {"spectrum": gj.PowerLaw(2.0), "numbers": np.arange(40.0)}, {})
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    content[at] ^= 1 << bit
    path.write_bytes(content[:at] if cut else content)
    try:
        tree, _ = read_tree(path, "posterior")
    except ValueError as error:
        assert "\n" not in str(error)
    else:  # a bit of the archive's own bookkeeping
        np.testing.assert_array_equal(tree["numbers"], np.arange(40.0))
