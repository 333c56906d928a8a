"""What every benchmark shares: the machine, the JSON line, the file beside it."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import jax

RESULTS = Path(__file__).parent / "results"


def machine() -> dict:
    """Device, processors and versions, to stand beside every figure."""
    device = jax.devices()[0]
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return {
        "device": f"{device.platform}: {device.device_kind}",
        "processor": f"{model}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "numpyro", "numpy")},
        "x64": bool(jax.config.jax_enable_x64),
    }


def report(name: str, figures: dict) -> None:
    """Print figures as the last line and keep them in `benchmarks/results` (with the device in the name)."""
    figures = {**figures, "machine": machine()}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{jax.devices()[0].platform}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(figures, indent=1) + "\n")
    temporary.replace(path)
    print(json.dumps(figures))
