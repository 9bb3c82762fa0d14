"""A training with images by verl's stand-in, its merge, its evaluation with images, and the registered model."""

import base64
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from test_verl_images import of_transformers, settings, some_rows
from training_inputs import as_imported
from verl_runs import manifest_of, training
from vision import picture

from steps.artifacts import MANIFEST
from steps.evaluate.completing import complete
from steps.evaluate.step import evaluate
from steps.models.images import as_verl_opens
from steps.params.evaluation import EvaluationParams
from steps.params.registration import RegistrationParams
from steps.params.reward_training import Completions
from steps.params.settings import EvaluationSettings, RegistrationSettings, RewardSettings
from steps.prepare_data.step import prepare_data
from steps.register_model.package_step import package_model
from steps.register_model.step import register_model
from steps.tasks.rules.images import as_parts
from steps.verl.training import train_by_verl

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_root")]

PROCESSOR = "preprocessor_config.json"


@pytest.fixture(scope="module")
def place(tmp_path_factory, vision_model) -> Path:
    """A folder with the model, the data, and the results of two trainings with images: an adapter, and all weights."""
    place = tmp_path_factory.mktemp("images")
    model = as_imported(vision_model, place / "model")
    (place / "in").mkdir()
    prepare_data(settings(place / "in", some_rows()), model, place / "data", place / "data.html")
    for name, rank in (("lora", 4), ("whole", 0)):
        (place / name).mkdir()
        (place / name / "data").symlink_to(place / "data")
        changes = {"actor_model_lora_rank": rank, "images": True, "trainer_n_gpus_per_node": 2, "actor_optim_lr": 0.1}
        train_by_verl(training(place / name, model, **changes))
    return place


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_an_adapter_is_merged_as_peft_merges_it_and_the_processor_is_kept(place):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    made, before = tensors(place / "lora/merged"), tensors(place / "model")
    assert made.keys() == before.keys()
    changed = {name for name in made if not torch.equal(made[name], before[name])}
    assert changed == {name for name in made if name.endswith("proj.weight") and name.startswith("model.")}
    adapted = PeftModel.from_pretrained(
        AutoModelForImageTextToText.from_pretrained(place / "model"), place / "lora/tuned"
    )
    expected = adapted.merge_and_unload().state_dict()
    loaded = AutoModelForImageTextToText.from_pretrained(place / "lora/merged").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.items())
    settings = json.loads((place / "lora/tuned/adapter_config.json").read_text())
    assert not [name for name in settings["target_modules"] if "visual" in name]
    for folder in ("lora/tuned", "lora/merged", "whole/tuned"):
        assert (place / folder / PROCESSOR).read_bytes() == (place / "model" / PROCESSOR).read_bytes()
        assert PROCESSOR in manifest_of(place / folder)["files"]


def test_all_weights_get_the_names_of_the_bases_files(place):
    from transformers import AutoModelForImageTextToText

    made, before = tensors(place / "whole/tuned"), tensors(place / "model")
    assert made.keys() == before.keys()
    assert all((made[name] - before[name]).abs().min() > 0 for name in made)
    loaded = AutoModelForImageTextToText.from_pretrained(place / "whole/tuned").state_dict()
    assert torch.equal(loaded["model.visual.patch_embed.proj.weight"], made["visual.patch_embed.proj.weight"])


def evaluation(**changes) -> EvaluationSettings:
    return EvaluationSettings(
        task="verl", kind="image_text_lm", method="grpo", split="test", batch_size=3, precision="32",
        completions=Completions(max_completion_length=8),
        evaluation=EvaluationParams(gate_metric="reward", gate_must_beat_base=False),
        rewards=RewardSettings(reward_funcs="exact_answer"),
        **changes,
    )  # fmt: skip


def test_answers_see_the_images_and_are_those_of_transformers(place):
    """One prompt at a time, prepared by transformers' own processor, against batches of ours."""
    from transformers import AutoModelForImageTextToText

    rows = pq.read_table(place / "data/rows/test.parquet").to_pylist()
    tokens = pq.read_table(place / "data/tokens/test.parquet")["prompt_ids"]
    asked = [torch.tensor(ids.as_py()).numpy() for ids in tokens]
    images = [row["images"] for row in rows]
    made = complete(place / "model", asked, "", evaluation(), images)
    model = AutoModelForImageTextToText.from_pretrained(place / "model").eval()
    processor = of_transformers(place / "model")
    for row, ids, written in zip(rows, asked, made.tokens, strict=True):
        told = [{"role": one["role"], "content": one["content"]} for one in row["prompt"]]
        text = processor.apply_chat_template(as_parts(told), add_generation_prompt=True, tokenize=False)
        opened = [as_verl_opens(image) for image in row["images"] or ()]
        inputs = processor(text=[text], images=opened or None, return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == ids.tolist()
        if not opened:
            inputs.pop("mm_token_type_ids")
        with torch.inference_mode():
            output = model.generate(**inputs, do_sample=False, max_new_tokens=8)
        assert written == output[0, len(ids) :].tolist()
    other = [[picture("white", as_verl_opens(image).size) for image in one or ()] or None for one in images]
    assert complete(place / "model", asked, "", evaluation(), other).tokens != made.tokens


def test_the_evaluation_compares_both_models_and_the_registered_one_answers_prompts_with_images(
    place, mlflow_store, monkeypatch, tmp_path
):
    import mlflow
    import pandas as pd

    evaluate(evaluation(), place / "model", place / "lora/tuned", place / "lora/merged", place / "data",
             tmp_path / "evaluation")  # fmt: skip
    metrics = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    assert metrics["rows"] == 5
    assert metrics["base"].keys() == metrics["tuned"].keys()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    registration = RegistrationSettings(
        pipeline="verl_finetune", task="verl", kind="image_text_lm", method="grpo", max_new_tokens=8,
        registration=RegistrationParams(registered_model_name="pictures"),
    )  # fmt: skip
    package_model(registration, place / "lora/tuned", place / "lora/merged", tmp_path / "evaluation",
                  tmp_path / "package")  # fmt: skip
    assert (tmp_path / "package" / MANIFEST).is_file()
    assert (tmp_path / "package/artifacts/reference" / PROCESSOR).is_file()
    uri = register_model(registration, place / "lora/tuned", place / "lora/merged", tmp_path / "evaluation",
                         tmp_path / "registration")  # fmt: skip
    served = mlflow.pyfunc.load_model(uri)
    rows = pq.read_table(place / "data/rows/test.parquet").to_pylist()
    table = pd.DataFrame(
        {
            "prompt": [row["prompt"][0]["content"] for row in rows],
            "images": [[base64.b64encode(image).decode() for image in row["images"] or ()] for row in rows],
        }
    )
    told = pq.read_table(tmp_path / "evaluation/predictions.parquet")["tuned"].to_pylist()
    assert served.predict(table) == told
    assert served.predict({"prompt": table["prompt"][0], "images": table["images"][0]}) == told[:1]
    with pytest.raises(Exception, match="1 places <image> in a prompt with 0 images"):
        served.predict(table[["prompt"]].iloc[:1])
