"""The account stage: what the masks of every cell left of its network."""

from functools import partial

import jax
import numpy as np

from benchmarks.runtime.arrays import part, under
from benchmarks.runtime.checkpoints import Progress, Work
from benchmarks.runtime.run_folder import Json
from benchmarks.stages.base import Columns, Population, account_chunk, described
from jaxprune.devices import take
from jaxprune.envs import EnvSpec
from jaxprune.pruning.accounting import account
from jaxprune.pruning.compact import compact, parameter_count
from jaxprune.pruning.scope import Prunable, Scope, named_leaves
from jaxprune.pruning.storage import Sizes, storage_bytes
from jaxprune.types import Masks, Policy

# The line of a cell that speaks of all its parameters.
EVERYTHING = "all"
NO_SIZE = Sizes(0, 0, 0, 0, 0)


def account_population(scope: Scope, spec: EnvSpec, population: Population, work: Work) -> Columns:
    """The table of sparsity: a row per cell and layer, per network, and for all parameters."""
    cells = len(population.rows)
    work.progress.stage("account", cells)
    compute = partial(accounted, scope, spec, population, work.progress)
    held = work.piece(compute, cells, "sparsity", **account_chunk(population.block))
    return part("sparsity", held)


def accounted(scope: Scope, spec: EnvSpec, population: Population, progress: Progress) -> Columns:
    """The rows, below the name of their table.

    On the host, agent by agent: singular values and reachability are no work for a program.
    """
    prunable = scope.prunable(population.policy.params)
    told, cells = [], []
    for index in range(len(population.rows)):
        cell = take(population.cells, index)
        lines = of_cell(take(population.policy, cell.agent), cell.masks, prunable)
        for line in lines:
            line["at_floor"] = prunable(line["layer"]) and line["kept"] <= scope.min_weights
        told += lines
        cells += [index] * len(lines)
        progress.advance(1)
    facts = {name: x[np.array(cells)] for name, x in described(spec, population).items()}
    table = facts | {name: np.array([line[name] for line in told]) for name in told[0]}
    return under("sparsity", table)


def of_cell(policy: Policy, masks: Masks, prunable: Prunable) -> list[Json]:
    """The lines of one masked policy.

    Only whole networks have a smaller copy and sizes in bytes, other lines 0. A policy that
    diverged has neither, and no condition numbers.
    """
    finite = all(np.isfinite(x).all() for x in jax.tree.leaves(policy.params))
    found = account(jax.tree.map(np.nan_to_num, policy), masks, prunable)
    nothing = {
        "condition": np.nan,
        "dead": 0,
        "constant": 0,
        "disconnected_obs": 0,
        "disconnected_outputs": 0,
        "compact": 0,
        **_bytes(NO_SIZE),
    }
    lines = []
    for layer in found.layers:
        line = layer._asdict()
        line |= {"layer": line.pop("path"), "layer_sparsity": line.pop("sparsity")}
        lines.append(nothing | line | ({} if finite else {"condition": np.nan}))
    smaller = compact(policy, masks) if finite else None
    for network in found.networks:
        line = network._asdict()
        line |= {"layer": line.pop("network"), "layer_sparsity": line.pop("sparsity")}
        del line["hidden"]
        lines.append(nothing | line)
        if smaller is not None:
            lines[-1]["compact"] = parameter_count(smaller, network.network)
            lines[-1] |= _bytes(storage_bytes(policy, masks, network.network))
    sizes = [(leaf.size, int(np.sum(leaf))) for _, leaf in named_leaves(masks)]
    size, kept = (sum(x) for x in zip(*sizes, strict=True))
    line = {"layer": EVERYTHING, "layer_sparsity": found.total_sparsity, "size": size, "kept": kept}
    return [*lines, nothing | line]


def _bytes(sizes: Sizes) -> dict[str, int]:
    """As columns of the table."""
    return {f"bytes_{name}": size for name, size in sizes._asdict().items()}
