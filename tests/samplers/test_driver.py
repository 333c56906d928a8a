"""The loop that samplers share."""

import re
import warnings

import jax
import pytest

import gammajax as gj
from gammajax.samplers import checkpoint, driver


@pytest.mark.slow
def test_slow_likelihoods_have_an_estimate(monkeypatch, capsys, on_off):
    monkeypatch.setattr(driver, "SLOW", 0.0)
    monkeypatch.setattr(driver, "LONG", 0.0)
    gj.laplace(jax.random.key(0), on_off, draws=100)
    out = capsys.readouterr().out
    assert re.search(r"laplace: one likelihood takes [\d.e-]+ s, and 1e\+02 of them some \d+ s", out), out
    gj.laplace(jax.random.key(0), on_off, draws=100, progress=False)
    assert capsys.readouterr().out == ""


def test_a_full_disk_does_not_end_a_run(monkeypatch, tmp_path, on_off):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    with pytest.warns(UserWarning, match=r"the checkpoint .*file cannot be written \(.*No space left"):
        result = gj.laplace(jax.random.key(0), on_off, draws=500, checkpoint=tmp_path / "file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = gj.laplace(jax.random.key(0), on_off, draws=500)
    assert (result.samples["signal"] == other.samples["signal"]).all()
