"""A run folder with made-up tables, whose report can be told beforehand.

The return of an agent is DENSE * (1 - sparsity), less LOSS under the attack at eps 0.1 and twice
that at 0.2; seed and episode add what averages out. A stochastic policy loses NOISE everywhere, and
its adversaries as much again.
"""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runtime.run_folder import RunFolder
from jaxprune.pruning.storage import Sizes

DENSE, LOSS, NOISE = 1000.0, 100.0, 50.0
LEVELS = (0.0, 0.3, 0.6, 0.9)
EPISODES = 4
SIZES = {"actor/layer_0/kernel": 60, "actor/layer_1/kernel": 40, "actor": 100, "critic": 50}
SETTINGS: dict[str, Any] = {
    "ppo": {"epochs": 3, "regulariser": "pgd"},
    "attack": {
        "selection": {"episodes": 3, "finalists": 4, "final_episodes": 2},
        "rs": {"epochs": 2},
    },
}


def write_run(
    path: Path,
    env: str = "hopper",
    methods: tuple[str, ...] = ("magnitude",),
    attacks: tuple[str, ...] = ("mad",),
    radii: tuple[float, ...] = (0.1,),
    seeds: int = 3,
    settings: dict[str, Any] = SETTINGS,
    victims: tuple[str, ...] = ("deterministic",),
) -> RunFolder:
    """The folder with all tables but `diagnosis`."""
    folder = RunFolder(path, settings)
    folder.describe({"command": "python -m benchmarks.run --env <task>"})
    cells = [("none", seed, 0.0) for seed in range(seeds)]
    cells += [(m, seed, level) for m in methods for seed in range(seeds) for level in LEVELS]
    played = [
        (victim, *case) for victim in victims for case in (("none", 0.0), *product(attacks, radii))
    ]
    folder.write_table("returns", _returns(env, cells, played))
    folder.write_table("certificates", _certificates(env, cells, radii))
    folder.write_table("sparsity", _sparsity(env, cells))
    folder.write_table("attacks", _attacks(env, cells, played))
    folder.write_table("seconds", _seconds(played))
    folder.write_table("cells", _cells(env, cells))
    folder.write_table("training", _training(env, seeds))
    return folder


def _cell(env: str, method: str, seed: int, level: float) -> dict[str, Any]:
    dense = method == "none"
    return {
        "env": env,
        "backend": "spring",
        "seed": seed,
        "regime": "ppo",
        "method": method,
        "allocation": "none" if dense else "global",
        "mode": "dense" if dense else "after",
        "sparsity": level,
        "sparsity_achieved": level,
        "nested": True,
    }


def _returns(env: str, cells: list[Any], played: list[Any]) -> dict[str, Any]:
    rows = []
    for case, (method, seed, level), episode in product(played, cells, range(EPISODES)):
        victim, attack, eps = case
        value = DENSE * (1 - level) - 10 * LOSS * eps + seed - 10 * (-1) ** episode
        value -= NOISE * (victim == "stochastic") * (1 + (attack != "none"))
        told = {"victim": victim, "attack": attack, "eps": eps, "episode": episode}
        told |= {"return": value, "return_discounted": value / 10, "length": 20}
        told |= {"terminated": False, "diverged": False, "distance": eps}
        rows.append(_cell(env, method, seed, level) | told)
    return _columns(rows)


def _certificates(env: str, cells: list[Any], radii: tuple[float, ...]) -> dict[str, Any]:
    rows = []
    for (method, seed, level), eps, quantity in product(cells, radii, ("D", "TV")):
        told = {"bound": "path", "monotone": True, "scope": "global", "eps": eps, "note": ""}
        told |= {"quantity": quantity, "unit": "standard deviations", "confidence": np.nan}
        value = 10 * eps * (1 - level) if quantity == "D" else 1 - level
        rows.append(_cell(env, method, seed, level) | told | {"value": value})
    return _columns(rows)


def _sparsity(env: str, cells: list[Any]) -> dict[str, Any]:
    nothing = dict.fromkeys(
        ("dead", "constant", "disconnected_obs", "disconnected_outputs", "compact"), 0
    ) | {f"bytes_{name}": 0 for name in Sizes._fields}
    rows = []
    for (method, seed, level), (layer, size) in product(cells, (SIZES | {"all": 150}).items()):
        told = {"layer": layer, "size": size, "kept": size, "layer_sparsity": level}
        told |= {"at_floor": False, "condition": 1.0, **nothing}
        rows.append(_cell(env, method, seed, level) | told)
    return _columns(rows)


def _attacks(env: str, cells: list[Any], played: list[Any]) -> dict[str, Any]:
    rows = []
    for (victim, attack, eps), (method, seed, level) in product(played, cells):
        learned = attack == "rs"
        told = {"victim": victim, "attack": attack, "eps": eps, "warm_start": False}
        told |= {"members": 2 if learned else 1, "member": 0, "chosen_return": 0.0, "simulated": 0}
        told |= {"queries": 7 * (attack != "none"), "gradients": 50 * (attack != "none")}
        told |= {"env_steps": 1000 * learned}
        rows.append(_cell(env, method, seed, level) | told)
    return _columns(rows)


def _cells(env: str, cells: list[Any]) -> dict[str, Any]:
    """An agent per seed, whose masks are in the order of the cells."""
    rows, before = [], {}
    for method, seed, level in cells:
        index = before[method] = before.get(method, -1) + 1
        rows.append(_cell(env, method, seed, level))
        rows[-1] |= {"agent": seed, "curve": method, "index": index}
    return _columns(rows)


def _seconds(played: list[Any]) -> dict[str, Any]:
    spent = {"prepare": 1.0, "choose": 1.0, "play": 1.0}
    cases = [dict(zip(("victim", "attack", "eps"), case, strict=True)) for case in played]
    return _columns([case | spent for case in cases])


def _training(env: str, seeds: int) -> dict[str, Any]:
    zeros = ("policy_loss", "value_loss", "entropy", "kl", "robust", "sparsity_now", "diverged")
    rows = []
    for seed, iteration in product(range(seeds), (1, 2, 3)):
        told = {"iteration": iteration, "env_steps": 200 * iteration, "episodes": 1}
        told |= {"episode_return": 1.0} | dict.fromkeys(zeros, 0)
        rows.append(_cell(env, "none", seed, 0.0) | told)
    return _columns(rows)


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
