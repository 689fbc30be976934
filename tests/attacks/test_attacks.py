"""Every attack stays in its ball and below the certificates; MAD does what it is for."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune
from jaxprune.attacks import ATTACKS, MADConfig, make_attack, one_of
from jaxprune.certify import certify
from jaxprune.families import InputError
from jaxprune.policy import action_distribution, init_policy
from jaxprune.pruning import mask_policy, prune

ENV = jaxprune.make_env("cartpole")
HEADS = ["normal", "categorical"]
STATES = jnp.asarray(np.random.default_rng(0).standard_normal((32, 4)), jnp.float32)
KEYS = jax.random.split(jax.random.key(1), len(STATES))


@cache
def victim(head: str, seed: int = 0, obs_size: int = 4, masked: bool = False):
    """A tanh policy whose outputs are of the order of 1."""
    policy = init_policy(
        jax.random.key(seed), obs_size, 3, discrete=head == "categorical", hidden=(16, 16)
    )
    last = policy.params.actor["layer_2"]
    last["kernel"] = 100 * last["kernel"]  # from gain 0.01 to 1
    return mask_policy(policy, prune(policy, "magnitude", 0.5)) if masked else policy


def attacker(name: str, policy, config: MADConfig | None = None):
    """(key, obs_norm, eps) -> obs_norm' of a prepared attack at the start of an episode."""
    attack = make_attack(name, config)
    params = attack.prepare(jax.random.key(2), policy, ENV)
    memory = attack.init(params, jax.random.key(3))
    return lambda key, x, eps: attack.perturb(params, memory, key, policy, x, eps)[0]


def attacked(name: str, policy, eps, states=STATES, config: MADConfig | None = None):
    """The perturbed states, one key each, `[n, obs_size]`."""

    def run(policy, key, x, eps):  # the policy is data, as in a rollout
        return attacker(name, policy, config)(key, x, eps)

    keys = jax.random.split(jax.random.key(1), len(states))
    return jax.jit(jax.vmap(run, in_axes=(None, 0, 0, None)))(policy, keys, states, eps)


def measure(policy, states, moved, what: str) -> np.ndarray:
    """KL or D between the action distributions at two lists of states, `[n]`.

    Reduced by numpy, outside: XLA:CPU of jaxlib 0.10.2 loses the tail of a long maximum over sums
    (`jit(lambda y: jnp.max(jnp.sum(p * y, -1)))`), and an oracle must be right.
    """
    states = jnp.broadcast_to(states, moved.shape)

    def one(x, y):
        clean, other = action_distribution(policy, x), action_distribution(policy, y)
        return getattr(clean, what)(other)

    return np.asarray(jax.vmap(one)(states, moved))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ATTACKS)
def test_contract_inside_the_ball_and_below_every_certificate(name, head, masked):
    policy = victim(head, masked=masked)
    for eps in (0.02, 0.3):
        moved = attacked(name, policy, eps)
        assert moved.shape == STATES.shape and moved.dtype == STATES.dtype
        assert np.max(np.abs(moved - STATES)) <= eps + 1e-6
        found = np.max(measure(policy, STATES, moved, "distance"))
        bounds = certify(policy, prune(policy, "none", [0.0]), eps=eps)
        assert all(found <= bound.value[0] for bound in bounds.values())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ATTACKS)
def test_contract_no_ball_no_change(name, head):
    """eps = 0 is the identity, bit for bit, whether eps is traced or not."""
    policy = victim(head)
    moved = attacked(name, policy, 0.0)
    assert np.asarray(moved).tobytes() == np.asarray(STATES).tobytes()
    alone = attacker(name, policy)(KEYS[0], STATES[0], 0.0)
    assert np.asarray(alone).tobytes() == np.asarray(STATES[0]).tobytes()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ATTACKS)
def test_contract_the_key_decides(name, head):
    policy, run = victim(head), jax.jit(attacker(name, victim(head)))
    one, again, other = (run(KEYS[i], STATES[0], 0.1) for i in (0, 0, 1))
    assert np.asarray(one).tobytes() == np.asarray(again).tobytes()
    assert not np.array_equal(one, STATES[0]) or name == "none"
    if name == "random":
        assert not np.array_equal(one, other)
    del policy


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ATTACKS)
def test_contract_vmap_and_jit_are_the_loop(name, head):
    policy = victim(head)
    run = attacker(name, policy)
    batch = attacked(name, policy, 0.1)
    compiled = jax.jit(run)
    for i in range(4):
        np.testing.assert_allclose(compiled(KEYS[i], STATES[i], 0.1), batch[i], atol=1e-6)
    np.testing.assert_allclose(run(KEYS[0], STATES[0], 0.1), batch[0], atol=1e-6)


@pytest.mark.parametrize("name", ATTACKS)
def test_contract_the_memory_keeps_its_structure(name):
    """An episode is a loop: what is remembered must be able to be its carry."""
    policy, attack = victim("normal"), make_attack(name)
    params = attack.prepare(jax.random.key(0), policy, ENV)
    start = attack.init(params, jax.random.key(1))

    def step(memory, key_and_x):
        key, x = key_and_x
        moved, memory = attack.perturb(params, memory, key, policy, x, 0.1)
        return memory, moved

    end, moved = jax.lax.scan(step, start, (KEYS, STATES))
    assert jax.tree.structure(end) == jax.tree.structure(start)
    assert moved.shape == STATES.shape


def test_none_is_the_neutral_member():
    assert next(iter(ATTACKS)) == "none"
    moved = attacked("none", victim("normal"), 0.5)
    assert np.asarray(moved).tobytes() == np.asarray(STATES).tobytes()


def test_random_fills_the_ball_evenly():
    """Uniform on [-1, 1] eps: mean 0, variance 1/3, within 5 standard errors of 40 000 draws."""
    policy = victim("normal")
    states = jnp.zeros((10_000, 4))
    noise = np.asarray(attacked("random", policy, 0.5, states)) / 0.5
    assert abs(noise.mean()) < 5 * (1 / 3 / noise.size) ** 0.5
    assert abs((noise**2).mean() - 1 / 3) < 5 * (4 / 45 / noise.size) ** 0.5
    assert np.abs(noise).max() > 0.999


@pytest.mark.parametrize("head", HEADS)
def test_mad_is_never_worse_than_no_attack_and_stronger_than_random(head):
    """Over 8 networks and 32 states; the mean KL of MAD is several times that of noise."""
    kl = {"mad": [], "random": []}
    for seed in range(8):
        policy = victim(head, seed)
        for name in kl:
            kl[name].append(measure(policy, STATES, attacked(name, policy, 0.1), "kl"))
    mad, random = (np.array(kl[name]) for name in ("mad", "random"))
    assert np.all(mad >= 0)
    assert np.mean(mad >= random) > 0.99
    assert np.all(mad.mean(axis=1) > 2 * random.mean(axis=1))


@pytest.mark.parametrize("head", HEADS)
def test_mad_grows_with_the_ball(head):
    policy = victim(head)
    distances = [
        measure(policy, STATES, attacked("mad", policy, eps), "distance").mean()
        for eps in (0.01, 0.03, 0.1, 0.3, 1.0)
    ]
    assert np.all(np.diff(distances) > 0)


def test_mad_works_in_a_small_ball_too():
    """D is linear in eps there: D / eps at 1e-5 is what it is at 1e-2, to 10 %.

    The KL of a move of 1e-5 is some 1e-10, so this needs a KL that does not cancel.
    """
    policy = victim("normal")
    gains = []
    for eps in (1e-2, 1e-5):
        moved = attacked("mad", policy, eps, config=MADConfig(steps=10, restarts=2))
        gains.append(measure(policy, STATES, moved, "distance") / eps)
    np.testing.assert_allclose(gains[1].mean(), gains[0].mean(), rtol=0.1)


@pytest.mark.parametrize("head", HEADS)
def test_mad_is_close_to_brute_force(head):
    """Two observations: the best KL on a grid of 201 x 201 points of the square."""
    policy = victim(head, obs_size=2)
    states, eps = STATES[:16, :2], 0.2
    ticks = np.linspace(-eps, eps, 201)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    around = [jnp.asarray(np.asarray(x) + grid, jnp.float32) for x in states]
    optimum = np.array(
        [measure(policy, x, y, "kl").max() for x, y in zip(states, around, strict=True)]
    )
    config = MADConfig(steps=20, restarts=32)
    moved = attacked("mad", policy, eps, states, config)
    reached = measure(policy, states, moved, "kl") / optimum
    assert np.all(reached > 0.99)
    assert np.all(reached < 1.01)  # a grid of this pitch misses little


def test_mad_attains_the_path_bound_of_a_linear_policy():
    """One action, mu = w x: the corner sign(w) eps gives D = |w|_1 eps / sigma."""
    policy = init_policy(jax.random.key(0), 4, 1, hidden=(), init_log_std=-1.0)
    policy.params.actor["layer_0"]["kernel"] = 100 * policy.params.actor["layer_0"]["kernel"]
    moved = attacked("mad", policy, 0.1)
    found = measure(policy, STATES, moved, "distance")
    value = certify(policy, prune(policy, "none", [0.0]), eps=0.1, bounds=["path"])["path"].value
    np.testing.assert_allclose(found, np.full(len(STATES), value[0]), rtol=1e-4)


@pytest.mark.parametrize("change", [{"steps": 3}, {"step_scale": 0.5}, {"restarts": 4}])
def test_every_setting_of_mad_counts(change):
    policy = victim("normal")
    default = attacked("mad", policy, 0.3)
    changed = attacked("mad", policy, 0.3, config=replace(MADConfig(), **change))
    assert not np.array_equal(default, changed)


def test_the_default_configuration():
    policy = victim("normal")
    assert set(vars(MADConfig())) == {"steps", "step_scale", "restarts"}
    explicit = attacked("mad", policy, 0.1, config=MADConfig())
    assert np.array_equal(attacked("mad", policy, 0.1), explicit)


@pytest.mark.parametrize("index", range(len(ATTACKS)))
def test_one_of_is_the_member_it_names(index):
    """The index is traced; the memory of the other members is left alone."""
    policy, members = victim("normal"), [make_attack(name) for name in ATTACKS]

    @jax.jit
    def run(index, key, x):
        attack = one_of(members, index)
        params = attack.prepare(jax.random.key(2), policy, ENV)
        memory = attack.init(params, jax.random.key(3))
        moved, after = attack.perturb(params, memory, key, policy, x, 0.1)
        assert jax.tree.structure(after) == jax.tree.structure(memory)
        return moved

    direct = jax.jit(attacker(list(ATTACKS)[index], policy))
    for key, x in zip(KEYS[:4], STATES[:4], strict=True):
        np.testing.assert_allclose(run(index, key, x), direct(key, x, 0.1), atol=1e-7)


def test_one_of_gives_each_member_its_own_memory():
    """Two attacks that count their steps: only the one in use counts."""

    def counting(start, move):
        return jaxprune.attacks.Attack(
            prepare=lambda *_: start,
            init=lambda params, key: jnp.int32(params),
            perturb=lambda params, memory, key, victim, x, eps: (x + move * memory, memory + 1),
        )

    attack = one_of([counting(10, 1.0), counting(20, -1.0)], jnp.int32(1))
    params = attack.prepare(KEYS[0], victim("normal"), ENV)
    memory = attack.init(params, KEYS[0])
    moved, memory = attack.perturb(params, memory, KEYS[0], victim("normal"), jnp.zeros(4), 1.0)
    assert moved.tolist() == [-20.0] * 4
    assert [int(m) for m in memory] == [10, 21]


def test_unknown_attack():
    with pytest.raises(InputError, match="did you mean 'mad'"):
        make_attack("mda")


@pytest.mark.parametrize("head", HEADS)
def test_one_program_serves_every_eps(head):
    policy, traces = victim(head), []
    run = attacker("mad", policy)

    @jax.jit
    def traced(key, x, eps):
        traces.append(1)
        return run(key, x, eps)

    reach = [np.max(np.abs(traced(KEYS[0], STATES[0], eps) - STATES[0])) for eps in (0.0, 0.1, 0.5)]
    assert len(traces) == 1
    np.testing.assert_allclose(reach, [0.0, 0.1, 0.5], atol=1e-6)  # MAD ends in a corner here


def test_partial_application_is_what_rollouts_use():
    """`partial(perturb, params)` has the signature of `jaxprune.rollout.Perturb`."""
    policy, attack = victim("normal"), make_attack("random")
    params = attack.prepare(KEYS[0], policy, ENV)
    perturb = partial(attack.perturb, params)
    moved, _ = perturb(attack.init(params, KEYS[0]), KEYS[1], policy, STATES[0], 0.1)
    assert moved.shape == (4,)
