"""vLLM serves the converted adapters, and its answers equal those of transformers with PEFT token by token.

Runs in a separate environment (`make test-vllm`), on the CPU. The adapters are trained until they reproduce their
texts, so that an adapter that is not applied, or is applied with another scale, gives other answers.
"""

import json
import os
from pathlib import Path
from typing import Any

os.environ.update({"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"})

import pytest
from conftest import build_model
from small_adapters import change_settings

pytestmark = pytest.mark.vllm

LENGTH, PROMPT = 16, 4
RANK = 32  # of the engine: the smallest of vLLM's choices that holds every adapter below
ADAPTERS: dict[str, dict[str, Any]] = {
    "factors alone": {},
    "with copies of both embeddings": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "trained on both embeddings": {"target_modules": ["embed_tokens", "lm_head", "q_proj", "v_proj"]},
    "scales and ranks of their own": {"alpha_pattern": {".*_proj": 64}, "rank_pattern": {"q_proj": 4, "up_proj": 12}},
    "rank-stabilised, of rank 20": {"r": 20, "use_rslora": True, "target_modules": ["q_proj", "v_proj", "down_proj"]},
}


def texts() -> Any:
    """Four texts of random tokens, each with a beginning of its own."""
    import torch

    return torch.randint(3, 300, (4, LENGTH), generator=torch.Generator().manual_seed(3))


def train(base: Path, folder: Path, settings: dict[str, Any]) -> Path:
    """Train an adapter's factors on the texts, and save it as PEFT does."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    usual = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**{**usual, **settings}))
    optimizer = torch.optim.AdamW([weight for name, weight in model.named_parameters() if "lora_" in name], lr=0.01)
    for _ in range(80):
        model(input_ids=texts(), labels=texts()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def answers(base: Path, adapter: Path | None = None) -> list[list[int]]:
    """What transformers, with PEFT for the adapter, goes on with after the beginnings of the texts."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    prompts = texts()[:, :PROMPT]
    with torch.no_grad():
        written = model.eval().generate(
            input_ids=prompts, attention_mask=torch.ones_like(prompts), do_sample=False, eos_token_id=None,
            pad_token_id=0, max_new_tokens=LENGTH - PROMPT,
        )  # fmt: skip
    return written[:, PROMPT:].tolist()


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    build_model(folder, tie_word_embeddings=False)  # hidden 64 with 2 heads: vLLM on CPUs wants heads of at least 32
    return folder


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: train(base, root / name, settings) for name, settings in ADAPTERS.items()}


@pytest.fixture(scope="module")
def engine(base) -> Any:
    from vllm import LLM

    return LLM(str(base), dtype="float32", enforce_eager=True, enable_lora=True, max_lora_rank=RANK, max_model_len=64,
              max_num_seqs=4)  # fmt: skip


def served(engine: Any, adapter: Path | None = None, number: int = 1) -> list[list[int]]:
    """What vLLM goes on with; every adapter needs a number of its own."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    prompts = [{"prompt_token_ids": beginning} for beginning in texts()[:, :PROMPT].tolist()]
    sampling = SamplingParams(temperature=0, max_tokens=LENGTH - PROMPT, ignore_eos=True)
    request = LoRARequest(adapter.name, number, str(adapter)) if adapter else None
    written = engine.generate(prompts, sampling, lora_request=request, use_tqdm=False)
    return [list(one.outputs[0].token_ids) for one in written]


def load(engine: Any, adapter: Path, number: int) -> None:
    """Let vLLM load an adapter without a request, which a refusal would leave behind in the engine."""
    from vllm.lora.request import LoRARequest

    engine.llm_engine.add_lora(LoRARequest(adapter.name, number, str(adapter)))


def test_the_base_alone_is_served_as_transformers_runs_it(base, engine):
    assert served(engine) == answers(base)


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_made_ready_answers_as_it_does_with_peft(base, trained, engine, tmp_path, name):
    from steps.adapter_tools.vllm_ready import create_vllm_compatible_adapter

    ready = tmp_path / "ready"
    manifest = create_vllm_compatible_adapter(trained[name], ready, base)
    assert manifest.facts["max_lora_rank"] <= RANK
    wanted = answers(base, trained[name])
    assert wanted != answers(base)
    if name == "factors alone":  # it knows its texts: an adapter that is not applied cannot
        assert wanted == texts()[:, PROMPT:].tolist()
    assert served(engine, ready, 10 + list(ADAPTERS).index(name)) == wanted


def test_the_adapter_as_peft_saved_it_is_refused_by_vllm(trained, engine):
    with pytest.raises(ValueError, match="only supports modules_to_save"):
        load(engine, trained["with copies of both embeddings"], 20)


def test_clearing_modules_to_save_alone_is_not_enough(trained, engine, tmp_path):
    import shutil

    shutil.copytree(trained["with copies of both embeddings"], tmp_path / "half")
    change_settings(tmp_path / "half", modules_to_save=None)
    with pytest.raises(ValueError, match="unsupported LoRA weight"):
        load(engine, tmp_path / "half", 21)


def test_scales_of_their_own_are_passed_over_by_vllm(base, trained, engine):
    """The reason why we even them out: nothing in vLLM refuses such an adapter."""
    uneven = trained["scales and ranks of their own"]
    assert served(engine, uneven, 22) != answers(base, uneven)


def test_our_ranks_are_vllms(engine):
    from typing import get_args

    from vllm.config.lora import LoRAConfig, MaxLoRARanks

    from steps.adapters.vllm_rules import RANKS, USUAL_RANK

    assert get_args(MaxLoRARanks) == RANKS
    assert LoRAConfig().max_lora_rank == USUAL_RANK


def test_vllm_reads_no_setting_that_we_take_for_harmless():
    from dataclasses import fields

    from vllm.lora.peft_helper import PEFTHelper

    from steps.adapters.vllm_rules import EVENED, HARMLESS, READ

    read = {field.name for field in fields(PEFTHelper) if not field.name.startswith("vllm_")}
    assert read <= READ
    assert not read & (HARMLESS | EVENED)


def test_the_merged_model_is_served_as_the_adapter(base, trained, engine, tmp_path):
    from vllm import LLM

    from steps.merge_adapter.step import merge_adapter

    merge_adapter(base, trained["factors alone"], tmp_path / "merged")
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert config["tie_word_embeddings"] is False
    merged = LLM(str(tmp_path / "merged"), dtype="float32", enforce_eager=True, max_model_len=64, max_num_seqs=4)
    assert served(merged) == answers(base, trained["factors alone"])
