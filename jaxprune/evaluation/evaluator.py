"""Episodes of any masked policies under any of several attacks, by one compiled program."""

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from jaxprune.attacks import Attack, AttackConfig, Victims, make_attack
from jaxprune.attacks.members import ChosenMembers, blanks, choose, prepared
from jaxprune.devices import take
from jaxprune.envs import Environment
from jaxprune.evaluation.episodes import (
    EpisodeSet,
    Shared,
    cell_program,
    choosing_sets,
    timeless,
    turns,
)
from jaxprune.queue import map_queue
from jaxprune.rollout import Episode, Play
from jaxprune.types import Policy, PyTree


class Evaluator:
    """Prepares attacks, chooses their members, and plays episodes of masked policies under them.

    It compiles once, when it first plays, and again only for other shapes.

    Args:
        env: the task.
        attacks: keys of `ATTACKS`, or attacks, in the order of the program.
        config: settings of those that are named.
    """

    def __init__(
        self,
        env: Environment,
        attacks: Sequence[str | Attack],
        config: AttackConfig | None = None,
    ):
        self.env, self.attacks = env, tuple(attacks)
        config = config or AttackConfig()
        self.selection = config.selection
        self.members = [make_attack(attack, config) for attack in attacks]
        self.program = cell_program(env, self.attacks, config)

    def arm(self, attack: str | Attack, victims: Victims, play: Play) -> ChosenMembers:
        """Prepares an attack and chooses the strongest of its members for every victim.

        Args:
            attack: one of `attacks`.
            victims: the population; its key is consumed.
            play: how the episodes are played on which members are chosen.
        """
        key_prepare, key_choose = (jax.random.fold_in(victims.key, i) for i in range(2))
        member = self.members[self.attacks.index(attack)]
        params = prepared(member, victims._replace(key=key_prepare))
        kept = 0 if play.times is None else np.shape(play.times)[1]
        rounds = choosing_sets(key_choose, self.selection.rounds, kept)
        return self.choose(attack, victims, params, rounds, play)

    def choose(
        self,
        attack: str | Attack,
        victims: Victims,
        params: PyTree,
        rounds: Sequence[EpisodeSet],
        play: Play,
    ) -> ChosenMembers:
        """Chooses the member that leaves each victim the lowest mean return.

        Args:
            attack: one of `attacks`.
            victims: the population.
            params: of all members, `[N, members, ...]`.
            rounds: the episodes of both rounds of the choice.
            play: how they are played.
        """

        def returns(turn: int, index: np.ndarray, params: PyTree) -> np.ndarray:
            some = victims._replace(cells=take(victims.cells, index))
            return np.asarray(self.play(attack, some, params, rounds[turn], play).return_)

        members = self.members[self.attacks.index(attack)].members(self.env.spec)
        shape = len(victims.cells.agent), members
        return choose(self.selection, shape, params, returns)

    def play(
        self,
        attack: str | Attack,
        victims: Victims,
        params: PyTree,
        episodes: EpisodeSet,
        play: Play,
        advance: Callable[[int], None] | None = None,
    ) -> Episode:
        """Plays episodes of every victim under an attack that is ready: `Episode [N, episodes]`.

        Args:
            attack: one of `attacks`.
            victims: the population.
            params: what the attack knows of each victim, `[N, ...]`.
            episodes: those that every victim plays.
            play: how they are played.
            advance: is told how many more victims are done, after every call of the program.
        """
        which, count = self.attacks.index(attack), len(victims.cells.agent)
        fillers = jax.tree.map(
            lambda x: np.broadcast_to(x, (count, *x.shape[1:])), self.fillers(victims.policies)
        )
        known = (*fillers[:which], params, *fillers[which + 1 :])
        eps, play = np.float32(victims.eps), timeless(play)
        found, played = [], []
        for index, size in self._calls(count, episodes.size):
            cells, some = take((victims.cells, known), index)
            shared = Shared(victims.policies, cells, some, episodes, np.int32(which), eps, play)
            found.append(self._call(shared, size, victims.lanes))
            played.append(index[:size])
            if advance is not None:
                advance(size)
        place = np.argsort(np.concatenate(played))
        return jax.tree.map(
            lambda *x: np.concatenate(x).reshape(count, episodes.size, *x[0].shape[1:])[place],
            *found,
        )

    def fillers(self, policies: Policy) -> tuple[PyTree, ...]:
        """Parameters `[1, ...]` of attacks that are not played, for policies (or shapes) `[n]`."""
        one = jax.eval_shape(lambda p: take(p, 0), policies)
        return blanks(self.members, one, self.env.spec, 1)

    def _calls(self, count: int, episodes: int) -> Iterator[tuple[np.ndarray, int]]:
        """The cells of every call, and how many of these are no padding."""
        del episodes  # all in one call
        yield np.arange(count), count

    def _call(self, shared: Shared, cells: int, lanes: int | None) -> Episode:
        """The episodes of the first so many cells: `Episode [cells * E]`."""
        return map_queue(self.program, shared, turns(cells, shared.episodes.size), lanes)
