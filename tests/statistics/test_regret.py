"""The decomposition telescopes, whatever the returns."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.statistics.regret import Regret, decompose

returns = st.integers(-(2**22), 2**22).map(float)  # their differences are exact in float32


@given(returns, returns, returns, returns)
@settings(deadline=None, derandomize=True)
def test_the_terms_telescope(reference, dense, pruned, attacked):
    regret = decompose(*(jnp.float32(x) for x in (reference, dense, pruned, attacked)))
    assert regret.clean == reference - dense
    assert regret.pruning == dense - pruned
    assert regret.robustness == pruned - attacked
    # Partial sums below 2^25 may be odd: float64 holds them all.
    exact = Regret(*(np.float64(x) for x in regret))
    assert exact.total == reference - attacked


def test_by_hand_with_negative_terms():
    """A mask that helps (2900 -> 3000) and an adversary that does not harm."""
    regret = decompose(jnp.array(3200.0), jnp.array(2900.0), jnp.array(3000.0), jnp.array(3001.0))
    assert regret == Regret(300.0, -100.0, -1.0)
    assert regret.total == 199.0


def test_identical_policies_have_no_regret():
    same = jnp.array([1.0, -2.0, 3.0])
    regret = decompose(same, same, same, same)
    assert not np.any(regret.total) and not any(np.any(term) for term in regret)


def test_the_reference_broadcasts_against_agents_and_levels():
    """One reference, dense `[agents, 1]`, pruned `[agents, levels]`, attacked the same."""
    rng = np.random.default_rng(0)
    dense, pruned, attacked = (rng.normal(3000, 500, s) for s in ((4, 1), (4, 3), (4, 3)))
    regret = decompose(np.float64(3500), dense, pruned, attacked)
    assert regret.clean.shape == (4, 1) and regret.total.shape == (4, 3)
    np.testing.assert_allclose(regret.total, 3500 - attacked, rtol=1e-12)
