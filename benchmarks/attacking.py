"""The attack stage: every adversary against every cell, prepared, chosen and played.

An adversary that learns is prepared against each cell at each radius. Of its members each cell
meets the one that did best on episodes of their own, so that the episodes of the table are fresh.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple
from zlib import crc32

import jax
import numpy as np

from benchmarks.cells import (
    ATTACK,
    CHOOSE,
    PREPARE,
    Columns,
    Population,
    Progress,
    Row,
    blocks,
    described,
    key_for,
)
from benchmarks.experiment import Experiment
from benchmarks.labels import DENSE
from benchmarks.programs import Programs
from benchmarks.visits import Visits, collect, visit_times
from jaxprune.attacks import ATTACKS, Attack, Victims, make_attack
from jaxprune.envs import Environment
from jaxprune.episodes import (
    VICTIMS,
    Shared,
    cell_program,
    episode_columns,
    episode_keys,
    split,
    timeless,
)
from jaxprune.population import lane_width, layout, take
from jaxprune.pruning import dense, mask_policy
from jaxprune.pruning.cells import Cell
from jaxprune.rollout import Episode, Play
from jaxprune.selection import Armed, blanks, choose, prepared
from jaxprune.types import Policy

# Chunks of cells that a device walks through in one call of the evaluation.
CHUNKS_PER_CALL = 4


class Attacked(NamedTuple):
    """What the stage leaves behind."""

    returns: Columns  # a row per (attack, eps), cell and episode
    attacks: Columns  # a row per (attack, eps) and cell: which member, and what it cost
    visits: Visits  # what the unattacked episodes showed


def attack_plan(experiment: Experiment) -> list[tuple[str, float]]:
    """(attack, eps) in the order of the table; the clean run has eps 0."""
    names = dict.fromkeys(["none", *experiment.attacks])
    return [
        (name, eps)
        for name in names
        for eps in ([0.0] if name == "none" else dict.fromkeys(experiment.eps))
    ]


def prepare_attacks(
    experiment: Experiment, env: Environment, programs: Programs, policy: Any, cells: int
) -> Callable[[Population, Progress], Attacked]:
    """Start compiling the episodes; the result attacks every cell.

    Args:
        experiment: resolved.
        env: the task.
        programs: compiles.
        policy: the agents' policies or their shapes, `[agents]`.
        cells: how many there will be.
    """
    plan = attack_plan(experiment)
    names = tuple(dict.fromkeys(name for name, _ in plan))
    attacks = {name: make_attack(name, experiment.attack) for name in names}
    one = jax.eval_shape(lambda p: take(p, 0), policy)
    fillers = blanks(list(attacks.values()), one, env.spec, 1)
    play = Play(
        np.bool_(VICTIMS[experiment.victim]),
        gamma=np.float32(experiment.ppo.hyper.gamma),
        times=visit_times(experiment, env.spec),
    )
    chooses = any(attack.members > 1 for attack in attacks.values())
    report = _Episodes(experiment, env, names, fillers, play, ATTACK, cells)
    report.compile(programs, "evaluate", policy)
    fresh = play._replace(times=np.zeros((experiment.selection_episodes or 1, 0), np.int32))
    most = max(attack.members for attack in attacks.values())
    select = _Episodes(experiment, env, names, fillers, fresh, CHOOSE, cells * most)
    if chooses:
        select.compile(programs, "choose", policy)

    def run(population: Population, progress: Progress) -> Attacked:
        progress.stage("attack", len(plan) * len(population.rows))
        # A chunk takes as long as its longest episode, so cells of like length go together: by
        # sparsity at first, then by how long they lasted without an adversary, longest first.
        ranking = np.argsort([row.sparsity for row in population.rows], kind="stable")
        results, notes = [], []
        report.ready()  # seconds are of the attacks, not of waiting for the compiler
        ready: dict[str, Any] = {}
        for name, eps in plan:
            attack, started = attacks[name], time.monotonic()
            victims = victims_of(experiment, env, population, name, eps)
            warm = attack.warms and experiment.attack.adversary.warm_start
            if name not in ready or attack.per_eps:
                ready[name] = (
                    warmed(attack, victims, population.rows) if warm else prepared(attack, victims)
                )
            preparing = time.monotonic() - started

            def mean_returns(index: np.ndarray, params: Any, name=name, eps=eps) -> np.ndarray:
                returns = select.play(population, index, name, params, eps).return_
                return np.asarray(returns).mean(-1)

            armed = choose(attack, ready[name], victims, mean_returns)
            choosing = time.monotonic() - started - preparing
            params = take(armed.params, ranking)
            episodes = report.play(population, ranking, name, params, eps, progress)
            results.append(take(episodes, np.argsort(ranking)))
            if name == "none":
                ranking = np.argsort(-results[0].length.mean(-1), kind="stable")
            playing = time.monotonic() - started - preparing - choosing
            seconds = (preparing, choosing, playing)
            notes.append(_note(name, eps, attack, armed, warm, seconds))
        visits = collect(experiment, env.spec, results[0])
        flat = [{k: np.ravel(v) for k, v in episode_columns(r).items()} for r in results]
        return Attacked(
            _returns_table(experiment, env, population, plan, _joined(flat)),
            {k: np.tile(v, len(plan)) for k, v in described(env.spec, population).items()}
            | _joined(notes),
            visits,
        )

    return run


class _Episodes:
    """The program that plays episodes, in calls of one shape."""

    def __init__(
        self,
        experiment: Experiment,
        env: Environment,
        names: tuple[str, ...],
        fillers: tuple[Any, ...],
        play: Play,
        purpose: int,
        cells: int,
    ):
        keys = episode_keys(key_for(experiment, purpose), len(play.times))
        self.names, self.fillers, self.play_as = names, fillers, timeless(play)
        self.parts = split(keys, np.asarray(play.times), cells, experiment.lanes)
        size = cells * self.parts.groups
        width = lane_width(len(play.times) // self.parts.groups, size, experiment.lanes)
        together = width * len(jax.devices())
        self.block = together * min(CHUNKS_PER_CALL, -(-size // together))
        self.order, self.place = layout(self.block, width)
        self.program = cell_program(env, names, experiment.attack, width)

    def compile(self, programs: Programs, name: str, policy: Any) -> None:
        """Start compiling for policies of these shapes, `[agents]`."""
        masks = jax.eval_shape(lambda p: dense(take(p.params, np.zeros(1, int))), policy)
        one = Cell(np.zeros(1, np.int32), jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), masks))
        turn = self.parts.turns(one, self.fillers, np.zeros(self.block, int))
        shared = Shared(policy, np.int32(0), np.float32(0), self.play_as)
        self.compiled = programs.compile(name, self.program, shared, turn)

    def ready(self) -> None:
        """Wait for the compiler."""
        self.compiled.result()

    def play(
        self,
        population: Population,
        index: np.ndarray,
        name: str,
        params: Any,
        eps: float,
        progress: Progress | None = None,
    ) -> Episode:
        """Episodes of the cells `index [n]` under an attack with parameters `[n, ...]`."""
        which, count = self.names.index(name), len(index)
        shared = Shared(population.policy, np.int32(which), np.float32(eps), self.play_as)
        fillers = jax.tree.map(lambda x: np.broadcast_to(x, (count, *x.shape[1:])), self.fillers)
        known = (*fillers[:which], params, *fillers[which + 1 :])
        cells, found, done = take(population.cells, index), [], 0
        for items, size in blocks(count * self.parts.groups, self.block):
            turns = self.parts.turns(cells, known, items[self.order])
            episodes = jax.device_get(self.compiled.result()(shared, turns))
            found.append(take(episodes, self.place[:size]))
            if progress is not None:
                progress.advance((done + size) // self.parts.groups - done // self.parts.groups)
            done += size
        return self.parts.joined(jax.tree.map(lambda *x: np.concatenate(x), *found))


def victims_of(
    experiment: Experiment, env: Environment, population: Population, name: str, eps: float
) -> Victims:
    """The cells as an attack prepares itself against them."""
    key = jax.random.fold_in(key_for(experiment, PREPARE), crc32(name.encode()))
    source = sources(population) if "source" in ATTACKS[name].needs else None
    return Victims(
        env,
        population.policy,
        population.cells,
        eps,
        key,
        VICTIMS[experiment.victim],
        source,
        experiment.lanes,
    )


def sources(population: Population) -> Policy:
    """Whose attack is transferred to each cell: `[cells]`, masked.

    That of the unpruned agent of the same regime and seed; to an unpruned agent, that of the pruned
    one in the middle of the first curve.
    """
    rows = population.rows
    unpruned = {(r.regime, r.seed): i for i, r in enumerate(rows) if r.mode == DENSE}

    def source_of(i: int) -> int:
        row = rows[i]
        if row.mode != DENSE:
            return unpruned[row.regime, row.seed]
        mine = [j for j, r in enumerate(rows) if (r.regime, r.seed) == (row.regime, row.seed)]
        pruned = [j for j in mine if rows[j].mode != DENSE]
        curve = [j for j in pruned if rows[j][2:5] == rows[pruned[0]][2:5]]
        return sorted(curve, key=lambda j: rows[j].sparsity)[len(curve) // 2] if curve else i

    cells = take(population.cells, np.array([source_of(i) for i in range(len(rows))]))
    policies = take(population.policy, cells.agent)
    return jax.device_get(jax.vmap(mask_policy)(policies, cells.masks))


def warmed(attack: Attack, victims: Victims, rows: list[Row]) -> Any:
    """What `prepared` returns, each sparsity trained from the next lower one of its curve.

    Level by level: the unpruned agents from nothing, then all lowest sparsities from these, ...
    """
    start: Any = None
    levels = sorted({(row.mode != DENSE, row.sparsity) for row in rows})
    for pruned, sparsity in levels:
        level = [
            i for i, r in enumerate(rows) if (r.mode != DENSE, r.sparsity) == (pruned, sparsity)
        ]
        of_level = victims._replace(cells=take(victims.cells, np.array(level)))
        if pruned:
            before = np.array([_below(rows, i) for i in level])
            of_level = of_level._replace(start=take(start, before))
        found = prepared(attack, of_level)
        if start is None:
            start = jax.tree.map(lambda x: np.zeros((len(rows), *x.shape[1:]), x.dtype), found)
        for whole, part in zip(jax.tree.leaves(start), jax.tree.leaves(found), strict=True):
            whole[np.array(level)] = part
    return start


def _below(rows: list[Row], i: int) -> int:
    """The cell of the next lower sparsity of the same curve; below the first the unpruned agent."""
    row = rows[i]
    curve = [j for j, r in enumerate(rows) if r[:5] == row[:5] and r.sparsity < row.sparsity]
    if curve:
        return max(curve, key=lambda j: rows[j].sparsity)
    same = (row.regime, row.seed, DENSE)
    return next(j for j, r in enumerate(rows) if (r.regime, r.seed, r.mode) == same)


# --- tables ---------------------------------------------------------------------------------------


def _note(
    name: str, eps: float, attack: Attack, armed: Armed, warm: bool, seconds: tuple[float, ...]
) -> Columns:
    """One row per cell of the table of attacks."""
    count = len(armed.member)
    told = {"attack": name, "eps": eps, "members": attack.members, "warm_start": warm}
    told |= attack.cost._asdict()
    stages = ("seconds_prepare", "seconds_choose", "seconds_play")
    told |= dict(zip(stages, seconds, strict=True))
    chosen = armed.returns[np.arange(count), armed.member]
    return {k: np.repeat([v], count) for k, v in told.items()} | {
        "member": armed.member,
        "chosen_return": chosen,
    }


def _joined(tables: list[Columns]) -> Columns:
    return {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}


def _returns_table(
    experiment: Experiment, env: Environment, population: Population, plan: Any, episodes: Columns
) -> Columns:
    """One line per (attack, eps), cell and episode; `episodes` is flat and in that order."""
    cells, count = len(population.rows), experiment.episodes
    facts = described(env.spec, population)
    return {
        **{k: np.tile(np.repeat(v, count), len(plan)) for k, v in facts.items()},
        "victim": np.repeat([experiment.victim], len(plan) * cells * count),
        "attack": np.repeat([name for name, _ in plan], cells * count),
        "eps": np.repeat([eps for _, eps in plan], cells * count),
        "episode": np.tile(np.arange(count), len(plan) * cells),
        **episodes,
    }
