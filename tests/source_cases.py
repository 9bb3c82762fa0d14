"""Answers for the sources that verl scores: a table for each family, and random ones."""

import json
import random
from typing import Any

LONG = "so " * 20_000
ADD = "```python\na, b = map(int, input().split())\nprint(a + b)\n```"
SUMS = json.dumps({"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]})
CALLED = json.dumps({"fn_name": "add", "inputs": ["1\n2", "3\n4"], "outputs": ["3", "7"]})
CAPITAL = {"target": ["Paris", "City of Light"]}


def printing(text: str) -> str:
    return f"```python\nprint({text!r})\n```"


def tests(*outputs: str) -> str:
    return json.dumps({"inputs": [""] * len(outputs), "outputs": list(outputs)})


def calling(given: str, expected: str) -> str:
    return json.dumps({"fn_name": "add", "inputs": [given], "outputs": [expected]})


# family → the sources that are tried, and cases of (answer, ground truth)
TABLES: dict[str, tuple[tuple[str, ...], list[tuple[str, Any]]]] = {
    "gsm8k": (
        ("openai/gsm8k",),
        [
            ("2 + 2 = 4\n#### 4", "4"),
            ("#### 5", "4"),
            ("####4", "4"),
            ("####  4", "4"),
            ("The answer is 4", "4"),
            ("\\boxed{4}", "4"),
            ("", "4"),
            ("#### 3\n#### 4", "4"),
            ("#### 4\n#### 3", "4"),
            ("#### 1,234", "1234"),
            ("#### 1234", "1,234"),
            ("#### 4.", "4"),
            ("#### 4.0", "4"),
            ("#### -4", "-4"),
            ("#### $4", "4"),
            ("#### 4 apples", "4"),
            ("#### ٤", "4"),
            ("#### 4" + "\n" * 290, "4"),
            ("#### 4" + "\n" * 300, "4"),
            (LONG + "#### 4", "4"),
            ("<think>#### 3</think> #### 4", "4"),
        ],
    ),
    "math": (
        ("lighteval/MATH", "DigitalLearningGmbH/MATH-lighteval", "HuggingFaceH4/MATH-500"),
        [
            (r"So $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
            (r"\boxed{\dfrac12}", r"\frac{1}{2}"),
            (r"\boxed{0.5}", r"\frac{1}{2}"),
            (r"\boxed{1/2}", r"\frac{1}{2}"),
            (r"\boxed{2/4}", r"\frac{1}{2}"),
            (r"\boxed{x = 5}", "5"),
            (r"\boxed{abc = 5}", "5"),
            (r"\boxed{\sqrt3}", r"\sqrt{3}"),
            (r"\boxed{10\text{ cm}}", "10"),
            (r"\boxed{1\text{ m} 10\text{ cm}}", r"1\text{ m} 10\text{ cm}"),
            (r"\boxed{50\%}", "50"),
            (r"\boxed{90^\circ}", "90"),
            (r"\boxed{.5}", "0.5"),
            (r"\boxed{\left(1, 2\right)}", "(1,2)"),
            (r"\boxed 7$ and", "7"),
            (r"\fbox{7}", "7"),
            (r"\boxed{7", "7"),
            (r"\boxed{6} no, \boxed{7}", "7"),
            (r"\boxed{7} no, \boxed{6}", "7"),
            (r"\boxed{{7}}", "{7}"),
            (r"\boxed{\frac}", r"\frac"),
            (r"\boxed{\frac1}", r"\frac1"),
            (r"\boxed{\sqrt}", r"\sqrt"),
            ("7", "7"),
            ("", "7"),
            (r"\boxed{}", ""),
            (r"\boxed{é}", "é"),
            (r"\boxed{12345678901234567890/3}", r"\frac{12345678901234567890}{3}"),
            (LONG + r"\boxed{7}" + LONG, "7"),
        ],
    ),
    "dapo": (
        ("math", "math_dapo", "math_dapo_reasoning", "aime", "aime2024_x"),
        [
            ("Answer: 34", "34"),
            ("Answer: 35", "34"),
            ("answer : 34", "34"),
            ("Answer:\n34", "34"),
            ("Answer: 3\nAnswer: 34", "34"),
            ("Answer: 34\nAnswer: 3", "34"),
            ("Answer: $34$", "34"),
            ("Answer: x = 34", "34"),
            ("Answer: 34 degrees", "34"),
            ("Answer: an apple", "apple"),
            ("Answer: 1,234", "1234"),
            (r"Answer: \frac12", r"\frac{1}{2}"),
            (r"Answer: \text{yes}", "yes"),
            (r"Answer: \boxed{34}", "34"),
            (r"\boxed{34}", "34"),
            (r"\boxed{ 34 }", "34"),
            (r"Answer: 3 \boxed{34}", "34"),
            (r"\boxed{34}" + " " * 100, "34"),
            (r"\fbox{34}", "34"),
            ("34", "34"),
            ("", "34"),
            ("", "[INVALID]"),
            ("Answer: [INVALID]\n\\boxed{34}", "34"),
            ("Answer: ３４", "34"),
            ("Answer: ²", "²"),
            (LONG + "Answer: 34", "34"),
            ("Answer: 34" + "." * 300, "34"),
            ("Answer: 34.", "34"),
        ],
    ),
    "search": (
        ("searchR1_nq", "searchR1_musique"),
        [
            ("<answer>Paris</answer>", CAPITAL),
            ("<answer> the paris! </answer>", CAPITAL),
            ("<answer>City of Light</answer>", CAPITAL),
            ("<answer>Rome</answer>", CAPITAL),
            ("<answer>Paris, France</answer>", CAPITAL),
            ("<answer>Rome</answer><answer>Paris</answer>", CAPITAL),
            ("<answer>Paris</answer><answer>Rome</answer>", CAPITAL),
            ("<answer>\nParis\n</answer>", CAPITAL),
            ("<answer>Paris", CAPITAL),
            ("Paris</answer>", CAPITAL),
            ("Paris", CAPITAL),
            ("", CAPITAL),
            ("<answer></answer>", CAPITAL),
            ("<answer>a</answer>", {"target": "the"}),
            ("<answer>Paris</answer>", {"target": "Paris"}),
            ("<answer>PARİS</answer>", {"target": "paris"}),
            ("<answer>日本</answer>", {"target": ["日本"]}),
            ("<answer>x</answer>" * 9 + "<answer>Paris</answer>", CAPITAL),
            ("<answer>x</answer>" * 10 + "<answer>Paris</answer>", CAPITAL),
            ("<answer>Paris</answer>" + "<answer>" * 10, CAPITAL),
            ("</answer>" * 11 + "<answer>Paris</answer>", CAPITAL),
            (LONG + "<answer>Paris</answer>", CAPITAL),
        ],
    ),
    "numina": (
        ("numina_aops_forum", "numina_synthetic_math", "numina_amc_aime", "numina_synthetic_amc", "numina_cn_k12",
         "numina_olympiads"),
        [
            (r"Thus \boxed{4}", "4"),
            (r"Thus \boxed{5}", "4"),
            ("The answer is 4", "4"),
            ("4 is the answer", "4"),
            ("We get x = 4", "4"),
            ("4", "4"),
            ("", "4"),
            (r"\boxed{3} no, \boxed{4}", "4"),
            (r"\boxed{4} no, \boxed{3}", "4"),
            (r"\boxed{\frac{1}{2}}", "0.5"),
            (r"\boxed{\frac{1}{2}}", "1/2"),
            (r"\boxed{\frac{2}{4}}", "1/2"),
            (r"\boxed{50\%}", "0.5"),
            (r"\boxed{3.00001}", "3"),
            (r"\boxed{3.1}", "3"),
            (r"\boxed{2\sqrt{2}}", r"\sqrt{8}"),
            (r"\boxed{\sqrt{2}+1}", r"1+\sqrt{2}"),
            (r"\boxed{x+1}", "1+x"),
            (r"\boxed{(x+1)^2}", "x^2+2x+1"),
            (r"\boxed{2+2}", "4"),
            (r"\boxed{(1, 2)}", "(1,2)"),
            (r"\boxed{[1, 2]}", "(1,2)"),
            (r"\boxed{(1, 2, 3)}", "(1,2)"),
            (r"\boxed{1,234}", "1234"),
            (r"\boxed{7\frac{3}{4}}", "31/4"),
            (r"\boxed{\pi}", "3.14159265"),
            (r"\boxed{2\pi}", "6.28"),
            (r"\boxed{\frac{\pi}{2}}", r"\frac{\pi}{2}"),
            (r"\boxed{\text{yes}}", "Yes"),
            (r"\boxed{10 \text{ meters}}", "10"),
            (r"\boxed{1010_2}", "1010"),
            (r"\boxed{10 million}", "10000000"),
            (r"\boxed{-\infty}", r"-\infty"),
            (r"\boxed{90^\circ}", "90"),
            (r"\boxed{9^{9^{9}}}", "3"),
            (r"\boxed{__import__('os')}", "3"),
            (r"\boxed{４}", "4"),
            (LONG + r"\boxed{4}", "4"),
        ],
    ),
    "geometry": (
        ("hiyouga/geometry3k",),
        [
            (r"<think>a</think>\boxed{4}", "4"),
            (r"<think>a</think>\boxed{5}", "4"),
            (r"\boxed{4}", "4"),
            (r"<think>a</think>4", "4"),
            ("", "4"),
            ("", "None"),
            (r"<think>\boxed{4}</think>", "4"),
            (r"<think>\boxed{4}</think>\boxed{5}", "4"),
            (r" <think>a</think>\boxed{4}", "4"),
            (r"<think>a</think>\boxed{4} and so on", "4"),
            (r"<think>a</think>\boxed{4", "4"),
            (r"<think>a</think>\boxed{4.0}", "4"),
            (r"<think>a</think>\boxed{2\sqrt{2}}", r"2 \sqrt { 2 }"),
            (r"<think>a</think>\boxed{\sqrt{8}}", r"2 \sqrt { 2 }"),
            (r"<think>a</think>\boxed{\frac{1}{2}}", "0.5"),
            (r"<think>a</think>\boxed{\frac{\sqrt{3}}{2}}", r"\frac { \sqrt { 3 } } { 2 }"),
            (r"<think>a</think>\boxed{60^\circ}", "60"),
            (r"<think>a</think>\boxed{60 degrees}", "60"),
            (r"<think>a</think>\boxed{３}", "3"),
            (r"<think>" + LONG + r"</think>\boxed{4}", "4"),
            (r"<think>a</think>\boxed{" + "9" * 5000 + "}", "4"),
        ],
    ),
    "code": (
        ("apps", "taco", "codecontests", "codeforces"),
        [
            (ADD, SUMS),
            (ADD.replace("+", "-"), SUMS),
            (ADD.replace("a + b", "3"), SUMS),
            (ADD.removeprefix("```python\n").removesuffix("\n```"), SUMS),
            ("I do not know", SUMS),
            ("", SUMS),
            ("```python\nprint(1)\n```\n" + ADD, SUMS),
            (ADD + "\n```python\nprint(1)\n```", SUMS),
            ("```python\nimport sys\na, b = map(int, sys.stdin.read().split())\nprint(a + b)\nsys.exit()\n```", SUMS),
            ("```python\nif __name__ == '__main__':\n    print(sum(map(int, input().split())))\n```", SUMS),
            ("```python\n1 / 0\n```", SUMS),
            ("```python\n" + "a" * 50_000 + "\n```", SUMS),
            ("```python\ndef add(a, b):\n    return a + b\n```", CALLED),
            ("```python\nclass Solution:\n    def add(self, a, b):\n        return a + b\n```", CALLED),
            ("```python\ndef add(a, b):\n    return 3\n```", CALLED),
            ("```python\ndef add(a, b):\n    return 3\nprint(int(input()) + int(input()))\n```", CALLED),
            ("```python\ndef plus(a, b):\n    return a + b\n```", CALLED),
            ("```python\ndef add(a, b):\n    return (a, b)\n```",
             json.dumps({"fn_name": "add", "inputs": ["1\n2"], "outputs": ["[1, 2]"]})),
            ("```python\ndef add(a):\n    return a[0]\n```",
             json.dumps({"fn_name": "add", "inputs": ["[[1], 2]"], "outputs": ["[[1]]"]})),
            ("```python\ndef add(a):\n    return a[1]\n```", calling('{"1": 2}', "2")),
            ("```python\ndef add(a):\n    return a\n```", calling('{"1": 2}', '{"1": 2}')),
            ("```python\ndef add(a):\n    return a\n```", calling('[{"1": 2}]', '[{"1": 2}]')),
            ("```python\ndef add(a):\n    return [(1, 2), (3, 4)]\n```", calling("0", "[[[1, 2], [3, 4]]]")),
            ("```python\ndef add(a):\n    return [(1, 2), (3, 4)]\n```", calling("0", "[[1, 2], [3, 4]]")),
            ("```python\ndef add(a):\n    return {1, 2}\n```", calling("0", "[1, 2]")),
            ("```python\ndef add(a):\n    return 1.0\n```", calling("0", "1")),
            ("```python\ndef add(a):\n    print(a)\n    return None\n```", calling("0", "null")),
            (printing("日本"), tests("日本")),
            (printing("1.000001"), tests("1.0")),
            (printing("1 2\n\n3"), tests("1 2\n3")),
            (printing("  1  \n 2"), tests("1\n2")),
            (printing("1"), tests(*["1"] * 10, "2")),
            (printing("1"), tests(*["1"] * 5, *["2"] * 5)),
        ],
    ),
}  # fmt: skip

NUMBERS = ("4", "34", "-7", "1,234", "1234", "0.5", ".5", "1/2", r"\frac{1}{2}", r"\frac12", r"\dfrac{3}{4}",
           r"\sqrt{2}", r"\sqrt2", "x+1", "1+x", "(1,2)", "(1, 2)", "50\\%", "x=5", "5", r"10\text{ cm}", "10",
           r"\pi", r"2\pi", "yes", r"\text{yes}", "Paris", "the Paris.", "3.0001", "3", "٣", "²", "ß", "1e3", "1000",
           "10^3", "[0,1)", r"90^\circ", "90", "\\left(1,2\\right)", "a_2", "12_3", "$5$", "5\\!")  # fmt: skip
AROUND = ("", " ", "\n", "so ", "is ", "be ", "= ", ". ", "The answer is ", "Answer: ", "answer:", "#### ", "####",
          "<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "\\boxed ", "\\fbox{", "}", "}", "{", "$",
          "4", ",", "é", "日本", "\u2028", "\x00", "İ", "units", "Final Answer: ")  # fmt: skip
OUTPUTS = ("1", "1\n", " 1 ", "1 2", "1  2", "1\n2", "1\n\n2", "2\n1", "1.0", "1.00001", "1.1", "0.1\n2", "a", "a\nb",
           "nan", "inf", "", "\n", "1e-9", "0", "-1", "٣", "3", "[1, 2]")  # fmt: skip
FORMS = {
    "gsm8k": "#### {}", "math": "\\boxed{{{}}}", "search": "<answer>{}</answer>", "dapo": "Answer: {}",
    "geometry": "<think>a</think>\\boxed{{{}}}", "numina": "answer is {}",
}  # fmt: skip


def random_case(family: str, rng: random.Random) -> tuple[str, Any]:
    """Return a random answer and ground truth, one in three of which could be right."""
    if family == "code":
        printed = rng.choice(OUTPUTS)
        right = [rng.choice((printed, printed.strip(), printed + "\n", printed.replace("1", "1.0")))]
        return printing(printed), tests(*rng.choice((right, right, rng.choices(OUTPUTS, k=rng.choice((1, 1, 2))))))
    truth = rng.choice(NUMBERS)
    given = truth if rng.random() < 0.6 else rng.choice(NUMBERS)
    form = FORMS[family] if rng.random() < 0.8 else rng.choice([*FORMS.values()])
    parts = [*rng.choices(AROUND, k=rng.randint(0, 4)), form.format(given)]
    if rng.random() < 0.2:
        rng.shuffle(parts)
    parts += rng.choices(AROUND, k=rng.choice((0, 0, 0, 1, 3)))
    answer = "".join(parts)
    return answer, {"target": rng.choice([truth, [truth, rng.choice(NUMBERS)]])} if family == "search" else truth
