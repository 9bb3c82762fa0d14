"""Prompt tuning: trained as by TRL and PEFT, stored beside its base, evaluated and served as PEFT computes it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import FINETUNE
from conftest import build_model
from test_adapter_training import bare_losses, five_steps
from training_inputs import TRAINING, settings_with, train

from steps.artifacts import read_manifest
from steps.errors import NumericError, UserError
from steps.merge_adapter.step import merge_adapter
from steps.params.lora import LoraParams
from steps.params.training import CheckpointParams

pytestmark = pytest.mark.usefixtures("local_root")

PROMPT = {"peft_type": "prompt_tuning", "num_virtual_tokens": 6}
# Right answers of several lengths, so that a batch has padding.
QUESTIONS = ["What comes after 7?", "7", "Say what comes after the number that comes after 12, please", "Hello there"]


def adapter_by_peft(model: Path, folder: Path, virtual_tokens: int = 6) -> Path:
    """Save an adapter that PEFT has made of vectors as large as those of the model's own tokens."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=virtual_tokens)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    return folder


def by_peft(model: Path, adapter: Path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter).eval()


def greedy(adapted, ids: list[int], steps: int, ends: set[int]) -> list[int]:
    """Write an answer by PEFT's forward alone, without a cache, a row at a time."""
    import torch

    written: list[int] = []
    for _ in range(steps):
        with torch.no_grad():
            logits = adapted(input_ids=torch.tensor([ids + written])).logits
        written.append(int(logits[0, -1].argmax()))
        if written[-1] in ends:
            break
    return written


@pytest.mark.slow
@pytest.mark.parametrize("start", ["RANDOM", "SAMPLE_VOCAB"])
def test_it_learns_as_in_peft(start, model, tokenizer, data, tmp_path, peer):
    ours = {**PROMPT, "peft_kwargs": {} if start == "RANDOM" else {"prompt_tuning_init": start}}
    history = train(five_steps(ours), model, data, tmp_path / "ours")
    losses = [point["loss"] for point in history["points"]]
    theirs = {"num_virtual_tokens": 6, "prompt_tuning_init": start}
    assert losses == pytest.approx(
        peer(bare_losses, model, tokenizer, tmp_path / "bare", "PromptTuningConfig", theirs), abs=1e-6
    )
    hidden = json.loads((model / "config.json").read_text())["hidden_size"]
    assert history["parameters"]["trainable"] == 6 * hidden


@pytest.mark.slow
def test_it_resumes_bit_for_bit_and_begins_as_the_seed_says(model, data, tmp_path):
    from safetensors.torch import load_file

    written = {}
    for out, seed, resume in (("unbroken", 42, "false"), ("resumed", 42, "true"), ("another seed", 43, "false")):
        if resume == "true":  # as if it had been killed behind its third step
            for checkpoint in (tmp_path / "root").glob("checkpoints/*/*/checkpoint-6"):
                shutil.rmtree(checkpoint)
        training = {**TRAINING, "max_steps": 6, "evaluation_strategy": "steps", "eval_steps": 3, "seed": seed}
        settings = settings_with(
            training,
            lora=LoraParams(apply_lora=True, **PROMPT),
            checkpoints=CheckpointParams(save_steps=3, keep_checkpoints="true", resume_from_checkpoint=resume),
        )
        history = train(settings, model, data, tmp_path / out)
        assert history["resumed_from"] == (3 if resume == "true" else None)
        written[out] = (tmp_path / out / "tuned/adapter_model.safetensors").read_bytes()
    assert written["unbroken"] == written["resumed"]
    one, other = (
        load_file(tmp_path / out / "tuned/adapter_model.safetensors")["prompt_embeddings"]
        for out in ("unbroken", "another seed")
    )
    assert (one - other).abs().mean() > 0.1


@pytest.mark.slow
def test_gradient_checkpointing_and_sixteen_bits_train_the_same_vectors(model, data, tmp_path):
    from safetensors.torch import load_file

    plain = train(five_steps(PROMPT), model, data, tmp_path / "plain")
    training = {"max_steps": 5, "evaluation_strategy": "no", "gradient_checkpointing": "true"}
    saving = settings_with(training, lora=LoraParams(apply_lora=True, **PROMPT))
    recomputed = train(saving, model, data, tmp_path / "saving")
    losses = [[point["loss"] for point in history["points"]] for history in (plain, recomputed)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    half = settings_with({**training, "precision": "16"}, lora=LoraParams(apply_lora=True, **PROMPT))
    shorter = train(half, model, data, tmp_path / "half")
    assert losses[0] == pytest.approx([point["loss"] for point in shorter["points"]], abs=0.05)
    saved = load_file(tmp_path / "half/tuned/adapter_model.safetensors")["prompt_embeddings"]
    assert (saved != saved.bfloat16().float()).any()


def kept(model: Path, folder: Path) -> tuple[Path, Path]:
    """Make an adapter, and the model that holds it beside its base."""
    adapter = adapter_by_peft(model, folder / "adapter")
    merge_adapter(model, adapter, folder / "merged")
    return adapter, folder / "merged"


def test_the_base_stays_as_it_is_and_the_adapter_lies_beside_it(model, tmp_path, caplog):
    caplog.set_level("INFO", logger="finetune")
    adapter, merged = kept(model, tmp_path)
    assert (merged / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (merged / "adapter" / name).read_bytes() == (adapter / name).read_bytes()
    told = read_manifest(merged)
    assert told.facts["kept_adapter"] == "PROMPT_TUNING"
    assert {"tokenizer.json", "config.json", "adapter/adapter_model.safetensors"} <= set(told.files)
    assert "the base is copied unchanged" in caplog.text


def change_config(adapter: Path, **changes) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_what_does_not_belong_to_the_base_is_refused(model, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    adapter = adapter_by_peft(model, tmp_path / "adapter")
    build_model(tmp_path / "wide", hidden_size=128)
    with pytest.raises(UserError, match="MERGE-E0210"):
        merge_adapter(tmp_path / "wide", adapter, tmp_path / "merged")
    change_config(adapter, num_virtual_tokens=5)
    with pytest.raises(UserError, match="MERGE-E0210"):
        merge_adapter(model, adapter, tmp_path / "merged")
    change_config(adapter, num_virtual_tokens=6, task_type="SEQ_CLS")
    with pytest.raises(UserError, match="MERGE-E0211"):
        merge_adapter(model, adapter, tmp_path / "merged")
    change_config(adapter, task_type="CAUSAL_LM")
    vectors = load_file(adapter / "adapter_model.safetensors")
    vectors["prompt_embeddings"][2, 3] = torch.nan
    save_file(vectors, adapter / "adapter_model.safetensors")
    with pytest.raises(NumericError, match="MERGE-E0303"):
        merge_adapter(model, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_model_with_a_prompt_beside_it_is_no_base(model, tmp_path):
    from steps.finetune.continuing import continued
    from steps.models.layout import read_layout

    _, merged = kept(model, tmp_path)
    names = {str(file.relative_to(merged)): file.stat().st_size for file in merged.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match="MODEL-E0113"):
        read_layout("pytorch_model_path", "pytorch", names, lambda name: (merged / name).read_bytes())
    with pytest.raises(UserError, match="TRAIN-E0217"):
        continued(None, merged, five_steps(PROMPT))


def test_the_loaded_model_gives_the_logits_of_peft(model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from steps.evaluate.transformers_engine import load

    adapter, merged = kept(model, tmp_path)
    ids = torch.tensor([[5, 9, 12, 7]])
    with torch.no_grad():
        ours, theirs = (one(input_ids=ids).logits for one in (load(AutoModelForCausalLM, merged, "32"),
                                                              by_peft(model, adapter)))  # fmt: skip
    assert ours.shape[1] == 10
    assert torch.equal(ours, theirs)


def test_the_losses_of_rows_are_those_of_peft_and_independent_of_other_rows(model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from steps.evaluate.held_out import HeldOut
    from steps.evaluate.losses import row_losses
    from steps.evaluate.transformers_engine import load

    adapter, merged = kept(model, tmp_path)
    rows = [[5, 9, 12, 7, 8, 4], [6, 11], [4, 4, 9]]
    held_out = HeldOut(rows, rows, [None] * 3, [None] * 3, rendered=True)
    with torch.no_grad():
        nll, count = row_losses(load(AutoModelForCausalLM, merged, "32"), held_out, 3)
        adapted = by_peft(model, adapter)
        for row, total, tokens in zip(rows, nll, count, strict=True):
            # PEFT's own loss counts the first token too, which the vectors predict.
            labels = torch.tensor([[-100, *row[1:]]])
            assert tokens == len(row) - 1
            assert total / tokens == pytest.approx(
                adapted(input_ids=torch.tensor([row]), labels=labels).loss.item(), abs=1e-5
            )


def build_gpt2(folder: Path, tokens: Path) -> Path:
    """Make a model that knows places by a table, not by turning."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, set_seed

    tokenizer = AutoTokenizer.from_pretrained(tokens)
    set_seed(7)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=128, n_embd=64, n_layer=2, n_head=4, initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_answer_is_that_of_peft_and_independent_of_other_rows(kind, tiny_model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from steps.evaluate.transformers_engine import load
    from steps.generation.generating import answers, end_tokens
    from steps.generation.tokenizer import load_tokenizer

    base = tiny_model if kind == "llama" else build_gpt2(tmp_path / "gpt2", tiny_model)
    adapter, merged = kept(base, tmp_path)
    model, tokenizer = load(AutoModelForCausalLM, merged, "32"), load_tokenizer(merged)
    adapted, ends = by_peft(base, adapter), set(end_tokens(model, tokenizer) or [])
    asked = [greedy(adapted, tokenizer(text)["input_ids"], 12, ends) for text in QUESTIONS]
    right = tokenizer.batch_decode(asked, skip_special_tokens=True)
    assert len(set(right)) > 1
    with torch.inference_mode():
        for at_once in (1, 4):
            told = answers(model, tokenizer, QUESTIONS, rendered=False, max_new_tokens=12, batch_size=at_once)
            assert told == right, at_once


A_RUN = {
    "apply_lora": True, **PROMPT, "num_train_epochs": 4, "learning_rate": 0.1, "lr_scheduler_type": "constant",
    "evaluation_max_rows": 16, "evaluation_max_new_tokens": 8, "registered_model_name": "prompted",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.long
def test_a_run_ends_in_a_version_that_beats_the_base_and_answers_as_peft_does(
    tiny_model, chat_file, tmp_path, runs_root, warm
):
    import mlflow

    root = runs_root
    words = [f"{name}={value}" for name, value in A_RUN.items()]
    words += [f"pytorch_model_path={tiny_model}", f"train_file_path={chat_file}", "number_of_gpu_to_use_finetuning=0"]
    command = [*FINETUNE, "run", "chat_completion", "--root", root, "--json"]
    command += [word for pair in words for word in ("-p", pair)]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)
    assert result["status"] == "succeeded"
    assert result["metrics"]["tuned"]["loss"] < result["metrics"]["base"]["loss"]
    assert result["registered"]["name"] == "prompted"
    merged, tuned = (Path(result["artifacts"][name]) for name in ("merged", "tuned"))
    assert read_manifest(merged).facts["kept_adapter"] == "PROMPT_TUNING"
    (package,) = root.glob("*/steps/**/mlflow_model")
    assert "peft==" in (package / "requirements.txt").read_text()
    assert "PeftModel.from_pretrained" in next(package.rglob("README.md")).read_text()
    served = mlflow.pyfunc.load_model(str(package))
    told = served.predict([{"prompt": text} for text in QUESTIONS], params={"max_new_tokens": 8})
    assert told == answers_of_peft(tiny_model, tuned)
    assert [served.predict([{"prompt": text}], params={"max_new_tokens": 8})[0] for text in QUESTIONS] == told


def answers_of_peft(base: Path, tuned: Path) -> list[str]:
    from transformers import AutoTokenizer

    tokenizer, adapted = AutoTokenizer.from_pretrained(tuned), by_peft(base, tuned)
    asked = [[{"role": "user", "content": text}] for text in QUESTIONS]
    ids = [
        tokenizer.apply_chat_template(one, add_generation_prompt=True, return_dict=True)["input_ids"] for one in asked
    ]
    named = adapted.get_base_model().generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    return tokenizer.batch_decode([greedy(adapted, one, 8, ends) for one in ids], skip_special_tokens=True)


def test_the_tools_say_that_it_cannot_be_merged(model, tmp_path):
    from steps.adapters.fitting import judge
    from steps.adapters.folders import open_adapter, open_base
    from steps.adapters.vllm_rules import vllm_problems

    adapter = open_adapter(adapter_by_peft(model, tmp_path / "adapter"))
    (fit,) = judge(open_base(model), adapter).problems
    assert fit.code == "MERGE-E0107"
    assert fit.found == "PROMPT_TUNING: learned vectors before the text, which cannot be merged into weights"
    assert "with PEFT" in fit.fix
    (served,) = vllm_problems(adapter)
    assert served.code == "ADAPTER-E0201"
    assert "merge it instead" not in served.fix


def test_an_adapter_of_another_base_is_refused(model, tmp_path):
    from steps.artifacts import new_artifact

    adapter = adapter_by_peft(model, tmp_path / "adapter")
    with new_artifact(tmp_path / "tuned", "adapter", {"inputs": {"model": "c" * 64}}) as draft:
        shutil.copytree(adapter, draft.path, dirs_exist_ok=True)
    with pytest.raises(UserError, match="MERGE-E0201"):
        merge_adapter(model, tmp_path / "tuned", tmp_path / "merged")


def test_an_adapter_of_another_kind_is_merged_before_the_comparison(model, tmp_path):
    """The folder `adapter/` of a base means what it meant: only kinds that stay beside the weights are put on them."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from steps.adapters.layout import adapter_of, kept_adapter_of

    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(task_type="CAUSAL_LM"))
    adapted.save_pretrained(model / "adapter")
    assert adapter_of(model) == model / "adapter"
    assert kept_adapter_of(model) is None
