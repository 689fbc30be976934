"""What an experiment expands to: its agents, its cells, its attack cases."""

import itertools
from dataclasses import replace
from typing import NamedTuple

import jax

from benchmarks.experiment.config import Experiment
from benchmarks.experiment.labels import DENSE
from jaxprune.envs import EnvSpec
from jaxprune.losses import Hyper
from jaxprune.ppo import PPOConfig
from jaxprune.pruning import find_method, honoured
from jaxprune.types import Key

# Where a curve comes from: unpruned agents, masks of these, an agent per sparsity, or snapshots of
# one agent that passes through all sparsities.
AFTER, ENDPOINT, TRAJECTORY = "after", "endpoint", "trajectory"
# The regime of a policy that was read from a file.
FILE = "file"
# What is trained beside pruned agents, to tell an effect of pruning from one of something else.
NARROW, RESCALED = "narrow", "rescaled"
# Calls that training is split into, between which the host shows progress.
TRAINING_CALLS = 20


class Arm(NamedTuple):
    """One agent of the tables; a trajectory is one training and an arm per sparsity."""

    seed: int
    regime: str
    method: str
    allocation: str
    mode: str
    sparsity: float


def training_methods(experiment: Experiment) -> list[str]:
    """Methods that remove weights before or during training."""
    return [name for name in experiment.methods if find_method(name).schedule]


def posthoc_methods(experiment: Experiment) -> list[str]:
    """Methods that prune a trained policy."""
    names = [name for name in experiment.methods if not find_method(name).schedule]
    return [name for name in names if name != "none"]


def regimes(experiment: Experiment) -> list[str]:
    """What the unpruned agents come from, the file of `--policy` first."""
    if experiment.policy is None:
        return list(experiment.regimes)
    trained = training_methods(experiment) or NARROW in experiment.controls
    return [FILE, *(experiment.regimes if trained else ())]


def allocations(experiment: Experiment, method: str) -> list[str]:
    """Those that a method honours, once each."""
    chosen = find_method(method)
    return list(dict.fromkeys(honoured(chosen, name) for name in experiment.allocations))


def modes(experiment: Experiment, method: str) -> list[str]:
    """Those that make sense: what is pruned before training passes through no sparsity."""
    static = find_method(method).schedule == "at_start"
    return [ENDPOINT] if static else list(experiment.modes)


def arms(experiment: Experiment) -> list[Arm]:
    """One dense agent per regime and seed, then those that are pruned in training.

    Agents of one seed share their key, so pruned and dense ones start from the same weights.
    """
    first, grid = experiment.first_seed, experiment.sparsity_grid
    seeds = range(first, first + experiment.seeds)
    found = []
    for regime in regimes(experiment):
        of_regime = seeds[:1] if regime == FILE else seeds
        found += [Arm(seed, regime, "none", "none", DENSE, 0.0) for seed in of_regime]
    for regime in regimes(experiment):
        if regime == FILE:
            continue
        for method in training_methods(experiment):
            places = itertools.product(allocations(experiment, method), modes(experiment, method))
            for (allocation, mode), seed, level in itertools.product(places, seeds, grid):
                found.append(Arm(seed, regime, method, allocation, mode, level))
        if NARROW in experiment.controls:
            for seed, level in itertools.product(seeds, grid):
                found.append(Arm(seed, regime, NARROW, "none", ENDPOINT, level))
    return found


def trainings(experiment: Experiment) -> list[Arm]:
    """The arms that are trained: of a trajectory only the last."""
    last = max(experiment.sparsity_grid)
    return [
        arm
        for arm in arms(experiment)
        if arm.regime != FILE and (arm.mode != TRAJECTORY or arm.sparsity == last)
    ]


def learner_config(experiment: Experiment) -> PPOConfig:
    """The learner, with iterations rounded up to a multiple of the calls training is split into.

    What only SA-PPO uses is not in the program of a run without it.
    """
    config = experiment.ppo
    calls = min(TRAINING_CALLS, config.iterations)
    config = replace(config, steps=-(-config.iterations // calls) * calls * config.batch)
    if "sa_ppo" in experiment.regimes:
        return config
    return replace(config, regulariser="none", collection="clean")


def hyper_of(experiment: Experiment, spec: EnvSpec, regime: str) -> Hyper:
    """The traced settings of a regime."""
    hyper = experiment.ppo.hyper
    if regime != "sa_ppo":
        hyper = replace(hyper, kappa=0.0, sa_eps=0.0)
    elif not hyper.sa_eps:
        hyper = replace(hyper, sa_eps=spec.eps)
    return hyper if regime == "ppo_decay" else replace(hyper, weight_decay=0.0)


# What a random stream is for.
TRAIN, PRUNE, ATTACK, CERTIFY, PREPARE, CHOOSE, DIAGNOSE, PRUNE_DATA = range(8)


class Row(NamedTuple):
    """A cell as it appears in the tables."""

    seed: int
    regime: str
    method: str
    allocation: str
    mode: str
    sparsity: float
    sparsity_achieved: float
    nested: bool  # the masks of its curve are nested and of the same weights


class Case(NamedTuple):
    """How the cells are played: the columns that all episodes of a call have in common."""

    attack: str
    eps: float
    victim: str  # how the policies act


def key_for(experiment: Experiment, purpose: int, index: int = 0) -> Key:
    """The key of one item of one purpose: any slice of the population can be recomputed alone."""
    base = jax.random.fold_in(jax.random.key(experiment.seed), purpose)
    return jax.random.fold_in(base, index)


def attack_plan(experiment: Experiment) -> list[Case]:
    """In the order of the table, the first victim's clean run first; a clean run has eps 0."""
    names = dict.fromkeys(["none", *experiment.attacks])
    return [
        Case(name, eps, victim)
        for victim in experiment.victim
        for name in names
        for eps in ([0.0] if name == "none" else dict.fromkeys(experiment.eps))
    ]


def preparation(case: Case) -> str:
    """The name of what is compiled to prepare a case."""
    return f"{case.attack} as {case.victim}"


def policy_count(experiment: Experiment) -> int:
    """Policies that `make_population` will hold."""
    dense_count = sum(arm.mode == DENSE for arm in arms(experiment))
    scaled = dense_count * len(experiment.sparsity_grid) * (RESCALED in experiment.controls)
    return len(arms(experiment)) + scaled


def cell_count(experiment: Experiment) -> int:
    """Cells that `make_population` will make."""
    dense_count = sum(arm.mode == DENSE for arm in arms(experiment))
    curves = sum(len(allocations(experiment, name)) for name in posthoc_methods(experiment))
    return policy_count(experiment) + dense_count * curves * len(experiment.sparsity_grid)
