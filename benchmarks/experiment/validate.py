"""The check of an experiment before anything is computed."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.experiment.config import CONTROLS, MODES, Experiment
from benchmarks.experiment.design import hyper_of
from benchmarks.experiment.tuned import tuned
from jaxprune.attacks import ATTACKS, find_attack
from jaxprune.certify import BOUNDS, check_bounds
from jaxprune.envs import Environment, default_backend, find_env, make_env
from jaxprune.evaluation.episodes import VICTIMS, check_evaluation
from jaxprune.policy import HEADS
from jaxprune.policy_io import PolicyFile, read_policy_file
from jaxprune.ppo import REGIMES, PPOConfig
from jaxprune.pruning import ALLOCATIONS, find_method
from jaxprune.pruning.schedules import window_iterations
from jaxprune.validation import InputError, check_ranges, lookup


class Checked(NamedTuple):
    """A valid experiment, and what was read to check it; nothing is computed yet."""

    experiment: Experiment  # resolved
    env: Environment
    file: PolicyFile | None  # of `--policy`, on the host


def check(asked: Experiment) -> Checked:
    """Returns an experiment as it will be computed.

    Raises:
        InputError: the first setting that no run could honour, or a policy file that does not fit.
    """
    _check_names(asked)
    check_ranges(asked)
    asked.attack.check()
    asked.ppo.check()
    window_iterations(asked.ppo.iterations, asked.prune_window)
    _check_victims(asked.victim)
    _check_attacks(asked.attacks)
    _check_bounds(asked.bounds, asked.episodes)
    _check_sweep(asked.eps_sweep, asked.eps)
    _check_policy_options(
        asked.policy, asked.policy_stats, asked.policy_activation, asked.policy_clip
    )
    if asked.policy is None:
        check_bounds({name: BOUNDS[name] for name in asked.bounds}, asked.ppo.activation)
    env = make_env(asked.env, asked.backend or default_backend(asked.env))
    _check_regimes(asked, env.spec.eps)
    file = read_file(asked, env)
    experiment = asked.resolved(env, None if file is None else file.policy)
    _check_chunks(experiment.block_seeds, experiment.seeds, experiment.policy)
    _check_folds(experiment.seeds, experiment.episodes)
    check_ranges(experiment)  # a sweep multiplies eps
    return Checked(experiment, env, file)


def read_file(experiment: Experiment, env: Environment) -> PolicyFile | None:
    """Returns the policy of `--policy`, on the host; None if the experiment starts from nothing.

    Raises:
        InputError: the files hold no policy, or one that does not fit the task.
    """
    if experiment.policy is None:
        return None
    file = read_policy_file(
        experiment.policy,
        experiment.policy_stats,
        experiment.policy_activation,
        experiment.policy_clip,
    )
    stochastic = any(VICTIMS[name] for name in experiment.victim)
    for eps in experiment.eps or (env.spec.eps,):
        check_evaluation(env, file.policy, eps, stochastic)
    check_bounds({name: BOUNDS[name] for name in experiment.bounds}, file.policy.activation)
    trained = [name for name in experiment.methods if find_method(name).schedule]
    trained += [name for name in experiment.controls if name == "narrow"]
    if trained and not HEADS[file.policy.distribution].stochastic:
        raise InputError(
            f"{trained[0]!r} trains the policy {experiment.policy}, whose deviation is not known "
            "here: choose methods that prune it as it is, such as magnitude"
        )
    return file._replace(policy=jax.tree.map(np.asarray, file.policy))


def _check_names(experiment: Experiment) -> None:
    """Raises `InputError` for a name that no family has."""
    find_env(experiment.env)
    for name in experiment.methods:
        find_method(name)
    for name in set(experiment.attacks) - {"all"}:
        find_attack(name)
    families = {
        "allocation": (experiment.allocations, ALLOCATIONS),
        "mode": (experiment.modes, MODES),
        "regime": (experiment.regimes, REGIMES),
        "control": (experiment.controls, CONTROLS),
        "bound": (experiment.bounds, BOUNDS),
        "victim": (experiment.victim, VICTIMS),
    }
    for kind, (names, family) in families.items():
        for name in names:
            lookup(dict.fromkeys(family), name, kind)


def _check_victims(names: Sequence[str]) -> None:
    """Raises `InputError` for a victim that is there twice: the order of the others counts."""
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise InputError(
            f"victim {','.join(names)!r} holds {twice[0]!r} more than once: name each "
            "once, the one that the report is about first"
        )


def _check_attacks(names: Sequence[str]) -> None:
    """Raises `InputError` where there is no adversary."""
    if not set(names) - {"none"}:
        raise InputError(
            f"attacks {','.join(names)!r} hold no adversary: choose from "
            f"{', '.join(name for name in ATTACKS if name != 'none')}; the clean run is always made"
        )


def _check_bounds(names: Sequence[str], episodes: int) -> None:
    """Raises `InputError` for local bounds of a single episode."""
    local = [name for name in names if BOUNDS[name].scope == "local"]
    if local and episodes < 2:
        raise InputError(
            f"episodes {episodes} is below 2, too few for what bound {local[0]!r} says "
            "about the return: give at least 2, or global --bounds only"
        )


def _check_policy_options(
    policy: Path | None, stats: Path | None, activation: str | None, clip: str | None
) -> None:
    """Raises `InputError` for options of a policy file without the file."""
    if policy is None and stats is not None:
        raise InputError(
            f"policy statistics {stats} belong to no policy: name it with "
            "--policy, or leave them out to train one"
        )
    if policy is None and clip is not None:
        raise InputError(
            f"policy clip {clip!r} belongs to no policy: name it with --policy, "
            "or leave it out to train one, whose actions are not clipped"
        )
    if policy is None and activation is not None:
        raise InputError(
            f"policy activation {activation!r} belongs to no policy: name it "
            "with --policy, or give --activation for the one that is trained"
        )


def _check_folds(seeds: int, episodes: int) -> None:
    """Raises `InputError` where a half of the episodes, or of a half, has none."""
    if seeds > 1 and episodes < 2:
        raise InputError(
            f"episodes {episodes} leave one half without any, and the strongest attack "
            "is chosen on one half and judged on the other: give --episodes 2 or more"
        )
    if seeds == 1 and episodes < 4:
        raise InputError(
            f"episodes {episodes} of a single agent leave no fold for the choice of the "
            "attack inside those of the sparsity: give --episodes 4 or more, or --seeds 2 or more"
        )


def _check_chunks(size: int, seeds: int, policy: Path | None) -> None:
    """Raises `InputError` for blocks of seeds of different sizes; they share their programs."""
    if size != seeds and policy is not None:
        raise InputError(
            f"chunk_seeds {size} would split {seeds} seeds that are compared with one policy file: "
            "leave it out"
        )
    if seeds % size:
        small = [n for n in range(1, math.isqrt(seeds) + 1) if seeds % n == 0]
        divisors = ", ".join(map(str, sorted({*small, *(seeds // n for n in small)})))
        raise InputError(
            f"chunk_seeds {size} does not divide the {seeds} seeds: choose from {divisors}"
        )


def _check_sweep(sweep: Sequence[float], radii: Sequence[float]) -> None:
    """Raises `InputError` for multiples of eps without an area under their curve."""
    if not sweep:
        return
    text = ",".join(f"{x:g}" for x in sweep)
    if 0 not in sweep:
        raise InputError(
            f"eps sweep {text!r} lacks 0, from which the area under the curve is measured: add it "
            "(it costs nothing, it is the clean run)"
        )
    if len(set(sweep)) < 2 or min(sweep) < 0:
        raise InputError(f"eps sweep {text!r} needs 0 and one or more positive multiples of eps")
    if len(radii) > 1:
        raise InputError(
            f"eps sweep {text!r} multiplies one radius, and --eps names {len(radii)}: "
            "give either a sweep or a list of radii"
        )


def _check_regimes(experiment: Experiment, eps: float) -> None:
    """Raises `InputError` for a regime without its settings, or settings without their regime.

    Args:
        experiment: as it was asked for.
        eps: of the task.
    """
    asked, hyper = [REGIMES[name] for name in experiment.regimes], experiment.ppo.hyper
    for name, regime in zip(experiment.regimes, asked, strict=True):
        own = hyper_of(hyper, name, eps)
        for field in regime.needs:
            if not getattr(own, field) > 0:
                raise InputError(
                    f"regime {name!r} is plain ppo with {field} {getattr(own, field):g}: give "
                    f"{option(field)} above 0"
                )
    used = {field for regime in asked for field in regime.own}
    usual = tuned(experiment.env, PPOConfig(), experiment.preset).hyper
    for name, regime in REGIMES.items():
        for field in set(regime.own) - used:
            value = getattr(hyper, field)
            if value and value != getattr(usual, field):
                raise InputError(f"{field} {value:g} is used by no regime: add {name} to --regimes")


def option(field: str) -> str:
    """The option of a setting on the command line."""
    return f"--{field.replace('_', '-')}"
