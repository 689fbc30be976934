"""The certify stage: every bound of every cell, and what follows from it for the return.

Global bounds hold at every state. Local ones are computed at the states that the unattacked
episodes visited, and an attack is run at the same states, so that every upper bound has its lower
bound beside it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.analysis.bounds import ACTION_DISTANCE, ACTION_SPREAD, ATTACK_ROWS
from benchmarks.analysis.curves import CONFIDENCE
from benchmarks.analysis.meaning import spread_of
from benchmarks.experiment.config import Experiment
from benchmarks.experiment.design import CERTIFY, key_for
from benchmarks.runtime.arrays import joined, under
from benchmarks.runtime.checkpoints import Progress, Work
from benchmarks.stages.base import (
    Columns,
    Population,
    blocks,
    by_radius,
    described,
    finite,
    repeated,
)
from benchmarks.stages.visitation import Visits, discounted, shares, summary
from jaxprune.attacks import MADConfig
from jaxprune.certify import (
    BOUNDS,
    Certificate,
    ValueBound,
    attacked_return,
    certified_return,
    certify,
    finite_value_gap,
    on_policy_value_gap,
    sampled_value_gap,
    vacuity,
    value_gap,
)
from jaxprune.devices import take
from jaxprune.envs import EnvSpec
from jaxprune.evaluation.pointwise import Reached, reached
from jaxprune.statistics.concentration import mean_upper
from jaxprune.types import Key

# Cells bounded in one call: masks alone, and masks with all their visited states.
GLOBAL_CELLS, LOCAL_CELLS = 256, 16
# An attack's D is a float32 figure, a bound is float64.
TOLERANCE = 1e-4
ACTION_UNIT = "action units"
DETERMINISTIC = (
    "no certificate: two different deterministic actions have total variation 1; where the first "
    "--victim is stochastic there is one"
)


class Statement(NamedTuple):
    """One number per cell and what it says."""

    quantity: str
    value: np.ndarray  # [cells]
    unit: str
    confidence: float = 1.0  # of the statement; 1: always, NaN: an estimate, not a statement
    note: str = ""


class Terms(NamedTuple):
    """Holds what statements about the return need besides certificates and visits."""

    gamma: float
    stochastic: bool  # the first victim, whose visits these are, draws its actions
    method: str  # of the confidence bounds
    bounds: int  # of which the best is shown
    local_bounds: int


def _terms_of(experiment: Experiment) -> Terms:
    """Returns the terms of an experiment.

    Bernstein's width is the shorter one from some hundreds of episodes on.
    """
    return Terms(
        float(experiment.ppo.hyper.gamma),
        experiment.victim[0] == "stochastic",
        "bernstein" if experiment.episodes >= 200 else "hoeffding",
        len(experiment.bounds),
        sum(BOUNDS[name].scope == "local" for name in experiment.bounds),
    )


def certify_population(
    experiment: Experiment, spec: EnvSpec, population: Population, visits: Visits, work: Work
) -> Columns:
    """The table of certificates: a row per bound, radius, quantity and cell; a chunk per radius."""
    kinds = len({BOUNDS[name].scope for name in experiment.bounds})

    def compute(eps: float) -> Columns:
        return certified(experiment, spec, population, visits, eps, work.progress)

    return by_radius(population, experiment.eps, work, "certify", "certificates", kinds, compute)


def certified(
    experiment: Experiment,
    spec: EnvSpec,
    population: Population,
    visits: Visits,
    eps: float,
    progress: Progress,
) -> Columns:
    """The rows of one radius, below the name of their table."""
    facts, terms = described(spec, population), _terms_of(experiment)
    local = [name for name in experiment.bounds if BOUNDS[name].scope == "local"]
    wide = [name for name in experiment.bounds if BOUNDS[name].scope == "global"]
    tables: list[Columns] = []

    def write(bound: str, statements: list[Statement]) -> None:
        known = BOUNDS.get(bound)
        monotone, scope = (known.monotone, known.scope) if known else (False, "local")
        for statement in statements:
            told = {"bound": bound, "monotone": monotone, "scope": scope, "eps": eps}
            told |= statement._asdict()
            del told["value"]
            same = repeated(told, len(population.rows))
            tables.append({**facts, **same, "value": statement.value})

    for name, certificate in _bound(population, wide, eps, None, progress).items():
        write(name, _of_global(certificate, visits, terms, spec))
    if local:
        key, config = key_for(experiment.seed, CERTIFY, 1), experiment.attack.mad
        attack = _attack(population, eps, visits, key, config)
        bounds = _bound(population, local, eps, visits, progress)
        write(ATTACK_ROWS, of_attack(attack, visits, bounds[local[0]].unit))
        for name, certificate in bounds.items():
            write(name, _of_local(certificate, attack, visits, terms, spec))
    return under("certificates", joined(tables))


# --- statements -----------------------------------------------------------------------------------


def _of_global(
    certificate: Certificate, visits: Visits, terms: Terms, spec: EnvSpec
) -> list[Statement]:
    """D, TV and the value gap of the stochastic policy, all valid at every state."""
    tv, gamma = certificate.total_variation, terms.gamma
    rewards, suffix, unit = _value_rewards(spec)
    gap = value_gap(tv, gamma, rewards)
    action = certificate.action_distance
    return [
        Statement("D", certificate.value, certificate.unit),
        *([] if action is None else [Statement(ACTION_DISTANCE, action, ACTION_UNIT)]),
        Statement("TV", tv, "probability"),
        Statement("vacuity", vacuity(tv, gamma), "share of the trivial bound"),
        Statement(f"value_gap{suffix}", gap, unit),
        Statement(
            f"value_gap_undiscounted{suffix}",
            finite_value_gap(tv, spec.horizon, rewards),
            unit.removeprefix("discounted "),
        ),
        *_stochastic_floor(lambda level: gap, visits, terms, spec),
    ]


def of_attack(attack: Reached, visits: Visits, unit: str) -> list[Statement]:
    """Returns what attacks reached at the visited states, and how much actions vary there."""
    statements = [
        *_spread("D", attack.value, visits, unit),
        *_spread("TV", attack.total_variation, visits, "probability"),
    ]
    if np.isnan(attack.action_distance).all():
        return statements
    cells = len(attack.outputs)
    weight = shares(visits).reshape(cells, -1)
    spread = spread_of(attack.outputs.reshape(cells, weight.shape[1], -1), weight)
    return [
        *statements,
        *_spread(ACTION_DISTANCE, attack.action_distance, visits, ACTION_UNIT),
        Statement(ACTION_SPREAD, spread, ACTION_UNIT, np.nan),
    ]


def _of_local(
    certificate: Certificate, attack: Reached, visits: Visits, terms: Terms, spec: EnvSpec
) -> list[Statement]:
    """D and TV at the visited states, and what they say about the return."""
    statements = [
        *_spread("D", certificate.value, visits, certificate.unit),
        *_spread("TV", certificate.total_variation, visits, "probability"),
    ]
    if certificate.action_distance is not None:
        statements += _spread(ACTION_DISTANCE, certificate.action_distance, visits, ACTION_UNIT)
    beyond = attack.value > certificate.value * (1 + TOLERANCE) + 1e-6
    count = (beyond & visits.alive).sum((1, 2)).astype(float)
    statements.append(Statement("exceeded", count, "states where an attack went beyond the bound"))
    if certificate.fixed_action is not None:
        rate = summary(visits, certificate.fixed_action)["mean"]
        statements.append(Statement("fixed_action", rate, "share of the visited states"))
    return statements + _of_return(certificate, visits, terms, spec)


def _of_return(
    certificate: Certificate, visits: Visits, terms: Terms, spec: EnvSpec
) -> list[Statement]:
    """What holds for the return of the policy as it acted: with drawn actions, likeliest, means.

    As the first victim acted, whose visits these are.
    """
    if terms.stochastic:
        return _on_policy_gap(certificate.total_variation, visits, terms, spec)
    if certificate.fixed_action is not None and spec.reward_range is not None:
        return return_floor(certificate.fixed_action, visits, terms, spec.reward_range)
    _, suffix, unit = _value_rewards(spec)
    nothing = np.full(len(certificate.value), np.nan)
    return [Statement(f"value_gap_on_policy{suffix}", nothing, unit, np.nan, DETERMINISTIC)]


def _on_policy_gap(
    delta: np.ndarray, visits: Visits, terms: Terms, spec: EnvSpec
) -> list[Statement]:
    """The discounted value gap at the visited states: estimated, and as it holds for certain.

    For certain means with probability `CONFIDENCE` over the episodes.
    """
    gamma = terms.gamma
    rewards, suffix, unit = _value_rewards(spec)
    # Where every step was kept, none was drawn.
    drawn = None if spec.discrete else discounted(visits, delta, past_the_limit=1.0)

    def gap_at(level: float) -> np.ndarray:
        if drawn is None:
            return sampled(level).bound
        upper = mean_upper(drawn, (0, 1), level, method=terms.method)
        return on_policy_value_gap(upper, gamma, rewards)

    def sampled(level: float) -> ValueBound:
        return sampled_value_gap(
            delta,
            visits.alive.sum(-1),
            gamma=gamma,
            reward_range=rewards,
            level=level,
            method=terms.method,
        )

    if drawn is None:
        estimate = sampled(CONFIDENCE).estimate
    else:
        estimate = on_policy_value_gap(drawn.mean(-1), gamma, rewards)
    gaps = {np.nan: estimate, CONFIDENCE: gap_at(CONFIDENCE)}
    trivial = (rewards[1] - rewards[0]) / (1 - gamma)
    share = "share of the trivial bound"
    return [
        *(Statement(f"value_gap_on_policy{suffix}", gap, unit, c) for c, gap in gaps.items()),
        *(Statement("vacuity_on_policy", gap / trivial, share, c) for c, gap in gaps.items()),
        *_stochastic_floor(gap_at, visits, terms, spec),
    ]


def _stochastic_floor(
    gap: Callable[[float], np.ndarray], visits: Visits, terms: Terms, spec: EnvSpec
) -> list[Statement]:
    """Bounds the attacked discounted return from below, for actions that are drawn.

    Nothing where the first victim does not draw them, or rewards have no a-priori bounds: a
    confidence bound of the clean return needs these.

    Args:
        gap: level -> bound on what an adversary can take, `[cells]`.
        visits: of the first victim.
        terms: of the statements.
        spec: of the task.
    """
    if not terms.stochastic or spec.reward_range is None:
        return []
    floor = attacked_return(
        visits.discounted,
        gap,
        gamma=terms.gamma,
        horizon=spec.horizon,
        reward_range=spec.reward_range,
        level=CONFIDENCE,
        method=terms.method,
        comparisons=terms.bounds,  # of which the best is shown
    )
    return [Statement("discounted_return_floor", floor, "discounted return", CONFIDENCE)]


def return_floor(
    fixed: np.ndarray, visits: Visits, terms: Terms, rewards: tuple[float, float]
) -> list[Statement]:
    """What the attacked return is at least, undiscounted and discounted; `fixed` as `visits`."""
    statements = []
    gammas = {"return": None, "discounted return": terms.gamma}
    for unit, gamma in gammas.items():
        found = certified_return(
            visits.earned,
            fixed,
            visits.alive.sum(-1),
            gamma=gamma,
            reward_range=rewards,
            level=CONFIDENCE,
            method=terms.method,
            comparisons=terms.local_bounds,
        )
        name = unit.replace(" ", "_") + "_floor"
        statements.append(Statement(name, found.estimate, unit, np.nan))
        statements.append(Statement(name, found.bound, unit, CONFIDENCE))
    return statements


def _value_rewards(spec: EnvSpec) -> tuple[tuple[float, float], str, str]:
    """(reward range, suffix of the quantity, its unit): clipped rewards where there is no range."""
    if spec.reward_range is not None:
        return spec.reward_range, "", "discounted return"
    low, high = spec.reward_clip
    unit = f"discounted return of rewards clipped to [{low:g}, {high:g}]"
    return spec.reward_clip, "_clipped", unit


def _spread(quantity: str, values: np.ndarray, visits: Visits, unit: str) -> list[Statement]:
    """The largest value over the visited states, and the mean under the discounted visitation."""
    found = summary(visits, values)
    return [
        Statement(quantity, found["max"], unit, note="largest over the visited states"),
        Statement(f"{quantity}_mean", found["mean"], unit, np.nan),
    ]


# --- computing ------------------------------------------------------------------------------------


def _bound(
    population: Population, names: list[str], eps: float, visits: Visits | None, progress: Progress
) -> dict[str, Certificate]:
    """Certificates of all cells, `[cells]`; local ones `[cells, episodes, k]`."""
    if not names:
        return {}
    obs = None if visits is None else visits.obs
    parts: list[dict[str, Certificate]] = []
    block = GLOBAL_CELLS if obs is None else LOCAL_CELLS
    for index, size in blocks(len(population.rows), block):
        cells = take(population.cells, index)
        policy = take(population.policy, cells.agent)
        rows = None if obs is None else obs[index].reshape(block, -1, obs.shape[-1])
        # An agent that diverged has no certificate: NaN, while the others keep theirs.
        good = finite(policy)
        bounds = certify(jax.tree.map(np.nan_to_num, policy), cells.masks, eps, rows, names)
        parts.append({name: _keep(c, good, size, visits) for name, c in bounds.items()})
        progress.advance(size)
    return {name: _joined([part[name] for part in parts]) for name in names}


def _keep(
    certificate: Certificate, good: np.ndarray, size: int, visits: Visits | None
) -> Certificate:
    """The first `size` cells, NaN where the policy is not finite, with the axes of the visits."""
    shape = (size,) if visits is None else (size, *visits.alive.shape[1:])
    good = good[:size].reshape((size,) + (1,) * (len(shape) - 1))

    def of(x: object) -> object:
        if not isinstance(x, np.ndarray):
            return x
        unknown = False if x.dtype == bool else np.nan
        return np.where(good, x[:size].reshape(shape), unknown)

    return jax.tree.map(of, certificate._replace(low=None, high=None))


def _joined(parts: list[Certificate]) -> Certificate:
    """One certificate of the cells of all parts."""
    return jax.tree.map(
        lambda *x: np.concatenate(x) if isinstance(x[0], np.ndarray) else x[0], *parts
    )


def _attack(
    population: Population, eps: float, visits: Visits, key: Key, config: MADConfig
) -> Reached:
    """What MAD reaches at the visited states, `[cells, episodes, k]`."""
    parts: list[Reached] = []
    for index, size in blocks(len(population.rows), LOCAL_CELLS):
        cells = take(population.cells, index)
        policy = take(population.policy, cells.agent)
        rows = visits.obs[index].reshape(LOCAL_CELLS, -1, visits.obs.shape[-1])
        found = reached(policy, cells.masks, eps, rows, key, config)
        parts.append(take(found, slice(size)))
    shape = visits.alive.shape
    return jax.tree.map(lambda *x: np.concatenate(x).reshape(*shape, *x[0].shape[2:]), *parts)
