"""The pipeline batch_inference: its graph, and runs on this machine."""

import json
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from command_line import FINETUNE
from conftest import write_jsonl
from example_files import ROOT, make, sources
from small_adapters import save_adapter

from steps.params.planned import BatchInferencePlan

ASKED = [{"messages": [{"role": "user", "content": f"question {number}"}], "number": number} for number in range(5)]
LITTLE = {"max_new_tokens": 6, "max_length": 64, "number_of_gpu_to_use_inference": 0}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> tuple[dict, dict]:
    from pipelines.compile import compile_pipelines

    file, *_ = compile_pipelines(["batch_inference"], tmp_path_factory.mktemp("compiled"))
    return tuple(yaml.load_all(file.read_text(), yaml.CSafeLoader))


def test_every_output_of_the_plan_is_used(compiled):
    spec, platform = compiled
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) == {
        "plan", "import-model", "import-adapter", "prepare-data", "generate", "condition-1",
    }  # fmt: skip
    scoring = spec["components"]["comp-condition-1"]["dag"]["tasks"]
    text = str([task for name, task in tasks.items() if name != "plan"]) + str(scoring) + str(platform)
    for output in BatchInferencePlan._fields:
        assert f"'{output}'" in text or f"plan-{output}" in text, output
    uncached = {
        name for name, task in {**tasks, **scoring}.items() if not task.get("cachingOptions", {}).get("enableCache")
    }
    assert uncached == {"plan", "condition-1", "score"}


def test_the_answers_need_the_large_image_and_a_gpu_and_the_scores_do_not(compiled):
    spec, platform = compiled
    executors = spec["deploymentSpec"]["executors"]
    image = {name: one["container"]["image"].partition(":")[0] for name, one in executors.items()}
    assert image["exec-generate"] == "finetune-pipelines-train"
    assert image["exec-score"] == image["exec-prepare-data"] == "finetune-pipelines-core"
    assert "accelerator" in executors["exec-generate"]["container"]["resources"]
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert [mount["mountPath"] for mount in pods["exec-generate"]["emptyDirMounts"]] == ["/dev/shm"]
    keys = [pair["envVar"] for secret in pods["exec-generate"]["secretAsEnv"] for pair in secret["keyToEnv"]]
    assert keys == ["OPENAI_API_KEY"]
    assert all(secret["optional"] for secret in pods["exec-generate"]["secretAsEnv"])


def test_a_cluster_gives_the_answers_their_volume_and_the_stores_credentials(tmp_path):
    from pipelines.compile import compile_pipelines
    from pipelines.profile import Profile

    profile = Profile.model_validate({
        "object_store": {"s3": {"secret": "minio"}},
        "volumes": [{"claim": "kept", "mount_path": "/kept", "holds": ["checkpoints"]}],
    })  # fmt: skip
    file, *_ = compile_pipelines(["batch_inference"], tmp_path, profile=profile)
    spec, platform = yaml.load_all(file.read_text(), yaml.CSafeLoader)
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert {secret["secretName"] for secret in pods["exec-generate"]["secretAsEnv"] if "secretName" in secret} >= {
        "minio"
    }
    assert [volume["mountPath"] for volume in pods["exec-generate"]["pvcMount"]] == ["/kept"]
    assert "pvcMount" not in pods["exec-score"]
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    assert inputs["checkpoint_dir"]["defaultValue"] == "/kept/checkpoints"


def finetune(root: Path, *words: object, **given: object) -> tuple[subprocess.CompletedProcess, dict]:
    pairs = [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
    command = [*FINETUNE, "run", "batch_inference", "--root", str(root), "--json", *map(str, words), *pairs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    return done, json.loads(done.stdout) if done.stdout.startswith("{") else {}


def answers(result: dict) -> list[dict]:
    folder = Path(result["artifacts"]["generations"])
    return [row for file in sorted(folder.glob("generations_*.parquet")) for row in pq.read_table(file).to_pylist()]


@pytest.fixture(scope="module")
def counting(tmp_path_factory) -> Path:
    checkout = tmp_path_factory.mktemp("counting")
    sources(checkout)
    make(checkout, ROOT / "examples/counting/make.py")
    return checkout


@pytest.mark.slow
def test_every_answer_of_a_model_that_counts_is_right(counting, tmp_path, monkeypatch, warm):
    monkeypatch.chdir(counting)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done, result = finetune(tmp_path / "runs", "-f", "examples/counting/config.yaml", s3_upload_dir=tmp_path / "copy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert result["metrics"]["answers"]["exact_match"] == 1.0
    rows = [json.loads(line) for line in Path("examples/counting/data/prompts.jsonl").read_text().splitlines()]
    made = answers(result)
    assert [row["generations"].strip() for row in made] == [row["answer"] for row in rows]
    assert [(row["id"], row["length"], row["finish_reason"]) for row in made] == [
        (row["id"], row["length"], "stop") for row in rows
    ]
    told = yaml.load((tmp_path / "copy/answers.yaml").read_text(), yaml.CSafeLoader)
    assert [one["correct_answers"] for one in told] == [[row["answer"]] for row in rows]
    page = Path(result["artifacts"]["report"]).read_text()
    assert "exact match" in page
    # The same as a configuration of another tool, with another batch size: the same answers.
    done, again = finetune(tmp_path / "runs", "-f", "examples/counting/generate.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["generations"] for row in answers(again)] == [row["generations"] for row in made]
    assert {"import-model", "import-adapter", "prepare-data"} <= set(again["reused"])


@pytest.mark.slow
def test_an_adapter_beside_its_base_answers_as_the_merged_one_and_without_right_answers_nothing_is_scored(
    tiny_model, tmp_path, warm
):
    adapter = save_adapter(tiny_model, tmp_path / "adapter", target_modules=["q_proj", "v_proj"])
    given = {"pytorch_model_path": tiny_model, "test_file_path": write_jsonl(tmp_path / "rows.jsonl", ASKED), **LITTLE,
             "logprobs": "true"}  # fmt: skip
    done, base = finetune(tmp_path / "runs", **given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "answers" not in base["metrics"]
    assert "score" not in {step["step"] for step in base["steps"]}
    done, merged = finetune(tmp_path / "runs", **given, adapter_path=adapter)
    assert done.returncode == 0, done.stdout + done.stderr
    done, beside = finetune(tmp_path / "runs", **given, adapter_path=adapter, adapter_separate="true")
    assert done.returncode == 0, done.stdout + done.stderr
    texts = [[row["generations"] for row in answers(result)] for result in (merged, beside)]
    assert texts[0] == texts[1]
    alone, one, other = ([row["logprobs"] for row in answers(result)] for result in (base, merged, beside))
    assert [pytest.approx(row, abs=1e-3) for row in one] == other
    assert alone != [pytest.approx(row, abs=1e-3) for row in one]


@pytest.mark.slow
def test_what_cannot_run_ends_with_code_2_before_anything_is_loaded(tiny_model, tmp_path):
    rows = write_jsonl(tmp_path / "rows.jsonl", ASKED)
    given = {"pytorch_model_path": tiny_model, "test_file_path": rows, **LITTLE, "num_beams": 4}
    done, result = finetune(tmp_path / "runs", **given, inference_type="vllm")
    assert done.returncode == 2
    assert "num_beams" in done.stderr
    assert result["error"]["step"] == "plan"
