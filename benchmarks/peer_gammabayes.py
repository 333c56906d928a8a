"""GammaBayes 0.1.9 alone: marginals and simulation on given axes, run by `benchmarks.peers` in its own environment.

Takes the path of an .npz with axes, masses, events and the response file, and the path of the .npz to write. It
imports nothing of gammajax, whose requirements exclude those of GammaBayes.
"""

# pyright: reportMissingImports=false

import functools
import logging
import random
import sys
import time
import warnings

import numpy as np
from astropy import units as u
from gammabayes import GammaBinning, GammaObs, ParameterSet
from gammabayes.dark_matter import CombineDMComps
from gammabayes.dark_matter.channel_spectra import SingleDMChannel
from gammabayes.dark_matter.density_profiles import Einasto_Profile
from gammabayes.hyper_inference.scan_nuisance_methods import DiscreteBruteScan
from gammabayes.likelihoods.irfs import irf_loglike_class
from gammabayes.priors.core import ObsFluxDiscreteLogPrior


def quiet():
    """Silence warnings and messages that the package raises for every event."""
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    logging.disable(logging.CRITICAL)


def response(axes_true, axes, pointing, path):
    """The package's likelihood on the response file at `path`: by itself it takes another one, for 5 hours."""
    irf_loglike_class.IRFExtractor = functools.partial(irf_loglike_class.IRFExtractor, file_path=path)
    return irf_loglike_class.IRF_LogLikelihood(
        axes=axes, dependent_axes=axes_true, pointing_dir=pointing, name="response", parameters={}
    )


def components(irf, geometry, mass, livetime):
    """Priors of the halo, annihilating to W+W-, and of the instrumental background."""
    signal = CombineDMComps(
        name="DM",
        spectral_class=SingleDMChannel,
        spatial_class=Einasto_Profile,
        irf_loglike=irf,
        binning_geometry=geometry,
        pointing_dir=irf.pointing_dir,
        observation_time=livetime,
        default_spectral_parameters={"mass": mass},
    )
    background = ObsFluxDiscreteLogPrior(
        name="CCR_BKG",
        logfunction=irf.log_bkg_CCR,
        binning_geometry=geometry,
        pointing_dir=irf.pointing_dir,
        observation_time=livetime,
        default_spectral_parameters={},
        default_spatial_parameters={},
    )
    return signal, background


def main():
    """Time and write."""
    quiet()
    with np.load(sys.argv[1]) as file:
        given = {name: file[name] for name in file.files}
    units = (u.TeV, u.deg, u.deg)
    axes_true, axes = (
        [given[f"{axis}_{kind}"] * unit for axis, unit in zip(("E", "lon", "lat"), units, strict=True)]
        for kind in ("true", "recon")
    )
    geometry, measured = GammaBinning(*axes_true), GammaBinning(*axes)
    pointing, livetime = given["pointing"] * u.deg, float(given["livetime_s"]) * u.s
    random.seed(0)
    figures = {}

    started = time.perf_counter()
    irf = response(axes_true, axes, pointing, str(given["response"]))
    signal, background = components(irf, geometry, float(given["mass"]), livetime)
    figures["simulate_setup_s"] = time.perf_counter() - started
    log_psf, log_dispersion = irf.create_log_norm_matrices()
    masses = {"spectral_parameters": {"mass": {"axis": given["masses"], "bins": given["masses"].size}}}
    scan = DiscreteBruteScan(
        log_likelihoodnormalisation=log_psf + log_dispersion,
        log_priors=[signal, background],
        log_likelihood=irf,
        axes=axes,
        nuisance_axes=axes_true,
        prior_parameter_specifications=[ParameterSet(masses), ParameterSet()],
    )
    scan.prior_gen(Nevents=1)
    figures["setup_s"] = time.perf_counter() - started

    for number in given["numbers"]:
        table = given["events"][:number]
        events = GammaObs(
            binning_geometry=measured,
            energy=table[:, 0] * u.TeV,
            lon=table[:, 1] * u.deg,
            lat=table[:, 2] * u.deg,
            pointing_dir=pointing,
            observation_time=livetime,
            meta={},
        )
        started = time.perf_counter()
        marginals = scan.nuisance_log_marginalisation(events)
        figures[f"marginal_s_{number}"] = time.perf_counter() - started
        figures[f"signal_{number}"], figures[f"background_{number}"] = (np.asarray(m, float) for m in marginals)
        figures[f"nodes_{number}"] = np.stack(events.nonzero_bin_indices, 1)

        started = time.perf_counter()
        from_signal = int(round(float(given["fraction"]) * number))
        true = signal.sample(from_signal, spectral_parameters={"mass": np.array([float(given["mass"])])})
        true = true + background.sample(number - from_signal, spectral_parameters={}, spatial_parameters={})
        simulated = irf.sample(true, parameters={})
        figures[f"simulate_s_{number}"] = time.perf_counter() - started
        columns = (simulated.energy, simulated.lon, simulated.lat)
        figures[f"simulated_{number}"] = np.stack([[getattr(x, "value", x) for x in c] for c in columns], 1)
    np.savez(sys.argv[2], **figures)


if __name__ == "__main__":
    main()
