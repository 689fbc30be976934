"""Sinks: what is told, read back from event files, and from a stub of Weights & Biases."""

import struct
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imsave

from benchmarks.report import sinks
from benchmarks.report.sinks import NoSink, TensorBoard, make_sink, run_name, summaries
from benchmarks.runtime.run_folder import read_table
from benchmarks.runtime.schemas import SCHEMAS
from jaxprune.validation import InputError

REFERENCE = Path(__file__).parents[3] / "results" / "reference" / "hopper-learning"


def table(stage: str, rows: int, **columns: Any) -> dict[str, np.ndarray]:
    """A table of a stage; what is not given is constant."""
    constant = {"regime": "ppo", "allocation": "global", "mode": "endpoint", "method": "micro"}
    blank = {name: constant.get(name, 0) for name in SCHEMAS[stage].names}
    return {k: np.broadcast_to(np.asarray(v), rows) for k, v in {**blank, **columns}.items()}


def points(stage: str, columns: dict[str, np.ndarray]) -> dict[str, list[tuple[float, float]]]:
    """Curves by their tag."""
    found: dict[str, list[tuple[float, float]]] = {}
    for scalar in summaries(stage, columns):
        found.setdefault(scalar.tag, []).append((scalar.step, scalar.value))
    return found


def training() -> dict[str, np.ndarray]:
    """Two seeds, two methods, two iterations; one agent has not ended an episode at first."""
    return table(
        "training",
        8,
        seed=[0, 0, 1, 1, 0, 0, 1, 1],
        method=["none"] * 4 + ["lamp/cubic"] * 4,
        mode=["dense"] * 4 + ["endpoint"] * 4,
        env_steps=[512, 1024] * 4,
        episode_return=[1.0, 2.0, np.nan, 4.0, np.nan, 6.0, np.nan, 8.0],
        kl=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
        value_loss=[1.0, np.inf, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        sparsity_now=[0, 0, 0, 0, 0.25, 0.5, 0.25, 0.5],
    )


def returns() -> dict[str, np.ndarray]:
    return table(
        "returns",
        6,
        seed=[2, 2, 3, 3, 2, 3],
        victim=["deterministic"] * 4 + ["stochastic"] * 2,
        attack=["none"] * 4 + ["mad"] * 2,
        eps=[0.0] * 4 + [0.075] * 2,
        sparsity=[0.0, 0.125, 0.0, 0.125, 0.125, 0.125],
        **{"return": [10.0, 20.0, 30.0, 40.0, 1.0, 3.0]},
    )


# --- what is told ---------------------------------------------------------------------------------


def test_training_is_the_mean_over_agents():
    found = points("training", training())
    assert len(found) == 2 * 7
    np.testing.assert_allclose(found["training/kl/none"], [(512, 0.2), (1024, 0.3)])
    assert found["training/sparsity_now/lamp/cubic"] == [(512, 0.25), (1024, 0.5)]


def test_what_is_no_number_has_no_part_in_a_mean():
    found = points("training", training())
    assert found["training/episode_return/none"] == [(512, 1.0), (1024, 3.0)]
    assert found["training/episode_return/lamp/cubic"] == [(1024, 7.0)]
    assert found["training/value_loss/none"] == [(512, 1.0)]


def test_returns_are_against_sparsity_in_percent():
    assert points("returns", returns()) == {
        "returns/deterministic/none_eps_0/micro": [(0.0, 20.0), (12.5, 30.0)],
        "returns/stochastic/mad_eps_0.075/micro": [(12.5, 2.0)],
    }


def test_certificates_are_by_bound_quantity_and_radius():
    columns = table(
        "certificates",
        4,
        bound=["path", "path", "crown", "crown"],
        quantity=["D", "TV", "D", "D"],
        eps=[0.1, 0.1, 0.1, 0.2],
        sparsity=0.5,
        value=[1.0, 2.0, 3.0, np.inf],
    )
    assert points("certificates", columns) == {
        "certificates/path_D_eps_0.1/micro": [(50.0, 1.0)],
        "certificates/path_TV_eps_0.1/micro": [(50.0, 2.0)],
        "certificates/crown_D_eps_0.1/micro": [(50.0, 3.0)],
    }


def test_tags_are_what_the_tools_take_as_they_are():
    columns = training()
    columns["mode"] = np.array(["dense"] * 4 + ["endpoint", "trajectory"] * 2)
    tags = points("training", columns).keys()
    assert "training/kl/lamp/cubic_trajectory" in tags
    assert "training/kl/lamp/cubic_endpoint" in tags


@pytest.mark.parametrize("stage", sorted(SCHEMAS.keys() - sinks.AXES.keys()))
def test_other_stages_tell_nothing(stage: str):
    assert not points(stage, table(stage, 3))


def test_a_run_of_the_past_is_told_as_its_report_tells_it():
    """Means of the committed tables, by numpy."""
    columns = read_table(REFERENCE, "training")
    found = points("training", columns)
    last = columns["env_steps"] == columns["env_steps"].max()
    dense = columns["kl"][last & (columns["method"] == "none")].mean()
    assert found["training/kl/none"][-1][1] == pytest.approx(dense)
    columns = read_table(REFERENCE, "returns")
    clean = (columns["attack"] == "none") & (columns["method"] == "none")
    (point,) = points("returns", columns)["returns/deterministic/none_eps_0/none"]
    assert point == pytest.approx((0, columns["return"][clean].mean()))


def test_a_chunk_is_named_after_its_seeds():
    assert run_name(returns()) == "seeds-2-3"
    assert run_name(training()) == "seeds-0-1"


# --- the sinks ------------------------------------------------------------------------------------


def test_no_sink_writes_nothing(tmp_path: Path):
    sink = make_sink("none", tmp_path, {})
    assert isinstance(sink, NoSink)
    sink.record("training", training())
    sink.close()
    assert not list(tmp_path.iterdir())


def test_an_unknown_sink_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"unknown sink 'tensorbord': did you mean 'tensorboard'"):
        make_sink("tensorbord", tmp_path, {})


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_is_named_with_its_extra(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"{module}.*pip install 'jaxprune\[{name}\]'"):
        make_sink(name, tmp_path, {})


def read_events(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars of an event file: records of length, checksum, event, checksum."""
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    data, found = file.read_bytes(), {}
    while data:
        (length,) = struct.unpack_from("<Q", data)
        event = proto.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_holds_what_was_told(tmp_path: Path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is absent")
    sink = make_sink("tensorboard", tmp_path, {})
    assert isinstance(sink, TensorBoard)
    assert not list(tmp_path.iterdir())
    sink.record("training", training())
    (file,) = (tmp_path / "tensorboard" / "seeds-0-1").iterdir()
    found, expected = read_events(file), points("training", training())
    assert found.keys() == expected.keys()
    for tag, curve in expected.items():
        np.testing.assert_allclose(found[tag], curve, rtol=1e-6)  # float32 in the file


def test_tensorboard_has_a_run_per_chunk_and_a_file_per_stage(tmp_path: Path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is absent")
    sink = make_sink("tensorboard", tmp_path, {})
    sink.record("training", training())
    sink.record("returns", training() | returns())
    sink.record("training", training() | {"seed": np.full(8, 5)})
    sink.close()
    files = sorted((tmp_path / "tensorboard").rglob("events*"))
    assert [f.parent.name for f in files] == ["seeds-0-1", "seeds-2-3", "seeds-5-5"]
    (told,) = [f for f in files if f.suffix == ".returns"]
    assert read_events(told)["returns/stochastic/mad_eps_0.075/micro"] == [
        (12, 2.0)
    ]  # 12.5 %, rounded


class FakeRun:
    def __init__(self, told: list[Any], name: str):
        self.told, self.name = told, name

    def define_metric(self, name: str, step_metric: str) -> None:
        self.told.append(("axis", name, step_metric))

    def log(self, values: dict[str, float]) -> None:
        self.told.append(("log", self.name, values))

    def log_artifact(self, artifact: "FakeArtifact") -> None:
        self.told.append(("artifact", self.name, artifact.name, artifact.files))

    def finish(self) -> None:
        self.told.append(("finish", self.name))


class FakeArtifact:
    def __init__(self, name: str, type: str):
        self.name, self.type, self.files = name, type, []

    def add_file(self, file: str) -> None:
        self.files.append(Path(file).name)


class FakeWandb(types.ModuleType):
    class Error(Exception):
        pass

    Artifact = FakeArtifact

    @staticmethod
    def Image(file: str) -> str:  # noqa: N802
        return Path(file).name

    def __init__(self, logged_in: bool = True):
        super().__init__("wandb")
        self.told: list[Any] = []
        self.logged_in = logged_in

    def login(self) -> None:
        if not self.logged_in:
            raise self.Error("No API key configured.")

    def init(self, **settings: Any) -> FakeRun:
        self.told.append(("init", settings))
        return FakeRun(self.told, settings["name"])


def test_wandb_is_told_of_every_step_on_the_axis_of_its_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    folder = tmp_path / "hopper"
    sink = make_sink("wandb", folder, {"env": "hopper"})
    assert wandb.told == [] and not folder.exists()
    sink.record("returns", returns())
    sink.record("attacks", table("attacks", 2))
    sink.close()
    (_, settings), axis, *logs, end = wandb.told
    assert (settings["project"], settings["group"]) == ("jaxprune", "hopper")
    assert (settings["name"], settings["resume"]) == ("seeds-2-3", "allow")
    assert settings["config"] == {"env": "hopper"}
    assert Path(settings["dir"]) == folder and folder.is_dir()
    assert axis == ("axis", "returns/*", "sparsity_percent")
    assert logs == [
        (
            "log",
            "seeds-2-3",
            {"sparsity_percent": 0.0, "returns/deterministic/none_eps_0/micro": 20.0},
        ),
        (
            "log",
            "seeds-2-3",
            {
                "sparsity_percent": 12.5,
                "returns/deterministic/none_eps_0/micro": 30.0,
                "returns/stochastic/mad_eps_0.075/micro": 2.0,
            },
        ),
    ]
    assert end == ("finish", "seeds-2-3")


def test_wandb_has_a_run_per_chunk_whose_id_follows_from_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def ids(settings: dict[str, Any]) -> list[str]:
        wandb = FakeWandb()
        monkeypatch.setitem(sys.modules, "wandb", wandb)
        sink = make_sink("wandb", tmp_path, settings)
        sink.record("training", training())
        sink.record("training", training())
        sink.record("returns", returns())
        sink.close()
        sink.close()
        ends = [(kind, *rest) for kind, *rest in wandb.told if kind in ("init", "finish")]
        assert [kind for kind, *_ in ends] == ["init", "finish", "init", "finish"]
        return [settings["id"] for kind, settings in ends[::2]]

    first = ids({"seed": 0, "eps": 0.1})
    assert len(set(first)) == 2
    assert ids({"eps": 0.1, "seed": 0}) == first
    assert not set(ids({"seed": 1, "eps": 0.1})) & set(first)


def leave_report(folder: Path) -> None:
    """A small one, with a table and something that is no part of it."""
    (folder / "report.md").write_text("# A run\n", encoding="utf-8")
    for name in ("report.html", "returns.parquet", "experiment.json", ".lock"):
        (folder / name).write_text("x")
    imsave(folder / "returns.png", np.zeros((4, 6, 3), np.uint8))


def test_tensorboard_shows_the_report(tmp_path: Path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is absent")
    leave_report(tmp_path)
    make_sink("tensorboard", tmp_path, {}).report(tmp_path)
    (file,) = (tmp_path / "tensorboard" / "report").iterdir()
    assert {"returns", "report/text_summary"} <= read_events(file).keys()


def test_wandb_keeps_the_report_as_an_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    leave_report(tmp_path)
    make_sink("wandb", tmp_path, {}).report(tmp_path)
    (_, settings), pictures, (_, run, name, files), end = wandb.told
    assert settings["name"] == run == "report" and name.startswith("report-")
    assert pictures == ("log", "report", {"returns": "returns.png"})
    assert files == [
        "experiment.json",
        "report.html",
        "report.md",
        "returns.parquet",
        "returns.png",
    ]
    assert end == ("finish", "report")


def test_wandb_without_an_account_is_refused_before_anything_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(logged_in=False))
    with pytest.raises(InputError, match=r"No API key.*wandb login.*WANDB_MODE=offline"):
        make_sink("wandb", tmp_path, {})
