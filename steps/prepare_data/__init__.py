"""Prepare the data once per run: read rows, check every row, split, tokenise, mask, pack.

The artifact (kind `data`) holds, for each of train, validation and test:

    rows/<split>.parquet     canonical rows of the task (`steps/tasks`); of prompts to answer only those of test, and
                             no tokens
    tokens/<split>.parquet   input_ids, labels (-100 where there is no loss) and, if packed, seq_lengths;
                             test is never packed and has one row for each canonical row;
                             preferences: prompt_ids and chosen_ids, rejected_ids or completion_ids, label;
                             training with rewards: prompt_ids;
                             encoder-decoder models: input_ids of the text, labels of the answer;
                             classifiers: input_ids, token_type_ids if the model has them, and labels;
                             taggers: labels and words; extractive answers: start_positions, end_positions and row
    tokens/validation_by_row.parquet   the validation rows as a test split has them, for evaluate; only if packed, or
                             if pairs are split into rated answers
    chat_template.jinja      the chat template, if it is not exactly the model's own
    training_template.jinja  its copy with marks around the answers, if the rows were written with one
    manifest.json            facts: counts, lengths, tokens, and what was truncated, left out or repaired

Rows that were left out (too long, or without a token to learn) are in neither file. `length` and `histogram` in the
facts describe rows before truncation, `tokens` what was written. Equal input gives equal bytes.

    step.py        the step from start to end      alone.py       the check without a run
    findings.py    problems, warnings and repairs

read/: from sources to raw rows:

    sources.py     open sources: unpacking.py, dataset_rows.py, json_field.py
    reading.py     format → reader: json_rows.py (json_faults.py), csv_rows.py, parquet_rows.py (arrow_nulls.py,
                   class_names.py), text_rows.py
    processing.py  the user's own function

check/: from raw rows to valid rows in splits (checking.py calls the others in order):

    parts.py       check one part of a file        gathering.py   the files of a split
    places.py      file, record and line of rows   rows.py        valid rows, on disk
    repeats.py     repeated and leaked rows        secret_scan.py rows that contain keys
    splitting.py   held-out splits                 mixing.py      mixtures of sources

write/: from rows to tokens:

    causal.py      causal language models          masked.py      masked language models
    classification.py  texts with class numbers    tagged.py      words with tag numbers
    spans.py       windows of a context with the position of an answer
    seq2seq.py     texts and answers for encoder-decoder models
    asked.py       prompts to answer, without tokens
    preferences.py prompts with their answers: answer_tokens.py (as TRL tokenises them), answer_tables.py (files)
    rewarded.py    prompts for training with rewards
    questions.py   prompts as the chat template writes them for the next answer
    splits.py      one split from rows to files    writing.py     parquet files and their facts
    special_tokens.py  special tokens in texts     token_range.py  tokens without an embedding
    tokenising.py  batches → ids and labels, as in TRL            packing.py  sequence packing, as in TRL
    templates.py   tokenizer and chat template     chat_templates/  the templates that have a name
    settling.py    one template for all steps
    marks.py       the characters to learn         offsets.py     the tokens of these characters
    markers.py     answers found by the tokens before them
    unlearned.py   messages that are not learned   reasoning.py   reasoning that the template does not write
    lengths.py     rows that are too long          prompts.py     prompts that are too long
    shortening.py  long texts truncated before their answers

Codes: DATA-E… is an error, DATA-W… a warning, DATA-F… a repair. 01 file and encoding, 02 JSON, 03 csv,
04 conversations, 05 parquet, 06 columns and texts, 07 splits, 08 tokens and templates, 15 preferences, ratings,
rewards and prompts. The meaning of a code never changes.

The record of a model kind or a method of learning (`steps/kinds/`) names the module that writes its tokens. To add one:
a file with `prepare(settings, tokenizer) -> preparation`, which refuses unusable settings before any row is read, and
`write(draft, preparation, checked) -> facts`; its name in a record, and a test.

To add a format: see `reading.py`; a task: see `steps/tasks`; a check of rows: in its task; a check of bytes: in the
reader. Each gets a line in the tables of tests/steps/test_prepare_data_reading.py.
"""
