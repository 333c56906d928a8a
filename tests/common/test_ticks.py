import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gammajax.common.ticks import inner_ticks


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_ticks_of_neighbouring_panels_keep_apart(low, width):
    """At least two ticks, and none within a tenth of the panel at either end: labels of panels would overlap there."""
    ticks = inner_ticks(low, low + width)
    assert 2 <= ticks.size <= 6
    assert np.all(ticks > low + 0.099 * width) and np.all(ticks < low + 0.901 * width)
