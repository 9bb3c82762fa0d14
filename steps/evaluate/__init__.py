"""Base and tuned model answer the same held-out rows; the numbers decide whether the tuned one may be registered.

    step.py                  the story; comparison.py what an evaluator gives it
    before.py                the model that training began with
    generated.py             for models that write text: loss and answers
    unmasked.py              for models that put back hidden tokens
    classified.py, classifying.py   for models that give a text its label
    tagged.py, tagging.py    for models that tag words
    answered.py, answering.py   for models that find answers in a text
    preferred.py             for models that learned what people prefer
    guessing.py              what stands for a base without weights
    held_out.py              the test rows, and the prompt and reference of each
    transformers_engine.py   loads one model, measures loss and answers on these rows
    seq2seq_engine.py        the same for one with an encoder and a decoder
    losses.py                how well it predicts the rows; answers come from steps/generation/
    metrics.py               all numbers of generated text; the arithmetic of every metric is in steps/scoring/
    gate.py                  the verdict; pure arithmetic

The artifact (kind `evaluation`) holds metrics.json (base, tuned, rows, gate), predictions.parquet (one row for each
test row) and, for labels, plots/ with the charts as files. Which evaluator measures which models stands in the
record of the model kind or the method of learning (`steps/kinds/`); to add one: a file with
`compare(settings, base, tuned, data) -> Comparison`, named by a record. To add an engine for generated text (vLLM, …):
a file with `measure(folder, held_out, settings) -> Measured`, named by the record of a model kind. To add a metric: see
`steps/scoring/`.
"""
