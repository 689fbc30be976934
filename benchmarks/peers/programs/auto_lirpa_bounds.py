"""auto_LiRPA: boxes of the outputs of every masked actor at every observation, float64."""

from importlib import import_module
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from serve import read_settings, turns

# What torch had when the newest auto_LiRPA of PyPI, of 2022, was written.
exporter = import_module("torch.onnx._internal.torchscript_exporter._globals").GLOBALS
vars(import_module("torch.onnx.symbolic_helper"))["_set_opset_version"] = lambda opset: setattr(
    exporter, "export_onnx_opset_version", opset
)
torch._C.Node.__getitem__ = lambda node, name: getattr(node, node.kindOf(name))(name)

from auto_LiRPA import (  # noqa: E402  # pyright: ignore[reportMissingImports]
    BoundedModule,
    BoundedTensor,
    PerturbationLpNorm,
)

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
settings = read_settings()
obs = torch.tensor(settings["obs"])
activation = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[settings["activation"]]


def network(layers: list[tuple[Any, Any]]) -> BoundedModule:
    """An actor of `(weight [out, in], bias [out])`, for bounds."""
    modules = []
    for weight, bias in layers:
        linear = torch.nn.Linear(len(weight[0]), len(bias))
        linear.weight.data, linear.bias.data = torch.tensor(weight), torch.tensor(bias)
        modules += [linear, activation()]
    return BoundedModule(torch.nn.Sequential(*modules[:-1]), torch.empty_like(obs))


actors = [network(layers) for layers in settings["actors"]]
ball = BoundedTensor(obs, PerturbationLpNorm(norm=float("inf"), eps=settings["eps"]))


def bounds() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(low, high) `[states, outputs]` of every actor."""
    with torch.no_grad():
        return [x.compute_bounds(x=(ball,), method=settings["method"]) for x in actors]


low, high = (torch.stack(ends).tolist() for ends in zip(*bounds(), strict=True))
packages = ("auto_LiRPA", "torch", "numpy")
for _ in turns(len(actors) * len(obs), packages, low=low, high=high):
    bounds()
