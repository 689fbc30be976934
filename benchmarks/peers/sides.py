"""Our side of each comparison, in turns with the peer."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from benchmarks.experiment.memory import check_memory
from benchmarks.peers.compare import rates_of, table_of, take_turns
from benchmarks.peers.process import PeerError, PeerProcess, processor
from benchmarks.peers.registry import (
    PEERS,
    Comparison,
    default_folder,
    missing,
    program_of,
    python_of,
)
from benchmarks.rates.calls import STEPPING, bare_stepping, bounded, bounding, needs, training
from benchmarks.rates.options import Options
from benchmarks.rates.timing import Work, write_json
from benchmarks.runtime.console import remark
from jaxprune import devices
from jaxprune.envs import Environment, make_env
from jaxprune.envs.mujoco import MujocoEnv
from jaxprune.policy import affine_layers, normalise
from jaxprune.pruning import mask_policy
from jaxprune.validation import InputError


class Side(NamedTuple):
    """Our side of a comparison, and what follows from it for the other one."""

    work: Work
    settings: dict[str, Any]
    """What the peer's program is told."""
    difference: Callable[[Mapping[str, Any]], float | None] = lambda facts: None
    """How far bounds that it tells are from ours, at most, in mean widths of our boxes."""


def stepping_side(options: Options, env: Environment) -> Side:
    """Steps the same model without a policy, as many env steps."""
    assert isinstance(env, MujocoEnv)
    work, task = bare_stepping(options, env, STEPPING), env.task
    model = {"model": task.model, "frame_skip": task.frame_skip, "noise": task.qpos_noise}
    return Side(work, {**model, "steps": work.amount})


def training_side(options: Options, env: Environment) -> Side:
    """Trains by PPO with the same numbers of environments, steps, passes, minibatches and units."""
    config, work = options.ppo, training(options, env, "none", "ppo")
    of_config = ("num_envs", "unroll", "epochs", "minibatches", "hidden", "activation")
    of_hyper = ("learning_rate", "gamma", "max_grad_norm")
    settings = {name: getattr(config, name) for name in of_config}
    settings |= {name: float(getattr(config.hyper, name)) for name in of_hyper}
    return Side(work, {**settings, "horizon": env.spec.horizon, "steps": work.amount})


def bounds_side(options: Options, env: Environment) -> Side:
    """Computes the same bound of the same actors over the same boxes."""
    given, (name,) = bounded(options, env), options.bounds
    each = jax.vmap(lambda masks: affine_layers(mask_policy(given.policy, masks)))(given.masks)
    layers = [[np.asarray(x, np.float64).tolist() for x in layer] for layer in each]
    actors = [[(w[i], b[i]) for w, b in layers] for i in range(options.masks)]
    with jax.enable_x64(True):
        policy = jax.tree.map(lambda x: jnp.asarray(x, float), given.policy)
        centres = jax.vmap(partial(normalise, policy))(jnp.asarray(given.obs)).tolist()
    settings = {"eps": given.eps, "obs": centres, "actors": actors}
    work = bounding(options, given, name)
    ours = work.run()[name]

    def difference(facts: Mapping[str, Any]) -> float:
        ends = (ours.low - np.array(facts["low"]), ours.high - np.array(facts["high"]))
        return float(np.max(np.abs(ends)) / np.mean(ours.high - ours.low))

    return Side(work, {**settings, "activation": given.policy.activation}, difference)


SIDES: dict[str, Callable[[Options, Environment], Side]] = {
    "stepping": stepping_side,
    "training": training_side,
    "bounds": bounds_side,
}


def measure_peers(options: Options, names: Sequence[str], console: Console) -> None:
    """All comparisons with these peers, printed and written.

    A peer that cannot be run is left out, and the reason is told.

    Raises:
        InputError: none of them can be run.
    """
    folder = options.peer_folder or default_folder()
    skipped = {name: reason for name in names if (reason := missing(name, folder))}
    on_one_core()
    devices.configure()
    rows = []
    for name in names:
        if name in skipped:
            continue
        remark(f"beside {name} ...")
        try:
            rows.extend(beside(options, name, folder))  # also what comes before an error
        except PeerError as error:
            skipped[name] = f"its program failed: {error}"
    for name, reason in skipped.items():
        remark(f"{name} is left out: {reason}")
    if not rows:
        raise InputError("no peer was measured: make the environment of one, as told above")
    console.print(table_of(rows, options.repeats))
    for row in rows:
        if row["largest_difference"] is not None:
            told = f"{row['largest_difference']:.1g} of the mean width of a box"
            console.print(f"{row['what']}: bounds differ by at most {told}", markup=False)
    if options.json is not None:
        write_json(options, processor=processor(), peers=rows, skipped=skipped)


def beside(options: Options, name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields each comparison with a peer. Raises `PeerError` where its program ends."""
    words = [str(python_of(name, folder)), "-E", str(program_of(PEERS[name]))]
    for comparison in PEERS[name].comparisons:
        side = our_side(options, comparison)
        run = lambda work=side.work: jax.block_until_ready(work.run())  # noqa: E731
        run()
        with PeerProcess(words, {**side.settings, **comparison.settings}) as peer:
            pairs = take_turns(run, side.work.amount, peer, options.repeats)
        yield {
            "peer": name,
            "what": comparison.what,
            "unit": side.work.unit,
            "versions": peer.facts["versions"],
            "per_second": rates_of(pairs, "seconds"),
            "per_cpu_second": rates_of(pairs, "cpu_seconds"),
            "largest_difference": side.difference(peer.facts),
        }


def our_side(options: Options, comparison: Comparison) -> Side:
    """Our side, ready to run: one agent, because a peer trains one."""
    ours = replace(options, agents=1, **comparison.options)
    env = make_env(ours.env, ours.backend)
    check_memory(needs(ours, env))
    return SIDES[comparison.kind](ours, env)


def on_one_core() -> None:
    """Keeps this process and those that it starts on one core of the CPU, where a system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    jax.config.update("jax_platforms", "cpu")
