"""Cross-fitting: what is chosen on one half of the replicates is judged on the other, and back."""

import numpy as np

# A fold: (replicates that choose, replicates that judge).
Fold = tuple[slice, slice]


def folds(n: int) -> list[Fold]:
    """Returns two folds of n replicates, of which everyone judges once.

    A choice among noisy means is too good on the replicates that made it, and as good as it is on
    others. A single replicate serves for both; runs that have no other are refused.
    """
    if n < 2:
        return [(slice(None), slice(None))]
    first, second = slice(0, n // 2), slice(n // 2, n)
    return [(first, second), (second, first)]


def strongest(returns: np.ndarray) -> np.ndarray:
    """Returns which attack each episode is judged under: the strongest of the other fold.

    Args:
        returns: `[attacks, ..., episodes]`.

    Returns:
        `[..., episodes]`, indices of attacks. Means of what they pick are unbiased by the choice.
    """
    chosen = np.empty(returns.shape[1:], int)
    for choose, judge in folds(returns.shape[-1]):
        chosen[..., judge] = returns[..., choose].mean(-1).argmin(0)[..., None]
    return chosen


def picked(quantity: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns `quantity [attacks, ...]` of the chosen attacks `[...]`."""
    return np.take_along_axis(quantity, chosen[None], axis=0)[0]
