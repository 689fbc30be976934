"""What does pruning a policy do to its robustness, and what of that can be proved?

    env    = jaxprune.make_env("hopper")
    policy = jaxprune.load_policy("policy.npz")
    masks  = jaxprune.prune(policy, method="magnitude", sparsity=0.5)
    bounds = jaxprune.certify(policy, masks, eps=0.075)
    obs    = jaxprune.visited(env, policy, masks)  # observations at which local bounds are asked
    table  = jaxprune.evaluate(env, policy, masks, attack="mad", eps=0.075, episodes=50)
    batch  = jaxprune.collect_batch(env, policy)  # data for the scores that need it
    small  = jaxprune.compact(policy, masks)  # without the units that nothing reaches

All functions take leading batch axes on policy and masks, except `compact`, `account`,
`evaluate_in_gymnasium` and the exports, which take one agent. `jaxprune.ppo` trains;
`jaxprune.devices` configures devices and the compilation cache.
"""

from importlib.metadata import version as _version

from jaxprune.certify import Certificate, certify
from jaxprune.envs import Environment, EnvSpec, make_env
from jaxprune.evaluation.evaluate import evaluate, visited
from jaxprune.evaluation.gymnasium import evaluate_in_gymnasium
from jaxprune.evaluation.on_policy import collect_batch
from jaxprune.policy_io import (
    export_c,
    export_onnx,
    export_policy,
    load_agents,
    load_exported,
    load_policy,
    load_run,
    numpy_policy,
    save_agents,
    save_policy,
)
from jaxprune.pruning import Scope, mask_policy, prune
from jaxprune.pruning.accounting import account
from jaxprune.pruning.compact import compact
from jaxprune.types import Masks, Policy
from jaxprune.validation import InputError

__version__ = _version("jaxprune")

__all__ = [
    "Certificate",
    "EnvSpec",
    "Environment",
    "InputError",
    "Masks",
    "Policy",
    "Scope",
    "account",
    "certify",
    "collect_batch",
    "compact",
    "evaluate",
    "evaluate_in_gymnasium",
    "export_c",
    "export_onnx",
    "export_policy",
    "load_agents",
    "load_exported",
    "load_policy",
    "load_run",
    "make_env",
    "mask_policy",
    "numpy_policy",
    "prune",
    "save_agents",
    "save_policy",
    "visited",
]
