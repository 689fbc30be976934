"""The attack stage: every adversary against every cell, prepared, chosen and played.

An adversary that learns is prepared against each cell at each radius. Of its members each cell
meets the one that did best on episodes of their own, so that the episodes of the table are fresh.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.cells import ATTACK, CHOOSE, Columns, Population, Progress, described
from benchmarks.experiment import Experiment
from benchmarks.playing import Episodes
from benchmarks.preparing import victims_of, warmed
from benchmarks.programs import Programs
from benchmarks.visits import Visits, collect, visit_times
from jaxprune.attacks import Attack, make_attack
from jaxprune.envs import Environment
from jaxprune.episodes import VICTIMS, episode_columns
from jaxprune.population import take
from jaxprune.rollout import Play
from jaxprune.selection import Armed, blanks, choose, prepared


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
    report = Episodes(experiment, env, names, fillers, play, ATTACK, cells)
    report.compile(programs, "evaluate", policy)
    fresh = play._replace(times=np.zeros((experiment.selection_episodes or 1, 0), np.int32))
    most = max(attack.members for attack in attacks.values())
    select = Episodes(experiment, env, names, fillers, fresh, CHOOSE, cells * most)
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
