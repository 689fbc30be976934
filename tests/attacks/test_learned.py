"""The adversary's task is the victim's in reverse, and its training keeps what it promises."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.adversarial_mdp import AdversarialMDP
from jaxprune.attacks import AdversaryConfig, DirectorConfig, MADConfig, SarsaConfig, Victims
from jaxprune.attacks.demonstrations import teachers
from jaxprune.attacks.learned import (
    PERTURBATION,
    PUBLISHED,
    _program,
    directing,
    paad,
    paad_reference,
    sa_rl,
    train_adversaries,
)
from jaxprune.attacks.training import Size, blank, starts
from jaxprune.cells import Cell
from jaxprune.devices import take
from jaxprune.losses import Hyper
from jaxprune.policy import action_distribution, affine_layers, init_policy, normalise
from jaxprune.pruning import dense, mask_policy, prune
from jaxprune.rollout import Worker, rollout
from jaxprune.types import Masks, ObsStats, Policy
from jaxprune.validation import InputError
from tests.probes import Breakdown, Drift, Treadmill

CONFIG = AdversaryConfig(
    steps=128,
    num_envs=4,
    unroll=16,
    epochs=2,
    minibatches=2,
    starts=("fresh",),
    learning_rates=(1e-3,),
    log_stds=(-0.5, -1.5),
)
RS = SarsaConfig(steps=256, num_envs=4, epochs=1, batch=64, radii=(0.1,), weights=(1.0,))
MAD = MADConfig(steps=3, restarts=1)
DIRECTOR = DirectorConfig(individuals=8, episodes=1, generations=1)
TEACHERS = teachers(RS, MAD, DIRECTOR)
PAAD, DIRECTION = partial(paad, director=DIRECTOR), directing(DIRECTOR)
EPS = 0.3
KEY = jax.random.key(4)


def prepare(victims: Victims) -> Policy:
    """What SA-RL trains against these."""
    train = sa_rl(CONFIG, TEACHERS).prepare
    assert train is not None
    return train(victims)


@partial(jax.jit, static_argnums=(1, 2, 3))
def victim_of(seed: int, obs_size: int = 2, action_size: int = 2, discrete: bool = False) -> Policy:
    """A victim whose outputs are of the order of 1, with statistics of its own."""
    policy = init_policy(
        jax.random.key(seed), obs_size, action_size, discrete=discrete, hidden=(8, 8)
    )
    last = policy.params.actor["layer_2"]
    last["kernel"] = 100 * last["kernel"]
    stats = ObsStats(jnp.full(obs_size, 0.5), jnp.full(obs_size, 2.0), jnp.float32(100))
    return replace(policy, obs_stats=stats)


VICTIMS = [victim_of(i) for i in range(3)]


def linear_victim(kernel: np.ndarray) -> Policy:
    """mu = kernel^T x."""
    policy = init_policy(jax.random.key(0), *kernel.shape, hidden=())
    policy.params.actor["layer_0"]["kernel"] = jnp.asarray(kernel, jnp.float32)
    return policy


def population(*policies: Policy, masks: Masks | None = None, eps=EPS, key: int = 0) -> Victims:
    """These policies as one population of the drift task, all behind the mask, if there is one."""
    masks = dense(policies[0].params) if masks is None else masks
    cells = Cell(np.arange(len(policies)), stacked([masks] * len(policies)))
    lanes = 2 * CONFIG.num_envs  # two trainings at a time
    return Victims(Drift(), stacked(policies), cells, eps, jax.random.key(key), lanes=lanes)


def stacked(trees):
    """Trees as one with a leading axis, on the host."""
    return jax.tree.map(lambda *x: np.stack(x), *trees)


def last_kernel(policy: Policy) -> np.ndarray:
    return np.asarray(policy.params.actor["layer_2"]["kernel"])


def task_of(env, victim: Policy, stochastic: bool = False) -> AdversarialMDP:
    """The task of SA-RL."""
    obs_size = env.spec.obs_size
    return AdversarialMDP(env, victim, EPS, PERTURBATION.move, obs_size, stochastic=stochastic)


def test_the_adversary_sees_the_truth_and_earns_what_the_victim_loses():
    """Five steps of the drift task beside a loop that perturbs, acts and steps by the formulas."""
    env, victim = Drift(), victim_of(0)
    task = task_of(env, victim)
    step_task, step_env, normalised = map(jax.jit, (task.step, env.step, normalise))
    act = jax.jit(lambda x: action_distribution(victim, x).mode())
    state, seen = jax.jit(task.reset)(jax.random.key(3))
    plain, obs = env.reset(jax.random.split(jax.random.key(3))[0])
    decisions = np.random.default_rng(0).normal(0, 1.5, (5, 2)).astype(np.float32)
    for u in decisions:
        np.testing.assert_array_equal(seen, normalised(victim, obs))
        shown = (np.asarray(obs) - 0.5) / 2 + EPS * np.clip(u, -1, 1)
        plain, after = step_env(plain, act(shown))
        state, step = step_task(state, u)
        obs, seen = after.obs, step.obs
        np.testing.assert_allclose(seen, normalised(victim, after.obs), atol=1e-5)
        np.testing.assert_allclose(step.reward, -after.reward, rtol=1e-5)
        assert (step.terminated, step.truncated) == (after.terminated, after.truncated)
        assert state.time == plain.time
    assert step.truncated


@pytest.mark.parametrize("env", [Treadmill(terminates=True), Treadmill(False), Breakdown()])
def test_episodes_end_as_those_of_the_task(env):
    """Also those of a simulator that breaks: the step earns 0, and is counted."""
    task = task_of(env, victim_of(0, 1, 1))
    step_task, reset_task, step_env = map(jax.jit, (task.step, task.reset, env.step))
    for seed in range(3):
        state, _ = reset_task(jax.random.key(seed))
        plain, _ = env.reset(jax.random.split(jax.random.key(seed))[0])
        for _ in range(env.length):
            state, step = step_task(state, np.zeros(1, np.float32))
            plain, after = step_env(plain, np.zeros(1, np.float32))
            ends = [(x.terminated, x.truncated, x.diverged, abs(x.reward)) for x in (step, after)]
            assert ends[0] == ends[1]


def test_the_specification_of_the_task():
    spec = task_of(Treadmill(True), victim_of(0, 1, 1)).spec
    assert (spec.obs_size, spec.action_size, spec.discrete, spec.horizon) == (1, 1, False, 4)
    assert spec.reward_range == spec.reward_clip == (-1.0, 0.0)
    assert task_of(Drift(), victim_of(0)).spec.reward_range is None


def test_a_stochastic_victim_draws_its_actions():
    """Afresh at every step of every episode; a deterministic one does not.

    With sigma = 1 and mu = 0 the drift is 0.1 clip(N(0, 1), -1, 1), of variance 0.00516.
    """
    victim = linear_victim(np.zeros((2, 2)))

    def drifts(stochastic: bool) -> np.ndarray:
        task = task_of(Drift(), victim, stochastic)

        def one(key):
            state, first = task.reset(key)
            state, second = task.step(state, jnp.zeros(2))
            _, third = task.step(state, jnp.zeros(2))
            return jnp.stack([second.obs - first, third.obs - second.obs])

        return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4000)))

    assert np.abs(drifts(False)).max() == 0
    drawn = drifts(True)
    np.testing.assert_allclose(drawn.var(axis=0), 0.00516, rtol=0.06)
    assert abs(np.corrcoef(drawn[:, 0, 0], drawn[:, 1, 0])[0, 1]) < 0.08


def test_the_learner_can_roll_it_out():
    """Environments of the learner end, start anew, and carry their keys along."""
    task = task_of(Drift(), victim_of(0), True)
    policy = init_policy(jax.random.key(0), 2, 2, hidden=(8,))
    state, obs = jax.jit(jax.vmap(task.reset))(jax.random.split(jax.random.key(1), 3))
    workers = Worker(state, obs, jnp.zeros(3), jnp.zeros(3))
    collect = jax.jit(lambda workers: rollout(jax.random.key(2), task, policy, 0.99, workers, 12))
    workers, steps = collect(workers)
    assert np.array_equal(np.flatnonzero(steps.truncated[:, 0]), [4, 9])
    assert np.array_equal(workers.env_state.time, [2, 2, 2])


def test_members_are_the_grid_of_the_settings():
    config = replace(CONFIG, learning_rates=(1e-3, 1e-4), seeds=3)
    for make in (sa_rl, PAAD, paad_reference):
        attack = make(config, TEACHERS)
        assert attack.members(Drift().spec) == 12 and attack.per_eps
        assert attack.cost.env_steps == 12 * 128
    rates, log_stds = np.array([1e-3, 1e-4]), np.array([-0.5, -1.5])
    start = starts(jax.random.key(0), Size(2, 3), Hyper(entropy_weight=0.1), rates, log_stds)
    np.testing.assert_allclose(start.hyper.learning_rate, rates)
    np.testing.assert_allclose(start.hyper.entropy_weight, [0.1, 0.1])
    np.testing.assert_allclose(start.policy.params.log_std, np.repeat(log_stds[:, None], 3, 1))
    kernel = np.asarray(start.policy.params.actor["layer_0"]["kernel"])
    assert not np.array_equal(kernel[0], kernel[1])
    fewer = starts(jax.random.key(0), Size(2, 3), Hyper(), rates[:1], log_stds[:1])
    assert np.array_equal(fewer.policy.params.actor["layer_0"]["kernel"][0], kernel[0])


def test_training_does_not_depend_on_the_neighbours():
    """The same adversaries in other company and places, and behind a mask or pruned for good.

    Six trainings in chunks of two on two devices: the last is repeated, and dropped again.
    """
    first, second, third = VICTIMS
    base = prepare(population(first, second, third))
    assert base.params.log_std.shape == (3, 2, 2)
    other = prepare(population(third, first, first))
    for i, j in ((0, 1), (0, 2), (2, 0)):
        jax.tree.map(np.testing.assert_array_equal, take(base, i), take(other, j))
    kernels = last_kernel(base)
    assert np.abs(kernels[:, 0] - kernels[:, 1]).max(axis=(1, 2)).min() > 1e-3  # members differ
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-5  # and victims do
    masks = prune(first, "magnitude", 0.5)
    masked = prepare(population(first, second, third, masks=masks))
    applied = prepare(population(*(mask_policy(victim, masks) for victim in VICTIMS)))
    jax.tree.map(np.testing.assert_array_equal, masked, applied)
    assert np.abs(last_kernel(masked) - kernels).max(axis=(1, 2, 3)).min() > 1e-5


def test_victim_eps_key_and_start_decide_and_compile_nothing_new():
    base = prepare(population(*VICTIMS))
    program = _program(Drift(), CONFIG, PERTURBATION, False)
    before = _program.cache_info().misses, program.compilations
    again = prepare(population(*VICTIMS))
    jax.tree.map(np.testing.assert_array_equal, base, again)
    rates, log_stds = np.full(2, 1e-3), np.array([-0.5, -1.5])
    start = starts(jax.random.key(5), Size(2, 2), Hyper(), rates, log_stds)
    for other in (
        prepare(population(*(victim_of(i) for i in (3, 4, 5)))),
        prepare(population(*VICTIMS, eps=0.1)),
        prepare(population(*VICTIMS, key=1)),
        train_adversaries(CONFIG, PERTURBATION, population(*VICTIMS), start),
    ):
        changed = np.abs(last_kernel(base) - last_kernel(other)).max(axis=(2, 3))
        assert np.all(changed > 1e-6)
    assert (_program.cache_info().misses, program.compilations) == before


def test_the_perturbation_is_the_mean_decision_clipped_to_the_ball():
    """By numpy, for an adversary with statistics of its own."""
    attack, adversary = sa_rl(CONFIG, TEACHERS), victim_of(3)
    states = np.random.default_rng(0).normal(0, 1, (64, 2)).astype(np.float32)
    perturb = lambda x: attack.perturb(adversary, (), KEY, VICTIMS[0], x, EPS)[0]  # noqa: E731
    shown = jax.jit(jax.vmap(perturb))(states)
    hidden = (states - 0.5) / 2
    for i in range(3):
        layer = adversary.params.actor[f"layer_{i}"]
        hidden = hidden @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        hidden = np.tanh(hidden) if i < 2 else hidden
    np.testing.assert_allclose(shown, states + EPS * np.clip(hidden, -1, 1), atol=1e-6)
    assert np.any(np.abs(hidden) > 1) and np.any(np.abs(hidden) < 1)


@pytest.mark.parametrize("make", [sa_rl, PAAD])
@pytest.mark.parametrize("discrete", [False, True])
def test_a_blank_adversary_has_the_shapes_of_a_trained_one(make, discrete):
    env = Drift()
    spec = replace(env.spec, action_size=3, discrete=discrete)
    attack, victim = make(CONFIG, TEACHERS), victim_of(0, 2, 3, discrete)
    shapes = jax.eval_shape(lambda v: attack.blank(v, spec), victim)
    size = Size(2, 2 if make is sa_rl else 3)
    trained = starts(KEY, size, Hyper(), np.ones(1), np.zeros(1)).policy
    described = jax.tree.map(lambda x: (x.shape, x.dtype.name), shapes)
    assert described == jax.tree.map(lambda x: (x.shape[1:], x.dtype.name), trained)
    moved, _ = jax.jit(attack.perturb)(blank(size), (), KEY, victim, np.ones(2, np.float32), EPS)
    assert np.max(np.abs(moved - 1)) <= EPS + 1e-6


def alignment(change: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """cos(change, direction) of `[..., n]`."""
    lengths = np.linalg.norm(change, axis=-1) * np.linalg.norm(direction, axis=-1)
    return np.sum(change * direction, axis=-1) / lengths


def moves_of(form, victim: Policy, states, directions, eps=EPS) -> np.ndarray:
    """What the actor shows, `[n, obs_size]`; one key each."""
    keys = jax.random.split(jax.random.key(9), len(states))
    return np.asarray(_moves(form, victim, keys, states, directions, eps))


@partial(jax.jit, static_argnums=0)
def _moves(form, victim: Policy, keys, states, directions, eps):
    return jax.vmap(form.move, (0, None, 0, None, 0))(keys, victim, states, eps, directions)


def test_the_actor_moves_the_output_of_a_linear_victim_as_far_as_it_goes():
    """For mu = W x the summit of <d, mu> is the corner eps sign(W d), whatever the units of mu."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 0.05, (16, 2))
    states = rng.normal(0, 1, (64, 16)).astype(np.float32)
    directions = rng.normal(0, 1, (64, 2)).astype(np.float32)
    shown = moves_of(DIRECTION, linear_victim(kernel), states, directions)
    corners = EPS * np.sign(directions @ kernel.T)
    np.testing.assert_allclose(shown, states + corners, atol=1e-6)


@pytest.mark.parametrize("discrete", [False, True])
def test_the_actor_is_close_to_the_best_point_of_the_ball(discrete):
    """<d, f> on a grid of 101 x 101 points; ten steps get nearly all of it at every state."""
    victim = victim_of(1, 2, 3, discrete)
    rng = np.random.default_rng(1)
    states = rng.normal(0, 1, (32, 2)).astype(np.float32)
    directions = rng.normal(0, 1, (32, 3)).astype(np.float32)
    ticks = np.linspace(-EPS, EPS, 101)
    grid = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2).astype(np.float32)

    def outputs(x):
        layers, x = affine_layers(victim), np.asarray(x)
        for weight, bias in layers[:-1]:
            x = np.tanh(x @ weight.T + bias)
        return x @ layers[-1].weight.T + layers[-1].bias

    def score(shown, state, direction):
        return (outputs(shown) - outputs(state[None])) @ direction

    form = directing(DirectorConfig(actor_steps=10))
    shown = moves_of(form, victim, states, directions)
    around = zip(shown, states, directions, strict=True)
    reached, best = np.transpose(
        [(score(s[None], x, d)[0], score(x + grid, x, d).max()) for s, x, d in around]
    )
    missed = best - reached
    assert np.all(reached >= 0) and np.all(missed > -0.02)  # a grid of this pitch misses little
    assert np.all(missed < 0.15 * best) and np.mean(missed) < 0.02 * best.mean()


def test_the_published_actor_takes_one_step_the_wrong_way():
    """For mu = W x the gradient of cos + norm is known; the published step is against it."""
    rng = np.random.default_rng(2)
    kernel, n = rng.normal(0, 0.5, (6, 3)), 64
    states = rng.normal(0, 1, (n, 6)).astype(np.float32)
    directions = rng.normal(0, 1, (n, 3)).astype(np.float32)
    shown = moves_of(PUBLISHED, linear_victim(kernel), states, directions)
    keys = jax.random.split(jax.random.key(9), n)
    draw = jax.jit(jax.vmap(lambda k: jax.random.uniform(k, (6,), minval=-0.1, maxval=0.1)))
    change = EPS * np.asarray(draw(keys), float) @ kernel
    length = np.linalg.norm(change, axis=-1, keepdims=True)
    unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    cosine = np.sum(change / length * unit, axis=-1, keepdims=True)
    gradient = (unit / length - cosine * change / length**2 + change / length) @ kernel.T
    clear = np.abs(gradient) > 1e-3 * np.abs(gradient).max(axis=-1, keepdims=True)
    np.testing.assert_allclose(
        np.where(clear, shown - states, 0), np.where(clear, -EPS * np.sign(gradient), 0), atol=1e-6
    )
    right = moves_of(DIRECTION, linear_victim(kernel), states, directions)
    wrong_way, right_way = (
        alignment((x - states) @ kernel, directions).mean() for x in (shown, right)
    )
    assert wrong_way < -0.3 and right_way > 0.5


@pytest.mark.parametrize("form", [PERTURBATION, DIRECTION, PUBLISHED])
@pytest.mark.parametrize("discrete", [False, True])
def test_no_ball_no_change_and_no_nan(form, discrete):
    """Not even where the victim does not react, or the decision has no direction."""
    rng = np.random.default_rng(3)
    states = rng.normal(0, 1, (8, 3)).astype(np.float32)
    decisions = rng.normal(0, 3, (8, 3)).astype(np.float32)
    victim = victim_of(0, 3, 3, discrete)
    constant = jax.tree.map(jnp.zeros_like, victim)
    assert np.array_equal(moves_of(form, victim, states, decisions, 0.0), states)
    for policy, decision in ((constant, decisions), (victim, 0 * decisions), (victim, decisions)):
        moved = moves_of(form, policy, states, decision)
        assert np.max(np.abs(moved - states)) <= EPS + 1e-6  # False for NaN


def test_equal_settings_of_the_actor_select_one_program():
    assert directing(replace(DIRECTOR)) is DIRECTION
    assert directing(DirectorConfig(actor_steps=2)) != DIRECTION
    cost = PAAD(CONFIG, TEACHERS).cost
    assert (cost.queries, cost.gradients) == (1 + 1, DIRECTOR.actor_steps)


def test_a_budget_too_small():
    for make in (sa_rl, PAAD, paad_reference):
        with pytest.raises(InputError, match="too few to train"):
            make(replace(CONFIG, steps=63), TEACHERS)


def test_a_warm_start_begins_with_the_adversary_of_another_victim():
    """At a rate of 1e-12 training changes nothing but statistics: what comes out went in."""
    first, second, _ = VICTIMS
    before = prepare(population(first, second))
    still = sa_rl(replace(CONFIG, learning_rates=(1e-12,)), TEACHERS).prepare
    assert still is not None
    crossed = take(before, np.array([1, 0]))
    after = still(population(first, second)._replace(start=crossed))
    np.testing.assert_allclose(last_kernel(after), last_kernel(crossed), atol=1e-6)
    np.testing.assert_allclose(after.params.log_std, [[[-0.5] * 2, [-1.5] * 2]] * 2, atol=1e-6)
    assert np.all(after.obs_stats.count > crossed.obs_stats.count)
    assert sa_rl(CONFIG, TEACHERS).warms and not np.allclose(
        last_kernel(before), last_kernel(crossed)
    )
