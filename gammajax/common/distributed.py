"""Several processes, on one or more machines, that share the events of one posterior.

Each process holds its share of the events on its own devices, and all run the same program: results from all events are
equal on every process. Processes communicate through collective operations of the devices, which the compiler inserts
into likelihoods, and through the functions of this module, which all processes must call in the same order.
"""

import contextlib
import hashlib
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

SHUTDOWN = 30  # s of waiting for the others at the end of a process, after results are written
LOST = 69  # exit status after the loss of another process: EX_UNAVAILABLE of sysexits.h
Data = TypeVar("Data")


def initialize(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None, *, patience: int = 60
) -> None:
    """Join the other processes; call it once, before any computation.

    - `coordinator`: "HOST:PORT" of the first process; `processes`: their number; `process`: number of this process,
      from zero. SLURM and Open MPI set all three.
    - `patience` [s]: all processes end if one has sent no heartbeat for this time.

    Raises `ValueError` if no cluster is found, or if only some of the three are given.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if any(given) and not all(given):
        raise ValueError("give all of coordinator, processes and process, or none of them under SLURM or Open MPI")
    # the service would intercept SIGTERM, which tells samplers to stop
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            heartbeat_timeout_seconds=patience,
            shutdown_timeout_seconds=SHUTDOWN,
        )
    except ValueError as error:
        if "should be defined" not in str(error) and "must be defined" not in str(error):
            raise
        raise ValueError(
            "no cluster of processes was found (SLURM, Open MPI): give coordinator HOST:PORT, the number of processes, "
            "and which process this is, from 0"
        ) from error


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return jax.process_index() == 0


def mesh() -> Mesh:
    """All devices of all processes, for [`gammajax.Posterior`][]."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("events",))


def share(events: Data) -> Data:
    """This process's share (every n-th) of [`gammajax.Events`][] or [`gammajax.Cells`][] that all processes hold.

    Raises `ValueError` if the processes hold different events, or fewer events than processes.
    """
    if jax.process_count() == 1:
        return events
    if len(set(gather(digest(events)))) > 1:
        raise ValueError("processes hold different events to share: are their files and machines the same?")
    held: Any = events
    if len(held) < jax.process_count():
        raise ValueError(f"{len(held)} events cannot be shared by {jax.process_count()} processes")
    return held[slice(jax.process_index(), None, jax.process_count())]


def spans(what: Any) -> bool:
    """Whether a mesh, or any array in a pytree, lies on devices of several processes."""
    if jax.process_count() == 1:
        return False
    if isinstance(what, Mesh):
        return len({device.process_index for device in what.devices.flat}) > 1
    return any(isinstance(leaf, jax.Array) and not leaf.is_fully_addressable for leaf in jax.tree.leaves(what))


def gather(value: Any) -> list[Any]:
    """The values of all processes, in their order; values must be picklable."""
    if jax.process_count() == 1:
        return [value]
    from jax.experimental.multihost_utils import process_allgather  # importing it is slow

    data, sizes = _packed(value)
    every = np.asarray(process_allgather(data))
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(every, sizes, strict=True)]


def over(shared: bool, function: Callable, value: Any) -> Any:
    """Reduction over the processes' values (`numpy.sum`, ...), element by element; the value itself if not shared."""
    return function(np.stack(gather(np.asarray(value))), axis=0) if shared else value


@contextlib.contextmanager
def together(shared: bool = True) -> Iterator[None]:
    """Context that raises an error of one process on all, so that none waits; use no collective operation inside.

    All processes raise the error of the first process with an error.
    """
    mine = None
    try:
        yield
    except Exception as error:
        if not shared or jax.process_count() == 1:
            raise
        mine = error
    if shared and jax.process_count() > 1:
        _raise_first(gather(_plain(mine)), mine)


def from_first(function: Callable[[], Any], shared: bool = True) -> Any:
    """Result of a function that only the first process calls; all processes raise its error."""
    if not shared or jax.process_count() == 1:
        return function()
    value, mine = None, None
    if is_first():
        try:
            value = function()
        except Exception as error:
            mine = error
    from jax.experimental.multihost_utils import broadcast_one_to_all

    data, sizes = _packed((value, _plain(mine)))
    value, found = pickle.loads(np.asarray(broadcast_one_to_all(data))[: sizes[0]].tobytes())
    _raise_first([found], mine)
    return value


def local(array: Any) -> np.ndarray:
    """The part of an array on this process's devices, as a host array: the whole array unless it is shared."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    parts = sorted(array.addressable_shards, key=lambda part: part.index[0].start or 0)
    return np.concatenate([np.asarray(part.data) for part in parts])


def digest(tree: Any) -> bytes:
    """Digest of this process's part of all arrays of a pytree, in any order."""
    # sorted: the order of the fields of a numpyro distribution differs from process to process
    arrays = sorted(_digest(local(leaf)) for leaf in jax.tree.leaves(tree))
    return hashlib.blake2b(b"".join(arrays), digest_size=16).digest()


def lost(error: BaseException) -> bool:
    """Whether an error comes from a collective operation with a lost process."""
    words = r"\bgloo\b|\bnccl|coordination.?service|socket closed|connection (reset|refused|closed)|peer closed"
    return re.search(words, str(error), re.IGNORECASE) is not None and jax.process_count() > 1


def _packed(value) -> tuple[np.ndarray, list[int]]:
    """A value as bytes, padded to equal size on every process, and the sizes of all.

    Bytes, because devices without x64 would round numbers of double precision.
    """
    from jax.experimental.multihost_utils import process_allgather

    data = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = np.asarray(process_allgather(np.frombuffer(np.uint64(data.size).tobytes(), np.uint8)))
    sizes = [int(np.frombuffer(size.tobytes(), np.uint64)[0]) for size in sizes]
    # sizes are powers of two: few compilations
    room = 1 << max(6, (max(sizes) - 1).bit_length())
    return np.pad(data, (0, room - data.size)), sizes


def _digest(array) -> bytes:
    found = hashlib.blake2b(f"{array.dtype}{array.shape}".encode(), digest_size=16)
    found.update(np.ascontiguousarray(array).data)
    return found.digest()


def _plain(error):
    """Type and message of an error, for other processes to raise."""
    if error is None:
        return None
    for kind in (FileNotFoundError, ValueError):
        if isinstance(error, kind):
            return kind, str(error)
    return RuntimeError, f"{type(error).__name__}: {error}"


def _raise_first(errors, mine):
    for number, found in enumerate(errors):
        if found is not None:
            kind, words = found
            error = kind(words if len(set(errors)) == 1 else f"process {number}: {words}")
            error.told = True  # all processes raise it: only one prints it
            raise error from mine
