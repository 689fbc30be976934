"""What an adversary is, the one that does nothing, and how several share one program.

The adversary replaces the normalised observation x by some x' with ||x' - x||_inf <= eps before
the policy acts (SA-MDP, Zhang et al. 2020); the simulator always moves on from the true state.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxprune.cells import Cell
from jaxprune.envs import Environment, EnvSpec
from jaxprune.pgd import projected
from jaxprune.types import AnyArray, Array, Key, Policy, PyTree


class Cost(NamedTuple):
    """What an attack spends, by which attacks are compared at equal budgets."""

    queries: int = 0
    """Forward passes of a policy or a critic, per attacked step."""
    gradients: int = 0
    """Gradients of these with respect to the observation, per attacked step."""
    simulated: int = 0
    """Simulator steps, per attacked step."""
    env_steps: int = 0
    """Simulator steps of the preparation, per victim and over all members."""
    trials: int = 0
    """Episodes of the preparation, likewise; nobody knows how long they last."""

    @property
    def learns(self) -> bool:
        """Returns whether the preparation takes steps of the task."""
        return bool(self.env_steps or self.trials)

    def spent(self, length: np.ndarray) -> dict[str, AnyArray]:
        """Returns what was spent, with the trials among the env steps at a mean length `[N]`."""
        spent = self._asdict()
        return spent | {"env_steps": np.int64(self.env_steps + spent.pop("trials") * length)}


FREE = Cost()


class Victims(NamedTuple):
    """The population that an attack prepares itself against, on the host."""

    env: Environment
    policies: Policy  # [agents]
    cells: Cell  # [N]
    eps: float
    key: Key  # consumed; the same for every victim, so that none depends on its neighbours
    stochastic: bool = False  # whether the victim draws its actions
    source: Policy | None = None  # [N], whose attack is transferred
    lanes: int | None = None  # environments per device; None: what is fast on its kind
    start: PyTree = None  # [N, members, ...], what training starts from; None: fresh


class Attack(NamedTuple):
    """An adversary in pure functions. Members of the family are made by factories."""

    perturb: Callable[..., tuple[Array, PyTree]]
    """(params, memory, key, victim, obs_norm [obs_size], eps [], moment) -> (obs_norm', memory').

    `moment` is the simulator and its state, a `Moment`; None where there is none to be had."""
    init: Callable[[PyTree, Key], PyTree]
    """(params, key) -> what the attack remembers, at the start of every episode."""
    blank: Callable[[Policy, EnvSpec], PyTree]
    """(victim, spec) -> parameters of one member before any preparation: shapes, and fillers."""
    prepare: Callable[[Victims], PyTree] | None = None
    """Trains what the attack needs: parameters `[N, members, ...]`, on the host. None: nothing."""
    members: Callable[[EnvSpec], int] = lambda spec: 1
    """How many are prepared per victim of a task, of which the strongest is used."""
    per_eps: bool = True
    """Whether the preparation depends on eps; if not, one serves every radius."""
    warms: bool = False
    """Whether the preparation can start from what it made for another victim (`Victims.start`)."""
    cost: Cost = FREE


def memoryless(perturb: Callable[[Key, Policy, Array, Array], Array], cost: Cost = FREE) -> Attack:
    """An attack without parameters or memory, from (key, victim, obs_norm, eps) -> obs_norm'."""

    def with_memory(params, memory, key, victim, obs_norm, eps, moment=None):
        del params, moment  # there are none, and it is not looked at
        return perturb(key, victim, obs_norm, eps), memory

    return Attack(with_memory, nothing, nothing, cost=cost)


def nothing(*_: object) -> tuple[()]:
    """The parameters, or the memory, of an attack without."""
    return ()


def none() -> Attack:
    """No attack: the observation passes, bit for bit."""
    return memoryless(lambda key, victim, obs_norm, eps: obs_norm)


def within(attack: Attack) -> Attack:
    """The attack with what it shows projected to its ball; a coordinate that is NaN stays true."""

    def perturb(params, memory, key, victim, obs_norm, eps, moment=None):
        moved, memory = attack.perturb(params, memory, key, victim, obs_norm, eps, moment)
        return projected(moved, obs_norm, eps), memory

    return attack._replace(perturb=perturb)


def lowest(returns: np.ndarray) -> np.ndarray:
    """Returns the member with the lowest finite return, int `[N, members] -> [N]`."""
    return ranked(returns)[:, 0]


def ranked(returns: np.ndarray) -> np.ndarray:
    """Ranks members by their returns, int `[N, members]`: lowest first, not finite ones last."""
    return np.argsort(np.where(np.isfinite(returns), returns, np.inf), axis=1, kind="stable")


def one_of(attacks: Sequence[Attack], index: Array) -> Attack:
    """The attack number `index`, a traced integer: one compiled program runs them all.

    Its parameters are a tuple with those of every attack. Keep `index` out of every `vmap`, or
    each step computes all the attacks and discards the rest.
    """

    def blank(victim, spec):
        return tuple(attack.blank(victim, spec) for attack in attacks)

    def init(params, key):
        return tuple(a.init(p, key) for a, p in zip(attacks, params, strict=True))

    def branch(i):
        def perturb(params, memory, *args):
            moved, mine = attacks[i].perturb(params[i], memory[i], *args)
            return moved, (*memory[:i], mine, *memory[i + 1 :])

        return perturb

    def perturb(*args):
        return jax.lax.switch(index, [branch(i) for i in range(len(attacks))], *args)

    return Attack(perturb, init, blank)
