import importlib
import io
import re
import time

import numpy as np
import pytest
from rich.console import Console

import gammajax as gj
from gammajax.common import progress
from gammajax.common.progress import Progress
from gammajax.engines import PreparedKernel
from gammajax.engines.rows import Rows


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


@pytest.mark.slow
def test_set_up_says_how_far_it_is(often, capsys, monkeypatch, make_observation):
    monkeypatch.setitem(importlib.import_module("gammajax.engines.kernel").CHUNK, "cpu", 256)
    pair = [make_observation(), make_observation(lon=0.5, energy_min=0.4)]
    random = np.random.default_rng(0)
    events = gj.Events(random.uniform(0.5, 5.0, 500), *random.uniform(-0.5, 0.5, (2, 500)), np.arange(500) % 2)
    rows = Rows.init(events, pair, 20.0, progress=True)
    source = gj.Source(gj.PowerLaw(2.0), gj.Point(0.1, 0.0))
    PreparedKernel.init(source.morphology, pair, rows.nodes)(source, pair, rows)
    assert re.search(
        r"  set-up: \d+ %, [\d.e+]+ of [\d.e+]+ rows of a kernel, [\d.e+]+ per second", capsys.readouterr().out
    )


def test_work_within_work_speaks_through_the_outer_one(often, capsys):
    with Progress(True, "profile") as outer:
        outer.update(0.25, "1 of 4")
        with Progress(True, "fit") as inner:
            inner.update(0.5, "half")
            progress.say("Newton steps")
            assert outer.words == "fit, Newton steps" and outer.part == 0.25
        with Progress(True, "profile") as inner:
            inner.update(0.5, "2 of 4")
        assert outer.part == 0.5
    progress.say("nobody listens")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["profile"] * 2


def test_a_line_comes_while_the_main_thread_is_busy(monkeypatch, capsys):
    monkeypatch.setattr(progress, "REPORT_EVERY", 0.2)
    with Progress(True, "fit", delay=0.1) as bar:
        bar.say("compiling")
        time.sleep(1.3)  # as a compiler does
    assert re.fullmatch(r"  fit: compiling, 1 s so far\n", capsys.readouterr().out)


def test_a_bar_appears_after_its_delay(monkeypatch):
    monkeypatch.setattr("rich._console", Console(force_terminal=True, file=io.StringIO()))
    with Progress(True, "fit", delay=0.1) as bar:
        assert not bar.bar.live.is_started
        time.sleep(0.3)
        assert bar.bar.live.is_started
        with Progress(True, "compile") as inner:
            inner.update(0.5, "half")
    assert not bar.bar.live.is_started
    with Progress(True, "fit", delay=5.0) as bar:
        bar.update(0.5, "half")
    assert not bar.bar.live.is_started


@pytest.mark.parametrize(("seconds", "text"), [(4.2, "4 s"), (700.0, "12 min"), (9000.0, "2.5 h")])
def test_durations(seconds, text):
    assert progress.duration(seconds) == text
