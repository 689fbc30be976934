"""The evaluator of the attack stage: compiled ahead, and called in blocks of one shape."""

from collections.abc import Iterator
from functools import cache, partial

import jax
import numpy as np

from benchmarks.experiment.config import Experiment
from benchmarks.experiment.design import ATTACK, CHOOSE, key_for
from benchmarks.runtime.compilation import Program, Programs
from benchmarks.stages.base import blocks
from jaxprune.cells import Cell
from jaxprune.devices import layout, mesh_devices, take
from jaxprune.envs import Environment
from jaxprune.evaluation import Evaluator
from jaxprune.evaluation.episodes import EpisodeSet, Shared, choosing_sets, timeless, turns
from jaxprune.pruning import dense
from jaxprune.queue import Queued, lane_steps, queue_width
from jaxprune.rollout import Episode, Play
from jaxprune.types import PyTree

# Episodes that a lane plays in one call, on average, where there are as many.
EPISODES_PER_LANE = 32


class BlockEvaluator(Evaluator):
    """An evaluator whose calls all have one shape, so that a larger grid compiles nothing.

    The episodes that are reported and those on which members are chosen go through the same
    program, in queues of the same length: of fewer episodes, a call plays more cells.

    Args:
        experiment: resolved.
        env: the task.
        names: of the attacks, in the order of the program.
        policy: the agents' policies or their shapes, `[agents]`.
        times: int `[episodes, k]`, at which steps the reported episodes are looked at.
        cells: how many there are.
        programs: compiles, when that is first asked for.
    """

    def __init__(
        self,
        experiment: Experiment,
        env: Environment,
        names: tuple[str, ...],
        policy: PyTree,
        times: np.ndarray,
        cells: int,
        programs: Programs,
    ):
        super().__init__(env, names, experiment.attack)
        self.policy, self._fillers = policy, super().fillers(policy)
        self.gamma = np.float32(experiment.ppo.hyper.gamma)
        self.reported = EpisodeSet(key_for(experiment.seed, ATTACK), times)
        chooses = any(attack.members(env.spec) > 1 for attack in self.members)
        key, kept = key_for(experiment.seed, CHOOSE), times.shape[1]
        self.rounds = choosing_sets(key, self.selection.rounds, kept) if chooses else []
        sizes = [episodes.size for episodes in (self.reported, *self.rounds)]
        self.most = max(sizes)
        self.width = queue_width(cells * self.most, experiment.lanes)
        together = len(mesh_devices()) * self.width * EPISODES_PER_LANE
        self.queued = self.most * min(cells, max(together // self.most, 1))
        self.cells = self.queued // min(sizes)
        self.layout = layout(self.queued, width=1)
        self.compile = cache(partial(self._compile, programs))
        # Env steps of the episodes, and those that the lanes took for them.
        self.counted, self.simulated = 0, 0

    def _compile(self, programs: Programs) -> Program:
        """Start compiling."""
        masks = jax.eval_shape(lambda p: dense(take(p.params, np.zeros(1, int))), self.policy)
        one = Cell(np.zeros(1, np.int32), jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), masks))
        cells, params = take((one, self._fillers), np.zeros(self.cells, int))
        play, zero = timeless(self.how(stochastic=False)), np.float32(0)
        shared = Shared(self.policy, cells, params, self.reported, np.int32(0), zero, play)
        return programs.compile(
            "evaluate", self.program, self._padded(shared), self._queue(1, 1), self.width
        )

    def how(self, stochastic: bool) -> Play:
        """How episodes are played; the steps at which they are looked at come with every item."""
        return Play(np.bool_(stochastic), gamma=self.gamma)

    def fillers(self, policies: PyTree) -> tuple[PyTree, ...]:
        """Those for the policies of the experiment."""
        del policies  # they all have the shapes of `policy`
        return self._fillers

    def _calls(self, count: int, episodes: int) -> Iterator[tuple[np.ndarray, int]]:
        """Cells dealt like cards: of a sorted population, every call begins with long episodes."""
        calls = -(-count // (self.queued // episodes))
        for first in range(calls):
            cells = np.arange(first, count, calls)
            yield np.resize(cells, self.cells), len(cells)

    def _call(self, shared: Shared, cells: int, lanes: int | None) -> Episode:
        del lanes  # the program is compiled for those of the experiment
        queue = self._queue(cells, shared.episodes.size)
        found = self.layout.collect(self.compile().result()(self._padded(shared), queue))
        played = take(found, slice(cells * shared.episodes.size))
        self.counted += int(played.length.sum())
        self.simulated += lane_steps(played.length, self.width)
        return played

    def facts(self) -> dict[str, object]:
        """Env steps of this process, for experiment.json."""
        return {"lanes": {"counted": self.counted, "simulated": self.simulated}}

    def _padded(self, shared: Shared) -> Shared:
        """With the same number of episodes in every call, of which the last are not played."""
        number = np.minimum(np.arange(self.most), shared.episodes.size - 1)
        times = take(shared.episodes.times, number)
        return shared._replace(episodes=shared.episodes._replace(times=times))

    def _queue(self, cells: int, episodes: int) -> Queued:
        """The turns of a call, padded to the same number and dealt to the devices."""
        ((number, size),) = blocks(cells * episodes, self.queued)
        real = np.arange(self.queued) < size
        return self.layout.deal(Queued(real, take(turns(cells, episodes), number)))
