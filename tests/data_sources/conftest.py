"""Fixtures of the two files that are still here; they go with them."""

import images
import pytest


@pytest.fixture
def write_images():
    return images.write_images


@pytest.fixture
def pictures():
    return images.pictures
