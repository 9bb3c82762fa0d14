"""The plan of adapter_tools: what it refuses before anything is fetched, and its outputs."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from conftest import build_model, build_tokenizer
from small_adapters import change_settings, save_adapter

from steps import wire
from steps.adapter_tools.importing import import_adapter
from steps.adapter_tools.tool import adapter_tool
from steps.artifacts import new_artifact, read_manifest
from steps.errors import StepError, UserError
from steps.import_model.step import import_model
from steps.params.planned import AdapterToolsPlan
from steps.params.settings import AdapterSettings, AdapterToolSettings, ImportSettings, Resolved
from steps.plan.step import plan

BUCKET = "adapters"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    build_model(folder, tie_word_embeddings=False)
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    return save_adapter(base, tmp_path_factory.mktemp("adapter") / "adapter", target_modules=["q_proj"])


@pytest.fixture(scope="module")
def with_copies(base, tmp_path_factory) -> Path:
    return save_adapter(base, tmp_path_factory.mktemp("copies") / "adapter", modules_to_save=["lm_head"])


@pytest.fixture(scope="module")
def with_trained_head(base, tmp_path_factory) -> Path:
    return save_adapter(base, tmp_path_factory.mktemp("head") / "adapter", whole=0.1, modules_to_save=["lm_head"])


@pytest.fixture
def planned(base, tmp_path):
    def make(**given: object) -> AdapterToolsPlan:
        arguments = {
            "pytorch_model_path": str(base),
            **{name: str(v) if isinstance(v, Path) else v for name, v in given.items()},
        }
        made = plan("adapter_tools", arguments, tmp_path / "plan", tmp_path / "plan.html")
        assert isinstance(made, AdapterToolsPlan)
        return made

    return make


def refused(planned, **given: object) -> str:
    with pytest.raises(StepError) as caught:
        planned(**given)
    for problem in caught.value.problems:
        assert "tmp/tmp" not in str(problem)  # folders have the names that the user gave them
    return str(caught.value)


def run(made: AdapterToolsPlan, folder: Path) -> Path:
    """Run the steps behind the plan."""
    import_model(ImportSettings.model_validate(wire.load(made.model)), folder / "model", folder / "tokenizer")
    import_adapter(AdapterSettings.model_validate(wire.load(made.adapter)), folder / "adapter")
    settings = AdapterToolSettings.model_validate(wire.load(made.tool))
    adapter_tool(settings, folder / "model", folder / "adapter", folder / "result")
    return folder / "result"


def test_every_action_is_planned_and_runs_as_planned(planned, base, adapter, with_copies, tmp_path):
    from steps.merge_adapter.step import merge_adapter

    result = run(planned(action="merge", adapter_path=adapter), tmp_path / "merge")
    merge_adapter(base, adapter, tmp_path / "alone")
    assert (result / "model.safetensors").read_bytes() == (tmp_path / "alone/model.safetensors").read_bytes()
    result = run(planned(action="vllm", adapter_path=with_copies), tmp_path / "vllm")
    assert read_manifest(result, "adapter").facts["left_out"] == ["base_model.model.lm_head.weight"]
    result = run(planned(action="check", adapter_path=adapter), tmp_path / "check")
    assert json.loads((result / "check.json").read_text())["fits"] is True
    result = run(planned(action="replace_tokens", replacements={"<|im_end|>": "</s>"}), tmp_path / "rename")
    assert "</s>" in (result / "tokenizer.json").read_text()
    assert read_manifest(result).kind == "model"


def test_tokens_of_an_adapter_are_renamed_where_there_is_one(planned, adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "adapter")
    build_tokenizer(tmp_path / "adapter")
    given = {"action": "replace_tokens", "replacements": {"<|im_end|>": "</s>"}, "adapter_path": tmp_path / "adapter"}
    result = run(planned(**given), tmp_path / "run")
    assert read_manifest(result).kind == "adapter"
    assert "</s>" in (result / "tokenizer.json").read_text()
    assert not (tmp_path / "run/model/model.safetensors").exists()  # of the base, nothing else is needed


def test_weights_that_no_tool_reads_are_not_imported(planned, adapter, with_copies):
    def new_weights(**given: object) -> bool:
        return ImportSettings.model_validate(wire.load(planned(**given).model)).new_weights

    assert new_weights(action="vllm", adapter_path=adapter)
    assert not new_weights(action="vllm", adapter_path=with_copies)
    assert not new_weights(action="merge", adapter_path=adapter)
    assert not new_weights(action="check", adapter_path=adapter)


def test_the_plan_tells_what_will_run(planned, adapter, tmp_path):
    planned(action="merge", adapter_path=adapter)
    told = json.loads((tmp_path / "plan/plan.json").read_text())
    assert [task["task"] for task in told["tasks"]] == ["import_model", "import_adapter", "adapter_tool"]
    assert [source["what"] for source in told["sources"]] == ["model", "adapter"]
    page = (tmp_path / "plan.html").read_text()
    assert str(adapter) in page
    assert "merge the adapter into the base model" in page


WRONG = {
    "no adapter": ({"action": "merge"}, "adapter_path"),
    "another action's option": ({"action": "merge", "adapter_path": "a", "replacements": {"a": "b"}}, "PARAM-E0291"),
    "nothing to rename": ({"action": "replace_tokens"}, "PARAM-E0292"),
    "a name that is no text": ({"action": "replace_tokens", "replacements": {"a": 3}}, "replacements.a"),
    "an action that is none": ({"action": "train", "adapter_path": "a"}, "one of merge, vllm, replace_tokens, check"),
    "no such folder": ({"action": "check", "adapter_path": "/nowhere/adapter"}, "nothing at '/nowhere/adapter'"),
    "a scheme that is not opened": ({"action": "check", "adapter_path": "http://a/b"}, "URI-E0102"),
    "an unknown token": ({"action": "replace_tokens", "replacements": {"<|im_nd|>": "x"}}, "did you mean <|im_end|>?"),
    "an instance type": ({"action": "check", "adapter_path": "a", "instance_type_model_import": "x"}, "PLAN-E0201"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_parameter_is_refused_by_the_plan(planned, case):
    given, words = WRONG[case]
    assert words in refused(planned, **given)


def test_what_the_tools_would_refuse_is_refused_by_the_plan(planned, base, adapter, with_trained_head, tmp_path):
    assert "ADAPTER-E0208" in refused(planned, action="vllm", adapter_path=with_trained_head)
    assert "MERGE-E0102" in refused(planned, action="check", adapter_path=base)
    dora = change_settings(Path(shutil.copytree(adapter, tmp_path / "dora")), use_dora=True)
    assert "ADAPTER-E0202" in refused(planned, action="vllm", adapter_path=dora)
    build_model(tmp_path / "wide", hidden_size=128)
    for action in ("check", "merge"):
        told = refused(planned, action=action, adapter_path=adapter, pytorch_model_path=tmp_path / "wide")
        assert "MERGE-E0205" in told
        assert str(adapter) in told
    hint = tmp_path / "hint.yaml"
    hint.write_text("- 1")
    assert "ADAPTER-E0210" in refused(planned, action="vllm", adapter_path=adapter, training_config=hint)


def test_an_artifact_of_another_base_is_refused_by_the_plan(planned, base, adapter, tmp_path):
    def as_artifact(folder: Path, name: str, kind: str, **lineage: object) -> Path:
        with new_artifact(tmp_path / name, kind, lineage) as draft:
            for file in folder.iterdir():
                shutil.copyfile(file, draft / file.name)
        return tmp_path / name

    model = as_artifact(base, "model", "model")
    good = as_artifact(adapter, "good", "adapter", inputs={"model": read_manifest(model).digest})
    bad = as_artifact(adapter, "bad", "adapter", inputs={"model": "0" * 64})
    made = planned(action="check", adapter_path=good, pytorch_model_path=model)
    assert "MERGE-E0201" in refused(planned, action="check", adapter_path=bad, pytorch_model_path=model)
    result = run(made, tmp_path / "run")
    assert json.loads((result / "check.json").read_text())["same_base"] is True


def test_an_adapter_that_changed_after_the_plan_is_refused(adapter, tmp_path):
    settings = AdapterSettings(source=Resolved(uri=str(adapter), digest="0" * 64))
    with pytest.raises(UserError, match="ADAPTER-E0102"):
        import_adapter(settings, tmp_path / "adapter")


def test_a_link_out_of_the_adapters_folder_is_refused(adapter, tmp_path):
    from steps.errors import SecurityRefusal
    from steps.sources import storage

    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    (tmp_path / "secret").write_text("{}")
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "README.md").symlink_to(tmp_path / "secret")
    settings = AdapterSettings(source=Resolved(uri=str(folder), digest=storage.digest_of("adapter_path", str(folder))))
    with pytest.raises(SecurityRefusal, match="ADAPTER-E0401"):
        import_adapter(settings, tmp_path / "out")


@pytest.fixture(scope="module")
def bucket(base, adapter, with_trained_head):
    """An S3 server on this machine that holds base and adapters, and counts the bytes that are read."""
    from moto.server import ThreadedMotoServer

    patch = pytest.MonkeyPatch()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test",
                        "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}.items():  # fmt: skip
        patch.setenv(name, value)
    import s3fs

    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    filesystem.makedirs(BUCKET, exist_ok=True)  # a worker may come to this module twice
    for name, folder in (("base", base), ("good", adapter), ("head", with_trained_head)):
        for file in folder.iterdir():
            filesystem.pipe(f"{BUCKET}/{name}/{file.name}", file.read_bytes())
    yield f"s3://{BUCKET}"
    server.stop()
    patch.undo()


def test_a_model_in_object_storage_is_judged_by_its_headers(planned, bucket, adapter, tmp_path):
    given = {"pytorch_model_path": f"{bucket}/base"}
    build_model(tmp_path / "wide", hidden_size=128)
    told = refused(planned, action="check", adapter_path=f"{bucket}/good", pytorch_model_path=tmp_path / "wide")
    assert "MERGE-E0205" in told
    assert f"{bucket}/good" in told
    result = run(planned(action="merge", adapter_path=f"{bucket}/good", **given), tmp_path / "run")
    assert read_manifest(result, "model").facts["merged_by_name"] == {"q_proj": 2}
    # Values lie where the plan does not fetch them from, so the tool refuses what the plan cannot see.
    made = planned(action="vllm", adapter_path=f"{bucket}/head", **given)
    with pytest.raises(UserError, match="ADAPTER-E0208"):
        run(made, tmp_path / "head")


def test_the_plan_loads_no_torch(base, adapter, tmp_path):
    import subprocess

    script = (
        "import sys\nfrom steps.running import run_step\nfrom pathlib import Path\n"
        "base, adapter, folder = sys.argv[1:]\n"
        "arguments = {'pytorch_model_path': base, 'adapter_path': adapter, 'action': 'vllm'}\n"
        "run_step('plan', pipeline='adapter_tools', arguments=arguments, plan=folder + '/p', report=folder + '/r')\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script, base, adapter, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
