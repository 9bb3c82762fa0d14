"""Rows become tokens, once: read, check every row, split, tokenise, mask, pack.

The artifact (kind `data`) holds, for each of train, validation and test:

    rows/<split>.parquet     canonical rows of the task (`steps/tasks`)
    tokens/<split>.parquet   input_ids, labels (-100 where there is no loss) and, when packed, seq_lengths;
                             test is never packed and has one row for each canonical row
    manifest.json            facts: counts, lengths, tokens, what was truncated, left out or repaired
"""
