"""Command line: `gammajax run`, `gammajax init`, `gammajax version`."""

import contextlib
import itertools
import os
import shutil
import signal
import sys
import tempfile
import textwrap
import time
import traceback
import warnings
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import gammajax_command as command

app = typer.Typer(
    help="Unbinned likelihoods of gamma-ray events in JAX.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class _Console(Console):
    """Console that leaves a closed pipe to `_tell`; rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704


# files and pipes have no width of their own
console = _Console(soft_wrap=True, width=None if sys.stdout.isatty() else 80)
BAD_INPUT, UNWRITTEN = 2, 74  # EX_IOERR of sysexits.h
MARGIN = 22  # columns before the words of a step
NAMES = 20  # columns of a table that long names have at least


@app.command()
def run(
    configuration: Annotated[str, typer.Argument(help="A YAML file, or one of: galactic-centre, crab.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write, by default results/NAME.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.")] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it is there.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run stopped, if one did.")
    ] = False,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep compiled programs for the next run, in $GAMMAJAX_CACHE.")
    ] = True,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Share the events with the other processes of this job.")
    ] = False,
    coordinator: Annotated[
        str | None, typer.Option(help="HOST:PORT of the first process, where neither SLURM nor Open MPI knows it.")
    ] = None,
    processes: Annotated[int | None, typer.Option(help="Number of processes, with --coordinator.")] = None,
    process: Annotated[int | None, typer.Option(help="Which of them this is, from 0, with --coordinator.")] = None,
) -> None:
    """Simulate or read events, sample the posterior, and write samples, tables and plots.

    A run that is interrupted leaves a checkpoint beside the folder, .NAME.checkpoint, from which --resume goes on.
    Exit status 75: stopped by SIGTERM, run again with --resume; 130: by SIGINT; 2: wrong input; 74: the results could
    not be written; 69: another process of a distributed run is gone; 1: a plot failed, or a bug.
    """
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
            console.quiet = not hosts.is_first()
        elif any(value is not None for value in (coordinator, processes, process)):
            raise ValueError("--coordinator, --processes and --process are for a run with --distributed")
        unkept = keep_compiled(cache)
        with hosts.together(distributed):
            config = load(configuration)
        if seed is not None:
            config = config.with_seed(seed)
        if hosts.from_first(partial(_is_complete, config, out, checkpoint, overwrite, resume), distributed):
            _tell(f"{escape(str(out))} is already complete")
            return
        hosts.from_first(partial(_check_writable, out), distributed)
        if unkept:
            _tell(f"[yellow]note:[/] {escape(unkept)}")
        _run(config, out, progress, checkpoint, distributed)


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
    _tell(f"wrote [bold]{escape(str(path))}[/]; run it with: gammajax run {escape(str(path))}")


@app.command()
def version() -> None:
    """Print the version."""
    from gammajax import __version__

    _tell(__version__, highlight=False)


def _is_complete(config, out: Path, checkpoint: Path, overwrite: bool, resume: bool) -> bool:
    """Whether nothing is left to do; a checkpoint that is to be dropped is dropped.

    Raises `ValueError` for results or a checkpoint that the options neither replace nor resume, and for a path that
    holds anything else than results.
    """
    there = out.is_dir() and any(out.iterdir())
    ours = (out / "posterior.nc").is_file()
    if (there and not ours) or (out.exists() and not out.is_dir()):
        raise ValueError(f"{out} is there and holds no results of gammajax; choose another folder with --out")
    if there and resume and not checkpoint.exists():
        if not _is_of(config, out):
            raise ValueError(f"{out} holds the results of another configuration; choose another --out, or --overwrite")
        return True
    if there and not overwrite and not resume:
        raise ValueError(f"{out} is already there; choose another folder with --out, or pass --overwrite")
    if checkpoint.exists() and not resume:
        if not overwrite:
            raise ValueError(f"{checkpoint} is that of an interrupted run; pass --resume, or --overwrite to drop it")
        checkpoint.unlink()
    return False


def _is_of(config, out: Path) -> bool:
    """Whether a folder holds the results of a configuration."""
    from gammajax.cli.configurations import load

    try:
        return load(str(out / "config.yaml")) == config
    except (ValueError, FileNotFoundError):
        return False


def _run(config, out: Path, progress: bool, checkpoint: Path, shared: bool) -> None:
    """Every step of a run.

    All processes of a shared run do this; the first alone writes.
    """
    import jax

    # an application may choose this for itself; a library may not
    jax.config.update("jax_enable_x64", config.precision == 64)
    import numpy as np

    from gammajax import samplers
    from gammajax.common import distributed as hosts
    from gammajax.common.cache import forget_damaged
    from gammajax.posterior import Posterior
    from gammajax.samplers.driver import Preempted

    started = time.perf_counter()
    timings: dict[str, float] = {}
    keys = jax.random.split(jax.random.key(config.seed), 3)
    model = config.model.function()
    priors = {name: parameter.distribution() for name, parameter in config.parameters.items()}
    first = not shared or hosts.is_first()
    part = (jax.process_index(), jax.process_count()) if shared else (0, 1)
    if shared:
        _tell(
            f"{part[1]} processes with {jax.device_count()} devices; should one be lost, the run goes on from "
            f"{escape(str(checkpoint))} with --resume"
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        with _step("events", timings) as say:
            with hosts.together(shared):
                events, observations, whole = _data(config, model, keys[0], progress and first, part)
            if shared and whole:
                events = hosts.share(events)
            total, held = (int(hosts.over(shared, np.sum, number)) for number in (events.total, len(events)))
            cells = f" in {held} cells," if config.compress else ""
            say(f"{total} events{cells} in {len(observations)} observations")
        with _step("response", timings) as say:
            mesh = hosts.mesh() if shared else None
            posterior = Posterior(model, priors, observations, events, mesh=mesh, progress=progress)
            engines = {name: type(engine).__name__ for name, engine in posterior.engines.items()}
            say(", ".join(f"{name}: {kind}" for name, kind in engines.items()))
        with _step("sampling", timings) as say:
            settings = config.sampler.model_dump(exclude={"method"})
            method = getattr(samplers, config.sampler.method)
            known = {"truths": config.truths, "units": config.units}
            try:
                result = method(keys[1], posterior, progress=progress, checkpoint=checkpoint, **known, **settings)
            except Preempted:
                if first:
                    print(command.farewell(signal.SIGTERM), file=sys.stderr, flush=True)
                raise
            say(f"{config.sampler.method}, {len(next(iter(result.samples.values())))} draws")
        result.tree.attrs["seed"] = config.seed
        result.tree.attrs["timings"] = _json({**timings, **result.timings})
        # whatever fails from here on, the posterior is on the disk
        unwritten = hosts.from_first(partial(_write, config, result, out, checkpoint), shared)
        if unwritten:
            raise Unwritten(unwritten, told=shared)
        with _step("plots", timings):
            failed = _plots(posterior, result, keys[2], out, config.sampler.method, shared)
    messages = dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning))
    for message in forget_damaged(messages):
        _tell(f"[yellow]warning:[/] {escape(message)}")
    seconds = time.perf_counter() - started
    result.tree.attrs["timings"] = _json({**timings, **result.timings, "total": round(seconds, 2)})
    # the others wait until all is written
    failed |= hosts.from_first(partial(_end, result, out, checkpoint, failed), shared)
    if not first:
        return
    _show(result.summary(), result.units)
    if result.log_evidence is not None:
        _tell("log evidence {:.3f} +- {:.3f}".format(*result.log_evidence), highlight=False)
    for name, error in failed.items():
        again = "; --resume tries it again" if checkpoint.exists() else ""
        _print_error(f"the plot {name} failed ({error}){again}. The posterior is in {out}")
    if failed:
        raise typer.Exit(1)
    _tell(f"[green]done[/] in {seconds:.0f} s: {escape(str(out))}/ holds {', '.join(sorted(os.listdir(out)))}")


def _plots(posterior, result, key, out: Path, method: str, shared: bool) -> dict[str, str]:
    """Draw the plots of a run into its folder; returns errors by the name of the plot."""
    from gammajax.common import distributed as hosts
    from gammajax.common.writing import replacing
    from gammajax.plots.counts import plot_counts

    first = not shared or hosts.is_first()
    # all processes predict and count
    plots = {"counts": lambda: plot_counts(posterior, result, key=key)}
    if first:
        plots["corner"] = result.plot_corner
        if method in ("nested", "smc"):
            plots["run"] = result.plot_run
    failed = {}
    for name, draw in plots.items():
        figure = None
        try:
            figure = draw()
            if first:
                with replacing(out / f"{name}.png") as temporary:
                    figure.savefig(temporary, dpi=160)
        except Exception as error:
            if name == "corner" and isinstance(error, ValueError):  # too few draws
                warnings.warn(f"no corner plot: {error}", stacklevel=1)
            elif shared and figure is None and name == "counts":  # the others would wait
                raise
            else:
                failed[f"{name}.png"] = " ".join(f"{type(error).__name__}: {error}".split())
    return failed


def _check_writable(out: Path) -> None:
    """Raise `ValueError` where results could not be written, before anything is computed."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"{out.parent}: nothing can be written there ({error.strerror}); choose another --out"
        ) from error


def _write(config, result, out: Path, checkpoint: Path) -> str | None:
    """Write all but the plots into a folder that takes its name when complete; returns what failed, in words."""
    from gammajax.cli.configurations import dump

    result.tree.attrs["config"] = dump(config)
    folder = None
    with command.held():
        try:
            folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
            result.save(folder / "posterior.nc")
            result.summary().to_csv(folder / "summary.csv")
            result.summary("fractions").to_csv(folder / "fractions.csv")
            (folder / "config.yaml").write_text(result.tree.attrs["config"], encoding="utf-8")
            (folder / "run.log").write_text(_log(result), encoding="utf-8")
            _publish(folder, out)
        except OSError as error:
            kept = f"--resume goes on from {checkpoint}" if checkpoint.exists() else _rescue(result)
            return f"{out} cannot be written ({error.strerror or error}); {kept}"
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def _rescue(result) -> str:
    """Save the posterior where there may be room; says where."""
    try:
        path = Path(tempfile.mkdtemp(prefix="gammajax-")) / "posterior.nc"
        result.save(path)
    except OSError as error:
        return f"nor can it in {tempfile.gettempdir()} ({error.strerror or error}): the posterior is lost"
    return f"the posterior is in {path}"


def _end(result, out: Path, checkpoint: Path, failed: dict) -> dict[str, str]:
    """Write the log of the whole run, and drop the checkpoint if all is done; returns what failed, as `_plots` does."""
    from gammajax.common.writing import replacing

    with command.held():
        try:
            with replacing(out / "run.log") as temporary:
                temporary.write_text(_log(result), encoding="utf-8")
        except OSError as error:
            return {"run.log": f"{error.strerror or error}"}
        if not failed:
            checkpoint.unlink(missing_ok=True)
            command.step(command.DONE)
    return {}


class Unwritten(Exception):
    """Results that cannot be written; the message says where the posterior is. `told`: all processes raise it."""

    def __init__(self, message: str, told: bool):
        super().__init__(message)
        self.told = told


def _data(config, model, key, progress, part):
    """Events, or cells that hold them, and observations of a configuration; and whether these are all of the events.

    `part`: index of this process and number of processes; each reads its share of a list of events. All processes make
    all simulated events and all cells, because they are cheap or must be counted together.
    """
    import jax.numpy as jnp

    from gammajax import io
    from gammajax.cli.configurations import check
    from gammajax.events.cells import Binning
    from gammajax.simulation import simulate, simulate_cells

    cells = config.compress and config.compress.model_dump()
    if config.observations.kind == "gadf":
        settings = config.observations.model_dump(exclude={"kind"})
        if "$GAMMAPY_DATA" in str(config.observations.path) and "GAMMAPY_DATA" not in os.environ:
            raise ValueError("set GAMMAPY_DATA to the folder of the gammapy data collection, which holds hess-dl3-dr1")
        if not config.compress:
            events, observations = io.read_gadf(**settings, part=part)
            check(config, observations)
            return events, observations, False
        events, observations = io.read_gadf(**settings)
        check(config, observations)
        return events.compress(observations, **cells), observations, True
    observations = config.observations.make()
    check(config, observations)
    truth = {name: jnp.asarray(value) for name, value in config.truths.items()}
    number = config.events.simulate
    if config.compress and number is not True:
        binning = Binning.init(observations, **cells)
        events = simulate_cells(key, model(truth), observations, binning, events=number, progress=progress)
        return events, observations, True
    events = simulate(key, model(truth), observations, events=None if number is True else number)
    return (events.compress(observations, **cells) if config.compress else events), observations, True


def _publish(folder: Path, out: Path) -> None:
    """Give the finished folder its name; an older one is replaced only now."""
    folder.chmod(0o755)
    old = None
    if out.exists():
        old = folder.with_name(folder.name + "-old")
        out.rename(old)
    folder.rename(out)
    if old is not None:
        shutil.rmtree(old)


@contextlib.contextmanager
def _step(name: str, timings: dict):
    """Print a step when it starts, and its result and duration when it ends."""
    notes: list[str] = []
    begin = time.perf_counter()
    command.step(name, cleans=name in ("sampling", "plots"))
    if console.is_terminal:
        _tell(f"[bold]{name}[/] ...", end="\r")
    yield notes.append
    timings[name] = round(time.perf_counter() - begin, 2)
    # long lists of components wrap below their first line
    words = textwrap.wrap("; ".join(notes), max(console.width - MARGIN, 40)) or [""]
    lines = escape(f"\n{' ' * MARGIN}".join(words))
    _tell(f"[bold]{name:10s}[/] {timings[name]:6.1f} s   {lines}", highlight=False)


@contextlib.contextmanager
def _one_line_errors():
    """Show wrong input as one red line; anything else is a bug and keeps its traceback."""
    try:
        yield
    except (ValueError, FileNotFoundError, Unwritten) as error:
        if not (console.quiet and getattr(error, "told", False)):
            _print_error(str(error))
        raise typer.Exit(UNWRITTEN if isinstance(error, Unwritten) else BAD_INPUT) from error


def _tell(*words, **options) -> None:
    """Print; a pipe that is closed or a log on a full disk does not stop a run."""
    try:
        console.print(*words, **options)
    except OSError:
        console.quiet, sys.stdout = True, open(os.devnull, "w")  # noqa: SIM115


def _print_error(message: str) -> None:
    text = f"[bold red]error:[/] [red]{escape(' '.join(message.split()))}[/]"
    Console(stderr=True, soft_wrap=True).print(text, highlight=False)


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
            _print_error(f"process {jax.process_index()}: another process of this run is gone; {way} ({error})")
            _leave(hosts.LOST)
        if distributed and not isinstance(error, (ValueError, FileNotFoundError, Unwritten, typer.Exit)):
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


def _show(summary, units) -> None:
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
    _tell(table, width=width + numbers, soft_wrap=False, crop=False)


def _log(result) -> str:
    """Text of run.log: how the result was made."""
    import json
    import platform

    attributes = result.tree.attrs
    lines = [f"command: {' '.join(sys.argv)}", f"python: {platform.python_version()} on {platform.platform()}"]
    lines += [f"git: {attributes['git']}"] if attributes["git"] else []
    lines += [f"device: {attributes['device']}", f"method: {attributes['method']}", f"seed: {attributes['seed']}"]
    lines += [f"version of {name}: {number}" for name, number in json.loads(attributes["versions"]).items()]
    lines += [f"time for {step}: {seconds:.2f} s" for step, seconds in result.timings.items()]
    lines += [f"warning: {message}" for message in result.messages]
    return "\n".join(lines) + "\n"


def _json(value) -> str:
    import json

    return json.dumps(value)
