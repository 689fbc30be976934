"""One policy from a file of any kind, which is told by what the file holds, not by its name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxprune.policy import ACTIVATIONS
from jaxprune.policy_io import brax, cleanrl, npz, sa_ppo, sb3, torch_file
from jaxprune.policy_io.addresses import as_path, is_address
from jaxprune.policy_io.checks import check_policy
from jaxprune.policy_io.files import Archive, read_bytes, refusing
from jaxprune.policy_io.obs_stats import NO_CLIP, normalised, read_normaliser
from jaxprune.policy_io.zoo import in_zoo, zoo_path
from jaxprune.types import TASK_BOX, Policy
from jaxprune.validation import InputError, lookup

ZIP = b"PK\x03\x04"  # how a zip archive starts
PICKLE = b"\x80"  # how a pickle of Python 3 starts
KINDS = (
    "give a .npz of jaxprune.save_policy, a .zip of Stable-Baselines3, a state dict written by "
    "torch.save or safetensors, or parameters of Brax"
)
# What actions of a policy that leaves them as they are may be clipped to.
CLIPS = {"none": None, TASK_BOX: TASK_BOX}


SAYS, ASSUMED = "the file says so", "assumed: the file does not say"


class Kind(NamedTuple):
    """A format of policy files."""

    read: Callable[[Path], Policy]
    says: tuple[str, ...] = ("activation", "clip")
    """What such a file says of how its layers are activated and its actions clipped; otherwise
    `read` assumes it."""
    has_stats: bool = False
    """Whether it holds what normalised its observations."""


READERS = {
    "npz": Kind(npz.read_policy, has_stats=True),
    "sb3": Kind(sb3.read_policy),
    "torch": Kind(cleanrl.read_torch, says=()),
    "sa_ppo": Kind(sa_ppo.read_policy, says=("clip",), has_stats=True),
    "safetensors": Kind(cleanrl.read_safetensors, says=()),
    "brax": Kind(brax.read_pickle, says=(), has_stats=True),
    "brax_folder": Kind(brax.read_folder, says=(), has_stats=True),
    "brax_checkpoint": Kind(brax.read_checkpoint, says=("activation",), has_stats=True),
}


class PolicyFile(NamedTuple):
    """A policy as it was read, with what was taken to be so."""

    policy: Policy
    activation_from: str
    """Who says how its layers are activated: the file, the caller, or nobody."""
    clip_from: str
    """The same of how its actions are clipped."""
    obs_stats: Path | None
    """The file that its statistics come from, if not its own."""

    def __str__(self) -> str:
        """One line: activation, clipping of the actions, statistics."""
        policy, acts = self.policy, "are not clipped"
        if policy.distribution == "categorical":
            acts = "are choices"
        elif policy.action_box is not None:
            whose = "the task's box" if policy.action_box == TASK_BOX else "the box in the file"
            acts = f"are clipped to {whose}"
        if policy.squash:
            acts = "are tanh of the outputs, and bounds are about the outputs"
        elif self.clip_from != SAYS:
            acts += f" ({self.clip_from})"
        if policy.distribution == "deterministic":
            acts += "; no deviation is read"
        sees = "raw observations (no statistics)"
        if self.obs_stats is not None:
            sees = f"observations normalised by {self.obs_stats}"
        elif np.any(policy.obs_stats.mean) or np.any(policy.obs_stats.std != 1):
            sees = "observations normalised by its own statistics"
        clip = "" if policy.obs_clip == NO_CLIP else f", clipped to +-{policy.obs_clip:g}"
        return f"{policy.activation} ({self.activation_from}); actions {acts}; {sees}{clip}"


def load_policy(
    path: str | Path,
    obs_stats: str | Path | None = None,
    activation: str | None = None,
    clip: str | None = None,
) -> Policy:
    """One policy that was trained here or by another library; arrays in JAX's default float type.

    A policy of another library acts on raw observations unless the statistics that normalised
    them are given too; radii of attacks and certificates are then in the observations' own units.
    Its actions are clipped as that library clips them (`Policy.action_box`).
    `jaxprune.policy_io.read_policy_file` also says in words what was assumed.

    Args:
        path: `zoo:hopper/ppo/3` for a policy that comes with the package; else local, or an address
            such as s3://bucket/policy.npz (extra `cloud`), of one of
            - a .npz of `save_policy`;
            - a .zip of Stable-Baselines3's PPO, A2C, TRPO, SAC, TQC, TD3 or DDPG with an MlpPolicy;
            - a state dict with CleanRL's names (`actor_mean`, `actor_logstd`, `critic`, or `actor`
              and `critic` for discrete actions), by torch.save or safetensors. It does not say how
              its layers are activated, and ReLU has the same tensors as tanh: without `activation`
              tanh is *assumed*, as in CleanRL, and `policy.activation` says so. Nor does it say
              what actions are clipped to: the box of whatever task it acts in, as in CleanRL;
            - parameters of Brax's PPO or SAC, by `brax.io.model.save_params` or as a checkpoint's
              folder, which Playground writes. Without a configuration in the folder, swish is
              *assumed* of PPO and ReLU of SAC. They carry their own statistics.

            Where the deviation of the action depends on the state (SAC, and PPO of Brax unless its
            distribution is `normal`), only the mean is read, as a deterministic policy, and tanh
            follows (`Policy.squash`): bounds are about the mean before tanh.
            - a checkpoint of SA-PPO, ATLA, RADIAL, WocaR, CAR or S-PPO without memory, with its
              statistics; see `jaxprune.policy_io.sa_ppo`.
        obs_stats: statistics for a policy of another library: the pickle that Stable-Baselines3's
            VecNormalize saves, a pickled RunningMeanStd of Gymnasium, or a .npz with `obs_mean` and
            `obs_var` or `obs_std` (all keys: `jaxprune.policy_io.obs_stats`).
        activation: "tanh", "relu" or "swish", of a file that does not say it; one that does must
            agree.
        clip: "task" or "none", what a file that does not say it clips its actions to.

    Raises:
        InputError: a file is missing, broken or inconsistent, or the policy is one that this
            library cannot express. Nothing in the files is executed.
    """
    return read_policy_file(path, obs_stats, activation, clip).policy


def read_policy_file(
    path: str | Path,
    obs_stats: str | Path | None = None,
    activation: str | None = None,
    clip: str | None = None,
) -> PolicyFile:
    """As `load_policy`, with what the file did not say: print it.

    Raises:
        InputError: as `load_policy` does.
    """
    path = zoo_path(path) if in_zoo(path) else as_path(path)
    stats = None if obs_stats is None else as_path(obs_stats)
    if activation is not None:
        lookup(ACTIVATIONS, activation, "activation")
    if clip is not None:
        lookup(CLIPS, clip, "clip of actions")
    name = _kind(path)
    kind = READERS[name]
    # An archive is listed at its end, so one that is read so far is whole.
    state = "truncated or damaged" if name == "safetensors" else "damaged or holds pickled objects"
    with refusing(f"policy file {path} is {state}: {KINDS}"):
        policy = kind.read(path)
    if stats is not None:
        if kind.has_stats:
            raise InputError(
                f"policy file {path} carries its own statistics: leave out {stats}, or write "
                "the policy again with others"
            )
        policy = _normalised(policy, stats)
    policy, activation_from = _with_activation(policy, kind, activation, path)
    policy, clip_from = _with_clip(policy, kind, clip, path)
    check_policy(policy, path)
    return PolicyFile(policy, activation_from, clip_from, stats)


def _with_activation(
    policy: Policy, kind: Kind, given: str | None, path: Path
) -> tuple[Policy, str]:
    """The policy with the activation that its caller says, and who said it."""
    says = "activation" in kind.says
    if given is None:
        return policy, _source(says, given)
    if says and given != policy.activation:
        raise InputError(
            f"policy file {path} says that its activation is {policy.activation!r}, not "
            f"{given!r}: leave the activation out"
        )
    return replace(policy, activation=given), _source(says, given)


def _with_clip(policy: Policy, kind: Kind, given: str | None, path: Path) -> tuple[Policy, str]:
    """The policy with what its caller says that actions are clipped to, and who said it."""
    says = "clip" in kind.says or policy.squash or policy.distribution == "categorical"
    if given is None:
        return policy, _source(says, given)
    if says:
        raise InputError(
            f"policy file {path} says how its actions are bounded, or they are choices: leave "
            f"the clip {given!r} out"
        )
    return replace(policy, action_box=CLIPS[given]), _source(says, given)


def _source(says: bool, given: str | None) -> str:
    """Who says a thing about a file."""
    if says:
        return SAYS
    return ASSUMED if given is None else "as given; the file does not say"


def _kind(path: Path) -> str:
    """The reader that a file's content asks for: a key of `READERS`."""
    if not path.exists():
        raise InputError(f"no policy file at {path}: give the path of a .npz, .zip or state dict")
    if path.is_dir():
        return _folder_kind(path)
    with refusing(f"policy file {path} cannot be read: {KINDS}"):
        data = read_bytes(path)
    if data.startswith(torch_file.OLD_FORMAT):
        raise InputError(torch_file.old_format(path))
    if data[8:9] == b"{":  # after the length of safetensors' JSON header
        return "safetensors"
    if data.startswith(PICKLE):
        return "brax"
    state = "truncated" if data.startswith(ZIP) else "of no kind that is read"
    with refusing(f"policy file {path} is {state}: {KINDS}"), Archive(data, path) as archive:
        names = archive.names
        pickles = [archive.read(name) for name in names if name.endswith("/data.pkl")]
    if {"policy.pth", "pytorch_variables.pth"} & set(names):
        return "sb3"
    if pickles:
        return "sa_ppo" if sa_ppo.is_checkpoint(pickles[0]) else "torch"
    if any(name.endswith(".npy") for name in names):
        return "npz"
    raise InputError(f"policy file {path} is an archive of no kind that is read: {KINDS}")


def _folder_kind(path: Path) -> str:
    """The reader of a folder, which has to be a checkpoint of Brax."""
    if is_address(path):
        raise InputError(f"{path} is a folder, and only those of this machine are read: copy it")
    if any((path / name).exists() for name in brax.CONFIGS):
        return "brax_checkpoint"
    if any((path / name).exists() for name in brax.ORBAX):
        return "brax_folder"
    steps = [inner.name for inner in path.iterdir() if (inner / "_METADATA").exists()]
    remedy = f"give {path / max(steps)}" if steps else KINDS
    raise InputError(f"{path} is a folder, but no checkpoint of Brax: {remedy}")


def _normalised(policy: Policy, path: Path) -> Policy:
    """The policy of another library with the statistics that go with it."""
    normaliser = read_normaliser(path)
    known, taken = normaliser.stats.mean.shape, policy.obs_stats.mean.shape
    if known != taken:
        raise InputError(
            f"statistics file {path} is about observations {known}, but the policy takes {taken}: "
            "give the file saved with it"
        )
    return normalised(policy, normaliser)
