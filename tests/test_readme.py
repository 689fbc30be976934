"""Tests the documents: snippets run, commands parse, links and names resolve."""

import importlib
import importlib.util
import pkgutil
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from benchmarks.experiment import parse
from benchmarks.peers.registry import PEERS
from benchmarks.runtime import command_line
from benchmarks.runtime.schemas import SCHEMAS
from jaxprune import save_policy
from jaxprune.attacks import ATTACKS
from jaxprune.certify import BOUNDS
from jaxprune.envs import TASKS
from jaxprune.ppo import REGIMES
from jaxprune.pruning import ALLOCATIONS, METHODS, SCHEDULES, SCORES, STRUCTURES
from tests.policies import drawn_policy
from tests.policy_io.runs import write_run
from tests.test_notebook import write_cartpole_run

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
# By their path from the root.
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for pattern in ("*.md", "jaxprune/**/*.md", "benchmarks/**/*.md")
    for path in sorted(ROOT.glob(pattern))
}
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
REGISTRIES = (ATTACKS, BOUNDS, TASKS, ALLOCATIONS, METHODS, REGIMES, SCHEDULES, SCORES, STRUCTURES)
# Programs that take one folder of a run and no options.
FOLDER_PROGRAMS = ("benchmarks.report", "benchmarks.render")
# Options of programs of others.
FOREIGN = {"--restart-on-exit-codes", "--gpus-per-task"}


def section(document: str, heading: str) -> str:
    """The text below a heading of the second level, up to the next one."""
    return DOCUMENTS[document].split(f"\n## {heading}\n")[1].split("\n## ")[0]


def spans(text: str) -> list[str]:
    """What stands between single backticks, outside of fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


# --- snippets -------------------------------------------------------------------------------------


def check_own_policy(names: dict[str, Any]) -> None:
    assert names["policy"].distribution == "categorical"
    assert names["table"]["return"].shape == (3, 20)
    assert names["obs"].shape == (3, 64, 4)


def check_own_task(names: dict[str, Any]) -> None:
    policy = drawn_policy(1, 1)
    own = names["jaxprune"].evaluate(names["env"], policy, episodes=3)
    assert (own["length"] == 50).all() and (own["return"] < 0).all()
    assert names["table"]["return"].shape == (4,)  # in Gymnasium


def check_own_attack(names: dict[str, Any]) -> None:
    assert names["table"]["return"].shape == (20,)
    assert names["table"]["distance"].max() > 0


def check_own_score(names: dict[str, Any]) -> None:
    kernels = [layer["kernel"] for layer in names["masks"].actor.values()]
    kept = sum(int(np.sum(x)) for x in kernels)
    assert kept == round(0.5 * sum(x.size for x in kernels))


def check_own_bound(names: dict[str, Any]) -> None:
    own, path = names["bounds"]["smaller"], names["bounds"]["path"]
    assert own.monotone and own.value >= (1 - 1e-9) * path.value > 0


def check_files(names: dict[str, Any]) -> None:
    obs = np.zeros((2, 3), np.float32)
    actions = np.stack([names["act"](row) for row in obs])
    np.testing.assert_allclose(np.asarray(names["exported"](obs)), actions, rtol=1e-5)
    assert "static inline void pruned_act(" in Path("pruned.h").read_text()
    assert "Policy for hopper: 4-8-6-3" in Path("hopper.h").read_text()
    assert Path("best.onnx").exists() and names["best"].sparsity == 0.3
    assert Path("pruned.onnx").exists() and Path("dense.h").exists()


def check_own_regime(names: dict[str, Any]) -> None:
    assert set(names["metrics"].episodes.shape) == {2}
    assert np.isfinite(names["metrics"].value_loss).all()


CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "README.md": check_own_policy,
    "jaxprune/attacks/README.md": check_own_attack,
    "jaxprune/certify/README.md": check_own_bound,
    "jaxprune/envs/README.md": check_own_task,
    "jaxprune/policy_io/README.md": check_files,
    "jaxprune/ppo/README.md": check_own_regime,
    "jaxprune/pruning/README.md": check_own_score,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with policies to load; registries are restored afterwards."""
    for source, name in {
        "sb3_cartpole.zip": "ppo.zip",
        "sb3_pendulum.zip": "pendulum.zip",
        "sb3_pendulum.vecnormalize.pkl": "vecnormalize.pkl",
    }.items():
        shutil.copy(DATA / source, tmp_path / name)
    save_policy(tmp_path / "hopper.npz", drawn_policy(11, 3))
    write_run(tmp_path / "results" / "hopper")
    write_cartpole_run(tmp_path / "results" / "smoke")
    monkeypatch.chdir(tmp_path)
    before = [dict(registry) for registry in REGISTRIES]
    yield tmp_path
    for registry, content in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(content)


@pytest.mark.parametrize("document", [name for name, text in DOCUMENTS.items() if "```py" in text])
@pytest.mark.usefixtures("folder")
def test_snippets_run_as_they_are_printed(document: str):
    """All blocks of a document, one after the other, with the names of those before."""
    names: dict[str, Any] = {}
    for text in PYTHON.findall(DOCUMENTS[document]):
        exec(compile(text, document, "exec"), names)
    CHECKS[document](names)


def test_snippets_are_short():
    for document, text in DOCUMENTS.items():
        for snippet in PYTHON.findall(text):
            lines = [line for line in snippet.splitlines() if line.strip()]
            assert len(lines) <= (8 if document == "README.md" else 40), snippet


# --- commands -------------------------------------------------------------------------------------


class Parsed(BaseException):
    """A program has read its command line."""


def arguments(text: str) -> list[str]:
    return shlex.split(text, comments=True)


def commands() -> list[tuple[str, str]]:
    """(program, its command line) of every document, `make run` and `make throughput` included."""
    found = []
    for text in DOCUMENTS.values():
        text = PYTHON.sub("", text)
        found += re.findall(r"python -m (benchmarks\.\w+)([^`\n]*)", text)
        console = re.findall(r"(?m)(?:^ {4}|`)jaxprune ([a-z]+)([^`\n]*)", text)
        found += [(f"benchmarks.{name}", line) for name, line in console]
        for target, args in makes(text):
            if target in ("run", "throughput"):
                found.append((f"benchmarks.{target}", args))
    return sorted(set(found) - {("benchmarks.X", "")})


def makes(text: str) -> list[tuple[str, str]]:
    """(target, ARGS) of every make command."""
    return re.findall(r"(?m)(?:^ {4}|`)make ([a-z-]+)(?: ARGS=\"(.*?)\")?", text)


@pytest.mark.parametrize(("program", "line"), commands())
def test_commands_parse(program: str, line: str, monkeypatch: pytest.MonkeyPatch):
    """The program exists and takes these arguments; it stops before it does anything."""
    words = arguments(line)
    module = main_of(program)
    if program in FOLDER_PROGRAMS:
        assert len(words) <= 1 and not line.strip().startswith("-")
        return
    if not words:  # named in a sentence
        return
    cli = tyro.cli

    def read(*args: Any, **settings: Any) -> Any:
        options = cli(*args, **settings)
        if settings.get("return_unknown_args"):  # what is left is read by a second call
            return options
        raise Parsed

    monkeypatch.setattr(tyro, "cli", read)
    monkeypatch.setattr(command_line, "_check_word", lambda *_: None)  # it asks the bucket
    with pytest.raises(Parsed):
        module.main(words)


def main_of(program: str) -> Any:
    """The module of a program that has its `main`."""
    spec = importlib.util.find_spec(program)
    assert spec is not None, program
    return importlib.import_module(
        f"{program}.__main__" if spec.submodule_search_locations else program
    )


def test_targets_of_make_exist():
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    named = {target for text in DOCUMENTS.values() for target, _ in makes(text)}
    assert {"run", "test", "lint"} <= named <= targets


def test_settings_parse():
    """Every setting that the table of settings shows is one of a run."""
    rows = [row for row in section("benchmarks/README.md", "Settings").splitlines() if "|" in row]
    settings = [span for row in rows for span in spans(row) if span.startswith("--")]
    assert len(settings) > 15
    for setting in settings:
        parse(shlex.split(setting))


def test_options_exist(capsys: pytest.CaptureFixture[str]):
    """Every `--option` of a document is in the help of a program."""
    for program in sorted({program for program, _ in commands()} - set(FOLDER_PROGRAMS)):
        for word in ("--help", "--help-all") if program == "benchmarks.run" else ("--help",):
            with pytest.raises(SystemExit):
                main_of(program).main([word])
    known = set(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out)) | FOREIGN
    for document, text in DOCUMENTS.items():
        for span in spans(text):
            for option in re.findall(r"(?<!\S)--[a-z][\w.-]*", span):
                prefix = option.endswith(".")  # of --rs.*
                assert option in known or (prefix and any(x.startswith(option) for x in known)), (
                    f"{document}: {option}"
                )


# --- links and names ------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """What a link into a document may point to, as GitHub derives it from the headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", x).strip().lower().replace(" ", "-") for x in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str):
    for link in re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[document]):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def resolve(name: str) -> None:
    """A dotted name is a module of this checkout, or something in one."""
    parts = name.split(".")
    path = ROOT
    while parts and ((path / parts[0]).is_dir() or (path / f"{parts[0]}.py").is_file()):
        path /= parts.pop(0)
    module = path.relative_to(ROOT).as_posix().replace("/", ".")
    assert not parts or pkgutil.resolve_name(f"{module}:{'.'.join(parts)}") is not None


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "CHANGELOG.md"])
def test_names_of_modules_and_functions_resolve(document: str):
    for span in spans(DOCUMENTS[document]):
        dotted = re.match(r"(?:jaxprune|benchmarks)(?:\.\w+)+", span)
        if dotted and "X" not in span:
            resolve(dotted[0])
        if re.fullmatch(r"(?:jaxprune|benchmarks|tests)/[\w/]*(?:\.py)?", span):
            assert (ROOT / span).exists(), span


def test_new_names_of_the_changelog_resolve():
    rows = re.findall(r"(?m)^\| (`.*) \| (`.*) \|$", DOCUMENTS["CHANGELOG.md"])
    assert len(rows) > 20
    for _, new in rows:
        for name in spans(new):
            resolve(name)


@pytest.mark.parametrize(
    ("document", "family", "neutral"),
    [
        ("jaxprune/attacks/README.md", ATTACKS, "none"),
        ("jaxprune/certify/README.md", BOUNDS, None),
        ("jaxprune/pruning/README.md", METHODS, "none"),
        ("jaxprune/pruning/README.md", SCORES, "constant"),
        ("jaxprune/pruning/README.md", SCHEDULES, None),
        ("jaxprune/pruning/README.md", STRUCTURES, None),
        ("jaxprune/pruning/README.md", ALLOCATIONS, None),
        ("jaxprune/envs/README.md", [name for name in TASKS if "/" not in name], None),
        ("benchmarks/README.md", [f"{name}.parquet" for name in SCHEMAS], None),
        ("benchmarks/README.md", PEERS, None),
    ],
    ids=[
        "attacks",
        "bounds",
        "methods",
        "scores",
        "schedules",
        "structures",
        "allocations",
        "tasks",
        "tables",
        "peers",
    ],
)
def test_members_of_a_family_are_listed(document: str, family: Any, neutral: str | None):
    listed = set(spans(DOCUMENTS[document]))
    assert {name for name in family if name != neutral} <= listed


# --- form -----------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len(DOCUMENTS["README.md"].encode()) <= 6 * 1024


def test_the_glossary_is_short():
    terms = [row for row in section("CONTRIBUTING.md", "Glossary").splitlines() if row[:1] == "|"]
    assert len(terms) - 2 <= 20


def test_the_drawing_of_the_packages_is_that_of_the_import_contracts():
    drawn = re.findall(r"(?m)^ \| (.*?) +\|  \S", DOCUMENTS["CONTRIBUTING.md"])
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = {tuple(x["containers"]): x["layers"] for x in contracts if x["type"] == "layers"}
    assert drawn == [*layers["benchmarks",], *layers["jaxprune",]]
