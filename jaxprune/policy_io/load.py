"""One policy from a file of any kind, which is told by what the file holds, not by its name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from jaxprune.families import InputError
from jaxprune.policy_io import cleanrl, npz, sb3, torch_file
from jaxprune.policy_io.checks import check_policy
from jaxprune.policy_io.files import Archive, read_bytes, refusing
from jaxprune.policy_io.obs_stats import read_normaliser
from jaxprune.types import Policy

READERS: dict[str, Callable[[Path], Policy]] = {
    "npz": npz.read_policy,
    "sb3": sb3.read_policy,
    "torch": cleanrl.read_torch,
    "safetensors": cleanrl.read_safetensors,
}


def load_policy(path: str | Path, obs_stats: str | Path | None = None) -> Policy:
    """One policy that was trained here or by another library; arrays in JAX's default float type.

    A policy of another library acts on raw observations unless the statistics that normalised
    them are given too; radii of attacks and certificates are then in the observations' own units.

    Args:
        path: one of
            - a .npz of `save_policy`;
            - a .zip of Stable-Baselines3's PPO (or A2C) with an MlpPolicy;
            - a state dict with CleanRL's names (`actor_mean`, `actor_logstd`, `critic`, or `actor`
              and `critic` for discrete actions), by torch.save or safetensors. It does not say how
              its layers are activated: tanh, as in CleanRL. For another one, say
              `dataclasses.replace(policy, activation="relu")`.
        obs_stats: statistics for a policy of another library: the pickle that Stable-Baselines3's
            VecNormalize saves, or a .npz with `obs_mean` and `obs_var` or `obs_std` (all keys:
            `jaxprune.policy_io.obs_stats`).

    Raises:
        InputError: a file is missing, broken or inconsistent, or the policy is one that this
            library cannot express. Nothing in the files is executed.
    """
    path = Path(path)
    complaint = (
        f"policy file {path} is truncated, pickled or of no kind that is read: give a .npz of "
        "jaxprune.save_policy, a PPO .zip of Stable-Baselines3, or a state dict written by "
        "torch.save or safetensors"
    )
    with refusing(complaint):
        kind = _kind(path, complaint)
        policy = READERS[kind](path)
    if obs_stats is not None:
        if kind == "npz":
            raise InputError(
                f"policy file {path} carries its own statistics: leave out {obs_stats}, or write "
                "the policy again with others"
            )
        policy = _normalised(policy, Path(obs_stats))
    check_policy(policy, path)
    return policy


def _kind(path: Path, complaint: str) -> str:
    """The reader that a file's content asks for: a key of `READERS`."""
    if not path.exists():
        raise InputError(f"no policy file at {path}: give the path of a .npz, .zip or state dict")
    data = read_bytes(path)
    if data.startswith(torch_file.OLD_FORMAT):
        raise InputError(torch_file.old_format(path))
    if data[8:9] == b"{":  # after the length of safetensors' JSON header
        return "safetensors"
    with Archive(data, path) as archive:
        names = archive.names
    if "policy.pth" in names:
        return "sb3"
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    if any(name.endswith(".npy") for name in names):
        return "npz"
    raise InputError(complaint)


def _normalised(policy: Policy, path: Path) -> Policy:
    """The policy of another library with the statistics that go with it."""
    normaliser = read_normaliser(path)
    known, taken = normaliser.stats.mean.shape, policy.obs_stats.mean.shape
    if known != taken:
        raise InputError(
            f"statistics file {path} is about observations {known}, but the policy takes {taken}: "
            "give the file saved with it"
        )
    return replace(
        policy,
        obs_stats=normaliser.stats,
        obs_clip=normaliser.clip,
        obs_std_offset=normaliser.std_offset,
    )
