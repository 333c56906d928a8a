"""Files: instrument responses, observations and events in GADF formats. Only this package imports gammapy, astropy."""

from gammajax.io.backgrounds import read_off_runs as read_off_runs
from gammajax.io.backgrounds import write_background as write_background
from gammajax.io.catalogs import catalog as catalog
from gammajax.io.ctao_prod5 import ctao as ctao
from gammajax.io.ctao_prod5 import observation as observation
from gammajax.io.datasets import from_gammapy_datasets as from_gammapy_datasets
from gammajax.io.diffuse import read_cube as read_cube
from gammajax.io.diffuse import read_isotropic as read_isotropic
from gammajax.io.exposure_map import Exposure as Exposure
from gammajax.io.exposure_map import exposure as exposure
from gammajax.io.gadf import Data as Data
from gammajax.io.gadf import from_gammapy_observations as from_gammapy_observations
from gammajax.io.gadf import read_gadf as read_gadf
from gammajax.io.irf import read_irf as read_irf
from gammajax.io.models import GammapyModels as GammapyModels
from gammajax.io.models import from_gammapy as from_gammapy
from gammajax.io.models import to_gammapy as to_gammapy
from gammajax.io.on_off_regions import on_off_from_gammapy as on_off_from_gammapy
from gammajax.io.on_off_regions import read_on_off as read_on_off
from gammajax.io.optical_depth import read_absorption as read_absorption
from gammajax.io.particle_models import read_particle_model as read_particle_model
from gammajax.io.photon_yields import read_yields as read_yields
from gammajax.io.posterior_dataset import to_gammapy_dataset as to_gammapy_dataset
from gammajax.io.store import read_events as read_events
from gammajax.io.store import write_events as write_events
from gammajax.io.template import read_template as read_template
