"""What to run: one frozen dataclass, its presets, and the command line derived from it."""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args, get_type_hints

import tyro

from benchmarks.experiment.help import show_help
from benchmarks.experiment.tuned import tuned
from benchmarks.runtime.command_line import read_options
from benchmarks.runtime.run_folder import checksum
from jaxprune.attacks import (
    ATTACKS,
    AdversaryConfig,
    AttackConfig,
    DirectorConfig,
    MADConfig,
    SarsaConfig,
    SearchConfig,
    SelectionConfig,
    check_needs,
    find_attack,
)
from jaxprune.envs import Environment, EnvSpec
from jaxprune.envs.registry import ALIASES as ENV_ALIASES
from jaxprune.policy_io.addresses import as_path, is_address
from jaxprune.ppo import PPOConfig
from jaxprune.pruning import find_method
from jaxprune.pruning.methods import ALIASES as METHOD_ALIASES
from jaxprune.types import Policy
from jaxprune.validation import (
    COUNT,
    FINITE,
    FRACTION,
    RADIUS,
    SEED,
    SPARSITY,
    InputError,
    Range,
    lookup,
)

MODES = ("endpoint", "trajectory")
CONTROLS = ("narrow", "rescaled", "int8")


def parse_grid(text: str) -> tuple[float, ...]:
    """Sparsities from `START:STOP:COUNT` (ends included) or a comma-separated list.

    Points are computed as exact fractions: 0:0.95:20 holds 0.15, not 0.15000000000000002.

    Raises:
        InputError: malformed text, too many points, or a value outside [0, 1).
    """
    remedy = "give START:STOP:COUNT, e.g. 0:0.95:20, or a list such as 0,0.5,0.9"
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    parts = text.split(":" if ":" in text else ",")
    try:
        if ":" in text:
            start, stop, number = parts
            low, high, count = _fraction(start), _fraction(stop), int(number)
            if not 1 <= count <= SPARSITY.most:
                raise InputError(
                    f"sparsity grid {shown!r} has a count outside 1 .. {SPARSITY.most}: {remedy}"
                )
            points = [low + (high - low) * i / max(count - 1, 1) for i in range(count)]
        else:
            points = [_fraction(part) for part in parts]
    except InputError:
        raise
    except (ValueError, ZeroDivisionError):
        raise InputError(f"malformed sparsity grid {shown!r}: {remedy}") from None
    outside = [float(p) for p in points if p not in SPARSITY]
    if outside:
        raise InputError(
            f"sparsity grid {shown!r} holds {outside[0]:g}, outside {SPARSITY}: sparsity is the "
            "fraction of weights removed, and at least one has to stay"
        )
    return tuple(sorted({float(p) for p in points}))


def _fraction(text: str) -> Fraction:
    """The exact number. Raises `ValueError` for one that no computer should write out."""
    if len(text) > 40 or re.search(r"e[+-]?[\d_]{3}", text, re.IGNORECASE):
        raise ValueError(text)
    return Fraction(text)


def _one_token(parse: Callable[[str], Any], metavar: str) -> Any:
    """A tyro argument that is one word on the command line and a tuple in the dataclass."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: parse(words[0]),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(f"{x}" for x in value) or "none"],
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.split(",")))


def _all_names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _some_names(text: str) -> tuple[str, ...]:
    return () if text == "none" else _names(text)


def _radii(text: str) -> tuple[float, ...]:
    return () if text == "none" else tuple(float(part) for part in text.split(","))


Grid: TypeAlias = Annotated[tuple[float, ...], _one_token(parse_grid, "START:STOP:COUNT")]
Names: TypeAlias = Annotated[tuple[str, ...], _one_token(_names, "NAME,NAME,...")]
# Names of which none may be there twice, so that they are kept to be refused.
Order: TypeAlias = Annotated[tuple[str, ...], _one_token(_all_names, "NAME,NAME,...")]
Some: TypeAlias = Annotated[tuple[str, ...], _one_token(_some_names, "NAME,...|none")]
Radii: TypeAlias = Annotated[tuple[float, ...], _one_token(_radii, "EPS,EPS,...")]


# Marks a setting in which two runs may differ and be compared: names (the checksums of files are
# settings of their own) and how the work is cut.
LABEL = {"label": True}


@dataclass(frozen=True)
class RunOptions:
    """Where and how a run is written: what does not determine its results."""

    out: Path | None = None
    """Folder of the results, local or an address such as s3://bucket/run; default: results/ENV-ID,
    ID derived from the settings."""
    shard: str | None = None
    """The part of this process: INDEX/COUNT, e.g. 0/4; "auto" asks Slurm, Kubernetes, SkyPilot,
    srun, mpirun or the TPU slice, and auto/COUNT does so for some tasks of COUNT; benchmarks.merge
    unites the parts."""
    mesh: str = "process"
    """Devices that one program computes on: those of this process, or global: those of all
    processes that srun, mpirun or a TPU slice started together."""
    engine: str = "none"
    """Choose what computes the blocks: none (this process) or ray (tasks of a cluster, of this
    machine or at RAY_ADDRESS)."""
    task_cpus: Annotated[int, Range(1, 1024)] = 1
    """CPUs that one task of the engine asks for, and CPU devices that it computes on."""
    task_gpus: Annotated[int, Range(0, 64)] = 0
    """GPUs that one task asks for and computes on."""
    task_tpus: Annotated[int, Range(0, 64)] = 0
    """TPU chips that one task asks for and computes on."""
    require: str = "any"
    """Refuse to compute unless the devices are of this kind: any, gpu, tpu."""
    sink: str = "none"
    """Where else tables go after every chunk: none, tensorboard, wandb."""
    resume: bool = True
    """Go on where a killed run of the same experiment was, instead of starting again."""
    dry_run: bool = False
    """Print the plan and stop."""

    def at(self, folder: Path) -> "RunOptions":
        """Returns the same with a folder that is found from everywhere."""
        return replace(self, out=folder if is_address(folder) else folder.absolute())


@dataclass(frozen=True)
class Experiment:
    """Holds the settings that determine the results of a run."""

    preset: str = field(default="laptop", metadata=LABEL)
    """Starting point of all other settings: smoke, laptop or paper."""
    env: str = "hopper"
    """Task (a wrong name lists them all), or several: hopper,walker2d are a run each, one after the
    other."""
    backend: str | None = None
    """Simulator behind the task; default: the task's own (mjx for Brax's tasks)."""
    sparsity_grid: Annotated[Grid, SPARSITY] = field(
        default_factory=lambda: parse_grid("0:0.95:20")
    )
    """Fractions of the actor's weights to remove: START:STOP:COUNT, ends included, or a list."""
    seeds: Annotated[int, COUNT] = 12
    """Agents trained per arm; the unit of replication of the intervals."""
    methods: Names = ("magnitude",)
    """Pruning methods, e.g. magnitude (after training), micro (during it), or SCORE/SCHEDULE."""
    allocations: Names = ("global",)
    """How the layers share what goes: global (all ranked together), uniform, erk."""
    modes: Names = ("endpoint",)
    """Of methods that prune in training: endpoint (an agent per sparsity), trajectory (one agent
    that passes through all of them)."""
    regimes: Names = ("ppo",)
    """How agents are trained: ppo, or a regime of robust training such as sa_ppo, side by side (a
    wrong name lists them all)."""
    controls: Some = ()
    """What else is compared: narrow (dense networks with as many weights), rescaled (nothing
    removed, kernels shrunk to the norm that magnitude pruning leaves), int8 (what magnitude pruning
    leaves, the actor's weights rounded to 8-bit integers with a scale per output)."""
    attacks: Names = ("none", "random", "mad", "direction", "director")
    """Adversaries, or "all" that this task and these policies allow; the clean run "none" is always
    included."""
    eps: Annotated[Radii, RADIUS] = ()
    """Radii of the l_inf ball in normalised observation units; default: the task's own."""
    eps_sweep: Annotated[Radii, Range(0, 1000, most=100)] = ()
    """Multiples of that radius to attack at, 0 (the clean run) included, e.g. 0,0.25,0.5,1,2: the
    report then has the area under the curve."""
    victim: Order = ("deterministic",)
    """How the policy acts: deterministic (mean or likeliest action), stochastic (drawn). The report
    is about the first; another has a section of its own."""
    bounds: Names = ("frobenius", "path", "spectral", "liplt", "crown")
    """Certificates: global ones hold everywhere, local ones at visited states."""
    states: Annotated[int, COUNT] = 256
    """Visited states per cell at which local bounds are computed and attacked."""
    episodes: Annotated[int, COUNT] = 8
    """Per cell (agent, method, sparsity, attack, eps)."""
    prune_window: Annotated[tuple[float, float], FRACTION] = (0.2, 0.8)
    """Fractions of training between which "micro" prunes."""
    policy: Path | None = field(default=None, metadata=LABEL)
    """A policy to prune, attack and certify instead of training: .npz, or of another library."""
    policy_stats: Path | None = field(default=None, metadata=LABEL)
    """Observation statistics of a policy of another library: VecNormalize's pickle, or .npz."""
    policy_activation: str | None = None
    """How the layers of a policy file that does not say it are activated: tanh, relu or swish;
    default: tanh, as in CleanRL, or swish, as in Brax's PPO. The plan says what was assumed."""
    policy_clip: str | None = None
    """How the actions of a policy file that does not say it are clipped: task or none; default: to
    the box of the task, as in CleanRL, or none, as in Brax."""
    reference: Annotated[float | None, FINITE] = field(default=None, metadata=LABEL)
    """Return that regrets are measured from (J_ref); default: the mean of the dense agents."""
    seed: Annotated[int, SEED] = 0
    """Random seed of the whole run."""
    lanes: Annotated[int | None, COUNT] = field(default=None, metadata=LABEL)
    """Environments per device in one vectorised call; default: what is fast on its kind."""
    chunk_seeds: Annotated[int | None, COUNT] = None
    """Seeds that are computed together, and that one shard takes; default: all of them."""
    attack: Annotated[AttackConfig, tyro.conf.arg(name="")] = field(default_factory=AttackConfig)
    """Of the adversaries."""
    ppo: Annotated[PPOConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=PPOConfig)
    """The learner."""

    def settings(self) -> dict[str, Any]:
        """Returns the settings as JSON values, with the checksums of the files that they name."""
        values = asdict(self)
        for name in ("policy", "policy_stats"):
            file = getattr(self, name)
            values[name] = None if file is None else str(file)
            values[f"{name}_sha256"] = None if file is None else checksum(file)
        return json.loads(json.dumps(values))

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Experiment":
        """Returns the experiment that `settings` described.

        Raises:
            InputError: settings of another version.
        """
        return _restored(cls, settings)

    @classmethod
    def material(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the settings that have to be equal for two runs to be compared."""
        labels = {field.name for field in fields(cls) if field.metadata == LABEL}
        return {name: value for name, value in settings.items() if name not in labels}

    @property
    def block_seeds(self) -> int:
        """Seeds of a block; those of a run are a multiple."""
        return self.chunk_seeds or self.seeds

    def folder(self) -> Path:
        """Returns where the results go by default, which depends on the settings alone."""
        digest = hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()
        return Path("results") / f"{_task_folder(self.env)}-{digest[:8]}"

    def resolved(self, env: Environment, loaded: Policy | None = None) -> "Experiment":
        """With the task's backend, eps and attacks, and the learner's gamma, in place of defaults.

        A policy file that is not trained further is one seed.
        """
        trained = self.policy is None or any(find_method(name).schedule for name in self.methods)
        seeds = self.seeds if trained or "narrow" in self.controls else 1
        eps = self.eps or (env.spec.eps,)
        if self.eps_sweep:
            eps = tuple(multiple * eps[0] for multiple in sorted(set(self.eps_sweep)) if multiple)
        attack = self.attack
        if self.policy is None and attack.rs.gamma is None:
            attack = replace(attack, rs=replace(attack.rs, gamma=self.ppo.hyper.gamma))
        return replace(
            self,
            attack=attack,
            backend=env.spec.backend,
            eps=eps,
            seeds=seeds,
            chunk_seeds=min(self.block_seeds, seeds),
            attacks=attack_names(self, env.spec, loaded),
        )


PRESETS = {
    "smoke": Experiment(
        preset="smoke",
        env="cartpole",
        sparsity_grid=parse_grid("0:0.9:4"),
        seeds=2,
        methods=("magnitude", "random", "micro"),
        episodes=6,
        attack=AttackConfig(
            selection=SelectionConfig(episodes=1, finalists=4, final_episodes=2),
            director=DirectorConfig(individuals=8, episodes=1, generations=4),
            search=SearchConfig(
                queries=64, generations=4, simulated=4, clone_steps=4_096, clone_epochs=10
            ),
            rs=SarsaConfig(steps=8_192, epochs=2, radii=(0.05, 0.2), weights=(1.0,), rounds=2),
            adversary=AdversaryConfig(
                steps=20_480,
                epochs=4,
                minibatches=8,
                starts=("fresh",),
                learning_rates=(1e-3,),
                log_stds=(-0.5,),
            ),
        ),
        ppo=tuned("cartpole", PPOConfig()),
    ),
    "laptop": Experiment(
        attack=AttackConfig(
            selection=SelectionConfig(episodes=1, finalists=4, final_episodes=4),
            director=DirectorConfig(individuals=16, episodes=1, generations=7),
        ),
        ppo=tuned("hopper", PPOConfig(steps=800_000), "laptop"),
    ),
    "paper": Experiment(
        preset="paper",
        seeds=10,
        methods=("magnitude", "random", "micro"),
        regimes=("ppo", "sa_ppo"),
        attacks=("none", "random", "mad", "direction", "director", "rs", "critic", "paad"),
        episodes=50,
        attack=AttackConfig(mad=MADConfig(steps=20, restarts=5)),
        ppo=tuned("hopper", PPOConfig(steps=2_000_000)),
    ),
}


# The tasks of a preset that has several.
TASKS_OF = {"paper": "hopper,walker2d,halfcheetah"}


@dataclass(frozen=True)
class CommandLine:
    """Train, prune, attack, certify and report."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    """The settings that determine the results."""
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    """Where and how."""


def parse_tasks(argv: Sequence[str]) -> list[tuple[Experiment, RunOptions]]:
    """Returns what a command line asks for, task by task; see `parse`.

    Each of several tasks has a folder of its own, `OUT/TASK` where `--out OUT` is given.

    Raises:
        InputError: a task that is named twice, or what `parse` raises.
        SystemExit: after `--help` or `--help-all`.
    """
    show_help(argv)
    preset = _option(argv, "--preset", PRESETS["laptop"].preset)
    default = TASKS_OF.get(preset) or lookup(PRESETS, preset, "preset").env
    tasks = _option(argv, "--env", default).split(",")
    if len(tasks) == 1:
        return [parse(argv)]
    if len(set(tasks)) < len(tasks):
        raise InputError(f"env {','.join(tasks)!r} holds a task twice: name each once")
    asked = [(task, *parse([*argv, "--env", task])) for task in tasks]
    return [(e, replace(o, out=o.out and o.out / _task_folder(task))) for task, e, o in asked]


def _task_folder(task: str) -> str:
    """Returns the name of a task as that of one folder, not of one inside another."""
    return task.replace("/", "-")


def parse(argv: Sequence[str]) -> tuple[Experiment, RunOptions]:
    """Returns what a command line asks for, of one task.

    Raises:
        InputError: anything wrong with it, in one line.
        SystemExit: after `--help`.
    """
    preset = lookup(PRESETS, _option(argv, "--preset", "laptop"), "preset")
    task = _option(argv, "--env", preset.env)
    task = ENV_ALIASES.get(task, task)
    if task != preset.env:  # with the steps of the preset, unless the task needs fewer
        learner = tuned(task, PPOConfig(steps=preset.ppo.steps), preset.preset)
        preset = replace(preset, ppo=learner)
    argv = ["--help" if word == "--help-all" else word for word in argv]
    asked = read_options(
        CommandLine, argv, "benchmarks.run", default=CommandLine(preset), addresses=True
    )
    experiment = asked.experiment
    methods = dict.fromkeys(METHOD_ALIASES.get(name, name) for name in experiment.methods)
    return replace(experiment, env=task, methods=tuple(methods)), asked.options


def _restored(kind: Any, value: Any) -> Any:
    """Returns JSON values as the dataclass that they came from.

    What a version that did not know it left out is None, where that means that it was not given.
    """
    if isinstance(value, list):
        return tuple(_restored(None, item) for item in value)
    if not is_dataclass(kind):
        return as_path(value) if value is not None and Path in get_args(kind) else value
    hints, kept = get_type_hints(kind), {}
    for one in fields(kind):
        if one.name not in value and one.default is not None:
            raise InputError(
                f"the settings in experiment.json lack {one.name!r}: another version wrote them; "
                "run the command in experiment.json again"
            )
        kept[one.name] = _restored(hints[one.name], value.get(one.name))
    return kind(**kept)  # type: ignore[operator]


def attack_names(experiment: Experiment, spec: EnvSpec, policy: Policy | None) -> tuple[str, ...]:
    """The attacks of an experiment; "all" are those of the battery that task and policies allow.

    Raises:
        InputError: one that was named cannot be run, with the remedy.
    """
    pruned = set(experiment.methods) != {"none"} or bool(experiment.controls)
    if "all" not in experiment.attacks:
        names = tuple(dict.fromkeys(map(find_attack, experiment.attacks)))
        for name in names:
            check_needs(name, spec, policy, source=pruned)
        return names
    possible = []
    for name, kind in ATTACKS.items():
        with contextlib.suppress(InputError):
            check_needs(name, spec, policy, source=pruned)
            if kind.in_all or name in experiment.attacks:
                possible.append(name)
    return tuple(possible)


def _option(argv: Sequence[str], name: str, default: str) -> str:
    """The value of an option that decides the defaults of the others; the last one counts."""
    value = default
    for word, following in pairwise([*argv, default]):
        if word == name:
            value = following
        if word.startswith(f"{name}="):
            value = word.partition("=")[2]
    return value
