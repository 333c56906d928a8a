import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from gammajax.common.ticks import inner_ticks, plain_ticks


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_ticks_of_neighbouring_panels_keep_apart(low, width):
    """At least two ticks, and none within a tenth of the panel at either end: labels of panels would overlap there."""
    ticks = inner_ticks(low, low + width)
    assert 2 <= ticks.size <= 6
    assert np.all(ticks > low + 0.099 * width) and np.all(ticks < low + 0.901 * width)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(-20.0, 20.0), st.floats(0.02, 12.0))
def test_labels_of_logarithmic_axes_are_few_and_true(start, decades):
    """Two to nine labels, none twice, and each is the number of its tick, wherever the limits are set afterwards."""
    ax = Figure().subplots()
    ax.set_yscale("log")
    plain_ticks(ax.yaxis)
    low, high = 10.0**start, 10.0 ** (start + decades)
    ax.set_ylim(low, high)
    ticks = ax.yaxis.get_majorticklocs()
    labels = ax.yaxis.get_major_formatter().format_ticks(ticks)
    inside = [i for i, tick in enumerate(ticks) if low <= tick <= high]
    assert 2 <= len(inside) <= 9 or (decades < 2.0 and inside)
    assert len({labels[i] for i in inside}) == len(inside)
    for i in inside:
        plain = labels[i].replace("$", "").replace("\\times ", "*").replace("^{", "**(").replace("}", ")")
        value = float(eval(plain.replace("\N{MINUS SIGN}", "-")))
        np.testing.assert_allclose(value, ticks[i], rtol=1e-9 if decades > 0.5 else 1e-6)
    assert not any(label for label in ax.yaxis.get_minor_formatter().format_ticks(ax.yaxis.get_minorticklocs()))
