"""predict for a registered model that reads images: answers to prompts with images.

Stored with the model beside pyfunc_model.py, which loads it, so it does not import the project that wrote it. Images
are prepared as in the training and the evaluation: first resized as verl does (qwen_vl_utils 0.0.14), then by
transformers' processor of images, which needs Pillow and no torchvision.
"""

import base64
import json
import math
import re
from io import BytesIO
from itertools import takewhile
from pathlib import Path
from typing import Any

PLACE = "<image>"
TILE = 28
LEAST, MOST = 4 * TILE**2, 16384 * TILE**2  # pixels of an image after the first resizing
LARGEST = 32 * 1024 * 1024  # bytes of an image
FORMATS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 89_478_485


class Model:
    """A model that reads images; decodes greedily, as in its evaluation."""

    def __init__(self, folder: Any, reference: dict[str, Any]):
        import torch
        from transformers import AutoModelForImageTextToText, AutoTokenizer, GenerationConfig
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        self.reference = reference
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.images: Any = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
        self.token = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["image_token_id"]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        told = model.generation_config
        # Only the tokens of the model's own settings, as in its evaluation: others, such as penalties, would count too.
        model.generation_config = GenerationConfig(
            bos_token_id=told.bos_token_id, eos_token_id=told.eos_token_id, pad_token_id=told.pad_token_id
        )
        self.model = model.to(device).eval()

    def predict(self, model_input: Any, params: Any = None) -> list[str]:
        """Answer every row: a column `prompt` with texts, and `images` with lists of images in base64 or as data URIs.

        A prompt has `<image>` where each of its images belongs. Raises ValueError for rows without a prompt, for
        another number of images, and for images that cannot be read.
        """
        if "prompt" not in getattr(model_input, "columns", ()):
            raise ValueError('found no column prompt; pass {"prompt": ["<image>Which?"], "images": [["data:…"]]}')
        given = model_input["images"] if "images" in model_input.columns else [None] * len(model_input)
        most = int((params or {}).get("max_new_tokens") or self.reference["max_new_tokens"])
        rows = zip(model_input["prompt"], given, strict=True)
        return [self._answer(str(prompt), _listed(images), most) for prompt, images in rows]

    def _answer(self, prompt: str, images: list[Any], most: int) -> str:
        import torch
        from transformers import GenerationConfig

        opened = [_opened(image) for image in images]
        if prompt.count(PLACE) != len(opened):
            raise ValueError(f"found {prompt.count(PLACE)} places {PLACE} in a prompt with {len(opened)} images")
        inputs = self._inputs(prompt, opened)
        named = self.model.generation_config.eos_token_id
        ends = {self.tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
        greedy = GenerationConfig(
            do_sample=False, num_beams=1, repetition_penalty=1.0, temperature=1.0, top_k=50, top_p=1.0,
            max_new_tokens=most, eos_token_id=sorted(ends) or None, pad_token_id=self.tokenizer.pad_token_id,
        )  # fmt: skip
        with torch.inference_mode():
            output = self.model.generate(**inputs, generation_config=greedy)
        written = output[0, inputs["input_ids"].shape[1] :].tolist()
        kept = takewhile(lambda token: token not in ends, written)
        return str(self.tokenizer.decode(list(kept), skip_special_tokens=True))

    def _inputs(self, prompt: str, images: list[Any]) -> dict[str, Any]:
        """Return the model's inputs: the rendered prompt with all tokens of each image, and the pixels."""
        import torch

        pieces = [piece for piece in re.split(f"({PLACE})", prompt) if piece]
        parts = [{"type": "image"} if piece == PLACE else {"type": "text", "text": piece} for piece in pieces]
        messages: list[Any] = [{"role": "user", "content": parts if images else prompt}]
        if instruction := self.reference.get("system_prompt"):
            messages = [{"role": "system", "content": instruction}, *messages]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids.count(self.token) != len(images):
            raise ValueError("found a token that stands for an image in a prompt, or a template that writes none")
        pixels: dict[str, Any] = dict(self.images(images, return_tensors="pt")) if images else {}
        counts = iter((pixels["image_grid_thw"].prod(1) // self.images.merge_size**2).tolist() if images else ())
        whole = [one for token in ids for one in ([token] * next(counts) if token == self.token else [token])]
        tokens = torch.tensor([whole])
        made = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), **pixels}
        if images:
            made["pixel_values"] = made["pixel_values"].to(self.model.dtype)
            made["mm_token_type_ids"] = (tokens == self.token).int()
        return {name: value.to(self.model.device) for name, value in made.items()}


def _listed(images: Any) -> list[Any]:
    if images is None or isinstance(images, float):  # pandas writes NaN for a missing value
        return []
    return [images] if isinstance(images, str | bytes) else list(images)


def _opened(given: Any) -> Any:
    """Decode an image within bounds, and resize it as in the training. Raises ValueError for anything else."""
    from PIL import Image

    try:
        data = given if isinstance(given, bytes) else base64.b64decode(given.rpartition("base64,")[2], validate=True)
        if len(data) > LARGEST:
            raise ValueError(f"{len(data):,} bytes")
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} × {image.height} pixels")
            image.load()
            if image.mode == "RGBA":
                made = Image.new("RGB", image.size, (255, 255, 255))
                made.paste(image, mask=image.getchannel("A"))
            else:
                made = image.convert("RGB")
    except (AttributeError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"found an image that cannot be read: {error}; pass PNG, JPEG or WEBP in base64") from None
    high, wide = _size(made.height, made.width)
    return made.resize((wide, high))


def _size(height: int, width: int) -> tuple[int, int]:
    high, wide = (max(TILE, round(side / TILE) * TILE) for side in (height, width))
    if high * wide > MOST:
        shrink = math.sqrt(height * width / MOST)
        high, wide = (math.floor(side / shrink / TILE) * TILE for side in (height, width))
    elif high * wide < LEAST:
        grow = math.sqrt(LEAST / (height * width))
        high, wide = (math.ceil(side * grow / TILE) * TILE for side in (height, width))
    return high, wide
