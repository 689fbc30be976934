"""What an experiment expands to: its agents, its cells, its attack cases, its blocks."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax

from benchmarks.experiment.config import Experiment
from jaxprune.attacks import Attack, make_attack
from jaxprune.losses import Hyper
from jaxprune.policy_io.labels import DENSE
from jaxprune.ppo import REGIMES, PPOConfig
from jaxprune.pruning import Method, find_method, honoured
from jaxprune.types import Key

# Where a curve comes from: unpruned agents, masks of these, an agent per sparsity, or snapshots of
# one agent that passes through all sparsities.
AFTER, ENDPOINT, TRAJECTORY = "after", "endpoint", "trajectory"
# The regime of a policy that was read from a file.
FILE = "file"
# What is beside pruned agents, to tell an effect of pruning from one of something else.
NARROW, RESCALED, INT8 = "narrow", "rescaled", "int8"
# Those that are made of a trained policy and the masks of magnitude pruning.
COPIES = (RESCALED, INT8)
# Calls that training is split into, between which the host shows progress.
TRAINING_CALLS = 20


class Agent(NamedTuple):
    """An agent of the tables; a trajectory is one training and an agent per sparsity."""

    seed: int
    regime: str
    method: str
    allocation: str
    mode: str
    sparsity: float


class PlannedCell(NamedTuple):
    """A cell before its agent is trained."""

    about: Agent  # its columns in the tables
    agent: int  # id of its policy, by position in `Block.policies`
    nested: bool  # the masks of its curve are nested and of the same weights


class Case(NamedTuple):
    """How the cells are played: the columns that all episodes of a call have in common."""

    attack: str
    eps: float
    victim: str  # how the policies act


@dataclass(frozen=True, eq=False)
class Block:
    """Seeds that are computed together, with everything that is computed about them."""

    id: int
    seeds: range
    agents: list[Agent]  # trained, or read from a file; the unpruned ones first
    trainings: list[Agent]  # those that are trained: of a trajectory only the last
    families: dict[str, list[Agent]]  # the trainings by program, each in their order
    policies: list[Agent]  # the agents, then their copies that no training made
    cells: list[PlannedCell]  # in the order of the tables

    @property
    def distinct(self) -> int:
        """Returns how many cells are a policy of their own: without pruning all are the agent."""
        return len({(cell.agent, cell.about.sparsity and cell.about) for cell in self.cells})

    @property
    def programs(self) -> list[tuple[str, str]]:
        """Returns the names of what is compiled to begin and to train each family."""
        if len(self.families) == 1:
            return [("init", "train")]
        return [(f"init {family}", f"train {family}") for family in self.families]


@dataclass(frozen=True)
class Design:
    """Lists what a resolved experiment consists of.

    A run of many seeds has many blocks, which differ in their seeds alone: they are listed one by
    one, so that a shard lists its own.
    """

    experiment: Experiment
    learner: PPOConfig
    training: dict[str, Method]  # what the learner can do: nothing, and to prune in training
    posthoc: list[tuple[str, str]]  # (method, allocation) of the curves of dense agents
    attacks: dict[str, Attack]
    cases: list[Case]  # in the order of the tables, the first victim's clean run first
    blocks: range  # ids

    def block(self, index: int) -> Block:
        """Returns the block with this id."""
        size = self.experiment.block_seeds
        return self._block(index, range(index * size, (index + 1) * size))

    def first(self, seeds: int) -> Block:
        """Returns what a block of so many seeds would be."""
        return self._block(0, range(seeds))

    def _block(self, index: int, seeds: range) -> Block:
        experiment = self.experiment
        agents, last = _list_agents(experiment, seeds), max(experiment.sparsity_grid)
        trained = [agent for agent in agents if agent.regime != FILE]
        trainings = [a for a in trained if a.mode != TRAJECTORY or a.sparsity == last]
        policies, cells = _list_cells(experiment, agents, self.posthoc)
        families: dict[str, list[Agent]] = {}
        for agent in trainings:
            families.setdefault(_family_of(agent.regime, self.learner), []).append(agent)
        return Block(index, seeds, agents, trainings, families, policies, cells)


def expand(experiment: Experiment) -> Design:
    """Returns the design of a resolved experiment."""
    cases = _list_cases(experiment.attacks, experiment.eps, experiment.victim)
    return Design(
        experiment,
        _learner_config(experiment.ppo),
        {name: find_method(name) for name in ("none", *training_methods(experiment.methods))},
        posthoc_curves(experiment.methods, experiment.allocations),
        {case.attack: make_attack(case.attack, experiment.attack) for case in cases},
        cases,
        range(experiment.seeds // experiment.block_seeds),
    )


def _list_agents(experiment: Experiment, seeds: range) -> list[Agent]:
    """Returns a dense agent per regime and seed, then those that are pruned in training.

    Agents of one seed share their key, so pruned and dense ones start from the same weights.
    """
    grid, sources = experiment.sparsity_grid, regimes(experiment)
    found = []
    for regime in sources:
        of_regime = seeds[:1] if regime == FILE else seeds
        found += [Agent(seed, regime, "none", "none", DENSE, 0.0) for seed in of_regime]
    curves = [
        (method, allocation, mode)
        for method in training_methods(experiment.methods)
        for allocation in honoured_by(method, experiment.allocations)
        for mode in _modes_of(method, experiment.modes)
    ]
    if NARROW in experiment.controls:
        curves.append((NARROW, "none", ENDPOINT))
    trained = [regime for regime in sources if regime != FILE]
    for regime, curve, seed, level in itertools.product(trained, curves, seeds, grid):
        found.append(Agent(seed, regime, *curve, level))
    return found


def _list_cells(
    experiment: Experiment, agents: list[Agent], posthoc: Sequence[tuple[str, str]]
) -> tuple[list[Agent], list[PlannedCell]]:
    """Returns all policies and all cells, these in the order in which methods were asked for."""
    policies = list(agents)
    cells = [PlannedCell(agent, i, agent.mode == DENSE) for i, agent in enumerate(agents)]
    unpruned = [(i, agent) for i, agent in enumerate(agents) if agent.mode == DENSE]
    copies = [(control, "none") for control in COPIES if control in experiment.controls]
    grid = experiment.sparsity_grid
    for curve, (index, dense), level in itertools.product([*posthoc, *copies], unpruned, grid):
        about = Agent(dense.seed, dense.regime, *curve, AFTER, level)
        if about.method in COPIES:
            cells.append(PlannedCell(about, len(policies), nested=False))
            policies.append(about)
        else:
            cells.append(PlannedCell(about, index, find_method(about.method).nested))
    methods, sources = ["none", *experiment.methods, *experiment.controls], regimes(experiment)
    place = [(methods.index(c.about.method), sources.index(c.about.regime)) for c in cells]
    return policies, [cells[i] for i in sorted(range(len(cells)), key=place.__getitem__)]


def _list_cases(
    attacks: Sequence[str], radii: Sequence[float], victims: Sequence[str]
) -> list[Case]:
    """Returns every attack at every radius on every victim; a clean run has eps 0."""
    return [
        Case(name, eps, victim)
        for victim in victims
        for name in dict.fromkeys(["none", *attacks])
        for eps in ([0.0] if name == "none" else dict.fromkeys(radii))
    ]


def training_methods(methods: Sequence[str]) -> list[str]:
    """Returns the methods that remove weights before or during training."""
    return [name for name in methods if find_method(name).schedule]


def posthoc_curves(methods: Sequence[str], allocations: Sequence[str]) -> list[tuple[str, str]]:
    """Returns (method, allocation) of the methods that prune a trained policy."""
    return [
        (method, allocation)
        for method in methods
        if not find_method(method).schedule and method != "none"
        for allocation in honoured_by(method, allocations)
    ]


def regimes(experiment: Experiment) -> list[str]:
    """Returns what the unpruned agents come from, the file of `--policy` first."""
    if experiment.policy is None:
        return list(experiment.regimes)
    trained = training_methods(experiment.methods) or NARROW in experiment.controls
    return [FILE, *(experiment.regimes if trained else ())]


def honoured_by(method: str, allocations: Sequence[str]) -> list[str]:
    """Returns the allocations that a method honours, once each."""
    chosen = find_method(method)
    return list(dict.fromkeys(honoured(chosen, name) for name in allocations))


def _modes_of(method: str, modes: Sequence[str]) -> list[str]:
    """Returns the modes that make sense: what is pruned before training passes through no
    sparsity.
    """
    return [ENDPOINT] if find_method(method).schedule == "at_start" else list(modes)


def _learner_config(config: PPOConfig) -> PPOConfig:
    """Returns the learner, its iterations rounded up to a multiple of the calls of training."""
    calls = min(TRAINING_CALLS, config.iterations)
    return replace(config, steps=-(-config.iterations // calls) * calls * config.batch)


def _family_of(regime: str, config: PPOConfig) -> str:
    """Returns the first regime that is the same program."""
    adds = REGIMES[regime].adds(config)
    return next(
        name for name, other in REGIMES.items() if name == regime or other.adds(config) == adds
    )


def hyper_of(hyper: Hyper, regime: str, eps: float) -> Hyper:
    """Returns the traced settings of a regime, those of the others neutral.

    Args:
        hyper: settings of all regimes.
        regime: whose settings are wanted.
        eps: radius of the task, which is that of training where none is given.
    """
    if hyper.sa_eps is None:
        hyper = replace(hyper, sa_eps=eps)
    others = {name for one in REGIMES.values() for name in one.own}
    return replace(hyper, **dict.fromkeys(others - set(REGIMES[regime].own), 0.0))


# What a random stream is for.
TRAIN, PRUNE, ATTACK, CERTIFY, PREPARE, CHOOSE, DIAGNOSE, PRUNE_DATA = range(8)


def key_for(seed: int, purpose: int, index: int = 0) -> Key:
    """Returns the key of one item of one purpose: any slice can be recomputed alone.

    Args:
        seed: of the experiment.
        purpose: what the random stream is for.
        index: of the item.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), index)
