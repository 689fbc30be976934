"""The program that plays the episodes of all cells, compiled ahead and called in blocks."""

import math
from typing import Any

import jax
import numpy as np

from benchmarks.experiment.config import Experiment
from benchmarks.experiment.design import ATTACK, CHOOSE, Case, key_for
from benchmarks.runtime.checkpoints import Progress
from benchmarks.runtime.compilation import Programs
from benchmarks.stages.base import Population, blocks
from jaxprune.cells import Cell
from jaxprune.devices import lane_width, layout, take
from jaxprune.envs import Environment
from jaxprune.evaluation.episodes import (
    VICTIMS,
    Shared,
    Split,
    cell_program,
    dealt,
    episode_keys,
    timeless,
    together,
)
from jaxprune.pruning import dense
from jaxprune.rollout import Episode, Play

# Chunks of cells that a device walks through in one call.
CHUNKS_PER_CALL = 4


class Episodes:
    """The program that plays episodes, in calls of one shape.

    Those that are reported and those on which members are chosen go through the same program, in
    items of a number of episodes that divides both.

    Args:
        experiment: resolved.
        env: the task.
        names: of the attacks, in the order of the program.
        fillers: parameters in the place of those of the attacks that are not played, `[1, ...]`.
        play: how, but for the victim; its `times` are of the reported episodes.
        cells: how many there are.
        chooses: whether members are chosen at all.
    """

    def __init__(
        self,
        experiment: Experiment,
        env: Environment,
        names: tuple[str, ...],
        fillers: tuple[Any, ...],
        play: Play,
        cells: int,
        chooses: bool,
    ):
        self.names, self.fillers, self.play_as = names, fillers, timeless(play)
        each = together(experiment.episodes, cells, experiment.lanes)
        others = (experiment.selection_episodes or 1) if chooses else each
        each = math.gcd(each, others)
        times = np.asarray(play.times)
        never = np.full((others, times.shape[1]), env.spec.horizon, times.dtype)
        self.reported, self.choosing = (
            dealt(episode_keys(key_for(experiment, purpose), len(at)), at, each)
            for purpose, at in ((ATTACK, times), (CHOOSE, never))
        )
        size = cells * self.reported.groups
        width = lane_width(each, size, experiment.lanes)
        devices = width * len(jax.local_devices())
        self.block = devices * min(CHUNKS_PER_CALL, -(-size // devices))
        self.layout = layout(self.block, width)
        self.program = cell_program(env, names, experiment.attack)

    def compile(self, programs: Programs, name: str, policy: Any) -> None:
        """Start compiling for policies of these shapes, `[agents]`."""
        masks = jax.eval_shape(lambda p: dense(take(p.params, np.zeros(1, int))), policy)
        one = Cell(np.zeros(1, np.int32), jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), masks))
        turn = self.reported.turns(one, self.fillers, np.zeros(self.block, int))
        shared = Shared(policy, np.int32(0), np.float32(0), self.play_as)
        self.compiled = programs.compile(name, self.program, shared, turn, self.layout.width)

    def ready(self) -> None:
        """Wait for the compiler."""
        self.compiled.result()

    def play(
        self,
        parts: Split,
        population: Population,
        index: np.ndarray,
        case: Case,
        params: Any,
        progress: Progress | None = None,
    ) -> Episode:
        """Episodes of the cells `index [n]` under an attack with parameters `[n, ...]`.

        Args:
            parts: which episodes: `reported` or `choosing`.
            population: of all cells.
            index: of the cells that play.
            case: which attack, and how the cells act.
            params: what the attack knows of each of them.
            progress: told of the cells that are done.
        """
        which, count = self.names.index(case.attack), len(index)
        play = self.play_as._replace(stochastic=np.bool_(VICTIMS[case.victim]))
        shared = Shared(population.policy, np.int32(which), np.float32(case.eps), play)
        fillers = jax.tree.map(lambda x: np.broadcast_to(x, (count, *x.shape[1:])), self.fillers)
        known = (*fillers[:which], params, *fillers[which + 1 :])
        cells, found, done = take(population.cells, index), [], 0
        for items, size in blocks(count * parts.groups, self.block):
            turns = self.layout.deal(parts.turns(cells, known, items))
            episodes = self.layout.collect(self.compiled.result()(shared, turns))
            found.append(take(episodes, slice(size)))
            if progress is not None:
                progress.advance((done + size) // parts.groups - done // parts.groups)
            done += size
        return parts.joined(jax.tree.map(lambda *x: np.concatenate(x), *found))
