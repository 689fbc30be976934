"""What a run is going to do, told before it does it."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks.experiment.design import Case, Design, training_programs
from benchmarks.experiment.memory import check_memory, needs, network_size
from benchmarks.experiment.sharding import ALONE, Shard, blocks_of
from jaxprune.attacks import Attack, AttackConfig, facts_of, make_attack
from jaxprune.devices import LANES
from jaxprune.envs import Environment, EnvSpec
from jaxprune.policy_io import PolicyFile
from jaxprune.validation import InputError

# Env steps per second and device of one training or evaluation lane group, learner included;
# measured on two cores by `python -m benchmarks.throughput`. Only the estimate depends on them.
STEPS_PER_SECOND = {
    "analytic": 120_000,
    "mjx": 20_000,
    "generalized": 12_000,
    "positional": 30_000,
    "spring": 55_000,
}
# Relative cost of the task's physics, hopper = 1; without the version of gym/ tasks.
TASK_COST = {
    "humanoid": 6.0,
    "ant": 3.0,
    "halfcheetah": 1.5,
    "walker2d": 1.5,
    "gym/Hopper": 2.7,
    "gym/Walker2d": 3.8,
    "gym/Ant": 13.0,
    "gym/Humanoid": 33.0,
}
# Floating-point operations of its small networks, likewise.
FLOPS_PER_SECOND = 5e9
YEAR, MOST_YEARS = 365.25 * 24 * 3600, 10
# Of one program, two of which compile at a time.
COMPILE_SECONDS = {"analytic": 4, "mjx": 25, "generalized": 20, "positional": 30, "spring": 20}
# Interpreter, compiler and simulator: the peak that was measured, with nothing compiled yet.
BASE_GIB = {"analytic": 1.3, "mjx": 2.4, "generalized": 2.4, "positional": 2.4, "spring": 2.4}


# Of a horizon: pruned policies fall early, and attacked ones.
TYPICAL = 1 / 3


def learned(
    cases: Sequence[Case], config: AttackConfig, cells: int, spec: EnvSpec
) -> tuple[int, int]:
    """Env steps that adversaries are trained on, and episodes on which their members are chosen."""
    attacks = {case.attack: make_attack(case.attack, config) for case in cases}
    prepared = dict.fromkeys(
        (name, victim, eps if attacks[name].per_eps else None) for name, eps, victim in cases
    )
    steps = sum(learning_steps(attacks[name], spec) for name, *_ in prepared)
    played = sum(config.selection.played(attacks[case.attack].members(spec)) for case in cases)
    return cells * steps, cells * played


def learning_steps(attack: Attack, spec: EnvSpec) -> int:
    """Env steps that an attack is prepared on, per victim."""
    return attack.cost.env_steps + round(attack.cost.trials * TYPICAL * spec.horizon)


def attacking(
    cases: Sequence[Case],
    config: AttackConfig,
    weights: int,
    cells: int,
    episodes: int,
    spec: EnvSpec,
) -> tuple[float, float]:
    """Env steps that attacks simulate, and floating-point operations that they ask and learn by.

    Args:
        cases: of the experiment.
        config: of the attacks.
        weights: of a victim's networks.
        cells: how many are attacked.
        episodes: of each that are reported.
        spec: of the task.
    """
    simulated = flops = 0.0
    for case in cases:
        attack = make_attack(case.attack, config)
        chosen = config.selection.played(attack.members(spec)) + attack.cost.trials
        played = cells * (episodes + chosen) * TYPICAL * spec.horizon
        simulated += played * attack.cost.simulated
        flops += played * weights * (attack.cost.queries + 3 * attack.cost.gradients)
        learns = facts_of(case.attack).learns
        if learns is not None:
            passes = getattr(getattr(config, learns.section), learns.passes)
            flops += cells * attack.cost.env_steps * passes * 6 * weights
    return simulated, flops


def check_seconds(seconds: float) -> None:
    """Raises `InputError` for a run that nobody waits for, on devices as fast as these may be."""
    parallel = LANES[jax.local_devices()[0].platform] / LANES["cpu"]
    if seconds > MOST_YEARS * YEAR * parallel:
        raise InputError(
            f"the run would take {seconds / YEAR:,.3g} years, and {MOST_YEARS} is the limit: "
            "give fewer --steps, --seeds, --episodes or --epochs, a shorter "
            "--sparsity-grid, or smaller attacks (--mad.steps, --search.queries, --rs.steps, "
            "--adversary.steps)"
        )


class Plan(NamedTuple):
    """Amounts of work; the estimates are rough."""

    agents: int
    cells: int
    training_steps: int
    learning_steps: int
    episodes: int
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
    experiment, config, attacks = design.experiment, design.learner, design.cases
    blocks, spec = len(blocks_of(design.blocks, shard)), env.spec
    memory = needs(design, spec, blocks * experiment.block_seeds)
    check_memory(memory)
    block = design.block(0)
    agents, cells = blocks * len(block.trainings), blocks * len(block.cells)
    training = agents > 0
    steps = agents * config.iterations * config.batch if training else 0
    episodes = cells * len(attacks) * experiment.episodes
    learning, choosing = learned(attacks, experiment.attack, cells, spec)
    programs = (*itertools.chain(*training_programs(block.families)), "evaluate")
    programs += tuple(
        name
        for name in dict.fromkeys(case.attack for case in attacks)
        if make_attack(name, experiment.attack).cost.learns
    )
    devices = len(jax.local_devices())
    cost = TASK_COST.get(re.sub(r"-v\d+$", "", spec.name), 1.0)
    rate = STEPS_PER_SECOND[spec.backend] / cost * devices
    compiling = COMPILE_SECONDS[spec.backend] * len(programs) / 2
    played = (episodes + choosing) * TYPICAL * spec.horizon
    weights = network_size(config.hidden, spec)
    simulated, flops = attacking(
        attacks, experiment.attack, weights, cells, experiment.episodes, spec
    )
    flops += steps * config.epochs * 6 * weights
    moved = (steps + learning + played + simulated) / rate
    seconds = compiling + max(moved, flops / FLOPS_PER_SECOND / devices)
    check_seconds(seconds)
    gib = BASE_GIB[spec.backend] + sum(need.bytes for need in memory) / 2**30
    lines = [
        f"task      {spec.name} on {spec.backend}, eps {', '.join(map(str, experiment.eps))}",
        f"train     {agents} agents ({', '.join(experiment.regimes)}), {steps:,} env steps"
        if training
        else "train     nothing",
        *([] if file is None else [f"policy    {experiment.policy}: {file}"]),
        f"prune     {', '.join(experiment.methods)} ({', '.join(experiment.allocations)}) at "
        f"{len(experiment.sparsity_grid)} sparsities: {cells} cells",
        f"attack    {', '.join(dict.fromkeys(case.attack for case in attacks))} "
        f"({', '.join(experiment.victim)}): {episodes:,} episodes, at most "
        f"{episodes * spec.horizon:,} env steps",
        f"learn     {learning:,} env steps of adversaries, chosen on {choosing:,} episodes"
        if learning
        else "learn     no adversary",
        f"compile   {len(programs)} programs: {', '.join(programs)}",
        f"estimate  {seconds / 60:.1f} min and {gib:.1f} GiB on {devices} "
        f"{jax.local_devices()[0].platform} device(s), cold cache; rough",
        f"chunks    {blocks} blocks of {experiment.block_seeds} seeds (shard {shard})",
        f"results   {folder}",
    ]
    return Plan(agents, cells, steps, learning, episodes, programs, seconds, gib, "\n".join(lines))
