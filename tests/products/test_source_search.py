"""Pixels of maps."""

import pytest

from gammajax.products.source_search import tangent_grid


def test_grid_of_one_pixel_is_its_center():
    lon, lat = tangent_grid((10.0, 60.0), (0.1, 0.1), 0.1)
    assert lon == pytest.approx(10.0) and lat == pytest.approx(60.0)
