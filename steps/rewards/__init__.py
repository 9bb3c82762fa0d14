"""Rewards: how good a completion is, as a number, for training with GRPO, for verl and for evaluation.

    loading.py       load_rewards(names, weights, options) → Rewards: its `columns`, and `score(…)`
    library.py       REWARDS, the table of rewards by name; options and columns: docs/rewards.md
    scoring.py       every reward of a batch, the weighted sum, and what the rewards log
    user_reward.py   the user's own file.py:function, with its errors    limits.py   its time limit
    one_answer.py    what a function with verl's signature is called with, and what it returns
    by_source.py     as verl's own functions: source_rules.py (text), stated_math.py (formulas), source_tests.py (code)
    texts.py         the text of a completion, and the answers stated in it
    numerals.py      numbers, as written    worker.py   libraries that a text can keep busy, in a process with limits
    sandbox.py       programs of a model, in a process that is shut in by jail.py

A reward is called by keyword with lists of one entry per completion, as TRL 1.16 calls reward functions (prompts,
completions, completion_ids, the columns of the data, log_extra, log_metric), and returns a number per completion, or
None where it does not apply. A reward of the library never raises on any text, is always finite, and is the same for
the same text.

To add a reward: a module here with `Options` (a Group), `columns(options)` and `reward(options)`, its row in REWARDS,
its row in docs/rewards.md and its cases in tests/reward_cases.py.
"""
