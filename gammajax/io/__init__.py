"""Files: instrument responses, observations and events in GADF formats. Only this package imports gammapy, astropy."""

from gammajax.io.absorption import read_absorption as read_absorption
from gammajax.io.catalog import catalog as catalog
from gammajax.io.ctao import ctao as ctao
from gammajax.io.ctao import observation as observation
from gammajax.io.diffuse import read_cube as read_cube
from gammajax.io.diffuse import read_isotropic as read_isotropic
from gammajax.io.exposure import Exposure as Exposure
from gammajax.io.exposure import exposure as exposure
from gammajax.io.gadf import Data as Data
from gammajax.io.gadf import from_gammapy_observations as from_gammapy_observations
from gammajax.io.gadf import read_gadf as read_gadf
from gammajax.io.irf import read_irf as read_irf
from gammajax.io.models import GammapyModels as GammapyModels
from gammajax.io.models import from_gammapy as from_gammapy
from gammajax.io.models import to_gammapy as to_gammapy
from gammajax.io.particle import read_particle_model as read_particle_model
from gammajax.io.store import read_events as read_events
from gammajax.io.store import write_events as write_events
from gammajax.io.template import read_template as read_template
from gammajax.io.yields import read_yields as read_yields
