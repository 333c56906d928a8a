import numpy as np
import pytest
from scipy.stats import norm, truncnorm

from gammajax.results.result import Result
from gammajax.results.significance import log_density_at


def of(values):
    return Result.from_samples({"flux": np.asarray(values).reshape(4, -1)}, method="test", log_evidence=(-10.0, 0.1))


def gaussian(mean, seed=0, size=4000):
    return np.random.default_rng(seed).normal(mean, 1.0, size)


def cut_off(mean, seed=0, size=4000):
    return truncnorm.rvs(-mean, np.inf, loc=mean, size=size, random_state=seed)


@pytest.mark.parametrize("mean", [2.0, -1.5, 0.1])
def test_sigma_of_a_gaussian(mean):
    found = of(gaussian(mean)).significance("flux")
    p = norm.sf(abs(mean))
    # binomial error of 4000 draws
    assert found.p == pytest.approx(p, abs=4.0 * (p * (1 - p) / 4000) ** 0.5) and not found.limit
    assert found.sigma == pytest.approx(mean, abs=4.0 * (p * (1 - p) / 4000) ** 0.5 / norm.pdf(mean))
    assert of(gaussian(mean + 3.0)).significance("flux", null=3.0).p == pytest.approx(found.p, abs=1e-3)


def test_few_draws_beyond_are_a_limit():
    found = of(gaussian(6.0)).significance("flux")
    # nothing seen of about 4000: 95 % limit 3 / 4000
    assert found.limit and found.p == pytest.approx(3.0 / 4000, rel=0.2) and 3.0 < found.sigma < 3.4
    assert str(found).startswith("flux is above 0 at more than 3.")
    assert "more than 3." in str(of(-gaussian(6.0)).significance("flux"))


def test_an_edge_has_no_tail():
    with pytest.raises(ValueError, match="an edge of the prior.*bayes_factor"):
        of(cut_off(1.0)).significance("flux")


@pytest.mark.parametrize("mean", [0.0, 1.0, 2.0, 3.0])
def test_density_at_a_value(mean):
    """Against closed forms, over ten sets of draws: no bias, and errors of the right size."""
    for make, truth in ((gaussian, norm.logpdf(mean)), (cut_off, norm.logpdf(mean) - norm.logcdf(mean))):
        found = [log_density_at(make(mean, seed), np.full(4000, 1 / 4000), 4000.0, 0.0) for seed in range(10)]
        pulls = np.array([(log - truth) / error for log, error in found])
        # means of ten within 4 errors; the spread by chi-square, 0.01 % to 99.99 %
        assert abs(pulls.mean()) < 4.0 / 10**0.5 and 0.2 < pulls.std(ddof=1) < 2.0
        # a worse fit than the best possible must not hide behind its errors
        assert max(error for _, error in found) < {0.0: 0.2, 1.0: 0.2, 2.0: 0.2, 3.0: 0.5}[mean]


def test_bayes_factor_of_on_off():
    """Gaussian measurement d +- 1 of a flux with a uniform prior from 0 to 20: B = evidence / likelihood at zero."""
    measured, width = 2.5, 20.0
    exact = np.log(norm.cdf(measured) / width / norm.pdf(measured))
    found = of(cut_off(measured)).bayes_factor("flux", prior_density=1.0 / width)
    assert found.log == pytest.approx(exact, abs=4.0 * found.error) and found.error < 0.3 and not found.limit
    assert found.probability == pytest.approx(1.0 / (1.0 + np.exp(-found.log)))
    # moderately against a signal that is not there
    found = of(cut_off(0.0)).bayes_factor("flux", prior_density=1.0 / width)
    assert found.log == pytest.approx(np.log(0.5 / width / norm.pdf(0.0)), abs=4.0 * found.error)
    assert str(found).startswith("flux fixed rather than free: ln B = -2.") and "moderate" in str(found)


def test_bayes_factor_beyond_the_draws_is_a_limit():
    found = of(gaussian(8.0)).bayes_factor("flux", prior_density=0.05)
    exact = np.log(0.05) - norm.logpdf(8.0)
    assert found.limit and 3.0 < found.log < exact and "ln B > " in str(found)


def test_upper_limit():
    found = of(cut_off(0.0)).upper_limit("flux")
    # error of a quantile: sqrt(p (1 - p) / n) / density
    assert found == pytest.approx(norm.isf(0.025), abs=4.0 * (0.95 * 0.05 / 4000) ** 0.5 / (2 * norm.pdf(1.96)))
    with pytest.raises(ValueError, match="needs 50000 effective draws"):
        of(cut_off(0.0)).upper_limit("flux", 0.9999)
    with pytest.raises(ValueError, match="no quantity 'mass' in the result; there are flux"):
        of(cut_off(0.0)).upper_limit("mass")
    with pytest.raises(ValueError, match="between 0 and 1"):
        of(cut_off(0.0)).upper_limit("flux", 95)


def test_compare():
    first, second = of(gaussian(0.0)), of(gaussian(0.0))
    second.tree.attrs["log_evidence"] = np.array([-13.0, 0.2])
    found = first.compare(second)
    assert found.log == pytest.approx(3.0) and found.error == pytest.approx(0.05**0.5)
    assert found.probability == pytest.approx(1.0 / (1.0 + np.exp(-3.0)))
    assert str(found).startswith("ln B = 3.00 +- 0.22, moderate evidence for the first model; probability")
    assert second.compare(first).probability == pytest.approx(1.0 - found.probability)
    assert "inconclusive" in str(first.compare(first))
    first.tree.attrs["events"], second.tree.attrs["events"] = 10, 11
    with pytest.warns(UserWarning, match="of 10 and 11 events"):
        first.compare(second)
    del second.tree.attrs["log_evidence"]
    with pytest.raises(ValueError, match="a result by 'test' has no evidence"):
        first.compare(second)
    with pytest.raises(ValueError, match="must be positive"):
        first.bayes_factor("flux", prior_density=0.0)
