"""The plan and images: which models take them, and what is refused before anything is fetched."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl
from vision import image_row, picture

from steps.errors import UserError
from steps.plan.deciding import Decisions, decide
from steps.plan.row_counts import has_values
from steps.plan.settings import settings_of

pytestmark = pytest.mark.usefixtures("local_base")
URI = "data:image/png;base64,AAAA"


def rows_in(folder: Path, images=(URI,), name: str = "images", count: int = 30) -> Path:
    rows = [image_row(number, None) | {name: list(images)} for number in range(count)]
    return write_jsonl(folder / "rows.jsonl", [{k: v for k, v in row.items() if v is not None} for row in rows])


def decided(model: Path, rows: Path, **changes) -> Decisions:
    given = {
        "pytorch_model_path": str(model), "data_train_files": str(rows), "data_train_batch_size": 4,
        "actor_ppo_mini_batch_size": 4, "actor_ppo_micro_batch_size_per_gpu": 1,
        "rollout_log_prob_micro_batch_size_per_gpu": 1, "number_of_gpu_to_use_finetuning": 1,
        "rollout_tensor_model_parallel_size": 1, "data_max_prompt_length": 128, "data_max_response_length": 16,
        "mlflow_server_uri": "http://mlflow",
    }  # fmt: skip
    return decide("verl_finetune", {**given, **changes})


def refused(model: Path, rows: Path, **changes) -> list[tuple[str, str]]:
    """What the plan refuses, but for packages that this machine lacks."""
    with pytest.raises(UserError) as error:
        decided(model, rows, **changes)
    assert error.value.exit_code == 2
    images = ("PLAN-E0546", "PLAN-E0547", "PLAN-E0548", "PLAN-E0549")
    return [(one.code, one.where.rpartition("/")[2]) for one in error.value.problems if one.code in images]


@pytest.fixture
def on_cluster(local_base, monkeypatch) -> None:
    monkeypatch.delenv("FINETUNE_ROOT")


@pytest.mark.usefixtures("on_cluster")
def test_a_model_that_reads_images_is_planned_and_settings_say_so(vision_model, tmp_path):
    made = decided(vision_model, rows_in(tmp_path, name="pics"), data_image_key="pics")
    assert made.recipe.kind.name == "image_text_lm"
    settings = settings_of(made)
    assert settings["data"].columns["data_image_key"] == "pics"
    assert {settings[name].kind for name in ("data", "training", "evaluation", "registration")} == {"image_text_lm"}
    assert settings["training"].verl.images
    assert settings["training"].verl.data_image_key == "pics"
    assert [one for one in made.warnings if "images count in data_max_prompt_length=128" in one]


@pytest.mark.usefixtures("on_cluster")
def test_a_model_of_text_trains_on_text_alone(local_base, tmp_path):
    made = decided(local_base, rows_in(tmp_path, images=()))
    assert settings_of(made)["data"].columns["data_image_key"] == ""
    assert not settings_of(made)["training"].verl.images
    assert refused(local_base, rows_in(tmp_path)) == [("PLAN-E0546", "rows.jsonl")]
    named = refused(local_base, rows_in(tmp_path, name="pics"), data_image_key="pics")
    assert named == [("PLAN-E0546", "data_image_key"), ("PLAN-E0546", "rows.jsonl")]
    assert refused(local_base, rows_in(tmp_path), ENGINE="trl") == [("PLAN-E0546", "rows.jsonl")]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"ENGINE": "trl", "number_of_gpu_to_use_finetuning": 0}, ("PLAN-E0547", "pytorch_model_path")),
        ({"data_filter_overlong_prompts": False}, ("PLAN-E0548", "data_filter_overlong_prompts")),
        ({"algorithm_adv_estimator": "gae", "critic_max_token_len_per_gpu": 4096},
         ("PLAN-E0548", "algorithm_adv_estimator")),
        ({"evaluation_engine": "vllm"}, ("PLAN-E0548", "evaluation_engine")),
    ],
)  # fmt: skip
def test_what_hands_on_no_images_is_refused(vision_model, tmp_path, given, found):
    assert refused(vision_model, rows_in(tmp_path), **given) == [found]


def test_a_model_without_its_processor_is_refused(vision_model, tmp_path):
    model = shutil.copytree(vision_model, tmp_path / "model")
    (model / "preprocessor_config.json").unlink()
    assert refused(model, rows_in(tmp_path)) == [("PLAN-E0549", "pytorch_model_path")]


def test_rows_tell_whether_they_have_images(tmp_path):
    structs = pa.table({"images": [[{"bytes": picture(), "path": "a.png"}]], "none": [[]]})
    pq.write_table(structs, tmp_path / "a.parquet")
    (tmp_path / "b.json").write_text('[{"images": ["a.png"], "none": null}]')
    for name in ("a.parquet", "b.json"):
        assert has_values(str(tmp_path / name), "images")
        assert not has_values(str(tmp_path / name), "none")
        assert not has_values(str(tmp_path / name), "absent")
    assert not has_values(str(tmp_path / "c.csv"), "images")
