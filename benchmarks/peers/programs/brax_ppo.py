"""Brax's PPO: one training run that pauses after every epoch until the next is asked for.

The first two epochs compile, the second for the layout that the first leaves. Evaluation is off.
"""

import sys
from functools import partial

from brax import envs
from brax.training.agents.ppo import networks, train
from flax import linen
from serve import read_settings, turns

# No more turns than these; the run never gets to their end.
EPOCHS = 20_000

settings = read_settings()
asked = turns(settings["steps"], ("brax", "jax", "flax"))


def wait(steps: int, metrics: object) -> None:
    """Waits for the next request once all is compiled, and ends the program after the last."""
    if steps >= 2 * settings["steps"] and not next(asked, False):
        sys.exit()


train.train(
    envs.get_environment(settings["env"], backend=settings["backend"]),
    num_timesteps=EPOCHS * settings["steps"],
    num_evals=EPOCHS + 1,
    run_evals=False,
    progress_fn=wait,
    num_envs=settings["num_envs"],
    episode_length=settings["horizon"],
    unroll_length=settings["unroll"],
    # Brax counts a minibatch in rollouts: these are as many as there are environments.
    batch_size=settings["num_envs"] // settings["minibatches"],
    num_minibatches=settings["minibatches"],
    num_updates_per_batch=settings["epochs"],
    normalize_observations=True,
    learning_rate=settings["learning_rate"],
    discounting=settings["gamma"],
    max_grad_norm=settings["max_grad_norm"],
    network_factory=partial(
        networks.make_ppo_networks,
        policy_hidden_layer_sizes=settings["hidden"],
        value_hidden_layer_sizes=settings["hidden"],
        activation=getattr(linen, settings["activation"]),
    ),
)
