"""The bounds by name, with what each of them proves, and `certify`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from typing import Annotated, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxprune.cells import Cell, as_cells, masked_policy
from jaxprune.certify import lipschitz, norms
from jaxprune.certify.activations import activation_rules
from jaxprune.certify.boxes import Box, enclosing
from jaxprune.certify.crown import alpha_crown, crown, interval_jacobian
from jaxprune.certify.divergence import TOTAL_VARIATION, categorical_tv_of_box, tv_of_oscillation
from jaxprune.certify.interval import ibp
from jaxprune.certify.query import Query, length, make_query, unit_ball_weights, with_rows
from jaxprune.certify.rounding import known, outward, product, slack
from jaxprune.devices import Mapped, map_evenly, map_population, take
from jaxprune.policy import HEADS, Affine, affine_layers, inverse_std, normalise
from jaxprune.types import AnyArray, Array, Masks, Policy, PyTree
from jaxprune.validation import ANY_RADIUS, InputError, check_arguments, lookup

# What a device bounds in one vectorised call; limits the memory of a large grid.
CHUNK = 256  # masks, of a global bound
ROWS = 256  # observations of one mask, of a local bound
# Powers of two that a product of one weight per layer stays above the least normal number.
MARGIN = 20
# The largest choice of actions over whose subsets the total variation is maximised exactly.
MOST_ENUMERATED = 8


class Bound(NamedTuple):
    """A way to bound how far the outputs of a query can move, and what is known of it."""

    bound: Callable[[Query], Any]
    """Global: Query -> [], an upper bound on D. Local: Query -> `Box` of the outputs."""
    monotone: bool
    """Removing weights can never raise it, bit for bit."""
    scope: str
    """Where it holds: "global" at every state, "local" at a given one."""
    norm: str
    """The norm it works in between layers."""
    slow: bool = False
    """Costs tens to hundreds of times its neighbours: computed only if asked for by name."""
    unit_slopes: bool = False
    """Holds only for activations with slopes in [0, 1]."""


Named: TypeAlias = tuple[tuple[str, Bound], ...]

BOUNDS: dict[str, Bound] = {
    "frobenius": Bound(norms.frobenius, monotone=True, scope="global", norm="l2"),
    "path": Bound(norms.path, monotone=True, scope="global", norm="linf"),
    "centre_free": Bound(norms.centre_free, monotone=True, scope="global", norm="linf"),
    "path_infinf": Bound(norms.path_infinf, monotone=True, scope="global", norm="linf"),
    "inf_product": Bound(norms.inf_product, monotone=True, scope="global", norm="linf"),
    "path_22": Bound(norms.path_22, monotone=True, scope="global", norm="l2"),
    "abs_spectral": Bound(norms.abs_spectral, monotone=True, scope="global", norm="l2"),
    "spectral": Bound(norms.spectral, monotone=False, scope="global", norm="l2"),
    "liplt": Bound(lipschitz.liplt, monotone=False, scope="global", norm="l2"),
    "eclipse_fast": Bound(
        lipschitz.eclipse_fast, monotone=False, scope="global", norm="l2", unit_slopes=True
    ),
    "lipsdp_first_order": Bound(
        lipschitz.lipsdp_first_order,
        monotone=False,
        scope="global",
        norm="l2",
        slow=True,
        unit_slopes=True,
    ),
    "ibp": Bound(ibp, monotone=False, scope="local", norm="linf"),
    "interval_jacobian": Bound(interval_jacobian, monotone=False, scope="local", norm="linf"),
    "crown": Bound(crown, monotone=False, scope="local", norm="linf"),
    "alpha_crown": Bound(alpha_crown, monotone=False, scope="local", norm="linf", slow=True),
}

# Arithmetic that a certificate can be computed in, and what it then proves.
SOUND = {
    "float64": "real arithmetic, computed in float64 and rounded outward",
    "float32": "real arithmetic, computed in float32 and rounded outward",
}


class Certificate(NamedTuple):
    """An upper bound on what any perturbation in the ball can do to the action distribution."""

    value: np.ndarray  # of D, `[...]` or `[..., rows of obs]`
    total_variation: np.ndarray  # the bound on TV that follows, same shape, in [0, 1]
    monotone: bool
    scope: str
    unit: str
    sound: str  # in which arithmetic the statement holds
    # None for a choice: on ||mu(s) - mu(s')||_2, whatever the standard deviations.
    action_distance: np.ndarray | None = None  # same shape, in the units of the action
    # Local bounds only, else None:
    low: np.ndarray | None = None  # of the mean action or the logits, `[..., rows, outputs]`
    high: np.ndarray | None = None
    fixed_action: np.ndarray | None = None  # bool: the likeliest action cannot change (categorical)


class Local(NamedTuple):
    """What a local bound says at one observation."""

    distance: Array  # []
    total_variation: Array  # []
    box: Box  # [outputs], of the mean action or the logits
    change: Array  # [outputs], at most, from the value at the observation
    fixed_action: Array | None  # bool []; None for a Gaussian policy


def certify(
    policy: Policy,
    masks: Masks | None = None,
    eps: Annotated[ArrayLike, ANY_RADIUS] = 0.0,
    obs: ArrayLike | None = None,
    bounds: Sequence[str] | Mapping[str, Bound] | None = None,
    precision: str = "float64",
) -> dict[str, Certificate]:
    """Certificates of masked policies, rounded outward.

    Args:
        policy: leading axes `[...]` are agents.
        masks: leading axes are those of the policy, then any number more; None for no pruning.
        eps: radius of the l_inf ball in normalised observation units, or one per coordinate.
        obs: raw observations `[n, obs_size]` that local bounds hold at, the same for every policy,
            or `[..., n, obs_size]` with the leading axes of the masks. A global bound is the same
            at each of them, and its value is repeated along a last axis. None: no such axis.
        bounds: keys of `BOUNDS`, or bounds by names of their own; default: all of `BOUNDS` that are
            not slow and hold for the activation, local ones if there are `obs`.
        precision: "float64", or "float32": faster, and a little looser.

    Returns:
        Name -> `Certificate`. All values bound the same D: standard deviations of the action
        (Gaussian) or logits (categorical). Standard deviations differ between policies: compare
        them in action units, `Certificate.action_distance`. Both are of the policy before its
        actions are clipped or squashed (`Policy.action_box`), and hold after it too: clipping and
        tanh map no two actions further apart, its scale to the box multiplies distances by half the
        width, and no function of the action raises the total variation.

    Raises:
        InputError: unknown bound or precision, a local bound without obs, a bound that does not
            hold for the activation, eps negative or beyond the clip range of the observations,
            weights or obs not finite, or axes that do not fit.
    """
    check_arguments(certify, locals())
    chosen = _chosen(bounds, obs, policy.activation)
    lookup(SOUND, precision, "precision")
    shape, policies, cells = as_cells(policy, masks)
    rows = check_certify(policy, eps, obs, shape)
    in_double = jax.enable_x64(True) if precision == "float64" else nullcontext()
    # Whatever the default of the process: TF32 products would make a bound unsound.
    with in_double, jax.default_matmul_precision("highest"):
        policies = jax.tree.map(lambda x: np.asarray(x, precision), policies)
        radius = np.broadcast_to(np.asarray(eps, precision), policies.obs_stats.mean.shape[-1:])
        shared = Shared(policies, radius)
        obs = None if obs is None else _per_cell(np.asarray(obs, precision), shape)
        wide, local = (_of_scope(chosen, scope) for scope in ("global", "local"))
        values = _run(_global_program, wide, CHUNK, shared, Item(cells, None))
        values |= _run(_local_program, local, 1, shared, Item(cells, obs))
    return {
        name: _certificate(values[name], bound, policy.distribution, precision, shape, rows)
        for name, bound in chosen.items()
    }


def _of_scope(bounds: Mapping[str, Bound], scope: str) -> Named:
    return tuple((name, bound) for name, bound in bounds.items() if bound.scope == scope)


def holds_for(bound: Bound, activation: str) -> bool:
    """Returns whether a bound holds for networks with this activation."""
    return not bound.unit_slopes or activation_rules(activation).steepest == 1


def check_bounds(bounds: Mapping[str, Bound], activation: str) -> None:
    """Raises `InputError` for a bound that does not hold for networks with this activation."""
    for name, bound in bounds.items():
        if not holds_for(bound, activation):
            raise InputError(
                f"bound {name!r} holds for activations with slopes in [0, 1] only, not for "
                f"{activation!r}: choose from "
                f"{', '.join(n for n, known in BOUNDS.items() if holds_for(known, activation))}"
            )


def _chosen(
    bounds: Sequence[str] | Mapping[str, Bound] | None, obs: ArrayLike | None, activation: str
) -> dict[str, Bound]:
    """The bounds that are asked for, by name."""
    if bounds is None:
        scopes = ("global",) if obs is None else ("global", "local")
        quick = (n for n, bound in BOUNDS.items() if bound.scope in scopes and not bound.slow)
        bounds = [name for name in quick if holds_for(BOUNDS[name], activation)]
    if isinstance(bounds, Mapping):
        found = dict(bounds)
    else:
        found = {name: lookup(BOUNDS, name, "bound") for name in bounds}
    check_bounds(found, activation)
    local = _of_scope(found, "local")
    if local and obs is None:
        raise InputError(
            f"bound {local[0][0]!r} holds at given observations only: pass obs, or choose "
            f"from {', '.join(n for n, bound in BOUNDS.items() if bound.scope == 'global')}"
        )
    return found


def check_certify(policy: Policy, eps: Any, obs: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the axis of the observations, (n,) or (); raises what `certify` raises."""
    size = policy.obs_stats.mean.shape[-1]
    if np.shape(eps) not in ((), (size,)):
        raise InputError(f"eps has shape {np.shape(eps)}: give one radius, or {size}, one each")
    if np.any(np.asarray(eps) > policy.obs_clip):
        raise InputError(
            f"eps {eps} is larger than the range that observations are clipped to, "
            f"+-{policy.obs_clip:g}: give a radius in normalised units"
        )
    if obs is not None and (
        np.shape(obs)[-1:] != (size,) or np.shape(obs)[:-2] not in ((), shape) or np.ndim(obs) < 2
    ):
        raise InputError(
            f"obs has shape {np.shape(obs)}: give rows of {size} raw observations, the same for "
            f"every policy or with leading axes {shape}"
        )
    numbers = (policy.params.actor, policy.params.log_std)
    if not all(np.all(np.isfinite(x)) for x in jax.tree.leaves(numbers)):
        raise InputError("the policy has weights that are not finite: nothing can be certified")
    if obs is not None and not np.all(np.isfinite(obs)):
        raise InputError("obs has entries that are not finite: nothing can be certified there")
    return () if obs is None else (np.shape(obs)[-2],)


class Shared(NamedTuple):
    """What all cells of a call have in common."""

    policies: Policy  # [agents]
    eps: AnyArray  # [obs_size]


class Item(NamedTuple):
    """One cell and where to look at it."""

    cell: Cell
    obs: Any  # raw [n, obs_size]; None for global bounds


def _per_cell(obs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Observations `[N, n, obs_size]`."""
    return np.broadcast_to(obs, (*shape, *obs.shape[-2:])).reshape(-1, *obs.shape[-2:])


def _run(
    program: Callable[[Named], Mapped],
    bounds: Named,
    widest: int,
    shared: Shared,
    items: Item,
) -> dict[str, Any]:
    """Name -> values of every cell, `[N, ...]`, computed on all devices.

    The population is padded to whole chunks, because a program for the remainder could add up in
    another order, and bounds that are monotone bit for bit would no longer be.
    """
    if not bounds:
        return {}
    return map_population(program(bounds), shared, items, lanes_per_item=1, lanes=widest)


@lru_cache(maxsize=32)
def _global_program(bounds: Named) -> Mapped:
    """`(Shared, Item) -> {name: (D, TV, D in action units)}`."""

    def of_cell(shared: Shared, item: Item) -> dict[str, tuple[Array, Array, Array]]:
        policy = masked_policy(shared.policies, item.cell)
        queries = [policy_query(x, shared.eps) for x in (policy, _with_unit_std(policy))]
        both = jax.tree.map(lambda *x: jnp.stack(x), *queries)
        found = {
            name: jax.vmap(lambda query, b=bound: _sound(b.bound(query), query))(both)
            for name, bound in bounds
        }
        to_tv = TOTAL_VARIATION[policy.distribution]
        return {name: (d, to_tv(d), action) for name, (d, action) in found.items()}

    return Mapped(of_cell)


@lru_cache(maxsize=32)
def _local_program(bounds: Named) -> Mapped:
    """`(Shared, Item) -> {name: Local [n]}`."""

    def of_cell(shared: Shared, item: Item) -> dict[str, Local]:
        policy = masked_policy(shared.policies, item.cell)

        def at(obs: Array) -> dict[str, Local]:
            query = policy_query(policy, shared.eps, normalise(policy, obs))
            to_local = partial(LOCAL[policy.distribution], query=query)
            return {name: to_local(partial(_box, bound.bound)) for name, bound in bounds}

        found = map_evenly(at, item.obs, ROWS)
        return {name: _in_action_units(policy, local) for name, local in found.items()}

    return Mapped(of_cell)


def policy_query(policy: Policy, eps: Array, centre: Array | None = None) -> Query:
    """Returns the query about one policy, standardised if it is Gaussian."""
    layers, inv_std = affine_layers(policy), inverse_std(policy)
    if inv_std is None:
        return make_query(layers, eps, None, policy.activation, centre)
    # As `make_query` folds it, but that no number becomes 0 and no 0 becomes NaN.
    inv_std = jnp.maximum(inv_std, jnp.finfo(inv_std.dtype).tiny)
    *hidden, (weight, bias) = layers
    last = Affine(product(weight, inv_std[:, None]), product(bias, inv_std))
    query = make_query((*hidden, last), eps, None, policy.activation, centre)
    return replace(query, norm="l2")


def _with_unit_std(policy: Policy) -> Policy:
    """The policy with standard deviations of 1: its D is in action units."""
    log_std = jnp.zeros_like(policy.params.log_std)
    return replace(policy, params=policy.params._replace(log_std=log_std))


def _sound(distance: Array, query: Query) -> Array:
    """A computed bound on D as one that holds: infinite if NaN, and above 0 if anything can move.

    Where weights that are not 0 lead from an input that can move to an output, a D of 0 is one that
    became too small to be a number.
    """
    reach = query.eps > 0
    for weight, _ in query.layers:
        reach = jnp.any((weight != 0) & reach, axis=-1)
    least = jnp.where(jnp.any(reach), jnp.finfo(distance.dtype).tiny, 0.0)
    return jnp.maximum(known(distance), least)


def _box(bound: Callable[[Query], Box], query: Query) -> Box:
    """The box of a local bound, or that of intervals where products of the layers vanish.

    Interval arithmetic allows for that in every layer; bounds that multiply layers first do not.
    """
    powers = [jnp.log2(jnp.abs(w)) for w in unit_ball_weights(query)]  # -inf of 0: removed
    least = sum(jnp.min(jnp.where(jnp.isfinite(x), x, 0.0)) for x in powers)
    ordinary = least > jnp.finfo(query.eps.dtype).minexp + MARGIN
    return jax.tree.map(partial(jnp.where, ordinary), bound(query), ibp(query))


def gaussian_local(
    bound: Callable[[Query], Box], query: Query, distribution: str = "normal"
) -> Local:
    """D and TV from the box of the standardised mean."""
    box = bound(query)
    change = furthest(box, centre_value(query))
    distance = length(query, change)
    distance = _sound(outward(distance, distance.size), query)
    return Local(distance, TOTAL_VARIATION[distribution](distance), box, change, None)


def _categorical_local(bound: Callable[[Query], Box], query: Query) -> Local:
    """D from the box of the logits, TV and the likeliest action from their differences too."""
    actions = query.layers[-1].bias.size
    # The logits z_i, then a row per ordered pair of actions: z_i - z_j.
    one_hot = jnp.eye(actions, dtype=query.eps.dtype)
    pairs = (one_hot[:, None] - one_hot[None]).reshape(-1, actions)
    query = with_rows(query, jnp.concatenate([one_hot, pairs]))
    (box, gaps), (at, gaps_at) = (
        tuple(take(found, of) for of in (slice(actions), slice(actions, None)))
        for found in (bound(query), centre_value(query))
    )
    change = furthest(box, at)
    distance = _sound(outward(length(query, change), 1), query)
    oscillation = known(jnp.max(gaps.high - gaps_at.low))
    tv = jnp.minimum(tv_of_oscillation(oscillation), TOTAL_VARIATION["categorical"](distance))
    if actions <= MOST_ENUMERATED:
        tv = jnp.minimum(tv, known(categorical_tv_of_box(at, box)))
    best = jnp.argmax(at.low + at.high)
    ahead = gaps.low.reshape(actions, actions)[best] > 0
    fixed = jnp.all(ahead | (jnp.arange(actions) == best))
    return Local(distance, tv, box, change, fixed)


# By `Policy.distribution`.
LOCAL: dict[str, Callable[..., Local]] = {
    "normal": gaussian_local,
    "categorical": _categorical_local,
    "deterministic": partial(gaussian_local, distribution="deterministic"),
}


def centre_value(query: Query) -> Box:
    """The outputs at the centre, enclosed."""
    return ibp(replace(query, eps=jnp.zeros_like(query.eps)))


def furthest(box: Box, at: Box) -> Array:
    """The largest change of each output from its value at the centre, `[outputs]`."""
    return jnp.maximum(jnp.maximum(box.high - at.low, at.high - box.low), 0.0)


def _in_action_units(policy: Policy, local: Local) -> Local:
    """The box and the change of the standardised mean as those of the mean."""
    if HEADS[policy.distribution].discrete:
        return local
    std = jnp.maximum(jnp.exp(policy.params.log_std), jnp.finfo(local.change.dtype).tiny)
    low, high = (end * std for end in local.box)
    lost = slack(2, low.dtype)
    box = Box(low - lost * jnp.abs(low), high + lost * jnp.abs(high))
    change = known(outward(product(local.change, std), 2))
    return local._replace(box=enclosing(box), change=change)


def _certificate(
    found: PyTree,
    bound: Bound,
    distribution: str,
    precision: str,
    shape: tuple[int, ...],
    rows: tuple[int, ...],
) -> Certificate:
    head = HEADS[distribution]
    facts = (bound.monotone, bound.scope, head.unit, SOUND[precision])
    if bound.scope == "global":
        repeated = (np.reshape(v, shape + (1,) * len(rows)) for v in found)
        distance, tv, action = (np.broadcast_to(v, shape + rows) for v in repeated)
        return Certificate(distance, tv, *facts, None if head.discrete else action)
    found = jax.tree.map(lambda v: v.reshape(*shape, *v.shape[1:]), found)
    with np.errstate(over="ignore"):  # beyond all numbers it is infinite
        length = np.hypot.reduce(found.change, axis=-1)
    action = np.asarray(outward(length, found.change.shape[-1]))
    return Certificate(
        found.distance,
        found.total_variation,
        *facts,
        None if head.discrete else action,
        low=found.box.low,
        high=found.box.high,
        fixed_action=found.fixed_action,
    )
