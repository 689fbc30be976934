"""The stages of an experiment, in order: train, prune, attack, certify. Data goes one way.

Every stage works on the whole population of a block of seeds, and its loops run over calls of one
shape, so that a larger grid repeats a program and never compiles another one. Large programs start
to compile at once, side by side. What a stage has finished is kept in chunks.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.experiment.config import Experiment
from benchmarks.experiment.design import Row, attack_plan, cell_count, policy_count, trainings
from benchmarks.experiment.labels import PARTS, Labels
from benchmarks.experiment.sharding import ALONE, Shard, block_of, blocks_of
from benchmarks.runtime.checkpoints import Work
from benchmarks.runtime.compilation import Programs
from benchmarks.stages.attack import Battery
from benchmarks.stages.base import Columns, Population, described
from benchmarks.stages.certify import certify_population
from benchmarks.stages.diagnose import diagnose_population
from benchmarks.stages.prune import make_population
from benchmarks.stages.results import Results, counted, united
from benchmarks.stages.sparsity import account_population
from benchmarks.stages.train import Agents, is_trained, prepare_training
from jaxprune.devices import take
from jaxprune.envs import Environment, EnvSpec
from jaxprune.ppo import initial_policy
from jaxprune.types import Policy


def chunk_count(experiment: Experiment, blocks: int) -> int:
    """Chunks that so many blocks leave: of training, every attack, and three other stages."""
    trained, radii = bool(trainings(experiment)), len(set(experiment.eps))
    return blocks * (trained + len(attack_plan(experiment)) + 2 * radii + 1)


def run(
    experiment: Experiment,
    env: Environment,
    loaded: Policy | None,
    work: Work,
    shard: Shard = ALONE,
) -> Results:
    """All stages on the blocks of one shard, one block after the other.

    Args:
        experiment: checked and resolved.
        env: the task.
        loaded: the policy of `--policy`.
        work: what was finished before, and who is told.
        shard: which blocks.
    """
    blocks = [block_of(experiment, index) for index in blocks_of(experiment, shard)]
    first = blocks[0]
    untrained = not all(is_trained(block, work.chunks) for block in blocks)
    battery = Battery(first, env, policy_shapes(first, env, loaded), cell_count(first))
    left = dict.fromkeys(case for block in blocks for case in battery.left(block, work.chunks))
    with Programs() as programs:
        train = prepare_training(first, env, programs, loaded, needed=untrained)
        if left:
            battery.compile(programs, left)
        done = [run_block(block, env, train(block, work), battery, work) for block in blocks]
    return united(done)._replace(facts=programs.facts())


def run_block(
    block: Experiment, env: Environment, agents: Agents, battery: Battery, work: Work
) -> Results:
    """Prune, attack, certify, diagnose and account the agents of one block."""
    population = make_population(block, env, agents)
    attacked = battery.run(block, population, work)
    about = (block, env.spec, population)
    names = curve_names(population.rows)
    tables = {
        "training": agents.table,
        "returns": attacked.returns,
        "attacks": attacked.attacks,
        "seconds": attacked.seconds,
        "certificates": certify_population(*about, attacked.visits, work),
        "diagnosis": diagnose_population(*about, attacked.visits, work),
        "sparsity": account_population(*about, work),
        "cells": cell_table(env.spec, population, names),
    }
    masks = {
        name: take(population.cells.masks, np.flatnonzero(names == name))
        for name in dict.fromkeys(names.tolist())
    }
    return Results(tables, population.policy, masks, {})


def curve_names(rows: Sequence[Row]) -> np.ndarray:
    """The curve that every cell is of, as a name without slashes."""
    table = {name: [getattr(row, name) for row in rows] for name in PARTS}
    return np.array([str(name).replace("/", "-") for name in Labels(table).column(table)])


def cell_table(spec: EnvSpec, population: Population, names: np.ndarray) -> Columns:
    """Where the policy and the masks of every cell are among the saved ones."""
    return described(spec, population) | {
        "agent": np.asarray(population.cells.agent),
        "curve": names,
        "index": counted(names),
    }


def policy_shapes(experiment: Experiment, env: Environment, loaded: Policy | None) -> Any:
    """Shapes of the population's policies, `[policies]`."""
    one = loaded
    if one is None:
        one = jax.eval_shape(partial(initial_policy, experiment.ppo, env.spec), jax.random.key(0))
    count = policy_count(experiment)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), one)
