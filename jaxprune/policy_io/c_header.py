"""A policy as one C header: constant arrays inside of one function, C99, nothing allocated."""

import re
import textwrap
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import ArrayLike

from jaxprune.policy_io.controller import Controller, controller_of
from jaxprune.policy_io.files import whole_file
from jaxprune.pruning.storage import as_int8, compressed
from jaxprune.types import Masks, Policy
from jaxprune.validation import lookup, shown

Arrays = dict[str, np.ndarray]

# How the weights of output j are multiplied with x, by layout.
PRODUCTS = {
    "dense": "for (int i = 0; i < $inputs; ++i) sum += weight$n[$inputs * j + i] * in[i];",
    "rows": "for (uint32_t k = start$n[j]; k < start$n[j + 1]; ++k)\n"
    "      sum += weight$n[k] * in[column$n[k]];",
}
# What these products sum up to, by dtype.
SUMS = {"float": "sum", "int8": "scale$n[j] * sum"}

TYPES = {
    "float32": "float",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "uint32": "uint32_t",
}
LAYER = """\
  for (int j = 0; j < $outputs; ++j) {
    const float *in = h[$source];
    float sum = 0.0f;
    $products
    const float x = $sum + bias$n[j];
    h[$target][j] = $activated;
  }"""
MEAN = """\
  for (int j = 0; j < ${NAME}_ACTIONS; ++j) action[j] = h[$last][j];"""
CLIPPED = """\
  for (int j = 0; j < ${NAME}_ACTIONS; ++j) {
    const float x = h[$last][j];
    action[j] = x < low[j] ? low[j] : x > high[j] ? high[j] : x;
  }"""
SQUASHED = """\
  for (int j = 0; j < ${NAME}_ACTIONS; ++j)
    action[j] = low[j] + (high[j] - low[j]) * (tanhf(h[$last][j]) + 1.0f) / 2.0f;"""
CHOICE = """\
  int best = 0;
  for (int j = 1; j < ${NAME}_ACTIONS; ++j)
    if (h[$last][j] > h[$last][best]) best = j;
  return best;"""
FILE = """\
/* Policy for $task: $widths, $used of $size weights are not 0 (sparsity $sparsity).
   Layers ($layout, $dtype): $bytes bytes; dense as float they are $dense.
   The function takes $stack bytes of stack. Link with -lm.

   #include <stdio.h>
   #include "$file"
   int main(void) {
     const float obs[${NAME}_OBS] = {0.0f};
     $example
   } */
#ifndef ${NAME}_H
#define ${NAME}_H
#include <math.h>
#include <stdint.h>

#define ${NAME}_OBS $obs
#define ${NAME}_ACTIONS $actions

/* $about */
static inline $signature {
$arrays
  float h[2][$width];
  for (int i = 0; i < ${NAME}_OBS; ++i) {
    const float x = (obs[i] - mean[i]) / std[i];
    h[0][i] = x < -$clip ? -$clip : x > $clip ? $clip : x;
  }
$layers
$ending
}
#endif
"""


def export_c(
    path: str | Path,
    policy: Policy,
    masks: Masks | None = None,
    action_box: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    layout: str = "dense",
    dtype: str = "float",
    task: str = "an unnamed task",
) -> None:
    """Writes the deterministic policy as one C99 header, which appears whole or not at all.

    `pruned.h` defines `static inline void pruned_act(const float *obs, float *action)`, or of a
    policy that chooses `static inline int pruned_act(const float *obs)`. It takes raw observations;
    normalisation, masks and the clipping of actions are inside. The comment at its head has the
    bytes, the sparsity and a program that calls it. Units that do nothing are left out of what
    `jaxprune.compact(policy, masks)` returns.

    Args:
        path: of the file, which names the function; an old one is replaced.
        policy: a single one.
        masks: folded in; None keeps everything.
        action_box: of the task, as for `numpy_policy`.
        layout: "dense", or "rows" (compressed sparse rows: no zeros, a column per weight).
        dtype: "float", or "int8" (whole numbers with a float scale per output, rounded as
            `jaxprune.pruning.controls.quantised` rounds; biases and sums are float).
        task: for the comment.

    Raises:
        InputError: as of `numpy_policy`; an unknown layout or dtype; nothing can be written there.
    """
    products, total = lookup(PRODUCTS, layout, "layout"), lookup(SUMS, dtype, "dtype")
    controller = controller_of(policy, masks, action_box)
    arrays = [_stored(w, b, layout, dtype) for w, b in controller.layers]
    facts = _facts(controller, Path(path)) | {
        "task": shown(task).replace("*/", "* /").replace("/*", "/ *"),
        "layout": layout,
        "dtype": dtype,
        "bytes": sum(array.nbytes for layer in arrays for array in layer.values()),
        "arrays": _declared(controller, arrays),
        "layers": _layers(controller, products, total),
    }
    with whole_file(path) as file:
        file.write(Template(FILE).substitute(facts).encode())


def _stored(weight: np.ndarray, bias: np.ndarray, layout: str, dtype: str) -> Arrays:
    """The arrays of one layer, by the names that `PRODUCTS` and `SUMS` give them."""
    kernel, arrays = weight.T, {"bias": bias}
    if dtype == "int8":
        levels, arrays["scale"] = as_int8(kernel)
        kernel = levels.astype(np.int8)
    if layout == "dense":
        return arrays | {"weight": kernel.T.ravel()}
    rows = compressed(kernel)
    return arrays | {"weight": rows.values, "column": rows.columns, "start": rows.starts}


def _declared(controller: Controller, layers: list[Arrays]) -> str:
    """All constants, in C."""
    constants = {"mean": controller.mean, "std": controller.std}
    if controller.box is not None:
        constants |= dict(zip(("low", "high"), controller.box, strict=True))
    for n, layer in enumerate(layers):
        constants |= {f"{name}{n}": array for name, array in layer.items()}
    lines = []
    for name, array in constants.items():
        numbers = [_number(x) for x in array] or ["0"]  # C has no empty arrays
        lines.append(f"  static const {TYPES[array.dtype.name]} {name}[{len(numbers)}] = {{")
        text = textwrap.fill(", ".join(numbers), 96, break_long_words=False)
        lines.append(textwrap.indent(text, "    ") + "};")
    return "\n".join(lines)


def _number(x: np.generic) -> str:
    """A constant that is read back as the same number."""
    if not isinstance(x, np.floating):
        return str(x)
    return f"{x!s}f" if np.isfinite(x) else str(x).replace("inf", "INFINITY")


def _layers(controller: Controller, products: str, total: str) -> str:
    """The loops of all layers, in C."""
    loops, last = [], len(controller.layers) - 1
    for n, (weight, _) in enumerate(controller.layers):
        outputs, inputs = weight.shape
        names: dict[str, object] = {"n": n, "inputs": inputs, "outputs": outputs}
        names |= {"source": n % 2, "target": (n + 1) % 2}
        names["products"] = Template(products).substitute(names)
        names["sum"] = Template(total).substitute(names)
        names["activated"] = controller.activation.c if n < last else "x"
        loops.append(Template(LAYER).substitute(names))
    return "\n".join(loops)


def _facts(controller: Controller, path: Path) -> dict[str, object]:
    """What the text of the file says about the policy, by the names in `FILE`."""
    weights = [weight for weight, _ in controller.layers]
    widths = [weights[0].shape[1], *(len(weight) for weight in weights)]
    size, used = sum(w.size for w in weights), sum(map(np.count_nonzero, weights))
    name = re.sub(r"\W", "_", path.stem, flags=re.ASCII)
    name = name if name[:1].isalpha() else f"policy_{name}"
    if controller.discrete:
        about, ending = "Returns the likeliest action at a raw observation.", CHOICE
        signature = f"int {name}_act(const float *obs)"
        example = f'return printf("%d\\n", {name}_act(obs)) < 0;'
    else:
        about = "Writes the action at a raw observation."
        ending = SQUASHED if controller.squash else CLIPPED
        if controller.box is None:
            ending = MEAN
        signature = f"void {name}_act(const float *obs, float *action)"
        example = (
            f"float action[{name.upper()}_ACTIONS];\n     {name}_act(obs, action);\n"
            '     return printf("%g\\n", action[0]) < 0;'
        )
    return {
        "file": shown(path.name),
        "NAME": name.upper(),
        "about": about,
        "signature": signature,
        "example": example,
        "ending": Template(ending).substitute(NAME=name.upper(), last=len(weights) % 2),
        "widths": "-".join(map(str, widths)),
        "size": size,
        "used": used,
        "sparsity": f"{1 - used / size:.3g}",
        "dense": sum(4 * (weight.size + bias.size) for weight, bias in controller.layers),
        "obs": widths[0],
        "actions": widths[-1],
        "width": max(widths),
        "stack": 2 * 4 * max(widths),
        "clip": _number(controller.obs_clip),
    }
