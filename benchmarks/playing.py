"""The program that plays the episodes of all cells, compiled ahead and called in blocks."""

from typing import Any

import jax
import numpy as np

from benchmarks.cells import Population, blocks, key_for
from benchmarks.experiment import Experiment
from benchmarks.programs import Programs
from benchmarks.work import Progress
from jaxprune.envs import Environment
from jaxprune.episodes import Shared, cell_program, episode_keys, split, timeless
from jaxprune.population import lane_width, layout, take
from jaxprune.pruning import dense
from jaxprune.pruning.cells import Cell
from jaxprune.rollout import Episode, Play

# Chunks of cells that a device walks through in one call.
CHUNKS_PER_CALL = 4


class Episodes:
    """The program that plays episodes, in calls of one shape."""

    def __init__(
        self,
        experiment: Experiment,
        env: Environment,
        names: tuple[str, ...],
        fillers: tuple[Any, ...],
        play: Play,
        purpose: int,
        cells: int,
    ):
        keys = episode_keys(key_for(experiment, purpose), len(play.times))
        self.names, self.fillers, self.play_as = names, fillers, timeless(play)
        self.parts = split(keys, np.asarray(play.times), cells, experiment.lanes)
        size = cells * self.parts.groups
        width = lane_width(len(play.times) // self.parts.groups, size, experiment.lanes)
        together = width * len(jax.local_devices())
        self.block = together * min(CHUNKS_PER_CALL, -(-size // together))
        self.order, self.place = layout(self.block, width)
        self.program = cell_program(env, names, experiment.attack, width)

    def compile(self, programs: Programs, name: str, policy: Any) -> None:
        """Start compiling for policies of these shapes, `[agents]`."""
        masks = jax.eval_shape(lambda p: dense(take(p.params, np.zeros(1, int))), policy)
        one = Cell(np.zeros(1, np.int32), jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), masks))
        turn = self.parts.turns(one, self.fillers, np.zeros(self.block, int))
        shared = Shared(policy, np.int32(0), np.float32(0), self.play_as)
        self.compiled = programs.compile(name, self.program, shared, turn)

    def ready(self) -> None:
        """Wait for the compiler."""
        self.compiled.result()

    def play(
        self,
        population: Population,
        index: np.ndarray,
        name: str,
        params: Any,
        eps: float,
        progress: Progress | None = None,
    ) -> Episode:
        """Episodes of the cells `index [n]` under an attack with parameters `[n, ...]`."""
        which, count = self.names.index(name), len(index)
        shared = Shared(population.policy, np.int32(which), np.float32(eps), self.play_as)
        fillers = jax.tree.map(lambda x: np.broadcast_to(x, (count, *x.shape[1:])), self.fillers)
        known = (*fillers[:which], params, *fillers[which + 1 :])
        cells, found, done = take(population.cells, index), [], 0
        for items, size in blocks(count * self.parts.groups, self.block):
            turns = self.parts.turns(cells, known, items[self.order])
            episodes = jax.device_get(self.compiled.result()(shared, turns))
            found.append(take(episodes, self.place[:size]))
            if progress is not None:
                progress.advance((done + size) // self.parts.groups - done // self.parts.groups)
            done += size
        return self.parts.joined(jax.tree.map(lambda *x: np.concatenate(x), *found))
