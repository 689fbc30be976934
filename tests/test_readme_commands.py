"""Every command in every document is executed, with small settings, or listed with a reason.

The programs are started as a reader would start them, in a folder of their own. What is added to a
command only makes it smaller: later options replace earlier ones.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.__main__ import PROGRAMS
from jaxprune.policy_io import save_policy
from tests.policies import drawn_policy
from tests.test_readme import DOCUMENTS, PYTHON, ROOT, spans

SMALL = (
    "--preset smoke --env cartpole --steps 2048 --num-envs 8 --unroll 64 --epochs 1 --minibatches 2"
    " --episodes 4 --seeds 2 --methods magnitude --attacks random,mad --bounds path --eps 0.075"
    " --sparsity-grid 0,0.5"
)
LEAST = (
    "--env cartpole --preset smoke --num-envs 4 --unroll 8 --steps 64 --epochs 1 --minibatches 1"
    " --hidden 8 --methods magnitude --attacks none,random --episodes 2"
)
SHARDED = f"{SMALL} --bounds path --chunk-seeds 1"
LITTLE = "--env cartpole --sparsity-grid 0,0.5 --states 4 --episodes 2 --bounds path ibp"
PARITY = (
    "--envs InvertedPendulum-v4 --states 20 --train-steps 0 --policy-env InvertedPendulum-v4 "
    "--attacks none --episodes 2"
)
ANY = "--clean-loss 100% --attacked-loss 100%"
RUN = "python -m benchmarks.run --preset paper --env hopper --out OUT --chunk-seeds 1"

TUNE = "python -m benchmarks.run --env hopper --regimes ppo,car --methods none --seeds 5"
TUNED = SMALL.replace("--methods magnitude", "--methods none")
QUICK = "--env cartpole --rates stepping --repeats 1 --bare-steps 5"

# command -> what is added to it, in an order in which each finds what it needs.
EXECUTED = {
    "python -m benchmarks.list attacks": "",
    "jaxprune list methods": "",
    "jaxprune --help": "",
    "python -m benchmarks.run --sparsity-grid 0:0.95:20": f"{SMALL} --out results/RUN",
    "python -m benchmarks.report results/RUN": "",
    "jaxprune select results/RUN --clean-loss 5% --attacked-loss 5% --out policy.h": ANY,
    "jaxprune select results/RUN --method magnitude --eps 0.075 --layout rows --dtype int8 "
    "--out policy.h": ANY,
    "jaxprune card results/RUN --out results/leaderboard": "",
    "jaxprune compare results/HOPPER results/WALKER --out results/comparison": "",
    "python -m benchmarks.gate --baseline results/baselines/quick results/quick": "",
    f"{RUN} --shard 0/10": f"{SHARDED} --shard 0/2",
    "python -m benchmarks.merge OUT": "",
    "python -m benchmarks.status OUT": "",  # 3 before the other shard is there
    f"{RUN} --engine ray": f"{SHARDED} --out RAY",
    "python -m benchmarks.run --policy zoo:hopper/ppo/0 --env hopper --sparsity-grid 0:0.5:6": (
        "--attacks random --bounds path --episodes 4 --sparsity-grid 0,0.5 --backend spring"
    ),
    "python -m benchmarks.profile OUT": "",
    f"{TUNE} --car-weight 0.1 --out results/car-0.1": TUNED,
    f"{TUNE} --car-weight 1 --out results/car-1": TUNED,
    "python -m benchmarks.compare results/car-0.1 results/car-1": "--out results/comparison",
    "python -m benchmarks.capacity --env hopper --preset paper": LEAST,
    "python -m benchmarks.throughput": QUICK,
    "python -m benchmarks.throughput --env hopper --rates training --methods none --regimes ppo "
    "radial sa_ppo car wocar atla --agents 2 --repeats 3 --steps 4096 --num-envs 64 --unroll 32 "
    "--epochs 8 --minibatches 16": f"{QUICK} --rates training --regimes ppo radial car",
    "python -m benchmarks.throughput --peers": (
        f"--peers mujoco {QUICK} --json results/peers.json"
    ),
    "python -m benchmarks.throughput --env hopper --agents 256 --rates stepping training "
    "--repeats 2 --bare-steps 100 --methods none": f"{QUICK} --agents 2",
    "python -m benchmarks.parity --out results/gym-parity": PARITY,
    "python -m benchmarks.parity --out results/gym-parity --policies policy.npz": (
        f"{PARITY} --policies pendulum.npz"
    ),
    "python -m benchmarks.tightness --policies policy.npz --env gym/Hopper-v4 "
    "--out results/tightness": LITTLE,
    "python -m benchmarks.theorem --policies policy.npz --env gym/Hopper-v4 "
    "--out results/theorem": f"{LITTLE} --singles 3 --orders 1 --steps 2 --restarts 1",
    "pytest -m slow tests/benchmarks/gate/test_permutation_test.py": "--collect-only -q",
    "python -m pytest tests/benchmarks/test_batch.py": "--collect-only -q",
    "python -m pytest tests/benchmarks/engines/test_ray.py -m slow -k idles": "--collect-only -q",
    "python -m pytest tests/benchmarks/test_object_storage.py -m slow -k ten_thousand": (
        "--collect-only -q"
    ),
}
INSTALLS = "installs packages from the network; `make versions` and the workflow do"
BUCKET = "needs a bucket; tests/benchmarks/test_object_storage.py runs it against a server of S3"
# beginning of a command -> why it is not executed.
NOT_EXECUTED = {
    "pip install": INSTALLS,
    "python -m benchmarks.peers": "installs packages from the network, a gigabyte for each peer",
    "make": f"{INSTALLS}; tests/test_readme.py checks the target and parses its arguments",
    "srun": "needs a cluster with Slurm",
    "kubectl": "needs a cluster; tests/benchmarks/test_batch.py checks the manifests",
    "JAXPRUNE_REPETITIONS=20 python -m pytest": "takes an hour; the same test is tried once",
    "bash -n": "tests/benchmarks/test_batch.py runs it on the scripts",
    "python -m benchmarks.render results/RUN": (
        "needs MuJoCo bodies and a library to draw them; tests/benchmarks/render has both"
    ),
    "python -m benchmarks.run --preset paper --env hopper --out s3://": BUCKET,
    "python -m benchmarks.merge s3://": BUCKET,
}
# Words that a sentence names a program by, without its arguments.
NAMED = {f"jaxprune {name}" for name in PROGRAMS} | {f"python -m benchmarks.{n}" for n in PROGRAMS}
NAMED |= {"python -m benchmarks.X"}
STARTS = ("python ", "jaxprune ", "pip ", "make ", "pytest ", "srun ", "bash ", "kubectl ", "ray ")


def commands() -> Iterator[tuple[str, str]]:
    """(document, command) of every indented line and of every span that is a command."""
    for document, text in DOCUMENTS.items():
        text = re.sub(r"```.*?```", "", PYTHON.sub("", text), flags=re.DOTALL)
        lines = re.findall(r"(?m)^ {4}(\S.*)$", text)
        found = lines + [span for span in spans(text) if span.startswith(STARTS)]
        for line in found:
            command = shlex.join(shlex.split(line, comments=True)).replace("'", "")
            if line in lines or command not in NAMED - EXECUTED.keys():
                yield document, command


def test_every_command_is_executed_or_has_a_reason():
    found = {command for document, command in commands() if document != "CHANGELOG.md"}
    assert len(found) > 25
    for command in found:
        assert command in EXECUTED or command.startswith(tuple(NOT_EXECUTED)), command
    stale = EXECUTED.keys() - found
    assert not stale
    assert all(any(x.startswith(start) for x in found) for start in NOT_EXECUTED)


# --- execution ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all commands run, with the policies that they name."""
    path = tmp_path_factory.mktemp("readme")
    cartpole = drawn_policy(4, 2, (4,), discrete=True)
    save_policy(path / "policy.npz", cartpole)
    save_policy(path / "pendulum.npz", drawn_policy(4, 1, (4,)))
    (path / "tests").symlink_to(ROOT / "tests")
    return path


def start(folder: Path, command: str, more: str) -> str:
    """What a command prints; it has to end with 0."""
    program, *words = shlex.split(f"{command} {more}")
    begin = {
        "python": [sys.executable],
        "jaxprune": [sys.executable, "-m", "benchmarks"],
        "pytest": [
            sys.executable,
            "-m",
            "pytest",
            "--rootdir",
            str(ROOT),
            "-p",
            "no:cacheprovider",
        ],
    }[program]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*begin, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command} {more}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def prepare(folder: Path, command: str) -> None:
    """Makes what a command needs and no other one writes."""
    results = folder / "results"
    if "results/HOPPER" in command:
        start(folder, "python -m benchmarks.run", f"{SMALL} --out results/HOPPER --seed 1")
        (results / "WALKER").symlink_to(results / "RUN")
    if "results/quick" in command:
        (results / "quick").symlink_to(results / "RUN")
        start(folder, command.replace("gate", "gate --update"), "")
    if command == "python -m benchmarks.profile OUT":  # which a run united from shards lacks
        (folder / "OUT").rename(folder / "UNITED")
        (folder / "OUT").symlink_to(results / "RUN")
    if command == "python -m benchmarks.merge OUT":
        start(folder, f"{RUN} --shard 0/10", f"{SHARDED} --shard 1/2")


@pytest.mark.slow
@pytest.mark.parametrize("command", EXECUTED)
def test_the_command_runs(command: str, folder: Path):
    if "--engine ray" in command and find_spec("ray") is None:
        pytest.skip("the extra `ray` is not installed")
    prepare(folder, command)
    start(folder, command, EXECUTED[command])


@pytest.mark.slow
def test_what_the_commands_wrote(folder: Path):
    if not (folder / "results" / "RUN").exists():
        pytest.skip("the commands were not executed")
    assert (folder / "results" / "RUN" / "report.html").exists()
    assert "static inline int policy_act(" in (folder / "policy.h").read_text()
    assert (folder / "UNITED" / "report.md").exists()
    for name in ("leaderboard", "comparison", "gym-parity", "tightness", "theorem"):
        assert list((folder / "results" / name).iterdir()), name
