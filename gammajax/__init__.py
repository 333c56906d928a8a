"""gammajax: unbinned, differentiable likelihoods for the event data of gamma-ray telescopes.

The names are in the order of the flow, from files and instruments to results.
"""

# ruff: noqa: I001 (the order of the flow, not of the alphabet)

# the instrument
from gammajax.instrument.response import Response as Response
from gammajax.instrument.observation import Observation as Observation
from gammajax.instrument.region_response import RegionResponse as RegionResponse

# its events
from gammajax.events.event_list import Events as Events
from gammajax.events.cells import Binning as Binning
from gammajax.events.cells import Cells as Cells
from gammajax.events.on_off_run import OnOffRun as OnOffRun

# the model
from gammajax.model.spectra import BrokenPowerLaw as BrokenPowerLaw
from gammajax.model.spectra import ExponentialCutoffPowerLaw as ExponentialCutoffPowerLaw
from gammajax.model.spectra import LogParabola as LogParabola
from gammajax.model.spectra import PowerLaw as PowerLaw
from gammajax.model.spectra import ProductSpectrum as ProductSpectrum
from gammajax.model.spectra import RescaledSpectrum as RescaledSpectrum
from gammajax.model.spectra import SmoothBrokenPowerLaw as SmoothBrokenPowerLaw
from gammajax.model.spectra import SteppedSpectrum as SteppedSpectrum
from gammajax.model.spectra import SumSpectrum as SumSpectrum
from gammajax.model.spectra import SuperExponentialCutoffPowerLaw4FGL as SuperExponentialCutoffPowerLaw4FGL
from gammajax.model.spectra import TabulatedSpectrum as TabulatedSpectrum
from gammajax.model.lines import GaussianLine as GaussianLine
from gammajax.model.lines import Line as Line
from gammajax.model.absorption import Absorption as Absorption
from gammajax.model.morphology import Gaussian as Gaussian
from gammajax.model.morphology import GeneralizedGaussian as GeneralizedGaussian
from gammajax.model.morphology import Point as Point
from gammajax.model.shapes import Constant as Constant
from gammajax.model.shapes import Disk as Disk
from gammajax.model.shapes import Ring as Ring
from gammajax.model.shapes import Shell as Shell
from gammajax.model.energy_dependent import EnergyDependent as EnergyDependent
from gammajax.model.templates import TemplateCube as TemplateCube
from gammajax.model.templates import TemplateMap as TemplateMap
from gammajax.model import darkmatter as darkmatter
from gammajax.model.darkmatter import NFW as NFW
from gammajax.model.darkmatter import Burkert as Burkert
from gammajax.model.darkmatter import CoredNFW as CoredNFW
from gammajax.model.darkmatter import DarkMatter as DarkMatter
from gammajax.model.darkmatter import DarkMatterDecay as DarkMatterDecay
from gammajax.model.darkmatter import Einasto as Einasto
from gammajax.model.darkmatter import GeneralizedNFW as GeneralizedNFW
from gammajax.model.darkmatter import Isothermal as Isothermal
from gammajax.model.darkmatter import Moore as Moore
from gammajax.model.darkmatter import ParticleModel as ParticleModel
from gammajax.model.darkmatter import Zhao as Zhao
from gammajax.model.off_background import OffBackground as OffBackground
from gammajax.model.splines import smooth_prior as smooth_prior
from gammajax.model.background_correction import BackgroundCorrection as BackgroundCorrection
from gammajax.model.background_correction import correction_prior as correction_prior
from gammajax.model.temporal import ExponentialFlare as ExponentialFlare
from gammajax.model.temporal import GaussianFlare as GaussianFlare
from gammajax.model.temporal import PerObservation as PerObservation
from gammajax.model.temporal import PhaseCurve as PhaseCurve
from gammajax.model.temporal import SteppedTime as SteppedTime
from gammajax.model.temporal import TimeFunction as TimeFunction
from gammajax.model.mixture import InstrumentBackground as InstrumentBackground
from gammajax.model.mixture import Mixture as Mixture
from gammajax.model.mixture import Source as Source
from gammajax.model.mixture import stick_breaking as stick_breaking
from gammajax.model.response_change import ResponseChange as ResponseChange
from gammajax.model.response_change import changed as changed

# files of all three
from gammajax import io as io
from gammajax.io.exposure_map import exposure as exposure

# simulated events
from gammajax.simulation import simulate as simulate
from gammajax.simulation import simulate_cells as simulate_cells
from gammajax.simulation import simulate_on_off as simulate_on_off

# the likelihood
from gammajax import engines as engines
from gammajax.likelihood import OnOff as OnOff
from gammajax.likelihood import OnOffCounts as OnOffCounts
from gammajax.likelihood import Unbinned as Unbinned
from gammajax.posterior import Posterior as Posterior
from gammajax.posterior import load_posterior as load_posterior
from gammajax.engines.expectation import expected_counts as expected_counts
from gammajax.engines.expectation import intensity as intensity

# samplers
from gammajax import samplers as samplers
from gammajax.samplers import Fit as Fit
from gammajax.samplers import fit as fit
from gammajax.samplers import laplace as laplace
from gammajax.samplers import nested as nested
from gammajax.samplers import nuts as nuts
from gammajax.samplers import smc as smc
from gammajax.samplers import svi as svi

# results
from gammajax.results.result import Result as Result
from gammajax.results.significance import BayesFactor as BayesFactor
from gammajax.results.significance import Significance as Significance

# statistics of a posterior
from gammajax.statistics.profiles import Profile as Profile
from gammajax.statistics.profiles import TestStatistic as TestStatistic
from gammajax.statistics.profiles import profile as profile
from gammajax.statistics.profiles import test_statistic as test_statistic
from gammajax.statistics.forecasts import Asimov as Asimov
from gammajax.statistics.forecasts import Forecast as Forecast
from gammajax.statistics.forecasts import Sensitivity as Sensitivity
from gammajax.statistics.forecasts import forecast as forecast
from gammajax.statistics.forecasts import sensitivity as sensitivity
from gammajax.statistics.reweighting import reweight as reweight
from gammajax.statistics.comparison import Comparison as Comparison
from gammajax.statistics.comparison import Criteria as Criteria
from gammajax.statistics.comparison import compare as compare
from gammajax.statistics.compression import CompressionLoss as CompressionLoss
from gammajax.statistics.compression import compression_loss as compression_loss

# figures and tables of a posterior
from gammajax.products.spectral_points import FluxPoints as FluxPoints
from gammajax.products.spectral_points import flux_points as flux_points
from gammajax.products.light_curves import LightCurve as LightCurve
from gammajax.products.light_curves import light_curve as light_curve
from gammajax.products.likelihood_curves import LikelihoodCurves as LikelihoodCurves
from gammajax.products.upper_limits import Limits as Limits
from gammajax.products.upper_limits import combine as combine
from gammajax.products.upper_limits import limits as limits

# goodness of fit
from gammajax.products.goodness import Check as Check
from gammajax.products.goodness import CheckedQuantity as CheckedQuantity
from gammajax.products.goodness import check as check
from gammajax.products.residuals import ResidualMaps as ResidualMaps
from gammajax.products.residuals import residual_maps as residual_maps
from gammajax.products.sensitivity_maps import SensitivityMap as SensitivityMap
from gammajax.products.sensitivity_maps import sensitivity_map as sensitivity_map
from gammajax.products.ts_maps import TSMap as TSMap
from gammajax.products.ts_maps import ts_map as ts_map

# several processes
from gammajax.common import distributed as distributed

__version__ = "0.2.0"
