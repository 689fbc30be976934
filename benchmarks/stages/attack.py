"""The attack stage: every adversary against every cell, prepared, chosen and played.

An adversary that learns is prepared against each cell at each radius, as the cell's policy acts. Of
its members each cell meets the one that did best on episodes of their own, so that the episodes of
the table are fresh. Policies that act in several ways are several victims: episode i starts alike
for all of them.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from benchmarks.experiment.config import Experiment
from benchmarks.experiment.design import Case
from benchmarks.runtime.arrays import Arrays, joined, packed, part, skeleton, under, unpacked
from benchmarks.runtime.checkpoints import Progress, Work
from benchmarks.runtime.compilation import Programs
from benchmarks.stages.base import (
    Columns,
    Population,
    Row,
    attack_chunk,
    described,
    distinct,
    repeated,
)
from benchmarks.stages.evaluator import BlockEvaluator
from benchmarks.stages.victims import victims_of, warmed
from benchmarks.stages.visitation import Visits, collect, visit_times
from jaxprune.attacks import Attack, Victims
from jaxprune.attacks.members import ChosenMembers, prepared
from jaxprune.devices import take
from jaxprune.envs import Environment, EnvSpec
from jaxprune.evaluation.episodes import episode_columns
from jaxprune.rollout import Episode
from jaxprune.types import PyTree


class Attacked(NamedTuple):
    """What the stage leaves behind."""

    returns: Columns  # a row per (attack, eps, victim), cell and episode
    attacks: Columns  # a row per (attack, eps, victim) and cell: which member, what it may spend
    seconds: Columns  # a row per (attack, eps, victim): how long it took
    visits: Visits  # what the unattacked episodes of the first victim showed


class Seconds(NamedTuple):
    """Of the host's clock, for all cells together."""

    prepare: float  # with its compilation
    choose: float
    play: float


class AttackRunner:
    """The attacks on blocks: one program that plays every attack, called on each.

    Args:
        experiment: resolved.
        cases: of its attacks.
        env: the task.
        policy: the agents' policies or their shapes, `[agents]`.
        cells: how many distinct ones a block has.
        programs: compiles the episodes.
    """

    def __init__(
        self,
        experiment: Experiment,
        cases: Sequence[Case],
        env: Environment,
        policy: PyTree,
        cells: int,
        programs: Programs,
    ):
        self.env, self.experiment, self.cases = env, experiment, cases
        names = tuple(dict.fromkeys(case.attack for case in cases))
        self.times = visit_times(experiment, env.spec)
        self.evaluator = BlockEvaluator(experiment, env, names, policy, self.times, cells, programs)
        self.attacks = dict(zip(names, self.evaluator.members, strict=True))
        self.warm_start = experiment.attack.adversary.warm_start

    def run(self, population: Population, work: Work) -> Attacked:
        """Every cell of a block under every attack, in a chunk per (attack, eps, victim)."""
        cells = len(population.rows)
        work.progress.stage("attack", len(self.cases) * cells)
        under_attack = BlockUnderAttack(self, population, work.progress)
        found: list[Arrays] = []
        for case in self.cases:
            attacked = partial(under_attack.attacked, case)
            found.append(
                work.piece(attacked, cells, "returns", **attack_chunk(population.block, case))
            )
            if under_attack.clean is None:
                under_attack.clean = unpacked(skeleton(Episode), part("clean", found[0]))
        assert under_attack.clean is not None
        returns, attacks, seconds = (
            joined([part(name, held) for held in found])
            for name in ("returns", "attacks", "seconds")
        )
        gamma = float(self.experiment.ppo.hyper.gamma)
        visits = collect(self.times, gamma, self.env.spec, under_attack.clean)
        return Attacked(returns, attacks, seconds, visits)


class BlockUnderAttack:
    """One block under attack, attack by attack, the first victim's clean run first."""

    def __init__(self, runner: AttackRunner, population: Population, progress: Progress):
        self.runner, self.population, self.progress = runner, population, progress
        self.kinds = distinct(population.cells)
        self.clean: Episode | None = None
        # By attack: the victim, and what was prepared against it, which may hold at every radius.
        self._ready: dict[str, tuple[str, PyTree]] = {}

    def attacked(self, case: Case) -> Arrays:
        """What a chunk holds: tables, and of the first clean run the episodes."""
        runner, attack = self.runner, self.runner.attacks[case.attack]
        evaluator, experiment = runner.evaluator, runner.experiment
        evaluator.compile().result()  # seconds are of the attacks, not of waiting for the compiler
        began = time.monotonic()
        victims = victims_of(runner.env, self.population, case, experiment.seed, experiment.lanes)
        warm = attack.warms and runner.warm_start
        cells = np.arange(len(self.population.rows))
        # Where another policy comes in, the same policy may be attacked in another way.
        first, kind = (cells, cells) if warm or victims.source is not None else self.kinds
        order = np.argsort(-self._expected_length()[first], kind="stable")
        first, kind = first[order], np.argsort(order)[kind]
        source = None if victims.source is None else take(victims.source, first)
        victims = victims._replace(cells=take(victims.cells, first), source=source)
        params = self._prepared(case, attack, victims, [self.population.rows[i] for i in first])
        ready = time.monotonic()
        name, play = case.attack, evaluator.how(victims.stochastic)
        chosen = evaluator.choose(name, victims, params, evaluator.rounds, play)
        selected = time.monotonic()
        episodes = evaluator.play(
            name, victims, chosen.params, evaluator.reported, play, self.progress.advance
        )
        episodes, chosen = take((episodes, chosen), kind)
        self.progress.advance(len(kind) - len(first))
        seconds = Seconds(ready - began, selected - ready, time.monotonic() - selected)
        told = case._asdict()
        return (
            under("returns", returns_table(runner.env.spec, self.population, told, episodes))
            | under("attacks", self._note(told, attack, chosen, warm, episodes))
            | under("seconds", repeated(told | seconds._asdict(), 1))
            | (under("clean", packed(episodes)) if self.clean is None else {})
        )

    def _expected_length(self) -> np.ndarray:
        """By which cells are sorted, `[cells]`: at the end of a queue lanes idle, so that what
        takes long comes first. Without an attack yet, the policies that lost little."""
        if self.clean is None:
            return -np.array([row.sparsity for row in self.population.rows])
        return np.mean(self.clean.length, axis=-1)

    def _prepared(self, case: Case, attack: Attack, victims: Victims, rows: list[Row]) -> PyTree:
        """Parameters of all members, `[cells, members, ...]`; the rows are those of the victims."""
        victim, made = self._ready.get(case.attack, ("", None))
        if victim != case.victim or attack.per_eps:
            warm = attack.warms and self.runner.warm_start
            made = warmed(attack, victims, rows) if warm else prepared(attack, victims)
            self._ready[case.attack] = case.victim, made
        return made

    def _note(
        self,
        told: Columns,
        attack: Attack,
        chosen: ChosenMembers,
        warm: bool,
        episodes: Episode,
    ) -> Columns:
        """One row per cell of the table of attacks; trials are counted as long as its episodes."""
        count, members = chosen.returns.shape
        told = told | {"members": members, "warm_start": warm}
        spent = attack.cost.spent(np.asarray(episodes.length).mean(-1))
        return {
            **described(self.runner.env.spec, self.population),
            **{k: np.broadcast_to(v, count) for k, v in (told | spent).items()},
            "member": chosen.member,
            "chosen_return": chosen.returns[np.arange(count), chosen.member],
        }


def returns_table(
    spec: EnvSpec, population: Population, told: Columns, episodes: Episode
) -> Columns:
    """One line per cell and episode of `Episode [cells, episodes]`."""
    cells, count = episodes.length.shape
    return {
        **{k: np.repeat(v, count) for k, v in described(spec, population).items()},
        **{k: np.repeat([v], cells * count) for k, v in told.items()},
        "episode": np.tile(np.arange(count), cells),
        **{k: np.ravel(v) for k, v in episode_columns(episodes).items()},
    }
