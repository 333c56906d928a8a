"""Samplers: how a posterior is explored. Each is `sampler(key, posterior, *, options) -> Result`.

A sampler sees a posterior through its pure methods only. Adding one is one file and a row here.
"""

from gammajax.samplers.laplace import laplace as laplace
from gammajax.samplers.nested import nested as nested
from gammajax.samplers.nuts import nuts as nuts
from gammajax.samplers.optimise import Fit as Fit
from gammajax.samplers.optimise import fit as fit
from gammajax.samplers.smc import smc as smc
from gammajax.samplers.svi import svi as svi
