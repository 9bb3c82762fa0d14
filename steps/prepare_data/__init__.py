"""Rows become tokens, once: read, check every row, split, tokenise, mask, pack.

The artifact (kind `data`) holds, for each of train, validation and test:

    rows/<split>.parquet     canonical rows of the task (`steps/tasks`)
    tokens/<split>.parquet   input_ids, labels (-100 where there is no loss) and, when packed, seq_lengths;
                             test is never packed and has one row for each canonical row;
                             for preferences prompt_ids and chosen_ids, rejected_ids or completion_ids, label;
                             for an encoder with a decoder input_ids are the text, labels the answer;
                             for a classifier input_ids, token_type_ids where the model has them, and labels;
                             for a tagger labels and words, for answers start_positions, end_positions and row
    chat_template.jinja      the template, when another one than the model's own was asked for
    manifest.json            facts: counts, lengths, tokens, what was truncated, left out or repaired

Rows that were left out (too long, or without a token to learn) are in neither file. `length` and `histogram` in the
facts describe rows before any cut, `tokens` what was written. Equal input gives equal bytes.

    step.py        the story                       alone.py       the check without a run
    findings.py    problems, warnings, repairs, as all of them tell them

read/: from what the parameters name to raw rows:

    sources.py     what the parameters name, opened: unpacking.py, dataset_rows.py, json_field.py
    reading.py     which format → its reader: json_rows.py (json_faults.py), csv_rows.py, parquet_rows.py
    processing.py  the user's own function

check/: from raw rows to good ones, each in its place (checking.py tells the order):

    parts.py       one stretch of a file checked; several at a time, plain rows a block at a time
    gathering.py   the files of a split
    places.py      where each row stands           rows.py        good rows, on disk
    repeats.py     repeated and leaked rows        secret_scan.py rows that hold keys
    splitting.py   which row goes where            mixing.py      which row comes next

write/: from rows to tokens:

    causal.py      tokens that are learned         masked.py      tokens that are hidden
    classification.py  texts with the number of their class
    spans.py       windows of a text with the place of an answer
    tagged.py      words with the number of their tag    lengths.py  rows that are too long
    seq2seq.py     texts and their answers apart
    splits.py      one split from rows to files    writing.py     parquet files and their facts
    tokenising.py  batches → ids and labels, as TRL makes them    packing.py  short rows → sequences, as TRL packs them
    templates.py   tokenizer and chat template     chat_templates/  the templates that go by a name
    preferences.py prompts with their answers: answer_tokens.py (as TRL makes them), answer_tables.py (files)
    offsets.py     which token holds a character   markers.py     answers told apart by the tokens before them
    prompts.py     prompts that are too long        shortening.py  long texts whose answers stay

Codes: DATA-E… refuses, DATA-W… warns, DATA-F… was mended. 01 file and encoding, 02 JSON, 03 csv, 04 conversations,
05 parquet, 06 columns and texts, 07 splits, 08 tokens and templates, 15 preferences, rated answers and rewards. A code
keeps its meaning for ever.

Who writes the tokens stands in the record of the model kind or the method of learning (`writer`, `steps/kinds/`). To
add one: a file with `prepare(settings, tokenizer) -> preparation`, which refuses what cannot work before any row is
read, and `write(draft, preparation, checked) -> facts`; its name in a record, and a test.

To add a format: see `reading.py`; a task: see `steps/tasks`; a check of rows: in its task; a check of bytes: in the
reader. Each gets a line in the tables of tests/steps/test_prepare_data_reading.py.
"""
