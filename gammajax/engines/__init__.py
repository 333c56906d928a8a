"""Engines: how intensities and expected counts of one component are computed.

Every engine has `init(component, observations, rows)`, eager and once, and two pure methods that a sampler calls:
`intensity(component)` by row and `expected_counts(component)` by observation. Adding an engine is one file and a row here.
"""

from gammajax.engines.background import BackgroundEngine
from gammajax.engines.direct import DirectEngine
from gammajax.engines.kernel import KernelEngine
from gammajax.engines.rows import Rows

ENGINES = {"kernel": KernelEngine, "direct": DirectEngine}

__all__ = ["ENGINES", "BackgroundEngine", "DirectEngine", "KernelEngine", "Rows"]
