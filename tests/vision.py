"""A tiny vision-language model (Qwen2.5-VL) with its processor, images, and rows of verl with them."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from conftest import SENTENCES
from shared import SharedFolders

IMAGE_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def picture(colour: str = "red", size: tuple[int, int] = (56, 28), kind: str = "PNG", mode: str = "RGB") -> bytes:
    """An image file of one colour."""
    from PIL import Image

    file = BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(file, kind)
    return file.getvalue()


def image_row(number: int, images: Any, **changes: Any) -> dict[str, Any]:
    """A row as a user would have it, with one image."""
    return {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": f"<image>How many is {number}?"}],
        "reward_model": {"style": "rule", "ground_truth": str(number)},
        "extra_info": {"index": number},
        "images": images,
        **changes,
    }


def build_vision_model(folder: Path) -> None:
    """Save a random Qwen2.5-VL of about 100,000 weights with tokenizer and processor."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *MARKS]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=512
    )
    fast.chat_template = IMAGE_TEMPLATE
    fast.save_pretrained(folder)
    ids = [fast.convert_tokens_to_ids(name) for name in MARKS]
    text = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "vocab_size": len(fast), "max_position_embeddings": 512, "bos_token_id": None,
        "eos_token_id": fast.eos_token_id, "pad_token_id": fast.pad_token_id,
        "initializer_range": 0.2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
        "fullatt_block_indexes": [0], "initializer_range": 0.2,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=False, vision_start_token_id=ids[0],
        vision_end_token_id=ids[1], image_token_id=ids[2], video_token_id=ids[3],
    )  # fmt: skip
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    processor = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 64)
    processor.save_pretrained(folder)
    described = json.loads((folder / "preprocessor_config.json").read_text())
    # As the files of these models on the Hub name it.
    described["image_processor_type"] = "Qwen2VLImageProcessor"
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**described, "processor_class": "Qwen2_5_VLProcessor"})
    )


@pytest.fixture(scope="session")
def vision_model(shared: SharedFolders) -> Path:
    """The folder of the tiny vision-language model; no test may change it."""
    return shared.made("vision_model", build_vision_model)
