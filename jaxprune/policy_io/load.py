"""One policy from a file of any kind, which is told by what the file holds, not by its name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from jaxprune.policy import ACTIVATIONS
from jaxprune.policy_io import cleanrl, npz, sa_ppo, sb3, torch_file
from jaxprune.policy_io.addresses import as_path
from jaxprune.policy_io.checks import check_policy
from jaxprune.policy_io.files import Archive, read_bytes, refusing
from jaxprune.policy_io.obs_stats import NO_CLIP, normalised, read_normaliser
from jaxprune.policy_io.zoo import in_zoo, zoo_path
from jaxprune.types import TASK_BOX, Policy
from jaxprune.validation import InputError, lookup

ZIP = b"PK\x03\x04"  # how a zip archive starts
KINDS = (
    "give a .npz of jaxprune.save_policy, a PPO .zip of Stable-Baselines3, or a state dict written "
    "by torch.save or safetensors"
)


class Kind(NamedTuple):
    """A format of policy files."""

    read: Callable[[Path], Policy]
    says_activation: bool = True
    """Whether such a file says how its layers are activated; otherwise `read` assumes it."""
    has_stats: bool = False
    """Whether it holds what normalised its observations."""


READERS = {
    "npz": Kind(npz.read_policy, has_stats=True),
    "sb3": Kind(sb3.read_policy),
    "torch": Kind(cleanrl.read_torch, says_activation=False),
    "sa_ppo": Kind(sa_ppo.read_policy, says_activation=False, has_stats=True),
    "safetensors": Kind(cleanrl.read_safetensors, says_activation=False),
}


class PolicyFile(NamedTuple):
    """A policy as it was read, with what was taken to be so."""

    policy: Policy
    activation_from: str
    """Who says how its layers are activated: the file, the caller, or nobody."""
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
        sees = "raw observations (no statistics)"
        if self.obs_stats is not None:
            sees = f"observations normalised by {self.obs_stats}"
        elif policy.obs_clip < NO_CLIP or policy.obs_std_offset > 0:
            sees = "observations normalised by its own statistics"
        clip = "" if policy.obs_clip == NO_CLIP else f", clipped to +-{policy.obs_clip:g}"
        return f"{policy.activation} ({self.activation_from}); actions {acts}; {sees}{clip}"


def load_policy(
    path: str | Path, obs_stats: str | Path | None = None, activation: str | None = None
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
            - a .zip of Stable-Baselines3's PPO, A2C or TRPO with an MlpPolicy;
            - a state dict with CleanRL's names (`actor_mean`, `actor_logstd`, `critic`, or `actor`
              and `critic` for discrete actions), by torch.save or safetensors. It does not say how
              its layers are activated, and ReLU has the same tensors as tanh: without `activation`
              tanh is *assumed*, as in CleanRL, and `policy.activation` says so. Nor does it say
              what actions are clipped to: the box of whatever task it acts in, as in CleanRL;
            - a checkpoint of SA-PPO, ATLA, RADIAL, WocaR, CAR or S-PPO without memory, with its
              statistics; see `jaxprune.policy_io.sa_ppo`.
        obs_stats: statistics for a policy of another library: the pickle that Stable-Baselines3's
            VecNormalize saves, a pickled RunningMeanStd of Gymnasium, or a .npz with `obs_mean` and
            `obs_var` or `obs_std` (all keys: `jaxprune.policy_io.obs_stats`).
        activation: "tanh" or "relu", of a file that does not say it; one that does must agree.

    Raises:
        InputError: a file is missing, broken or inconsistent, or the policy is one that this
            library cannot express. Nothing in the files is executed.
    """
    return read_policy_file(path, obs_stats, activation).policy


def read_policy_file(
    path: str | Path, obs_stats: str | Path | None = None, activation: str | None = None
) -> PolicyFile:
    """As `load_policy`, with what the file did not say: print it.

    Raises:
        InputError: as `load_policy` does.
    """
    path = zoo_path(path) if in_zoo(path) else as_path(path)
    stats = None if obs_stats is None else as_path(obs_stats)
    if activation is not None:
        lookup(ACTIVATIONS, activation, "activation")
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
    said = "the file says so" if kind.says_activation else "assumed: the file does not say"
    if activation is not None:
        if kind.says_activation and activation != policy.activation:
            raise InputError(
                f"policy file {path} says that its activation is {policy.activation!r}, not "
                f"{activation!r}: leave the activation out"
            )
        policy = replace(policy, activation=activation)
        said = said if kind.says_activation else "as given; the file does not say"
    check_policy(policy, path)
    return PolicyFile(policy, said, stats)


def _kind(path: Path) -> str:
    """The reader that a file's content asks for: a key of `READERS`."""
    if not path.exists():
        raise InputError(f"no policy file at {path}: give the path of a .npz, .zip or state dict")
    with refusing(f"policy file {path} cannot be read: {KINDS}"):
        data = read_bytes(path)
    if data.startswith(torch_file.OLD_FORMAT):
        raise InputError(torch_file.old_format(path))
    if data[8:9] == b"{":  # after the length of safetensors' JSON header
        return "safetensors"
    state = "truncated" if data.startswith(ZIP) else "pickled or of no kind that is read"
    with refusing(f"policy file {path} is {state}: {KINDS}"), Archive(data, path) as archive:
        names = archive.names
        pickles = [archive.read(name) for name in names if name.endswith("/data.pkl")]
    if "policy.pth" in names:
        return "sb3"
    if pickles:
        return "sa_ppo" if sa_ppo.is_checkpoint(pickles[0]) else "torch"
    if any(name.endswith(".npy") for name in names):
        return "npz"
    raise InputError(f"policy file {path} is an archive of no kind that is read: {KINDS}")


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
