"""The rules of activations by name; a new one is a file beside and an entry here."""

from jaxprune.certify.activations.base import Activation
from jaxprune.certify.activations.relu import RELU
from jaxprune.certify.activations.swish import SWISH
from jaxprune.certify.activations.tanh import TANH
from jaxprune.validation import lookup

ACTIVATIONS = {"tanh": TANH, "relu": RELU, "swish": SWISH}


def activation_rules(name: str) -> Activation:
    """Returns the rules of an activation. Raises `InputError`, listing all, if it has none."""
    return lookup(ACTIVATIONS, name, "activation with rules for bounds")
