"""Evaluate base and tuned model on the same held-out rows, and decide whether the tuned model may be registered.

    step.py                  the step; comparison.py: the result of an evaluator
    before.py                the models before and after training, merged where they are adapters
    measuring.py             the tuned model alone, for a trial of a sweep (the step measure)
    generated.py             text generation: loss and answers
    unmasked.py              masked language models
    classified.py, classifying.py   text classification
    tagged.py, tagging.py    token classification
    answered.py, answering.py   extractive question answering
    preferred.py             preference training
    rewarded.py, completing.py   training with rewards
    guessing.py              replacement for a base without weights
    held_out.py              the held-out rows, with prompt and reference of each
    transformers_engine.py   loads one causal model, computes loss and answers on these rows
    answers_by_vllm.py       the answers by vLLM
    seq2seq_engine.py        the same for encoder-decoder models
    losses.py                losses of the rows; answers come from steps/generation/
    metrics.py               metrics of generated text; the arithmetic of every metric is in steps/scoring/
    references.py            answers of batch inference against references (the step score)
    gate.py                  the verdict; arithmetic only

The artifact (kind `evaluation`) has metrics.json (base, tuned, rows, gate), predictions.parquet (one row for each test
row) and, for labels, plots/ with the charts as files. The record of a model kind or a method of learning
(`steps/kinds/`) names its evaluator. To add an evaluator: a file with `compare(settings, base, tuned, data) ->
Comparison`, named by a record. To add an engine for generated text (vLLM, …): a file with `measure(folder, held_out,
settings) -> Measured`, named by the record of a model kind. To add a metric: see `steps/scoring/`.
"""
