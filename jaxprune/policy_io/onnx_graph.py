"""A policy as an ONNX graph, which many runtimes execute."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxprune.policy_io.controller import Controller, controller_of
from jaxprune.policy_io.files import whole_file
from jaxprune.types import Masks, Policy
from jaxprune.validation import InputError

# Of the operators and of the file: what runtimes since 2022 read.
OPSET, IR_VERSION = 17, 8
INT32 = 6  # onnx.TensorProto.INT32
ATTRIBUTES = {"Gemm": {"transB": 1}, "ArgMax": {"axis": 1, "keepdims": 0}, "Cast": {"to": INT32}}


def export_onnx(
    path: str | Path,
    policy: Policy,
    masks: Masks | None = None,
    action_box: tuple[ArrayLike, ArrayLike] | None = None,
) -> None:
    """Writes the deterministic policy as an ONNX file, which appears whole or not at all.

    The graph maps `obs`, float32 `[batch, obs]`, raw, to `action`: float32 `[batch, act]`, or the
    likeliest choices, int32 `[batch]`. Normalisation, masks and the clipping of actions are inside.
    Units that do nothing are left out of what `jaxprune.compact(policy, masks)` returns.

    Args:
        path: of the file; an old one is replaced.
        policy: a single one.
        masks: folded in; None keeps everything.
        action_box: of the task, as for `numpy_policy`.

    Raises:
        InputError: as of `numpy_policy`; the package onnx is missing; nothing can be written there.
    """
    controller = controller_of(policy, masks, action_box)
    model = _model(_onnx(), controller)
    with whole_file(path) as file:
        file.write(model.SerializeToString(deterministic=True))


def _onnx() -> ModuleType:
    try:
        import onnx
    except ImportError:
        raise InputError(
            "export_onnx needs the package onnx: pip install -e '.[onnx]', or export_c and "
            "export_policy, which need none"
        ) from None
    return onnx


def _model(onnx: ModuleType, controller: Controller) -> Any:
    """The checked model."""
    nodes, constants = _steps(onnx, controller)
    kind, shape = onnx.TensorProto.INT32, ["batch"]
    if not controller.discrete:
        kind, shape = onnx.TensorProto.FLOAT, ["batch", len(controller.layers[-1][1])]
    describe = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "policy",
        [describe("obs", onnx.TensorProto.FLOAT, ["batch", controller.mean.size])],
        [describe("action", kind, shape)],
        [onnx.numpy_helper.from_array(np.asarray(x), name) for name, x in constants.items()],
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(
        graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="jaxprune"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _steps(onnx: ModuleType, controller: Controller) -> tuple[list[Any], dict[str, ArrayLike]]:
    """A node per step of the controller, from `obs` to `action`, and the constants that they take.

    Every node takes what the one before it gives, first.
    """
    nodes, constants = [], {}

    def last() -> str:
        return nodes[-1].output[0] if nodes else "obs"

    def then(operator: str, *also: str, **operands: ArrayLike) -> None:
        constants.update(operands)
        inputs, attributes = [last(), *also, *operands], ATTRIBUTES.get(operator, {})
        output = f"{operator}_{len(nodes)}"
        nodes.append(onnx.helper.make_node(operator, inputs, [output], **attributes))

    then("Sub", mean=controller.mean)
    then("Div", std=controller.std)
    then("Clip", obs_low=-controller.obs_clip, obs_high=controller.obs_clip)
    for n, (weight, bias) in enumerate(controller.layers):
        if n > 0:
            x = last()
            then(controller.activation.onnx)
            if controller.activation.gated:
                then("Mul", x)
        then("Gemm", **{f"weight_{n}": weight, f"bias_{n}": bias})
    if controller.discrete:
        then("ArgMax")
        then("Cast")
    elif controller.squash and controller.box is not None:
        low, high = controller.box
        then("Tanh")
        then("Mul", action_half=(high - low) / 2)
        then("Add", action_middle=(high + low) / 2)
    elif controller.box is not None:  # Clip has no limits per element
        low, high = controller.box
        then("Max", action_low=low)
        then("Min", action_high=high)
    nodes[-1].output[0] = "action"
    return nodes, constants
