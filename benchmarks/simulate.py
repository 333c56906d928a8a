"""Speed of the simulation: events per second of the demonstration's mixture, after compilation."""

import argparse
import time

import jax

import gammajax as gj
from benchmarks.closure import TRUTH, model, observations
from benchmarks.report import report


def main():
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    options = parser.parse_args()
    observed = observations()
    started = time.perf_counter()
    gj.simulate(jax.random.key(0), model(TRUTH), observed, events=1000)
    first = time.perf_counter() - started
    times = []
    for seed in range(3):
        started = time.perf_counter()
        gj.simulate(jax.random.key(seed), model(TRUTH), observed, events=options.events)
        times.append(time.perf_counter() - started)
    seconds = sorted(times)[1]
    report(
        "simulate",
        {"events_per_s": options.events / seconds, "events": options.events, "seconds": seconds, "first_call_s": first},
    )


if __name__ == "__main__":
    main()
