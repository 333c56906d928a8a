"""Dark matter: photon yields, fluxes from annihilation and decay, halos, particle models.

- [`gammajax.darkmatter.yields`][]: photons per annihilation, by channel and mass.
- [`gammajax.darkmatter.flux`][]: spectra of annihilation and decay.
- [`gammajax.darkmatter.halos`][]: density profiles, morphologies, J- and D-factors.
- [`gammajax.darkmatter.particle`][]: cross sections of particle models.
"""

from gammajax.model.darkmatter.flux import DarkMatter as DarkMatter
from gammajax.model.darkmatter.flux import DarkMatterDecay as DarkMatterDecay
from gammajax.model.darkmatter.halos import NFW as NFW
from gammajax.model.darkmatter.halos import Burkert as Burkert
from gammajax.model.darkmatter.halos import CoredNFW as CoredNFW
from gammajax.model.darkmatter.halos import Einasto as Einasto
from gammajax.model.darkmatter.halos import GeneralizedNFW as GeneralizedNFW
from gammajax.model.darkmatter.halos import Halo as Halo
from gammajax.model.darkmatter.halos import Isothermal as Isothermal
from gammajax.model.darkmatter.halos import Moore as Moore
from gammajax.model.darkmatter.halos import Zhao as Zhao
from gammajax.model.darkmatter.particle import ParticleModel as ParticleModel
from gammajax.model.darkmatter.yields import Yields as Yields
from gammajax.model.darkmatter.yields import YieldTable as YieldTable
from gammajax.model.darkmatter.yields import channels as channels
from gammajax.model.darkmatter.yields import yield_table as yield_table
