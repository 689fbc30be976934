"""Rejax's PPO: one whole training run per request, without evaluation."""

import jax
from rejax import PPO  # pyright: ignore[reportMissingImports]
from serve import read_settings, turns

settings = read_settings()
learner = PPO.create(
    env=settings["env"],
    total_timesteps=settings["steps"],
    eval_freq=settings["steps"],
    skip_initial_evaluation=True,
    num_envs=settings["num_envs"],
    num_steps=settings["unroll"],
    num_epochs=settings["epochs"],
    num_minibatches=settings["minibatches"],
    normalize_observations=True,
    normalize_rewards=True,
    learning_rate=settings["learning_rate"],
    gamma=settings["gamma"],
    max_grad_norm=settings["max_grad_norm"],
    agent_kwargs={
        "hidden_layer_sizes": settings["hidden"],
        "activation": settings["activation"],
    },
).replace(eval_callback=lambda *_: ())
start = jax.jit(learner.init_state)(jax.random.key(0))
train = jax.jit(lambda state: learner.train(train_state=state))
jax.block_until_ready(train(start))
for _ in turns(settings["steps"], ("rejax", "gymnax", "jax", "flax")):
    jax.block_until_ready(train(start))
