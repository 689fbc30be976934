"""Every attack stays in its ball and below the certificates; MAD does what it is for."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.attacks import (
    ATTACKS,
    AdversaryConfig,
    Attack,
    AttackConfig,
    DirectorConfig,
    Kind,
    MADConfig,
    SarsaConfig,
    SearchConfig,
    Victims,
    make_attack,
    one_of,
)
from jaxprune.attacks.base import lowest, memoryless
from jaxprune.attacks.coupled import coupled
from jaxprune.attacks.members import blanks, prepared
from jaxprune.cells import as_cells
from jaxprune.certify import certify
from jaxprune.envs import Moment
from jaxprune.policy import action_distribution, init_policy
from jaxprune.pruning import mask_policy, prune
from jaxprune.validation import InputError
from tests.attacks.victims import tanh_policy
from tests.probes import Wander

HEADS = ["normal", "categorical"]
ENVS = {head: Wander(discrete=head == "categorical") for head in HEADS}
STATES = jnp.asarray(np.random.default_rng(0).standard_normal((32, 4)), jnp.float32)
KEYS = jax.random.split(jax.random.key(1), len(STATES))
# Attacks that can be run against a head, and budgets at which all of them are run.
POSSIBLE = [
    (name, head)
    for name, kind in ATTACKS.items()
    for head in HEADS
    if head == "normal" or "continuous" not in kind.needs
]
TINY = AttackConfig(
    mad=MADConfig(steps=6),
    director=DirectorConfig(individuals=8, episodes=1, generations=1),
    search=SearchConfig(queries=16, generations=2, clone_steps=256, clone_epochs=1),
    rs=SarsaConfig(
        steps=256, num_envs=8, epochs=1, batch=64, radii=(0.1,), weights=(1.0,), rounds=2
    ),
    adversary=AdversaryConfig(
        steps=64,
        num_envs=4,
        unroll=16,
        epochs=1,
        minibatches=1,
        starts=("fresh",),  # tests/attacks/test_demonstrations.py has those that imitate
        learning_rates=(1e-3,),
        log_stds=(-0.5,),
    ),
)
every_attack = pytest.mark.parametrize(("name", "head"), POSSIBLE)


@cache
def victim(head: str, masked: bool = False):
    policy = tanh_policy(head)
    return mask_policy(policy, prune(policy, "magnitude", 0.5)) if masked else policy


@cache
def tiny(name: str) -> Attack:
    return make_attack(name, TINY)


def params_of(name: str, head: str, masked: bool = False):
    """What an attack knows of a victim after a tiny preparation; the first member's."""
    return _params_of(name, head, masked)


@cache
def _params_of(name: str, head: str, masked: bool):
    _, policies, cells = as_cells(*jax.device_get((victim(head, masked=masked), None)))
    source = jax.tree.map(lambda x: np.asarray(x)[None], tanh_policy(head, seed=1))
    victims = Victims(ENVS[head], policies, cells, 0.1, jax.random.key(2), source=source)
    return jax.tree.map(lambda x: x[0, 0], prepared(tiny(name), victims))


def run_attack(attack: Attack, head: str, params, policy, key, x, eps):
    """x' at the start of an episode."""
    env = ENVS[head]
    memory = attack.init(params, jax.random.key(3))
    moment = Moment(env, env.reset(key)[0])
    return attack.perturb(params, memory, key, policy, x, eps, moment)[0]


@cache
def program(name: str, head: str):
    """(params, policy, keys, states, eps) -> perturbed states, compiled once each."""
    run = partial(run_attack, tiny(name), head)
    return jax.jit(jax.vmap(run, in_axes=(None, None, 0, 0, None)))


def attacked(name: str, head: str, eps, states=STATES, masked: bool = False):
    """The perturbed states, one key each, `[n, obs_size]`."""
    params, policy = params_of(name, head, masked), victim(head, masked=masked)
    return program(name, head)(params, policy, KEYS, states, jnp.float32(eps))


def attacked_alone(name: str, head: str, eps) -> np.ndarray:
    """The first of them, without vmap or jit."""
    params, policy = params_of(name, head), victim(head)
    moved = run_attack(tiny(name), head, params, policy, KEYS[0], STATES[0], np.float32(eps))
    return np.asarray(moved)


@cache
def moving(name: str, config: MADConfig):
    """(policy, keys, states, eps) -> perturbed states under an attack without preparation."""
    perturb = make_attack(name, AttackConfig(mad=config)).perturb
    run = lambda policy, key, x, eps: perturb((), (), key, policy, x, eps)[0]  # noqa: E731
    return jax.jit(jax.vmap(run, in_axes=(None, 0, 0, None)))


def moved_by(name: str, policy, eps, states=STATES, config: MADConfig | None = None):
    """The states that an attack without preparation shows a victim of any size."""
    keys = KEYS if len(states) == len(KEYS) else jax.random.split(jax.random.key(1), len(states))
    return moving(name, config or MADConfig())(policy, keys, states, jnp.float32(eps))


@jax.jit
def distances(policy, states, moved):
    """KL and D between the action distributions at two lists of states, `[n]` each."""

    def one(x, y):
        clean, other = action_distribution(policy, x), action_distribution(policy, y)
        return {"kl": clean.kl(other), "distance": clean.distance(other)}

    return jax.vmap(one)(states, moved)


def measure(policy, states, moved, what: str) -> np.ndarray:
    """KL or D between the action distributions at two lists of states, `[n]`.

    Reduced by numpy, outside: XLA:CPU of jaxlib 0.10.2 loses the tail of a long maximum over sums
    (`jit(lambda y: jnp.max(jnp.sum(p * y, -1)))`), and an oracle must be right.
    """
    states = np.broadcast_to(states, np.shape(moved))
    return np.asarray(distances(policy, states, moved)[what])


@jax.jit
def likeliest(policy, states):
    """The action of every state without a draw, `[n]`."""
    return jax.vmap(lambda x: action_distribution(policy, x).mode())(states)


@cache
def bounds_of(head: str, masked: bool, eps: float):
    policy = victim(head, masked=masked)
    return certify(policy, prune(policy, "none", [0.0]), eps=eps)


@pytest.mark.parametrize("masked", [False, True])
@every_attack
def test_contract_inside_the_ball_and_below_every_certificate(name, head, masked):
    policy = victim(head, masked=masked)
    for eps in (0.02, 0.3):
        moved = attacked(name, head, eps, masked=masked)
        assert moved.shape == STATES.shape and moved.dtype == STATES.dtype
        assert np.max(np.abs(moved - STATES)) <= eps + 1e-6
        found = np.max(measure(policy, STATES, moved, "distance"))
        assert all(found <= bound.value[0] for bound in bounds_of(head, masked, eps).values())


def saturated(head: str, kind: str):
    """The victim with logits of 1e3, a deviation of e^-50 or e^10, or weights of 1e12."""
    policy = victim(head)
    actor = policy.params.actor
    scaled = lambda names, factor: {  # noqa: E731
        name: layer | {"kernel": layer["kernel"] * (factor if name in names else 1)}
        for name, layer in actor.items()
    }
    params, activation = policy.params, policy.activation
    if kind == "logits":
        params = params._replace(actor=scaled(["layer_2"], 1e3))
    elif kind in ("narrow", "wide"):
        log_std = jnp.full_like(params.log_std, -50.0 if kind == "narrow" else 10.0)
        params = params._replace(log_std=log_std)
    else:
        params, activation = params._replace(actor=scaled(actor, 1e12)), kind
    return replace(policy, params=params, activation=activation)


def assert_in_the_ball(moved, states, eps):
    """Exactly, in the arithmetic of the attacks."""
    low, high = np.asarray(states) - np.float32(eps), np.asarray(states) + np.float32(eps)
    assert np.all(np.isfinite(moved)) and np.all(moved >= low) and np.all(moved <= high)


SATURATED = {"normal": ("narrow", "wide", "tanh"), "categorical": ("logits", "tanh")}
# Quick ones that look at the policy in different ways; another activation is another program.
RELU = ("mad", "fgsm", "mad_sgld", "evolution", "paad")


@every_attack
def test_contract_whatever_the_policy_nothing_leaves_the_ball(name, head):
    """fgsm, mad_power and mad_sgld showed NaN to policies that are sure of themselves."""
    params = params_of(name, head)
    for kind in SATURATED[head]:
        policy = saturated(head, kind)
        moved = program(name, head)(params, policy, KEYS, STATES, jnp.float32(0.3))
        assert_in_the_ball(moved, STATES, 0.3)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        pytest.param(name, head, marks=[] if name in RELU else pytest.mark.slow)
        for name, head in POSSIBLE
    ],
)
def test_contract_nothing_leaves_the_ball_of_a_policy_that_overflows(name, head):
    """ReLU layers of weights of 1e12: outputs are infinite, and their differences NaN."""
    policy, params = saturated(head, "relu"), params_of(name, head)
    moved = program(name, head)(params, policy, KEYS, STATES, jnp.float32(0.3))
    assert_in_the_ball(moved, STATES, 0.3)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 5.0])
def test_an_attack_of_ones_own_cannot_leave_the_ball_either(bad, monkeypatch):
    rogue = memoryless(lambda key, victim, x, eps: x.at[0].set(bad).at[1].add(eps / 2))
    monkeypatch.setitem(ATTACKS, "rogue", Kind(lambda _: rogue, "leaves"))
    for attack in (make_attack("rogue"), coupled(rogue, rate=2.0)):
        memory = attack.init((), KEYS[0]) if attack.init is rogue.init else None
        if memory is None:
            start = attack.blank(victim("normal"), ENVS["normal"].spec)
            memory = attack.init(start, KEYS[0])
        moved, after = attack.perturb(
            () if attack.init is rogue.init else start, memory, KEYS[0], None, STATES[0], 0.25
        )
        expected = STATES[0].at[1].add(0.125)
        if not np.isnan(bad):
            expected = expected.at[0].add(0.25)
        np.testing.assert_array_equal(moved, expected)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(after))


@pytest.mark.parametrize("name", ["mad", "search", "evolution"])
def test_a_confident_policy_is_attacked_as_well_as_a_doubtful_one(name):
    """Logits times 40 change no likeliest action, and must not change whether it can be changed.

    KL(p || q) was NaN as soon as a choice became e^88 times as likely, and no action flipped.
    """

    def flipped(scale: float) -> int:
        policy = victim("categorical")
        last = jax.tree.map(lambda x: scale * x, policy.params.actor["layer_2"])
        actor = policy.params.actor | {"layer_2": last}
        policy = replace(policy, params=policy.params._replace(actor=actor))
        moved = program(name, "categorical")((), policy, KEYS, STATES, jnp.float32(0.5))
        before, after = (np.asarray(likeliest(policy, states)) for states in (STATES, moved))
        return int(np.sum(before != after))

    doubtful = flipped(1)
    assert doubtful >= 10 and flipped(40) >= 0.8 * doubtful


@every_attack
def test_contract_no_ball_no_change(name, head):
    """eps = 0 is the identity, bit for bit, whether eps is traced or not."""
    moved = attacked(name, head, 0.0)
    assert np.asarray(moved).tobytes() == np.asarray(STATES).tobytes()
    assert attacked_alone(name, head, 0.0).tobytes() == np.asarray(STATES[0]).tobytes()


@every_attack
def test_contract_the_key_decides(name, head):
    same = np.tile(STATES[0], (len(KEYS), 1))
    moved, again = (np.asarray(attacked(name, head, 0.1, same)) for _ in range(2))
    assert moved.tobytes() == again.tobytes()
    assert not np.array_equal(moved[0], same[0]) or name == "none"
    if name == "random":
        assert not np.array_equal(moved[0], moved[1])


@every_attack
def test_contract_vmap_and_jit_are_the_loop(name, head):
    """And a row does not depend on its place or its neighbours."""
    batch = np.asarray(attacked(name, head, 0.1))
    np.testing.assert_allclose(attacked_alone(name, head, 0.1), batch[0], rtol=0, atol=1e-6)
    params, policy = params_of(name, head), victim(head)
    others = program(name, head)(params, policy, KEYS[::-1], STATES[::-1], jnp.float32(0.1))
    np.testing.assert_allclose(others[::-1], batch, rtol=0, atol=1e-6)


@every_attack
def test_contract_the_memory_keeps_its_structure(name, head):
    """An episode is a loop: what is remembered must be able to be its carry."""
    policy, attack, params = victim(head), tiny(name), params_of(name, head)
    start = attack.init(params, jax.random.key(1))
    moment = Moment(ENVS[head], ENVS[head].reset(KEYS[0])[0])

    def step(memory, key_and_x):
        key, x = key_and_x
        moved, memory = attack.perturb(params, memory, key, policy, x, 0.1, moment)
        return memory, moved

    end, moved = jax.eval_shape(partial(jax.lax.scan, step), start, (KEYS, STATES))
    assert jax.tree.structure(end) == jax.tree.structure(start)
    assert moved.shape == STATES.shape


@every_attack
def test_contract_blank_parameters_have_the_shapes_of_prepared_ones(name, head):
    """One compiled program holds all attacks, the unprepared ones with fillers."""
    (blank,) = blanks([tiny(name)], victim(head), ENVS[head].spec, 1)
    ready = params_of(name, head)
    assert jax.tree.structure(blank) == jax.tree.structure(ready)
    for filler, real in zip(jax.tree.leaves(blank), jax.tree.leaves(ready), strict=True):
        assert filler.shape[1:] == np.shape(real)
        assert filler.dtype == np.asarray(real).dtype


@every_attack
def test_contract_what_an_attack_spends_is_told(name, head):
    """Whatever looks at the policy says so; whatever is trained counts its steps."""
    attack = tiny(name)
    looks = attack.cost.queries + attack.cost.gradients > 0
    assert looks == (name not in ("none", "random", "corners", "gaussian", "fixed"))
    trains = attack.prepare is not None and name not in ("transfer", "mad_coupled", "direction")
    assert (attack.cost.env_steps + attack.cost.trials > 0) == trains


def test_random_fills_the_ball_evenly():
    """Uniform on [-1, 1] eps: mean 0, variance 1/3, within 5 standard errors of 40 000 draws."""
    policy = victim("normal")
    states = jnp.zeros((10_000, 4))
    noise = np.asarray(moved_by("random", policy, 0.5, states)) / 0.5
    assert abs(noise.mean()) < 5 * (1 / 3 / noise.size) ** 0.5
    assert abs((noise**2).mean() - 1 / 3) < 5 * (4 / 45 / noise.size) ** 0.5
    assert np.abs(noise).max() > 0.999


@pytest.mark.parametrize("head", HEADS)
def test_mad_is_never_worse_than_no_attack_and_stronger_than_random(head):
    """Over 8 networks and 32 states; the mean KL of MAD is several times that of noise."""
    kl = {"mad": [], "random": []}
    for seed in range(8):
        policy = tanh_policy(head, seed)
        for name in kl:
            kl[name].append(measure(policy, STATES, moved_by(name, policy, 0.1), "kl"))
    mad, random = (np.array(kl[name]) for name in ("mad", "random"))
    assert np.all(mad >= 0)
    assert np.mean(mad >= random) > 0.99
    assert np.all(mad.mean(axis=1) > 2 * random.mean(axis=1))


@pytest.mark.parametrize("head", HEADS)
def test_mad_grows_with_the_ball(head):
    policy = victim(head)
    distances = [
        measure(policy, STATES, moved_by("mad", policy, eps), "distance").mean()
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
        moved = moved_by("mad", policy, eps, config=MADConfig(steps=10, restarts=2))
        gains.append(measure(policy, STATES, moved, "distance") / eps)
    np.testing.assert_allclose(gains[1].mean(), gains[0].mean(), rtol=0.1)


@pytest.mark.parametrize("head", HEADS)
def test_mad_is_close_to_brute_force(head):
    """Two observations: the best KL on a grid of 201 x 201 points of the square."""
    policy = tanh_policy(head, obs_size=2)
    states, eps = STATES[:16, :2], 0.2
    ticks = np.linspace(-eps, eps, 201)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    around = [np.float32(np.asarray(x) + grid) for x in states]
    optimum = np.array(
        [measure(policy, x, y, "kl").max() for x, y in zip(states, around, strict=True)]
    )
    config = MADConfig(steps=20, restarts=32)
    moved = moved_by("mad", policy, eps, states, config)
    reached = measure(policy, states, moved, "kl") / optimum
    assert np.all(reached > 0.99)
    assert np.all(reached < 1.01)  # a grid of this pitch misses little


def test_mad_attains_the_path_bound_of_a_linear_policy():
    """One action, mu = w x: the corner sign(w) eps gives D = |w|_1 eps / sigma."""
    policy = init_policy(jax.random.key(0), 4, 1, hidden=(), init_log_std=-1.0)
    policy.params.actor["layer_0"]["kernel"] = 100 * policy.params.actor["layer_0"]["kernel"]
    moved = moved_by("mad", policy, 0.1)
    found = measure(policy, STATES, moved, "distance")
    value = certify(policy, prune(policy, "none", [0.0]), eps=0.1, bounds=["path"])["path"].value
    np.testing.assert_allclose(found, np.full(len(STATES), value[0]), rtol=1e-4)


@pytest.mark.parametrize("change", [{"steps": 3}, {"step_scale": 0.5}, {"restarts": 4}])
def test_every_setting_of_mad_counts(change):
    policy = victim("normal")
    default = moved_by("mad", policy, 0.3)
    changed = moved_by("mad", policy, 0.3, config=replace(MADConfig(), **change))
    assert not np.array_equal(default, changed)


def test_the_default_configuration():
    policy = victim("normal")
    assert set(vars(MADConfig())) == {"steps", "step_scale", "restarts"}
    explicit = moved_by("mad", policy, 0.1, config=MADConfig())
    assert np.array_equal(moved_by("mad", policy, 0.1), explicit)


@cache
def all_in_one():
    """(index, params of all, key, x) -> x': one program of every attack on the Gaussian victim."""
    members, policy = [tiny(name) for name in ATTACKS], victim("normal")

    def run(index, params, key, x):
        return run_attack(one_of(members, index), "normal", params, policy, key, x, 0.1)

    return jax.jit(run)


@pytest.mark.parametrize("name", ATTACKS)
def test_one_of_is_the_member_it_names(name):
    """The index is traced."""
    index, params = list(ATTACKS).index(name), tuple(params_of(n, "normal") for n in ATTACKS)
    moved = [all_in_one()(index, params, KEYS[row], STATES[row]) for row in range(8)]
    np.testing.assert_allclose(moved, attacked(name, "normal", 0.1)[:8], atol=1e-7)


def test_one_of_gives_each_member_its_own_memory():
    """Two attacks that count their steps: only the one in use counts."""

    def counting(move):
        return Attack(
            perturb=lambda params, memory, key, victim, x, eps: (x + move * memory, memory + 1),
            init=lambda params, key: jnp.int32(params),
            blank=lambda *_: 0,
        )

    attack = one_of([counting(1.0), counting(-1.0)], jnp.int32(1))
    memory = attack.init((10, 20), KEYS[0])
    moved, memory = attack.perturb((10, 20), memory, KEYS[0], victim("normal"), jnp.zeros(4), 1.0)
    assert moved.tolist() == [-20.0] * 4
    assert [int(m) for m in memory] == [10, 21]


def test_the_member_with_the_lowest_finite_return_is_used():
    """`argmin` takes NaN for the least of all."""
    returns = np.array([[np.nan, 2.0, 1.0], [3.0, -np.inf, 5.0], [np.nan] * 3])
    assert lowest(returns).tolist() == [2, 0, 0]


def test_unknown_attack():
    with pytest.raises(InputError, match="did you mean 'mad'"):
        make_attack("mda")


@pytest.mark.parametrize("head", HEADS)
def test_one_program_serves_every_eps(head):
    reach = [np.max(np.abs(attacked("mad", head, 0.0) - STATES))]
    programs = program("mad", head)._cache_size()
    reach += [np.max(np.abs(attacked("mad", head, eps)[0] - STATES[0])) for eps in (0.1, 0.5)]
    assert program("mad", head)._cache_size() == programs
    np.testing.assert_allclose(reach, [0.0, 0.1, 0.5], atol=1e-6)  # MAD ends in a corner here


def test_partial_application_is_what_rollouts_use():
    """`partial(perturb, params)` has the signature of `jaxprune.rollout.Perturb`."""
    policy, attack = victim("normal"), make_attack("random")
    perturb = partial(attack.perturb, ())
    moved, _ = perturb(attack.init((), KEYS[0]), KEYS[1], policy, STATES[0], 0.1, None)
    assert moved.shape == (4,)
