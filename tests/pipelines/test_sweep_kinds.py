"""Every pipeline that trains can be swept on this machine."""

import pytest
from classifiers import build_bert, label_rows
from conftest import build_model, write_jsonl
from encoder_decoders import build_t5, pairs
from grids import long_but
from preferences import pair_rows, rated_rows
from reward_prompts import prompt_rows
from sweeping import SETTINGS, finished_in, preparations, swept, versions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm")]

FULL = {"apply_lora": False}
KINDS = {"fox": "ANIMAL", "boat": "THING", "owl": "ANIMAL"}
TAGGED = [{"tokens": ["the", word, "and", str(number)], "tags": ["O", f"B-{KINDS[word]}", "O", "O"]}
          for number in range(84) for word in [list(KINDS)[number % 3]]]  # fmt: skip
ASKED = [{"question": "the red", "context": f"the and {number} {word} and the .",
          "answers": {"text": [word], "answer_start": [len(f"the and {number} ")]}}
         for number in range(72) for word in [list(KINDS)[number % 3]]]  # fmt: skip
VERSE = [{"text": f"the quick brown fox jumps over {number} lazy dogs, again and again"} for number in range(60)]
SUMMARIES = [dict(zip(("document", "summary"), row.values(), strict=True)) for row in pairs(72)]
# Name → pipeline, base, rows, parameters.
CASES = {
    "text_classification": ("text_classification", build_bert, label_rows(72),
                            {"sentence1_key": "text", "label_key": "kind", **FULL}),
    "token_classification": ("token_classification", build_bert, TAGGED, FULL),
    "question_answering": ("question_answering", build_bert, ASKED, {**FULL, "doc_stride": 16}),
    "summarization": ("summarization", build_t5, SUMMARIES, FULL),
    "translation": ("translation", build_t5, pairs(72), {"source_lang": "en", "target_lang": "de"}),
    "pretraining": ("pretraining", build_model, VERSE, FULL),
    "text_generation": ("text_generation", build_model, VERSE, {}),
    "grpo": ("grpo_chat_completion", build_model, prompt_rows(60),
             {**FULL, "reward_funcs": "length", "reward_options": '{"length": {"target": 2, "unit": "tokens"}}',
              "num_iterations": 1, "max_seq_length": -1, "max_prompt_length": 64, "max_completion_length": 8,
              "total_train_batch_size": 8, "max_per_device_train_batch_size": 8, "eval_strategy": "epoch"}),
    "dpo": ("preference", build_model, pair_rows(60), {"method": "dpo", "precompute_ref_log_probs": True}),
    "kto": ("preference", build_model, rated_rows(60), {"method": "kto", "precompute_ref_log_probs": True}),
}  # fmt: skip
NAMES = {build_bert: "bert", build_t5: "t5", build_model: "tiny"}
# Rewards, and an adapter with references in the shared folder; the sweeps of test_sweep_driver.py are over
# chat_completion. The other cases differ in how they train alone, which the tests of each trainer prove.
OFTEN = ("grpo", "dpo")


@pytest.mark.parametrize("case", long_but(OFTEN, CASES))
def test_a_sweep_of_two_trials_ends_with_the_better_one(case, shared, tmp_path, runs_root):
    pipeline, build, rows, own = CASES[case]
    given = {**SETTINGS, "pytorch_model_path": str(shared.made(NAMES[build], build)),
             "train_file_path": str(write_jsonl(tmp_path / "rows.jsonl", rows)), **own}  # fmt: skip
    given.pop("gate_metric")
    if pipeline not in ("summarization", "translation", "text_generation"):  # the others generate nothing
        given.pop("evaluation_max_new_tokens")
    known = fields_of(pipeline)
    given = {name: value for name, value in given.items() if name in known}
    sweep = swept(runs_root, given, {"learning_rate": [1e-3, 3e-3]}, pipeline=pipeline, pruner="median")
    assert preparations(sweep.folder) == (1, 1)
    assert finished_in(sweep.folder) == [1, 1]
    one, other = (trial["score"] for trial in sweep.facts["trials"])
    better = max(one, other) if sweep.facts["higher_is_better"] else min(one, other)
    assert sweep.best["score"] == better
    assert len(versions(runs_root)) == (1 if sweep.final["gate"]["passed"] else 0)
    if case in ("dpo", "kto"):  # the reference's log-probabilities, of training and validation rows, once for all
        assert len(list(runs_root.glob("checkpoints/shared/references/*/manifest.json"))) == 2


def fields_of(pipeline: str) -> set[str]:
    """Return the names of the parameters of a pipeline, also those that are split."""
    from pipelines.catalog import PIPELINES

    return set(PIPELINES[pipeline].parameters.model_fields)


def test_every_pipeline_that_trains_is_a_case_or_alike():
    from pipelines.catalog import PIPELINES

    trains = {name for name, one in PIPELINES.items() if one.trains}
    alike = {"chat_completion", "reranking", "verl_finetune"}  # the last one has the trainer of grpo
    assert trains - {pipeline for pipeline, *_ in CASES.values()} == alike
