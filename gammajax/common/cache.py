"""Compiled programs that the command line keeps between runs, in JAX's persistent cache.

Only the command line calls this: an application may choose a folder of its user, a library may not.
"""

import os
import platform
import re
import tempfile
import warnings
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

VARIABLE, OFF = "GAMMAJAX_CACHE", ("", "0", "off")
LIMIT = 1 << 30  # bytes; a run of a new kind adds 10 to 30 MB
LEAST = 0.1  # s of compilation; programs below it take a tenth of the time, and are most of the files
COMPLAINT = "Error (reading|writing) persistent compilation cache"


def keep_compiled(wanted: bool = True) -> str | None:
    """Keep what JAX compiles from now on, and use what is kept; returns a line for the user if that cannot be done.

    The folder is that of the variable GAMMAJAX_CACHE, where "", "0" and "off" stand for none. Without it, it is the
    one that JAX was given (JAX_COMPILATION_CACHE_DIR), with all settings of JAX, or else the user's folder of caches.
    At most `LIMIT` bytes are kept from one run to the next; what was not used for longest goes first.

    JAX writes without a lock: a process may read what another has half written, or left so when it was killed. It
    compiles again; the warning about it is silenced, and `forget_damaged` removes the file.
    """
    import jax

    warnings.filterwarnings("ignore", COMPLAINT, UserWarning)
    given = os.environ.get(VARIABLE)
    if not wanted or given in OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    if given is None and jax.config.values["jax_compilation_cache_dir"]:
        return None
    try:
        folder = _folder(given)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        _evict(folder, LIMIT)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return f"compiled programs are not kept between runs ({reason}); {VARIABLE} names another folder, or off"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST)
    _order_priors()
    return None


def forget_damaged(messages: Iterable[str]) -> list[str]:
    """Remove the programs that messages of JAX name as unreadable, which it never replaces; returns all other messages.

    Such a file was cut off when its writer was killed, or two processes have written it at once.
    """
    import jax

    folder = jax.config.values["jax_compilation_cache_dir"]
    others = []
    for text in messages:
        if not re.match(COMPLAINT, text):
            others.append(text)
        elif folder and (found := re.match(r"Error reading .* entry for '([\w.<>-]+)'", text)):
            for path in Path(folder).glob(f"{found[1]}-*"):
                path.unlink(missing_ok=True)
    return others


def _order_priors() -> None:
    """Flatten numpyro's distributions in the order of the names of their fields.

    It takes that of a set, which the seed of hashes changes: the next process would look for another program.
    """
    from numpyro.distributions import Distribution

    for name in ("gather_pytree_data_fields", "gather_pytree_aux_fields"):
        gather = Distribution.__dict__[name].__func__
        setattr(Distribution, name, classmethod(lambda cls, gather=gather: tuple(sorted(gather(cls)))))


def _folder(given: str | None) -> Path:
    """Folder of the programs for processors like this one: nodes of a cluster share a home, not their instructions."""
    from platformdirs import user_cache_path

    from gammajax.io.files import expand

    root = user_cache_path("gammajax", appauthor=False) if given is None else expand(given)
    return root / f"{platform.machine()}-{sha256(_instructions().encode()).hexdigest()[:8]}"


def _instructions() -> str:
    """Instructions of the processor, or its name where Linux does not list them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _evict(folder: Path, limit: int) -> None:
    """Remove the files that were not used for longest, until those that stay take at most `limit` bytes."""
    files = []
    for path in folder.glob("*-cache"):
        try:
            status = path.stat()
        except FileNotFoundError:  # another process does the same
            continue
        # some disks keep no time of access
        files.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    total = 0
    for _, size, path in sorted(files, reverse=True):
        total += size
        if total > limit:
            path.unlink(missing_ok=True)
