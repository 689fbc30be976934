"""The policies of other libraries in this folder, with what those libraries computed from them.

Not run by the tests. To make the files again, in an environment of its own (PyTorch for the CPU is
enough; the versions used are in versions.json):

    pip install torch stable-baselines3 safetensors
    python tests/data/make_fixtures.py

Every policy is a small one (8-8). Beside the file of the policy lies NAME.expected.npz with, for a
few raw observations `obs`: `seen` (what the network got), `output` (means or logits), `mode`,
`value`, and for the sampled `action` its `log_prob`.
"""

import itertools
import json
import zipfile
from importlib.metadata import version
from pathlib import Path

import gymnasium
import numpy as np
import torch
from safetensors.torch import save_file
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

HERE = Path(__file__).parent
# What a reader never needs, and what says more about the machine than about the policy.
LEFT_OUT = {"policy.optimizer.pth", "pytorch_variables.pth", "system_info.txt"}
LEFT_OUT |= {
    f"{name}.pth" for name in ("actor.optimizer", "critic.optimizer", "ent_coef_optimizer")
}


def observations(space: gymnasium.spaces.Box) -> np.ndarray:
    """Raw observations, the last ones far outside what training saw."""
    rng = np.random.default_rng(0)
    scale = np.repeat([1.0, 30.0], [12, 4])[:, None]
    return (scale * rng.standard_normal((16, *space.shape))).astype(np.float32)


def strip(path: Path) -> None:
    """Leave out of a .zip of Stable-Baselines3 the optimiser, the machine and the pickles."""

    def without_pickles(value):
        if isinstance(value, dict):
            return {k: "" if k == ":serialized:" else without_pickles(v) for k, v in value.items()}
        return value

    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if name not in LEFT_OUT}
    files["data"] = json.dumps(without_pickles(json.loads(files["data"])), indent=4).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@torch.no_grad()
def expect_of_sb3(name: str, model: PPO, obs: np.ndarray, seen: np.ndarray) -> None:
    policy, x = model.policy, torch.as_tensor(seen)
    latent = policy.mlp_extractor.forward_actor(policy.extract_features(x))
    distribution = policy.get_distribution(x)
    action = distribution.sample()
    value, log_prob, _ = policy.evaluate_actions(x, action)
    numbers = {
        "output": policy.action_net(latent),
        "mode": distribution.mode(),
        "value": value[:, 0],
        "action": action,
        "log_prob": log_prob,
    }
    arrays = {key: tensor.numpy() for key, tensor in numbers.items()}
    np.savez_compressed(HERE / f"{name}.expected.npz", obs=obs, seen=seen, **arrays)


def sb3_pendulum() -> None:
    """Continuous, tanh, normalised with an epsilon and a clip that are easily seen."""
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    env = VecNormalize(env, clip_obs=3.0, epsilon=1e-2)
    options = {"net_arch": [8, 8], "log_std_init": -0.5}
    model = PPO(
        "MlpPolicy", env, 3e-3, n_steps=64, policy_kwargs=options, seed=0, device="cpu"
    ).learn(512)
    model.save(HERE / "sb3_pendulum.zip")
    strip(HERE / "sb3_pendulum.zip")
    env.save(HERE / "sb3_pendulum.vecnormalize.pkl")
    obs = observations(env.observation_space)
    expect_of_sb3("sb3_pendulum", model, obs, env.normalize_obs(obs))


def sb3_cartpole() -> None:
    """Discrete, ReLU, actor and critic of different shapes, raw observations."""
    env = make_vec_env("CartPole-v1", 2, seed=0)
    options = {"net_arch": {"pi": [8], "vf": [8, 4]}, "activation_fn": nn.ReLU}
    model = PPO(
        "MlpPolicy", env, 3e-3, n_steps=64, policy_kwargs=options, seed=0, device="cpu"
    ).learn(512)
    model.save(HERE / "sb3_cartpole.zip")
    strip(HERE / "sb3_cartpole.zip")
    obs = observations(env.observation_space)
    expect_of_sb3("sb3_cartpole", model, obs, obs)


@torch.no_grad()
def sb3_sac() -> None:
    """A deviation that depends on the state, and actions that are squashed to another box."""
    env = make_vec_env("Pendulum-v1", 1, seed=0)
    model = SAC(
        "MlpPolicy",
        env,
        3e-3,
        learning_starts=64,
        policy_kwargs={"net_arch": [8, 8]},
        seed=0,
        device="cpu",
    )
    with torch.enable_grad():
        model.learn(256)
    model.save(HERE / "sb3_sac.zip")
    strip(HERE / "sb3_sac.zip")
    obs = observations(env.observation_space)
    mean, _, _ = model.actor.get_action_dist_params(torch.as_tensor(obs))
    taken, _ = model.predict(obs, deterministic=True)
    np.savez_compressed(HERE / "sb3_sac.expected.npz", obs=obs, output=mean.numpy(), taken=taken)


def sequence(*widths: int) -> nn.Sequential:
    """Linear layers with tanh between them and weights that are all different."""
    pairs = itertools.pairwise(widths)
    layers = [layer for i, o in pairs for layer in (nn.Linear(i, o), nn.Tanh())][:-1]
    return nn.Sequential(*layers)


class Continuous(nn.Module):
    """The names and shapes of CleanRL's agent for continuous actions."""

    def __init__(self, obs_size: int, action_size: int):
        super().__init__()
        self.critic = sequence(obs_size, 8, 8, 1)
        self.actor_mean = sequence(obs_size, 8, 8, action_size)
        self.actor_logstd = nn.Parameter(torch.randn(1, action_size))

    def distribution(self, x: torch.Tensor):
        mean = self.actor_mean(x)
        return torch.distributions.Normal(mean, self.actor_logstd.expand_as(mean).exp())


class Discrete(nn.Module):
    """The names and shapes of CleanRL's agent for discrete actions."""

    def __init__(self, obs_size: int, choices: int):
        super().__init__()
        self.critic = sequence(obs_size, 8, 8, 1)
        self.actor = sequence(obs_size, 8, 8, choices)

    def distribution(self, x: torch.Tensor):
        return torch.distributions.Categorical(logits=self.actor(x))


@torch.no_grad()
def expect_of_cleanrl(name: str, agent: nn.Module, obs: np.ndarray, seen: np.ndarray) -> None:
    x = torch.as_tensor(seen)
    distribution = agent.distribution(x)
    action = distribution.sample()
    log_prob = distribution.log_prob(action)
    continuous = isinstance(agent, Continuous)
    numbers = {
        "output": agent.actor_mean(x) if continuous else agent.actor(x),
        "mode": distribution.mean if continuous else distribution.probs.argmax(-1),
        "value": agent.critic(x)[:, 0],
        "action": action,
        "log_prob": log_prob.sum(-1) if continuous else log_prob,
    }
    arrays = {key: tensor.numpy() for key, tensor in numbers.items()}
    np.savez_compressed(HERE / f"{name}.expected.npz", obs=obs, seen=seen, **arrays)


def cleanrl_continuous() -> None:
    """In both formats, with the statistics of Gymnasium's wrapper."""
    env = gymnasium.wrappers.NormalizeObservation(gymnasium.make("Pendulum-v1"))
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(100):
        env.step(env.action_space.sample())
    torch.manual_seed(0)
    agent = Continuous(3, 1)
    torch.save(agent.state_dict(), HERE / "cleanrl_continuous.cleanrl_model")
    save_file(agent.state_dict(), HERE / "cleanrl_continuous.safetensors")
    rms = env.obs_rms
    statistics = {"obs_mean": rms.mean, "obs_var": rms.var, "obs_count": rms.count}
    np.savez(HERE / "cleanrl_continuous.stats.npz", **statistics)
    env.update_running_mean = False
    obs = observations(env.observation_space)
    seen = np.stack([np.clip(env.observation(row), -10, 10) for row in obs])
    expect_of_cleanrl("cleanrl_continuous", agent, obs, seen.astype(np.float32))


def cleanrl_discrete() -> None:
    """A dictionary of parameters in place of a state dict: double, one kernel stored transposed."""
    torch.manual_seed(0)
    agent = Discrete(4, 2)
    obs = observations(gymnasium.make("CartPole-v1").observation_space)
    expect_of_cleanrl("cleanrl_discrete", agent, obs, obs)
    agent.double()
    kernel = agent.actor[2].weight
    kernel.data = kernel.data.T.contiguous().T
    torch.save(dict(agent.named_parameters()), HERE / "cleanrl_discrete.pt")
    old = {"_use_new_zipfile_serialization": False}
    torch.save(Discrete(1, 1).state_dict(), HERE / "old_format.pth", **old)


if __name__ == "__main__":
    for make in (sb3_pendulum, sb3_cartpole, sb3_sac, cleanrl_continuous, cleanrl_discrete):
        make()
    libraries = ("torch", "stable-baselines3", "gymnasium", "safetensors", "numpy")
    versions = {name: version(name).partition("+")[0] for name in libraries}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")
