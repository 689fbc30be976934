"""Sarsa learns the values that probes have, from rows that follow each other."""

from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.attacks import MADConfig, SarsaConfig, Victims, robust_sarsa
from jaxprune.attacks import sarsa as module
from jaxprune.attacks.action_value import action_value, blank_critic
from jaxprune.attacks.robust_sarsa import Mix, few, q_attack, rs_adversarial, rs_mad, rs_reference
from jaxprune.attacks.sarsa import (
    NO_PENALTY,
    Penalty,
    Rows,
    Steps,
    collect,
    decay,
    env_steps,
    fit,
    fresh_students,
    growth,
    make_lesson,
    make_rows,
    sarsa_loss,
    train,
)
from jaxprune.cells import as_cells
from jaxprune.devices import take
from jaxprune.envs import EnvSpec
from jaxprune.policy import action_distribution, init_policy
from jaxprune.pruning import prune
from jaxprune.types import Array, EnvState, Key, ObsStats, TimeStep
from tests.attacks.linear import linear_critic
from tests.probes import DelayedReward, DiscreteAction, Drift, probe_spec

GAMMA = 0.99
TINY = SarsaConfig(steps=256, num_envs=4, epochs=1, batch=32, rounds=2)
MEAN, STD = 0.5, 2.0


@dataclass(frozen=True)
class Fare:
    """Observations 0, 1, 2; each of the two steps costs |a| / 2, and the second terminates."""

    spec: ClassVar[EnvSpec] = probe_spec("fare", horizon=2)

    def reset(self, key: Key) -> tuple[EnvState, Array]:
        del key
        return EnvState((), jnp.int32(0)), jnp.zeros(1)

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        time = state.time + 1
        obs, no = jnp.ones(1) * time, jnp.bool_(False)
        return EnvState((), time), TimeStep(obs, -jnp.abs(action[0]) / 2, time >= 2, no)


@cache
def population(env, count: int = 1, seed: int = 0) -> Victims:
    """Cells of one small policy, each with a mask of its own."""
    spec = env.spec
    policy = init_policy(
        jax.random.key(seed), spec.obs_size, spec.action_size, discrete=spec.discrete, hidden=(8, 8)
    )
    unit = jnp.ones(spec.obs_size)
    last = policy.params.actor["layer_2"]
    last["kernel"] = 100 * last["kernel"]  # from gain 0.01 to 1
    policy = replace(policy, obs_stats=ObsStats(MEAN * unit, STD * unit, jnp.ones(())))
    masks = prune(policy, "random", list(np.linspace(0.0, 0.6, count)))
    _, policies, cells = as_cells(*jax.device_get((policy, masks)))
    return Victims(env, policies, cells, 0.3, jax.random.key(1))


# --- data -----------------------------------------------------------------------------------------


def test_rows_follow_each_other_and_the_rewards_are_theirs():
    """Drift moves by 0.1 clip(a) and earns -|obs'|^2; raw observations are 2 x + 0.5 here."""
    steps = take(collect(TINY, population(Drift())), 0)
    x, action = np.split(steps.inputs.reshape(64, 4, 4), 2, axis=-1)
    raw = STD * x + MEAN
    following = raw + 0.1 * np.clip(action, -1, 1)
    reward, cut = steps.reward.reshape(64, 4), steps.truncated.reshape(64, 4)
    np.testing.assert_allclose(reward, -np.sum(following**2, -1), rtol=1e-4, atol=1e-4)
    goes_on = ~cut[:-1]
    np.testing.assert_allclose(following[:-1][goes_on], raw[1:][goes_on], atol=1e-5)
    assert np.abs(following[:-1] - raw[1:])[cut[:-1]].max() > 0.1  # another episode
    assert np.array_equal(cut[:, 0], np.arange(1, 65) % 5 == 0) and not steps.terminated.any()


def test_an_action_that_is_a_choice_is_one_hot():
    steps = collect(TINY, population(DiscreteAction()))
    choice = steps.inputs[..., 1:]
    assert set(np.unique(choice)) == {0.0, 1.0} and np.all(choice.sum(-1) == 1)
    assert np.all(choice.sum((0, 1)) > 0)  # all three are drawn
    # Reward 1 for action obs + 1: the choice is the one that was made.
    obs = np.round(STD * steps.inputs[..., 0] + MEAN).astype(int)
    assert np.array_equal(steps.reward == 1, choice.argmax(-1) == obs + 1)


def test_what_the_victim_does_as_it_acts_follows_from_what_it_sees():
    """The mean of a deterministic victim of drawn data; the drawn action of a stochastic one."""
    victims = population(Drift())
    policy = jax.tree.map(lambda x: x[0], victims.policies)
    means, drawn = (take(collect(TINY, victims._replace(stochastic=s)), 0) for s in (False, True))
    for steps in (means, drawn):
        assert np.array_equal(steps.inputs, means.inputs)  # the data are the same
    x, action = np.split(drawn.inputs, 2, axis=-1)
    assert np.array_equal(drawn.acting, action) and np.abs(action - means.acting).max() > 0.5
    mean = jax.vmap(lambda x: action_distribution(policy, x).mode())(x)
    np.testing.assert_allclose(means.acting, mean, atol=1e-5)


def test_rewards_are_scaled_by_the_deviation_of_the_discounted_returns():
    """Of the running sums R_t = gamma R_{t-1} + r_t, which start anew with every episode."""
    steps = take(collect(TINY, population(Drift())), 0)
    reward, cut = steps.reward.reshape(64, 4), steps.truncated.reshape(64, 4)
    sums, running = [], np.zeros(4)
    for r, ends in zip(reward, cut, strict=True):
        running = GAMMA * running + r
        sums.append(running)
        running = np.where(ends, 0.0, running)
    np.testing.assert_allclose(steps.return_std, np.std(sums), rtol=1e-4)


def some_steps() -> Steps:
    ends = np.array([[0, 1, 0, 0]], bool), np.array([[0, 0, 1, 0]], bool)
    reward = np.array([[1.0, -2.0, 50.0, -50.0]], np.float32)
    inputs, std = np.zeros((1, 4, 2), np.float32), np.array([2.0], np.float32)
    return Steps(inputs, inputs[..., 1:], reward, *ends, std)


def test_rows_know_what_follows():
    """Nothing after termination; after a time limit something, but nobody knows what."""
    rows = make_rows(some_steps(), np.array([2.0], np.float32), GAMMA)
    np.testing.assert_allclose(rows.reward[0], [0.5, -1.0, 10.0, -10.0], rtol=1e-6)  # clipped
    np.testing.assert_allclose(rows.bootstrap[0], [GAMMA, 0.0, GAMMA, GAMMA], rtol=1e-6)
    assert rows.weight[0].tolist() == [1, 1, 0, 1]
    published = make_rows(some_steps(), np.array([2.0], np.float32), GAMMA, published=True)
    np.testing.assert_allclose(published.bootstrap[0], [GAMMA, 0.0, 0.0, GAMMA], rtol=1e-6)
    assert published.weight[0].tolist() == [1, 1, 1, 1]


def lesson_of(rows: Rows, config: SarsaConfig, published: bool = False):
    return make_lesson(jax.random.key(2), config, DelayedReward().spec, rows, published)


def rows_of(count: int) -> Rows:
    zeros = np.zeros((1, count), np.float32)
    inputs = np.zeros((1, count, 2), np.float32)
    return Rows(inputs, inputs[..., 1:], zeros, zeros, zeros + 1)


def test_lessons_pass_over_all_rows_but_the_last_step():
    """52 rows of 4 environments, 48 have a successor, 3 minibatches of 16, in another order."""
    config = SarsaConfig(num_envs=4, epochs=2, batch=16)
    lesson = lesson_of(rows_of(52), config)
    passes = lesson.batches.reshape(2, 48)
    assert np.array_equal(np.sort(passes), np.tile(np.arange(48), (2, 1)))
    assert not np.array_equal(passes[0], passes[1])
    assert np.array_equal(lesson.successors, lesson.batches + 4)
    np.testing.assert_allclose(lesson.progress, np.arange(6) / 6, atol=1e-6)
    assert lesson.ball.tolist() == [0, 1] and lesson.polyak == np.float32(config.polyak)
    published = lesson_of(rows_of(52), config, published=True)
    assert np.array_equal(published.successors[:, :-1], published.batches[:, 1:])
    assert published.ball.tolist() == [1, 1] and published.polyak == 1
    assert lesson_of(rows_of(12), config).batches.shape == (2, 8)  # fewer rows than a minibatch
    smallest = SarsaConfig(steps=8, num_envs=4, epochs=4, batch=8, rounds=1)
    smallest.check()
    assert env_steps(smallest) == 8 and lesson_of(rows_of(8), smallest).batches.shape == (4, 4)


def test_schedules():
    """The radius waits a third of training and the rate falls in the last third."""
    progress = jnp.array([0.0, 1 / 3, 0.5, 2 / 3, 5 / 6, 1.0])
    np.testing.assert_allclose(growth(progress), [0, 0, 0.5, 1, 1, 1], atol=1e-6)
    np.testing.assert_allclose(decay(progress), [1, 1, 1, 1, 0.5, 0], atol=1e-6)


# --- training -------------------------------------------------------------------------------------

LEARN = replace(TINY, epochs=60, learning_rate=5e-3, polyak=0.2)


def learned(env, config=LEARN, published=False, stochastic=False, change=lambda rows: rows):
    """(Q at all rows but the last step, the rows), of a critic of rewards as they are."""
    steps = collect(config, population(env)._replace(stochastic=stochastic))
    rows = change(make_rows(steps, np.ones(1, np.float32), config.discount, published))
    lesson = make_lesson(jax.random.key(2), config, env.spec, rows, published)
    student = fit(lesson, fresh_students(jax.random.key(3), env.spec, [NO_PENALTY], 1))
    critic = jax.tree.map(lambda x: x[0], student.critic)
    q = jax.jit(jax.vmap(action_value, (None, 0)))(critic, rows.inputs[0, : -config.num_envs])
    return np.asarray(q), take(rows, (0, slice(None, -config.num_envs)))


def first_of_two(rows: Rows) -> np.ndarray:
    """Whether a row of `DelayedReward` is the first step, at observation 0."""
    return rows.inputs[:, 0] < (0.5 - MEAN) / STD


def test_values_are_those_of_the_probe():
    """Q(0, .) = gamma and Q(1, .) = 1 whatever the action: the value travels one step back."""
    q, rows = learned(DelayedReward())
    first = first_of_two(rows)
    np.testing.assert_allclose(q[first].mean(), GAMMA, atol=0.02)
    np.testing.assert_allclose(q[~first].mean(), 1.0, atol=0.02)
    assert np.abs(q - np.where(first, GAMMA, 1.0)).mean() < 0.05


def test_values_are_those_of_the_victim_as_it_acts_with_its_discount():
    """Two steps that each cost |a| / 2: the second costs |mu| / 2 on average, or E|a| / 2."""
    config, costs = replace(LEARN, steps=2048, epochs=15, gamma=0.5), []
    for stochastic in (False, True):
        q, rows = learned(Fare(), config, stochastic=stochastic)
        first = first_of_two(rows)
        costs.append(np.abs(rows.acting[~first]).mean() / 2)
        now = np.abs(rows.inputs[first, 1]).mean() / 2
        np.testing.assert_allclose(q[first].mean(), -now - 0.5 * costs[-1], atol=0.03)
    assert costs[1] > costs[0] + 0.2, costs


def early(rows: Rows) -> Rows:
    """Half a reward at the first of the two steps of `DelayedReward`: Q(0) = 1/2, Q(1) = 0."""
    return rows._replace(reward=(1 - rows.reward) / 2)


def test_the_published_form_learns_reward_and_a_constant():
    """Q(1) = 0, but Q(0) = 1/2 + gamma (Q(0) + Q(1)) / 2 = 0.99, where the true value is 1/2."""
    q, rows = learned(DelayedReward(), change=early)
    first = first_of_two(rows)
    np.testing.assert_allclose([q[first].mean(), q[~first].mean()], [0.5, 0.0], atol=0.03)
    q, rows = learned(DelayedReward(), change=early, published=True)
    shuffled = [0.5 / (1 - GAMMA * first.mean()), 0.0]
    np.testing.assert_allclose([q[first].mean(), q[~first].mean()], shuffled, atol=0.1)


def test_rows_that_the_time_limit_cut_teach_nothing():
    """Whatever they earned."""

    def corrupted(rows: Rows) -> Rows:
        return rows._replace(reward=np.where(rows.weight == 0, 1e3, rows.reward))

    clean, rows = learned(Drift())
    assert 0.1 < np.mean(rows.weight == 0) < 0.3
    wrong, _ = learned(Drift(), change=corrupted)
    np.testing.assert_array_equal(clean, wrong)


def test_the_penalty_keeps_q_from_changing_with_the_action():
    """By the largest change at 32 points on the surface of the ball around the action."""
    env, radius = Drift(), 0.3
    rows = make_rows(collect(LEARN, population(env)), np.ones(1, np.float32), GAMMA)
    lesson = make_lesson(jax.random.key(2), LEARN, env.spec, rows)
    penalties = [NO_PENALTY, Penalty(radius, 10.0)]
    students = fit(lesson, fresh_students(jax.random.key(3), env.spec, penalties, 1))
    x = rows.inputs[0, :100]
    moves = np.random.default_rng(0).choice([-radius, radius], (32, 1, 4)) * [0, 0, 1, 1]
    q = jax.jit(jax.vmap(jax.vmap(action_value, (None, 0)), (0, None)))
    clean, *moved = (np.asarray(q(students.critic, x + d)) for d in (0 * moves[0], *moves))
    free, bound = np.abs(np.array(moved) - clean).max(0).mean(1)
    assert bound < 0.2 * free


def test_loss_is_huber_and_the_square_of_the_interval():
    """Against intervals propagated by hand; of weight 0 and 10, and of a radius per input."""
    spec = Drift().spec
    rng = np.random.default_rng(0)
    critic = jax.tree.map(lambda x: rng.normal(size=x.shape) / 4, blank_critic(spec))
    x, goal, weight = rng.normal(size=(16, 4)), 3 * rng.normal(size=16), rng.integers(0, 2, 16)
    radius = np.array([0.0, 0.1, 0.2, 0.3])
    centre, low, high = x, x - radius, x + radius
    for i in range(3):
        w, b = critic[f"layer_{i}"]["kernel"], critic[f"layer_{i}"]["bias"]
        up, down = np.maximum(w, 0), np.minimum(w, 0)
        low, high = low @ up + high @ down + b, high @ up + low @ down + b
        centre = centre @ w + b
        if i < 2:
            centre, low, high = np.tanh(centre), np.tanh(low), np.tanh(high)
    error = np.abs(centre[:, 0] - goal)
    huber = np.where(error < 1, error**2 / 2, error - 0.5)
    change = np.maximum(high - centre, centre - low)[:, 0]
    rows = Rows(*(np.asarray(v, np.float32) for v in (x, x[:, 2:], goal, goal, weight)))
    single = jax.tree.map(lambda v: v.astype(np.float32), (critic, goal, radius))
    for penalty in (0.0, 10.0):
        found = jax.jit(sarsa_loss)(single[0], rows, single[1], single[2], penalty)
        wanted = np.mean(weight * huber) + penalty * np.mean(change**2)
        np.testing.assert_allclose(found, wanted, rtol=1e-4)


# --- populations ----------------------------------------------------------------------------------

PENALTIES = [Penalty(0.1, 1.0), Penalty(0.3, 0.0), Penalty(0.0, 3.0)]


def test_critics_of_a_population_are_those_of_one_at_a_time():
    """Of five victims, in three groups for want of lanes, three members each."""
    victims = population(Drift(), 5)._replace(lanes=TINY.num_envs)
    together = train(TINY, victims, PENALTIES)
    assert together["layer_0"]["kernel"].shape == (5, 3, 4, 64)
    for i in (0, 3, 4):
        alone = train(TINY, victims._replace(cells=take(victims.cells, np.array([i]))), PENALTIES)
        for one, all_ in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(one[0], all_[i], atol=1e-4)
    kernels = together["layer_2"]["kernel"].reshape(15, -1)
    apart = np.abs(kernels[:, None] - kernels).max(-1) + np.eye(15)
    assert apart.min() > 1e-4  # 15 critics


def test_members_start_from_weights_of_their_own():
    """Member i of any number starts from the same ones."""
    students = fresh_students(jax.random.key(0), Drift().spec, PENALTIES, 2)
    fewer = fresh_students(jax.random.key(0), Drift().spec, PENALTIES[:2], 2)
    assert students.source.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(students.penalty.radius, [0.1, 0.3, 0.0] * 2)
    first = students.critic["layer_1"]["kernel"]
    assert np.array_equal(first[:3], first[3:]) and np.ptp(first, axis=0).min() > 0
    assert np.array_equal(first[:2], fewer.critic["layer_1"]["kernel"][:2])


def test_another_preparation_compiles_nothing(caplog):
    """Other policies, another radius and another key are other data."""
    attack = rs_adversarial(replace(TINY, radii=(0.1, 0.2)), MADConfig(steps=2))
    assert attack.prepare is not None
    with jax.log_compiles():
        for victims in (
            population(Drift(), 2),
            population(Drift(), 2, seed=1)._replace(eps=0.1, key=jax.random.key(9)),
        ):
            caplog.clear()
            attack.prepare(victims)
            compiled = [r for r in caplog.records if r.getMessage().startswith("Compiling")]
            last = len(compiled)
            assert last > 0 or victims.eps == 0.1
    assert last == 0


# --- under attack ---------------------------------------------------------------------------------


def test_collection_under_attack_is_clean_without_a_ball_and_obeys_the_critic_with_one():
    """A critic that fears the first action makes the victim take more of it."""
    victims = population(Drift())
    critics = linear_critic(Drift().spec, np.array([0.0, 0.0, -1.0, 0.0]))
    critics = jax.tree.map(lambda x: np.asarray(x)[None], critics)
    clean = collect(TINY, victims)
    attacked = [collect(TINY, victims, 1, critics, eps, MADConfig(steps=3)) for eps in (0.0, 1.0)]
    for one, other in zip(clean, attacked[0], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    first = [steps.inputs[0, :, 2].mean() for steps in (clean, attacked[1])]
    assert first[1] > first[0] + 0.2
    assert collect(TINY, victims, 2).reward.shape == (1, 128)  # half the steps
    assert env_steps(TINY, 2) == 256


def test_adversarial_rounds_go_on_from_each_other(monkeypatch):
    """The second round attacks with what the first has learned, and learns on from there."""
    seen, lessons = [], []

    def spy_collect(config, victims, rounds, critics, eps, against):
        seen.append((eps, critics["layer_2"]["kernel"]))
        return collect(config, victims, rounds, critics, eps, against)

    def spy_fit(lesson, students, lanes):
        result = fit(lesson, students, lanes)
        lessons.append((lesson.progress, students, result))
        return result

    monkeypatch.setattr(module, "collect", spy_collect)
    monkeypatch.setattr(module, "fit", spy_fit)
    attack = rs_adversarial(replace(TINY, radii=(0.1, 0.2)), MADConfig(steps=2))
    victims = population(Drift(), 2)
    assert attack.prepare is not None
    final = attack.prepare(victims)["layer_2"]["kernel"]
    assert final.shape == (2, 2, 64, 1) and attack.members(Drift().spec) == 2
    assert [eps for eps, _ in seen] == [0.0, victims.eps]
    assert np.array_equal(seen[1][1], lessons[0][2].critic["layer_2"]["kernel"])
    assert lessons[1][1] is lessons[0][2]
    assert np.array_equal(final.reshape(4, 64, 1), lessons[1][2].critic["layer_2"]["kernel"])
    assert lessons[1][1].source.tolist() == [0, 1, 2, 3]  # data of its own
    progress = np.concatenate([p for p, *_ in lessons])
    np.testing.assert_allclose(progress, np.arange(len(progress)) / len(progress), atol=1e-6)


def test_only_the_published_form_keeps_drawn_actions_and_its_discount(monkeypatch):
    seen = []

    def spy(config, victims, penalties, **options):
        seen.append((config.discount, victims.stochastic))

    monkeypatch.setattr(robust_sarsa, "train", spy)
    config = replace(TINY, gamma=0.9)
    for attack in (q_attack(config, MADConfig()), rs_reference(config)):
        assert attack.prepare is not None
        attack.prepare(population(Drift()))
    assert seen == [(0.9, False), (0.99, True)]


def test_parameters_have_the_shapes_of_the_blanks():
    """Of a critic, and of a critic with a share of the divergence."""
    config = replace(TINY, radii=(0.1, 0.2))
    victims, policy = population(Drift(), 2), population(Drift()).policies
    for attack in (q_attack(config, MADConfig()), rs_mad(config, MADConfig())):
        assert attack.prepare is not None
        params, blank = attack.prepare(victims), attack.blank(policy, Drift().spec)
        assert jax.tree.structure(params) == jax.tree.structure(blank)
        for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(blank), strict=True):
            assert x.shape == (2, attack.members(Drift().spec), *y.shape) and x.dtype == y.dtype
        if isinstance(params, Mix):
            assert len(np.unique(params.share[0])) == 3 and len(few(config)) == 2
            kernels = params.critic["layer_2"]["kernel"][0]
            assert np.array_equal(kernels[0], kernels[2]) and np.ptp(kernels, axis=0).max() > 0
