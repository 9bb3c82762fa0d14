"""Make TRL's preference trainers use prepared tokens, and stored log-probabilities of the reference."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from datasets.table import InMemoryTable

from steps.adapters.layout import reference_of
from steps.errors import Outage, Problem
from steps.finetune.run import Run
from steps.finetune.trainers.reference import Said, identity_of, own_reference
from steps.models.generation_settings import can_be_loaded


class PreparedAnswers:
    """Mixin that precedes a TRL trainer among the base classes.

    prepare_data tokenises exactly as TRL does, so TRL's preparation is skipped. The reference's log-probabilities are
    stored for all trainings that need the same: a resumed one, or another trial of a sweep.
    """

    def __init__(self, run: Run, model: Any, args: Any, **given: Any):
        precomputes = args.precompute_ref_log_probs
        self._shared: Path = run.shared or run.checkpoints
        self._identity = identity_of(run) if precomputes else {}
        # A separate reference whose log-probabilities are all stored is not loaded.
        self._absent = reference_of(run.model) is not None and precomputes and self._has_said_all(given)
        reference = None if self._absent else own_reference(run, model)
        if not can_be_loaded(run.model):  # TRL loads the base once more as the reference, with these arguments
            args.model_init_kwargs = {"generation_config": model.generation_config}
        super().__init__(model=model, args=args, ref_model=reference, **given)  # type: ignore[call-arg]
        if precomputes:
            self.ref_model: Any = None  # frees its memory

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _has_said_all(self, given: dict[str, Any]) -> bool:
        splits = {"train": given["train_dataset"], "eval": given["eval_dataset"]}
        return all(self._said(name, rows).read() is not None for name, rows in splits.items() if rows is not None)

    def _said(self, name: str, rows: Any) -> Said:
        return Said(self._shared, self._identity, name, rows.data.table)

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        table = dataset.data.table
        said = self._said(name, dataset)
        main = self.accelerator.is_main_process  # type: ignore[attr-defined]
        with ExitStack() as stack:
            if main:
                stack.enter_context(said.locked())
            known = [said.read() is not None if main else None]
            broadcast_object_list(known)  # all processes compute, or none: they compute together
            if not known[0] and self._absent:
                raise Outage(
                    Problem("TRAIN-E0411", str(said.folder), "no complete log-probabilities of the reference",
                            "the artifact that was there at the start of the training", "run again")
                )  # fmt: skip
            if not known[0]:
                answered = super()._precompute_ref_logps(dataset, name, batch_size)  # type: ignore[misc]
                new = [column for column in answered.column_names if column not in table.column_names]
                if main:
                    said.write(pa.table({column: answered.data.table[column] for column in new}))
            self.accelerator.wait_for_everyone()  # type: ignore[attr-defined]
        told = said.read()
        assert told is not None
        for column, values in zip(told.column_names, told.columns, strict=True):
            table = table.append_column(column, values)
        return Dataset(InMemoryTable(table))
