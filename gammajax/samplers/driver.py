"""The loop that all samplers share: steps, progress, checkpoints.

A sampler defines its preparation, start and step. The driver repeats the step until the sampler is done
and shows progress. It writes a [`checkpoint`][gammajax.samplers.checkpoint] regularly, when it is interrupted and when
it ends; the same call resumes from there to the same result.
"""

import contextlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gammajax.common import distributed
from gammajax.common.parameters import check_labels
from gammajax.common.progress import Progress, duration, tell
from gammajax.model.priors import shape
from gammajax.samplers import checkpoint as checkpoints
from gammajax.samplers.space import log_density, parameters_at, referred

SLOW = 5.0  # s of preparation from which on an estimate of the whole is worth its compilation
LONG = 60.0  # s of the whole from which on it is told
PREEMPTED = 75  # exit status after SIGTERM: EX_TEMPFAIL of sysexits.h, "try again"


class RunOptions(TypedDict, total=False):
    """Options that all samplers share, as keywords.

    - `truths`, `units` of parameters by name: kept with the result, for tables and plots.
    - `progress`: whether to show it, by default True.
    - `checkpoint`: path of a file that is written every `checkpoint_every` seconds, by default 60. The same call with
      the same file resumes with bit-identical results; a finished run returns at once. Delete the file to start again.
    """

    truths: dict[str, Any] | None
    units: dict[str, str] | None
    progress: bool
    checkpoint: str | os.PathLike | None
    checkpoint_every: float


class Sampler(NamedTuple):
    """The parts of a method that the driver needs.

    - `prepare(posterior, key)`: arrays by name, on the host; "x" is a good point of the unconstrained space, relative
      to which the likelihood is taken from then on.
    - `start(posterior, key, prepared)`: the state, a pytree of arrays.
    - `step(posterior, state)`: the next state and a record, a pytree of arrays that grow along their first axis. The
      sampler compiles both and keeps them for its next run.
    - `done(state, record, steps)`: part of the work that is done, one when finished, and a few words, from the last
      record and the number of steps.
    - `over(state)`: optional, whether there is nothing to do.
    - `fix(state, record, steps)`: optional, a change of the state between steps, on the host.
    - `values`: about how many likelihoods the whole run computes, a gradient counted as three.
    """

    name: str
    options: dict[str, Any]
    prepare: Callable
    start: Callable
    step: Callable
    done: Callable
    over: Callable = lambda state: False
    fix: Callable = lambda state, record, steps: state
    values: float = 0.0


class Run(NamedTuple):
    """A finished run: posterior with its reference, state, all records, seconds by part; truths and units as given."""

    posterior: Any
    prepared: dict[str, np.ndarray]
    state: Any
    record: Any
    timings: dict[str, float]
    truths: dict[str, Any] | None = None
    units: dict[str, str] | None = None


class Preempted(SystemExit):
    """The end of a run that was told to stop by SIGTERM and left a checkpoint; exit status 75."""

    def __init__(self, path):
        super().__init__(PREEMPTED)
        self.path = path

    def __str__(self):
        return f"stopped by SIGTERM; {self.path} continues this run"


def drive(
    sampler: Sampler,
    posterior,
    key,
    *,
    truths: dict[str, Any] | None = None,
    units: dict[str, str] | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: float = 60.0,
) -> Run:
    """Run a sampler to its end, from its checkpoint if there is one; the options are [`RunOptions`][].

    Where several processes share the posterior all call it; the first alone reads and writes the checkpoint and shows
    progress.

    Raises `ValueError` for truths and units of no parameter and for a checkpoint of another run, `FileNotFoundError`
    for one in a folder that is not there, and `Preempted` after SIGTERM, to any of the processes.
    """
    if not eqx.is_array(key) or not hasattr(posterior, "priors"):
        raise ValueError(f"{sampler.name} takes a key and a posterior, as {sampler.name}(jax.random.key(0), posterior)")
    check_labels({name: shape(prior) for name, prior in posterior.priors.items()}, truths, units)
    shared = distributed.spans(posterior)
    first = not shared or distributed.is_first()
    with Progress(progress and first, sampler.name) as bar:
        run = _drive(sampler, posterior, key, checkpoint, checkpoint_every, bar, progress, shared, first)
    return run._replace(truths=truths, units=units)


def _drive(sampler, posterior, key, checkpoint, checkpoint_every, bar: Progress, progress, shared, first) -> Run:
    begun, spent, steps, stop = time.perf_counter(), 0.0, 0, False
    path = None if checkpoint is None else Path(checkpoint)
    belongs_to, found = {}, None
    if path is not None:
        data = distributed.from_first(partial(_bytes, path), shared)
        belongs_to = checkpoints.identity(posterior, key, sampler.name, sampler.options)
        found = None if data is None else checkpoints.read(path, belongs_to, data)
    prepared = found.prepared if found else {n: np.asarray(a) for n, a in sampler.prepare(posterior, key).items()}
    at = jnp.asarray(prepared["x"])
    posterior = referred(posterior, {name: value[0] for name, value in parameters_at(posterior, at[None]).items()})
    # all processes compute a shared likelihood, or none
    if distributed.over(shared, np.max, progress and time.perf_counter() - begun > SLOW):
        _estimate(sampler, posterior, at, first)
    bar.say("compiling the sampler")

    def form(state):
        """Shapes of a record."""
        return eqx.filter_eval_shape(sampler.step, posterior, state)[1]

    records: list[Any] = []
    if found:
        try:
            state = _restore(eqx.filter_eval_shape(sampler.start, posterior, key, prepared), found.state)
            records.append(_filled(form(state), found.record, rows=True))
        except (ValueError, KeyError, TypeError) as error:  # of arrays that are not those of this method
            reason = str(error).splitlines()[0] if isinstance(error, ValueError) else type(error).__name__
            raise ValueError(f"{path}: a damaged checkpoint ({reason}); delete it to start again") from error
        steps, spent = found.steps, found.seconds
    else:
        state = _strong(sampler.start(posterior, key, prepared))
    ready = time.perf_counter()

    def done() -> tuple[float, str]:
        if sampler.over(state):
            return 1.0, "done"
        return sampler.done(state, records[-1], steps) if steps else (0.0, "start")

    def save():
        if path is not None and first:
            leaves = [np.asarray(_plain(leaf)) for leaf in jax.tree.leaves(state)]
            joined = jax.tree.leaves(_join(records))
            total = spent + time.perf_counter() - begun
            try:
                checkpoints.write(path, belongs_to, checkpoints.Checkpoint(prepared, leaves, joined, steps, total))
            except OSError as error:  # a full disk is no reason to lose the run
                warnings.warn(f"the checkpoint {path} cannot be written ({error}); sampling goes on", stacklevel=2)

    saved = time.perf_counter()
    with _Terminated(path is not None) as terminated:
        try:
            while done()[0] < 1.0:
                advanced, record = sampler.step(posterior, state)
                record = jax.tree.map(np.asarray, record)
                advanced = sampler.fix(_strong(advanced), record, steps + 1)
                # together: an interrupt falls before or after
                state, steps, records = advanced, steps + 1, [*records, record]
                bar.update(*done())
                stop = bool(distributed.over(shared, np.max, terminated()))  # all after the same step
                if stop:
                    break
                if time.perf_counter() - saved > checkpoint_every:
                    save()
                    saved = time.perf_counter()
        finally:
            if len(records) > (1 if found else 0):  # something new
                save()
    if stop and done()[0] < 1.0:
        distributed.over(shared, np.max, 0)  # until the checkpoint is there
        raise Preempted(path)
    timings = {"start": ready - begun, "sampling": time.perf_counter() - ready}
    if found:
        timings["before"] = spent
    if not records:  # there was nothing to do
        records.append(jax.tree.map(lambda like: np.zeros((0, *like.shape[1:]), like.dtype), form(state)))
    return Run(posterior, prepared, state, _join(records), timings)


def _estimate(sampler: Sampler, posterior, x, first: bool) -> None:
    """Say how long a run with slow likelihoods will take, before it begins."""
    height = eqx.filter_jit(log_density)
    jax.block_until_ready(height(posterior, x, True))
    begun = time.perf_counter()
    jax.block_until_ready(height(posterior, x, True))
    seconds = time.perf_counter() - begun
    if first and sampler.values and seconds * sampler.values > LONG:
        total = duration(seconds * sampler.values)
        words = f"one likelihood takes {seconds:.2g} s, and {sampler.values:.1g} of them some {total}"
        tell(f"  {sampler.name}: {words}")


def _bytes(path) -> bytes | None:
    """Content of the checkpoint, if there is one."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write the checkpoint in")
    return path.read_bytes() if path.exists() else None


def _join(records):
    return jax.tree.map(lambda *parts: np.concatenate(parts), *records)


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf):
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _strong(state):
    """Without weak types, so that the compiled step is one and the same after a restart."""
    return jax.tree.map(lambda a: a if _is_key(a) else jax.lax.convert_element_type(a, a.dtype), state)


def _filled(shape, leaves, rows: bool = False):
    """The arrays of a file in their tree; `rows`: their first axis has any length. Raises `ValueError` for others."""
    expected, structure = jax.tree.flatten(shape)
    if len(expected) != len(leaves):
        raise ValueError(f"{len(leaves)} arrays in the place of {len(expected)}")
    for like, leaf in zip(expected, leaves, strict=True):
        if like.shape[rows:] != leaf.shape[rows:] or like.dtype != leaf.dtype:
            raise ValueError(f"an array of {leaf.shape} {leaf.dtype} in the place of {like.shape} {like.dtype}")
    return jax.tree.unflatten(structure, leaves)


def _restore(shape, leaves):
    """The state, whose keys of random numbers are plain numbers in a file."""
    plain = jax.tree.map(lambda like: jax.eval_shape(jax.random.key_data, like) if _is_key(like) else like, shape)
    made = jax.tree.map(jnp.asarray, _filled(plain, leaves))
    return jax.tree.map(lambda like, leaf: jax.random.wrap_key_data(leaf) if _is_key(like) else leaf, shape, made)


class _Terminated(contextlib.AbstractContextManager):
    """Whether SIGTERM came; only the main thread can listen."""

    def __init__(self, listen):
        self.listen = listen and threading.current_thread() is threading.main_thread()
        self.came = False

    def __enter__(self):
        if self.listen:
            self.before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_):
        if self.listen:
            signal.signal(signal.SIGTERM, self.before)

    def __call__(self) -> bool:
        return self.came

    def _note(self, *_):
        self.came = True
