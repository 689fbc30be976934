"""Tasks: pure reset and step functions with a specification. See README.md beside."""

from jaxprune.envs.base import Drawable, Environment, EnvSpec, Moment
from jaxprune.envs.registry import TASKS, default_backend, find_env, make_env

__all__ = [
    "TASKS",
    "Drawable",
    "EnvSpec",
    "Environment",
    "Moment",
    "default_backend",
    "find_env",
    "make_env",
]
