"""Observation adversaries, the neutral one first."""

from collections.abc import Callable

from jaxprune.attacks.base import Attack, none, one_of
from jaxprune.attacks.gradient import MADConfig, mad
from jaxprune.attacks.noise import uniform
from jaxprune.families import lookup

# Name -> factory. Only MAD has settings today; a factory ignores those of its neighbours.
ATTACKS: dict[str, Callable[[MADConfig], Attack]] = {
    "none": lambda _: none(),
    "random": lambda _: uniform(),
    "mad": mad,
}


def make_attack(name: str, mad_config: MADConfig | None = None) -> Attack:
    """The attack `name`. Raises `InputError`, listing all, if there is none."""
    return lookup(ATTACKS, name, "attack")(mad_config or MADConfig())


__all__ = ["ATTACKS", "Attack", "MADConfig", "make_attack", "none", "one_of"]
