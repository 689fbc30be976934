"""The pruned policy of a run to deploy: chosen on one fold of its results, judged on the other.

First a method and a sparsity, with agents as replicates: each half of the agents chooses the
sparsest that keeps both limits, and is judged by the other half; of both choices the less sparse
one is taken. Then one of its agents: the best under attack in the first half of its episodes,
judged by the second. Of a run with a single agent, episodes are the replicates of the first step.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxprune.policy_io.run_arrays import Grid, grid_of, place_of
from jaxprune.pruning.storage import Sizes, storage_bytes
from jaxprune.statistics.choice import (
    Choice,
    Limits,
    Measured,
    Sample,
    change,
    falling,
    judged,
    sample_of,
)
from jaxprune.statistics.folds import folds, picked, strongest
from jaxprune.types import Policy
from jaxprune.validation import InputError

if TYPE_CHECKING:
    from jaxprune.policy_io.runs import Run

# Shares of the clean and of the attacked return of the dense agents that may be lost.
Losses = tuple[float, float]
# What is certified of a selected policy: quantity, scope, and whether a small value is good.
CERTIFIED = (
    ("D", "global", True),
    ("D", "local", True),
    ("TV", "local", True),
    ("return_floor", "local", False),
    ("discounted_return_floor", "local", False),
)


class Certified(NamedTuple):
    """The best bound on one quantity of the selected policy, at the radius of the attacks."""

    quantity: str
    scope: str  # "global", or "local": at visited states
    bound: str
    value: float
    unit: str
    confidence: float  # 1 where it is proved


class Agent(NamedTuple):
    """One agent, judged by the half of its episodes that did not choose it."""

    seed: int
    clean: float  # return per episode
    attacked: float  # under the attack that the other half found strongest
    clean_change: Measured  # pruned less dense, in pairs of episodes
    attacked_change: Measured


class Selection(NamedTuple):
    """A pruned policy of a run, and what is known of it."""

    run: "Run"
    label: str  # of its curve: the method, and what tells it from others of the run
    sparsity: float
    eps: float
    replicates: str  # "agents" or "episodes"
    choice: Choice  # of method and sparsity
    agent: Agent
    certified: list[Certified]

    @property
    def policy(self) -> Policy:
        """Returns the policy, its masks folded in.

        Raises:
            InputError: the run holds tables alone.
        """
        key = grid_of(self.run.returns).curves[self.label]
        regime, method, allocation, mode = key
        others = {"regime": regime, "allocation": allocation, "mode": mode}
        return self.run.policy(method, self.sparsity, self.agent.seed, **others)

    @property
    def sizes(self) -> Sizes:
        """Returns the bytes of its actor."""
        return storage_bytes(self.policy)


class Played(NamedTuple):
    """The episodes of one curve."""

    label: str
    seeds: np.ndarray  # [seeds]
    sparsity: np.ndarray  # [S]
    clean: np.ndarray  # [seeds, S, episodes]
    attacked: np.ndarray  # [attacks, seeds, S, episodes]

    def at(self, columns: np.ndarray) -> "Played":
        """Returns some of the sparsities."""
        clean, attacked = self.clean[:, columns], self.attacked[:, :, columns]
        return Played(self.label, self.seeds, self.sparsity[columns], clean, attacked)


def select(
    run: "Run", losses: Losses, method: str | None, eps: float | None, seed: int | None
) -> Selection:
    """Returns the sparsest policy that keeps both limits; see `Run.best`."""
    grid = grid_of(run.returns)
    radius = _radius(grid, eps)
    curves = [_pruned(run, played(grid, label, radius)) for label in _curves(grid, method)]
    dense = played(grid, grid.dense_of[curves[0].label], radius)
    labels, sample = _sample(dense, curves)
    limits = float(np.nanmin(grid.values)), float(np.nanmax(grid.values))
    column = _chosen(labels, sample, losses)
    choice = judged(sample, lambda part: sparsest(labels, part, losses), limits)
    curve = next(curve for curve in curves if curve.label == labels[column])
    pruned = curve.at(curve.sparsity == sample.sparsity[column])
    agent = best_agent(dense, pruned, seed, limits)
    level = float(pruned.sparsity[0])
    key, eps = grid.curves[curve.label], float(grid.coords["eps"][radius])
    single = len(dense.seeds) == len(curve.seeds) == 1
    return Selection(
        run,
        curve.label,
        level,
        eps,
        "episodes" if single else "agents",
        choice,
        agent,
        certified(run, key, level, agent.seed, eps),
    )


# --- what was played ------------------------------------------------------------------------------


def played(grid: Grid, label: str, radius: int) -> Played:
    """Returns what one curve returned without an attack and under all attacks of one radius."""
    curve = grid.of(label)  # [seed, sparsity, attack, eps, episode]
    clean = curve[:, :, *place_of(grid, "none", None)]
    seeds, levels = (np.isfinite(clean).any(axes) for axes in ((1, 2), (0, 2)))
    names = grid.coords["attack"]
    of_radius = curve[seeds][:, levels][:, :, :, radius]
    attacks = (names != "none") & np.isfinite(of_radius).any((0, 1, 3))
    return Played(
        label,
        grid.coords["seed"][seeds],
        grid.coords["sparsity"][levels],
        clean[seeds][:, levels],
        np.moveaxis(of_radius[:, :, attacks], 2, 0),
    )


def _radius(grid: Grid, eps: float | None) -> int:
    """Returns the index of a radius, by default of the smallest that was attacked."""
    played_at = np.isfinite(grid.values[:, :, :, grid.coords["attack"] != "none"])
    radii = {
        float(grid.coords["eps"][i]): int(i) for i in np.flatnonzero(played_at.any((0, 1, 2, 3, 5)))
    }
    if eps is None and radii:
        return min(radii.values())
    if eps not in radii:
        raise InputError(
            f"the run has no attack at eps {eps}: choose from {', '.join(f'{x:g}' for x in radii)}"
        )
    return radii[eps]


def _curves(grid: Grid, method: str | None) -> list[str]:
    """Returns the labels of the curves to choose from, all of one regime.

    Raises:
        InputError: no such method, or several regimes to choose from.
    """
    pruned = [label for label in grid.curves if label not in grid.dense_of.values()]
    found = [x for x in pruned if method in (None, x, grid.curves[x][1])]
    if not found:
        told = ", ".join(pruned) or "none"
        raise InputError(f"the run has no method {method!r}: choose from {told}")
    if len({grid.dense_of[label] for label in found}) > 1:
        raise InputError(
            f"the run has several regimes, each with dense agents of its own: name one of "
            f"{', '.join(found)} as the method"
        )
    return found


def _pruned(run: "Run", curve: Played) -> Played:
    """Returns a curve without sparsities at which nothing was removed (0, rescaled weights)."""
    achieved = grid_of(run.returns, "sparsity_achieved").of(curve.label)
    levels = np.isfinite(achieved).any((0, 2, 3, 4))
    return curve.at(np.nanmax(achieved[:, levels], axis=(0, 2, 3, 4)) > 0)


def _sample(dense: Played, curves: Sequence[Played]) -> tuple[list[str], Sample]:
    """Returns all candidates as columns behind the dense agents, with the label of each column.

    Raises:
        InputError: some methods have one agent and others several.
    """
    if len({len(curve.seeds) for curve in curves}) > 1:
        told = ", ".join(curve.label for curve in curves)
        raise InputError(f"methods have one agent and several: name one of {told} as the method")
    sparsity = np.concatenate([curve.sparsity for curve in curves])
    clean = np.concatenate([curve.clean for curve in curves], axis=1)
    attacked = np.concatenate([curve.attacked for curve in curves], axis=2)
    labels = ["", *(curve.label for curve in curves for _ in curve.sparsity)]
    return labels, sample_of(sparsity, (dense.clean, clean), (dense.attacked, attacked))


# --- choosing -------------------------------------------------------------------------------------


def excesses(labels: Sequence[str], sample: Sample, losses: Losses) -> np.ndarray:
    """Returns by how much each column loses more than it may, `[2, 1 + S]`: clean, attacked.

    Shares of the mean return of the dense agents; a method's curve of means is the nearest one that
    falls with the sparsity, because the highest of noisy means is too good.
    """
    found = np.zeros((2, len(labels)))
    for label in dict.fromkeys(labels[1:]):
        columns = np.flatnonzero([x in ("", label) for x in labels])
        for row, returns, loss in zip(found, (sample.clean, sample.choosing), losses, strict=True):
            mean = falling(returns[:, columns])
            dense = float(returns[:, 0].mean())
            row[columns] = (dense - mean) / (abs(dense) or 1.0) - loss
    return found


def sparsest(labels: Sequence[str], sample: Sample, losses: Losses) -> int:
    """Returns the sparsest column within both limits, of several the best attacked; 0 for none."""
    within = np.flatnonzero((excesses(labels, sample, losses) <= 0).all(0))
    columns = np.union1d(0, within)
    order = np.lexsort([sample.choosing.mean(0)[columns], sample.sparsity[columns]])
    return int(columns[order[-1]])


def _chosen(labels: Sequence[str], sample: Sample, losses: Losses) -> int:
    """Returns the less sparse of the columns that both folds choose.

    Raises:
        InputError: a fold finds no pruned policy within the limits.
    """
    parts = [sample.part(rows) for rows, _ in folds(len(sample.clean))]
    columns = [sparsest(labels, part, losses) for part in parts]
    if all(columns):
        return min(columns, key=lambda column: sample.sparsity[column])
    excess = excesses(labels, parts[columns.index(0)], losses)[:, 1:]
    nearest = int(excess.max(0).argmin())
    told = [
        f"{name}-loss {loss:.4g} by {100 * over:.1f} points"
        for name, loss, over in zip(("clean", "attacked"), losses, excess[:, nearest], strict=True)
        if over > 0
    ]
    raise InputError(
        f"nothing qualifies: in one half of the results {labels[1 + nearest]} at sparsity "
        f"{sample.sparsity[1 + nearest]:g} comes nearest, and exceeds {' and '.join(told)}; allow "
        "more, or give the run lower sparsities, more seeds or more episodes"
    )


def best_agent(dense: Played, pruned: Played, seed: int | None, limits: Limits) -> Agent:
    """Returns an agent of one cell per seed, by default the best under attack.

    Raises:
        InputError: no such seed.
    """
    (choose, judge), *_ = folds(pruned.clean.shape[-1])
    seeds = pruned.seeds.tolist()
    first = pruned.attacked[..., 0, choose]
    index = int(picked(first, strongest(first)).mean(-1).argmax())
    if seed is not None:
        if seed not in seeds:
            told = ", ".join(map(str, seeds))
            raise InputError(f"the run has no agent of seed {seed}: choose from {told}")
        index = seeds.index(seed)
    own = dense.seeds.tolist().index(seeds[index]) if len(dense.seeds) > 1 else 0
    pairs = []
    for curve, at in ((pruned, index), (dense, own)):
        worst = curve.attacked[:, at, 0]
        hardest = worst[:, choose].mean(-1).argmin()
        pairs.append((curve.clean[at, 0, judge], worst[hardest, judge]))
    (clean, attacked), (dense_clean, dense_attacked) = pairs
    return Agent(
        seeds[index],
        float(clean.mean()),
        float(attacked.mean()),
        change(clean, dense_clean, limits),
        change(attacked, dense_attacked, limits),
    )


def certified(
    run: "Run", key: tuple[str, ...], sparsity: float, seed: int, eps: float
) -> list[Certified]:
    """Returns the best certificate of each quantity of one cell at one radius."""
    regime, method, allocation, mode = key
    asked = {"regime": regime, "method": method, "allocation": allocation, "mode": mode}
    asked |= {"sparsity": sparsity, "seed": seed, "eps": eps}
    rows = [
        row
        for row in run.certificates.to_pylist()
        if row["bound"] != "attack" and all(row[name] == value for name, value in asked.items())
    ]
    found = []
    for quantity, scope, small in CERTIFIED:
        stated = [
            row
            for row in rows
            if (row["quantity"], row["scope"]) == (quantity, scope)
            and np.isfinite(row["confidence"])
        ]
        if stated:
            best = (min if small else max)(stated, key=lambda row: row["value"])
            found.append(Certified(*(best[name] for name in Certified._fields)))
    return found
