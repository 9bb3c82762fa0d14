"""Sources and hardware of batch inference: prompts, an adapter, and the machine of generate."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from steps.errors import Problem, nearest, shown
from steps.params.compute import SERVERLESS, PrepareCompute
from steps.params.data import DataSource, HubDataset, RowReading
from steps.params.group import Group
from steps.params.several import LINES

OPEN_INPUT, EVAL_DATA = "open-input", "eval-data"
# Kind of prompt_conf → its keys.
KEYS_OF = {OPEN_INPUT: ("input", "num_samples"), EVAL_DATA: ("data",)}
MOST_SAMPLES = 10_000
EXAMPLE = '{"type": "open-input", "input": "2 + 2?"} or {"type": "eval-data", "data": {"path": "rows.jsonl"}}'


class InferenceCompute(PrepareCompute):
    """Node pool, instance type and GPUs of generate; ignored by local runs."""

    compute_inference: str = SERVERLESS
    """Node pool of generate."""

    instance_type_inference: str = "Standard_nc24rs_v3"
    """Machine of generate: an instance type, or cpu=8,memory=64Gi,gpu=nvidia.com/gpu,gpus=1,gpu_memory=80Gi."""

    number_of_gpu_to_use_inference: int = Field(1, ge=0)
    """GPUs for generate; 0 generates on the CPU. An endpoint needs none."""


class PromptFiles(Group):
    """The rows with prompts."""

    test_file_path: Annotated[str, LINES] = ""
    """Rows with prompts in jsonl, json, csv, tsv, parquet, txt or .gz: files, folders, patterns or URIs."""

    test_mltable_path: str = ""
    """Rows with prompts as an MLTable folder; overrides test_file_path."""


class PromptSource(RowReading, HubDataset, PromptFiles):
    """Where the prompts are, and how they are read."""

    dataset_test_split: str = Field("test", min_length=1)
    """Split of the data set with the prompts."""

    prompt_conf: dict[str, Any] = Field(default_factory=dict)
    """Prompts as JSON: {"type": "open-input", "input": "…", "num_samples": 1}, or {"type": "eval-data", "data": …}."""

    def conflicts(self) -> Iterator[Problem]:
        """Require prompts from exactly one kind of source, and a prompt_conf that can be read."""
        files = self.test_file_path.strip() or self.test_mltable_path.strip()
        if not (files or self.dataset_name.strip() or self.prompt_conf):
            yield Problem("PARAM-E0314", "test_file_path", "nothing", "the prompts",
                          "set test_file_path to a jsonl, json, csv, tsv, parquet or txt file")  # fmt: skip
        if self.prompt_conf and (files or self.dataset_name.strip()):
            names = ("test_mltable_path", "test_file_path", "dataset_name")
            other = next(name for name in names if getattr(self, name).strip())
            yield Problem("PARAM-E0315", "prompt_conf", f"{other} as well", "one of them", "leave one of them out")
        if self.prompt_conf:
            yield from _faults_of(self.prompt_conf)

    @property
    def asked(self) -> tuple[str, ...]:
        """The prompts of an open input, one for each sample; empty for prompts in files."""
        if self.prompt_conf.get("type") != OPEN_INPUT:
            return ()
        return (str(self.prompt_conf["input"]),) * int(self.prompt_conf.get("num_samples", 1))

    @property
    def names_told(self) -> dict[str, str]:
        """What messages say in place of test_file_path: the files of an eval-data are in prompt_conf."""
        named = self.prompt_conf.get("type") == EVAL_DATA and not self.test_file_path
        return {"test_file_path": "prompt_conf"} if named else {}

    @property
    def data_source(self) -> DataSource:
        """The same as parameters of data; its only split is `test`."""
        reading = RowReading.of(self).model_dump() | HubDataset.of(self).model_dump()
        files = PromptFiles.of(self).model_dump()
        if self.prompt_conf.get("type") == EVAL_DATA:
            files["test_file_path"] = "\n".join(paths_of(self.prompt_conf["data"]))
        split = {"dataset_test_split": self.dataset_test_split} if self.dataset_name else {}
        return DataSource(**reading, **files, **split)


def paths_of(data: Any) -> list[str]:
    """Return the paths that `data` of an eval-data names: a path, {path: …} or {datasets: [{path: …}, …]}."""
    if isinstance(data, str):
        return [data] if data.strip() else []
    if not isinstance(data, dict):
        return []
    parts = data.get("datasets", [data])
    paths = [part.get("path") if isinstance(part, dict) else None for part in parts] if isinstance(parts, list) else []
    return [path for path in paths if isinstance(path, str) and path.strip()] if all(paths) else []


def _faults_of(conf: dict[str, Any]) -> Iterator[Problem]:
    kind = conf.get("type")
    if not isinstance(kind, str) or kind not in KEYS_OF:
        fix = nearest(str(kind), KEYS_OF) or f"write it as {EXAMPLE}"
        yield Problem("PARAM-E0316", "prompt_conf.type", shown(kind), f"one of {', '.join(KEYS_OF)}", fix)
        return
    for name in conf.keys() - {"type", *KEYS_OF[kind]}:
        yield Problem("PARAM-E0316", f"prompt_conf.{name}", shown(conf[name]),
                      f"the keys type, {', '.join(KEYS_OF[kind])}",
                      nearest(name, KEYS_OF[kind]) or "leave it out")  # fmt: skip
    if kind == OPEN_INPUT:
        if not isinstance(conf.get("input"), str) or not conf["input"].strip():
            yield Problem("PARAM-E0316", "prompt_conf.input", shown(conf.get("input")), "the prompt, a text",
                          f"write it as {EXAMPLE}")  # fmt: skip
        count = conf.get("num_samples", 1)
        number = isinstance(count, int | float) and not isinstance(count, bool)  # KFP makes whole numbers floats
        if not number or not 1 <= count <= MOST_SAMPLES or count != int(count):
            yield Problem("PARAM-E0316", "prompt_conf.num_samples", shown(count),
                          f"a whole number from 1 to {MOST_SAMPLES:,}", "correct it")  # fmt: skip
    elif not paths_of(conf.get("data")):
        yield Problem("PARAM-E0316", "prompt_conf.data", shown(conf.get("data")), "an object with the path of the rows",
                      f"write it as {EXAMPLE}")  # fmt: skip


class GeneratedOutput(Group):
    """Where the answers are stored besides the artifact, and how a killed run goes on."""

    checkpoint_dir: str = ""
    """Object store (s3://, gs://, az://) or folder on a volume for the finished part; empty: below local runs' root."""

    s3_upload_dir: str = ""
    """Folder or URI (s3, gs, az) that the finished answers are copied to as well; empty: none."""
