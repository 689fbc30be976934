"""The evaluator of the attack stage: compiled ahead, and called in blocks of one shape."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.experiment.config import Experiment
from benchmarks.experiment.design import ATTACK, CHOOSE, key_for
from benchmarks.runtime.compilation import Programs
from benchmarks.stages.base import blocks
from jaxprune.cells import Cell
from jaxprune.devices import lane_width, layout, take
from jaxprune.envs import Environment
from jaxprune.evaluation import Evaluator
from jaxprune.evaluation.episodes import Shared, Split, dealt, episode_keys, timeless, together
from jaxprune.pruning import dense
from jaxprune.rollout import Episode, Play

# Chunks of cells that a device walks through in one call.
CHUNKS_PER_CALL = 4


class BlockEvaluator(Evaluator):
    """An evaluator whose calls all have one shape, so that a larger grid compiles nothing.

    The episodes that are reported and those on which members are chosen go through the same
    program, in items of a number of episodes that divides them all.

    Args:
        experiment: resolved.
        env: the task.
        names: of the attacks, in the order of the program.
        policy: the agents' policies or their shapes, `[agents]`.
        times: int `[episodes, k]`, at which steps the reported episodes are looked at.
        cells: how many there are.
    """

    def __init__(
        self,
        experiment: Experiment,
        env: Environment,
        names: tuple[str, ...],
        policy: Any,
        times: np.ndarray,
        cells: int,
    ):
        super().__init__(env, names, experiment.attack)
        self.policy, self._fillers = policy, super().fillers(policy)
        self.gamma = np.float32(experiment.ppo.hyper.gamma)
        each = together(experiment.episodes, cells, experiment.lanes)
        key_choose = key_for(experiment.seed, CHOOSE)
        if any(attack.members(env.spec) > 1 for attack in self.members):
            each = math.gcd(each, *self.selection.rounds)
        self.reported = dealt(
            episode_keys(key_for(experiment.seed, ATTACK), len(times)), times, each
        )
        self.rounds = []
        for i, episodes in enumerate(self.selection.rounds):
            never = np.full((episodes, times.shape[1]), env.spec.horizon, times.dtype)
            keys = episode_keys(jax.random.fold_in(key_choose, i), episodes)
            self.rounds.append(dealt(keys, never, math.gcd(each, episodes)))
        size = cells * self.reported.groups
        width = lane_width(each, size, experiment.lanes)
        devices = width * len(jax.local_devices())
        self.block = devices * min(CHUNKS_PER_CALL, -(-size // devices))
        self.layout = layout(self.block, width)

    def compile(self, programs: Programs, name: str) -> None:
        """Start compiling."""
        masks = jax.eval_shape(lambda p: dense(take(p.params, np.zeros(1, int))), self.policy)
        one = Cell(np.zeros(1, np.int32), jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), masks))
        turn = self.reported.turns(one, self._fillers, np.zeros(self.block, int))
        play = timeless(self.how(stochastic=False))
        shared = Shared(self.policy, np.int32(0), np.float32(0), play)
        self.compiled = programs.compile(name, self.program, shared, turn, self.layout.width)

    def ready(self) -> None:
        """Wait for the compiler."""
        self.compiled.result()

    def how(self, stochastic: bool) -> Play:
        """How episodes are played; the steps at which they are looked at come with every item."""
        return Play(np.bool_(stochastic), gamma=self.gamma)

    def fillers(self, policies: Any) -> tuple[Any, ...]:
        """Those for the policies of the experiment."""
        del policies  # they all have the shapes of `policy`
        return self._fillers

    def _calls(self, count: int) -> Iterator[tuple[np.ndarray, int]]:
        return blocks(count, self.block)

    def _call(self, shared: Shared, turns: Any, parts: Split, lanes: int | None) -> Episode:
        del parts, lanes  # the layout is made for them
        return self.layout.collect(self.compiled.result()(shared, self.layout.deal(turns)))
