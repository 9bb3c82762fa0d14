"""How good predictions are, as numbers: the same while training and after it. Pure arithmetic, no model, no torch.

    classification_metrics.py   labels            tag_metrics.py   words with tags
    answer_spans.py             from the logits of windows to the text of an answer
    answer_windows.py           the same for all questions of a split
    answer_metrics.py           such answers      text_metrics.py  generated texts
    scored.py                   what these give back, and the choice of a person among them

To add a metric: its arithmetic here, its direction in `steps/params/evaluation.py`, and the tasks that may be judged by
it in `steps/params/task_metrics.py`.
"""
