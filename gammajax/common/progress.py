"""Progress of long work: how far, how fast and how long it will take.

Nested work reports to the outermost one: [`say`][] and an inner [`Progress`][] change the words of the outer one.
"""

import contextlib
import threading
import time
from contextvars import ContextVar
from importlib.util import find_spec

REPORT_EVERY = 60.0  # s between lines where there is no terminal
DELAY = 5.0  # s after which work that is usually short shows how far it is

_current: ContextVar["Progress | None"] = ContextVar("progress", default=None)


def tell(line: str) -> None:
    """Print a line; output that is gone is no reason to stop."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


def say(words: str) -> None:
    """Tell the work in progress in this thread, if there is any, how far it is."""
    current = _current.get()
    if current is not None:
        current.say(words)


class Progress(contextlib.AbstractContextManager):
    """A bar in terminals and notebooks, after `delay` seconds; a line a minute elsewhere; or nothing.

    It appears while the main thread compiles, too. In notebooks a bar takes ipywidgets.
    """

    def __init__(self, shown: bool, name: str, delay: float = 0.0):
        self.bar, self.name, self.begun, self.first = None, name, time.perf_counter(), None
        self.shown, self.reported, self.delay = shown, self.begun, delay
        self.part, self.words, self.outer = None, "", None
        self.ended, self.lock = threading.Event(), threading.Lock()
        if shown:
            from rich.progress import (
                BarColumn,
                Progress,
                TaskProgressColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            text = TextColumn("{task.description}")
            columns = (text, BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            bar = Progress(*columns, transient=True)
            widgets = bar.console.is_jupyter and find_spec("ipywidgets") is not None
            if bar.console.is_terminal or widgets:
                self.bar, self.task = bar, bar.add_task(f"  {name}", total=None)

    def __enter__(self):
        self.outer = _current.get()
        self.token = _current.set(self)
        if self.shown and self.outer is None:
            if self.bar and not self.delay:
                self.bar.start()
            # the main thread may be busy in a compiler
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_):
        _current.reset(self.token)
        self.ended.set()
        with self.lock:
            if self.bar:
                self.bar.stop()

    def update(self, part: float, words: str) -> None:
        """Show how far it is: a part of the whole, and words."""
        if self.outer is not None:
            if self.outer.name == self.name:  # a part of the same work
                self.outer.update(part, words)
            else:
                self.outer.say(f"{self.name}, {words}")
            return
        if self.first is None or self.part is None or part < self.part:  # the next part of the work begins
            self.first = part, time.perf_counter()  # compiled by now
        self.part, self.words = part, words
        if self.bar:
            self.bar.update(self.task, total=1.0, completed=part, description=f"  {words}")
        else:
            self._report()

    def say(self, words: str) -> None:
        """Show the work being done when its remaining part is unknown."""
        if self.outer is not None:
            self.outer.say(f"{self.name}, {words}")
            return
        self.words = words
        if self.bar:
            self.bar.update(self.task, description=f"  {self.name}: {words}")

    def _watch(self):
        if self.bar:
            if self.delay and not self.ended.wait(self.delay):
                with self.lock:
                    if not self.ended.is_set():
                        self.bar.start()
            return
        while not self.ended.wait(max(REPORT_EVERY, 1.0)):
            self._report()

    def _report(self):
        """A line, if none has come for a minute."""
        now = time.perf_counter()
        with self.lock:
            if not self.shown or now - self.reported <= REPORT_EVERY or (self.part or 0.0) >= 1.0:
                return
            self.reported = now
        if self.part is None or self.first is None:
            tell(f"  {self.name}: {self.words or 'working'}, {now - self.begun:.0f} s so far")
            return
        rate = (self.part - self.first[0]) / max(now - self.first[1], 1e-9)
        left = f", about {duration((1.0 - self.part) / rate)} left" if rate > 0 else ""
        tell(f"  {self.name}: {100.0 * self.part:.0f} %, {self.words}{left}")


def duration(seconds: float) -> str:
    """Time in the unit a person would use, as "40 s", "12 min" or "5.3 h"."""
    if seconds < 100.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 6000.0 else f"{seconds / 3600.0:.1f} h"
