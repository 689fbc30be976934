"""The manifests of benchmarks/batch: what they start is accepted, and a shard that asks to be
started again is.

Schemas are checked where their package is there: kubernetes-validate (of the `dev` extra),
kubeflow-trainer-api (which has the models of JobSet), skypilot, and xpk on the PATH.
"""

import itertools
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.engines.mesh import is_global
from benchmarks.engines.ray import check_engine
from benchmarks.experiment import parse
from benchmarks.runtime import command_line
from jaxprune.policy_io.addresses import is_address
from tests.stores import memory

ROOT = Path(__file__).parents[2]
BATCH = ROOT / "benchmarks" / "batch"
AGAIN, BAD_INPUT = 75, 2


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((BATCH / name).read_text()))


def jobs(name: str) -> dict[str, dict[str, Any]]:
    """The Jobs of a manifest by name, those inside a JobSet included."""
    found = {}
    for document in documents(name):
        if document["kind"] == "Job":
            found[document["metadata"]["name"]] = document
        for replicated in document["spec"].get("replicatedJobs", ()):
            head = {"apiVersion": "batch/v1", "kind": "Job"}
            meta = {"name": replicated["name"], **replicated["template"].get("metadata", {})}
            spec = replicated["template"]["spec"]
            found[replicated["name"]] = {**head, "metadata": meta, "spec": spec}
    return found


def container(job: dict[str, Any]) -> dict[str, Any]:
    (only,) = job["spec"]["template"]["spec"]["containers"]
    return only


def stubbed(script: str, stubs: dict[str, str], folder: Path, **env: str):
    """Run a script with these programs (name -> bash) before all others on the PATH."""
    for name, text in stubs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", str(BATCH / script)]
    return subprocess.run(
        command, env={"PATH": path, **env}, cwd=folder, capture_output=True, text=True, check=False
    )


def started(name: str, folder: Path) -> list[list[str]]:
    """The command lines that a manifest starts, from the name of the module on."""
    text = (BATCH / name).read_text()
    if name == "slurm.sbatch":
        lines = [stubbed(name, {"srun": "echo $@"}, folder).stdout]
        lines += re.findall(r"--wrap '(.*)'", text)
    elif name == "xpk.sh":
        lines = [stubbed(name, {"xpk": 'echo "${@: -1}"'}, folder, **XPK).stdout]
    elif name in SKYPILOT:
        (task,) = documents(name)
        lines = re.findall(r".*-m benchmarks.*", task["run"])
    elif name == "kubernetes-rayjob.yaml":
        lines = [document["spec"]["entrypoint"] for document in documents(name)]
    else:
        each = [container(job) for job in jobs(name).values()]
        lines = [shlex.join([*x["command"], *x["args"]]) for x in each]
    lines += re.findall(r"^# +(python -m .*?)(?:  |$)", text, re.MULTILINE)
    found = [shlex.split(line) for line in lines]
    return [words[words.index("-m") + 1 :] for words in found]


XPK = {"CLUSTER": "c", "IMAGE": "registry/image:tag", "BUCKET": "bucket"}
SKYPILOT = ["skypilot.yaml", "skypilot-ray.yaml"]
RAY = ["kubernetes-rayjob.yaml", "skypilot-ray.yaml"]
MANIFESTS = [
    "slurm.sbatch",
    "kubernetes-indexed-job.yaml",
    "kubernetes-rayjob.yaml",
    "jobset-tpu.yaml",
    "skypilot.yaml",
    "skypilot-ray.yaml",
    "xpk.sh",
]


def test_every_manifest_is_tested():
    assert {p.name for p in BATCH.iterdir()} == {*MANIFESTS, "README.md", "Dockerfile"}


@pytest.mark.parametrize("name", MANIFESTS)
def test_what_is_started_is_accepted_and_merged(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One experiment, the same for all of them, and then the merge of the folder it went to."""
    monkeypatch.setattr(command_line, "_check_word", lambda *_: None)  # nobody answers there
    commands = started(name, tmp_path)
    merges = [] if name in (*RAY, "jobset-tpu.yaml") else ["benchmarks.merge"]
    assert [words[0] for words in commands] == ["benchmarks.run", *merges]
    (_, *run), *others = commands
    with memory():  # what opens gs:// need not be installed
        experiment, options = parse(run)
    paper, _ = parse(["--preset", "paper", "--env", "hopper"])
    assert experiment.settings() == replace(paper, chunk_seeds=experiment.chunk_seeds).settings()
    assert options.out is not None
    for _, folder in others:
        assert Path(folder).name == options.out.name
    assert is_address(options.out) or name == "slurm.sbatch"
    assert options.require in ("gpu", "tpu")
    assert sum(x in run for x in ("--shard", "--mesh", "--engine")) == 1
    check_engine(options)
    assert is_global([(experiment, options)]) == (name == "jobset-tpu.yaml")


@pytest.mark.parametrize(
    ("name", "job", "platform"),
    [("kubernetes-indexed-job.yaml", "jaxprune", "tpu"), ("jobset-tpu.yaml", "run", "tpu")],
)
def test_a_pod_without_its_accelerator_fails_at_once(name: str, job: str, platform: str):
    """JAX refuses to start where the only platform that is named is absent."""
    env = {entry["name"]: entry["value"] for entry in container(jobs(name)[job])["env"]}
    assert env["JAX_PLATFORMS"] == platform


def test_a_slurm_task_without_its_accelerator_fails_at_once(tmp_path: Path):
    assert stubbed("slurm.sbatch", {"srun": "echo $JAX_PLATFORMS"}, tmp_path).stdout == "cuda\n"


def test_other_jobs_without_their_accelerator_fail_at_once(tmp_path: Path):
    for name in SKYPILOT:
        (task,) = documents(name)
        assert task["envs"]["JAX_PLATFORMS"] == "cuda"
    result = stubbed("xpk.sh", {"xpk": 'printf "%s\\n" "$@"'}, tmp_path, **XPK)
    words = result.stdout.splitlines()
    assert ("--env", "JAX_PLATFORMS=tpu") in itertools.pairwise(words)


def test_some_tasks_of_an_array_may_be_submitted_again():
    """The command names the number of shards that the array of the first submission has."""
    text = (BATCH / "slurm.sbatch").read_text()
    last = int(re.search(r"--array=0-(\d+)$", text, re.MULTILINE)[1])
    assert f"--shard auto/{last + 1}\n" in text


@pytest.mark.parametrize("name", ["slurm.sbatch", "xpk.sh"])
def test_scripts_are_bash(name: str):
    subprocess.run(["bash", "-n", str(BATCH / name)], check=True)


# --- the image ------------------------------------------------------------------------------------


def test_the_image_installs_dependencies_before_sources_and_runs_as_a_user():
    """There is no daemon to build it with here."""
    lines = (BATCH / "Dockerfile").read_text().splitlines()
    install = next(i for i, line in enumerate(lines) if "pip install" in line)
    assert install < lines.index("COPY benchmarks benchmarks")
    assert 'ENTRYPOINT ["python", "-m"]' in lines
    copied = [x for line in lines if line.startswith("COPY") for x in line.split()[1:-1]]
    kept = {x[1:] for x in (ROOT / ".dockerignore").read_text().splitlines() if x[:1] == "!"}
    assert kept == set(copied)
    assert all((ROOT / name).exists() for name in copied)
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000"]


# --- Slurm ----------------------------------------------------------------------------------------


def test_the_directives_of_slurm():
    """Slurm reads them until the first command, and takes what comes later for comments."""
    lines = (BATCH / "slurm.sbatch").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [line.split(maxsplit=1)[1] for line in lines if line.startswith("#SBATCH")]
    assert directives == [x.split(maxsplit=1)[1] for x in lines[:first] if x.startswith("#SBATCH")]
    options = dict(re.fullmatch(r"--([a-z-]+)(?:=(\S+))?", x).groups() for x in directives)
    assert options["array"] == f"0-{parse(['--preset', 'paper'])[0].seeds - 1}"
    assert "requeue" in options
    signal, seconds = options["signal"].split("@")
    assert signal == "TERM"  # to the program, not to the script alone (B:TERM)
    assert int(seconds) >= 10  # what the program needs to end


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [(0, 0, False), (1, 0, False), (BAD_INPUT, 0, False), (AGAIN, 0, True), (AGAIN, 50, False)],
)
def test_slurm_requeues_what_asks_for_it(
    status: int, restarts: int, requeued: bool, tmp_path: Path
):
    stubs = {"srun": f"exit {status}", "scontrol": "echo scontrol $@"}
    told = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
    result = stubbed("slurm.sbatch", stubs, tmp_path, **told)
    assert result.returncode == status
    assert result.stdout == ("scontrol requeue 7\n" if requeued else "")


def test_slurm_survives_the_signal_that_its_program_answers(tmp_path: Path):
    """The script is signalled as well where jobs are preempted; it still sees the 75."""
    stubs = {"srun": f"kill -TERM $PPID; exit {AGAIN}", "scontrol": "echo scontrol $@"}
    result = stubbed("slurm.sbatch", stubs, tmp_path, SLURM_JOB_ID="7")
    assert (result.returncode, result.stdout) == (AGAIN, "scontrol requeue 7\n")


# --- Kubernetes -----------------------------------------------------------------------------------


def verdict(job: dict[str, Any], exit_code: int | None) -> str:
    """What the first rule says that matches; None for a pod that was disrupted."""
    for rule in job["spec"]["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if exit_code is None and {"type": "DisruptionTarget", "status": "True"} in rule.get(
            "onPodConditions", ()
        ):
            return rule["action"]
        if exit_code is not None and codes is not None:
            assert codes["operator"] == "In"
            assert codes["containerName"] == container(job)["name"]
            if exit_code in codes["values"]:
                return rule["action"]
    return "Count"


def test_an_indexed_job_knows_its_shards():
    job = jobs("kubernetes-indexed-job.yaml")["jaxprune"]
    spec, env = job["spec"], {x["name"]: x["value"] for x in container(job)["env"]}
    assert spec["completionMode"] == "Indexed"
    assert env["JAXPRUNE_SHARDS"] == str(spec["completions"])
    assert spec["completions"] == parse(["--preset", "paper"])[0].seeds


def test_an_indexed_job_starts_again_what_asks_for_it():
    job = jobs("kubernetes-indexed-job.yaml")["jaxprune"]
    codes = {AGAIN: "Ignore", None: "Ignore", BAD_INPUT: "FailJob", 1: "Count", 137: "Count"}
    assert {code: verdict(job, code) for code in codes} == codes
    assert job["spec"]["podReplacementPolicy"] == "Failed"


def test_a_jobset_starts_again_what_asks_for_it():
    """A job ended by its podFailurePolicy is started again, and that does not count."""
    (jobset,) = documents("jobset-tpu.yaml")
    run = jobs("jobset-tpu.yaml")["run"]
    assert run["spec"]["backoffLimit"] == 0
    codes = {AGAIN: "FailJob", None: "FailJob", BAD_INPUT: "Count", 1: "Count"}
    assert {code: verdict(run, code) for code in codes} == codes
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert rule["targetReplicatedJobs"] == ["run"]


def test_the_structure_of_a_jobset():
    (jobset,) = documents("jobset-tpu.yaml")
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["metadata"].keys() == {"name", "labels"}
    assert "kueue.x-k8s.io/queue-name" in jobset["metadata"]["labels"]
    assert jobset["spec"].keys() == {"failurePolicy", "replicatedJobs"}
    assert jobset["spec"]["failurePolicy"].keys() == {"maxRestarts", "rules"}
    (job,) = jobset["spec"]["replicatedJobs"]
    assert job.keys() == {"name", "replicas", "template"} and job["name"] == "run"


def lost(given: Any, kept: Any, where: str = "") -> list[str]:
    """What is given and not kept, e.g. because nobody knows a field of that name."""
    if isinstance(given, dict):
        kept = kept if isinstance(kept, dict) else {}
        return [x for k in given for x in lost(given[k], kept.get(k), f"{where}/{k}")]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        pairs = enumerate(zip(given, kept, strict=True))
        return [x for i, (a, b) in pairs for x in lost(a, b, f"{where}/{i}")]
    return [] if given == kept else [where]


def test_the_models_of_jobset():
    """Typed, generated from the operator's schema; they drop what they do not know."""
    models = pytest.importorskip(
        "kubeflow_trainer_api.models", reason="kubeflow-trainer-api is absent"
    )
    (jobset,) = documents("jobset-tpu.yaml")
    assert not lost(jobset, models.JobsetV1alpha2JobSet.from_dict(jobset).to_dict())
    jobset["spec"]["failurePolicy"]["rules"][0]["onReasons"] = ["x"]
    kept = models.JobsetV1alpha2JobSet.from_dict(jobset).to_dict()
    assert lost(jobset, kept) == ["/spec/failurePolicy/rules/0/onReasons"]


def test_a_slice_has_a_pod_on_every_host():
    job = jobs("jobset-tpu.yaml")["run"]
    pod = job["spec"]["template"]["spec"]
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = int(container(job)["resources"]["limits"]["google.com/tpu"])
    assert job["spec"]["completions"] == int(rows) * int(columns) / chips
    assert job["spec"]["parallelism"] == job["spec"]["completions"]


@pytest.mark.parametrize("name", ["kubernetes-indexed-job.yaml", "jobset-tpu.yaml"])
def test_pods_keep_their_results_and_may_end(name: str):
    for job in jobs(name).values():
        pod = job["spec"]["template"]["spec"]
        assert "gs://BUCKET/paper" in container(job)["args"]
        assert pod["serviceAccountName"] == "jaxprune"  # which may write there
        assert pod["restartPolicy"] == "Never"  # as podFailurePolicy wants it
        assert pod.get("terminationGracePeriodSeconds", 30) >= 10


@pytest.mark.parametrize("name", ["kubernetes-indexed-job.yaml", "jobset-tpu.yaml"])
def test_the_schema_of_kubernetes(name: str):
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is absent")
    for job in jobs(name).values():
        validator.validate(job, validator.latest_version(), strict=True)


STRING, WHOLE, NUMBER, FLAG = ({"type": x} for x in ("string", "integer", "number", "boolean"))
STRINGS = {"type": "object", "additionalProperties": STRING}
POD: dict[str, Any] = {}  # checked by the schema of Kubernetes


def fields(required: str = "", **types: Any) -> dict[str, Any]:
    """The schema of an object without other fields."""
    head = {"type": "object", "additionalProperties": False}
    return head | {"required": required.split(), "properties": types}


# The fields of `ray.io/v1` in KubeRay 1.4; no package brings its schema.
HEAD = fields(
    "rayStartParams template",
    rayStartParams=STRINGS,
    template=POD,
    headService={},
    enableIngress=FLAG,
    serviceType=STRING,
)
WORKERS = fields(
    "groupName minReplicas maxReplicas rayStartParams template",
    groupName=STRING,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    numOfHosts=WHOLE,
    idleTimeoutSeconds=WHOLE,
    suspend=FLAG,
    scaleStrategy={},
    rayStartParams=STRINGS,
    template=POD,
)
RAY_CLUSTER = fields(
    "headGroupSpec",
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
    rayVersion=STRING,
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions={},
    headServiceAnnotations=STRINGS,
    gcsFaultToleranceOptions={},
    managedBy=STRING,
    suspend=FLAG,
)
RAY_JOB = fields(
    activeDeadlineSeconds=WHOLE,
    backoffLimit=WHOLE,
    rayClusterSpec=RAY_CLUSTER,
    submitterPodTemplate=POD,
    metadata=STRINGS,
    clusterSelector=STRINGS,
    submitterConfig=fields(backoffLimit=WHOLE),
    managedBy=STRING,
    deletionStrategy={},
    entrypoint=STRING,
    runtimeEnvYAML=STRING,
    jobId=STRING,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    entrypointResources=STRING,
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    ttlSecondsAfterFinished=WHOLE,
    shutdownAfterJobFinishes=FLAG,
    suspend=FLAG,
)


def test_the_fields_of_a_ray_job():
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is absent")
    (job,) = documents("kubernetes-rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    jsonschema.validate(job["spec"], RAY_JOB)
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_kuberay_can_ask_and_submit():
    """Its probes call wget in the image, and `ray job submit` is no part of ray alone."""
    image = (BATCH / "Dockerfile").read_text()
    assert "install --yes --no-install-recommends wget" in image and '"ray[default]"' in image


def test_the_pods_of_a_ray_cluster():
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is absent")
    (job,) = documents("kubernetes-rayjob.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    for one in (cluster["headGroupSpec"], group):
        head = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}}
        pod = head | {"spec": one["template"]["spec"]}
        validator.validate(pod, validator.latest_version(), strict=True)
    (worker,) = group["template"]["spec"]["containers"]
    assert {x["name"]: x["value"] for x in worker["env"]}["JAX_PLATFORMS"] == "cuda"
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()


# --- SkyPilot and xpk -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SKYPILOT)
def test_skypilot_starts_again_what_asks_for_it(name: str):
    (task,) = documents(name)
    assert task["resources"]["use_spot"]
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [AGAIN]
    subprocess.run(["bash", "-n"], input=task["run"], text=True, check=True)


def test_skypilot_starts_a_job_per_seed():
    (task,) = documents("skypilot.yaml")
    assert task["run"].startswith("exec ")  # the signal reaches the program
    text = (BATCH / "skypilot.yaml").read_text()
    assert f"--num-jobs {parse(['--preset', 'paper'])[0].seeds} " in text


@pytest.mark.parametrize("name", SKYPILOT)
def test_the_schema_of_skypilot(name: str):
    schemas = pytest.importorskip("sky.utils.schemas", reason="skypilot is absent")
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is absent")
    (task,) = documents(name)
    jsonschema.validate(task, schemas.get_task_schema())
    jsonschema.validate(task["resources"], schemas.get_resources_schema())


def test_xpk_starts_again_what_asks_for_it(tmp_path: Path):
    result = stubbed("xpk.sh", {"xpk": 'printf "%s\\n" "$@"'}, tmp_path, **XPK)
    words = result.stdout.splitlines()
    assert words[:2] == ["workload", "create"]
    options = dict(itertools.pairwise(words))
    assert options["--restart-on-exit-codes"] == str(AGAIN)
    assert int(options["--max-restarts"]) > 0
    assert int(options["--termination-grace-period-seconds"]) >= 10
    assert options["--command"].startswith("exec ")  # the signal reaches the program


def test_xpk_wants_to_be_told_where(tmp_path: Path):
    result = stubbed("xpk.sh", {"xpk": "true"}, tmp_path)
    assert result.returncode != 0
    assert "CLUSTER" in result.stderr


def test_the_dry_run_of_xpk():
    if shutil.which("xpk") is None:
        pytest.skip("xpk is not on the PATH")
    words = "--dry-run --skip-validation --project p --zone us-west4-a"
    command = ["bash", str(BATCH / "xpk.sh"), *words.split()]
    result = subprocess.run(
        command, env={**os.environ, **XPK}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
