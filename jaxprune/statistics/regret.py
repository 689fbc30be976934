"""The regret of an attacked, pruned policy as three measurable terms."""

from typing import NamedTuple

from jaxprune.types import AnyArray


class Regret(NamedTuple):
    """`total = clean + pruning + robustness`, in units of return; any term may be negative."""

    clean: AnyArray  # J_ref - J(dense): what training left on the table
    pruning: AnyArray  # J(dense) - J(pruned): what the mask costs without an adversary
    robustness: AnyArray  # J(pruned) - J(attacked pruned): what the adversary takes

    @property
    def total(self) -> AnyArray:
        """J_ref - J(attacked pruned)."""
        return self.clean + self.pruning + self.robustness


def decompose(reference: AnyArray, dense: AnyArray, pruned: AnyArray, attacked: AnyArray) -> Regret:
    """The telescoping identity

        J_ref - J(pi_m o nu) = [J_ref - J(pi)] + [J(pi) - J(pi_m)] + [J(pi_m) - J(pi_m o nu)].

    Use returns of the *same* episodes (reset keys) throughout, so that differences are paired.
    `reference` is the best policy at hand: the optimum is unknown, and a regret to a reference
    understates the regret to the optimum by the same amount everywhere.

    Args (arrays of JAX or NumPy):
        reference: J_ref, undiscounted return; broadcasts against the rest.
        dense: J(pi), clean return of the unpruned policy.
        pruned: J(pi_m), clean return of the pruned policy.
        attacked: J(pi_m o nu), return of the pruned policy under attack.

    Source: arXiv 2510.12939, Theorem 2, with every term made measurable.
    """
    return Regret(reference - dense, dense - pruned, pruned - attacked)
