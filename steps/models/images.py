"""Images as a model's processor prepares them, where transformers has no torchvision.

transformers' own processor of Qwen2-VL also needs a processor of videos, and with it torchvision, which the images of
this project lack. So its processor of images, which needs Pillow alone, is used, and the places of images in a prompt
are filled here: each becomes as many tokens as the image has patches after merging.

Images are first resized as verl does before it calls the processor (qwen_vl_utils 0.0.14: fetch_image), because an
evaluation has to ask as the training asked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.errors import Problem, UserError
from steps.models.layout import CONFIG

if TYPE_CHECKING:
    from PIL.Image import Image

# qwen_vl_utils.vision_process: IMAGE_MIN_TOKEN_NUM and IMAGE_MAX_TOKEN_NUM tokens of 28 × 28 pixels.
TILE = 28
LEAST, MOST = 4 * TILE**2, 16384 * TILE**2
# Defaults of transformers' Qwen2VLImageProcessor.
PATCH, MERGED, USUAL_LEAST, USUAL_MOST = 14, 2, 56 * 56, 28 * 28 * 1280
NEEDED = ("preprocessor_config.json", "processor_config.json")  # one of them describes the processor of images


def image_reader(folder: Path) -> ImageReader:
    """Return what prepares images for the model in `folder`. Raises UserError if the folder does not describe it."""
    if not any((folder / name).is_file() for name in NEEDED):
        raise UserError(
            Problem("MODEL-E0126", str(folder), "no preprocessor_config.json", "the files of the model's processor",
                    "save them into the folder: processor.save_pretrained(folder)")
        )  # fmt: skip
    return ImageReader(folder)


class ImageReader:
    """Prepares images for one model."""

    def __init__(self, folder: Path):
        self.folder = folder
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        self.token = int(config["image_token_id"])
        """Token that stands for a part of an image."""
        told = _settings(folder)
        size = told.get("size") or {}
        self._tile = int(told.get("patch_size") or PATCH) * int(told.get("merge_size") or MERGED)
        self._least = int(told.get("min_pixels") or size.get("shortest_edge") or USUAL_LEAST)
        self._most = int(told.get("max_pixels") or size.get("longest_edge") or USUAL_MOST)

    @cached_property
    def _processor(self) -> Any:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        return Qwen2VLImageProcessorPil.from_pretrained(self.folder, local_files_only=True)

    def tokens_of(self, image: bytes) -> int:
        """Return how many tokens an image becomes; needs neither torch nor transformers."""
        from PIL import Image

        with Image.open(BytesIO(image)) as opened:
            width, height = opened.size
        high, wide = _tiled(*first_size(height, width), self._tile, self._least, self._most)
        return (high // self._tile) * (wide // self._tile)

    def expanded(self, ids: Sequence[int], images: Sequence[bytes]) -> list[int]:
        """Return a prompt's tokens with all tokens of each image in its place."""
        rest = iter(images)
        made: list[int] = []
        for token in ids:
            made += [token] * self.tokens_of(next(rest)) if token == self.token else [token]
        return made

    def inputs(self, images: Sequence[bytes]) -> dict[str, Any]:
        """Return the model's inputs for images (torch tensors): pixel_values and image_grid_thw."""
        return dict(self._processor([as_verl_opens(image) for image in images], return_tensors="pt"))


def first_size(height: int, width: int) -> tuple[int, int]:
    """Return height and width after verl's first resizing: multiples of 28 within bounds, of about the same shape."""
    return _tiled(height, width, TILE, LEAST, MOST)


def _tiled(height: int, width: int, tile: int, least: int, most: int) -> tuple[int, int]:
    """Return height and width as multiples of `tile`, with between `least` and `most` pixels together.

    As smart_resize of qwen_vl_utils.vision_process and of transformers' processor.
    """
    high, wide = (max(tile, round(side / tile) * tile) for side in (height, width))
    if high * wide > most:
        shrink = math.sqrt(height * width / most)
        high, wide = (max(tile, math.floor(side / shrink / tile) * tile) for side in (height, width))
    elif high * wide < least:
        grow = math.sqrt(least / (height * width))
        high, wide = (math.ceil(side * grow / tile) * tile for side in (height, width))
    return high, wide


def _settings(folder: Path) -> dict[str, Any]:
    """Return the settings of the processor of images: a part of processor_config.json, or a file of their own."""
    for name in reversed(NEEDED):
        if (folder / name).is_file():
            told = json.loads((folder / name).read_text(encoding="utf-8"))
            own = told.get("image_processor") if name == NEEDED[1] else told
            if isinstance(own, dict):
                return own
    return {}


def as_verl_opens(image: bytes) -> Image:
    """Return an image in RGB, transparent parts white, resized as verl hands it to the processor."""
    from PIL import Image

    with Image.open(BytesIO(image)) as opened:
        opened.load()
        if opened.mode == "RGBA":
            made = Image.new("RGB", opened.size, (255, 255, 255))
            made.paste(opened, mask=opened.getchannel("A"))
        else:
            made = opened.convert("RGB")
    height, width = first_size(made.height, made.width)
    return made.resize((width, height))
