"""What masks did to a network: sparsity, dead and constant units, inputs and outputs cut off.

Everything is read off the masks, which say what *was removed*: counting zero weights would miscount
those that are naturally 0. A path is a chain of kept weights, whatever their values. Runs in numpy
on the host, one agent at a time: the singular values of a batch have no place in a compiled
program.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxprune.pruning.masks import check_arrays, dense, masked_on_host
from jaxprune.pruning.scope import Prunable, actor_kernels, named_leaves
from jaxprune.types import AnyArray, Masks, Params, Policy
from jaxprune.validation import InputError

Network = dict[str, dict[str, AnyArray]]


class Paths(NamedTuple):
    """Which units a network's kept weights connect; entry l is level l, 0 the input."""

    from_input: list[np.ndarray]  # bool [width], some input reaches the unit
    to_output: list[np.ndarray]  # bool [width], the unit reaches some output


class LayerCount(NamedTuple):
    """One kernel, and the units that it feeds."""

    path: str  # e.g. "actor/layer_0/kernel"
    size: int
    kept: int
    sparsity: float
    condition: float  # largest / smallest singular value of the masked kernel; inf: rank deficient
    dead: int  # units fed that reach no output
    constant: int  # units fed that no input reaches


class NetworkCount(NamedTuple):
    """The actor or the critic."""

    network: str
    size: int  # kernel entries
    kept: int
    sparsity: float
    hidden: int  # hidden units
    dead: int  # hidden units that reach no output: nothing depends on them
    constant: int  # hidden units that no input reaches: their activation never changes
    disconnected_obs: int  # inputs that reach no output: changes in them alone change nothing
    disconnected_outputs: int  # outputs that no input reaches: constant actions (or value)


class Account(NamedTuple):
    """What one agent's masks removed; all plain numbers."""

    prunable_sparsity: float  # of the weights that could go
    actor_sparsity: float  # of the actor's kernels
    total_sparsity: float  # of every parameter: actor, critic and log_std
    networks: tuple[NetworkCount, NetworkCount]  # actor, critic
    layers: tuple[LayerCount, ...]  # actor, then critic, in the order of evaluation


def account(policy: Policy, masks: Masks | None, prunable: Prunable = actor_kernels) -> Account:
    """What `masks` did to `policy`.

    Args:
        policy: one agent.
        masks: of that agent, True = keep; None keeps everything.
        prunable: path -> whether the leaf could be pruned.

    Raises:
        InputError: several agents at once, or no leaf is prunable.
    """
    check_one_agent(policy, masks)
    keep = dense(policy.params) if masks is None else masks
    policy, keep = masked_on_host(policy, masks), jax.device_get(keep)
    leaves = named_leaves(keep)
    could_go = [leaf for path, leaf in leaves if prunable(path)]
    if not could_go:
        raise InputError(
            f"the predicate accepts none of {', '.join(path for path, _ in leaves)}: "
            "its sparsity is undefined, pass the one of a Scope"
        )
    counted = [
        _count(name, getattr(policy.params, name), getattr(keep, name))
        for name in ("actor", "critic")
    ]
    actor, critic = (network for network, _ in counted)
    return Account(
        prunable_sparsity=_sparsity(could_go),
        actor_sparsity=actor.sparsity,
        total_sparsity=_sparsity([leaf for _, leaf in leaves]),
        networks=(actor, critic),
        layers=tuple(itertools.chain(*(layers for _, layers in counted))),
    )


def find_paths(kernels: Sequence[np.ndarray]) -> Paths:
    """Reachability in a fully connected network.

    r_0 = 1, r_(l+1) = any_i(r_l[i] and K_l[i, :]) from the inputs, and likewise from the outputs.

    Args:
        kernels: bool `[in, out]` each, first layer first.
    """
    # A product of booleans is an "or" of "and"s.
    forwards = itertools.accumulate(
        kernels, lambda reached, kernel: reached @ kernel, initial=np.ones(len(kernels[0]), bool)
    )
    backwards = itertools.accumulate(
        reversed(kernels),
        lambda reached, kernel: kernel @ reached,
        initial=np.ones(kernels[-1].shape[1], bool),
    )
    return Paths(list(forwards), list(backwards)[::-1])


def condition_number(kernel: np.ndarray) -> float:
    """sigma_max / sigma_min; inf where the rank is deficient, nan for weights that are not finite.

    A singular value counts as 0 below max(shape) * eps * sigma_max in float64, as in
    `numpy.linalg.matrix_rank`.
    """
    if not np.all(np.isfinite(kernel)):
        return float("nan")
    sigma = np.linalg.svd(np.asarray(kernel, np.float64), compute_uv=False)
    zero = max(kernel.shape) * np.finfo(sigma.dtype).eps * sigma[0]
    return float(sigma[0] / sigma[-1]) if sigma[-1] > zero else float("inf")


def in_order(network: Network) -> list[dict[str, AnyArray]]:
    """A network's layers as they are evaluated; sorted names would put layer_10 before layer_2."""
    return [network[f"layer_{i}"] for i in range(len(network))]


def check_one_agent(policy: Policy, masks: Masks | None) -> None:
    """Raises `InputError` unless these are one policy and masks of its shapes."""
    check_arrays(policy, masks)
    if policy.params.log_std.ndim != 1:
        raise InputError(
            f"the policy has leading axes {policy.params.log_std.shape[:-1]}: pass one agent, "
            "population.take(policy, i)"
        )
    if masks is not None and _shapes(masks) != _shapes(policy.params):
        raise InputError(
            "the masks differ in shape from the parameters of the policy: pass the masks of this "
            "one agent, population.take(masks, i)"
        )


def _shapes(tree: Params) -> dict[str, tuple[int, ...]]:
    return {path: leaf.shape for path, leaf in named_leaves(tree)}


def _sparsity(leaves: Sequence[np.ndarray]) -> float:
    return sum(int(np.sum(~x)) for x in leaves) / sum(x.size for x in leaves)


def _count(name: str, network: Network, masks: Network) -> tuple[NetworkCount, list[LayerCount]]:
    """A network as a whole and layer by layer; removed weights are 0 already."""
    kernels = [layer["kernel"] for layer in in_order(masks)]
    paths = find_paths(kernels)
    dead = [int(np.sum(~x)) for x in paths.to_output]
    constant = [int(np.sum(~x)) for x in paths.from_input]
    layers = [
        LayerCount(
            path=f"{name}/layer_{i}/kernel",
            size=kernel.size,
            kept=int(kernel.sum()),
            sparsity=_sparsity([kernel]),
            condition=condition_number(layer["kernel"]),
            dead=dead[i + 1],
            constant=constant[i + 1],
        )
        for i, (kernel, layer) in enumerate(zip(kernels, in_order(network), strict=True))
    ]
    whole = NetworkCount(
        network=name,
        size=sum(kernel.size for kernel in kernels),
        kept=sum(layer.kept for layer in layers),
        sparsity=_sparsity(kernels),
        hidden=sum(kernel.shape[1] for kernel in kernels[:-1]),
        dead=sum(dead[1:-1]),
        constant=sum(constant[1:-1]),
        disconnected_obs=dead[0],
        disconnected_outputs=constant[-1],
    )
    return whole, layers
