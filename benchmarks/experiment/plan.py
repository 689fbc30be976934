"""What a run is going to do, told before it does it."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.experiment.config import Experiment
from benchmarks.experiment.design import Block, Design
from benchmarks.experiment.memory import check_memory, needs, network_size
from benchmarks.experiment.sharding import ALONE, Shard, blocks_of
from jaxprune.attacks import Attack, facts_of
from jaxprune.devices import LANES, mesh_devices
from jaxprune.envs import Environment, EnvSpec
from jaxprune.policy_io import PolicyFile
from jaxprune.validation import InputError

# Env steps per second and device of one training or evaluation lane group, learner included;
# measured on two cores by `python -m benchmarks.throughput`. Only the estimate depends on them.
STEPS_PER_SECOND = {
    "analytic": 120_000,
    "mjx": 50_000,
    "generalized": 12_000,
    "positional": 30_000,
    "spring": 55_000,
}
# Relative cost of the task's physics, hopper = 1; without the version of gym/ tasks.
TASK_COST = {
    "humanoid": 9.0,
    "ant": 4.5,
    "halfcheetah": 1.7,
    "walker2d": 1.7,
    "gym/Hopper": 3.2,
    "gym/HalfCheetah": 2.8,
    "gym/Walker2d": 5.4,
    "gym/Ant": 26.0,
    "gym/Humanoid": 66.0,
}
# Floating-point operations of its small networks, likewise.
FLOPS_PER_SECOND = 1.5e10
YEAR, MOST_YEARS = 365.25 * 24 * 3600, 10
# Of one program, two of which compile at a time.
COMPILE_SECONDS = {"analytic": 4, "mjx": 12, "generalized": 20, "positional": 30, "spring": 20}
# Interpreter, compiler and simulator: the peak that was measured, with nothing compiled yet.
BASE_GIB = {"analytic": 1.3, "mjx": 2.4, "generalized": 2.4, "positional": 2.4, "spring": 2.4}


# Of a horizon: pruned policies fall early, and attacked ones.
TYPICAL = 1 / 3


def learned(design: Design, spec: EnvSpec) -> tuple[int, int]:
    """Returns env steps of adversaries in training, and episodes that choose members, per cell."""
    attacks = design.attacks
    prepared = dict.fromkeys(
        (name, victim, eps if attacks[name].per_eps else None) for name, eps, victim in design.cases
    )
    steps = sum(learning_steps(attacks[name], spec) for name, *_ in prepared)
    played = design.experiment.attack.selection.played
    return steps, sum(played(attacks[case.attack].members(spec)) for case in design.cases)


def learning_steps(attack: Attack, spec: EnvSpec) -> int:
    """Env steps that an attack is prepared on, per victim."""
    return attack.cost.env_steps + round(attack.cost.trials * TYPICAL * spec.horizon)


def attacking(design: Design, weights: int, spec: EnvSpec) -> tuple[float, float]:
    """Returns env steps that attacks simulate, and operations that they ask and learn by, per cell.

    Args:
        design: of the experiment.
        weights: of a victim's networks.
        spec: of the task.
    """
    config = design.experiment.attack
    simulated = flops = 0.0
    for case in design.cases:
        attack = design.attacks[case.attack]
        chosen = config.selection.played(attack.members(spec)) + attack.cost.trials
        played = (design.experiment.episodes + chosen) * TYPICAL * spec.horizon
        simulated += played * attack.cost.simulated
        flops += played * weights * (attack.cost.queries + 3 * attack.cost.gradients)
        learns = facts_of(case.attack).learns
        if learns is not None:
            passes = getattr(getattr(config, learns.section), learns.passes)
            flops += attack.cost.env_steps * passes * 6 * weights
    return simulated, flops


def _check_seconds(seconds: float) -> None:
    """Raises `InputError` for a run that nobody waits for, on devices as fast as these may be."""
    parallel = LANES[mesh_devices()[0].platform] / LANES["cpu"]
    if seconds > MOST_YEARS * YEAR * parallel:
        raise InputError(
            f"the run would take {seconds / YEAR:,.3g} years, and {MOST_YEARS} is the limit: "
            "give fewer --steps, --seeds, --episodes or --epochs, a shorter "
            "--sparsity-grid, or smaller attacks (--mad.steps, --search.queries, --rs.steps, "
            "--adversary.steps)"
        )


class Amounts(NamedTuple):
    """Counts the work of a process."""

    agents: int
    cells: int
    training_steps: int
    learning_steps: int  # of adversaries
    choosing: int  # episodes that choose their members
    episodes: int  # that are reported
    simulated: float  # env steps by attacks that look ahead
    flops: float  # of learners, attacks and their queries


class Plan(NamedTuple):
    """Amounts of work; the estimates are rough."""

    amounts: Amounts
    programs: tuple[str, ...]
    seconds: float
    gib: float
    text: str

    def __str__(self) -> str:
        """Lines for a terminal."""
        return self.text


def make_plan(
    design: Design,
    env: Environment,
    folder: Path,
    shard: Shard = ALONE,
    file: PolicyFile | None = None,
) -> Plan:
    """The plan of an experiment; of a shard, with the amounts of the shard.

    Args:
        design: of the experiment.
        env: the task.
        folder: where the results go.
        shard: which part of the experiment.
        file: the policy of `--policy`, of which the plan tells what was assumed.

    Raises:
        InputError: more than the memory of this machine, or than anybody waits for.
    """
    blocks = len(blocks_of(design.blocks, shard))
    memory = needs(design, env.spec, blocks * design.experiment.block_seeds)
    check_memory(memory)
    weights = network_size(design.learner.hidden, env.spec)
    amounts = _amounts(design, env.spec, blocks, weights)
    programs = _programs(design.block(0), design.attacks)
    seconds = _seconds(env.spec, amounts, len(programs))
    _check_seconds(seconds)
    gib = BASE_GIB[env.spec.backend] + sum(need.bytes for need in memory) / 2**30
    lines = [
        *_work(design.experiment, env.spec, design.attacks, amounts, file),
        f"compile   {len(programs)} programs: {', '.join(programs)}",
        f"estimate  {seconds / 60:.1f} min and {gib:.1f} GiB on {len(mesh_devices())} "
        f"{mesh_devices()[0].platform} device(s), cold cache; rough",
        f"chunks    {blocks} blocks of {design.experiment.block_seeds} seeds (shard {shard})",
        f"results   {folder}",
    ]
    return Plan(amounts, programs, seconds, gib, "\n".join(lines))


def _amounts(design: Design, spec: EnvSpec, blocks: int, weights: int) -> Amounts:
    config, block = design.learner, design.block(0)
    agents, cells = blocks * len(block.trainings), blocks * len(block.cells)
    steps, episodes = agents * config.iterations * config.batch, cells * design.experiment.episodes
    learning, choosing = (cells * each for each in learned(design, spec))
    simulated, flops = (cells * each for each in attacking(design, weights, spec))
    flops += steps * config.epochs * 6 * weights
    return Amounts(
        agents, cells, steps, learning, choosing, len(design.cases) * episodes, simulated, flops
    )


def _programs(block: Block, attacks: Mapping[str, Attack]) -> tuple[str, ...]:
    """Returns the names of what is compiled ahead."""
    learners = [name for name, attack in attacks.items() if attack.cost.learns]
    return (*itertools.chain(*block.programs), "evaluate", *learners)


def _seconds(spec: EnvSpec, amounts: Amounts, programs: int) -> float:
    """Returns an estimate of the whole run: compiling, then stepping or computing."""
    devices = len(mesh_devices())
    cost = TASK_COST.get(re.sub(r"-v\d+$", "", spec.name), 1.0)
    rate = STEPS_PER_SECOND[spec.backend] / cost * devices
    played = (amounts.episodes + amounts.choosing) * TYPICAL * spec.horizon
    moved = amounts.training_steps + amounts.learning_steps + played + amounts.simulated
    compiling = COMPILE_SECONDS[spec.backend] * programs / 2
    return compiling + max(moved / rate, amounts.flops / FLOPS_PER_SECOND / devices)


def _work(
    experiment: Experiment,
    spec: EnvSpec,
    attacks: Iterable[str],
    amounts: Amounts,
    file: PolicyFile | None,
) -> Iterator[str]:
    """Yields what is done, stage by stage."""
    yield f"task      {spec.name} on {spec.backend}, eps {', '.join(map(str, experiment.eps))}"
    if amounts.agents:
        yield (
            f"train     {amounts.agents} agents ({', '.join(experiment.regimes)}), "
            f"{amounts.training_steps:,} env steps"
        )
    else:
        yield "train     nothing"
    if file is not None:
        yield f"policy    {experiment.policy}: {file}"
    yield (
        f"prune     {', '.join(experiment.methods)} ({', '.join(experiment.allocations)}) at "
        f"{len(experiment.sparsity_grid)} sparsities: {amounts.cells} cells"
    )
    yield (
        f"attack    {', '.join(attacks)} ({', '.join(experiment.victim)}): "
        f"{amounts.episodes:,} episodes, at most {amounts.episodes * spec.horizon:,} env steps"
    )
    if amounts.learning_steps:
        yield (
            f"learn     {amounts.learning_steps:,} env steps of adversaries, chosen on "
            f"{amounts.choosing:,} episodes"
        )
    else:
        yield "learn     no adversary"
