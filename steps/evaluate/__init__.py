"""Base and tuned model answer the same held-out rows; the numbers decide whether the tuned one may be registered.

    held_out.py              the test rows, and the prompt and reference of each
    transformers_engine.py   loads one model, measures loss and answers on these rows
    losses.py, generating.py, batching.py   how it does so
    metrics.py               exact match, BLEU, chrF, ROUGE from answers and references
    classification_metrics.py, tag_metrics.py, answer_metrics.py   the numbers of labels, tags and spans
    answer_spans.py          from the logits of windows to the text of an answer
    scored.py                what these give back, and the choice of a person among them
    gate.py                  the verdict; pure arithmetic

The artifact (kind `evaluation`) holds metrics.json (base, tuned, rows, gate) and predictions.parquet (one row for each
test row). To add an engine (vLLM, …): a file with `measure(folder, held_out, settings) -> Measured`, and a row in
ENGINES. To add a metric: its direction in `steps/params/evaluation.py`, and its arithmetic in a file named above.
"""

ENGINES = {
    "transformers": "steps.evaluate.transformers_engine:measure",
}
