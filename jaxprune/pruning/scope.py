"""Which weights may go. Leaves are chosen by path, never by rank: stacked biases are 2-D too."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import jax

from jaxprune.types import AnyArray, Params
from jaxprune.validation import SPARSITY, InputError, at_least, check_ranges, lookup

# path, e.g. "actor/layer_0/kernel" -> whether that leaf may be pruned
Prunable = Callable[[str], bool]

NETWORKS = {"actor": ("actor",), "critic": ("critic",), "both": ("actor", "critic")}


@dataclass(frozen=True)
class Scope:
    """The weights that pruning may remove; log_std and the observation statistics never are."""

    networks: str = "actor"
    """Whose weights go: actor, critic or both. Certificates speak of the actor alone."""
    first_layer: bool = True
    """Whether the layer that meets the observation may be pruned."""
    last_layer: bool = True
    """Whether the layer that gives the action (or the value) may be pruned."""
    biases: bool = False
    """Whether biases may be pruned like kernels."""
    min_weights: Annotated[int, at_least(0)] = 1
    """Entries that every leaf keeps whatever its scores, against layer collapse."""
    layer_sparsity: Annotated[tuple[tuple[str, float], ...], SPARSITY] = ()
    """(path, sparsity) of layers with a sparsity of their own wherever anything is pruned."""

    def prunable(self, params: Params) -> Prunable:
        """The predicate for the parameters of a policy (arrays or shapes).

        Raises:
            InputError: unknown networks, nothing left to prune, or a path that is not there.
        """
        paths = frozenset(self._paths(params))
        unknown = [path for path, _ in self.layer_sparsity if path not in paths]
        if unknown:
            raise InputError(
                f"layer sparsity names {unknown[0]!r}, which is not among the prunable leaves: "
                f"choose from {', '.join(sorted(paths))}"
            )
        return paths.__contains__

    def _paths(self, params: Params) -> list[str]:
        found: list[str] = []
        for network in lookup(NETWORKS, self.networks, "networks to prune"):
            layers = list(getattr(params, network))
            left_out = {layers[0]} if not self.first_layer else set()
            left_out |= {layers[-1]} if not self.last_layer else set()
            kept = [layer for layer in layers if layer not in left_out]
            leaves = ("bias", "kernel") if self.biases else ("kernel",)
            found += [f"{network}/{layer}/{leaf}" for layer in kept for leaf in leaves]
        if not found:
            raise InputError(
                "no layer is left to prune without the first and the last: allow one of them"
            )
        return found

    def check(self) -> None:
        """Raises `InputError` for settings that no network could honour."""
        check_ranges(self)
        lookup(NETWORKS, self.networks, "networks to prune")


def actor_kernels(path: str) -> bool:
    """The default: the actor's kernels; biases, log_std and the critic are left alone."""
    return path.startswith("actor/") and path.endswith("/kernel")


def named_leaves(tree: Params) -> list[tuple[str, AnyArray]]:
    """("actor/layer_0/kernel", leaf) for every leaf, in leaf order."""
    return [
        ("/".join(str(getattr(k, "name", getattr(k, "key", k))) for k in path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def prunable_shapes(
    params: Params, prunable: Prunable = actor_kernels
) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every prunable leaf of one agent, in leaf order.

    Args:
        params: arrays or shapes; leading axes are agents.
        prunable: path -> whether the leaf may be pruned.
    """
    batch = len(params.log_std.shape) - 1
    return {name: leaf.shape[batch:] for name, leaf in named_leaves(params) if prunable(name)}
