"""Progress of long work: how far, how fast and how long it will take."""

import contextlib
import time
from importlib.util import find_spec

REPORT_EVERY = 60.0  # s between lines where there is no terminal


class Progress(contextlib.AbstractContextManager):
    """A bar in terminals and notebooks, after so many seconds of `delay`; a line a minute elsewhere; or nothing.

    In notebooks a bar takes ipywidgets.
    """

    def __init__(self, shown: bool, name: str, delay: float = 0.0):
        self.bar, self.name, self.begun, self.first = None, name, time.perf_counter(), None
        self.shown, self.reported, self.delay = shown, self.begun, delay
        if shown:
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            text = TextColumn("{task.description}")
            bar = Progress(text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), transient=True)
            widgets = bar.console.is_jupyter and find_spec("ipywidgets") is not None
            if bar.console.is_terminal or widgets:
                self.bar, self.task = bar, bar.add_task(f"  {name}", total=1.0)

    def __enter__(self):
        if self.bar and not self.delay:
            self.bar.start()
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def update(self, part: float, words: str) -> None:
        """Show how far it is."""
        now = time.perf_counter()
        if self.first is None:
            self.first = part, now  # compiled by now
        if self.bar:
            if not self.bar.live.is_started and now - self.begun > self.delay:
                self.bar.start()
            self.bar.update(self.task, completed=part, description=f"  {words}")
        elif self.shown and now - self.reported > REPORT_EVERY and part < 1.0:
            self.reported = now
            rate = (part - self.first[0]) / max(now - self.first[1], 1e-9)
            left = f", about {(1.0 - part) / rate:.0f} s left" if rate > 0 else ""
            print(f"  {self.name}: {100.0 * part:.0f} %, {words}{left}", flush=True)
