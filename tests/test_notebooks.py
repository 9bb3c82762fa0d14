"""The notebooks run from the first to the last cell, and are kept without outputs."""

import ast
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import nbformat
import pytest
from kfp_server import tasks

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))
SHELLS = {"subprocess", "os.system", "os.popen", "pty", "get_ipython"}
LONGEST = 20  # lines of a cell
# What `make test` changes in a cell, so that it trains a few steps; `make test-examples` runs the cells as they are.
FEWER_STEPS = {
    "quickstart": {
        'run("chat_completion", config, num_train_epochs=1)':
        'run("chat_completion", config, max_steps=12, warmup_steps=2, evaluation_max_rows=20, gate_min_value=-1, '
        'gate_must_beat_base=False)'
    },
    "sweep": {'"max_steps": 100, "warmup_steps": 10': '"max_steps": 12, "warmup_steps": 2'},
}  # fmt: skip


def named(file: Path) -> str:
    return file.stem


def code(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=named)
def test_a_notebook_is_valid_short_and_has_no_outputs(file):
    notebook = nbformat.read(file, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        assert cell.metadata == {}
        assert cell.source.strip()
        assert len(cell.source.splitlines()) <= LONGEST
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("file", NOTEBOOKS, ids=named)
def test_no_notebook_uses_a_shell(file):
    for source in code(nbformat.read(file, as_version=4)):
        tree = ast.parse(source)  # a line that begins with ! or % is no Python
        used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute)}
        used |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        used |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not used & SHELLS


@pytest.mark.parametrize("file", NOTEBOOKS, ids=named)
def test_links_of_a_notebook_lead_somewhere(file):
    text = "\n".join(cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    assert [link for link in links if "://" not in link and not (file.parent / link).exists()] == []


@pytest.fixture
def kernels(monkeypatch, tmp_path, warm) -> None:
    """Kernels of this Python, which imports this checkout; nothing is read from or written to the user's folders.

    Their runs share the server that has the libraries.
    """
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        folder = tmp_path / "jupyter" / name.lower()
        folder.mkdir(parents=True)
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def executed(file: Path, folder: Path, changes: Mapping[str, str] | None = None) -> list[nbformat.NotebookNode]:
    """Run every cell of a notebook with `folder` as the working directory, and return the cells of code.

    `changes` are words of its cells, each with what replaces it.
    """
    from nbclient import NotebookClient

    notebook = nbformat.read(file, as_version=4)
    for old, new in (changes or {}).items():
        (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and old in cell.source)
        cell.source = cell.source.replace(old, new)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def shown(cell: nbformat.NotebookNode, kind: str = "text/html") -> str:
    """Return what the last line of a cell gave."""
    (result,) = [output.data for output in cell.outputs if output.output_type == "execute_result"]
    return result[kind]


@pytest.fixture
def dates_here(made, tmp_path) -> Path:
    """A checkout with the dates example and the notebooks, in which a notebook may write."""
    checkout = tmp_path / "checkout"
    for name in ("dates", "made_once.py", "tiny_model.py"):
        place = made / "examples" / name
        copy = shutil.copytree if place.is_dir() else shutil.copy2
        (checkout / "examples").mkdir(parents=True, exist_ok=True)
        copy(place, checkout / "examples" / name)
    shutil.copytree(ROOT / "examples/notebooks", checkout / "examples/notebooks")
    return checkout


IN_FULL = pytest.mark.parametrize("in_full", [False, pytest.param(True, marks=pytest.mark.examples)])


@pytest.mark.slow
@IN_FULL
def test_the_quickstart_trains_a_model_that_passes_the_gate(dates_here, kernels, in_full):
    changes = {} if in_full else FEWER_STEPS["quickstart"]
    cells = executed(ROOT / "examples/notebooks/quickstart.ipynb", dates_here, changes)
    made, check, plan, mistake, run, table, where = cells
    assert "base/ and data/ are current" in printed(made)
    assert "6,000" in shown(check)
    assert "<iframe srcdoc=" in shown(plan)
    assert "optimizer steps               375" in shown(plan, "text/plain")
    assert "did you mean learning_rate?" in printed(mistake)
    assert "lora_r" in printed(mistake)
    assert "<iframe srcdoc=" in shown(run)
    assert "registered models:/dates@champion as version 1" in printed(run)
    progress = [output for output in run.outputs if output.output_type == "display_data"]
    last = "step 375/375" if in_full else "step 12/12  "
    assert [output.data["text/plain"][:12] for output in progress] == [last], "one output for all steps"
    assert "step " not in printed(run).replace("training from step 0", "").replace("optimizer step", "")
    assert "exact_match" in shown(table)
    assert "Passed: exact_match" in printed(where)
    assert (dates_here / "runs").is_dir()


@pytest.mark.slow
def test_the_quickstart_also_starts_in_its_own_folder(dates_here, kernels):
    """Its first cells, the only ones that depend on the folder."""
    notebook = nbformat.read(ROOT / "examples/notebooks/quickstart.ipynb", as_version=4)
    kept = [cell for cell in notebook.cells if "run(" not in cell.source or "runpy" in cell.source]
    notebook.cells = [cell for cell in kept if "result" not in cell.source]
    shorter = dates_here / "shorter.ipynb"
    nbformat.write(notebook, shorter)
    made, check, *_ = executed(shorter, dates_here / "examples/notebooks")
    assert "base/ and data/ are current" in printed(made)
    assert "6,000" in shown(check)


@pytest.mark.slow
@IN_FULL
def test_the_sweep_notebook_registers_the_best_trial_and_opens_it_again(dates_here, kernels, in_full):
    cells = executed(ROOT / "examples/notebooks/sweep.ipynb", dates_here, {} if in_full else FEWER_STEPS["sweep"])
    _, _, mistakes, run, wait, table, final, again = cells
    for told in ("did you mean lora_r?", "adam-w"):
        assert told in printed(mistakes)
    assert "running" in shown(run)
    progress = [output for output in wait.outputs if output.output_type == "display_data"]
    assert [output.data["text/plain"][:31] for output in progress] == ["dates-rates: 6 of 6 trials, bes"]
    assert "<iframe srcdoc=" in shown(wait)
    assert shown(table).count("<tr") == 2 + 6  # with two of the head
    assert "Passed: loss" in printed(final)
    assert "models:/dates" in printed(final)
    assert shown(again, "text/plain") == "'finished'"
    trials = sorted((dates_here / "runs/sweeps/dates-rates/trials").iterdir())
    logs = [(trial / "log.txt").read_text() for trial in trials]
    assert [log.count("training from step") for log in logs] == [1] * 6


@pytest.mark.slow
def test_the_cluster_notebook_runs_against_a_server(kfp_server, kernels, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    kfp_server.progress = [tasks("SUCCEEDED", plan="SUCCEEDED", evaluate="SUCCEEDED")]
    cells = executed(ROOT / "examples/notebooks/cluster.ipynb", tmp_path)
    start, upload, submit, wait, state, recent, schedule, pause, resume, delete = cells
    assert kfp_server.url in shown(start, "text/plain")
    assert "chat-completion" in shown(upload)
    (run,) = kfp_server.runs.values()
    assert f'<a href="{kfp_server.url}/#/runs/details/{run["run_id"]}"' in shown(submit)
    assert run["runtime_config"]["parameters"]["learning_rate"] == 1e-4
    assert "SUCCEEDED" in shown(wait)
    assert printed(state).startswith("SUCCEEDED http")
    assert run["display_name"] in shown(recent)
    assert "ENABLED" in shown(schedule)
    assert "DISABLED" in shown(pause)
    assert "ENABLED" in shown(resume)
    assert "deleted" in shown(delete)
    assert kfp_server.schedules == {}


@pytest.mark.slow
def test_a_mistake_in_a_notebook_shows_what_was_found_and_no_stack(kernels, tmp_path):
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    calls = ["from pipelines import check_data, plan, submit", "plan('chat_completion', lora_r=0)",
             "check_data('chat_completion', train='none.jsonl')", "submit('chat_completion', 'none.yaml')"]  # fmt: skip
    notebook = new_notebook(cells=[new_code_cell(call) for call in calls])
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", allow_errors=True, resources=where).execute()
    for cell in notebook.cells[1:]:
        (output,) = cell.outputs
        assert output.output_type == "error"
        assert output.traceback[0] == "UserError:"
        assert all(re.match(r"[A-Z]+-E\d{4} ", line) for line in output.traceback[1:])
