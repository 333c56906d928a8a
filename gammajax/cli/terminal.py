"""What the command line shows: one line per step, tables and errors."""

import contextlib
import itertools
import os
import sys
import textwrap
import time
from math import isfinite

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

import gammajax_command as command

MARGIN = 22  # columns before the words of a step
NAMES = 20  # columns of a table that long names have at least


class _Console(Console):
    """Console that leaves a closed pipe to `tell`; rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704


# files and pipes have no width of their own
console = _Console(soft_wrap=True, width=None if sys.stdout.isatty() else 80)


def tell(*words, **options) -> None:
    """Print; a pipe that is closed or a log on a full disk does not stop a run."""
    try:
        console.print(*words, **options)
    except OSError:
        console.quiet, sys.stdout = True, open(os.devnull, "w")  # noqa: SIM115


def print_error(message: str) -> None:
    """Print one red line to the standard error."""
    text = f"[bold red]error:[/] [red]{escape(' '.join(message.split()))}[/]"
    Console(stderr=True, soft_wrap=True).print(text, highlight=False)


def line(mark: str, name: str, words: str, hint: str = "") -> None:
    """Print a marked line whose words wrap below themselves, and a hint below."""
    margin = 16
    wrapped = textwrap.wrap(words, max(console.width - margin, 40)) or [""]
    tell(f" {mark}{' ' * (4 - len(Text.from_markup(mark)))}[bold]{name:10s}[/] {escape(wrapped[0])}", highlight=False)
    for more in wrapped[1:]:
        tell(" " * margin + escape(more), highlight=False)
    for more in textwrap.wrap(hint, max(console.width - margin, 40)):
        tell(" " * margin + f"[yellow]{escape(more)}[/]", highlight=False)


@contextlib.contextmanager
def step(name: str, timings: dict):
    """Print a step when it starts, and its result and duration when it ends."""
    notes: list[str] = []
    begin = time.perf_counter()
    command.step(name, cleans=name in ("sampling", "plots"))
    if console.is_terminal:
        tell(f"[bold]{name}[/] ...", end="\r")
    yield notes.append
    timings[name] = round(time.perf_counter() - begin, 2)
    # long lists of components wrap below their first line
    words = textwrap.wrap("; ".join(notes), max(console.width - MARGIN, 40)) or [""]
    lines = escape(f"\n{' ' * MARGIN}".join(words))
    tell(f"[bold]{name:10s}[/] {timings[name]:6.1f} s   {lines}", highlight=False)


def show(summary, units) -> None:
    """Table of the posterior. Where the console is narrow, long names are folded and 95 % intervals left out."""
    from gammajax.common.display import plain_unit

    found = [plain_unit(units.get(str(name).split("[")[0], "")) for name in summary.index]
    names = [f"{name} ({unit})" if unit else str(name) for name, unit in zip(summary.index, found, strict=True)]
    columns = {
        "median": [f"{value:.4g}" for value in summary["median"]],
        "68 %": [f"{low:.4g} to {high:.4g}" for low, high in summary[["68% low", "68% high"]].to_numpy()],
        "95 %": [f"{low:.4g} to {high:.4g}" for low, high in summary[["95% low", "95% high"]].to_numpy()],
        **({"truth": [f"{value:.4g}" for value in summary["truth"]]} if "truth" in summary else {}),
        "ESS": [f"{value:.0f}" for value in summary["ess_bulk"]],
        "R-hat": [f"{value:.3f}" if isfinite(value) else "-" for value in summary["r_hat"]],
    }
    longest = max(map(len, ["parameter", *names]))
    for out, gap in itertools.product(((), ("95 %",), ("95 %", "truth")), (2, 1)):
        shown = {title: cells for title, cells in columns.items() if title not in out}
        numbers = sum(gap + max(map(len, [title, *cells])) for title, cells in shown.items())
        if console.width - numbers >= min(longest, NAMES):
            break
    width = min(longest, max(console.width - numbers, 1))
    title = f"posterior ({' and '.join(out)} left out here: see summary.csv)" if out else "posterior"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.padding = (0, gap - 1, 0, 0)
    table.add_column("parameter", width=width, overflow="fold")
    for column in shown:
        table.add_column(column, justify="right", no_wrap=True)
    for row in zip(map(escape, names), *shown.values(), strict=True):
        table.add_row(*row)
    tell(table, width=width + numbers, soft_wrap=False, crop=False)


def show_check(found) -> None:
    """Table of the tests of a check, and what deviates most."""
    table = Table(title="goodness of fit", title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("test", overflow="fold")
    for title in ("bins", "p-value"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in found.quantities:
        table.add_row(escape(one.name), str(one.count.size), f"{one.p_value:.2g}")
    tell(table, soft_wrap=False, crop=False)
    tell(f"all tests together: p = {found.p_value:.2g}", highlight=False)
    tell(f"largest deviation: {escape(found.worst)}, p = {found.worst_p_value:.2g}", highlight=False)
