"""What is stored with a model that reads images, and cannot import the project, has the project's own rules."""

import random

import pytest

from steps.models import images
from steps.register_model import served_images
from steps.tasks.rules import image_files
from steps.tasks.rules.images import PLACE


def test_the_bounds_of_an_image_are_those_of_the_training():
    assert served_images.PLACE == PLACE
    assert (served_images.TILE, served_images.LEAST, served_images.MOST) == (images.TILE, images.LEAST, images.MOST)
    for name in ("LARGEST", "FORMATS", "MOST_PIXELS"):
        assert getattr(served_images, name) == getattr(image_files, name), name


@pytest.mark.parametrize("longest", [30, 300, 3000, 9000])
def test_an_image_gets_the_size_of_the_training(longest):
    draw = random.Random(longest)
    for _ in range(500):
        height, width = draw.randint(1, longest), draw.randint(1, longest)
        assert served_images._size(height, width) == images.first_size(height, width)
