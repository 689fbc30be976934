"""The check of an experiment before anything is computed."""

import math
from collections.abc import Sequence

from benchmarks.experiment.config import CONTROLS, MODES, Experiment
from benchmarks.experiment.design import hyper_of
from benchmarks.experiment.tuned import tuned
from jaxprune.attacks import ATTACKS, find_attack
from jaxprune.certify import BOUNDS, check_bounds
from jaxprune.envs import Environment, default_backend, find_env, make_env
from jaxprune.evaluation.episodes import VICTIMS
from jaxprune.ppo import REGIMES, PPOConfig
from jaxprune.pruning import ALLOCATIONS, find_method
from jaxprune.pruning.schedules import window_iterations
from jaxprune.validation import InputError, check_ranges, lookup


def check(experiment: Experiment) -> Environment:
    """The task of a valid experiment.

    Raises:
        InputError: the first setting that no run could honour; nothing has been computed.
    """
    check_ranges(experiment)
    find_env(experiment.env)
    for name in experiment.methods:
        find_method(name)
    families = {
        "allocation": (experiment.allocations, ALLOCATIONS),
        "mode": (experiment.modes, MODES),
        "regime": (experiment.regimes, REGIMES),
        "control": (experiment.controls, CONTROLS),
    }
    for kind, (names, family) in families.items():
        for name in names:
            lookup(dict.fromkeys(family), name, kind)
    for name in set(experiment.attacks) - {"all"}:
        find_attack(name)
    experiment.attack.check()
    for name in experiment.bounds:
        lookup(BOUNDS, name, "bound")
    for name in experiment.victim:
        lookup(VICTIMS, name, "victim")
    twice = [name for name in dict.fromkeys(experiment.victim) if experiment.victim.count(name) > 1]
    if twice:
        raise InputError(
            f"victim {','.join(experiment.victim)!r} holds {twice[0]!r} more than once: name each "
            "once, the one that the report is about first"
        )
    local = [name for name in experiment.bounds if BOUNDS[name].scope == "local"]
    if local and experiment.episodes < 2:
        raise InputError(
            f"episodes {experiment.episodes} is below 2, too few for what bound {local[0]!r} says "
            "about the return: give at least 2, or global --bounds only"
        )
    if not set(experiment.attacks) - {"none"}:
        raise InputError(
            f"attacks {','.join(experiment.attacks)!r} hold no adversary: choose from "
            f"{', '.join(name for name in ATTACKS if name != 'none')}; the clean run is always made"
        )
    _check_sweep(experiment.eps_sweep, experiment.eps)
    experiment.ppo.check()
    if experiment.policy is None:
        check_bounds({name: BOUNDS[name] for name in experiment.bounds}, experiment.ppo.activation)
    window_iterations(experiment.ppo.iterations, experiment.prune_window)
    if experiment.policy_stats is not None and experiment.policy is None:
        raise InputError(
            f"policy statistics {experiment.policy_stats} belong to no policy: name it with "
            "--policy, or leave them out to train one"
        )
    if experiment.policy_clip is not None and experiment.policy is None:
        raise InputError(
            f"policy clip {experiment.policy_clip!r} belongs to no policy: name it with --policy, "
            "or leave it out to train one, whose actions are not clipped"
        )
    if experiment.policy_activation is not None and experiment.policy is None:
        raise InputError(
            f"policy activation {experiment.policy_activation!r} belongs to no policy: name it "
            "with --policy, or give --activation for the one that is trained"
        )
    env = make_env(experiment.env, experiment.backend or default_backend(experiment.env))
    _check_regimes(experiment, env.spec.eps)
    resolved = experiment.resolved(env)
    _check_chunks(resolved)
    _check_folds(resolved.seeds, resolved.episodes)
    check_ranges(resolved)  # a sweep multiplies eps
    return env


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


def _check_chunks(experiment: Experiment) -> None:
    """Raises `InputError` for blocks of seeds of different sizes; they share their programs."""
    size, seeds = experiment.block_seeds, experiment.seeds
    if size != seeds and experiment.policy is not None:
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
