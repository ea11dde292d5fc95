from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captionary.understand.media import MediaError, open_image
from captionary.world.pictures import write_pictures
from captionary.world.render import render
from captionary.world.scenes import draw_scenes


def test_each_scene_has_its_picture(tmp_path: Path) -> None:
    scenes = draw_scenes(np.random.default_rng(0), 3)
    names = list(write_pictures(scenes, 3, tmp_path))
    assert len(set(names)) == 3
    for row, name in enumerate(names):
        with Image.open(tmp_path / name) as picture:
            assert picture.format == "JPEG"
            stored = np.asarray(picture.convert("RGB"), float)
        painted = np.asarray(render(scenes, row), float)
        assert np.abs(stored - painted).mean() < 5  # what JPEG loses


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_files_are_bad_in_six_ways(tmp_path: Path) -> None:
    scenes = draw_scenes(np.random.default_rng(0), 8)
    names = list(write_pictures(scenes, 2, tmp_path))
    reasons = []
    for name in names:
        try:
            open_image(tmp_path / name)
            reasons.append("sound")
        except MediaError as error:
            reasons.append(error.reason)
    damages = ["corrupt", "truncated", "not_an_image", "missing", "too_many_pixels", "empty_file"]
    assert reasons == ["sound", "sound", *damages]
    assert (tmp_path / names[6]).stat().st_size < 100_000  # 144 megapixels cheaply
    assert names[4].endswith(".jpg")  # a text, by its content
