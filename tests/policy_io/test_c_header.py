"""C headers: compiled as strictly as gcc can, they act like the policy."""

import re
import shutil
import subprocess
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxprune import compact
from jaxprune.policy_io import export_c, numpy_policy
from jaxprune.pruning import mask_policy, prune
from jaxprune.pruning.storage import as_int8, storage_bytes
from jaxprune.types import TASK_BOX, ActionBox
from jaxprune.validation import InputError
from tests.policies import drawn_policy
from tests.policy_io.policies import lively_policy, policy_of

OBS = np.random.default_rng(1).normal(0, 3, (50, 4)).astype(np.float32)
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O1")
GCC = shutil.which("gcc")
needs_gcc = pytest.mark.skipif(GCC is None, reason="there is no gcc to compile headers")


def compiled(folder, program):
    (folder / "main.c").write_text(program)
    command = [GCC, *STRICT, "main.c", "-lm", "-o", "main"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "main"


def actions_in_c(folder, obs, discrete):
    """What `policy.h` in the folder does at observations `[n, 4]`."""
    call = 'printf("%d\\n", policy_act(obs));'
    if not discrete:
        call = "float a[3]; policy_act(obs, a);" + 'printf("%.9g %.9g %.9g\\n", a[0], a[1], a[2]);'
    program = compiled(
        folder,
        '#include <stdio.h>\n#include "policy.h"\nint main(void) { float obs[POLICY_OBS];'
        'while (scanf("%f%f%f%f", obs, obs + 1, obs + 2, obs + 3) == 4) {' + call + "} return 0; }",
    )
    text = "\n".join(" ".join(f"{x:.9g}" for x in row) for row in obs)
    done = subprocess.run([program], input=text, capture_output=True, text=True, check=True)
    found = np.array([line.split() for line in done.stdout.splitlines()], np.float32)
    return found[:, 0] if discrete else found


def on_levels(policy):
    """The policy with weights that 8-bit integers can hold."""

    def held(kernel):
        levels, scale = as_int8(np.asarray(kernel))
        return levels * scale

    actor = {
        name: layer | {"kernel": held(layer["kernel"])}
        for name, layer in policy.params.actor.items()
    }
    return replace(policy, params=policy.params._replace(actor=actor))


@needs_gcc
@pytest.mark.parametrize("dtype", ["float", "int8"])
@pytest.mark.parametrize("layout", ["dense", "rows"])
@pytest.mark.parametrize(
    ("discrete", "activation"), [(False, "tanh"), (True, "relu"), (False, "swish")]
)
def test_a_header_acts_like_the_policy(discrete, activation, layout, dtype, tmp_path):
    policy = lively_policy(discrete=discrete, activation=activation)
    masks = prune(policy, "random", 0.5)
    export_c(tmp_path / "policy.h", policy, masks, layout=layout, dtype=dtype)
    masked = mask_policy(policy, masks)
    expected = numpy_policy(on_levels(masked) if dtype == "int8" else masked)(OBS)
    found = actions_in_c(tmp_path, OBS, discrete)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(np.unique(found)) > 1


@needs_gcc
@pytest.mark.parametrize(("discrete", "activation"), [(True, "tanh"), (False, "relu")])
def test_a_compacted_policy_and_its_box(discrete, activation, tmp_path):
    policy = lively_policy(discrete=discrete, activation=activation)
    masks = jax.tree.map(np.array, prune(policy, "magnitude", 0.0))
    masks.actor["layer_1"]["kernel"][3:] = False
    small = compact(policy, masks)
    low, high = [-0.1, -0.2, -np.inf], [0.1, np.inf, 0.2]
    box = None if discrete else (low, high)
    small = replace(small, action_box=None if discrete else TASK_BOX)
    export_c(tmp_path / "policy.h", small, action_box=box)
    assert "4-3-6-3" in (tmp_path / "policy.h").read_text()
    found = actions_in_c(tmp_path, OBS, discrete)
    act = numpy_policy(mask_policy(policy, masks))
    expected = act(OBS) if discrete else np.clip(act(OBS), low, high)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert discrete or (expected != act(OBS)).any()


@needs_gcc
def test_actions_that_are_squashed_into_a_box(tmp_path):
    policy = replace(lively_policy(), action_box=ActionBox((-2, 0, -1), (2, 3, 0)), squash=True)
    export_c(tmp_path / "policy.h", policy)
    mean = numpy_policy(replace(policy, action_box=None, squash=False))(OBS)
    expected = np.array([-2, 0, -1]) + np.array([4, 3, 1]) * (np.tanh(mean) + 1) / 2
    np.testing.assert_allclose(numpy_policy(policy)(OBS), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(actions_in_c(tmp_path, OBS, False), expected, atol=1e-5)


@needs_gcc
@pytest.mark.parametrize("discrete", [False, True])
def test_the_program_in_the_comment(discrete, tmp_path):
    policy = policy_of(discrete=discrete)
    export_c(tmp_path / "9 legs.h", policy, task="ant /* */ \n")
    text = (tmp_path / "9 legs.h").read_text()
    comment = text.split("*/")[0]
    program = compiled(tmp_path, comment[comment.index("#include") :])
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    action = numpy_policy(policy)(np.zeros(4))
    np.testing.assert_allclose(float(done.stdout), np.ravel(action)[0], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float", "int8"])
@pytest.mark.parametrize("layout", ["dense", "rows"])
def test_the_bytes_are_those_of_the_arrays(layout, dtype, tmp_path):
    policy = drawn_policy(4, 3, (300, 6))
    masks = prune(policy, "random", 0.5)
    export_c(tmp_path / "policy.h", policy, masks, layout=layout, dtype=dtype, task="hopper")
    text = (tmp_path / "policy.h").read_text()
    wide = {"float": 4, "int8_t": 1, "uint8_t": 1, "uint16_t": 2}
    found = re.findall(r"static const (\w+) (?:weight|bias|scale|column|start)\d\[(\d+)\]", text)
    total = sum(wide[kind] * int(count) for kind, count in found)
    sizes = storage_bytes(policy, masks)
    known = {"dense float": sizes.dense, "rows float": sizes.rows}
    known |= {"dense int8": sizes.int8, "rows int8": sizes.int8_rows}
    assert total == known[f"{layout} {dtype}"]
    assert f": {total} bytes; dense as float they are {sizes.dense}." in text
    assert "Policy for hopper: 4-300-6-3, 1509 of 3018 weights are not 0 (sparsity 0.5)" in text


def test_what_is_refused_writes_nothing(tmp_path):
    path, policy = tmp_path / "policy.h", policy_of()
    for options, words in (
        ({"layout": "columns"}, "unknown layout 'columns': .*choose from dense, rows"),
        ({"dtype": "int4"}, "unknown dtype 'int4': .*choose from float, int8"),
    ):
        with pytest.raises(InputError, match=words):
            export_c(path, policy, **options)
    with pytest.raises(InputError, match="'gelu' cannot be exported: tanh, relu, swish can"):
        export_c(path, replace(policy, activation="gelu"))
    with pytest.raises(InputError, match="cannot write"):
        export_c(tmp_path / "missing" / "policy.h", policy)
    assert list(tmp_path.iterdir()) == []
