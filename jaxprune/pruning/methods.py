"""Pruning methods: a score, a schedule and a structure under a name, and what they aim at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxprune.pruning.allocation import ALLOCATIONS, EQUAL, Shares, apportioned, exact, share_out
from jaxprune.pruning.schedules import SCHEDULES
from jaxprune.pruning.scope import Scope, prunable_shapes
from jaxprune.pruning.scores import SCORES
from jaxprune.pruning.structures import STRUCTURES, Competing
from jaxprune.types import AnyArray, Params
from jaxprune.validation import InputError, lookup

AFTER = "after"


@dataclass(frozen=True)
class Method:
    """What decides which weights go, and when."""

    score: str = "magnitude"
    """A key of `SCORES`."""
    schedule: str | None = None
    """A key of `SCHEDULES` for pruning during training; None prunes once, after it."""
    structure: str = "weights"
    """A key of `STRUCTURES`."""
    rounds: int = 1
    """Times that the rest is scored again on the way to the target (at one event)."""
    subset: float = 0.0
    """The lowest fraction of what is left goes in random order: micro-pruning M3."""
    regrow: str | None = None
    """What the removed weights are chosen by that replace the smallest ones at every event."""
    rewind: bool = False
    """Whether training starts again from the first weights after every removal."""

    @property
    def needs_data(self) -> bool:
        """Whether it looks at observations, or at gradients."""
        return SCORES[self.score].needs != "nothing" or self.regrow == "gradient"

    def fires(self, before_training: bool) -> bool:
        """Whether it changes masks before training, or else at every event during training.

        One without a schedule does neither. One whose schedule is "at_start" removes weights before
        training, and during training does something only if it regrows them. All others remove
        weights during training.
        """
        if before_training or self.schedule is None:
            return self.schedule == "at_start"
        return self.schedule != "at_start" or self.regrow is not None

    @property
    def nested(self) -> bool:
        """Whether its masks for two sparsities are nested, of the *same* surviving weights.

        Only then do monotone bounds promise anything about the curve.
        """
        return self.schedule is None and self.rounds == 1


# SynFlow's own number; scored once it would cut whole layers.
SYNFLOW_ROUNDS = 100

METHODS: dict[str, Method] = {
    "none": Method("constant"),
    # After training.
    "magnitude": Method("magnitude"),
    "random": Method("random"),
    "layer_magnitude": Method("layer_magnitude"),
    "lamp": Method("lamp"),
    "saliency": Method("saliency"),
    "fisher": Method("fisher"),
    "wanda": Method("wanda", structure="outputs"),
    "certificate": Method("certificate"),
    "adversary": Method("adversary"),
    "neurons": Method("magnitude", structure="neurons"),
    "n_of_4": Method("magnitude", structure="n_of_4"),
    # Before training.
    "static": Method("random", "at_start"),
    "snip": Method("snip", "at_start"),
    "grasp": Method("grasp", "at_start"),
    "synflow": Method("synflow", "at_start", rounds=SYNFLOW_ROUNDS),
    # During training.
    "micro": Method("magnitude", "linear"),
    "micro_geometric": Method("magnitude", "geometric"),
    "micro_subset": Method("magnitude", "linear", subset=0.2),
    "gradual": Method("magnitude", "cubic"),
    "gradual_random": Method("random", "cubic"),
    "one_shot": Method("magnitude", "one_shot"),
    "iterative": Method("magnitude", "iterative"),
    "movement": Method("movement", "cubic"),
    "lottery": Method("magnitude", "iterative", rewind=True),
    "set": Method("magnitude", "at_start", regrow="random"),
    "rigl": Method("magnitude", "at_start", regrow="gradient"),
}


# Names of the literature for what has another one here.
ALIASES = {"l1": "magnitude", "gmp": "gradual", "imp": "iterative", "lth": "lottery"}


def find_method(name: str | Method) -> Method:
    """The method `name`: of `METHODS` or `ALIASES`, SCORE/SCHEDULE or SCORE/SCHEDULE/STRUCTURE.

    A `Method` is returned as it is.

    "lamp/cubic" removes the lowest LAMP scores on the cubic schedule; the schedule "after" is one
    shot after training: "fisher/after/neurons".

    Raises:
        InputError: unknown name or part, or parts that do not go together.
    """
    if isinstance(name, Method):
        lookup(SCORES, name.score, "pruning score")
        lookup(STRUCTURES, name.structure, "structure")
        return name
    if "/" not in name:
        lookup(dict.fromkeys([*METHODS, *ALIASES]), name, "pruning method")
        return METHODS[ALIASES.get(name, name)]
    score, *rest = name.split("/")
    schedule, structure = (*rest, "weights")[:2]
    if len(rest) > 2:
        raise InputError(
            f"pruning method {name!r} has {len(rest) + 1} parts: give SCORE/SCHEDULE/STRUCTURE, "
            "e.g. lamp/cubic/weights"
        )
    info = lookup(SCORES, score, "pruning score")
    lookup({**SCHEDULES, AFTER: None}, schedule, "pruning schedule")
    lookup(STRUCTURES, structure, "structure")
    if info.needs == "training" and schedule in (AFTER, "at_start"):
        raise InputError(
            f"pruning method {name!r}: the score {score!r} is accumulated during training, so it "
            "needs a schedule such as cubic"
        )
    once = schedule in (AFTER, "at_start")
    rounds = SYNFLOW_ROUNDS if score == "synflow" and once else 1
    return Method(score, None if schedule == AFTER else schedule, structure, rounds)


class Target(NamedTuple):
    """How much goes where; arrays, so that every agent may have its own."""

    groups: AnyArray  # int32 [leaves], which leaves of units compete
    counts: AnyArray  # int32 [leaves], units that every group loses, by group


def honoured(method: Method, allocation: str) -> str:
    """The allocation that a method uses when asked for this one.

    Rows do not compete with each other, and units have no ERK density: these methods treat all
    layers alike then ("uniform").
    """
    structure = STRUCTURES[method.structure]
    if (allocation == "global" and not structure.joint) or (
        allocation == "erk" and method.structure == "neurons"
    ):
        return "uniform"
    return allocation


def make_target(
    method: Method, params: Params, scope: Scope, allocation: str, sparsity: float
) -> Target:
    """The exact counts of one sparsity.

    Args:
        method: of pruning.
        params: arrays or shapes of a policy's; leading axes are agents.
        scope: which weights may go.
        allocation: a key of `ALLOCATIONS`; see `honoured`.
        sparsity: fraction of the prunable weights to remove.

    Raises:
        InputError: unknown allocation, a sparsity outside [0, 1) or one that empties a layer, or a
            structure that does not fit the layers.
    """
    lookup(ALLOCATIONS, allocation, "allocation")
    rule = ALLOCATIONS[honoured(method, allocation)]
    structure = STRUCTURES[method.structure]
    shapes = prunable_shapes(params, scope.prunable(params))
    structure.check(shapes)
    own = dict(scope.layer_sparsity)
    if own and method.structure == "neurons":
        raise InputError("layer sparsity is of weights, which neurons do not have: leave it out")
    sparsity = 0.0 if method.score == "constant" else sparsity
    shares = share_out(shapes, rule, sparsity, own)
    competing = structure.competing(shapes, shares)
    groups = shares.groups if len(competing) == len(shapes) else _groups(shares, len(competing))
    members = [
        [c for c, g in zip(competing, groups, strict=True) if g == group]
        for group in range(len(competing))
    ]
    sharing = [g for g, found in enumerate(members) if any(c.density for c in found)]
    alone = [[g] for g, found in enumerate(members) if found and g not in sharing]
    counts = np.zeros(len(competing), np.int32)
    for pool in (pool for pool in (sharing, *alone) if pool):
        units = method.structure if structure.joint else "weights of a row"
        asked = f"sparsity {float(sparsity):g}"
        counts[pool] = _lost([members[g] for g in pool], scope.min_weights, asked, units)
    return Target(np.asarray(groups, np.int32), counts)


def _lost(
    groups: Sequence[Sequence[Competing]], min_weights: int, asked: str, units: str
) -> list[int]:
    """What every group loses of the total that they share; words for the error, which says why."""
    every = [c for group in groups for c in group]
    total = round(sum((c.units * c.share for c in every), start=exact(0)))
    sizes = [sum(c.units for c in group) for group in groups]
    least = [sum(min(c.units, min_weights) for c in group) for group in groups]
    available = sum(sizes) - sum(least)
    if total > available:
        raise InputError(
            f"{asked} empties a layer: it takes {total} of {sum(sizes)} {units} that compete, "
            f"and min_weights {min_weights} lets {available} go; lower the sparsity, or "
            "min_weights to 0"
        )
    weights = [sum((c.units * (c.density or EQUAL) for c in g), start=exact(0)) for g in groups]
    kept = apportioned(sum(sizes) - total, weights, least, sizes)
    return [size - stays for size, stays in zip(sizes, kept, strict=True)]


def _groups(shares: Shares, leaves: int) -> tuple[int, ...]:
    """Groups of the leaves of units where these are not the leaves of the network."""
    together = len(set(shares.groups)) == 1
    return (0,) * leaves if together else tuple(range(leaves))
