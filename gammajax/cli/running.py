"""Every step of a run: events, response, sampling, files and plots."""

import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from functools import cache, partial
from pathlib import Path

import typer
from rich.markup import escape

import gammajax_command as command
from gammajax.cli import terminal
from gammajax.cli.figures import result_of, save
from gammajax.cli.report import write_report


def is_complete(config, out: Path, checkpoint: Path, overwrite: bool, resume: bool) -> bool:
    """Whether nothing is left to do; a checkpoint that is to be dropped is dropped.

    Raises `ValueError` for results or a checkpoint that the options neither replace nor resume, and for a path that
    holds anything else than results.
    """
    there = out.is_dir() and any(out.iterdir())
    ours = (out / "posterior.nc").is_file()
    if (there and not ours) or (out.exists() and not out.is_dir()):
        raise ValueError(f"{out} is there and holds no results of gammajax; choose another folder with --out")
    if there and resume and not checkpoint.exists():
        if changed := _changed(config, out):
            raise ValueError(
                f"{out} holds the results of another configuration ({changed}); choose another --out, or --overwrite"
            )
        return True
    if there and not overwrite and not resume:
        raise ValueError(f"{out} is already there; choose another folder with --out, or pass --overwrite")
    if checkpoint.exists() and not resume:
        if not overwrite:
            raise ValueError(f"{checkpoint} is that of an interrupted run; pass --resume, or --overwrite to drop it")
        checkpoint.unlink()
    return False


def _changed(config, out: Path) -> str:
    """The first keys in which a configuration differs from that of the results in a folder; empty if in none."""
    from gammajax.cli.configurations import changes, load

    try:
        there = load(str(out / "config.yaml"))
    except (ValueError, FileNotFoundError):
        return "its config.yaml cannot be read"
    found = changes(there, config)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def run(config, out: Path, progress: bool, checkpoint: Path, shared: bool) -> None:
    """Every step of a run.

    All processes of a shared run do this; the first alone writes.
    """
    import jax

    # an application may choose this for itself; a library may not
    jax.config.update("jax_enable_x64", config.precision == 64)
    from gammajax import samplers
    from gammajax.cli.preparing import prepared
    from gammajax.common import distributed as hosts
    from gammajax.common.cache import forget_damaged
    from gammajax.samplers.driver import Preempted

    started = time.perf_counter()
    timings: dict[str, float] = {}
    keys = jax.random.split(jax.random.key(config.seed), 3)
    first = not shared or hosts.is_first()
    if shared:
        terminal.tell(
            f"{jax.process_count()} processes with {jax.device_count()} devices; should one be lost, the run goes on "
            f"from {escape(str(checkpoint))} with --resume"
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        posterior = prepared(config, keys[0], progress, shared, timings)
        if first and checkpoint.exists():
            terminal.tell(f"going on from {escape(str(checkpoint))}")
        with terminal.step("sampling", timings) as say:
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
        with terminal.step("plots", timings):
            failed = _plots(posterior, result, keys[2], out, config.sampler.method, shared)
        if config.products:
            with terminal.step("products", timings):
                failed |= _products(config, posterior, result, _product_key(keys), out, progress and first, first)
    messages = dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning))
    for message in forget_damaged(messages):
        terminal.tell(f"[yellow]warning:[/] {escape(message)}")
    seconds = time.perf_counter() - started
    result.tree.attrs["timings"] = _json({**timings, **result.timings, "total": round(seconds, 2)})
    # the others wait until all is written
    failed |= hosts.from_first(partial(_end, result, out, checkpoint, failed), shared)
    if not first:
        return
    terminal.show(result.summary(), result.units)
    if result.log_evidence is not None:
        terminal.tell("log evidence {:.3f} +- {:.3f}".format(*result.log_evidence), highlight=False)
    for name, error in failed.items():
        again = "; --resume tries it again" if checkpoint.exists() else ""
        terminal.print_error(f"{name} failed ({error}){again}. The posterior is in {out}")
    if failed:
        raise typer.Exit(1)
    terminal.tell(f"[green]done[/] in {seconds:.0f} s: {escape(str(out))}/ holds {', '.join(sorted(os.listdir(out)))}")


def _products(config, posterior, result, key, out: Path, progress: bool, first: bool) -> dict[str, str]:
    """Make the products of a configuration and write them into its folder; returns errors by name.

    All processes of a shared run make them; the first alone writes.
    """
    from gammajax.cli.outputs import Prepared
    from gammajax.samplers import fit

    best = cache(lambda: fit(posterior, progress=progress))
    given, failed = Prepared(posterior, result, best, key, progress), {}
    for name, output in config.products.items():
        try:
            product = output.make(given)
            if first:
                _save(output, product, out, name)
        except (ValueError, OSError) as error:
            failed[f"the product {name}"] = " ".join(f"{error}".split())
    return failed


def _product_key(keys):
    """Key of the products of a run, the same when one of them is made later."""
    import jax

    return jax.random.fold_in(keys[2], 1)


def check(folder: Path, replicas: int | None, progress: bool):
    """Check the fit of a finished run against simulated data sets, and write what is found into its folder.

    Raises `FileNotFoundError` for a folder without results, and `ValueError` for a run without data of events.
    """
    import jax

    from gammajax.cli.configurations import load
    from gammajax.cli.outputs import CheckOutput, Prepared
    from gammajax.cli.preparing import prepared

    result = result_of(folder)
    config = load(str(folder / "config.yaml"))
    config.check_events(str(folder))
    jax.config.update("jax_enable_x64", config.precision == 64)
    keys, timings = jax.random.split(jax.random.key(config.seed), 3), {}
    posterior = prepared(config, keys[0], progress, False, timings)
    output = CheckOutput(type="check", replicas=replicas)
    with terminal.step("check", timings) as say:
        found = output.make(Prepared(posterior, result, None, _product_key(keys), progress))
        say(f"against {found.replicas} simulated data sets")
    _save(output, found, folder, "check")
    write_report(folder, result)
    return found


def _save(output, product, out: Path, name: str) -> None:
    """Write the tables and the figures of a product."""
    for end, figure in output.write(product, out / name).items():
        save(figure, out / f"{name}{end}.png")


def _plots(posterior, result, key, out: Path, method: str, shared: bool) -> dict[str, str]:
    """Draw the plots of a run into its folder; returns errors by the name of the plot."""
    from gammajax.common import distributed as hosts
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
                save(figure, out / f"{name}.png")
        except Exception as error:
            if name == "corner" and isinstance(error, ValueError):  # too few draws
                warnings.warn(f"no corner plot: {error}", stacklevel=1)
            elif shared and figure is None and name == "counts":  # the others would wait
                raise
            else:
                failed[f"the plot {name}.png"] = " ".join(f"{type(error).__name__}: {error}".split())
    return failed


def check_writable(out: Path) -> None:
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
            write_report(out, result)
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
