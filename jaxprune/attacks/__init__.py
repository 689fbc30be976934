"""Attacks on what a policy observes, by name; the neutral one is first. See README.md beside."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxprune.attacks.base import Attack, Cost, Victims, none, one_of, within
from jaxprune.attacks.config import (
    AdversaryConfig,
    AttackConfig,
    DirectorConfig,
    MADConfig,
    SarsaConfig,
    SearchConfig,
    SelectionConfig,
)
from jaxprune.attacks.coupled import coupled
from jaxprune.attacks.critics import lookahead, value_attack
from jaxprune.attacks.demonstrations import Teacher, teachers
from jaxprune.attacks.direction import direction
from jaxprune.attacks.director import director
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


class Learning(NamedTuple):
    """What an attack learns by passes over data: what a run's memory and costs are counted from."""

    section: str
    """Section of `AttackConfig` with its settings."""
    passes: str
    """Name of the number of passes, among them."""
    network: str
    """What learns: "actor" and "critic" in their sizes, or "both"."""
    shared: bool = False
    """Whether all members learn from the same env steps."""


class Kind(NamedTuple):
    """A member of the family of attacks: how it is made, and the facts that programs ask for."""

    make: Callable[[AttackConfig], Attack]
    about: str
    """What it does, in a few words."""
    family: str = "gradient"
    """A key of `FAMILIES`; it decides what the sanity checks expect of the attack."""
    needs: frozenset[str] = frozenset()
    """Of "critic" (the victim's own), "continuous" (actions), "simulator" and "source"."""
    learns: Learning | None = None
    """What it learns before it plays; None for nothing."""
    label: str = ""
    """Its name in figures; empty for its name in the registry."""
    in_all: bool = True
    """Whether a battery of "all" attacks has it; one that has not is played where it is named."""


# What an attack goes by. What follows the victim's own gradients or trains against the victim (a
# white box) is expected to be at least as strong as noise, transfer and gradient-free search.
FAMILIES = {
    "none": "the clean run",
    "noise": "does not look at the policy",
    "gradient": "follows the gradient of the policy",
    "critic": "follows the gradient of a critic",
    "learned": "learns what to do",
    "transfer": "is made for another policy",
    "search": "asks the policy at points, without its gradient",
}
WHITE_BOXES = ("gradient", "critic", "learned")


def _kind(
    family: str,
    make: Callable[[AttackConfig], Attack],
    about: str,
    *needs: str,
    learns: Learning | None = None,
    label: str = "",
) -> Kind:
    return Kind(make, about, family, frozenset(needs), learns, label)


def _teachers(config: AttackConfig) -> Mapping[str, Teacher]:
    return teachers(config.rs, config.mad, config.director)


_SARSA = Learning("rs", "epochs", "critic")
_SHARED_SARSA = _SARSA._replace(shared=True)
_PPO = Learning("adversary", "epochs", "both")

ATTACKS: dict[str, Kind] = {
    "none": _kind("none", lambda _: none(), "no attack", label="clean"),
    "random": _kind("noise", lambda _: uniform(), "uniform noise", label="random noise"),
    "corners": _kind("noise", lambda _: corners(), "signed noise, at the corners of the ball"),
    "gaussian": _kind("noise", lambda _: gaussian(), "normal noise, clipped to the ball"),
    "fixed": _kind("noise", lambda _: fixed(), "one corner for a whole episode"),
    "fgsm": _kind("gradient", lambda _: fgsm(), "largest KL by one gradient"),
    "mad": _kind(
        "gradient",
        lambda c: mad(c.mad),
        "largest KL by projected gradient ascent",
        label="MAD (PGD on KL)",
    ),
    "mad_momentum": _kind("gradient", lambda c: mad_momentum(c.mad), "the same with momentum"),
    "mad_sgld": _kind("gradient", lambda _: mad_sgld(), "the published MAD: noisy gradient signs"),
    "mad_power": _kind("gradient", lambda _: mad_power(), "largest KL by one power iteration"),
    "mad_coupled": _kind(
        "gradient", lambda c: coupled(mad(c.mad)), "MAD that changes slowly over time"
    ),
    "direction": _kind(
        "gradient",
        lambda c: direction(c.director),
        "pushes the action in one direction, the same at every step",
        label="fixed direction",
    ),
    "director": _kind(
        "learned",
        lambda c: director(c.director),
        "pushes the action where a linear function of the state says",
        label="linear director",
    ),
    "critic": _kind(
        "critic", lambda c: value_attack(c.mad), "lowest V of what is seen (published)", "critic"
    ),
    "critic_q": _kind(
        "critic",
        lambda c: q_attack(c.rs, c.mad),
        "lowest Q of the true state, plain Sarsa",
        learns=_SARSA,
    ),
    "lookahead": _kind(
        "critic",
        lambda c: lookahead(c.search),
        "lowest c r + gamma V by simulation",
        "critic",
        "simulator",
    ),
    "rs": _kind("critic", lambda c: rs(c.rs, c.mad), "Robust Sarsa", learns=_SHARED_SARSA),
    "rs_reference": _kind(
        "critic",
        lambda c: rs_reference(c.rs),
        "Robust Sarsa as published, shuffled",
        "continuous",
        learns=_SHARED_SARSA,
    ),
    "rs_adversarial": _kind(
        "critic",
        lambda c: rs_adversarial(c.rs, c.mad),
        "Robust Sarsa on data under its own attack",
        learns=_SARSA,
    ),
    "rs_mad": _kind(
        "critic",
        lambda c: rs_mad(c.rs, c.mad),
        "a mixture of Robust Sarsa and MAD",
        learns=_SHARED_SARSA,
    ),
    "sa_rl": _kind(
        "learned",
        lambda c: sa_rl(c.adversary, _teachers(c)),
        "learned perturbation (optimal adversary)",
        learns=_PPO,
    ),
    "paad": _kind(
        "learned",
        lambda c: paad(c.adversary, _teachers(c), c.director),
        "learned direction of the action",
        learns=_PPO,
    ),
    "paad_reference": _kind(
        "learned",
        lambda c: paad_reference(c.adversary, _teachers(c)),
        "PA-AD as published: cos + norm, wrong sign",
        "continuous",
        learns=_PPO,
    ),
    "worst_policy": _kind(
        "learned",
        lambda c: worst_policy(c.adversary, c.mad),
        "towards the action of a policy trained on -r",
        learns=_PPO,
    )._replace(in_all=False),  # it knows only states that victims do not visit, see README.md
    "transfer": _kind(
        "transfer", lambda c: transfer(c.mad), "MAD against another policy", "source"
    ),
    "snooping": _kind(
        "transfer",
        lambda c: snooping(c.search, c.mad),
        "MAD against a clone of the victim",
        learns=Learning("search", "clone_epochs", "actor"),
    ),
    "search": _kind("search", lambda c: corner_search(c.search), "largest KL of random corners"),
    "evolution": _kind(
        "search", lambda c: evolution(c.search), "largest KL by an evolution strategy"
    ),
}


def facts_of(name: str) -> Kind:
    """Returns the registry entry of an attack that a table names; a plain one if it has none."""
    return ATTACKS.get(name, Kind(lambda _: none(), ""))


def label_of(name: str) -> str:
    """Returns the name of an attack in figures."""
    return facts_of(name).label or name


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
    "FAMILIES",
    "WHITE_BOXES",
    "AdversaryConfig",
    "Attack",
    "AttackConfig",
    "Cost",
    "DirectorConfig",
    "Kind",
    "Learning",
    "MADConfig",
    "SarsaConfig",
    "SearchConfig",
    "SelectionConfig",
    "Victims",
    "check_needs",
    "facts_of",
    "find_attack",
    "label_of",
    "make_attack",
    "none",
    "one_of",
]
