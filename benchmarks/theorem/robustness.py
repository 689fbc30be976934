"""The theorem's own quantity along magnitude pruning, where each pruned policy goes.

    F = E[sum_t TV_max(s_t)] / E[T],    TV_max(s) = max over the ball of TV(pi(.|s), pi(.|s'))

over the steps of the pruned policy's own episodes, T steps each. An attack bounds TV_max from
below, the smallest certificate from above. Episodes are the replicates of every interval: states
of one episode are alike.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.analysis.meaning import Meaning, meaning_rows, spread_of, where_meaningful
from benchmarks.theorem.findings import ATTACK
from jaxprune.statistics import Interval, pseudo_values, student_mean

BOUND = "bound"
# What is below F, and what is above it.
SIDES = {ATTACK: "at least", BOUND: "at most"}
CONFIDENCE = 0.95


class Seen(NamedTuple):
    """What every pruned policy does at some states, k of each of E episodes."""

    length: np.ndarray  # [S, E], steps of the episodes
    tv: dict[str, np.ndarray]  # of `SIDES` -> [S, E, k]
    actions: dict[str, np.ndarray]  # D in action units, of `SIDES` -> [S, E, k]
    outputs: np.ndarray  # [S, E, k, outputs], mean action or logits
    monotone: dict[str, np.ndarray]  # monotone bound -> [S], on TV at every state


class Along(NamedTuple):
    """One policy along magnitude pruning."""

    network: str
    sparsity: list[float]  # [S]
    returns: np.ndarray  # [S, E], without an adversary
    own: Seen  # at the states that the pruned policy visits
    fixed: Seen  # at those that the dense policy visits

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation of the action along the trajectory, `[S]`; see `spread_of`."""
        seen = self.own
        steps = seen.outputs.shape[2]
        flat = seen.outputs.reshape(len(seen.outputs), -1, seen.outputs.shape[-1])
        return spread_of(flat, np.repeat(seen.length, steps, axis=-1))

    @property
    def sensitivity(self) -> np.ndarray:
        """Mean D in action units, as the attack found it, over `spread`, `[S]`."""
        moved = _over_steps(self.own, self.own.actions[ATTACK]).mean(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.spread > 0, moved / self.spread, np.nan)

    @property
    def meaning(self) -> list[Meaning]:
        """Where the monotone bounds say anything."""
        sparsity, clean = np.array(self.sparsity), self.returns.mean(-1)
        return where_meaningful(sparsity, self.own.monotone, clean, self.spread)


def _over_steps(seen: Seen, values: np.ndarray) -> np.ndarray:
    """One number per episode whose mean is the mean over all steps, `[S, E, k] -> [S, E]`."""
    return pseudo_values(seen.length * values.mean(-1), seen.length)


def robustness(seen: Seen, side: str) -> Interval:
    """Returns F as one side bounds it, with its interval over the episodes, `[S]`."""
    return student_mean(_over_steps(seen, seen.tv[side]).T, level=CONFIDENCE)


def enclosed(seen: Seen) -> Interval:
    """Returns an interval that holds F with 95 % confidence, `[S]`; its middle is not used.

    From the lower end of what was reached to the upper end of what is proved: 2.5 % each.
    """
    low, high = (robustness(seen, side) for side in SIDES)
    return Interval((low.mean + high.mean) / 2, np.maximum(low.low, 0), np.minimum(high.high, 1))


class Steps(NamedTuple):
    """How often F rose from one sparsity to the next."""

    steps: int
    raised: int
    certainly: int  # beyond the 95 % interval of the change, over pairs of episodes


def rises_of(seen: Seen, side: str) -> Steps:
    """Counts the rises of one side of F. Episode i starts alike at every sparsity."""
    change = student_mean(np.diff(_over_steps(seen, seen.tv[side]), axis=0).T, level=CONFIDENCE)
    rounding = 1e-9
    return Steps(
        len(change.mean), int((change.mean > rounding).sum()), int((change.low > rounding).sum())
    )


# --- what is said ---------------------------------------------------------------------------------


def sentences(found: Sequence[Along]) -> Iterator[str]:
    """Yields what the verdict says of F, policy by policy."""
    for along in found:
        parts = []
        for where, seen in (("its own states", along.own), ("the dense policy's", along.fixed)):
            attack, bound = (rises_of(seen, side) for side in SIDES)
            parts.append(
                f"at {where} {attack.raised} raised what the attack found ({attack.certainly} "
                f"beyond the 95 % interval of the change) and {bound.raised} what is certified "
                f"({bound.certainly})"
            )
        steps = len(along.sparsity) - 1
        yield f"F of {along.network}, of {steps} magnitude steps: {'; '.join(parts)}."
        yield _said_of_behaviour(along)


def _said_of_behaviour(along: Along) -> str:
    """Where monotone bounds say something, and what the policy still does there."""
    risen = int((np.diff(along.sensitivity) > 0).sum())
    told = f"Its D over the standard deviation of its action rose in {risen} of these steps."
    if not along.meaning:
        return told
    best = along.meaning[-1]
    clean, spread = along.returns[0].mean(), along.spread[0]
    if np.isnan(best.sparsity):
        return f"{told} No monotone bound proves TV < 0.5 at any sparsity of the grid."
    return (
        f"{told} No monotone bound proves TV < 0.5 below sparsity {best.sparsity:.3g}, where it "
        f"returns {best.clean:.0f} of {clean:.0f} and its action has a standard deviation of "
        f"{best.spread:.3g} of {spread:.3g}."
    )


def f_rows(along: Along) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows: F on both sets of states, and what the policy does."""
    header = ["sparsity", "clean return"]
    for where in ("own", "dense"):
        header += [f"F at {where} states: {side}" for side in SIDES.values()]
        header += ["95 % interval"]
    header += ["D found, action units", "SD of the action", "D / SD"]
    columns = []
    for seen in (along.own, along.fixed):
        columns += [[f"{x:.3f}" for x in robustness(seen, side).mean] for side in SIDES]
        inside = enclosed(seen)
        columns.append([f"{a:.3f} - {b:.3f}" for a, b in zip(*inside[1:], strict=True)])
    moved = _over_steps(along.own, along.own.actions[ATTACK]).mean(-1)
    columns += [[f"{x:.3g}" for x in column] for column in (moved, along.spread, along.sensitivity)]
    first = [[f"{x:.3g}" for x in along.sparsity], [f"{x:.0f}" for x in along.returns.mean(-1)]]
    return header, [list(row) for row in zip(*first, *columns, strict=True)]


def meaning_table(along: Along) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of where each monotone bound says anything."""
    return meaning_rows(along.meaning, float(along.returns[0].mean()), float(along.spread[0]))


def f_columns(found: Sequence[Along]) -> Iterator[dict[str, object]]:
    """Yields a row per policy and sparsity: all of F, as numbers."""
    for along in found:
        moved = _over_steps(along.own, along.own.actions[ATTACK]).mean(-1)
        for i, sparsity in enumerate(along.sparsity):
            row = {"network": along.network, "sparsity": sparsity}
            row["clean_return"] = float(along.returns[i].mean())
            for where, seen in (("own", along.own), ("dense", along.fixed)):
                for side, name in SIDES.items():
                    f = robustness(seen, side)
                    keys = [f"F_{where}_{name.replace(' ', '_')}{x}" for x in ("", "_low", "_high")]
                    row |= {k: float(x[i]) for k, x in zip(keys, f, strict=True)}
            row["D_action_units"] = float(moved[i])
            row["action_sd"] = float(along.spread[i])
            row["D_over_sd"] = float(along.sensitivity[i])
            yield row
