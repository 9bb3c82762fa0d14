"""What verl lacks where it runs: engines that are not installed, and FlashAttention 2."""

from importlib.util import find_spec

import pytest

from steps.errors import UserError
from steps.params.verl_settings import VerlSettings
from steps.verl import packages
from steps.verl.overrides import Paths, overrides_of, written
from tests.verl_composer import Composer

CONFIGURED = "actor_rollout_ref.model.override_config.attn_implementation"


def with_only(monkeypatch, *installed: str) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: find_spec("json") if name in installed else None)


def settings(**given: object) -> VerlSettings:
    return VerlSettings.model_validate({"rollout_name": "vllm", **given})


@pytest.mark.parametrize(("engine", "package"), packages.ENGINES.items())
def test_an_engine_that_is_not_installed_is_refused(monkeypatch, engine, package):
    with_only(monkeypatch, *{*packages.ENGINES.values()} - {package})
    with pytest.raises(UserError, match=f"VERL-E0701 ENGINE.*{package} is missing"):
        packages.refuse_missing(settings(rollout_name=engine))
    with_only(monkeypatch, package)
    packages.refuse_missing(settings(rollout_name=engine))


def test_a_critic_needs_flash_attention_and_others_do_not(monkeypatch):
    with_only(monkeypatch, "vllm")
    packages.refuse_missing(settings(algorithm_adv_estimator="grpo"))
    with pytest.raises(UserError, match=r"VERL-E0702 algorithm_adv_estimator.*gae.*FLASH_ATTN"):
        packages.refuse_missing(settings(algorithm_adv_estimator="gae"))
    with_only(monkeypatch, "vllm", "flash_attn")
    packages.refuse_missing(settings(algorithm_adv_estimator="gae"))


@pytest.mark.slow
def test_verl_is_told_of_another_attention_only_without_flash_attention(monkeypatch):
    composer = Composer()
    given = overrides_of(settings(), Paths("/model", "/train", "/validation", "/checkpoints"))
    told = {}
    for installed in ((), ("flash_attn",)):
        with_only(monkeypatch, *installed)
        more = [f"{key}={written(value)}" for key, value in packages.attention().items()]
        told[installed] = composer.compose([*given, *more], [CONFIGURED])[CONFIGURED]
    composer.close()
    assert told == {(): "sdpa", ("flash_attn",): None}


@pytest.mark.slow
def test_torchs_attention_keeps_sequences_without_padding_apart():
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=97, **sizes), attn_implementation="sdpa").eval()
    one, other = torch.randint(0, 97, (1, 7)), torch.randint(0, 97, (1, 9))
    places = torch.cat([torch.arange(7), torch.arange(9)])[None]
    alone = torch.cat([model(each, use_cache=False).logits for each in (one, other)], 1)
    # As verl's FSDP engine calls a model if use_remove_padding is true.
    together = model(torch.cat([one, other], 1), position_ids=places, attention_mask=None, use_cache=False).logits
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    joined = model(torch.cat([one, other], 1), use_cache=False).logits
    assert (joined - alone).abs().max() > 0.01
