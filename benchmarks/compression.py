"""What cells lose: information against single events, by the size of the cells.

The analysis of `benchmarks.scale` with 2 % of 1e5 events from dark matter; and a point source, of which the cells about
it matter most. Cells are so many per decade and so wide, in the same units as `gj.Events.compress`; `lost` is the
greatest part of the information on any combination of parameters, `errors` what standard deviations grow by.
"""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

import gammajax as gj
from benchmarks import scale
from benchmarks.report import report

CELLS = ((None, None), (40.0, 0.05), (40.0, 0.1), (20.0, 0.1), (20.0, 0.2), (10.0, 0.4))
HALO = {"fraction": 0.02, "log_mass": 0.0}
POINT = {"fraction": 0.02, "index": 2.2}
POINT_PRIORS = {"fraction": dist.Uniform(0.0, 1.0), "index": dist.Uniform(1.0, 4.0)}


def point(p):
    """A point source on the background."""
    return gj.Mixture(
        source=gj.Source(gj.PowerLaw(p["index"], 1e-12), gj.Point(0.5, 0.3)),
        background=gj.InstrumentBackground(),
        weights={"source": p["fraction"]},
    )


def main():
    """Both analyses, all sizes."""
    jax.config.update("jax_enable_x64", True)
    observed, figures = scale.observations(), {"events": 100_000}
    for name, model, priors, truth in (
        ("halo", scale.model, scale.PRIORS, HALO),
        ("point", point, POINT_PRIORS, POINT),
    ):
        at = {parameter: jnp.asarray(value) for parameter, value in truth.items()}
        events = gj.simulate(jax.random.key(0), model(at), observed, events=figures["events"])
        figures[name] = {}
        for per_decade, pixel in CELLS:
            loss = gj.compression_loss(
                model, priors, observed, events, truth, energy_per_decade=per_decade, pixel=pixel
            )
            label = f"{per_decade:g} per decade, {pixel:g} deg" if per_decade and pixel else "half the resolution"
            figures[name][label] = {
                "cells": loss.cells,
                "lost": loss.lost,
                **{f"errors_{number}": float(factor) for number, factor in zip(loss.names, loss.errors, strict=True)},
                "log_likelihood_ratio": loss.log_likelihood_ratio.tolist(),
                "compressed": loss.log_likelihood_ratio_compressed.tolist(),
            }
            print(name, label, figures[name][label], flush=True)
    report("compression", figures)


if __name__ == "__main__":
    main()
