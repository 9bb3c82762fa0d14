"""Training with rewards (GRPO, RLOO): what the project adds to TRL's trainers; `trainers/grpo.py` builds them.

prompts.py            the rows, and the order in which their prompts are drawn
rewarding.py          the mixin before TRL's trainers: completions, rewards, evaluation, what is saved and resumed
scored.py             what the rewards made of a batch, agreed on by all processes; sums over an evaluation
generation_batch.py   the completions that several optimizer steps learn from
seeds.py              the seeds of completions
completions_table.py  every completion with its rewards, in a file
signal.py             warns of batches from which nothing can be learned
"""
