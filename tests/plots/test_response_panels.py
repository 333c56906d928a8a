import equinox as eqx
import numpy as np
import pytest

import gammajax as gj


def curves(axes):
    return {line.get_label(): np.asarray(line.get_xydata(), float) for line in axes.get_lines()}


@pytest.fixture(scope="module")
def figure(observation):
    return observation.plot(offsets=(0.0, 2.0))


def panel(figure, title):
    return next(axes for axes in figure.axes if axes.get_title().startswith(title))


def test_curves_are_those_of_the_response(figure):
    # the closed forms that the response of the fixture was tabulated from, at a node, where a curve of 200 points is
    # off by 0.2 % because its table has a kink there
    node = np.geomspace(0.1, 30.0, 12)[5]

    def at(curve):
        return np.exp(np.interp(np.log(node), np.log(curve[:, 0]), np.log(curve[:, 1])))

    area = curves(panel(figure, "effective area"))
    assert at(area["offset 0°"]) == pytest.approx(1e5 * node**0.6, rel=3e-3)
    assert at(area["offset 2°"]) == pytest.approx(1e5 * node**0.6 * np.exp(-0.2), rel=3e-3)
    psf = curves(panel(figure, "point spread"))
    width = 0.12 * node**-0.2
    assert at(psf["68 %, offset 2°"]) == pytest.approx(1.16 * width * np.sqrt(-2 * np.log(0.32)), rel=3e-3)
    assert at(psf["95 %, offset 0°"]) == pytest.approx(width * np.sqrt(-2 * np.log(0.05)), rel=3e-3)
    dispersion = curves(panel(figure, "energy dispersion"))
    assert at(dispersion["median"]) == pytest.approx(0.97, rel=3e-3)
    assert at(dispersion["68 %"]) == pytest.approx(0.97 - 0.9945 * 0.1, rel=3e-3)
    background = [np.asarray(line.get_xydata(), float) for line in panel(figure, "background").get_lines()]
    rate = [np.interp(np.geomspace(0.3, 10.0, 8)[3], *line.T) for line in background]
    assert rate[1] / rate[0] == pytest.approx(np.exp(-0.6), rel=3e-3)
    expected = 0.05 * np.geomspace(0.3, 10.0, 8)[3] ** -2.7 * np.radians(1.0) ** 2
    assert rate[0] == pytest.approx(expected, rel=3e-3)


def test_figure_says_what_it_shows(figure):
    figure.canvas.draw()
    assert figure.get_suptitle() == "observation 0: 10 h at (0.00, 0.00)°, galactic"
    assert panel(figure, "effective area").get_ylabel() == "effective area [m$^2$]"
    assert panel(figure, "background").get_xlabel() == "reconstructed energy [TeV]"


def test_without_background(response):
    figure = eqx.tree_at(lambda r: r.background, response, None).plot(offsets=[0.5])
    assert any("no background" in text.get_text() for axes in figure.axes for text in axes.texts)


def test_errors(response):
    with pytest.raises(ValueError, match="offsets must be one or more angles"):
        response.plot(offsets=[])


@pytest.mark.parametrize("obs_id", [23523])
def test_of_real_observation(gammapy_data, obs_id):
    observation = gj.io.read_gadf(gammapy_data / "hess-dl3-dr1", obs_ids=[obs_id], offset_max=2.0).observations[0]
    observation.plot().canvas.draw()
