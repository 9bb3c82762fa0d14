"""Long documents are truncated in the text; the parts around the text, and the answer, are kept."""

import pyarrow.parquet as pq
import pytest
from conftest import build_tokenizer, write_jsonl

from steps.artifacts import read_manifest
from steps.params.settings import DataSettings, Resolved
from steps.prepare_data.step import prepare_data
from steps.prepare_data.write.shortening import fit_texts
from steps.prepare_data.write.tokenising import tokenise
from steps.sources import storage

FORM = ("summarize: ", "\n")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def row(document: str, summary: str) -> dict:
    return {"prompt": f"{FORM[0]}{document}{FORM[1]}", "completion": summary}


@pytest.mark.parametrize("document", ["The quick brown fox. " * 30, "Ünïcödé – 日本語 " * 20, "a" * 300])
def test_a_long_text_loses_its_end_and_as_little_as_possible(tokenizer, document):
    tokens = fit_texts(tokenizer, [row(document, "A fox jumps.")], FORM, 64, completions_only=True)
    assert 60 <= tokens.lengths[0] <= 64
    text = tokenizer.decode(tokens.ids.tolist())
    kept = text.removeprefix(FORM[0]).removesuffix(f"{FORM[1]}A fox jumps.{tokenizer.eos_token}")
    assert document.startswith(kept)
    assert tokens.ids.tolist() == tokenise(tokenizer, [row(kept, "A fox jumps.")], True, None).ids.tolist()
    learned = [token for token in tokens.labels.tolist() if token != -100]
    assert tokenizer.decode(learned) == f"A fox jumps.{tokenizer.eos_token}"


def test_an_answer_that_leaves_no_room_for_its_text_is_still_too_long(tokenizer):
    tokens = fit_texts(tokenizer, [row("fox", "jumps " * 80), row("fox", "dog")], FORM, 64, completions_only=True)
    assert tokens.lengths[0] > 64
    alone = tokenise(tokenizer, [row("", "jumps " * 80)], True, None)
    assert tokens.between(0, 1).ids.tolist() == alone.ids.tolist()


@pytest.mark.parametrize("long", [range(0, 60, 7), range(60)], ids=["some", "all"])
def test_long_documents_train_with_their_summaries_and_are_counted(tmp_path, tokenizer, long):
    rows = [{"document": f"{n} " + "fox " * (90 if n in long else 3), "summary": f"{n} foxes"} for n in range(60)]
    file = write_jsonl(tmp_path / "train.jsonl", rows)
    found = Resolved(uri=str(file), digest=storage.digest_of("train_file_path", str(file)))
    settings = DataSettings(
        task="summarization", train=found, max_length=64, preprocessing={"train_on_completions_only": True}
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    prepare_data(settings, tmp_path / "tokenizer", tmp_path / "data", tmp_path / "report.html")
    facts = read_manifest(tmp_path / "data").facts["splits"]
    assert sum(split["truncated"] for split in facts.values()) == len(long)
    for name in facts:
        tokens = pq.read_table(tmp_path / f"data/tokens/{name}.parquet").to_pydict()
        canonical = pq.read_table(tmp_path / f"data/rows/{name}.parquet").to_pylist()
        assert max(map(len, tokens["input_ids"])) <= 64
        for ids, labels, one in zip(tokens["input_ids"], tokens["labels"], canonical, strict=True):
            assert tokenizer.decode(ids).startswith(f"summarize: {one['document'][:9]}")
            learned = tokenizer.decode([label for label in labels if label != -100])
            assert learned == one["summary"] + tokenizer.eos_token
