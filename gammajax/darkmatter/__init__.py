"""Dark matter: photon yields, fluxes from annihilation and decay, halos, particle models.

- [`gammajax.darkmatter.yields`][]: photons per annihilation, by channel and mass.
- [`gammajax.darkmatter.flux`][]: spectra of annihilation and decay.
- [`gammajax.darkmatter.halos`][]: density profiles, morphologies, J- and D-factors.
- [`gammajax.darkmatter.particle`][]: cross sections of particle models.
"""

from gammajax.darkmatter.flux import DarkMatter as DarkMatter
from gammajax.darkmatter.flux import DarkMatterDecay as DarkMatterDecay
from gammajax.darkmatter.halos import NFW as NFW
from gammajax.darkmatter.halos import Burkert as Burkert
from gammajax.darkmatter.halos import CoredNFW as CoredNFW
from gammajax.darkmatter.halos import Einasto as Einasto
from gammajax.darkmatter.halos import GeneralizedNFW as GeneralizedNFW
from gammajax.darkmatter.halos import Halo as Halo
from gammajax.darkmatter.halos import Isothermal as Isothermal
from gammajax.darkmatter.halos import Moore as Moore
from gammajax.darkmatter.halos import Zhao as Zhao
from gammajax.darkmatter.particle import ParticleModel as ParticleModel
from gammajax.darkmatter.yields import Yields as Yields
from gammajax.darkmatter.yields import YieldTable as YieldTable
from gammajax.darkmatter.yields import channels as channels
from gammajax.darkmatter.yields import yield_table as yield_table
