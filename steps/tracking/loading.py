"""Import MLflow's client before a second thread uses it."""

from __future__ import annotations

import importlib

ALWAYS = ("mlflow", "mlflow.entities", "mlflow.exceptions", "mlflow.store.artifact.local_artifact_repo")
DATABASE = ("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.tracking.sqlalchemy_workspace_store",
            "mlflow.store.model_registry.sqlalchemy_store", "alembic.command")  # fmt: skip
SERVER = ("mlflow.store.tracking.rest_store", "mlflow.store.model_registry.rest_store",
          "mlflow.store.artifact.mlflow_artifacts_repo")  # fmt: skip


def load_client(uri: str) -> None:
    """Import what a client of this server needs, in the thread that calls.

    If one thread imports MLflow while another imports the training libraries, each can meet a package that the other
    has half imported (pandas, scikit-learn, pyarrow), and the run ends with an ImportError.
    """
    for module in (*ALWAYS, *(SERVER if uri.startswith("http") else DATABASE)):
        importlib.import_module(module)
