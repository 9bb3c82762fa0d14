"""Decoding with transformers' `generate`, in batches of rows of similar length.

For what the loop over rows does not do: encoder-decoder models, beam search, learned prompts, caches that are more than
keys and values, and decoding without a cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from steps.generation.batching import batches
from steps.generation.choosing import RowDraws, for_prompts, greedy
from steps.generation.memory import freed, halved
from steps.generation.soft_prompts import continue_rows, virtual_tokens, with_vectors
from steps.generation.stopping import AnswerStops
from steps.generation.tokens import Answer, How, Prompt

ALONE = "alone"  # key of rows that draw with a seed of their own in each step of a beam search


def generate_answers(model: Any, prompts: Sequence[Prompt], how: How) -> Iterator[tuple[int, Answer]]:
    """Yield (place in `prompts`, answer), batch by batch. Raises OutOfResources if a row alone does not fit."""
    waiting = deque(_batches(model, prompts, how))
    while waiting:
        batch = waiting.popleft()
        answered, full = [], False
        most = how.limits.rows_of(max(len(prompts[group[0]].ids) + prompts[group[0]].most for group in batch))
        if len(batch) > most:  # the limit fell since
            waiting.extendleft([batch[most:], batch[:most]])
            continue
        try:
            with how.computing():
                answered = _answered(model, [prompts[group[0]] for group in batch], _several(prompts, batch), how)
        except torch.OutOfMemoryError:
            full = True
        if full:  # outside of `except`, whose traceback holds the tensors
            halved(how, len(batch), max(len(prompts[group[0]].ids) for group in batch))
            freed()
            waiting.appendleft(batch)
            continue
        for group, answers in zip(batch, answered, strict=True):
            for number in group:
                yield number, answers[prompts[number].sample if len(answers) > 1 else 0]


def _batches(model: Any, prompts: Sequence[Prompt], how: How) -> list[list[list[int]]]:
    """Group equal prompts that one answer or one beam search serves, and form batches of these groups."""
    together: dict[Any, list[int]] = {}
    for number, prompt in enumerate(prompts):
        own = number if how.config.do_sample else None
        together.setdefault((prompt.ids, prompt.most, own), []).append(number)
    kinds: dict[Any, list[list[int]]] = {}
    for group in together.values():
        first = prompts[group[0]]
        if how.config.do_sample and how.config.num_beams > 1:
            key: Any = (ALONE, group[0])
        else:
            key = (first.most, len(first.ids) if _reads_padding(model, how.config) else None)
        kinds.setdefault(key, []).append(group)
    made = []
    for groups in kinds.values():
        lengths = [len(prompts[group[0]].ids) + prompts[group[0]].most for group in groups]
        budget = how.limits.tokens or max(lengths) * len(groups)
        made += [[groups[place] for place in batch] for batch in batches(lengths, budget, how.limits.rows)]
    return sorted(made, key=lambda batch: -len(prompts[batch[0][0]].ids))


def _reads_padding(model: Any, config: Any) -> bool:
    """Return whether an answer could depend on the padding of its prompt: a processor would count or read it."""
    reads = (
        config.encoder_repetition_penalty not in (None, 1.0)
        or config.encoder_no_repeat_ngram_size
        or config.guidance_scale is not None
    )
    if has_encoder(model):
        return bool(reads)
    return bool(
        reads
        or config.repetition_penalty not in (None, 1.0)
        or config.no_repeat_ngram_size
        or config.min_length
        or config.sequence_bias
        or config.bad_words_ids
        or config.watermarking_config
    )


def _several(prompts: Sequence[Prompt], batch: list[list[int]]) -> int:
    return 1 + max(prompts[number].sample for group in batch for number in group)


def _answered(model: Any, rows: list[Prompt], several: int, how: How) -> list[list[Answer]]:
    """Return the answers of each row of a batch: one, or several of a beam search."""
    encoder = has_encoder(model)
    sampled, beams = how.config.do_sample, how.config.num_beams > 1
    length = 1 if encoder else max(len(row.ids) for row in rows)
    config = for_prompts(how.config, length, rows[0].most)
    config.num_return_sequences = several if beams and not sampled else 1
    more: dict[str, Any] = {}
    if how.stops:
        start = 1 if encoder else 0 if virtual_tokens(model) else length
        more["stopping_criteria"] = StoppingCriteriaList([AnswerStops(how.stops, start)])
    if sampled and not beams:
        more["logits_processor"] = LogitsProcessorList([RowDraws(_base(model), how.config, rows)])
        config = greedy(config)
    seeds = [row.seed for row in rows] if sampled and beams else []
    devices = range(torch.cuda.device_count()) if seeds else []
    with torch.random.fork_rng(devices, enabled=bool(seeds)):
        if seeds:
            torch.manual_seed(seeds[0] % 2**63)
        output = _output(model, [list(row.ids) for row in rows], config, how, more)
    told = output.tolist()
    each = config.num_return_sequences
    return [
        [_answer(model, row, tokens, how) for tokens in told[line * each : (line + 1) * each]]
        for line, row in enumerate(rows)
    ]


def _output(model: Any, rows: list[list[int]], config: Any, how: How, more: dict[str, Any]) -> torch.Tensor:
    """Return the generated tokens, (answers, longest answer), padded; with an encoder, behind the decoder's start."""
    if virtual_tokens(model):
        return continue_rows(model, rows, config, **more)
    encoder = has_encoder(model)
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), how.padding)
    mask = torch.zeros(ids.shape, dtype=torch.long)
    for line, row in enumerate(rows):
        place = slice(None, len(row)) if encoder else slice(width - len(row), None)
        ids[line, place], mask[line, place] = torch.tensor(row), 1
    inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
    output: torch.Tensor = model.generate(**inputs, generation_config=config, **more)
    return output[:, 1 if encoder else width :]


def _answer(model: Any, row: Prompt, tokens: list[int], how: How) -> Answer:
    """Cut an answer at its end."""
    ends = [place for place, token in enumerate(tokens[: row.most], 1) if token in how.ends][:1]
    if how.stops and (end := how.stops.end_of(tokens[: ends[0] if ends else row.most])):
        ends = [end]
    kept = tokens[: ends[0] if ends else row.most]
    logprobs = tuple(_logprobs(model, row, kept, how)) if how.logprobs else None
    return Answer(tuple(kept), bool(ends), logprobs)


def _logprobs(model: Any, row: Prompt, tokens: list[int], how: How) -> list[float]:
    """Compute the log-probability of each token of an answer by reading it once more."""
    place = model.device
    ids, said = torch.tensor([row.ids], device=place), torch.tensor([tokens], device=place)
    if has_encoder(model):
        begun = torch.tensor([[_start(model, how.config)]], device=place)
        logits = model(input_ids=ids, decoder_input_ids=torch.cat((begun, said[:, :-1]), dim=1)).logits[0]
    elif virtual_tokens(model):
        inputs = with_vectors(model, [*row.ids, *tokens[:-1]])[None]
        logits = model.get_base_model()(inputs_embeds=inputs).logits[0, -len(tokens) :]
    else:
        logits = model(input_ids=torch.cat((ids, said[:, :-1]), dim=1)).logits[0, -len(tokens) :]
    told = logits.to(place).float().log_softmax(dim=-1)
    return list(told.gather(1, said[0][:, None])[:, 0].tolist())


def _start(model: Any, config: Any) -> int:
    """Return the decoder's first token, as `generate` chooses it."""
    told = [getattr(one, name) for name in ("decoder_start_token_id", "bos_token_id")
            for one in (config, model.generation_config)]  # fmt: skip
    return int(next(token for token in told if token is not None))


def has_encoder(model: Any) -> bool:
    """Return whether a model has an encoder and a decoder."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
