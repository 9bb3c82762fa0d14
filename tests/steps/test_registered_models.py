"""A registered model loads where nothing of this project is installed, and answers as transformers does."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from forking import ForkingPython
from registering import METRICS, as_artifact, client, holder, settings, write_evaluation

from steps.register_model.step import register_model

pytestmark = pytest.mark.slow

FRESH = """
import json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
asked = zip(sys.argv[3::2], sys.argv[4::2])
answers = [model.predict(json.loads(text), params=json.loads(params) or None) for text, params in asked]
answers = [answer.to_dict("records") if hasattr(answer, "to_dict") else answer for answer in answers]
ours = [name for name in sys.modules if name.split(".")[0] in ("steps", "pipelines")]
print(json.dumps({"answers": answers, "ours": ours}))
"""


@pytest.fixture(scope="module")
def python() -> Iterator[ForkingPython]:
    """A Python with the libraries, and without this project on its path."""
    libraries = ["mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store", "torch",
                 "transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto"]  # fmt: skip
    made = ForkingPython(libraries, {key: value for key, value in os.environ.items() if key != "PYTHONPATH"})
    yield made
    made.close()


@pytest.fixture
def ask(python, world):
    """Load a registered model in another process, in another folder, without this project; gives its answers."""

    def answers(folder: Path, model: str, *asked: tuple[object, dict]) -> list[list[str]]:
        words = [json.dumps(part) for pair in asked for part in pair]
        store = os.environ["MLFLOW_TRACKING_URI"]
        told = json.loads(python.run(FRESH, store, model, *words, cwd=folder).splitlines()[-1])
        assert told["ours"] == []
        return told["answers"]

    return answers


def plain_answers(folder: Path, prompts: list[str], most: int) -> list[str]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    texts = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        output = model.generate(**inputs, do_sample=False, max_new_tokens=most)
        texts.append(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts


def test_a_fresh_process_loads_the_chat_model_and_answers_as_transformers_does(world, tmp_path, ask):
    uri = register_model(settings(), **world)
    questions = ["What is the capital of France?", "Count to ten", "dog"]
    conversations = [[{"role": "user", "content": text}] for text in questions]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    one, many, prompts, short = ask(
        elsewhere, uri,
        ({"messages": conversations[0]}, {}),
        ([{"messages": messages} for messages in conversations], {}),
        ([{"prompt": text} for text in questions], {}),
        ({"messages": conversations[0]}, {"max_new_tokens": 3}),
    )  # fmt: skip
    rendered = [f"<|im_start|>user\n{text}<|im_end|><|im_start|>assistant\n" for text in questions]
    expected = plain_answers(world["tuned"], rendered, 8)
    assert many == prompts == expected
    assert one == expected[:1]
    assert short == plain_answers(world["tuned"], rendered[:1], 3)
    assert len(set(expected)) == 3


def test_a_fresh_process_loads_the_text_model_from_the_runs_folder_and_answers_as_transformers_does(
    world, tmp_path, ask
):
    register_model(settings(task="text_generation"), **world)
    folder = str(world["registration"] / "mlflow_model")
    one, two = ask(tmp_path, folder, ("The quick", {}), (["The quick", "Count to"], {}))
    assert two == plain_answers(world["tuned"], ["The quick", "Count to"], 8)
    assert one == two[:1]


def test_a_fresh_process_puts_a_text_to_the_model_in_the_form_it_was_trained_in(world, tmp_path, ask):
    given = settings(task="translation", prompt_form=("translate English to qaa: ", " ="))
    uri = register_model(given, **world)
    (answers,) = ask(tmp_path, uri, (["The quick", "Count to"], {}))
    prompts = [f"translate English to qaa: {text} =" for text in ("The quick", "Count to")]
    assert answers == plain_answers(world["tuned"], prompts, 8)
    assert answers != plain_answers(world["tuned"], ["The quick", "Count to"], 8)


def test_a_fresh_process_puts_the_instruction_of_a_rewarded_training_before_a_conversation(world, tmp_path, ask):
    reward = {"name": "s3://b/mine.py:short", "short": "short", "weight": 0.5, "base": None, "tuned": 0.25}
    scores = {"base": {"reward": 0.1}, "tuned": {"reward": 0.9, "rewards/short": 0.25}}
    gate = {**METRICS["gate"], "metric": "reward", "reason": "Passed: reward 0.9 beats 0.1."}
    world["evaluation"] = write_evaluation(
        tmp_path / "rewarded", world["tuned"], **scores, gate=gate, rewards={"rewards": [reward]}
    )
    uri = register_model(settings(task="grpo", method="grpo", system_prompt="Count to ten"), **world)
    user, own = {"role": "user", "content": "dog"}, {"role": "system", "content": "The quick"}
    asked, others = ask(tmp_path, uri, ([{"prompt": "dog"}], {}), ([{"messages": [own, user]}], {}))
    prompts = [
        f"<|im_start|>system\n{text}<|im_end|><|im_start|>user\ndog<|im_end|><|im_start|>assistant\n"
        for text in ("Count to ten", "The quick")
    ]
    assert [*asked, *others] == plain_answers(world["tuned"], prompts, 8)
    run = client().get_run(client().get_model_version("normaliser", "1").run_id)
    assert run.data.metrics["tuned/rewards/short"] == 0.25
    card = (world["registration"] / "model_card.md").read_text()
    assert "| s3://b/mine.py:short | 0.5 | – | 0.25 |" in card
    assert "| rewards/short | – | 0.25 | more |" in card
    other = register_model(settings(task="grpo", method="grpo"), **{**world, "registration": tmp_path / "other"})
    assert holder() == "2"
    assert other == uri


@pytest.mark.parametrize("several", [False, True], ids=["one label", "several"])
def test_a_fresh_process_loads_the_classifier_and_labels_as_transformers_does(world, models, tmp_path, ask, several):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(
        models["base"], id2label={0: "bad", 1: "good", 2: "odd"},
        problem_type="multi_label_classification" if several else "single_label_classification",
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(models["base"])
    model.save_pretrained(tmp_path / "labels")
    tokenizer.save_pretrained(tmp_path / "labels")
    tuned = as_artifact(tmp_path / "labels", tmp_path / "classifier")
    evaluation = write_evaluation(
        tmp_path / "measured", tuned, labels={"base": "Base is the most frequent class."},
        tuned={**METRICS["tuned"], "precision_binary": 0.75},
    )  # fmt: skip
    given = settings(task="text_classification", kind="sequence_classification", max_length=12, pairs=not several)
    uri = register_model(given, **{**world, "tuned": tuned, "evaluation": evaluation})
    texts = [("The quick", "brown"), ("Count to ten: 1 2 3 4 5 6 7 8 9 10", "fox"), ("Paris", "is the capital of")]
    asked = [first for first, _ in texts] if several else [{"sentence1": a, "sentence2": b} for a, b in texts]
    (answers,) = ask(tmp_path, uri, (asked, {}))
    for (first, second), answer in zip(texts, answers, strict=True):
        pair = (first,) if several else (first, second)
        ids = tokenizer(*pair, truncation=True, max_length=12, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model.eval()(ids).logits[0].double()
        if several:
            places = [place for place in range(3) if logits[place] > 0]
            assert answer["labels"] == [model.config.id2label[place] for place in places]
            assert answer["probabilities"] == pytest.approx(logits.sigmoid()[places].tolist(), abs=1e-5)
        else:
            assert answer["label"] == model.config.id2label[int(logits.argmax())]
            assert answer["probability"] == pytest.approx(float(logits.softmax(0).max()), abs=1e-5)
    card = (world["registration"] / "model_card.md").read_text()
    assert "most frequent class" in card
    assert "| precision_binary | – | 0.75 | more |" in card  # the base never predicts that class
    assert ("sentence2" in card) is not several
