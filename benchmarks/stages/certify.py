"""The certify stage: every bound of every cell, and what follows from it for the return.

Global bounds hold at every state. Local ones are computed at the states that the unattacked
episodes visited, and an attack is run at the same states, so that every upper bound has its lower
bound beside it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.analysis.bounds import ATTACK_ROWS
from benchmarks.analysis.curves import CONFIDENCE
from benchmarks.experiment.config import Experiment
from benchmarks.experiment.design import CERTIFY, Block, key_for
from benchmarks.runtime.arrays import joined, under
from benchmarks.runtime.checkpoints import Progress, Work
from benchmarks.stages.base import Columns, Population, blocks, by_radius, described, finite
from benchmarks.stages.visitation import Visits, discounted, summary
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

# Cells bounded in one call: masks alone, and masks with all their visited states.
GLOBAL_CELLS, LOCAL_CELLS = 256, 16
# An attack's D is a float32 figure, a bound is float64.
TOLERANCE = 1e-4
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


def certify_population(
    experiment: Experiment,
    block: Block,
    spec: EnvSpec,
    population: Population,
    visits: Visits,
    work: Work,
) -> Columns:
    """The table of certificates: a row per bound, radius, quantity and cell; a chunk per radius."""
    kinds = len({BOUNDS[name].scope for name in experiment.bounds})

    def compute(eps: float) -> Columns:
        return certified(experiment, spec, population, visits, eps, work.progress)

    units = len(population.rows) * kinds
    return by_radius(block, experiment.eps, work, "certify", "certificates", units, compute)


def certified(
    experiment: Experiment,
    spec: EnvSpec,
    population: Population,
    visits: Visits,
    eps: float,
    progress: Progress,
) -> Columns:
    """The rows of one radius, below the name of their table."""
    facts = described(spec, population)
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
            repeated = {k: np.array([v] * len(population.rows)) for k, v in told.items()}
            tables.append({**facts, **repeated, "value": statement.value})

    for name, certificate in _bound(population, wide, eps, None, progress).items():
        write(name, of_global(certificate, visits, experiment, spec))
    if local:
        attack = _attack(experiment, population, eps, visits)
        bounds = _bound(population, local, eps, visits, progress)
        write(ATTACK_ROWS, of_attack(attack, visits, bounds[local[0]].unit))
        for name, certificate in bounds.items():
            write(name, of_local(certificate, attack, visits, experiment, spec))
    return under("certificates", joined(tables))


# --- statements -----------------------------------------------------------------------------------


def of_global(
    certificate: Certificate, visits: Visits, experiment: Experiment, spec: EnvSpec
) -> list[Statement]:
    """D, TV and the value gap of the stochastic policy, all valid at every state."""
    tv, gamma = certificate.total_variation, float(experiment.ppo.hyper.gamma)
    rewards, suffix, unit = value_rewards(spec)
    gap = value_gap(tv, gamma, rewards)
    return [
        Statement("D", certificate.value, certificate.unit),
        Statement("TV", tv, "probability"),
        Statement("vacuity", vacuity(tv, gamma), "share of the trivial bound"),
        Statement(f"value_gap{suffix}", gap, unit),
        Statement(
            f"value_gap_undiscounted{suffix}",
            finite_value_gap(tv, spec.horizon, rewards),
            unit.removeprefix("discounted "),
        ),
        *stochastic_floor(lambda level: gap, visits, experiment, spec),
    ]


def of_attack(attack: Reached, visits: Visits, unit: str) -> list[Statement]:
    """What was reached at the visited states."""
    return [
        *_spread("D", attack.value, visits, unit),
        *_spread("TV", attack.total_variation, visits, "probability"),
    ]


def of_local(
    certificate: Certificate,
    attack: Reached,
    visits: Visits,
    experiment: Experiment,
    spec: EnvSpec,
) -> list[Statement]:
    """D and TV at the visited states, and what they say about the return."""
    statements = [
        *_spread("D", certificate.value, visits, certificate.unit),
        *_spread("TV", certificate.total_variation, visits, "probability"),
    ]
    beyond = attack.value > certificate.value * (1 + TOLERANCE) + 1e-6
    count = (beyond & visits.alive).sum((1, 2)).astype(float)
    statements.append(Statement("exceeded", count, "states where an attack went beyond the bound"))
    if certificate.fixed_action is not None:
        rate = summary(visits, certificate.fixed_action)["mean"]
        statements.append(Statement("fixed_action", rate, "share of the visited states"))
    return statements + of_return(certificate, visits, experiment, spec)


def of_return(
    certificate: Certificate, visits: Visits, experiment: Experiment, spec: EnvSpec
) -> list[Statement]:
    """What holds for the return of the policy as it acted: with drawn actions, likeliest, means.

    As the first victim acted, whose visits these are.
    """
    if experiment.victim[0] == "stochastic":
        return on_policy_gap(certificate.total_variation, visits, experiment, spec)
    if certificate.fixed_action is not None and spec.reward_range is not None:
        return return_floor(certificate.fixed_action, visits, experiment, spec.reward_range)
    _, suffix, unit = value_rewards(spec)
    nothing = np.full(len(certificate.value), np.nan)
    return [Statement(f"value_gap_on_policy{suffix}", nothing, unit, np.nan, DETERMINISTIC)]


def on_policy_gap(
    delta: np.ndarray, visits: Visits, experiment: Experiment, spec: EnvSpec
) -> list[Statement]:
    """The discounted value gap at the visited states: estimated, and as it holds for certain.

    For certain means with probability `CONFIDENCE` over the episodes.
    """
    gamma = float(experiment.ppo.hyper.gamma)
    rewards, suffix, unit = value_rewards(spec)
    method = _method(experiment)

    def gap_at(level: float) -> np.ndarray:
        if spec.discrete:  # every step was kept
            return sampled(level).bound
        upper = mean_upper(
            discounted(visits, delta, past_the_limit=1.0), (0, 1), level, method=method
        )
        return on_policy_value_gap(upper, gamma, rewards)

    def sampled(level: float) -> ValueBound:
        return sampled_value_gap(
            delta,
            visits.alive.sum(-1),
            gamma=gamma,
            reward_range=rewards,
            level=level,
            method=method,
        )

    if spec.discrete:
        estimate = sampled(CONFIDENCE).estimate
    else:
        mean = discounted(visits, delta, past_the_limit=1.0).mean(-1)
        estimate = on_policy_value_gap(mean, gamma, rewards)
    gaps = {np.nan: estimate, CONFIDENCE: gap_at(CONFIDENCE)}
    trivial = (rewards[1] - rewards[0]) / (1 - gamma)
    share = "share of the trivial bound"
    return [
        *(Statement(f"value_gap_on_policy{suffix}", gap, unit, c) for c, gap in gaps.items()),
        *(Statement("vacuity_on_policy", gap / trivial, share, c) for c, gap in gaps.items()),
        *stochastic_floor(gap_at, visits, experiment, spec),
    ]


def stochastic_floor(
    gap: Callable[[float], np.ndarray], visits: Visits, experiment: Experiment, spec: EnvSpec
) -> list[Statement]:
    """What the attacked discounted return is at least, for actions that are drawn.

    Nothing where the first victim does not draw them, or rewards have no a-priori bounds: a
    confidence bound of the clean return needs these.

    Args:
        gap: level -> bound on what an adversary can take, `[cells]`.
        visits: of the first victim.
        experiment: settings.
        spec: of the task.
    """
    if experiment.victim[0] != "stochastic" or spec.reward_range is None:
        return []
    floor = attacked_return(
        visits.discounted,
        gap,
        gamma=float(experiment.ppo.hyper.gamma),
        horizon=spec.horizon,
        reward_range=spec.reward_range,
        level=CONFIDENCE,
        method=_method(experiment),
        comparisons=len(experiment.bounds),  # of which the best is shown
    )
    return [Statement("discounted_return_floor", floor, "discounted return", CONFIDENCE)]


def return_floor(
    fixed: np.ndarray, visits: Visits, experiment: Experiment, rewards: tuple[float, float]
) -> list[Statement]:
    """What the attacked return is at least, undiscounted and discounted; `fixed` as `visits`."""
    statements = []
    gammas = {"return": None, "discounted return": float(experiment.ppo.hyper.gamma)}
    for unit, gamma in gammas.items():
        found = certified_return(
            visits.earned,
            fixed,
            visits.alive.sum(-1),
            gamma=gamma,
            reward_range=rewards,
            level=CONFIDENCE,
            method=_method(experiment),
            comparisons=sum(BOUNDS[name].scope == "local" for name in experiment.bounds),
        )
        name = unit.replace(" ", "_") + "_floor"
        statements.append(Statement(name, found.estimate, unit, np.nan))
        statements.append(Statement(name, found.bound, unit, CONFIDENCE))
    return statements


def _method(experiment: Experiment) -> str:
    """Bernstein's width is the shorter one from some hundreds of episodes on."""
    return "bernstein" if experiment.episodes >= 200 else "hoeffding"


def value_rewards(spec: EnvSpec) -> tuple[tuple[float, float], str, str]:
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

    def of(values: np.ndarray) -> np.ndarray:
        return np.where(good, values[:size].reshape(shape), np.nan)

    fixed = certificate.fixed_action
    return certificate._replace(
        value=of(certificate.value),
        total_variation=of(certificate.total_variation),
        low=None,
        high=None,
        fixed_action=None if fixed is None else of(fixed) == 1,
    )


def _joined(parts: list[Certificate]) -> Certificate:
    flags = [part.fixed_action for part in parts if part.fixed_action is not None]
    return parts[0]._replace(
        value=np.concatenate([part.value for part in parts]),
        total_variation=np.concatenate([part.total_variation for part in parts]),
        fixed_action=np.concatenate(flags) if flags else None,
    )


def _attack(experiment: Experiment, population: Population, eps: float, visits: Visits) -> Reached:
    """What MAD reaches at the visited states, `[cells, episodes, k]`."""
    parts: list[Reached] = []
    for index, size in blocks(len(population.rows), LOCAL_CELLS):
        cells = take(population.cells, index)
        policy = take(population.policy, cells.agent)
        rows = visits.obs[index].reshape(LOCAL_CELLS, -1, visits.obs.shape[-1])
        key = key_for(experiment.seed, CERTIFY, 1)
        found = reached(policy, cells.masks, eps, rows, key, experiment.attack.mad)
        parts.append(Reached(*(x[:size] for x in found)))
    shape = visits.alive.shape
    return Reached(*(np.concatenate(x).reshape(shape) for x in zip(*parts, strict=True)))
