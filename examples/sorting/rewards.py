"""The rewards of this example."""


def right_places(completions, ground_truth, **kwargs):
    """Return the share of digits that stand where they belong: 0.6 for "1 2 7 4 8" if "1 2 4 7 8" is right."""
    answers = [completion[-1]["content"].split() for completion in completions]
    return [share(answer, truth.split()) for answer, truth in zip(answers, ground_truth, strict=True)]


def share(answer: list[str], right: list[str]) -> float:
    """Return how many words of an answer are right, divided by the length of the longer of both."""
    return sum(one == other for one, other in zip(answer, right, strict=False)) / max(len(answer), len(right))
