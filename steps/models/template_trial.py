"""Whether a chat template ends: one that repeats without an end, or multiplies, is rendered once under limits.

A template is a program. The sandbox of transformers keeps it from files and objects, but not from computing for ever,
and Jinja computes what is constant already when it reads a template.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import lru_cache
from typing import Any

from steps.lost import killed
from steps.models.template_syntax import environment

SECONDS = 2  # of computing; the longest templates that are known need some milliseconds
LONGEST_WAIT = 60  # seconds, on a machine that is busy
MEMORY = 1024**3  # bytes
DEEPEST_LOOPS = 3  # loops in loops over a conversation and its parts
HARMLESS = {"raise_exception", "strftime_now", "namespace", "dict"}  # what a template may call without a trial
DEEPEST_CALLS = 3  # macros whose argument is what another one wrote
# What makes a text that is no longer than what it is given.
PLAIN_FILTERS = {"default", "d", "tojson", "selectattr", "rejectattr", "map", "select", "reject", "trim", "length"}
PLAIN_METHODS = {
    "get",
    "startswith",
    "endswith",
    "append",
    "split",
    "rsplit",
    "strip",
    "lstrip",
    "rstrip",
    "index",
    "find",
}
TOO_SLOW, TOO_LARGE, TOO_DEEP = 3, 4, 5  # codes of exit
TRIAL = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from steps.models.template_trial import render_under_limits; render_under_limits()"
)
CONVERSATION = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Italy?"},
]
# A text that doubles with each message is harmless in a short conversation.
LONG_CONVERSATION = CONVERSATION[:2] * 100
MANY_JOINED = 12  # texts joined of others: with two more in each, what is written stays below a million characters


@lru_cache(maxsize=100)
def endless(text: str) -> str:
    """Return why a template that can be read is not usable: it takes too long, or too much memory; empty if it is.

    An error that it raises is none of these: it may refuse this conversation and take others.
    """
    if is_plain(text):
        return ""
    command = [sys.executable, "-I", "-c", TRIAL, json.dumps(sys.path)]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=LONGEST_WAIT)
    except subprocess.TimeoutExpired:
        return f"a conversation takes more than {LONGEST_WAIT} seconds"
    if done.returncode == TOO_LARGE:
        return "a conversation takes more than 1 GiB of memory"
    if done.returncode == TOO_DEEP:
        return "its loops are nested deeper than Python's may be"
    if done.returncode == -signal.SIGKILL:
        raise killed("the process that renders a chat template", done.returncode)
    if done.returncode < 0 or done.returncode == TOO_SLOW:  # ended by the system: its computing time is over
        return f"a conversation takes more than {SECONDS} seconds"
    if done.returncode:  # it did not begin, such as without memory, so nothing is known of the template
        raise RuntimeError((done.stderr.decode(errors="replace").strip().splitlines() or ["no words"])[-1])
    return ""


def render_under_limits() -> None:
    """Render the template that stdin holds, in a process that is only for this."""
    import resource

    end = int(time.process_time()) + SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (end, end + 1))  # SIGXCPU comes first: SIGKILL is somebody else's
    most = resource.getrlimit(resource.RLIMIT_AS)[1]  # that this process was given, which none may raise
    memory = MEMORY if most == resource.RLIM_INFINITY else min(most, MEMORY)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    text = sys.stdin.buffer.read().decode()
    for messages in (CONVERSATION, LONG_CONVERSATION):
        try:
            template = environment(sandboxed=True).from_string(text)
            template.render(messages=messages, tools=None, add_generation_prompt=True)
        except MemoryError:
            sys.exit(TOO_LARGE)
        except SyntaxError:  # of the Python that Jinja made of it
            sys.exit(TOO_DEEP)
        except Exception:  # whatever a template raises
            continue


def is_plain(text: str) -> bool:
    """Return whether a template only goes through a conversation: its time is bounded by the conversation's length."""
    from jinja2 import nodes

    tree = environment().parse(text)
    if any(tree.find_all((nodes.Pow, nodes.Mul, nodes.Mod, nodes.Filter))) and _multiplies(tree):
        return False
    if _joins(tree) or _grows(tree):
        return False
    macros = {macro.name for macro in tree.find_all(nodes.Macro)}
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name not in HARMLESS | macros:
            return False
    for macro in tree.find_all(nodes.Macro):
        called = {call.node.name for call in macro.find_all(nodes.Call) if isinstance(call.node, nodes.Name)}
        if called & macros:  # perhaps itself
            return False
    return not any(loop.recursive for loop in tree.find_all(nodes.For)) and _loops(tree) <= DEEPEST_LOOPS


def _multiplies(tree: Any) -> bool:
    """Return whether a template makes long texts or numbers of short ones."""
    from jinja2 import nodes

    if any(tree.find_all((nodes.Pow, nodes.Mul))):
        return True
    if any(not isinstance(one.right, nodes.Const) for one in tree.find_all(nodes.Mod)):
        return True
    if any(not isinstance(one.left, nodes.Name | nodes.Getattr) for one in tree.find_all(nodes.Mod)):  # "%9d" % 1
        return True
    widening = {"center", "indent", "format", "batch", "slice", "wordwrap"}
    return any(one.name in widening for one in tree.find_all(nodes.Filter))


def _joins(tree: Any) -> bool:
    """Return whether texts that a template keeps may double: joined of several, in a loop or many times."""
    from jinja2 import nodes

    joined = [kept for kept in tree.find_all((nodes.Assign, nodes.AssignBlock)) if len(_read(kept)) > 1]
    if len(joined) > MANY_JOINED or any(tree.find_all((nodes.CallBlock, nodes.FilterBlock))):
        return True
    looped = [kept for loop in tree.find_all(nodes.For) for kept in loop.find_all((nodes.Assign, nodes.AssignBlock))]
    return any(kept in joined and isinstance(kept.target, nodes.NSRef) for kept in looped)


def _read(kept: Any) -> list[Any]:
    """Return the variables that a kept text is made of, each as often as it is read."""
    from jinja2 import nodes

    value = kept.body if isinstance(kept, nodes.AssignBlock) else [kept.node]
    made = (nodes.Add, nodes.Concat, nodes.Call, nodes.Filter, nodes.List, nodes.Tuple, nodes.Dict, nodes.Output)
    if not any(isinstance(one, made) or any(one.find_all(made)) for one in value):
        return []  # a comparison, a part of another value
    return [name for one in value for name in _names(one)]


def _names(node: Any) -> list[Any]:
    from jinja2 import nodes

    own = [node] if isinstance(node, nodes.Name) and node.ctx == "load" else []
    return own + [name for inner in node.iter_child_nodes() for name in _names(inner)]


def _grows(tree: Any) -> bool:
    """Return whether a template calls what makes a long text of two: a filter or method that is given a variable."""
    from jinja2 import nodes

    def varies(call: Any) -> bool:
        return any(_names(one) for one in (*call.args, *call.kwargs))

    if any(varies(one) for one in tree.find_all(nodes.Filter) if one.name not in PLAIN_FILTERS):
        return True
    methods = [call for call in tree.find_all(nodes.Call) if not isinstance(call.node, nodes.Name)]
    names = [call.node.attr if isinstance(call.node, nodes.Getattr) else "" for call in methods]
    if any(name not in PLAIN_METHODS and varies(call) for name, call in zip(names, methods, strict=True)):
        return True
    return _calls(tree) > DEEPEST_CALLS


def _calls(node: Any) -> int:
    from jinja2 import nodes

    inner = max(map(_calls, node.iter_child_nodes()), default=0)
    return inner + (isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name))


def _loops(node: Any) -> int:
    from jinja2 import nodes

    inner = max(map(_loops, node.iter_child_nodes()), default=0)
    return inner + isinstance(node, nodes.For)
