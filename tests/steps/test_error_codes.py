"""An error code has one meaning, so that a search for it finds one answer.

A code belongs to the function that raises it. If several functions raise the same error, the code and its meaning are
in SHARED; a new error with its own code needs no entry.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"[A-Z]+-[EWF]\d{4}")

# Told in several functions, with one meaning.
SHARED = {
    "ADAPTER-E0205": "a model that was tuned whole, where an adapter is wanted",
    "BUG-E0070": "an end that no error of ours explains",
    "CHECKPOINT-E0101": "checkpoints of which none is valid",
    "DATA-E0101": "an empty file",
    "DATA-E0107": "a file whose name or content is no format of rows",
    "DATA-E0109": "a row larger than max_row_mib",
    "DATA-E0201": "a line that is not one JSON object",
    "DATA-E0203": "more than one JSON value where one belongs",
    "DATA-E0204": "a comma with nothing behind it",
    "DATA-E0502": "a parquet file that was damaged",
    "DATA-E0602": "a value that is no text",
    "DATA-E0603": "an empty text",
    "DATA-E0704": "fewer training rows than one step takes",
    "DATA-E0804": "no row of a split is short enough",
    "DATA-E0806": "a chat template that Jinja cannot read",
    "DATA-E0807": "a tokenizer without an end-of-text token",
    "DATA-E0809": "a tokenizer that does not say where each character went",
    "DATA-E0811": "a chat template of tokens that the tokenizer lacks",
    "DATA-E0813": "a tokenizer with nothing to fill up a batch",
    "DATA-E0814": "a maximum length that leaves no room for text",
    "DATA-E0820": "no prompt of a split is short enough",
    "DATA-E1004": "a label that is not one of the classes",
    "DATA-E1201": "answers that are not lists of texts and starts",
    "DATA-E1504": "no answer behind the prompt",
    "DATA-E2001": "an MLTable that leaves its folder",
    "DATA-E2006": "an MLTable whose paths cannot be read",
    "DATA-E2202": "a processing function that cannot be found",
    "DATA-F0102": "blank lines were skipped",
    "DATA-F0113": "files of a folder that hold no rows were skipped",
    "DATA-W0601": "no space between a prompt and its answer",
    "DATA-W0804": "rows that are too long were truncated or left out",
    "DATA-W0807": "prompts that are too long were truncated or left out",
    "EVAL-E0202": "test rows without a token to judge by",
    "EVAL-E0206": "a gate_metric that has no value for these rows",
    "FILE-E0101": "a file or folder that this user may not write",
    "MERGE-E0101": "no model folder where the base should be",
    "MERGE-E0102": "no adapter folder where the adapter should be",
    "MERGE-E0105": "an output folder that holds the input",
    "MERGE-E0106": "settings of an adapter or model that cannot be read",
    "MERGE-E0201": "an adapter of another base",
    "MERGE-E0303": "a result that is not finite",
    "MODEL-E0123": "an adapter on an adapter",
    "MODEL-E0301": "weights that are pickled only",
    "PARAM-E0100": "no pipeline of that name",
    "PLAN-E0364": "a checkpoint that cannot be resumed from",
    "TRAIN-E1431": "a training that was stopped from outside",
    "URI-E0401": "a place that gives no answer",
    "PARAM-E0101": "no parameter of that name",
    "PARAM-E0206": "train_on_completions_only without a column for the answers",
    "PARAM-E0255": "a parameter that the method of learning preferences does not read",
    "PARAM-E0261": "a parameter that the kind of adapter does not read",
    "PARAM-E0263": "a value of peft_kwargs that the kind of adapter cannot have",
    "PARAM-E0278": "what a quantised base cannot be combined with",
    "PARAM-E0302": "a secret in a parameter, or in a file that is stored like one",
    "PLAN-E0102": "a parameter without effect for this model",
    "PLAN-E0318": "an evaluation_config that cannot be read",
    "PLAN-E0334": "a setting of DeepSpeed that needs an operator compiled first",
    "TRAIN-E0602": "weights that are not finite",
}


def python_files() -> list[Path]:
    return sorted([*ROOT.glob("steps/**/*.py"), *ROOT.glob("pipelines/**/*.py")])


def sites(text: str) -> Iterator[tuple[str, str, int, str]]:
    """Yield (code, function, line, what is told with it) for each place that tells a code, not for comparisons."""
    tree = ast.parse(text)
    parent = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
            around = parent[node]
            if not isinstance(around, ast.Compare | ast.Set):
                told = " ".join((ast.get_source_segment(text, around) or "").split())
                yield node.value, function_of(node, parent), node.lineno, told


def function_of(node: ast.AST, parent: dict[ast.AST, ast.AST]) -> str:
    names = []
    while node in parent:
        node = parent[node]
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
    return ".".join(reversed(names))


@cache
def told() -> dict[str, dict[str, list[str]]]:
    """Code → function → what is told with it there."""
    codes: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for file in python_files():
        for code, function, line, what in sites(file.read_text("utf-8")):
            codes[code][f"{file.relative_to(ROOT)} {function}"].append(f"{line}: {what}")
    return codes


def test_a_code_means_one_thing():
    codes = told()
    assert len(codes) > 400
    several = [
        "\n".join([code, *(f"  {function}:{what}" for function, all_ in functions.items() for what in all_)])
        for code, functions in codes.items()
        if len(functions) > 1 and code not in SHARED
    ]
    way_out = "\nGive one of them another free number; or, where they mean the same, write the code into SHARED."
    assert not several, "\n".join(several) + way_out


def test_every_shared_code_is_told_in_several_functions():
    codes = told()
    assert [code for code in SHARED if len(codes[code]) < 2] == []


def test_every_text_like_a_code_is_one():
    """A code that is misspelled, or glued together at run time, would not be seen above."""
    odd = []
    for file in python_files():
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Problem", "Fault") and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and not CODE.fullmatch(str(first.value)):
                    odd.append(f"{file.relative_to(ROOT)}:{node.lineno} {first.value}")
                elif isinstance(first, ast.JoinedStr):
                    odd.append(f"{file.relative_to(ROOT)}:{node.lineno} an f-string")
    assert odd == []


def test_places_are_told_from_comparisons():
    one = """
class Group:
    def conflicts(self):
        yield Problem("PLAN-E0001", "a", "b", "c", "d")
if code == "PLAN-E0002" or code in {"PLAN-E0003"}: pass
MAPPED = ("DATA-F0001", "what")
"""
    found = {(code, function, line) for code, function, line, _ in sites(one)}
    assert found == {("PLAN-E0001", "Group.conflicts", 4), ("DATA-F0001", "", 6)}
