"""The reward of a model for sequence classification equals the model's own output."""

import pytest
import torch
from conftest import build_tokenizer

from steps.errors import UserError
from steps.rewards.loading import load_rewards

CHAT = [{"role": "user", "content": "2 + 2?"}]
ANSWERS = ["4", "It is four, of course, as everybody knows.", "", "\x00\ud800", "word " * 500]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two random Llamas: with one output, and with the two classes bad and good."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    made = {}
    for name, labels in {"score": ["score"], "classes": ["bad", "good"]}.items():
        folder = made[name] = tmp_path_factory.mktemp(name)
        build_tokenizer(folder)
        torch.manual_seed(3)
        config = LlamaConfig(
            vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=256, pad_token_id=0, num_labels=len(labels), id2label=dict(enumerate(labels)),
            label2id={label: number for number, label in enumerate(labels)},
        )  # fmt: skip
        LlamaForSequenceClassification(config).save_pretrained(folder)
    return made


def rewards_of(folder, completions, prompts=None, **options):
    rewards = load_rewards(["reward_model"], options={"reward_model": {"model": str(folder), **options}})
    return rewards.score(prompts or ["2 + 2?"] * len(completions), completions, {}).rewards["reward_model"]


def logits_of(folder, text):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, truncation_side="left")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokenizer(text, truncation=True, max_length=256, return_tensors="pt")).logits[0]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_it_is_the_models_output(models, batch_size):
    texts = ANSWERS[:2] + ANSWERS[4:]
    expected = [logits_of(models["score"], "2 + 2?" + text)[0].item() for text in texts]
    assert rewards_of(models["score"], texts, batch_size=batch_size) == pytest.approx(expected, abs=2e-4)


def test_conversations_go_through_the_chat_template(models):
    from transformers import AutoTokenizer

    answer = [{"role": "assistant", "content": "4"}]
    text = AutoTokenizer.from_pretrained(models["score"]).apply_chat_template(CHAT + answer, tokenize=False)
    assert "<|im_start|>assistant\n4" in text
    expected = logits_of(models["score"], text)[0].item()
    [made] = rewards_of(models["score"], [answer], [CHAT])
    assert made == pytest.approx(expected, abs=2e-4)


def test_the_probability_of_a_class(models):
    expected = logits_of(models["classes"], "2 + 2?4").softmax(dim=0)[1].item()
    [made] = rewards_of(models["classes"], ["4"], label="good", scale="probability")
    assert made == pytest.approx(expected, abs=2e-4)
    [made] = rewards_of(models["score"], ["4"], scale="probability")
    assert made == pytest.approx(logits_of(models["score"], "2 + 2?4")[0].sigmoid().item(), abs=2e-4)


def test_any_text_is_scored_the_same_whatever_else_is_in_the_batch(models):
    together = rewards_of(models["score"], ANSWERS, batch_size=5)
    alone = [rewards_of(models["score"], [text])[0] for text in ANSWERS]
    assert together == pytest.approx(alone, abs=1.01e-4)
    assert rewards_of(models["score"], ANSWERS, batch_size=5) == together


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [("classes", {}, "REWARD-E0228"), ("classes", {"label": "best"}, "REWARD-E0228"), ("absent", {}, "REWARD-E0216")],
)
def test_a_model_that_is_none_is_refused(models, tmp_path, name, options, code):
    with pytest.raises(UserError, match=code):
        rewards_of(models.get(name, tmp_path / "absent"), ["4"], **options)


def test_a_model_must_be_named():
    with pytest.raises(UserError, match="REWARD-E0227 option model of reward_model"):
        load_rewards(["reward_model"])
