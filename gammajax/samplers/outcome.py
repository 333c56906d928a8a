"""The result of a finished run."""

import json
import warnings

import jax
import numpy as np

from gammajax.results.result import Result
from gammajax.samplers.driver import Run, Sampler
from gammajax.samplers.fractions import sample_fractions
from gammajax.samplers.labels import element_labels


def finish(run: Run, sampler: Sampler, key, samples: dict, messages=(), **more) -> Result:
    """Result of equally weighted `samples` [chain, draw, ...] with the metadata of the run.

    `more` as in `Result.from_samples`; `messages` are raised as warnings too.
    """
    result = Result.from_samples(
        samples,
        method=sampler.name,
        truths=run.truths,
        units=run.units,
        labels=element_labels(run.posterior),
        fractions=sample_fractions(run.posterior, samples),
        timings=run.timings,
        seed=int(np.asarray(jax.random.key_data(key)).ravel()[-1]),
        events=getattr(run.posterior, "total", None),  # a handwritten log-likelihood has no number of events
        **more,
    )
    say(result, messages)
    return result


def say(result: Result, messages) -> None:
    """Add messages to the result, and warn."""
    result.tree.attrs["messages"] = json.dumps(result.messages + list(messages))
    for message in messages:
        warnings.warn(message, stacklevel=4)
