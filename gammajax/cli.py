"""Command line: `gammajax run`, `gammajax init`, `gammajax version`."""

import contextlib
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(
    help="Unbinned likelihoods of gamma-ray events in JAX.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# files and pipes have no width of their own
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 110)
BAD_INPUT = 2


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
) -> None:
    """Simulate or read events, sample the posterior, and write samples, tables and plots.

    A run that is interrupted leaves a checkpoint beside the folder, .NAME.checkpoint; after SIGTERM it exits with
    status 75. With --resume it goes on from there and ends as it would have. Exit status 2: wrong input.
    """
    with _one_line_errors():
        from gammajax.configs import load

        config = load(configuration)
        if seed is not None:
            config = config.model_copy(update={"seed": seed})
        out = Path("results") / Path(configuration).stem if out is None else out
        checkpoint = out.with_name(f".{out.name}.checkpoint")
        if out.exists() and resume and not checkpoint.exists():
            console.print(f"{escape(str(out))} is already complete")
            return
        if out.exists() and not overwrite and not resume:
            raise ValueError(f"{out} is already there; choose another folder with --out, or pass --overwrite")
        if checkpoint.exists() and not resume:
            if not overwrite:
                raise ValueError(
                    f"{checkpoint} is that of an interrupted run; pass --resume, or --overwrite to drop it"
                )
            checkpoint.unlink()
        _run(config, out, progress, checkpoint)


@app.command()
def init(path: Annotated[Path, typer.Argument(help="File to write.")] = Path("gammajax.yaml")) -> None:
    """Write a commented configuration to start from."""
    with _one_line_errors():
        from gammajax.configs import builtin

        if path.exists():
            raise ValueError(f"{path} is already there")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent}: no such folder")
        path.write_text(builtin("template"))
    console.print(f"wrote [bold]{escape(str(path))}[/]; run it with: gammajax run {escape(str(path))}")


@app.command()
def version() -> None:
    """Print the version."""
    from gammajax import __version__

    console.print(__version__, highlight=False)


def _run(config, out: Path, progress: bool, checkpoint: Path) -> None:
    """Every step of a run, in a folder that takes its name only when it is complete."""
    import jax

    # an application may choose this for itself; a library may not
    jax.config.update("jax_enable_x64", config.precision == 64)
    import yaml

    from gammajax import samplers
    from gammajax.plot import plot_counts
    from gammajax.posterior import Posterior
    from gammajax.samplers.driver import Preempted

    started = time.perf_counter()
    timings: dict[str, float] = {}
    keys = jax.random.split(jax.random.key(config.seed), 3)
    model = config.model.function()
    priors = {name: parameter.distribution() for name, parameter in config.parameters.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            with _step("events", timings) as say:
                events, observations = _data(config, model, keys[0], progress)
                cells = f" in {len(events)} cells," if config.compress else ""
                say(f"{events.total} events{cells} in {len(observations)} observations")
            with _step("response", timings) as say:
                posterior = Posterior(model, priors, observations, events)
                engines = {name: type(engine).__name__ for name, engine in posterior.engines.items()}
                say(", ".join(f"{name}: {kind}" for name, kind in engines.items()))
            with _step("sampling", timings) as say:
                settings = config.sampler.model_dump(exclude={"method"})
                method = getattr(samplers, config.sampler.method)
                known = {"truths": config.truths, "units": config.units}
                result = method(keys[1], posterior, progress=progress, checkpoint=checkpoint, **known, **settings)
                say(f"{config.sampler.method}, {len(next(iter(result.samples.values())))} draws")
            with _step("plots", timings) as say:
                result.plot_corner().savefig(folder / "corner.png", dpi=160)
                plot_counts(posterior, result, key=keys[2]).savefig(folder / "counts.png", dpi=160)
                if config.sampler.method in ("nested", "smc"):
                    result.plot_run().savefig(folder / "run.png", dpi=160)
        for message in dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)):
            console.print(f"[yellow]warning:[/] {escape(message)}")
        total = time.perf_counter() - started
        result.tree.attrs["seed"] = config.seed
        result.tree.attrs["timings"] = _json({**timings, **result.timings, "total": round(total, 2)})
        resolved = config.model_dump(mode="json", exclude_none=True)
        result.tree.attrs["config"] = yaml.safe_dump(resolved, sort_keys=False)
        result.save(folder / "posterior.nc")
        summary = result.summary()
        summary.to_csv(folder / "summary.csv")
        result.summary("fractions").to_csv(folder / "fractions.csv")
        (folder / "config.yaml").write_text(result.tree.attrs["config"])
        (folder / "run.log").write_text(_log(result))
        _publish(folder, out)
        checkpoint.unlink(missing_ok=True)
    except Preempted as stop:
        console.print(f"[yellow]{escape(str(stop))}[/]; pass --resume")
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _show(summary, result.units)
    if result.log_evidence is not None:
        console.print("log evidence {:.3f} +- {:.3f}".format(*result.log_evidence), highlight=False)
    console.print(f"[green]done[/] in {total:.0f} s: {escape(str(out))}/ holds {', '.join(sorted(os.listdir(out)))}")


def _data(config, model, key, progress):
    """Events, or cells that hold them, and observations of a configuration."""
    import jax.numpy as jnp

    from gammajax import io
    from gammajax.cells import Binning
    from gammajax.simulate import simulate, simulate_cells

    settings = config.observations.model_dump(exclude={"kind"})
    cells = config.compress and config.compress.model_dump()
    if config.observations.kind == "gadf":
        if "$GAMMAPY_DATA" in config.observations.path and "GAMMAPY_DATA" not in os.environ:
            raise ValueError("set GAMMAPY_DATA to the folder of the gammapy data collection, which holds hess-dl3-dr1")
        events, observations = io.read_gadf(**settings)
        return (events.compress(observations, **cells) if config.compress else events), observations
    pointings = settings.pop("pointings")
    observations = [io.ctao(pointing=p, obs_id=str(i), **settings) for i, p in enumerate(pointings)]
    truth = {name: jnp.asarray(value) for name, value in config.truths.items()}
    number = config.events.simulate
    if config.compress and number is not True:
        binning = Binning.init(observations, **cells)
        return simulate_cells(key, model(truth), observations, binning, events=number, progress=progress), observations
    events = simulate(key, model(truth), observations, events=None if number is True else number)
    return (events.compress(observations, **cells) if config.compress else events), observations


def _publish(folder: Path, out: Path) -> None:
    """Give the finished folder its name; an older one is replaced only now."""
    folder.chmod(0o755)
    old = None
    if out.exists():
        old = folder.with_name(folder.name + "-old")
        out.rename(old)
    folder.rename(out)
    if old is not None:
        shutil.rmtree(old) if old.is_dir() else old.unlink()


@contextlib.contextmanager
def _step(name: str, timings: dict):
    """Print a step when it starts and what it did and how long it took when it ends."""
    notes: list[str] = []
    begin = time.perf_counter()
    if console.is_terminal:
        console.print(f"[bold]{name}[/] ...", end="\r")
    yield notes.append
    timings[name] = round(time.perf_counter() - begin, 2)
    console.print(f"[bold]{name:10s}[/] {timings[name]:6.1f} s   {escape('; '.join(notes))}", highlight=False)


@contextlib.contextmanager
def _one_line_errors():
    """Show wrong input as one red line; anything else is a bug and keeps its traceback."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        message = " ".join(str(error).split())
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] [red]{escape(message)}[/]", highlight=False)
        raise typer.Exit(BAD_INPUT) from error


def _show(summary, units) -> None:
    table = Table(title="posterior", title_justify="left")
    known = "truth" in summary
    for column in ("parameter", "median", "68 %", "95 %", *(["truth"] if known else []), "ESS", "R-hat"):
        table.add_column(column, justify="left" if column == "parameter" else "right", no_wrap=True)
    for name, row in summary.iterrows():
        unit = units.get(str(name).split("[")[0], "").replace("$", "")
        table.add_row(
            escape(f"{name} ({unit})" if unit else str(name)),
            f"{row['median']:.4g}",
            f"{row['68% low']:.4g} to {row['68% high']:.4g}",
            f"{row['95% low']:.4g} to {row['95% high']:.4g}",
            *([f"{row['truth']:.4g}"] if known else []),
            f"{row['ess_bulk']:.0f}",
            f"{row['r_hat']:.3f}",
        )
    console.print(table)


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
