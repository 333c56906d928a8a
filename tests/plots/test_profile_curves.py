"""Figures of profiles."""

import numpy as np

import gammajax as gj


def curve(best, low=0.0):
    """Of a Gaussian likelihood about -0.2 or the best, of width one, whose parameter begins at zero."""
    values = np.linspace(low, best + 3.0, 7)
    peak = best if best > 0 else -0.2
    q = (values - peak) ** 2 - (best - peak) ** 2
    return gj.Profile("flux", values, q, {}, {}, best, (0.0, 10.0), unit="TeV")


def test_the_curve_is_the_parabola_of_a_gaussian():
    """Also between values about the maximum, where a curve through roots without a sign is flat."""
    ax = curve(4.1).plot()
    x, y = max((line.get_data() for line in ax.get_lines()), key=lambda data: len(data[0]))
    np.testing.assert_allclose(y, (x - 4.1) ** 2, atol=1e-6)


def test_an_interval_that_reaches_zero_shows_its_limit():
    found = curve(0.0)
    ax = found.plot()
    (limit,) = [line for line in ax.get_lines() if "limit" in str(line.get_label())]
    np.testing.assert_allclose(limit.get_xdata(), found.upper_limit(), rtol=1e-4)
    assert not any("limit" in str(line.get_label()) for line in curve(4.1).plot().get_lines())
