"""Samplers of a posterior. Each is `sampler(key, posterior, *, options) -> Result`.

A sampler uses only the pure methods of a posterior. A new sampler is one file and a row here.
"""

from gammajax.samplers.laplace import laplace as laplace
from gammajax.samplers.nested import nested as nested
from gammajax.samplers.nuts import nuts as nuts
from gammajax.samplers.optimise import Fit as Fit
from gammajax.samplers.optimise import fit as fit
from gammajax.samplers.smc import smc as smc
from gammajax.samplers.svi import svi as svi
