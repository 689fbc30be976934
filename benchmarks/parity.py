"""How closely the gym/ tasks follow Gymnasium: step by step, and in returns under attack.

    python -m benchmarks.parity --out results/gym-parity --policies published/*.npz

Steps: from states that random actions and a briefly trained policy visit in MuJoCo C, one step
there and one here. Returns: policies that others trained, clean and attacked, both simulators from
the same initial states. Writes `steps.csv`, `returns.csv` and `report.md`.
"""

import itertools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import tyro
from rich.console import Console

from benchmarks.runtime.atomic import write_text
from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.run_folder import provenance
from benchmarks.runtime.tables import markdown_table, write_csv
from jaxprune import devices
from jaxprune.attacks import Attack, AttackConfig, check_needs, make_attack
from jaxprune.devices import Mapped
from jaxprune.envs import Environment, make_env
from jaxprune.envs.gym_tasks import TASKS
from jaxprune.envs.mujoco import MujocoEnv, MujocoState
from jaxprune.envs.quiet import quiet
from jaxprune.evaluation.episodes import episode_keys
from jaxprune.evaluation.gymnasium import play_in_gymnasium, strongest
from jaxprune.policy_io import load_policy, numpy_policy
from jaxprune.ppo import PPOConfig, make_train
from jaxprune.queue import Loop, in_queue, map_queue
from jaxprune.rollout import Episode, Running, begin, proceed
from jaxprune.types import Array, EnvState, Key, Policy, PyTree
from jaxprune.validation import at_least, check_ranges, lookup

simulator: Any = mujoco  # its type stubs lack the enumerations

# Of random actions: all of their range, little of it, and beyond it, where the motors clip.
REACHES = (1.0, 0.3, 1.5)
# Steps of one kind of action, and the most that an episode goes on after its natural end.
PHASE, OVERTIME, LONGEST = 25, 10, 250
LANES = 32
NEWTON = "Newton"


@dataclass(frozen=True)
class Options:
    """What to compare."""

    out: Path
    """Folder for the tables."""
    envs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID ...")] = tuple(TASKS)
    """Gymnasium ids whose steps are compared."""
    states: Annotated[int, at_least(2, 1_000_000)] = 1000
    """States per task."""
    train_steps: Annotated[int, at_least(0, 10**9)] = 200_000
    """Training of the policy that visits half of them; 0: random actions only."""
    policies: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")] = ()
    """Policies whose returns are compared."""
    policy_env: str = "Hopper-v4"
    """Their task."""
    attacks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = (
        "none",
        "random",
        "mad",
    )
    """Attacks on them, prepared here and played in both simulators."""
    attack: Annotated[AttackConfig, tyro.conf.arg(name="")] = field(default_factory=AttackConfig)
    """Settings of the attacks."""
    episodes: Annotated[int, at_least(2, 10_000)] = 128
    """Episodes per policy and attack."""

    def check(self) -> None:
        """Raises `InputError` for settings that compare nothing."""
        check_ranges(self)
        for name in (*self.envs, self.policy_env):
            lookup(TASKS, name, "Gymnasium id")
        for name in self.attacks:
            check_needs(name, make_env(f"gym/{self.policy_env}").spec, simulator=False)
        self.attack.check()


@guarded("start it again")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    console = make_console()
    options = read_options(Options, argv, "benchmarks.parity")
    devices.configure()
    options.check()
    policies = {path.stem: load_policy(path) for path in options.policies}
    options.out.mkdir(parents=True, exist_ok=True)
    compare(options, policies, " ".join(argv), console)
    return 0


def compare(options: Options, policies: dict[str, Policy], command: str, console: Console) -> None:
    """Both tables, each printed line by line and written when it is whole."""
    parts = [f"`python -m benchmarks.parity {command}`"]
    for name, title, lines in (
        ("steps", "One step from the same state", _steps_table(options)),
        ("returns", "Returns from the same initial states", returns_table(options, policies)),
    ):
        rows = []
        for row in lines:
            rows.append(row)
            console.print(" ".join(f"{key}={value}" for key, value in row.items()))
        if rows:
            write_csv(options.out / f"{name}.csv", rows)
            cells = [list(map(str, row.values())) for row in rows]
            told = markdown_table(list(rows[0]), cells, left=len(rows[0]))
            parts += [f"## {title}", "\n".join(told)]
    facts = provenance()
    parts.append(f"{facts['device']}, {facts['cores']} cores, {facts['versions']}, {facts['git']}")
    write_text(options.out / "report.md", "\n\n".join(parts) + "\n")


class Visited(NamedTuple):
    """States that MuJoCo C visited, what was done there and what it answered; `[states, ...]`."""

    state: MujocoState
    action: np.ndarray
    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    touching: np.ndarray  # bool, whether anything is in contact


def _steps_table(options: Options) -> Iterator[dict[str, object]]:
    """One line per task."""
    policies: dict[tuple[str, int], Policy | None] = {}  # versions that show the same share one
    for name in options.envs:
        env = make_env(f"gym/{name}")
        assert isinstance(env, MujocoEnv)
        kind = (name.rpartition("-")[0], env.spec.obs_size)
        if kind not in policies:
            policies[kind] = trained(env, options.train_steps)
        step = _step_all(env)
        for solver in solvers(name):
            there = visit(_gymnasium_env(name, solver), env, policies[kind], options.states)
            here = jax.device_get(step(there.state, there.action.astype(np.float32)))
            labels = {"env": name, "solver in C": solver, "states": options.states}
            yield {**labels, **differences(there, here)}


def differences(there: Visited, here: Any) -> dict[str, object]:
    """Errors of one step. Relative: to the norm, to 1 + |x| by element, to max(1, |r|)."""
    error = np.abs(here.obs - there.obs)
    norm = np.linalg.norm(error, axis=1) / np.linalg.norm(there.obs, axis=1)
    element = (error / (1 + np.abs(there.obs))).max(axis=1)
    reward = np.abs(here.reward - there.reward) / np.maximum(1, np.abs(there.reward))
    return {
        "in contact": round(float(there.touching.mean()), 2),
        "obs median": f"{np.median(norm):.1e}",
        "obs max": f"{norm.max():.1e}",
        "obs > 1e-4": f"{(norm > 1e-4).mean():.2%}",
        "element max": f"{element.max():.1e}",
        "element > 1e-4": f"{(element > 1e-4).mean():.2%}",
        "reward median": f"{np.median(reward):.1e}",
        "reward max": f"{reward.max():.1e}",
        "termination differs": int((here.terminated != there.terminated).sum()),
        "terminated": int(there.terminated.sum()),
    }


def _step_all(env: MujocoEnv) -> Callable[..., Any]:
    """(states, actions) `[N]` -> `TimeStep [N]`."""

    def one(state: MujocoState, action: Array):
        return env.step(EnvState(state, jnp.int32(0)), action)[1]

    def run(states: MujocoState, actions: Array):
        return jax.lax.map(lambda x: one(*x), (states, actions), batch_size=LANES)

    # In JAX's own precision, whatever C's arrays have.
    return jax.jit(lambda s, a: run(jax.tree.map(lambda x: jnp.asarray(x, float), s), a))


def trained(env: Environment, steps: int) -> Policy | None:
    """A policy after a short training: it need not be good, only different from noise."""
    if not steps:
        return None
    train = make_train(PPOConfig(steps=steps, num_envs=64, unroll=32), env)
    program = jax.jit(lambda key: train(key, PPOConfig().hyper)[0].policy)
    return program(jax.random.key(0))


def visit(gym_env: Any, env: MujocoEnv, policy: Policy | None, states: int) -> Visited:
    """States on the way of random actions and, every other phase, of the policy's."""
    there = gym_env.unwrapped
    act = numpy_policy(policy) if policy is not None else None
    high, rng = there.action_space.high, np.random.default_rng(0)
    obs, records, steps, over = there.reset(seed=0)[0], [], 0, 0
    for i in range(states):
        phase = i // PHASE
        if act is not None and phase % 2:
            action = act(obs)
        else:
            action = rng.uniform(-1, 1, high.shape) * high * REACHES[(phase // 2) % len(REACHES)]
        action = np.asarray(action, np.float32)
        state = state_of(env, there.data)
        obs, reward, terminated, _, _ = there.step(action)
        records.append(Visited(state, action, obs, reward, terminated, there.data.ncon > 0))
        steps, over = steps + 1, over + terminated
        if over > OVERTIME or steps > LONGEST:
            obs, steps, over = there.reset(seed=i)[0], 0, 0
    return jax.tree.map(lambda *x: np.stack(x), *records)


def state_of(env: MujocoEnv, data: Any) -> MujocoState:
    """Our state from MuJoCo C's `MjData`."""
    tracked = env.task.tracked(data)
    if env.task.root:
        tracked = tracked - data.qpos[: env.task.root]
    parts = (data.qpos, data.qvel, data.qacc_warmstart, tracked)
    copies: list[Any] = [np.array(x) for x in parts]
    return MujocoState(*copies)


def solvers(name: str) -> tuple[str, ...]:
    """The constraint solver of the model; Newton's as well, where that is another.

    humanoid.xml asks for 50 sweeps of projected Gauss-Seidel, which stop short of the minimum that
    Newton's method, and ours, reach.
    """
    own = _gymnasium_env(name).unwrapped.model.opt.solver
    return (NEWTON,) if own == simulator.mjtSolver.mjSOL_NEWTON else ("the model's", NEWTON)


def _gymnasium_env(name: str, solver: str = "the model's") -> Any:
    """Gymnasium's environment, without the notices that v4 is old and so are its XML models."""
    import gymnasium

    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        env: Any = gymnasium.make(name, disable_env_checker=True)
    if solver == NEWTON:
        env.unwrapped.model.opt.solver = simulator.mjtSolver.mjSOL_NEWTON
    return env


def returns_table(options: Options, policies: dict[str, Policy]) -> Iterator[dict[str, object]]:
    """One line per policy and attack."""
    env = make_env(f"gym/{options.policy_env}")
    assert isinstance(env, MujocoEnv)
    make = partial(_gymnasium_env, options.policy_env)
    keys = episode_keys(jax.random.key(0), options.episodes)
    eps = env.spec.eps
    for (name, policy), attack in itertools.product(policies.items(), options.attacks):
        key, settings = jax.random.key(1), options.attack
        params = strongest(env, policy, attack, eps, options.episodes, key, settings)
        adversary = make_attack(attack, settings)
        there = play_in_gymnasium(make, env, policy, adversary, params, eps, keys)
        here = _episodes_here(env, policy, adversary, params, options)
        yield {
            "policy": name,
            "attack": attack,
            "eps": eps,
            "episodes": options.episodes,
            **compare_returns(there["return"], np.asarray(here.return_, np.float64)),
            "diverged": int(here.diverged.sum()),
        }


def compare_returns(there: np.ndarray, here: np.ndarray) -> dict[str, object]:
    """Means with standard errors, and their difference in standard errors of a difference."""
    errors = [x.std(ddof=1) / len(x) ** 0.5 for x in (there, here)]
    return {
        "MuJoCo C": f"{there.mean():.0f} +- {errors[0]:.0f}",
        "here": f"{here.mean():.0f} +- {errors[1]:.0f}",
        "difference / SE": f"{(here.mean() - there.mean()) / np.hypot(*errors):+.2f}",
        "std C": f"{there.std(ddof=1):.0f}",
        "std here": f"{here.std(ddof=1):.0f}",
        "median C": f"{np.median(there):.0f}",
        "median here": f"{np.median(here):.0f}",
    }


def _episodes_here(
    env: MujocoEnv, policy: Policy, adversary: Attack, params: PyTree, options: Options
) -> Episode:
    """Episodes from the states of Gymnasium's `reset(seed=i)`: `Episode [episodes]`."""
    starts = []
    there = _gymnasium_env(options.policy_env)
    for i in range(options.episodes):
        there.reset(seed=i)
        data = there.unwrapped.data
        starts.append((np.float32(data.qpos), np.float32(data.qvel)))
    keys = episode_keys(jax.random.key(0), options.episodes)
    items = (keys, *(np.stack(x) for x in zip(*starts, strict=True)))
    program = Mapped(partial(episode_loop, env, adversary), in_queue)
    return map_queue(program, (policy, params), items)


def episode_loop(env: MujocoEnv, adversary: Attack, known: tuple[Policy, PyTree]) -> Loop:
    """Episodes from given states, of a policy against what was prepared."""
    policy, params = known
    perturb, eps = partial(adversary.perturb, params), jnp.float32(env.spec.eps)

    def start(item: tuple[Key, Array, Array]) -> tuple[tuple[()], Running]:
        key, qpos, qvel = item
        _, key_memory, key = jax.random.split(key, 3)
        _, key_steps = jax.random.split(key)
        memory = adversary.init(params, key_memory)
        return (), begin(key_steps, env.set_state(qpos, qvel), memory)

    def step(_: tuple[()], running: Running) -> Running:
        return proceed(running, env, policy, perturb, eps)

    return Loop(start, step, done=lambda r: r.done, result=lambda r: r.so_far)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
