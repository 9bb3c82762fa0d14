"""Rows in the forms that people have, and the same rows as messages in the standard form."""

import json

ADD, SAY = "Add one.", "It is"


def ask(n):
    return f"{ADD}\n{n} + 1?"


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


RULE = "Be brief."


def short(n):
    return [user(ask(n)), bot(f"{SAY} {n + 1}.")]


def ruled(n):
    return [{"role": "system", "content": RULE}, *short(n)]


def long(n):
    return [user(f"Say {n}"), bot(f"{n}"), *short(n)]


def long_ruled(n):
    return [{"role": "system", "content": RULE}, *long(n)]


def reply(n):
    return f"{SAY} {n + 1}."


# Name → (the row of number n, the same conversation as messages, what the check says that it is, or "" for nothing).
CHAT = {
    "alpaca": (lambda n: {"instruction": ADD, "input": f"{n} + 1?", "output": reply(n)}, short, "Alpaca"),
    "alpaca without input": (lambda n: {"instruction": ask(n), "output": reply(n)}, short, "Alpaca"),
    "alpaca with an empty input": (lambda n: {"instruction": ask(n), "input": "", "output": reply(n)}, short, "Alpaca"),
    "alpaca with a null input": (lambda n: {"instruction": ask(n), "input": None, "output": reply(n)}, short, "Alpaca"),
    "alpaca with system and history": (
        lambda n: {"instruction": ADD, "input": f"{n} + 1?", "output": reply(n), "system": RULE,
                   "history": [[f"Say {n}", f"{n}"]]}, long_ruled, "Alpaca"),
    "alpaca with null system and history": (
        lambda n: {"instruction": ask(n), "input": "", "output": reply(n), "system": None, "history": None}, short,
        "Alpaca"),
    "alpaca with its full text": (
        lambda n: {"instruction": ask(n), "input": "", "output": reply(n), "text": "### Instruction"}, short, "Alpaca"),
    "dolly": (lambda n: {"instruction": ADD, "context": f"{n} + 1?", "response": reply(n), "category": "qa"}, short,
              "Dolly"),
    "query and response": (lambda n: {"query": ask(n), "response": reply(n), "history": []}, short, "query/response"),
    "prompt and completion": (lambda n: {"prompt": ask(n), "completion": reply(n)}, short, "prompt/completion"),
    "prompt and response": (lambda n: {"prompt": ask(n), "response": reply(n)}, short, "prompt/completion"),
    "prompt and completion as messages": (
        lambda n: {"prompt": long(n)[:3], "completion": long(n)[3:]}, long, "prompt/completion"),
    "prompt and completion as one message each": (
        lambda n: {"prompt": human(ask(n)), "completion": gpt(reply(n))}, short, "prompt/completion"),
    "question and answer": (lambda n: {"question": ask(n), "answer": reply(n)}, short, "question/answer"),
    "question and answer with context": (
        lambda n: {"question": ADD, "context": f"{n} + 1?", "answer": reply(n)}, short, "question/answer"),
    "question and response with a system prompt": (
        lambda n: {"id": n, "system_prompt": RULE, "question": ask(n), "response": reply(n)}, ruled, "question/answer"),
    "problem and solution": (lambda n: {"problem": ask(n), "solution": reply(n)}, short, "problem/solution"),
    "input and output": (lambda n: {"input": ask(n), "output": reply(n)}, short, "input/output"),
    "human and assistant": (lambda n: {"human": ask(n), "assistant": reply(n)}, short, "human/assistant"),
    "user and assistant": (lambda n: {"user": ask(n), "assistant": reply(n)}, short, "human/assistant"),
    "turns of human and assistant": (
        lambda n: {"conversations": [{"human": f"Say {n}", "assistant": f"{n}"},
                                     {"human": ask(n), "assistant": reply(n)}]}, long, ""),
    "a conversation of turns with a system text": (
        lambda n: {"system": RULE, "conversation": [{"human": f"Say {n}", "assistant": f"{n}"},
                                                    {"human": ask(n), "assistant": reply(n)}]}, long_ruled, "ShareGPT"),
    "turns of input and output": (
        lambda n: {"conversation": [{"system": RULE, "input": f"Say {n}", "output": f"{n}"},
                                    {"input": ask(n), "output": reply(n)}]}, long_ruled, "ShareGPT"),
    "one turn": (lambda n: {"conversations": {"human": ask(n), "assistant": reply(n)}}, short, ""),
    "turns as pairs": (lambda n: {"conversation": [[f"Say {n}", f"{n}"], [ask(n), reply(n)]]}, long, "ShareGPT"),
    "a dialog of texts": (lambda n: {"dialog": [f"Say {n}", f"{n}", ask(n), reply(n)]}, long, "ShareGPT"),
    "a dialogue of messages": (lambda n: {"dialogue": long(n)}, long, "ShareGPT"),
    "ShareGPT": (lambda n: {"conversations": [human(ask(n)), gpt(reply(n))]}, short, ""),
    "ShareGPT with a system column": (
        lambda n: {"conversations": [human(ask(n)), gpt(reply(n))], "system": RULE}, ruled, ""),
    "ShareGPT with other speakers": (
        lambda n: {"conversations": [{"from": "system", "value": RULE}, {"from": "user", "value": ask(n)},
                                     {"from": "chatgpt", "value": reply(n)}]}, ruled, ""),
    "messages beside a system text": (lambda n: {"system": RULE, "messages": short(n)}, ruled, ""),
    "a system text in parts": (
        lambda n: {"system": [{"type": "text", "text": RULE}], "messages": short(n)}, ruled, ""),
    "messages as JSON text": (lambda n: {"messages": json.dumps(long(n))}, long, ""),
    "parts with value": (
        lambda n: {"messages": [{"role": m["role"], "content": [{"type": "text", "value": m["content"]}]}
                                for m in short(n)]}, short, ""),
    "messages with the key value": (
        lambda n: {"messages": [{"role": m["role"], "value": m["content"]} for m in short(n)]}, short, ""),
    "messages beside other columns": (
        lambda n: {"messages": short(n), "instruction": "other", "output": "other"}, short, ""),
}  # fmt: skip


def pair(n):
    return {"prompt": [user(ask(n))], "chosen": [bot(reply(n))], "rejected": [bot("no")]}


def ruled_pair(n):
    return {**pair(n), "prompt": [{"role": "system", "content": RULE}, user(ask(n))]}


def long_pair(n):
    return {**pair(n), "prompt": long(n)[:3]}


def hh(*texts):
    return "".join(f"\n\n{'Assistant' if number % 2 else 'Human'}: {text}" for number, text in enumerate(texts))


PAIRS = {
    "ShareGPT pairs": (
        lambda n: {"conversations": [human(ask(n))], "chosen": gpt(reply(n)), "rejected": gpt("no")}, pair, "ShareGPT"),
    "ShareGPT pairs with a system text": (
        lambda n: {"conversations": [human(ask(n))], "chosen": gpt(reply(n)), "rejected": gpt("no"), "system": RULE},
        ruled_pair, "ShareGPT"),
    "messages with texts": (lambda n: {"messages": [user(ask(n))], "chosen": reply(n), "rejected": "no"}, pair,
                            "ShareGPT"),
    "messages with a rejected response": (lambda n: {"messages": short(n), "rejected_response": "no"}, pair,
                                          "ShareGPT"),
    "alpaca pairs": (
        lambda n: {"instruction": ADD, "input": f"{n} + 1?", "chosen": reply(n), "rejected": "no"}, pair, "Alpaca"),
    "alpaca pairs with history": (
        lambda n: {"instruction": ask(n), "input": "", "chosen": reply(n), "rejected": "no",
                   "history": [[f"Say {n}", f"{n}"]]}, long_pair, "Alpaca"),
    "question with answers": (
        lambda n: {"system": RULE, "question": ask(n), "chosen": reply(n), "rejected": "no"}, ruled_pair,
        "question/answer"),
    "OpenAI preference": (
        lambda n: {"input": {"messages": [user(ask(n))]}, "preferred_output": [bot(reply(n))],
                   "non_preferred_output": [bot("no")]}, pair, "OpenAI preference"),
    "transcripts": (
        lambda n: {"chosen": hh(f"Say {n}", f"{n}", ask(n), reply(n)),
                   "rejected": hh(f"Say {n}", f"{n}", ask(n), "no")}, long_pair, "Human/Assistant transcript"),
    "a prompt with whole conversations": (
        lambda n: {"prompt": ask(n), "chosen": short(n), "rejected": [user(ask(n)), bot("no")], "messages": short(n)},
        pair, ""),
    "a text with one message each": (
        lambda n: {"prompt": ask(n), "chosen": bot(reply(n)), "rejected": bot("no")}, pair, ""),
    "messages with one text": (
        lambda n: {"prompt": [user(ask(n))], "chosen": bot(reply(n)), "rejected": "no"}, pair, ""),
    "texts with a system text": (
        lambda n: {"prompt": ask(n), "chosen": reply(n), "rejected": "no", "system": RULE}, ruled_pair, ""),
}  # fmt: skip


def rated(n):
    return {"prompt": [user(ask(n))], "completion": [bot(reply(n))], "label": n % 3 > 0}


def good(n):
    return n % 3 > 0


RATED = {
    "messages with a label": (lambda n: {"messages": short(n), "label": good(n)}, rated, "ShareGPT"),
    "ShareGPT with kto_tag": (
        lambda n: {"conversations": [human(ask(n)), gpt(reply(n))], "kto_tag": good(n)}, rated, "ShareGPT"),
    "rated alpaca": (
        lambda n: {"instruction": ADD, "input": f"{n} + 1?", "output": reply(n), "kto_tag": good(n)}, rated, "Alpaca"),
    "rated question and answer": (
        lambda n: {"question": ask(n), "answer": reply(n), "label": int(good(n))}, rated, "question/answer"),
    "rated query and response": (
        lambda n: {"query": ask(n), "response": reply(n), "label": good(n)}, rated, "query/response"),
    "rated turns": (
        lambda n: {"conversation": [{"human": ask(n), "assistant": reply(n)}], "label": good(n)}, rated, "ShareGPT"),
}  # fmt: skip
TABLES = {"chat_completion": CHAT, "preference": PAIRS, "kto": RATED}
ALL = [(task, name) for task, table in TABLES.items() for name in table]
