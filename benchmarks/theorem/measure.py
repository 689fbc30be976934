"""What the theorem program prunes and measures: options, networks, sweeps, episodes."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.experiment.config import parse_grid
from benchmarks.theorem.findings import (
    ATTACK,
    JACOBIAN,
    MOVED,
    ONE_BY_ONE,
    RANDOM,
    RESCALED,
    TRUTH,
    Line,
    Network,
)
from benchmarks.theorem.robustness import BOUND, Along, Seen
from jaxprune.attacks import MADConfig
from jaxprune.cells import Cell, as_cells, masked_policy
from jaxprune.certify import BOUNDS, certify
from jaxprune.certify.query import Query, length, make_query
from jaxprune.devices import Mapped, map_population, take
from jaxprune.envs import Environment, make_env
from jaxprune.evaluation import visited
from jaxprune.evaluation.episodes import check_evaluation
from jaxprune.evaluation.evaluate import trajectories
from jaxprune.evaluation.pointwise import reached
from jaxprune.pgd import ascend
from jaxprune.policy import ACTIVATIONS, HEADS, affine_layers, init_policy, inverse_std, normalise
from jaxprune.policy_io import load_policy
from jaxprune.pruning import Scope, prune
from jaxprune.pruning.controls import rescaled
from jaxprune.pruning.scope import prunable_shapes
from jaxprune.types import AnyArray, Array, Key, Masks, Policy
from jaxprune.validation import SEED, InputError, Range, at_least, check_ranges, lookup


@dataclass(frozen=True)
class Options:
    """What to prune and what to bound."""

    out: Path
    """Folder for the tables, the figure and the report."""
    policies: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")] = ()
    """Trained policies, of any format that `jaxprune.load_policy` reads."""
    policy_stats: Path | None = None
    """Observation statistics of policies of another library."""
    policy_activation: str | None = None
    """Activation of policy files that do not say it, tanh or relu; default: tanh."""
    env: str | None = None
    """Task of the policies: local bounds are computed at states of their episodes."""
    random: Annotated[int, at_least(0, 1000)] = 0
    """Networks with Gaussian weights, at standard normal states."""
    sizes: Annotated[tuple[int, ...], at_least(1, 10_000)] = (11, 64, 64, 3)
    """Of their layers, inputs first."""
    activation: str = "tanh"
    """Of their hidden layers."""
    states: Annotated[int, at_least(1, 100_000)] = 64
    """States per network, at which every step is judged on its own."""
    episodes: Annotated[int, at_least(2, 10_000)] = 32
    """Episodes of each pruned policy, for F: the mean over the states that it visits."""
    visits: Annotated[int, at_least(1, 10_000)] = 8
    """States of each of these episodes."""
    eps: Annotated[float, Range(0, math.inf, "()")] = 0.075
    """Radius of the l_inf ball in normalised observation units."""
    sparsity_grid: str = "0:0.95:20"
    """Sparsities as START:STOP:COUNT, ends included, or a list; the dense network comes first."""
    orders: Annotated[int, at_least(1, 10_000)] = 4
    """Random orders of removal."""
    singles: Annotated[int, at_least(1, 100_000)] = 256
    """Steps that remove one weight each, in a random order."""
    bounds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = tuple(
        name for name, bound in BOUNDS.items() if not bound.slow
    )
    """Certificates; the slow ones only if named."""
    steps: Annotated[int, at_least(1, 10_000)] = 20
    """Gradient steps of the attack."""
    restarts: Annotated[int, at_least(1, 10_000)] = 4
    """Random starts of the attack."""
    seed: Annotated[int, SEED] = 0
    """Random seed of the whole run."""

    def check(self) -> None:
        """Raises `InputError` for settings that compare nothing."""
        check_ranges(self)
        if not self.policies and self.random < 1:
            raise InputError("nothing to prune: give --policies FILE ..., or --random 5")
        if self.policies and self.env is None:
            raise InputError("policies are looked at where they go: name their task with --env")
        if self.policy_stats is not None and not self.policies:
            raise InputError(f"policy statistics {self.policy_stats} belong to no --policies")
        if len({path.stem for path in self.policies}) < len(self.policies):
            raise InputError("two policies have the same name: the tables tell them by it")
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out} is no folder: choose another --out")
        if len(self.sizes) < 2:
            raise InputError(f"sizes {self.sizes} are of no layer: give inputs and outputs")
        last = self.seed + max(self.random - 1, 0)
        if last not in SEED:
            raise InputError(
                f"seeds {self.seed} .. {last} of the random networks leave {SEED}: give a smaller "
                "--seed"
            )
        for name in self.bounds:
            lookup(BOUNDS, name, "bound")
        lookup(ACTIVATIONS, self.activation, "activation")
        self.grid()

    def grid(self) -> list[float]:
        """Sparsities from 0 on."""
        grid = sorted({0.0, *parse_grid(self.sparsity_grid)})
        if len(grid) < 2:
            raise InputError(f"sparsity grid {self.sparsity_grid!r} removes nothing")
        return grid


# --- what is pruned -------------------------------------------------------------------------------


def networks(options: Options) -> Iterator[Network]:
    """The policies at states of their own episodes, then the random networks at normal ones."""
    policies = {
        path.stem: load_policy(path, options.policy_stats, options.policy_activation)
        for path in options.policies
    }
    if policies:
        env, key = make_env(str(options.env)), jax.random.key(options.seed)
        for policy in policies.values():
            check_evaluation(env, policy, options.eps)
        for name, policy in policies.items():
            obs = visited(env, policy, None, options.states, options.episodes, key)
            yield Network(name, name, policy, obs, env)
    shape = "-".join(map(str, options.sizes))
    group = f"{options.random} random {shape} {options.activation}"
    for i in range(options.random):
        seed = options.seed + i
        rng = np.random.default_rng([seed, 1])
        obs = rng.standard_normal((options.states, options.sizes[0]), np.float32)
        policy = gaussian_policy(seed, options.sizes, options.activation)
        yield Network(f"seed {seed}", group, policy, obs)


def gaussian_policy(seed: int, sizes: Sequence[int], activation: str) -> Policy:
    """Weights N(0, 1 / inputs), biases N(0, 0.01), drawn layer by layer; sigma = 1."""
    rng = np.random.default_rng(seed)
    actor = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        weight = rng.standard_normal((outputs, inputs)) / math.sqrt(inputs)
        bias = 0.1 * rng.standard_normal(outputs)
        actor[f"layer_{i}"] = {"kernel": jnp.asarray(weight.T, float), "bias": jnp.asarray(bias)}
    hidden = sizes[1:-1]
    policy = init_policy(
        jax.random.key(seed), sizes[0], sizes[-1], hidden=hidden, activation=activation
    )
    return replace(policy, params=policy.params._replace(actor=actor))


# Methods that prune a trained policy, as a curve each.
SWEEPS = ("magnitude", RANDOM)


class Sweep(NamedTuple):
    """Chains of nested masks."""

    name: str
    sparsity: list[float]  # [S]
    masks: Masks  # [chains, S]


def sweeps(policy: Policy, options: Options) -> Iterator[Sweep]:
    """One per method that prunes a trained policy, and one that removes single weights."""
    keys = jax.random.split(jax.random.key(options.seed), options.orders)
    for name in SWEEPS:
        chains = keys if name == RANDOM else keys[:1]
        yield Sweep(name, options.grid(), _chained(policy, name, options.grid(), chains))
    weights = sum(math.prod(shape) for shape in prunable_shapes(policy.params).values())
    counts = range(min(options.singles, weights - 1) + 1)
    one_by_one = [Fraction(count, weights) for count in counts]
    masks = _chained(policy, RANDOM, one_by_one, keys[:1])
    yield Sweep(ONE_BY_ONE, [float(x) for x in one_by_one], masks)


def _chained(policy: Policy, method: str, levels: list[Any], keys: Array) -> Masks:
    """Masks `[chains, S]`, a key per chain."""
    scope = Scope(min_weights=0)  # down to the last weight, wherever it is
    chains = [prune(policy, method, levels, key=key, scope=scope) for key in keys]
    return jax.tree.map(lambda *m: np.stack(m), *chains)


# --- what is measured -----------------------------------------------------------------------------


def study(network: Network, options: Options) -> Iterator[Line]:
    """All sweeps of a network in one call, then its rescaled copies."""
    found = list(sweeps(network.policy, options))
    # Not -1, which is unknown of the empty deviation of a policy that chooses.
    one = lambda m: m.reshape(m.shape[0] * m.shape[1], *m.shape[2:])  # noqa: E731
    flat = [jax.tree.map(one, sweep.masks) for sweep in found]
    together = jax.tree.map(lambda *m: np.concatenate(m), *flat)
    values, actions = measure(network.policy, together, network.obs, options)
    ends = np.cumsum([len(masks.log_std) for masks in flat])
    for sweep, first, last in zip(found, [0, *ends[:-1]], ends, strict=True):
        parts = [
            {
                name: x[first:last].reshape(-1, len(sweep.sparsity), x.shape[-1])
                for name, x in columns.items()
            }
            for columns in (values, actions)
        ]
        yield Line(network, sweep.name, sweep.sparsity, parts[0], actions=parts[1])
    for sweep in found:
        if sweep.name not in (RANDOM, ONE_BY_ONE):
            scaled = rescaled(network.policy, take(sweep.masks, 0))
            parts = [
                {name: x[None] for name, x in columns.items()}
                for columns in measure(scaled, None, network.obs, options)
            ]
            name = f"{sweep.name}, {RESCALED}"
            yield Line(network, name, sweep.sparsity, parts[0], baseline=True, actions=parts[1])


class Measured(NamedTuple):
    """Name -> `[N, states]` each, of global bounds `[N, 1]`."""

    values: dict[str, np.ndarray]  # D by every bound, the Jacobian norm, the attack's D
    actions: dict[str, np.ndarray]  # D in action units, of bounds and attack; empty for logits


def measure(policy: Policy, masks: Masks | None, obs: AnyArray, options: Options) -> Measured:
    """Returns what all tables are made of, at the same observations for every mask."""
    bounds = certify(policy, masks, eps=options.eps, obs=obs, bounds=options.bounds)

    def of_bounds(field: str) -> dict[str, np.ndarray]:
        values = {name: (getattr(bound, field), bound.scope) for name, bound in bounds.items()}
        return {n: x[:, :1] if scope == "global" else x for n, (x, scope) in values.items()}

    found = sensitivity(policy, masks, obs, options)
    values = of_bounds("value") | {name: found[name] for name in TRUTH}
    if HEADS[policy.distribution].discrete:
        return Measured(values, {})
    return Measured(values, of_bounds("action_distance") | {ATTACK: found[MOVED]})


def sensitivity(
    policy: Policy, masks: Masks | None, obs: AnyArray, options: Options
) -> dict[str, np.ndarray]:
    """What the bounds are about, `[N, states]` each, in float64: see `at_state`.

    Of the change, its length in action units.
    """
    with jax.enable_x64(True):
        wide = lambda x: np.asarray(x, "float64")  # noqa: E731
        _, policies, cells = as_cells(jax.tree.map(wide, policy), masks)
        program = _sensitivity_program(options.steps, options.restarts)
        shared = (policies, wide(obs), wide(options.eps), jax.random.key(options.seed))
        found = map_population(program, shared, cells, lanes_per_item=1, lanes=1)
    return found


@lru_cache(maxsize=4)
def _sensitivity_program(steps: int, restarts: int) -> Mapped:
    """`((policies, obs, eps, key), Cell) -> {name: [states]}`."""

    def of_cell(shared: tuple[Policy, Array, Array, Key], cell: Cell) -> dict[str, Array]:
        policies, obs, eps, key = shared
        policy = masked_policy(policies, cell)
        layers, inv_std = affine_layers(policy), inverse_std(policy)

        def at(obs: Array, key: Key) -> dict[str, Array]:
            radii = jnp.full(obs.shape, eps)
            query = make_query(layers, radii, inv_std, policy.activation, normalise(policy, obs))
            found = at_state(query, key, eps, steps, restarts)
            std = 1.0 if inv_std is None else 1 / inv_std
            return found | {MOVED: jnp.linalg.norm(found[MOVED] * std)}

        return jax.vmap(at)(obs, jax.random.split(key, len(obs)))

    return Mapped(of_cell)


def at_state(query: Query, key: Key, eps: Array, steps: int, restarts: int) -> dict[str, Array]:
    """||J(x)||_2 of the standardised outputs, the largest D that ascent found, and its change."""

    def outputs(x: Array) -> Array:
        *hidden, last = query.layers
        for weight, bias in hidden:
            x = ACTIVATIONS[query.activation](weight @ x + bias)
        return last.weight @ x + last.bias

    here = outputs(query.centre)
    distance = lambda x: length(query, outputs(x) - here)  # noqa: E731
    # A constant policy has no gradient but NaN; the best point is then the centre, and D is 0.
    step_size = 2.5 * eps / steps
    best = ascend(
        key, distance, query.centre, eps, steps=steps, step_size=step_size, restarts=restarts
    )
    norm = jnp.linalg.norm(jax.jacrev(outputs)(query.centre), ord=2)
    return {JACOBIAN: norm, ATTACK: distance(best), MOVED: outputs(best) - here}


# --- what is measured where each pruned policy goes -----------------------------------------------


def follow(network: Network, env: Environment, options: Options) -> Along:
    """Returns F and all that goes with it along magnitude pruning of a trained policy.

    Every pruned policy plays episodes of its own, `options.visits` steps of each are looked at,
    evenly spaced from a random start; the dense policy's steps are looked at with every mask too.
    """
    key_play, key_attack = jax.random.split(jax.random.key(options.seed))
    sweep = next(sweeps(network.policy, options))
    masks = take(sweep.masks, 0)
    played = trajectories(env, network.policy, masks, options.episodes, key_play)
    rng = np.random.default_rng([options.seed, 2])
    within = (np.arange(options.visits) + rng.random((options.episodes, 1))) / options.visits
    steps = (within * played.length[..., None]).astype(int)
    obs = np.take_along_axis(played.obs, steps[..., None], axis=-2)
    own, fixed = (
        _at_visits(network.policy, masks, x, played.length[levels], key_attack, options)
        for x, levels in ((obs, slice(None)), (np.broadcast_to(obs[:1], obs.shape), slice(1)))
    )
    return Along(network.name, sweep.sparsity, played.return_, own, fixed)


def _at_visits(
    policy: Policy, masks: Masks, obs: np.ndarray, length: np.ndarray, key: Key, options: Options
) -> Seen:
    """Returns what is seen at states `[S, episodes, k, obs_size]`, by the bounds that are fast."""
    rows = obs.reshape(len(obs), -1, obs.shape[-1])
    names = [name for name in options.bounds if not BOUNDS[name].slow]
    bounds = certify(policy, masks, options.eps, rows, names)
    config = MADConfig(steps=options.steps, restarts=options.restarts)
    attack = reached(policy, masks, options.eps, rows, key, config)
    least = np.min([bound.total_variation for bound in bounds.values()], axis=0)
    tv = {ATTACK: attack.total_variation, BOUND: least}
    actions = {ATTACK: attack.action_distance}
    moved = [x.action_distance for x in bounds.values() if x.action_distance is not None]
    if moved:
        actions[BOUND] = np.min(moved, axis=0)
    monotone = {
        name: bound.total_variation[:, 0] for name, bound in bounds.items() if bound.monotone
    }
    shape = obs.shape[:-1]
    return Seen(
        length=np.broadcast_to(length, shape[:2]),
        tv={name: x.reshape(shape) for name, x in tv.items()},
        actions={name: x.reshape(shape) for name, x in actions.items()},
        outputs=attack.outputs.reshape(*shape, -1),
        monotone=monotone,
    )
