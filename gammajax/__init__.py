"""gammajax: unbinned, differentiable likelihoods for the event data of gamma-ray telescopes."""

from gammajax import io as io
from gammajax.absorption import Absorption as Absorption
from gammajax.darkmatter import DarkMatter as DarkMatter
from gammajax.events import Events as Events
from gammajax.io.exposure import exposure as exposure
from gammajax.lines import GaussianLine as GaussianLine
from gammajax.lines import Line as Line
from gammajax.mixture import InstrumentBackground as InstrumentBackground
from gammajax.mixture import Mixture as Mixture
from gammajax.mixture import Source as Source
from gammajax.morphology import Einasto as Einasto
from gammajax.morphology import Gaussian as Gaussian
from gammajax.morphology import GeneralizedGaussian as GeneralizedGaussian
from gammajax.morphology import Point as Point
from gammajax.observation import Observation as Observation
from gammajax.posterior import Posterior as Posterior
from gammajax.posterior import expected_counts as expected_counts
from gammajax.posterior import intensity as intensity
from gammajax.response import Response as Response
from gammajax.result import Result as Result
from gammajax.samplers import Fit as Fit
from gammajax.samplers import fit as fit
from gammajax.samplers import nuts as nuts
from gammajax.shapes import Constant as Constant
from gammajax.shapes import Disk as Disk
from gammajax.shapes import Ring as Ring
from gammajax.shapes import Shell as Shell
from gammajax.simulate import simulate as simulate
from gammajax.spectra import BrokenPowerLaw as BrokenPowerLaw
from gammajax.spectra import ExponentialCutoffPowerLaw as ExponentialCutoffPowerLaw
from gammajax.spectra import LogParabola as LogParabola
from gammajax.spectra import PowerLaw as PowerLaw
from gammajax.spectra import ProductSpectrum as ProductSpectrum
from gammajax.spectra import SmoothBrokenPowerLaw as SmoothBrokenPowerLaw
from gammajax.spectra import SumSpectrum as SumSpectrum
from gammajax.spectra import SuperExponentialCutoffPowerLaw4FGL as SuperExponentialCutoffPowerLaw4FGL
from gammajax.spectra import TabulatedSpectrum as TabulatedSpectrum
from gammajax.templates import TemplateMap as TemplateMap

__version__ = "0.1.0"
