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
from jaxprune.episodes import VICTIMS, Shared, Turn, cell_program, episode_columns, episode_keys
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
    select = _Episodes(experiment, env, names, fillers, fresh, CHOOSE, cells)
    if chooses:
        select.compile(programs, "choose", policy)

    def run(population: Population, progress: Progress) -> Attacked:
        progress.stage("attack", len(plan) * len(population.rows))
        count = len(population.rows)
        # A chunk takes as long as its longest episode, so cells of like length go together: by
        # sparsity at first, then by how long they lasted without an adversary, longest first.
        ranking = np.argsort([row.sparsity for row in population.rows], kind="stable")
        results, notes = [], []
        ready: dict[str, Any] = {}
        for name, eps in plan:
            attack, started = attacks[name], time.monotonic()
            victims = victims_of(experiment, env, population, name, eps)
            if name not in ready or attack.per_eps:
                ready[name] = prepared(attack, victims)
            preparing = time.monotonic() - started

            def mean_returns(index: np.ndarray, params: Any, name=name, eps=eps) -> np.ndarray:
                return select.play(population, index, name, params, eps).return_.mean(-1)

            armed = choose(attack, ready[name], victims, mean_returns)
            choosing = time.monotonic() - started - preparing
            params = take(armed.params, ranking)
            episodes = report.play(population, ranking, name, params, eps, progress)
            results.append(take(episodes, np.argsort(ranking)))
            if name == "none":
                ranking = np.argsort(-results[0].length.mean(-1), kind="stable")
            playing = time.monotonic() - started - preparing - choosing
            notes.append(_note(name, eps, attack, armed, count, (preparing, choosing, playing)))
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
        count = len(play.times)
        width = lane_width(count, cells, experiment.lanes)
        self.names, self.fillers, self.play_as = names, fillers, play
        self.block = width * len(jax.devices()) * CHUNKS_PER_CALL
        self.order, self.place = layout(self.block, width)
        self.keys = episode_keys(key_for(experiment, purpose), count)
        self.program = cell_program(env, names, experiment.attack, width)

    def compile(self, programs: Programs, name: str, policy: Any) -> None:
        """Start compiling for policies of these shapes, `[agents]`."""
        shaped = lambda x: jax.ShapeDtypeStruct((self.block, *x.shape), x.dtype)  # noqa: E731
        masks = jax.eval_shape(lambda p: dense(take(p.params, 0)), policy)
        agent = jax.ShapeDtypeStruct((self.block,), np.int32)
        params = jax.tree.map(lambda x: shaped(x[0]), self.fillers)
        turn = Turn(Cell(agent, jax.tree.map(shaped, masks)), params)
        shared = Shared(policy, np.int32(0), np.float32(0), self.keys, self.play_as)
        self.compiled = programs.compile(name, self.program, shared, turn)

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
        which = self.names.index(name)
        shared = Shared(
            population.policy, np.int32(which), np.float32(eps), self.keys, self.play_as
        )
        parts = []
        for rows, size in blocks(len(index), self.block):
            rows = rows[self.order]
            fillers = jax.tree.map(
                lambda x: np.broadcast_to(x, (self.block, *x.shape[1:])), self.fillers
            )
            filled = (*fillers[:which], take(params, rows), *fillers[which + 1 :])
            turn = Turn(take(population.cells, index[rows]), filled)
            episodes = jax.device_get(self.compiled.result()(shared, turn))
            parts.append(take(episodes, self.place[:size]))
            if progress is not None:
                progress.advance(size)
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


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


# --- tables ---------------------------------------------------------------------------------------


def _note(
    name: str, eps: float, attack: Attack, armed: Armed, count: int, seconds: tuple[float, ...]
) -> Columns:
    """One row per cell of the table of attacks."""
    told = {"attack": name, "eps": eps, "members": attack.members, **attack.cost._asdict()}
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
