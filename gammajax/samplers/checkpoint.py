"""Checkpoints: the state of a sampler in a file, with the identity of its run.

A checkpoint holds the exact arrays of the sampler's state, and digests of everything that determines its course: model,
events, options, key, versions, machine. It continues a run only if all of them are equal.
"""

import hashlib
import io
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from gammajax.common import distributed
from gammajax.common.writing import read_archive, write_archive
from gammajax.samplers.space import log_likelihood, log_prior, prior_draws

PACKAGES = ("gammajax", "jax", "jaxlib", "numpyro", "blackjax", "optax")
PROBES = 8


class Checkpoint(NamedTuple):
    """Arrays of a run between two steps (preparation, state, record), and seconds spent."""

    prepared: dict[str, np.ndarray]
    state: list[np.ndarray]
    record: list[np.ndarray]
    steps: int
    seconds: float


def identity(posterior, key, method: str, options: dict) -> dict[str, Any]:
    """Identity of the run of a checkpoint, under readable names."""
    device, shared = jax.devices()[0], distributed.spans(posterior)
    data = distributed.digest(eqx.filter(posterior, eqx.is_array_like))
    if shared:  # digest of the shares of all processes, in their order
        data = hashlib.blake2b(b"".join(distributed.gather(data)), digest_size=16).digest()
    return {
        "method": method,
        "options": {name: str(value) for name, value in sorted(options.items())},
        "key": np.asarray(jax.random.key_data(key)).ravel().tolist(),
        "versions": {name: version(name) for name in PACKAGES},
        "device": f"{device.platform} {device.device_kind}" + (f", {jax.process_count()} processes" if shared else ""),
        "data set or priors": data.hex(),
        "model": np.asarray(_probe(posterior), np.float64).tolist(),
    }


@eqx.filter_jit
def _probe(posterior):
    """Log-density at some draws of the prior: a fingerprint of the model."""
    x = prior_draws(posterior, jax.random.key(0), PROBES)
    return jax.lax.map(lambda one: log_prior(posterior, one) + log_likelihood(posterior, one), x)


def _equal(name, there, here) -> bool:
    if name == "model" and isinstance(there, list) and len(there) == len(here):
        # processes may add in another order
        return bool(np.allclose(there, here, rtol=1e-5, atol=1e-5))
    return there == here


def write(path: Path, belongs_to: dict, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the previous one stays until the new one is complete."""
    arrays: dict[str, Any] = {f"prepared {name}": value for name, value in checkpoint.prepared.items()}
    arrays |= {f"state {i}": value for i, value in enumerate(checkpoint.state)}
    arrays |= {f"record {i}": value for i, value in enumerate(checkpoint.record)}
    header = {"belongs_to": belongs_to, "steps": checkpoint.steps, "seconds": checkpoint.seconds}
    write_archive(path, header, arrays)


def read(path: Path, belongs_to: dict, data: bytes | None = None) -> Checkpoint:
    """Read a checkpoint from `path`, or from its bytes `data`.

    Raises `ValueError` for another kind of file, and for a checkpoint of another run, with the difference.
    """
    try:
        header, arrays = read_archive(io.BytesIO(path.read_bytes() if data is None else data))
        theirs, steps, seconds = dict(header["belongs_to"]), int(header["steps"]), float(header["seconds"])
        arrays["prepared x"]  # the point of the reference
        if any(array.dtype.kind not in "biuf" for array in arrays.values()):
            raise TypeError("not numbers")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(
            f"{path}: not a checkpoint that gammajax wrote, or a damaged one; delete it to start again"
        ) from error
    for name, value in belongs_to.items():
        if not _equal(name, theirs.get(name), value):
            raise ValueError(f"{path}: checkpoint of another {name}{_change(theirs.get(name), value)}")

    def numbered(kind):
        """Arrays in their order; their number is compared where their shapes are."""
        names = [f"{kind} {i}" for i in range(len(arrays))]
        return [arrays[name] for name in names if name in arrays]

    prepared = {name.removeprefix("prepared "): a for name, a in arrays.items() if name.startswith("prepared ")}
    return Checkpoint(prepared, numbered("state"), numbered("record"), steps, seconds)


def _change(there, here) -> str:
    """The difference in words, if it is readable."""
    if isinstance(there, dict) and isinstance(here, dict):
        names = [name for name in here if there.get(name) != here[name]]
        return ": " + ", ".join(f"{name} {there.get(name)}, now {here[name]}" for name in names)
    if isinstance(there, str) and isinstance(here, str) and len(here) != 32:
        return f": {there}, now {here}"
    return ""
