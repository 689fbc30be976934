"""Controls: networks that share with a pruned one what is not its sparsity.

An effect of pruning should be absent in a network with weights as *small* but none removed
(`rescaled`), and in a dense network with as *few* weights (`narrow_width`, `narrow_policy`).
Few bits make a network small too, with and without pruning (`quantised`).
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import jax
import numpy as np

from jaxprune.pruning.accounting import Network, check_one_agent, in_order
from jaxprune.pruning.allocation import exact
from jaxprune.pruning.masks import dense, masked_on_host
from jaxprune.pruning.scope import Prunable, actor_kernels, named_leaves
from jaxprune.pruning.storage import as_int8
from jaxprune.types import AnyArray, Masks, Params, Policy
from jaxprune.validation import InputError

# --- as small, nothing removed --------------------------------------------------------------------


def rescaled(policy: Policy, masks: Masks, prunable: Prunable = actor_kernels) -> Policy:
    """All weights stay, scaled to the norms that the masks would leave.

    W' = W ||M * W||_F / ||W||_F for every prunable kernel, one factor per layer: each norm is that
    of the masked kernel, and with it every product of the layers' norms. Biases and log_std stay
    as they are, and a kernel of which nothing is removed keeps its bits.

    Args:
        policy: one agent.
        masks: True = keep, leading axes `[...]`.
        prunable: path -> whether the leaf may be pruned; of those, kernels are scaled.

    Returns:
        Policies `[...]`, with numpy leaves (read-only where nothing is scaled).

    Raises:
        InputError: several agents at once.
    """
    check_one_agent(policy, None)
    policy, masks = jax.device_get((policy, masks))
    batch = masks.log_std.shape[:-1]
    copies = jax.tree.map(lambda x: np.broadcast_to(x, (*batch, *np.shape(x))), policy)
    leaves = [
        _scaled(w, mask) if prunable(path) and path.endswith("/kernel") else copy
        for (path, w), mask, copy in zip(
            named_leaves(policy.params),
            jax.tree.leaves(masks),
            jax.tree.leaves(copies.params),
            strict=True,
        )
    ]
    return replace(copies, params=jax.tree.unflatten(jax.tree.structure(copies.params), leaves))


def _scaled(kernel: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One kernel `[in, out]`, masks `[..., in, out]` -> kernels `[..., in, out]`."""
    norm, left = _frobenius(kernel), _frobenius(np.where(mask, kernel, 0))
    scale = np.divide(left, norm, out=np.ones_like(left), where=norm > 0)
    return (scale[..., None, None] * kernel).astype(kernel.dtype)


def _frobenius(kernels: np.ndarray) -> np.ndarray:
    """`[..., in, out] -> [...]`, in float64."""
    # One axis: over two, the order of the sum and its last bit depend on the leading axes.
    flat = kernels.reshape(*kernels.shape[:-2], -1)
    return np.sqrt(np.sum(np.square(flat, dtype=np.float64), axis=-1))


# --- in fewer bits --------------------------------------------------------------------------------


def quantised(policy: Policy, masks: Masks | None = None) -> Policy:
    """Returns the policy that a device computes which holds the actor's kernels as int8.

    W' = q s with q = round(W / s) and s = max |W| / 127 per output, of the masked kernels, so that
    what the masks remove stays 0 (`jaxprune.pruning.storage.as_int8`). Biases, log_std and the
    critic are those of the masked policy.

    Args:
        policy: leading axes `[...]` are agents.
        masks: True = keep, of the same axes; None keeps everything.

    Returns:
        Policies `[...]`, with numpy leaves.
    """
    policy = masked_on_host(policy, masks)
    with np.errstate(invalid="ignore"):  # weights that diverged have no value here either
        actor = {
            name: layer | {"kernel": _dequantised(np.asarray(layer["kernel"]))}
            for name, layer in policy.params.actor.items()
        }
    return replace(policy, params=policy.params._replace(actor=actor))


def _dequantised(kernel: np.ndarray) -> np.ndarray:
    levels, scale = as_int8(kernel)
    return levels * scale[..., None, :]


# --- as few, nothing removed ----------------------------------------------------------------------


def narrow_width(params: Params, sparsity: float | Fraction) -> tuple[int, ...]:
    """Hidden widths of a dense actor with about as many kernel entries as a pruned one.

    Of all widths max(1, round(f w)) with one factor f in [0, 1] for every hidden layer, those whose
    kernel entries come nearest to round((1 - sparsity) n), n the entries of the actor; of two
    equally near ones the narrower. Sparsity 0 gives the widths of `params`. Inputs and outputs
    stay, so that high sparsities may be out of reach.

    Args:
        params: arrays or shapes; leading axes are agents.
        sparsity: in [0, 1), a float counts as the decimal that it prints as.

    Raises:
        InputError: sparsity outside [0, 1).
    """
    shapes = [layer["kernel"].shape[-2:] for layer in in_order(params.actor)]
    sizes = [shapes[0][0], *(outputs for _, outputs in shapes)]
    inputs, *hidden, outputs = sizes
    target = round((1 - exact(sparsity)) * _entries(sizes))
    # round(f w), halves up, changes at f = (k - 1/2) / w and nowhere else.
    factors = {Fraction(2 * k - 1, 2 * w) for w in hidden for k in range(1, w + 1)} | {Fraction(0)}
    widths = [
        tuple(max(1, int(factor * w + Fraction(1, 2))) for w in hidden)
        for factor in sorted(factors)
    ]
    return min(widths, key=lambda middle: abs(_entries([inputs, *middle, outputs]) - target))


def narrow_policy(policy: Policy, narrow: Policy) -> tuple[Policy, Masks]:
    """A narrow actor in the shapes of a wide one, so that both train in one population.

    The narrow kernels and biases are the leading rows and columns; the rest is 0 and masked, biases
    of absent units included. As both activations map 0 to 0, absent units add nothing: the actor's
    outputs at a normalised observation are those of `narrow`.

    Args:
        policy: one wide agent; gives the shapes, the critic and the observation statistics.
        narrow: one agent with narrower hidden layers; gives the actor and log_std.

    Returns:
        The policy and its masks, with numpy leaves.

    Raises:
        InputError: several agents at once, or networks that do not fit into each other.
    """
    check_one_agent(policy, None)
    check_one_agent(narrow, None)
    _check_fits(policy, narrow)
    policy, narrow, masks = jax.device_get((policy, narrow, dense(policy.params)))
    wide = policy.params
    actor = jax.tree.map(_embedded, narrow.params.actor, wide.actor)
    present = jax.tree.map(lambda w: np.ones(w.shape, bool), narrow.params.actor)
    params = wide._replace(actor=actor, log_std=narrow.params.log_std)
    keep = masks._replace(actor=jax.tree.map(_embedded, present, masks.actor))
    return replace(policy, params=params), keep


def _entries(sizes: Sequence[int]) -> int:
    """Kernel entries of a network with these widths, input and output included."""
    return sum(a * b for a, b in itertools.pairwise(sizes))


def _embedded(small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """Zeros of the shape of `large` with `small` in the leading corner."""
    out = np.zeros_like(large)
    out[tuple(slice(n) for n in small.shape)] = small
    return out


def _check_fits(wide: Policy, narrow: Policy) -> None:
    """Raises `InputError` unless `narrow` is `wide` with at most as many hidden units."""
    for name in ("activation", "distribution", "obs_clip", "obs_std_offset"):
        if getattr(wide, name) != getattr(narrow, name):
            raise InputError(
                f"the narrow policy has {name} {getattr(narrow, name)!r}, the wide one "
                f"{getattr(wide, name)!r}: make both alike"
            )
    small, large = _widths(narrow.params.actor), _widths(wide.params.actor)
    alike = (len(small), small[0], small[-1]) == (len(large), large[0], large[-1])
    if not alike or any(a > b for a, b in zip(small, large, strict=True)):
        raise InputError(
            f"an actor of widths {small} does not fit into {large}: it needs the same inputs, "
            "outputs and number of layers, and no wider hidden layer"
        )


def _widths(network: Network) -> list[AnyArray]:
    """Of the input, the hidden layers and the output."""
    layers = in_order(network)
    return [layers[0]["kernel"].shape[0], *(layer["bias"].shape[0] for layer in layers)]
