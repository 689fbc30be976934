"""Estimates of the memory that a run needs at least, made before anything is computed.

Arrays whose sizes follow from the settings, without what XLA needs beside them (that is what
`python -m benchmarks.capacity` measures): what exceeds a machine by this count cannot run on it.
"""

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import NamedTuple

import jax

from benchmarks.experiment.design import Block, Design
from jaxprune.attacks import Attack, AttackConfig, facts_of
from jaxprune.devices import lane_width, mesh_devices
from jaxprune.envs import EnvSpec
from jaxprune.ppo import PPOConfig
from jaxprune.queue import queue_width
from jaxprune.validation import InputError

FLOAT, GIB = 4, 2**30  # bytes
# Of a row of the tables of returns and of training: their columns, as they are held at least.
ROW = 100
# Numbers beside the observation, the next one and the action of a step.
STEP = 8


class Need(NamedTuple):
    """One thing that memory is needed for."""

    what: str
    remedy: str
    bytes: int
    on_device: bool


class _Counts(NamedTuple):
    """Counts what there is of one block and of all blocks of a process."""

    agents: int  # of a block, those that are trained
    policies: int  # of all
    cells: int  # of a block
    all_cells: int


def needs(design: Design, spec: EnvSpec, seeds: int) -> list[Need]:
    """Lists what a process needs memory for.

    Args:
        design: of the experiment.
        spec: of the task.
        seeds: that this process computes, a block at a time.
    """
    counts = _counts(design, seeds)
    found = [
        *_of_training(design.learner, design.experiment.lanes, spec, counts),
        *_of_cells(design, spec, counts),
        *_of_attacks(design.attacks, design.experiment.attack, spec, counts),
    ]
    return [need for need in found if need.bytes]


def _counts(design: Design, seeds: int) -> _Counts:
    block, first_two = design.experiment.block_seeds, [design.first(n) for n in (1, 2)]

    def count(table: Callable[[Block], Sized], seeds: int) -> int:
        """Returns the length of a table of so many seeds, without a list of them."""
        one, two = (len(table(few)) for few in first_two)
        return one + (two - one) * (seeds - 1)

    return _Counts(
        count(lambda b: b.trainings, block),
        count(lambda b: b.policies, seeds),
        *(count(lambda b: b.cells, n) for n in (block, seeds)),
    )


def _of_training(
    config: PPOConfig, lanes: int | None, spec: EnvSpec, counts: _Counts
) -> Iterator[Need]:
    agents, weights = counts.agents, network_size(config.hidden, spec)
    leaves, width = len(config.hidden) + 1, lane_width(config.num_envs, max(agents, 1), lanes)
    at_a_time = len(mesh_devices()) * width
    yield Need(
        f"networks of {weights:,} parameters",
        "smaller --hidden, fewer --seeds, or smaller --chunk-seeds and more shards",
        FLOAT * weights * (counts.policies + 3 * agents),  # with Adam's moments
        True,
    )
    yield Need(
        f"what {agents:,} agents prune in {config.iterations:,} iterations",
        "fewer --steps, or more --num-envs or --unroll",
        agents * config.iterations * (FLOAT * (config.events + 1) * leaves + ROW),
        False,
    )
    yield Need(
        f"rollouts of {at_a_time:,} agents at a time in {config.batch:,} steps",
        "fewer --num-envs or a shorter --unroll",
        at_a_time * config.batch * _step_bytes(spec),
        True,
    )


def _of_cells(design: Design, spec: EnvSpec, counts: _Counts) -> Iterator[Need]:
    experiment, episodes = design.experiment, design.experiment.episodes
    weights, cells = network_size(design.learner.hidden, spec), counts.cells
    kept = spec.horizon if spec.discrete else experiment.states // episodes + 1
    chooses = any(attack.members(spec) > 1 for attack in design.attacks.values())
    chosen = max(experiment.attack.selection.rounds) if chooses else 0
    played = max(episodes, chosen)  # of a cell, in a call
    lanes = len(mesh_devices()) * queue_width(cells * played, experiment.lanes)
    yield Need(
        f"masks of {counts.all_cells:,} cells",
        "smaller --hidden, a shorter --sparsity-grid, fewer --seeds, or more shards",
        counts.all_cells * weights,
        False,
    )
    yield Need(
        f"states that {cells:,} cells visit",
        "fewer --states, --episodes or --selection.episodes, or smaller --chunk-seeds",
        cells * played * kept * FLOAT * spec.obs_size,
        False,
    )
    yield Need(
        f"networks of {weights:,} parameters in {lanes:,} episodes at a time",
        "smaller --hidden, or fewer --lanes",
        lanes * weights * FLOAT,
        True,
    )
    yield Need(
        f"returns of {episodes:,} episodes of {counts.all_cells:,} cells",
        "fewer --episodes, or more shards",
        counts.all_cells * len(design.cases) * episodes * ROW,
        False,
    )


def _of_attacks(
    attacks: Mapping[str, Attack], config: AttackConfig, spec: EnvSpec, counts: _Counts
) -> Iterator[Need]:
    devices = len(mesh_devices())
    points = max(attack.cost.queries for attack in attacks.values())
    members = max(attack.members(spec) for attack in attacks.values())
    data = max(_learning_data(name, config) for name in attacks)
    yield Need(
        f"{points:,} points that an attack asks at",
        "fewer --search.queries or --mad.restarts",
        devices * points * FLOAT * spec.obs_size,
        True,
    )
    yield Need(
        f"{members:,} members of an adversary against {counts.cells:,} cells",
        "fewer --seeds, --adversary.seeds, --adversary.learning-rates, --rs.radii or --rs.weights",
        counts.cells * members * FLOAT * network_size((64, 64), spec) if members > 1 else 0,
        True,
    )
    yield Need(
        f"{data:,} steps that an adversary learns from",
        "fewer --rs.steps, --search.clone-steps or --adversary.num-envs",
        devices * data * _step_bytes(spec),
        True,
    )


def _step_bytes(spec: EnvSpec) -> int:
    return FLOAT * (2 * spec.obs_size + spec.action_size + STEP)


def network_size(hidden: Sequence[int], spec: EnvSpec) -> int:
    """Parameters of an actor and a critic."""
    return sum(
        (inputs + 1) * outputs
        for last in (spec.action_size, 1)
        for inputs, outputs in itertools.pairwise((spec.obs_size, *hidden, last))
    )


def _learning_data(attack: str, config: AttackConfig) -> int:
    """Steps that the learner of an attack holds at a time, for one victim."""
    learns = facts_of(attack).learns
    held = {
        "rs": config.rs.steps,
        "search": config.search.clone_steps,
        "adversary": config.adversary.num_envs * config.adversary.unroll,
    }
    return 0 if learns is None else held.get(learns.section, 0)


def check_memory(found: Sequence[Need]) -> None:
    """Compare with the memory of the machine and of its accelerators.

    Raises:
        InputError: it is more, with the largest part and how to make that smaller.
    """
    device = device_bytes()
    if device is None:
        _compare(found, host_bytes(), "this machine has")
        return
    _compare([need for need in found if not need.on_device], host_bytes(), "this machine has")
    _compare([need for need in found if need.on_device], device, "its devices have")


def _compare(found: Sequence[Need], held: float, place: str) -> None:
    total = sum(need.bytes for need in found)
    if total > held:
        most = max(found, key=lambda need: need.bytes)
        raise InputError(
            f"at least {gib(total)} of memory are needed, and {place} {gib(held)}: "
            f"{gib(most.bytes)} are for {most.what}; give {most.remedy}"
        )


def gib(count: float) -> str:
    """For a person."""
    return f"{count / GIB:,.0f} GiB" if count >= 10 * GIB else f"{count / GIB:.2g} GiB"


def host_bytes() -> float:
    """Memory of the machine; infinite where the system does not tell."""
    if not hasattr(os, "sysconf"):
        return math.inf
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device_bytes() -> float | None:
    """Memory of the accelerators, all alike; None where the devices use the machine's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats["bytes_limit"] * len(mesh_devices()) if "bytes_limit" in stats else None
