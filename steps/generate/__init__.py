"""Answer rows of prompts with an engine (`steps/generation/`): batch inference.

    step.py         the step
    rows.py         the rows of the data artifact, some thousand at a time
    asking.py       rows to requests: prompts as the chat template writes them, a seed for each answer
    survey.py       one look at all rows before the first answer: prompts that cannot be rendered, types of columns
    answering.py    requests to answers, in one process
    journal.py      the answers so far, line by line
    places.py       where a journal is, and who may use it
    stored.py       a journal in an object store
    processes.py    several processes that share the rows; process.py, worker.py: one of them
    progress.py     rows left, tokens per second, time left
    writing.py      journal to artifact: Parquet shards; yaml_list.py: the list of answers as YAML
    columns.py      the columns of the shards
    counting.py     numbers for manifest and report

The artifact (kind `generations`) has

    generations_00000.parquet, …   8,192 rows of the input each, in their order; a line for each answer
    answers.yaml                   the same answers as a list

Columns of the shards: `id`, `prompt` (a plain text) or `messages` (a conversation), `tools` and `reference` as given,
the user's other columns; `row` and `sample`, numbered from 0; `prompt_text`, the prompt as the model read it;
`generations`, the answer alone; `finish_reason` (stop or length), `prompt_tokens`, `completion_tokens`, `truncated`
(whether the prompt lost its start); with logprobs=true also `token_ids` and `logprobs`, one for each token. Seed 4
wrote prompt and answer in one text: that is prompt_text + generations.

Messages of this step name rows by the number in the column `row`.

Keys of answers.yaml: dataset, id, prompt, answer, correct_answers, test_type, data_collection, truncated, all_text_raw
(prompt_text + answer) and gen_params, which is written once and referred to by the other answers.

Answers are written to a journal as they come. A run that was killed reads it, asks for the answers that are missing,
and ends as an unbroken run. The journal is named by the digest of inputs and settings, so that others begin anew.
"""
