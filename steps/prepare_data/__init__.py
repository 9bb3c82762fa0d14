"""Rows become tokens, once: read, check every row, split, tokenise, mask, pack.

The artifact (kind `data`) holds, for each of train, validation and test:

    rows/<split>.parquet     canonical rows of the task (`steps/tasks`)
    tokens/<split>.parquet   input_ids, labels (-100 where there is no loss) and, when packed, seq_lengths;
                             test is never packed and has one row for each canonical row;
                             for a classifier input_ids, token_type_ids where the model has them, and labels
    chat_template.jinja      the template, when another one than the model's own was asked for
    manifest.json            facts: counts, lengths, tokens, what was truncated, left out or repaired

Rows that were left out (too long, or without a token to learn) are in neither file. `length` and `histogram` in the
facts describe rows before any cut, `tokens` what was written. Equal input gives equal bytes.

    step.py        the story                       splits.py      one split from rows to files
    causal.py      tokens that are learned         classification.py  texts with the number of their class
    checking.py    every row of every file         splitting.py   which row goes where
    reading.py     which format → its reader       tokenising.py  batches → ids and labels, as TRL makes them
    json_rows.py   csv_rows.py   parquet_rows.py   packing.py     short rows → sequences, as TRL packs them
    json_faults.py why a text is no JSON           templates.py   tokenizer and chat template
    findings.py    problems, warnings, repairs     writing.py     parquet files and their facts
    offsets.py     which token holds a character   markers.py     answers told apart by the tokens before them
    prompts.py     prompts that are too long       chat_templates/  the templates that go by a name
    alone.py       the check without a run

Codes: DATA-E… refuses, DATA-W… warns, DATA-F… was mended. 01 file and encoding, 02 JSON, 03 csv, 04 conversations,
05 parquet, 06 columns and texts, 07 splits, 08 tokens and templates, 15 preferences, rated answers and rewards. A code
keeps its meaning for ever.

WRITERS says who writes the tokens for which kind of model (`HEAD` of the task). To add one: a file with
`prepare(settings, tokenizer) -> preparation`, which refuses what cannot work before any row is read, and
`write(draft, preparation, checked) -> facts`; a row in WRITERS, and a test.

To add a format: see `reading.py`; a task: see `steps/tasks`; a check of rows: in its task; a check of bytes: in the
reader. Each gets a line in the tables of tests/steps/test_prepare_data_reading.py.
"""

WRITERS = {
    "causal_lm": "steps.prepare_data.causal",
    "sequence_classification": "steps.prepare_data.classification",
}
