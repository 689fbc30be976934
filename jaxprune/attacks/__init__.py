"""Observation adversaries, the neutral one first."""

from collections.abc import Callable
from typing import NamedTuple

from jaxprune.attacks.base import Attack, Cost, Victims, none, one_of, within
from jaxprune.attacks.config import (
    AdversaryConfig,
    AttackConfig,
    MADConfig,
    SarsaConfig,
    SearchConfig,
)
from jaxprune.attacks.coupled import coupled
from jaxprune.attacks.critics import lookahead, value_attack
from jaxprune.attacks.gradient import fgsm, mad, mad_momentum, mad_power, mad_sgld
from jaxprune.attacks.learned import paad, paad_reference, sa_rl
from jaxprune.attacks.noise import corners, fixed, gaussian, uniform
from jaxprune.attacks.robust_sarsa import q_attack, rs, rs_adversarial, rs_mad, rs_reference
from jaxprune.attacks.search import corner_search, evolution
from jaxprune.attacks.transfer import snooping, transfer
from jaxprune.attacks.worst_policy import worst_policy
from jaxprune.envs import EnvSpec
from jaxprune.policy import has_critic
from jaxprune.types import Policy
from jaxprune.validation import InputError, lookup


class Kind(NamedTuple):
    """A member of the family: how it is made, and what it asks for."""

    make: Callable[[AttackConfig], Attack]
    about: str
    """What it does, in a few words."""
    needs: frozenset[str] = frozenset()
    """Of "critic" (the victim's own), "continuous" (actions), "simulator" and "source"."""


def _kind(make: Callable[[AttackConfig], Attack], about: str, *needs: str) -> Kind:
    return Kind(make, about, frozenset(needs))


ATTACKS: dict[str, Kind] = {
    "none": _kind(lambda _: none(), "no attack"),
    # That do not look at the policy.
    "random": _kind(lambda _: uniform(), "uniform noise"),
    "corners": _kind(lambda _: corners(), "signed noise, at the corners of the ball"),
    "gaussian": _kind(lambda _: gaussian(), "normal noise, clipped to the ball"),
    "fixed": _kind(lambda _: fixed(), "one corner for a whole episode"),
    # That follow the gradient of the policy.
    "fgsm": _kind(lambda _: fgsm(), "largest KL by one gradient"),
    "mad": _kind(lambda c: mad(c.mad), "largest KL by projected gradient ascent"),
    "mad_momentum": _kind(lambda c: mad_momentum(c.mad), "the same with momentum"),
    "mad_sgld": _kind(lambda _: mad_sgld(), "the published MAD: noisy gradient signs"),
    "mad_power": _kind(lambda _: mad_power(), "largest KL by one power iteration"),
    "mad_coupled": _kind(lambda c: coupled(mad(c.mad)), "MAD that changes slowly over time"),
    # That follow a critic.
    "critic": _kind(
        lambda c: value_attack(c.mad), "lowest V of what is seen (published)", "critic"
    ),
    "critic_q": _kind(lambda c: q_attack(c.rs, c.mad), "lowest Q of the true state, plain Sarsa"),
    "lookahead": _kind(
        lambda c: lookahead(c.search), "lowest c r + gamma V by simulation", "critic", "simulator"
    ),
    "rs": _kind(lambda c: rs(c.rs, c.mad), "Robust Sarsa"),
    "rs_reference": _kind(
        lambda c: rs_reference(c.rs), "Robust Sarsa as published, shuffled", "continuous"
    ),
    "rs_adversarial": _kind(
        lambda c: rs_adversarial(c.rs, c.mad), "Robust Sarsa on data under its own attack"
    ),
    "rs_mad": _kind(lambda c: rs_mad(c.rs, c.mad), "a mixture of Robust Sarsa and MAD"),
    # That learn what to do.
    "sa_rl": _kind(
        lambda c: sa_rl(c.adversary, c.rs, c.mad), "learned perturbation (optimal adversary)"
    ),
    "paad": _kind(
        lambda c: paad(c.adversary, c.rs, c.mad), "learned direction of the action, PGD actor"
    ),
    "paad_reference": _kind(
        lambda c: paad_reference(c.adversary, c.rs, c.mad),
        "PA-AD as published, wrong sign",
        "continuous",
    ),
    "worst_policy": _kind(
        lambda c: worst_policy(c.adversary, c.mad), "towards the action of a policy trained on -r"
    ),
    # That use no gradient of the victim.
    "transfer": _kind(lambda c: transfer(c.mad), "MAD against another policy", "source"),
    "snooping": _kind(lambda c: snooping(c.search, c.mad), "MAD against a clone of the victim"),
    "search": _kind(lambda c: corner_search(c.search), "largest KL of random corners"),
    "evolution": _kind(lambda c: evolution(c.search), "largest KL by an evolution strategy"),
}
# Names of the literature for what has another one here.
ALIASES = {"pgd": "mad"}
NEEDS = {
    "critic": "the critic of the victim, and this policy has none: use rs, which trains its own",
    "continuous": "continuous actions, and this task has a choice: use rs or paad",
    "simulator": "a simulator that it can ask what would follow: use evaluate with make_env",
    "source": "a policy whose attack is transferred: give source=",
}


def find_attack(name: str) -> str:
    """The key of `ATTACKS` for a name, or for an alias of one.

    Raises:
        InputError: neither; the message lists them all and the nearest one.
    """
    lookup(dict.fromkeys([*ATTACKS, *ALIASES]), name, "attack")
    return name if name in ATTACKS else ALIASES[name]


def check_needs(
    attack: str | Attack,
    spec: EnvSpec,
    policy: Policy | None = None,
    source: bool = False,
    simulator: bool = True,
) -> None:
    """Raises `InputError`, with the remedy, where an attack cannot be run.

    Args:
        attack: a key of `ATTACKS` or `ALIASES`; an attack that is given as such is not checked.
        spec: of the task.
        policy: the victims; None where they are to be trained, with critics.
        source: whether there is a policy whose attack can be transferred.
        simulator: whether the attack may simulate.
    """
    if isinstance(attack, Attack):
        return
    needs = ATTACKS[find_attack(attack)].needs
    missing = {
        "critic": policy is not None and not has_critic(policy),
        "continuous": spec.discrete,
        "simulator": not simulator,
        "source": not source,
    }
    for what, remedy in NEEDS.items():
        if what in needs and missing[what]:
            raise InputError(f"attack {attack!r} needs {remedy}")


def make_attack(name: str | Attack, config: AttackConfig | None = None) -> Attack:
    """The attack `name`, or the one that is given, kept in its ball.

    Raises `InputError`, listing all, if there is none.
    """
    found = (
        name
        if isinstance(name, Attack)
        else ATTACKS[find_attack(name)].make(config or AttackConfig())
    )
    return within(found)


__all__ = [
    "ALIASES",
    "ATTACKS",
    "AdversaryConfig",
    "Attack",
    "AttackConfig",
    "Cost",
    "Kind",
    "MADConfig",
    "SarsaConfig",
    "SearchConfig",
    "Victims",
    "check_needs",
    "find_attack",
    "make_attack",
    "none",
    "one_of",
]
