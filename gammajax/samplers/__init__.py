"""Samplers of a posterior. Each is `sampler(key, posterior, *, options) -> Result`.

A sampler uses only the pure methods of a posterior. A new sampler is one file and a row here.
"""

from gammajax.samplers.laplace_sampler import laplace as laplace
from gammajax.samplers.nested_sampler import nested as nested
from gammajax.samplers.nuts_sampler import nuts as nuts
from gammajax.samplers.optimise import Fit as Fit
from gammajax.samplers.optimise import fit as fit
from gammajax.samplers.smc_sampler import smc as smc
from gammajax.samplers.svi_sampler import svi as svi
