"""Policies from files and to files: the only part of the library that touches files.

Reads our own .npz, Stable-Baselines3's .zip, CleanRL-style state dicts, parameters of Brax
(`load_policy`) and populations (`load_agents`). Writes .npz, Orbax checkpoints, StableHLO
artefacts, ONNX graphs and C headers, and gives plain numpy functions. Executes nothing that a file
holds. See README.md beside.
"""

from jaxprune.policy_io.agents import load_agents, save_agents
from jaxprune.policy_io.c_header import export_c
from jaxprune.policy_io.controller import numpy_policy
from jaxprune.policy_io.export import export_policy, load_exported
from jaxprune.policy_io.load import PolicyFile, load_policy, read_policy_file
from jaxprune.policy_io.npz import save_policy
from jaxprune.policy_io.onnx_graph import export_onnx
from jaxprune.policy_io.runs import Run, load_run
from jaxprune.policy_io.selection import Selection
from jaxprune.policy_io.zoo import zoo_policies

__all__ = [
    "PolicyFile",
    "Run",
    "Selection",
    "export_c",
    "export_onnx",
    "export_policy",
    "load_agents",
    "load_exported",
    "load_policy",
    "load_run",
    "numpy_policy",
    "read_policy_file",
    "save_agents",
    "save_policy",
    "zoo_policies",
]
