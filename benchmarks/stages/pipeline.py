"""The stages of an experiment, in order: train, prune, attack, certify. Data goes one way.

Every stage works on the whole population of a block of seeds, and its loops run over calls of one
shape, so that a larger grid repeats a program and never compiles another one. Large programs start
to compile at once, side by side. What a stage has finished is kept in chunks.
"""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from benchmarks.experiment.design import Block, Design
from benchmarks.experiment.sharding import ALONE, Shard, blocks_of
from benchmarks.runtime.checkpoints import What, Work
from benchmarks.runtime.compilation import Programs
from benchmarks.stages.attack import AttackRunner
from benchmarks.stages.base import (
    Columns,
    Population,
    Row,
    account_chunk,
    attack_chunk,
    described,
    radius_chunk,
    train_chunk,
)
from benchmarks.stages.certify import certify_population
from benchmarks.stages.diagnose import diagnose_population
from benchmarks.stages.prune import make_population
from benchmarks.stages.results import Results, counted, united
from benchmarks.stages.sparsity import account_population
from benchmarks.stages.train import Agents, prepare_training
from jaxprune.devices import take
from jaxprune.envs import Environment, EnvSpec
from jaxprune.policy_io.labels import PARTS, Labels
from jaxprune.ppo import PPOConfig, initial_policy
from jaxprune.types import Policy, PyTree

BY_RADIUS = ("certify", "diagnose")


def list_chunks(design: Design, blocks: range) -> list[What]:
    """Returns what the chunks of some blocks are, in the order in which they are computed."""
    families, radii = design.first(1).families, dict.fromkeys(design.experiment.eps)
    found = []
    for block in blocks:
        found += [train_chunk(block, family) for family in families]
        found += [attack_chunk(block, case) for case in design.cases]
        found += [radius_chunk(stage, block, x) for stage in BY_RADIUS for x in radii]
        found.append(account_chunk(block))
    return found


def run(
    design: Design,
    env: Environment,
    loaded: Policy | None,
    work: Work,
    shard: Shard = ALONE,
) -> Results:
    """All stages on the blocks of one shard, one block after the other.

    Args:
        design: of a checked experiment.
        env: the task.
        loaded: the policy of `--policy`.
        work: what was finished before, and who is told.
        shard: which blocks.
    """
    blocks = [design.block(index) for index in blocks_of(design.blocks, shard)]
    first, experiment = blocks[0], design.experiment
    chunks = list_chunks(design, blocks_of(design.blocks, shard))
    shapes = policy_shapes(experiment.ppo, len(first.policies), env, loaded)
    with Programs() as programs, work.chunks.listed(chunks) as absent:
        untrained = {what["family"] for what in absent if what["stage"] == "train"}
        about = (experiment, design.cases, env, shapes, first.distinct)
        runner = AttackRunner(*about, programs)
        train = prepare_training(design, first, env, programs, loaded, untrained)
        if any(what["stage"] == "attack" for what in absent):
            runner.evaluator.compile()
        done = [_run_block(block, train(block, work), runner, work) for block in blocks]
    facts = programs.facts() | runner.evaluator.facts()
    return united(done, experiment.block_seeds)._replace(facts=facts)


def _run_block(block: Block, agents: Agents, runner: AttackRunner, work: Work) -> Results:
    """Prune, attack, certify, diagnose and account the agents of one block."""
    experiment, spec = runner.experiment, runner.env.spec
    population = make_population(experiment, block, runner.env, agents)
    attacked = runner.run(population, work)
    about = (experiment, spec, population, attacked.visits, work)
    names = curve_names(population.rows)
    tables = {
        "training": agents.table,
        "returns": attacked.returns,
        "attacks": attacked.attacks,
        "seconds": attacked.seconds,
        "certificates": certify_population(*about),
        "diagnosis": diagnose_population(*about),
        "sparsity": account_population(experiment.ppo.scope, spec, population, work),
        "cells": _cell_table(spec, population, names),
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


def _cell_table(spec: EnvSpec, population: Population, names: np.ndarray) -> Columns:
    """Where the policy and the masks of every cell are among the saved ones."""
    return described(spec, population) | {
        "agent": np.asarray(population.cells.agent),
        "curve": names,
        "index": counted(names),
    }


def policy_shapes(config: PPOConfig, count: int, env: Environment, loaded: Policy | None) -> PyTree:
    """Returns the shapes of so many policies, `[count]`."""
    one = loaded
    if one is None:
        one = jax.eval_shape(partial(initial_policy, config, env.spec), jax.random.key(0))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), one)
