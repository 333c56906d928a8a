import re

import numpy as np
import pytest
from rich.console import Console

import gammajax as gj
from gammajax import progress
from gammajax.engines import PreparedKernel
from gammajax.engines.rows import Rows
from gammajax.progress import Progress


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(progress, "REPORT_EVERY", 0.0)


def test_without_a_terminal_lines_say_how_far_it_is(often, capsys):
    with Progress(True, "work") as bar:
        for number in (1, 2, 3, 4):
            bar.update(number / 4, f"{number} of 4")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].startswith("  work: 25 %, 1 of 4")
    assert re.fullmatch(r"  work: 75 %, 3 of 4, about \d+ s left", lines[2])


def test_nothing_is_said_when_nothing_is_asked_for(often, capsys):
    with Progress(False, "work") as bar:
        bar.update(0.5, "half")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("found", "expected"), [(None, False), ("some", True)])
def test_in_notebooks_a_bar_takes_widgets(monkeypatch, found, expected):
    monkeypatch.setattr("rich._console", Console(force_jupyter=True))
    monkeypatch.setattr(progress, "find_spec", lambda name: found)
    assert (Progress(True, "work").bar is not None) is expected


def test_lines_come_once_a_minute(capsys):
    with Progress(True, "work") as bar:
        bar.update(0.5, "half")
    assert capsys.readouterr().out == ""


def test_set_up_says_how_far_it_is(often, capsys, make_observation):
    pair = [make_observation(), make_observation(lon=0.5, energy_min=0.4)]
    random = np.random.default_rng(0)
    events = gj.Events(random.uniform(0.5, 5.0, 500), *random.uniform(-0.5, 0.5, (2, 500)), np.arange(500) % 2)
    rows = Rows.init(events, pair, 20.0, progress=True)
    source = gj.Source(gj.PowerLaw(2.0), gj.Point(0.1, 0.0))
    PreparedKernel.init(source.morphology, pair, rows.nodes)(source, pair, rows)
    assert re.search(
        r"  set-up: \d+ %, [\d.e+]+ of [\d.e+]+ rows of a kernel, [\d.e+]+ per second", capsys.readouterr().out
    )
