"""Metrics of predictions, used both during training and in evaluation. Arithmetic only, without a model or torch.

    classification_metrics.py   labels            tag_metrics.py   tags of words
    answer_spans.py             from the logits of windows to the answer to one question
    answer_windows.py           the same for all questions of a split
    answer_metrics.py           extracted answers text_metrics.py  generated texts
    preference_metrics.py       preferences between answers
    ranking_metrics.py          candidates of a query in the order of their scores
    scored.py                   the result of these modules, and the selection of metrics

To add a metric: its arithmetic here, and its name with the tasks that have it in `steps/params/metrics.py`, which also
says whether more of it is better.
"""
