"""Engines: computation of intensities and expected counts of one component.

A new engine is one file with a subclass of `Engine` and a row in `ENGINES` (CONTRIBUTING.md). The module
`gammajax.engines.choice` chooses the engine of each component.
"""

from gammajax.engines.background import BackgroundEngine
from gammajax.engines.dense import DenseEngine
from gammajax.engines.direct import DirectEngine
from gammajax.engines.engine import Engine
from gammajax.engines.fixed import FixedEngine
from gammajax.engines.fold import FoldEngine
from gammajax.engines.kernel import KernelEngine, PreparedKernel
from gammajax.engines.rows import Rows

ENGINES: dict[str, type[Engine]] = {
    "kernel": KernelEngine,
    "fold": FoldEngine,
    "direct": DirectEngine,
    "dense": DenseEngine,
}

__all__ = [
    "ENGINES",
    "BackgroundEngine",
    "DenseEngine",
    "DirectEngine",
    "Engine",
    "FixedEngine",
    "FoldEngine",
    "KernelEngine",
    "PreparedKernel",
    "Rows",
]
