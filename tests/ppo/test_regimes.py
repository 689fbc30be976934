"""Training regimes: a contract that all keep, oracles by hand, and the traps of robust training."""

from dataclasses import dataclass, replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune.certify.boxes import Box
from jaxprune.losses import Hyper, Sample, ppo_loss, surrogate
from jaxprune.policy import (
    action_distribution,
    actor_output,
    init_policy,
    no_critic,
    state_value,
)
from jaxprune.ppo import (
    REGIMES,
    Ball,
    PPOConfig,
    dense_directives,
    make_learner,
    make_train,
    worst_critic,
)
from jaxprune.ppo.learner import total_loss
from jaxprune.ppo.opponent import LOG_TAU, learn
from jaxprune.ppo.regimes import largest_singular, orthogonal_step, soft_threshold, spectral_limit
from jaxprune.ppo.robust import perturbed
from jaxprune.ppo.surrogates import adversarial, certified, log_probs, ratio_at, soft_worst, uniform
from jaxprune.ppo.worst_critic import (
    action_value,
    advise,
    least_at_a_mean,
    least_of_choices,
    reach_of,
    start,
)
from jaxprune.pruning import METHODS, dense
from jaxprune.types import EnvState, TimeStep
from jaxprune.validation import InputError
from tests.probes import Drift, Wander, last_step, probe_spec

KEY = jax.random.key(0)
# One gradient step per iteration, so that the KL of an iteration is of before the step.
TINY = PPOConfig(steps=160, num_envs=4, unroll=10, epochs=1, minibatches=1, hidden=(8, 8))
# Of the 96 weights of the actor, before the first rollout.
REMOVED = 48
OWN, OTHER_SEED, NEUTRAL, SATURATED = range(4)
PLAIN = Hyper(learning_rate=1e-2, sa_eps=0.0, sa_ramp=0.0)


def own_settings(regime: str) -> Hyper:
    needs = REGIMES[regime].needs
    rates = {name: 1e-2 for name in needs if name.endswith("_rate")}
    return replace(PLAIN, **(dict.fromkeys(needs, 0.5) | rates))


def half(params):
    """Masks that remove every second entry of every actor kernel."""
    masks = dense(params)
    for layer in masks.actor.values():
        layer["kernel"] = jnp.arange(layer["kernel"].size).reshape(layer["kernel"].shape) % 2 == 0
    return masks


def saturated(policy):
    """Activations at their ends, nearly no noise, and means far away."""
    params = jax.tree.map(lambda w: 50 * w, policy.params)
    return replace(policy, params=params._replace(log_std=np.full_like(params.log_std, -8.0)))


@cache
def program(regime: str):
    """(keys, hypers, policies) of some lanes -> (TrainState, Metrics), compiled once."""
    learner = make_learner(TINY, Drift(), (METHODS["micro"],), regime=regime)

    def train(key, hyper, policy):
        orders = dense_directives(TINY, (METHODS["micro"],), policy.params)
        orders = orders._replace(counts=orders.counts.at[..., 0].set(REMOVED))
        first = jax.tree.map(lambda x: x[0], orders)
        state = learner.init(key, hyper, first, policy, dense(policy.params))
        return jax.lax.scan(lambda s, d: learner.iterate(s, hyper, d), state, orders)

    return jax.jit(jax.vmap(train))


@cache
def first_policies():
    """Draws the policies of two seeds, of the first again, and a saturated one."""
    fresh = jax.jit(make_learner(TINY, Drift()).fresh)
    one, other = (jax.device_get(fresh(key)) for key in (KEY, jax.random.key(1)))
    return jax.tree.map(lambda *x: np.stack(x), one, other, one, saturated(one))


@cache
def lanes(regime: str):
    """Its own settings, those with another seed, neutral ones, and a saturated policy."""
    hyper = own_settings(regime)
    keys = jnp.stack([KEY, jax.random.key(1), KEY, KEY])
    hypers = jax.tree.map(lambda *x: np.array(x, np.float32), hyper, hyper, PLAIN, hyper)
    return keys, hypers, first_policies()


@cache
def population(regime: str):
    return jax.device_get(program(regime)(*lanes(regime)))


def equal(ours, theirs) -> bool:
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def lane(tree, index: int):
    return jax.tree.map(lambda x: x[index], tree)


@pytest.mark.parametrize("regime", REGIMES)
class TestContract:
    """What every regime promises; one program each."""

    def test_neutral_settings_are_ppo_bit_for_bit(self, regime: str):
        ours, plain = (lane(population(name)[0], NEUTRAL).policy for name in (regime, "ppo"))
        assert equal(ours, plain)

    def test_its_settings_make_another_agent(self, regime: str):
        ours, plain = (lane(population(name)[0], OWN).policy for name in (regime, "ppo"))
        assert equal(ours, plain) == (regime == "ppo")

    def test_the_ratio_is_one_where_the_data_were_collected(self, regime: str):
        """Before the step of an iteration the KL of what the actor saw is 0."""
        kl = population(regime)[1].kl[[OWN, OTHER_SEED, NEUTRAL]]
        np.testing.assert_allclose(kl, 0.0, atol=1e-6)

    def test_removed_weights_stay_plus_zero(self, regime: str):
        state = population(regime)[0]
        removed = 0
        for name, layer in state.masks.actor.items():
            gone = state.policy.params.actor[name]["kernel"][~layer["kernel"]]
            assert np.all(gone == 0) and not np.signbit(gone).any()
            removed += gone.size
        assert removed == 4 * REMOVED

    def test_a_lane_does_not_depend_on_its_neighbours(self, regime: str):
        order = np.array([OTHER_SEED, SATURATED, OWN, OWN])
        again = program(regime)(*jax.tree.map(lambda x: x[order], lanes(regime)))
        expected = jax.tree.map(lambda x: x[order], population(regime))
        assert equal(again[0].policy, expected[0].policy)

    def test_a_saturated_policy_has_finite_losses(self, regime: str):
        state, metrics = lane(population(regime), SATURATED)
        parts = (metrics.policy_loss, metrics.value_loss, metrics.kl, metrics.robust)
        assert np.all(np.isfinite(parts))
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.policy.params))

    @pytest.mark.parametrize("critic", ["critic", "none"])
    def test_it_trains_policies_that_choose_and_those_without_a_critic(self, regime, critic):
        """No regime needs a mean, or a critic in the file that training starts from."""
        learner = make_learner(TINY, Wander(discrete=True), regime=regime)

        def iteration(key):
            policy = learner.fresh(key)
            if critic == "none":
                policy = replace(policy, params=policy.params._replace(critic=no_critic(4)))
            orders = dense_directives(TINY, (METHODS["none"],), policy.params)
            first, masks = jax.tree.map(lambda x: x[0], orders), dense(policy.params)
            before = learner.init(key, own_settings(regime), first, policy, masks)
            return before, learner.iterate(before, own_settings(regime), first)[0]

        before, after = jax.eval_shape(iteration, KEY)
        assert jax.tree.structure(before) == jax.tree.structure(after)

    @pytest.mark.parametrize("value", [-1.0, float("nan")])
    def test_a_setting_that_is_negative_or_not_a_number_is_refused(self, regime, value):
        train = make_train(TINY, Drift(), regime=regime)
        for field in REGIMES[regime].own:
            with pytest.raises(InputError, match=f"{field} {value} "):
                train(KEY, replace(own_settings(regime), **{field: value}))


# --- losses -------------------------------------------------------------------------------------

DEFENDED = [name for name, regime in REGIMES.items() if regime.adds(TINY).defence is not None]


@cache
def policy_of(distribution: str, activation: str = "tanh", pruned: bool = False):
    policy = init_policy(
        KEY, 4, 3, discrete=distribution == "categorical", hidden=(8, 8), activation=activation
    )
    kept = half(policy.params) if pruned else dense(policy.params)
    params = jax.tree.map(lambda w, m: jnp.where(m, 2 * w, 0.0), policy.params, kept)
    params.actor["layer_2"]["kernel"] *= 50  # drawn near 0
    params = params._replace(log_std=params.log_std - 0.5)
    return replace(policy, params=params)


@partial(jax.jit, static_argnums=1)
def batch_of(policy, rows: int = 64) -> Sample:
    """On-policy rows with random advantages."""
    keys = jax.random.split(jax.random.key(3), rows)
    obs = jax.random.normal(jax.random.key(1), (rows, 4))

    def act(key, x):
        head = action_distribution(policy, x)
        action = head.sample(key)
        return action, head.log_prob(action)

    action, log_prob = jax.vmap(act)(keys, obs)
    advantage, target = jax.random.normal(jax.random.key(2), (2, rows))
    return Sample(obs, obs, action, log_prob, advantage, target)


@pytest.mark.parametrize("distribution", ["normal", "categorical"])
@pytest.mark.parametrize("regime", DEFENDED)
def test_all_parts_of_a_loss_share_one_normalised_advantage(regime, distribution):
    """A hundred times the advantages, the same gradient of the actor (trap 3)."""
    policy = policy_of(distribution)
    batch = batch_of(policy, 16)
    hyper = replace(own_settings(regime), car_temperature=100.0)

    @jax.jit
    def actor_gradient(batch):
        loss = lambda params: total_loss(  # noqa: E731
            REGIMES[regime].adds(TINY), policy, hyper, jnp.ones(()), params, batch, KEY
        )
        return jax.grad(loss, has_aux=True)(policy.params)[0].actor

    more = batch._replace(advantage=100 * batch.advantage)
    for a, b in zip(*map(jax.tree.leaves, map(actor_gradient, (batch, more))), strict=True):
        assert np.all(np.isfinite(a))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("distribution", ["normal", "categorical"])
def test_attack_lies_between_the_clean_loss_and_the_certified_one(distribution, activation, pruned):
    """loss(s) <= loss(worst that is found) <= certified, of every row (trap 4)."""
    policy = policy_of(distribution, activation, pruned)
    batch, hyper, ball = batch_of(policy), Hyper(), Ball(jnp.array(0.1), jnp.ones(()))

    @jax.jit
    @jax.vmap
    def losses(row, key):
        clean = -surrogate(ratio_at(policy, row, row.obs_norm), row.advantage, hyper.clip)
        rest = (policy, row, row.advantage, hyper, ball)
        return clean, adversarial(key, *rest), certified(key, *rest)

    clean, attacked, bound = losses(batch, jax.random.split(KEY, 64))
    slack = 1e-5 * (1 + np.abs(bound))
    assert np.all(clean <= attacked + slack) and np.all(attacked <= bound + slack)
    assert np.mean(attacked - clean) > 0.01 and np.mean(bound - attacked) > 0


@jax.jit
def boxes(policy, batch, eps):
    """Returns the box of the log-probabilities of every row."""
    return jax.vmap(lambda row: log_probs(policy, row, eps))(batch)


@pytest.mark.parametrize("distribution", ["normal", "categorical"])
def test_the_box_of_log_probabilities_contains_every_corner(distribution):
    """And it shrinks to the point with the ball (trap 5)."""
    policy = policy_of(distribution)
    batch = batch_of(policy, 32)
    corners = jax.random.rademacher(jax.random.key(5), (200, 4), jnp.float32)

    @jax.jit
    @jax.vmap
    def at_corners(row):
        log_prob = lambda x: action_distribution(policy, x).log_prob(row.action)  # noqa: E731
        return jax.vmap(log_prob)(row.obs_norm + 0.1 * corners)

    (low, high), found = boxes(policy, batch, 0.1), at_corners(batch)
    assert np.all(low[:, None] <= found + 1e-5) and np.all(found <= high[:, None] + 1e-5)
    smaller, point = (boxes(policy, batch, eps) for eps in (0.01, 0.0))
    assert np.all(smaller.high - smaller.low < 0.5 * (high - low))
    for end in point:
        np.testing.assert_allclose(end, batch.log_prob, rtol=1e-5, atol=1e-5)


# --- RADIAL by hand -----------------------------------------------------------------------------


def linear(kernel, log_std=None):
    """A policy without hidden layers: outputs = kernel^T s; categorical without a deviation."""
    kernel = jnp.asarray(kernel, jnp.float32)
    policy = init_policy(KEY, *kernel.shape, discrete=log_std is None, hidden=(2,))
    actor = {"layer_0": {"kernel": kernel, "bias": jnp.zeros(kernel.shape[1])}}
    std = policy.params.log_std if log_std is None else jnp.asarray(log_std)
    return replace(policy, params=policy.params._replace(actor=actor, log_std=std))


def row_of(policy, obs, action, advantage=1.0) -> Sample:
    obs, action = jnp.asarray(obs), jnp.asarray(action)
    log_prob = action_distribution(policy, obs).log_prob(action)
    return Sample(obs, obs, action, log_prob, jnp.asarray(advantage), jnp.zeros(()))


def test_radial_of_one_dimension_by_hand():
    """mu = 0, sigma = 1, eps |w|_1 = 0.5, a = 1: rho between e^-0.625 and e^0.375.

    A linear actor's box is exact, so the attack finds the bound.
    """
    policy = linear([[0.3], [-0.2]], [0.0])
    row, ball = row_of(policy, [0.0, 0.0], [1.0]), Ball(jnp.array(1.0), jnp.ones(()))
    low, high = np.exp(np.stack(log_probs(policy, row, ball.eps)) - row.log_prob)
    assert float(low) == pytest.approx(0.535261, abs=1e-5)
    assert float(high) == pytest.approx(1.454991, abs=1e-5)
    for advantage, expected in ((1.0, -0.535261), (-1.0, 1.454991)):
        rest = (policy, row, advantage, Hyper(), ball)
        for loss in (certified, adversarial):
            assert float(jax.jit(loss)(KEY, *rest)) == pytest.approx(expected, abs=1e-5)
        mixed = 0.5 * expected - 0.5 * advantage
        assert mixed == pytest.approx({1.0: -0.767631, -1.0: 1.227496}[advantage], abs=1e-5)


def test_radial_of_two_actions_by_hand():
    policy = linear([[1.0, 2.0], [2.0, -1.0]], [0.0, 0.0])
    row = row_of(policy, [0.0, 0.0], [0.5, 0.8])
    low, high = np.exp(np.stack(log_probs(policy, row, jnp.array(0.1))) - row.log_prob)
    assert (low, high) == pytest.approx((0.6188, 1.3499), abs=1e-4)


def test_differences_of_logits_are_bounded_together():
    """Logits (w s, w s + 2) move together: no perturbation changes the policy."""
    policy = linear([[1.0, 1.0]])
    policy.params.actor["layer_0"]["bias"] = jnp.array([0.0, 2.0])
    row = row_of(policy, [0.3], 0)
    box = log_probs(policy, row, jnp.array(0.5))
    np.testing.assert_allclose(np.stack(box), row.log_prob, rtol=1e-6)


def test_the_certified_loss_is_the_minimum_of_six_terms():
    """The reference takes the minimum over three ratios, plain and clipped, of one advantage."""
    rng = np.random.default_rng(0)
    low, middle, high = np.sort(rng.lognormal(sigma=0.5, size=(3, 1000)), axis=0)
    a, c = rng.normal(size=1000), 0.2
    six = [f(r) * a for r in (low, middle, high) for f in (np.copy, lambda r: r.clip(1 - c, 1 + c))]
    closed = np.where(a >= 0, a * np.minimum(low, 1 + c), a * np.maximum(high, 1 - c))
    np.testing.assert_allclose(np.min(six, axis=0), closed)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_step_raises_the_lower_end_or_lowers_the_upper_one(sign):
    """By the sign of the advantage; sigma has a gradient too (traps 6 and 7)."""
    policy, ball = policy_of("normal"), Ball(jnp.array(0.02), jnp.ones(()))
    row = lane(batch_of(policy, 1), 0)

    @jax.jit
    def stepped(params, sign):
        def loss(params):
            hyper = Hyper(clip=10.0)
            return certified(KEY, replace(policy, params=params), row, sign, hyper, ball)

        gradient = jax.grad(loss)(params)
        step = 1e-3 / optax.tree.norm(gradient)
        return gradient, jax.tree.map(lambda w, g: w - step * g, params, gradient)

    gradient, params = stepped(policy.params, sign)
    end = jax.jit(lambda params: log_probs(replace(policy, params=params), row, ball.eps))
    ends = [end(x) for x in (policy.params, params)]
    assert ends[1].low > ends[0].low if sign > 0 else ends[1].high < ends[0].high
    assert np.all(np.asarray(gradient.log_std) != 0)


# --- the others by hand -------------------------------------------------------------------------


def test_the_softmax_over_rows_goes_from_the_largest_to_the_mean():
    values = jnp.array([1.0, 3.0, 2.0])
    at = lambda t: float(soft_worst(values, Hyper(car_temperature=t)))  # noqa: E731
    assert at(1e-3) == pytest.approx(3.0) and at(1e6) == pytest.approx(2.0, abs=1e-5)
    gradient = jax.grad(lambda v: soft_worst(v, Hyper(car_temperature=1e-3)))(values)
    np.testing.assert_allclose(gradient, [0, 1, 0], atol=1e-6)


def test_noise_is_uniform_in_the_ball():
    policy, obs = policy_of("normal"), jnp.arange(4.0)
    at = jax.vmap(lambda key: uniform(key, policy, obs, jnp.array(0.3)) - obs)
    moved = np.asarray(jax.jit(at)(jax.random.split(KEY, 4000)))
    assert np.abs(moved).max() <= 0.3 + 1e-6
    np.testing.assert_allclose(moved.mean(0), 0, atol=0.012)  # 4 standard errors
    np.testing.assert_allclose(moved.var(0), 0.03, rtol=0.06)
    assert np.array_equal(uniform(KEY, policy, obs, jnp.array(0.0)), obs)


def test_rollouts_under_mad_are_where_the_policy_moves_most():
    """On a linear policy of one action that is a corner: s + eps sign(w), or the opposite one."""
    policy, obs = linear([[1.0], [-2.0]], [0.0]), jnp.array([0.5, 0.5])
    moved = np.asarray(jax.jit(perturbed)(KEY, policy, obs, 0.1) - obs)
    assert np.allclose(moved, [0.1, -0.1]) or np.allclose(moved, [-0.1, 0.1])


def test_without_a_gradient_the_proximal_step_ends_at_an_exact_zero():
    """|w| = 1 and rate * l1 = 0.3: three steps leave 0.1, a fourth leaves +0."""
    kernel, hyper = jnp.array([[1.0, -1.0]]), Hyper(l1=3.0)
    for _ in range(3):
        kernel = soft_threshold(kernel, jnp.array(0.1), hyper)
    np.testing.assert_allclose(kernel, [[0.1, -0.1]], rtol=1e-5)
    assert np.all(soft_threshold(kernel, jnp.array(0.1), hyper) == 0)


def test_the_spectral_limit_scales_the_kernel():
    diagonal, hyper = jnp.diag(jnp.array([3.0, 1.0])), Hyper(spectral_norm=1.0)
    limited = spectral_limit(diagonal, jnp.array(0.1), hyper)
    np.testing.assert_allclose(limited, np.diag([1.0, 1 / 3]), rtol=1e-5)
    inside = 0.3 * diagonal
    assert np.array_equal(spectral_limit(inside, jnp.array(0.1), hyper), inside)
    kernel = jax.random.normal(KEY, (8, 5))
    found, exact = float(largest_singular(kernel)), np.linalg.norm(kernel, 2)
    assert 0.95 * exact <= found <= exact * (1 + 1e-5)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_the_orthogonal_step_descends_its_penalty(shape):
    """Of the smaller Gram matrix; an orthogonal kernel stays, a large one does not overshoot."""
    kernel = np.asarray(jax.random.normal(KEY, shape))
    gram = lambda w: w.T @ w if shape[0] > shape[1] else w @ w.T  # noqa: E731
    penalty = lambda w: jnp.sum((gram(w) - jnp.eye(4)) ** 2)  # noqa: E731
    slope, step = jax.jit(jax.grad(penalty))(kernel), jax.jit(orthogonal_step)
    moved = step(kernel, 1e-4, Hyper(orthogonal=0.5))
    np.testing.assert_allclose(moved, kernel - 5e-5 * slope, rtol=1e-4, atol=1e-6)
    fixed = np.linalg.qr(kernel if shape[0] > shape[1] else kernel.T)[0]
    fixed = fixed if shape[0] > shape[1] else fixed.T
    np.testing.assert_allclose(step(fixed, 0.1, Hyper(orthogonal=1.0)), fixed, atol=1e-5)
    large = 100 * kernel
    for _ in range(100):
        large = step(large, 0.1, Hyper(orthogonal=1.0))
    np.testing.assert_allclose(gram(large), np.eye(4), atol=1e-3)


# --- ATLA ---------------------------------------------------------------------------------------


class Payment:
    """One step, two observations, the reward is minus the action."""

    spec = probe_spec("payment", horizon=1, obs_size=2)

    def reset(self, key):
        obs = jax.random.normal(key, (2,))
        return EnvState(obs, jnp.int32(0)), obs

    def step(self, state, action):
        return last_step(state, -action[0], state.physics)


def test_the_opponent_pushes_where_a_linear_agent_pays_most():
    """The agent acts by w s and pays its action: s' = s + eps sign(w) costs it most (trap 6).

    The agent and its statistics stand still, those of the opponent stay 0 and 1 (trap 9).
    """
    config = PPOConfig(steps=64, num_envs=64, unroll=1, epochs=4, minibatches=1, hidden=(4,))
    learner = make_learner(config, Payment(), regime="atla")
    agent = linear([[2.0], [-1.0]], [-3.0])
    hyper = Hyper(adversary_rate=0.05, final_learning_rate=1.0, sa_eps=1.0, sa_ramp=0.0)
    orders = dense_directives(config, (METHODS["none"],), agent.params)
    first = jax.tree.map(lambda x: x[0], orders)
    state = jax.jit(learner.init)(KEY, hyper, first, agent, dense(agent.params))

    @jax.jit
    def turns(state):
        turn = lambda s, _: (  # noqa: E731
            s._replace(opponent=learn(learner, s, hyper, first, jnp.ones(()))),
            None,
        )
        return jax.lax.scan(turn, state, length=60)[0]

    after = turns(state)
    nu = after.opponent.policy
    pushed = jnp.tanh(action_distribution(nu, jnp.zeros(2)).mode())
    assert pushed[0] > 0.8 and pushed[1] < -0.8
    assert equal(after.policy, state.policy)
    assert equal(nu.obs_stats, state.opponent.policy.obs_stats)
    assert LOG_TAU[0] <= float(nu.params.log_std.min()) <= float(nu.params.log_std.max()) <= 0


# --- WocaR --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_box_of_outputs_contains_them(activation, pruned):
    """At 1000 states, their centre and corners of the ball (the released bound fails; trap 5)."""
    policy = policy_of("normal", activation, pruned)
    corners = jax.random.rademacher(jax.random.key(5), (20, 4), jnp.float32)

    @jax.jit
    @jax.vmap
    def at(obs):
        outputs = jax.vmap(lambda x: actor_output(policy, x))
        return (
            reach_of(policy, obs, jnp.array(0.1)),
            outputs(obs + 0.1 * corners),
            outputs(obs[None]),
        )

    reach, shown, centre = at(jax.random.normal(jax.random.key(1), (1000, 4)))
    for found in (shown, centre):
        assert np.all(reach.low[:, None] <= found + 1e-5)
        assert np.all(found <= reach.high[:, None] + 1e-5)
    assert np.mean(shown.max(1) - shown.min(1)) > 0.2 * np.mean(reach.high - reach.low)


def test_without_a_ball_the_box_of_outputs_is_the_point():
    policy, obs = policy_of("normal"), jnp.arange(4.0)
    for end in reach_of(policy, obs, jnp.array(0.0)):
        np.testing.assert_allclose(end, actor_output(policy, obs), rtol=1e-6)


def test_the_least_value_of_a_mean_by_hand():
    """Linear, a - 2 b: the corner (low, high). A bowl around (0.2, 0.1), inside the box: nearly."""
    reach = Box(jnp.array([0.0, -1.0]), jnp.array([1.0, 1.0]))
    linear_value = lambda a: a[0] - 2 * a[1]  # noqa: E731
    assert float(least_at_a_mean(linear_value, reach)) == pytest.approx(-2.0)
    bowl = lambda a: jnp.sum((a - jnp.array([0.2, 0.1])) ** 2)  # noqa: E731
    assert 0 <= float(least_at_a_mean(bowl, reach)) < 0.1  # 0.1 at the middle, 0.26 at the start


def test_the_least_value_of_choices_by_hand():
    """Q = (0, 1) and both logits in [-1, 1]: sigmoid(-2)."""
    reach = Box(-jnp.ones(2), jnp.ones(2))
    value = lambda a: a @ jnp.array([0.0, 1.0])  # noqa: E731
    assert float(least_of_choices(value, reach)) == pytest.approx(1 / (1 + np.exp(2)), rel=1e-5)


def test_the_least_value_of_choices_is_that_of_the_best_corner():
    """The mean is monotone in every logit, so its minimum is at one of 2^K corners."""
    rng = np.random.default_rng(0)
    bits = np.array(np.meshgrid(*[[False, True]] * 4)).reshape(4, -1).T
    least = jax.jit(lambda values, box: least_of_choices(lambda a: a @ values, box))
    for _ in range(20):
        low = rng.normal(size=4)
        high, values = low + rng.uniform(size=4), rng.normal(size=4)
        corners = np.asarray(jax.nn.softmax(np.where(bits, high, low))) @ values
        found = least(values, Box(low, high))
        np.testing.assert_allclose(found, corners.min(), rtol=1e-5, atol=1e-6)


def test_the_worst_case_lies_below_every_adversary():
    """Q_w <= value under the optimal adversary <= value under a greedy one, in a small SA-MDP.

    In each of four states an adversary shows one of two; the box is around the logits of both.
    """
    rng, gamma = np.random.default_rng(0), 0.9
    shown = np.array([[0, 1], [1, 2], [2, 3], [3, 0]])
    moves, rewards = rng.dirichlet(np.ones(4), size=(4, 3)), rng.normal(size=(4, 3))
    logits = 2 * rng.normal(size=(4, 3))
    choices = np.asarray(jax.nn.softmax(logits))[shown]  # [state, option, action]
    reach = Box(jnp.array(logits[shown].min(1)), jnp.array(logits[shown].max(1)))
    least = jax.jit(jax.vmap(lambda row, box: least_of_choices(lambda a: a @ row, box)))

    def fixed_point(worst):
        values = np.zeros(4)
        for _ in range(200):
            values = worst(rewards + gamma * moves @ values)
        return values

    of_options = lambda q: np.einsum("soa,sa->so", choices, q)  # noqa: E731
    relaxed = fixed_point(lambda q: np.asarray(least(jnp.array(q), reach)))
    optimal = fixed_point(lambda q: of_options(q).min(1))
    clean = fixed_point(lambda q: of_options(q)[:, 0])
    aim = of_options(rewards + gamma * moves @ clean).argmin(1)
    greedy = fixed_point(lambda q: of_options(q)[np.arange(4), aim])
    assert np.all(relaxed <= optimal + 1e-4) and np.all(optimal <= greedy + 1e-9)
    assert np.all(greedy <= clean + 1e-9) and np.mean(clean - relaxed) > 0.1


@dataclass(frozen=True)
class Wage:
    """One state for ever; the reward is the action."""

    spec = probe_spec("wage", horizon=10)

    def reset(self, key):
        del key  # there is one initial state
        return EnvState(jnp.zeros(1), jnp.int32(0)), jnp.zeros(1)

    def step(self, state, action):
        time, off = state.time + 1, jnp.bool_(False)
        return EnvState(state.physics, time), TimeStep(jnp.zeros(1), action[0], off, time >= 10)


def test_the_worst_critic_of_one_state_by_hand(monkeypatch):
    """The mean 1 can be pushed to 0.5, gamma 0.9: min Q_w = 0.5 / 0.1 = 5, Q_w(1) = 5.5.

    The time limit is no end; the agent stands still; the advantage of a is a - 1.
    """
    monkeypatch.setattr(worst_critic, "POLYAK", 0.01)  # ten times sooner
    config = PPOConfig(
        steps=64, num_envs=8, unroll=8, epochs=10, minibatches=4, normalise_reward=False
    )
    learner = make_learner(config, Wage(), regime="wocar")
    agent = linear([[0.5]], [0.0])
    agent.params.actor["layer_0"]["bias"] = jnp.ones(1)
    critic = {"layer_0": {"kernel": jnp.zeros((1, 1)), "bias": jnp.zeros(1)}}
    agent = replace(agent, params=agent.params._replace(critic=critic))
    hyper = Hyper(
        gamma=0.9, learning_rate=0.0, wocar_rate=0.05, wocar_weight=1.0, sa_eps=1.0, sa_ramp=0.0
    )
    orders = dense_directives(config, (METHODS["none"],), agent.params)
    first = jax.tree.map(lambda x: x[0], orders)
    state = jax.jit(learner.init)(KEY, hyper, first, agent, dense(agent.params))
    turn = lambda s, _: (learner.iterate(s, hyper, first)[0], None)  # noqa: E731
    after = jax.jit(lambda s: jax.lax.scan(turn, s, length=200)[0])(state)
    assert equal(after.policy.params, state.policy.params)
    value = lambda a: float(  # noqa: E731
        action_value(agent, after.second_critic.target, jnp.zeros(1), jnp.array([a]))
    )
    assert value(0.5) == pytest.approx(5.0, abs=0.05)
    assert value(1.0) == pytest.approx(5.5, abs=0.05)


def test_the_worst_critic_moves_the_mean_to_higher_worst_case_values():
    """A linear Q_w that rises with the first action only; at weight 0 nothing changes (trap 6)."""
    policy = policy_of("normal")
    batch = batch_of(policy)
    directive = jax.tree.map(
        lambda x: x[1], dense_directives(TINY, (METHODS["none"],), policy.params)
    )
    network = {"layer_0": {"kernel": jnp.eye(7)[:, [4]], "bias": jnp.zeros(1)}}
    critic, advised = start(policy)._replace(target=network), jax.jit(advise)
    assert equal(advised(critic, policy, Hyper(), directive, batch), batch)
    moved = advised(critic, policy, Hyper(wocar_weight=100.0), directive, batch)
    gain = moved.advantage - batch.advantage
    means = jax.jit(jax.vmap(lambda x: actor_output(policy, x)[0]))(batch.obs_norm)
    expected = batch.action[:, 0] - means
    np.testing.assert_allclose(gain / gain.std(), expected / expected.std(), rtol=1e-3, atol=1e-4)
    gradient = jax.jit(jax.grad(lambda p: ppo_loss(p, policy, Hyper(), moved)[0]))(policy.params)
    slope = gradient.actor["layer_2"]["bias"]
    assert slope[0] < 0 and abs(slope[0]) > 2 * np.abs(slope[1:]).max()


@pytest.mark.parametrize("distribution", ["normal", "categorical"])
def test_the_worst_critic_starts_as_the_critic(distribution):
    policy, obs = policy_of(distribution), jnp.arange(4.0)
    network, q = start(policy).network, jax.jit(action_value)
    for action in np.eye(3, dtype=np.float32):
        value = q(policy, network, obs, action)
        np.testing.assert_allclose(value, state_value(policy, obs), rtol=1e-6)


def test_rewinding_makes_a_new_worst_critic():
    """Lottery tickets start anew, Q_w with them (trap 11)."""
    learner = make_learner(TINY, Drift(), (METHODS["lottery"],), regime="wocar")
    policy = jax.jit(learner.fresh)(KEY)
    state = learner.unpruned(KEY, KEY, policy, dense(policy.params))
    later = state._replace(
        policy=replace(policy, params=jax.tree.map(lambda x: x + 1, policy.params)),
        second_critic=jax.tree.map(lambda x: x + 1, state.second_critic),
    )
    again = jax.jit(learner._rewound)
    assert equal(again(later, True).second_critic, state.second_critic)
    assert equal(again(later, False).second_critic, later.second_critic)
