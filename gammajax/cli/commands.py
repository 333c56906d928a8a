"""Command line: `gammajax run`, `init`, `plot`, `check`, `doctor` and `version`."""

import contextlib
import os
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

import gammajax_command as command
from gammajax.cli import running, terminal
from gammajax.cli.output_folder import alone

HELP = """Posteriors and evidences of gamma-ray sources, from the events of Cherenkov telescopes.

Begin with one of these:

- `gammajax run galactic-centre`: simulated, dark matter about the Galactic centre, in a minute or two
- `gammajax run crab`: real, four H.E.S.S. runs on the Crab nebula (needs `GAMMAPY_DATA`)
- `gammajax init my-run.yaml`: a commented configuration of your own, then `gammajax run my-run.yaml`
"""
RUN_HELP = """Simulate or read events, sample the posterior, and write samples, tables, plots and a report.

- `gammajax run my-run.yaml` writes the folder `results/my-run`; open `report.html` in it
- `gammajax run my-run.yaml --out here --seed 1` writes the folder `here`
- `gammajax run my-run.yaml --resume` goes on where an interrupted run stopped

A run that is interrupted leaves a checkpoint beside the folder, `.NAME.checkpoint`.

Exit status: 0 done, 1 a plot failed, or a bug, 2 wrong input, 69 another process is gone, 74 a file could not be
written, 75 stopped by SIGTERM (run again with `--resume`), 130 by SIGINT.
"""
app = typer.Typer(
    help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
RESULTS, DEVICES, SEVERAL = "Results", "Programs and randomness", "Several processes"  # panels of options

BAD_INPUT, UNWRITTEN = 2, 74  # EX_IOERR of sysexits.h


def _option(*names: str, text: str, panel: str, metavar: str | None = None):
    """An option of the command line, in a panel of the help."""
    return typer.Option(*names, help=text, rich_help_panel=panel, metavar=metavar)


@app.command(help=RUN_HELP)
def run(
    configuration: Annotated[
        str, typer.Argument(help="A YAML file, or one of: galactic-centre, crab.", metavar="CONFIGURATION")
    ],
    out: Annotated[
        Path | None, _option(text="Folder to write, by default results/NAME.", panel=RESULTS, metavar="FOLDER")
    ] = None,
    overwrite: Annotated[
        bool, _option("--overwrite", text="Replace the folder if it is there.", panel=RESULTS)
    ] = False,
    resume: Annotated[
        bool, _option("--resume", text="Go on where an interrupted run stopped, if one did.", panel=RESULTS)
    ] = False,
    progress: Annotated[bool, _option(text="Show a progress bar.", panel=RESULTS)] = True,
    seed: Annotated[
        int | None, _option(text="Seed of all random numbers, for that of the file.", panel=DEVICES, metavar="NUMBER")
    ] = None,
    cache: Annotated[
        bool,
        _option(
            "--cache/--no-cache", text="Keep compiled programs for the next run, in $GAMMAJAX_CACHE.", panel=DEVICES
        ),
    ] = True,
    distributed: Annotated[
        bool, _option("--distributed", text="Share the events with the other processes of this job.", panel=SEVERAL)
    ] = False,
    coordinator: Annotated[
        str | None,
        _option(
            text="Address of the first process, where neither SLURM nor Open MPI knows it.",
            panel=SEVERAL,
            metavar="HOST:PORT",
        ),
    ] = None,
    processes: Annotated[
        int | None, _option(text="Number of processes, with --coordinator.", panel=SEVERAL, metavar="NUMBER")
    ] = None,
    process: Annotated[
        int | None, _option(text="Which of them this is, from 0, with --coordinator.", panel=SEVERAL, metavar="NUMBER")
    ] = None,
) -> None:
    """Every step of a run; see `RUN_HELP`."""
    os.environ["MPLBACKEND"] = "agg"  # plots go to files
    with _one_line_errors():
        from gammajax.io.files import expand

        out = Path("results") / Path(configuration).stem if out is None else expand(out)
        out = out if out.name else out.absolute()
    checkpoint = out.with_name(f".{out.name}.checkpoint")
    command.resumes_from(checkpoint)
    with _one_line_errors(), _with_others(distributed, checkpoint):
        from gammajax.cli.configurations import load
        from gammajax.common import distributed as hosts
        from gammajax.common.cache import keep_compiled

        if distributed:
            hosts.initialize(coordinator, processes, process)
            command.listen()
            terminal.console.quiet = not hosts.is_first()
        elif any(value is not None for value in (coordinator, processes, process)):
            raise ValueError("--coordinator, --processes and --process are for a run with --distributed")
        unkept = keep_compiled(cache)
        with hosts.together(distributed):
            config = load(configuration)
            if distributed:
                config.check_shared()
        if seed is not None:
            config = config.with_seed(seed)
        with contextlib.ExitStack() as until_the_end:
            hosts.from_first(partial(until_the_end.enter_context, alone(out)), distributed)
            if hosts.from_first(partial(running.is_complete, config, out, checkpoint, overwrite, resume), distributed):
                terminal.tell(f"{escape(str(out))} is already complete")
                return
            hosts.from_first(partial(running.check_writable, out), distributed)
            if unkept:
                terminal.tell(f"[yellow]note:[/] {escape(unkept)}")
            running.run(config, out, progress, checkpoint, distributed)


@app.command()
def init(path: Annotated[Path, typer.Argument(help="File to write.")] = Path("gammajax.yaml")) -> None:
    """Write a commented configuration to start from."""
    with _one_line_errors():
        from gammajax.cli.configurations import builtin

        if path.exists():
            raise ValueError(f"{path} is already there")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent}: no such folder")
        path.write_text(builtin("template"), encoding="utf-8")
    terminal.tell(f"wrote [bold]{escape(str(path))}[/]; run it with: gammajax run {escape(str(path))}")


@app.command()
def plot(
    folder: Annotated[Path, typer.Argument(help="Folder that a run has written.", metavar="RESULT")],
    parameter: Annotated[
        list[str] | None, typer.Option(help="Parameter to show, once for each; all by default.", metavar="NAME")
    ] = None,
    format: Annotated[str, typer.Option(help="Kind of file: png, pdf or svg.", metavar="KIND")] = "png",
    out: Annotated[Path | None, typer.Option(help="Folder for the figures, by default RESULT.")] = None,
) -> None:
    """Draw the posterior of a finished run again, for a paper: other parameters, or another kind of file.

    - `gammajax plot results/crab --parameter index --parameter amplitude --format pdf`
    """
    os.environ["MPLBACKEND"] = "agg"
    with _one_line_errors():
        from gammajax.cli.figures import draw
        from gammajax.io.files import expand

        folder = expand(folder)
        written = draw(folder, parameter, format, folder if out is None else expand(out))
    terminal.tell(f"wrote {', '.join(escape(str(path)) for path in written)}")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder that a run has written.", metavar="RESULT")],
    replicas: Annotated[
        int | None, typer.Option(help="Number of simulated data sets, by default 200.", metavar="NUMBER")
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Compare the data of a finished run with data sets simulated from its posterior.

    Prints a p-value for each test, and writes check.csv, check.png and check-map.png into the folder and its report.
    """
    os.environ["MPLBACKEND"] = "agg"
    with _one_line_errors():
        from gammajax.common.cache import keep_compiled
        from gammajax.io.files import expand

        keep_compiled()
        found = running.check(expand(folder), replicas, progress)
    terminal.show_check(found)


@app.command()
def doctor() -> None:
    """Say what a run would find here: versions, devices, precision, cache and data, and what is wrong with them.

    Exit status 1 if something is wrong that a run needs.
    """
    from gammajax.cli.doctor import findings

    failed = False
    for finding in findings():
        mark = "[red]x[/]" if finding.needed and finding.wrong else "[yellow]![/]" if finding.wrong else "[green]ok[/]"
        terminal.line(mark, finding.name, finding.found, finding.wrong)
        failed |= bool(finding.needed and finding.wrong)
    raise typer.Exit(1 if failed else 0)


@app.command()
def version() -> None:
    """Print the version."""
    from gammajax import __version__

    terminal.tell(__version__, highlight=False)


@contextlib.contextmanager
def _one_line_errors():
    """Show wrong input, and files that cannot be read or written, as one red line.

    Anything else is a bug and keeps its traceback.
    """
    try:
        yield
    except (ValueError, OSError, running.Unwritten) as error:
        if not (terminal.console.quiet and getattr(error, "told", False)):
            terminal.print_error(str(error))
        raise typer.Exit(BAD_INPUT if isinstance(error, ValueError | FileNotFoundError) else UNWRITTEN) from error


@contextlib.contextmanager
def _with_others(distributed: bool, checkpoint: Path):
    """Exit at once if another process is gone or only this one fails: the others would wait."""
    try:
        yield
    except Exception as error:
        import jax

        from gammajax.common import distributed as hosts

        if distributed and hosts.lost(error):
            left = checkpoint.exists()
            way = f"--resume goes on from {checkpoint}" if left else "there is no checkpoint yet: run again"
            terminal.print_error(f"process {jax.process_index()}: another process of this run is gone; {way} ({error})")
            _leave(hosts.LOST)
        if distributed and not isinstance(error, (ValueError, FileNotFoundError, running.Unwritten, typer.Exit)):
            traceback.print_exc()
            _leave(1)
        raise


def _leave(status: int):
    """Exit without the shutdown barrier, which would wait for the lost process."""
    from gammajax.common import distributed as hosts

    sys.stdout.flush()
    sys.stderr.flush()
    if hosts.is_first():
        time.sleep(2.0)  # the runtime ends the other processes silently once this one is gone
    os._exit(status)
