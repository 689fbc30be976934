"""How tight the certificates of given policies are: bounds beside an attack at the same states.

    python -m benchmarks.tightness --policies a.npz b.npz --env gym/Hopper-v4 --out results/x

For every policy and sparsity, at states of its own unattacked episodes: what an attack reaches,
what each bound allows and the certified radius; with `--exact-states`, the exact D by branch and
bound; with `--noise`, the certified median return of the smoothed policy. Writes `states.csv`,
`exact.csv`, `smoothing.csv` and `report.md`.
"""

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from rich.console import Console

from benchmarks.experiment.config import Grid
from benchmarks.runtime.atomic import write_text
from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.console import make_console
from benchmarks.runtime.guard import guarded
from benchmarks.runtime.run_folder import provenance
from benchmarks.runtime.tables import markdown_table, terminal_table, write_csv
from jaxprune import devices
from jaxprune.attacks import MADConfig
from jaxprune.certify import BOUNDS, certified_quantile, certified_radius, certify, exact_distance
from jaxprune.envs import Environment, find_env, make_env
from jaxprune.evaluation import evaluate, visited
from jaxprune.evaluation.episodes import check_evaluation
from jaxprune.evaluation.pointwise import reached
from jaxprune.policy_io import load_policy
from jaxprune.pruning import METHODS, find_method, prune
from jaxprune.types import Key, Masks, Policy
from jaxprune.validation import (
    ANY_RADIUS,
    SEED,
    SPARSITY,
    InputError,
    at_least,
    check_ranges,
    lookup,
)

# An attack strong enough to be compared with: its D is the lower end of what is true.
ATTACK = MADConfig(steps=50, restarts=6)
# A radius is the largest ball over which the total variation stays below this.
RADIUS_TV = 0.1


@dataclass(frozen=True)
class Options:
    """What to certify."""

    out: Path
    """Folder for the tables."""
    policies: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")]
    """Policies to certify, in any format of `jaxprune.load_policy`."""
    policy_stats: Path | None = None
    """Observation statistics of a policy of another library."""
    policy_activation: str | None = None
    """Activation of policy files that do not say it, tanh or relu; default: tanh."""
    env: str = "gym/Hopper-v4"
    """Their task."""
    eps: Annotated[float | None, ANY_RADIUS] = None
    """Radius of the l_inf ball in normalised units; default: the task's."""
    method: str = "magnitude"
    """Pruning method."""
    sparsity_grid: Annotated[Grid, SPARSITY] = (0.0, 0.3, 0.5)
    """Sparsities at which every policy is certified."""
    bounds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = (
        "frobenius",
        "path",
        "spectral",
        "liplt",
        "ibp",
        "interval_jacobian",
        "crown",
    )
    """Bounds to compare."""
    radius: str | None = "crown"
    """Bound of the certified radius."""
    states: Annotated[int, at_least(2, 1_000_000)] = 1000
    """Visited states per policy and sparsity."""
    episodes: Annotated[int, at_least(2, 10_000)] = 20
    """Episodes that visit them."""
    exact_states: Annotated[int, at_least(0, 1_000_000)] = 0
    """States whose exact D is enclosed to 1 % by branch and bound, the first of these; 0: none."""
    noise: Annotated[float, ANY_RADIUS] = 0.0
    """Sigma of the smoothed policy, in normalised units; 0: no smoothing."""
    noise_eps: Annotated[tuple[float, ...], tyro.conf.arg(metavar="EPS ..."), ANY_RADIUS] = (
        0.0005,
        0.001,
    )
    """Radii for which the median return of the smoothed policy is certified."""
    noise_episodes: Annotated[int, at_least(2, 10_000_000)] = 1000
    """Episodes with noise."""
    seed: Annotated[int, SEED] = 0
    """Random seed of the whole run."""

    def check(self) -> None:
        """Raises `InputError` for settings that certify nothing."""
        check_ranges(self)
        find_env(self.env)
        method = find_method(self.method)
        if method.schedule is not None or method.needs_data:
            fit = [name for name, m in METHODS.items() if not m.schedule and not m.needs_data]
            raise InputError(
                f"method {self.method!r} prunes during training or looks at data: choose from "
                f"{', '.join(fit)}"
            )
        for name in self.bounds + ((self.radius,) if self.radius else ()):
            lookup(BOUNDS, name, "bound")
        if self.exact_states > self.states:
            raise InputError(
                f"exact_states {self.exact_states} is above states {self.states}: lower it, or "
                "raise states"
            )
        if not self.policies:
            raise InputError("no policy to certify: give --policies FILE ...")


@guarded("start it again")
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    console = make_console()
    options = read_options(Options, argv, "benchmarks.tightness")
    options.check()
    devices.configure()
    env = make_env(options.env)
    eps = env.spec.eps if options.eps is None else options.eps
    policies = {
        path.stem: load_policy(path, options.policy_stats, options.policy_activation)
        for path in options.policies
    }
    for policy in policies.values():
        check_evaluation(env, policy, eps)
    measure(options, env, eps, policies, shlex.join(argv), console)
    return 0


def measure(
    options: Options,
    env: Environment,
    eps: float,
    policies: dict[str, Policy],
    command: str,
    console: Console,
) -> None:
    """Both tables, each printed and written when it is whole."""
    options.out.mkdir(parents=True, exist_ok=True)
    parts = ["# How tight the certificates are", "", f"`python -m benchmarks.tightness {command}`"]
    tables = {"states": (STATES, _state_rows(options, env, eps, policies))}
    if options.exact_states:
        tables["exact"] = (EXACT, _exact_rows(options, env, eps, policies))
    if options.noise:
        tables["smoothing"] = (SMOOTHING, _smoothing_rows(options, env, policies))
    for name, (text, lines) in tables.items():
        rows: list[dict[str, object]] = []
        for row in lines:
            if not rows or row["policy"] != rows[-1]["policy"]:
                console.print(f"{name}: {row['policy']}", markup=False)
            rows.append(row)
        header, cells = list(rows[0]), [[_short(x) for x in row.values()] for row in rows]
        words = [column for column, value in rows[0].items() if isinstance(value, str)]
        console.print(terminal_table(name, header, cells, left=words, wrap=True))
        write_csv(options.out / f"{name}.csv", rows)
        told = text.format(
            eps=eps,
            tv=RADIUS_TV,
            states=options.states,
            exact=options.exact_states,
            noise=options.noise,
        )
        parts += ["", told, "", *markdown_table(header, cells)]
    facts = provenance()
    parts += [
        "",
        f"Made with {facts['versions']} on {facts['cores']} cores, {facts['device']}.",
        "",
    ]
    write_text(options.out / "report.md", "\n".join(parts))


STATES = """\
At {states} states of the unattacked episodes of each policy, ball of radius {eps:g} in normalised
units: D (how far the action distribution moves) and the total variation TV, mean and maximum over
the states. `attack` is what was found, so the truth is between it and the smallest bound. Global
bounds are the same at every state. The radius is the median over the states of the largest
certified ball with TV <= {tv:g}."""
EXACT = """\
The largest D over the ball at {exact} of these states, enclosed to 1 % by branch and bound
(`jaxprune.certify.exact_distance`). Means over the states of: the upper end of D, and the
attack and CROWN in units of the lower end. An attack below 1 leaves something to be found, and
CROWN above 1.01 something to be proved."""
SMOOTHING = """\
The policy with noise N(0, {noise:g}^2) on everything it sees: mean return without noise, with it,
and what at least half of the attacked episodes earn, for each radius, with 95 % confidence."""


def _state_rows(
    options: Options, env: Environment, eps: float, policies: dict[str, Policy]
) -> Iterator[dict[str, object]]:
    """A row per policy, sparsity and bound, the attack first."""
    grid = list(options.sparsity_grid)
    for name, policy in policies.items():
        masks, obs, key = _where(options, env, policy)
        found = reached(policy, masks, eps, obs, key, ATTACK)
        certificates = certify(policy, masks, eps, obs, options.bounds)
        radius = {}
        if options.radius:
            balls = certified_radius(policy, masks, obs, options.radius, tv=RADIUS_TV)
            radius = {options.radius: np.median(balls, axis=-1)}
        for i, sparsity in enumerate(grid):
            cell = {"policy": name, "method": options.method, "sparsity": sparsity, "eps": eps}
            for bound, values in {"attack": found, **certificates}.items():
                yield {
                    **cell,
                    "bound": bound,
                    "scope": BOUNDS[bound].scope if bound in BOUNDS else "local",
                    "D mean": float(values.value[i].mean()),
                    "D max": float(values.value[i].max()),
                    "TV mean": float(values.total_variation[i].mean()),
                    "TV max": float(values.total_variation[i].max()),
                    "radius": float(radius[bound][i]) if bound in radius else None,
                }


def _where(options: Options, env: Environment, policy: Policy) -> tuple[Masks, np.ndarray, Key]:
    """(masks of the grid, states that each visits, the key of the attack there)."""
    keys = jax.random.split(jax.random.key(options.seed), 3)
    masks = prune(policy, options.method, list(options.sparsity_grid), key=keys[0])
    return masks, visited(env, policy, masks, options.states, options.episodes, keys[1]), keys[2]


def _exact_rows(
    options: Options, env: Environment, eps: float, policies: dict[str, Policy]
) -> Iterator[dict[str, object]]:
    """A row per policy and sparsity, at the first of their states."""
    for name, policy in policies.items():
        masks, obs, key = _where(options, env, policy)
        first = obs[..., : options.exact_states, :]
        attack = reached(policy, masks, eps, first, key, ATTACK).value
        crown = certify(policy, masks, eps, first, ["crown"])["crown"].value
        exact = exact_distance(policy, masks, eps, first)
        for i, sparsity in enumerate(options.sparsity_grid):
            yield {
                "policy": name,
                "method": options.method,
                "sparsity": sparsity,
                "exact D": float(exact.upper[i].mean()),
                "attack / exact": float((attack[i] / exact.lower[i]).mean()),
                "lowest": float((attack[i] / exact.lower[i]).min()),
                "crown / exact": float((crown[i] / exact.lower[i]).mean()),
                "highest": float((crown[i] / exact.lower[i]).max()),
                "boxes": float(exact.boxes[i].mean()),
            }


def _smoothing_rows(
    options: Options, env: Environment, policies: dict[str, Policy]
) -> Iterator[dict[str, object]]:
    """A row per policy and sparsity."""
    grid, spec = list(options.sparsity_grid), env.spec
    key_prune, *keys = jax.random.split(jax.random.key(options.seed), 3)
    for name, policy in policies.items():
        masks = prune(policy, options.method, grid, key=key_prune)
        clean = evaluate(env, policy, masks, episodes=options.episodes, key=keys[0])["return"]
        noisy = evaluate(
            env, policy, masks, episodes=options.noise_episodes, key=keys[1], noise=options.noise
        )["return"]
        for i, sparsity in enumerate(grid):
            certified = {
                f"median at eps {eps:g}": float(
                    certified_quantile(
                        noisy[i], eps, options.noise, spec.horizon, spec.obs_size, norm="linf"
                    )
                )
                for eps in options.noise_eps
            }
            yield {
                "policy": name,
                "method": options.method,
                "sparsity": sparsity,
                "clean": float(clean[i].mean()),
                "with noise": float(noisy[i].mean()),
                **certified,
            }


def _short(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
