"""Carry from step to step only those numbers that the next step reads.

A simulator keeps many times more in its state than its next step reads (contact points, inertias,
metrics). Selecting between states, as an episode end does, would copy them all.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from jaxprune.types import Array, PyTree


class Carry:
    """The state leaves that determine every later step's result, as few as can be told.

    A leaf is live if an output depends on it, or if a live leaf of the next state does: a fixed
    point, found by dead-code elimination in the program of `step`. What a loop starts from counts
    as read, even if its first pass overwrites it.

    Args:
        step: (state, action) -> (next state, outputs), pure; both states have the same leaves.
        state: an example of the state, a pytree of arrays or of their shapes.
        action: an example of the action, likewise.
    """

    def __init__(
        self,
        step: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
        state: PyTree,
        action: jax.ShapeDtypeStruct,
    ):
        self._leaves, self._treedef = jax.tree.flatten(state)

        def flat_step(leaves: list[Array], action: Array):
            after, outputs = step(self._treedef.unflatten(leaves), action)
            return jax.tree.leaves(after), jax.tree.leaves(outputs)

        jaxpr = jax.make_jaxpr(flat_step)(self._leaves, action).jaxpr
        outputs = len(jaxpr.outvars) - len(self._leaves)
        live = [False] * len(self._leaves)
        while True:
            _, read = partial_eval.dce_jaxpr(jaxpr, live + [True] * outputs)
            wider = [a or b for a, b in zip(live, read, strict=False)]  # read: the action as well
            if wider == live:
                break
            live = wider
        self._live = live

    def pack(self, state: PyTree) -> list[Array]:
        """The live leaves of a state."""
        leaves = jax.tree.leaves(state)
        return [jnp.asarray(leaf) for leaf, live in zip(leaves, self._live, strict=True) if live]

    def unpack(self, carried: list[Array]) -> PyTree:
        """A state with these live leaves, and zeros where no step reads."""
        given = iter(carried)
        leaves = [
            next(given) if live else jnp.zeros(leaf.shape, leaf.dtype)
            for leaf, live in zip(self._leaves, self._live, strict=True)
        ]
        return self._treedef.unflatten(leaves)
