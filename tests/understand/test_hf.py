from __future__ import annotations

import ast
import inspect
import json
import math
import os
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.understand.fake import column, items_of
from tests.understand.tiny_models import FAMILIES, IDS, save_tiny, tiny_tokenizer

from captionary.errors import CaptionaryError
from captionary.understand import hf_files, llama4_tiles
from captionary.understand.captioner import Caption, CaptionerConfig, fingerprint_of, load_captioner
from captionary.understand.hf import HfCaptioner
from captionary.understand.hf_files import file_digest, folder_digest, model_folder

BLIPS = ("blip", "blip2-opt", "blip2-t5", "instructblip")
TITLES = ["red dog", None, "blue sofa in a street, a forest", "cat", "a bird on a chair"]


@pytest.fixture(scope="module", autouse=True)
def _offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


def pictures() -> list[Image.Image]:
    """Five pictures of different shapes, of coarse noise."""
    rng = np.random.default_rng(0)
    made = []
    for height, width in [(40, 40), (64, 32), (32, 96), (40, 40), (128, 48)]:
        cells = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        made.append(Image.fromarray(np.kron(cells, np.ones((height // 4, width // 4, 1), np.uint8))))
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {family: save_tiny(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request, folders) -> tuple[str, HfCaptioner]:
    return request.param, HfCaptioner(str(folders[request.param]), max_new_tokens=6, device="cpu")


def test_one_and_many_give_the_same_captions(loaded):
    _, captioner = loaded
    together = captioner.caption(pictures())
    assert together == [captioner.caption([picture])[0] for picture in pictures()]
    assert len({caption.text for caption in together}) > 1, "the picture makes no difference"
    assert all(1 <= caption.output_tokens <= 6 for caption in together)
    assert captioner.caption([]) == []


def test_titles_of_any_length_share_a_batch(loaded):
    family, captioner = loaded
    prompted = HfCaptioner.__new__(HfCaptioner)
    prompted.__dict__.update(vars(captioner))
    prompted.prompt = hf_files.load("caption")  # also for those that are asked nothing by default
    if family == "blip":  # its text decoder has 64 positions here, so it gets a short one
        prompted.prompt = prompted.prompt._replace(text="a picture of\n{title}")
    together = prompted.caption(pictures(), TITLES)
    alone = [
        prompted.caption([picture], [title])[0] for picture, title in zip(pictures(), TITLES, strict=True)
    ]
    assert together == alone
    assert len({caption.prompt_tokens for caption in together}) > 2
    with pytest.raises(ValueError, match="1 texts for 2 pictures"):
        prompted.caption(pictures()[:2], ["one"])


def test_batches_are_filled_by_length(loaded):
    """Of text and picture together, in tokens of the model; captions stay in the order of the pictures."""
    family, captioner = loaded
    many = HfCaptioner.__new__(HfCaptioner)
    many.__dict__.update(vars(captioner))
    many.prompt = hf_files.load("caption")._replace(text="a picture of\n{title}")
    many.batch_size = 2
    images, titles = (
        pictures(),
        ["a red dog on a sofa", None, "a red dog in a street , a forest", "cat", "dog"],
    )
    asked = [many._asked(title) for title in titles]
    text = [len(many._tokenizer(line)["input_ids"]) for line in asked]
    length = [one + other for one, other in zip(text, many._picture_tokens(images), strict=True)]
    batches = list(many._batches(asked, images))
    assert sorted(row for rows in batches for row in rows) == list(range(5))
    in_order = [length[row] for rows in batches for row in rows]
    assert in_order == sorted(in_order)
    assert len(set(in_order)) > 2
    if family in BLIPS:
        assert all(len({text[row] for row in rows}) == 1 for rows in batches)
    else:
        assert [len(rows) for rows in batches] == [2, 2, 1]
    if family in (
        "llava",
        "idefics3",
        "qwen2-vl",
        "qwen2.5-vl",
    ):  # whose processors tell: what they then make is as long
        nested = hasattr(many._processor.image_processor, "do_image_splitting")
        one = many._processor(images=[[images[2]]] if nested else [images[2]], text=[asked[2]])
        assert len(one["input_ids"][0]) in (
            length[2],
            length[2] - 1,
        )  # the mark that the picture's tokens replace
    alone = [many.caption([image], [title])[0] for image, title in zip(images, titles, strict=True)]
    assert many.caption(images, titles) == alone


def test_only_what_was_generated_is_the_caption(loaded):
    """Against `generate` with its scores: as many new tokens as steps, and they are the last ones."""
    _, captioner = loaded
    picture = pictures()[1]
    asked = captioner._asked(None)
    nested = hasattr(captioner._processor.image_processor, "do_image_splitting")
    inputs = captioner._processor(
        images=[[picture]] if nested else [picture], text=[asked], return_tensors="pt"
    )
    inputs.pop("token_type_ids", None)
    with torch.inference_mode():
        told = captioner._model.generate(**inputs, output_scores=True, return_dict_in_generate=True)
    new = told.sequences[0, -len(told.scores) :]
    text = captioner._tokenizer.decode(new, skip_special_tokens=True).strip()
    assert captioner.caption([picture])[0][::2] == (text, len(told.scores))
    steps = torch.stack([score[0].argmax() for score in told.scores])
    assert torch.equal(new, steps), "greedy"


def test_texts_alone(loaded):
    family, captioner = loaded
    texts = ["the red dog", "a", "what is shown in one picture ?"]
    if family in BLIPS:
        with pytest.raises(CaptionaryError, match="a model that answers without a picture"):
            captioner.complete(texts)
    else:
        assert captioner.complete(texts) == [captioner.complete([text])[0] for text in texts]


def test_a_title_cannot_speak_the_models_marks(loaded):
    family, captioner = loaded
    if family in ("blip", "blip2-opt", "blip2-t5"):
        pytest.skip("asked nothing by default")
    marks = [token for token in captioner._special if token in IDS]
    assert len(marks) > 10
    plain, armed = (captioner._asked(title) for title in ("red dog cat", " red ".join(["", *marks, "dog"])))
    for mark in marks:
        assert armed.count(mark) == plain.count(mark), mark


def test_named_before_it_is_built(loaded, folders):
    family, captioner = loaded
    config = CaptionerConfig(source=f"hf:{folders[family]}", max_new_tokens=6)
    assert fingerprint_of(config) == captioner.fingerprint
    processor = captioner._processor.image_processor
    assert processor.backend == "pil"


def test_from_a_config_through_the_caption_stage(folders, tmp_path):
    from captionary.understand.caption import caption_items
    from captionary.understand.store import CaptionStore

    for i, picture in enumerate(pictures()):
        picture.save(tmp_path / f"{i}.png")
    (tmp_path / "model").symlink_to(folders["smolvlm"])
    captioner = load_captioner(
        CaptionerConfig(source="hf:model", max_new_tokens=6, dtype="float32"), tmp_path
    )
    with CaptionStore(tmp_path / "captions.sqlite") as store:
        report = caption_items(items_of([[f"{i}.png"] for i in range(5)]), tmp_path, captioner, store)
        again = caption_items(items_of([["0.png"]]), tmp_path, captioner, store)
    assert set(column(report, "status")) <= {"ok", "failed"}
    assert set(column(report, "reason")) <= {None, "empty_caption"}
    assert again.new == 0
    assert set(column(report, "captioner")) == {captioner.fingerprint}


def test_fingerprints_follow_the_files(tmp_path):
    folder = save_tiny("llava", tmp_path / "model")
    (tmp_path / "mine.txt").write_text("Say what you see.")

    def named(**settings: object) -> str:
        return fingerprint_of(CaptionerConfig(source="hf:model", **settings), tmp_path)

    first = named()
    assert named(batch_size=1, threads=2, device="cuda:1", dtype="bfloat16") == first
    assert len({first, named(prompt="style"), named(prompt="mine.txt"), named(max_new_tokens=9)}) == 4
    (folder / "README.md").write_text("a card")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.json").write_text("{}")
    assert named() == first
    seen = [first]
    for file in (
        "preprocessor_config.json",
        "chat_template.jinja",
        "tokenizer.json",
        "generation_config.json",
    ):
        (folder / file).write_bytes((folder / file).read_bytes() + b"\n")
        seen.append(named())
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    seen.append(named())
    assert len(set(seen)) == len(seen)
    (tmp_path / "copy").mkdir()
    for path in folder.rglob("*"):
        if path.is_file():
            target = tmp_path / "copy" / path.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    assert folder_digest(tmp_path / "copy") == folder_digest(folder)


def test_big_files_are_hashed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hf_files, "_BIG", 10)
    hashed = []
    whole = hf_files.digest
    monkeypatch.setattr(
        hf_files, "digest", lambda path, limits: hashed.append(path.name) or whole(path, limits)
    )
    big, small = tmp_path / "big", tmp_path / "small"
    big.write_bytes(b"x" * 10)
    small.write_bytes(b"x" * 9)
    first = file_digest(big)
    assert file_digest(big) == first == whole(big, hf_files._WHOLE)
    file_digest(small)
    file_digest(small)
    assert hashed == ["big", "small", "small"]
    big.write_bytes(b"y" * 10)
    os.utime(big, ns=(1, 1))
    assert file_digest(big) != first
    (tmp_path / "cache" / "captionary" / "digests.json").write_text("[broken")
    os.utime(big, ns=(2, 2))
    assert file_digest(big) == whole(big, hf_files._WHOLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(big))  # no folder can be made there
    assert file_digest(big) == whole(big, hf_files._WHOLE)


def test_a_hub_id_is_read_from_the_cache_of_this_machine(folders, tmp_path, monkeypatch):
    repo = tmp_path / "models--some--model"
    (repo / "refs").mkdir(parents=True)
    commit = "0123456789" * 4
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots").mkdir()
    (repo / "snapshots" / commit).symlink_to(folders["blip"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = CaptionerConfig(source="hf:some/model", max_new_tokens=6)
    assert fingerprint_of(config) == fingerprint_of(
        CaptionerConfig(source=f"hf:{folders['blip']}", max_new_tokens=6)
    )
    assert model_folder(f"some/model@{commit}").name == commit
    with pytest.raises(CaptionaryError, match="hf == other/model, must be a folder or a model that the Hub"):
        fingerprint_of(CaptionerConfig(source="hf:other/model"))


def test_what_is_no_model(tmp_path, folders):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaptionaryError, match=r"hf == empty, must be a folder with config\.json"):
        HfCaptioner("empty", base=tmp_path)
    with pytest.raises(CaptionaryError, match="must be a folder that exists, or a Hub id"):
        HfCaptioner("./none/such/folder", base=tmp_path)
    text = tmp_path / "text"
    text.mkdir()
    (text / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CaptionaryError, match="must be an image-text-to-text model of transformers"):
        HfCaptioner("text", base=tmp_path)
    (text / "config.json").write_text("[")
    with pytest.raises(CaptionaryError, match=r"a folder with a valid config\.json"):
        HfCaptioner("text", base=tmp_path)
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in ("config.json", "model.safetensors"):
        (bare / file).symlink_to(folders["llava"] / file)
    with pytest.raises(CaptionaryError, match="must be a whole one, as save_pretrained writes"):
        HfCaptioner("bare", base=tmp_path)
    with pytest.raises(CaptionaryError, match="one about a picture; it asks for a history"):
        HfCaptioner(str(folders["llava"]), prompt="user_profile")


def test_a_missing_package_is_named(folders, monkeypatch):
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", None)
    with pytest.raises(CaptionaryError, match=r"num2words.*; pip install 'captionary\[hf\]'"):
        HfCaptioner(str(folders["smolvlm"]))


def test_old_copies_of_blip2(folders, tmp_path):
    """They say neither how many queries there are nor which token stands for them."""
    folder = tmp_path / "old"
    folder.mkdir()
    for path in folders["blip2-opt"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "Blip2Processor"}))
    config = json.loads((folder / "config.json").read_text())
    config["image_token_index"] = None
    (folder / "config.json").write_text(json.dumps(config))
    old, new = (HfCaptioner(str(path), max_new_tokens=6) for path in (folder, folders["blip2-opt"]))
    assert old.caption(pictures()) == new.caption(pictures())


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path):
    folder = save_tiny("llava", tmp_path / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    captioner = HfCaptioner(str(folder), max_new_tokens=6)
    said = captioner.caption(pictures(), TITLES)
    assert said == [
        captioner.caption([picture], [title])[0] for picture, title in zip(pictures(), TITLES, strict=True)
    ]
    assert all(isinstance(caption, Caption) for caption in said)


def _original(*names: str) -> dict[str, object]:
    """Functions of transformers' Llama 4 processor, whose module cannot be imported without torchvision."""
    import transformers

    source = Path(inspect.getfile(transformers)).parent / "models" / "llama4" / "image_processing_llama4.py"
    tree = ast.parse(source.read_text())
    body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    scope: dict[str, object] = {
        "math": math, "torch": torch, "defaultdict": defaultdict, "lru_cache": lru_cache, "SizeDict": object,
    }  # fmt: skip
    exec(compile(ast.Module(body, []), str(source), "exec"), scope)
    return scope


def test_llama4_chooses_the_canvas_as_the_original_does():
    names = ("get_factors", "get_max_res_without_distortion", "find_supported_resolutions", "get_best_fit")
    theirs = _original(*names)
    side = type("Side", (), {"height": 336, "width": 336, "__hash__": lambda self: 0})()
    sizes = theirs["find_supported_resolutions"](16, side)
    assert llama4_tiles.canvases(16, 336) == tuple(sizes)
    rng = np.random.default_rng(1)
    for _ in range(300):
        picture = tuple(int(n) for n in np.exp(rng.uniform(0, 8.5, 2)).astype(int) + 1)
        for largest in (False, True):
            mine = llama4_tiles.best_canvas(picture, llama4_tiles.canvases(16, 336), largest=largest)
            assert mine == tuple(theirs["get_best_fit"](picture, torch.tensor(sizes), largest).tolist())
        height, width = theirs["get_max_res_without_distortion"](picture, mine)
        assert llama4_tiles.scaled_size(picture, mine) == (max(height, 1), max(width, 1))


def test_llama4_tiles_are_the_pictures_parts():
    processor = llama4_tiles.Llama4ImageProcessorPil(size={"height": 8, "width": 8}, max_patches=4)
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, 8:] = 255
    made = processor(
        images=[Image.fromarray(picture), Image.new("RGB", (8, 8), (255, 0, 0))], return_tensors="pt"
    )
    tiles = made["pixel_values"]  # left, right, the whole; the red one
    assert tiles.shape == (4, 3, 8, 8)
    assert made["aspect_ratios"].tolist() == [[1, 2], [1, 1]]
    assert torch.equal(tiles[0], torch.full((3, 8, 8), (0 / 255 - 0.5) / 0.5))
    assert torch.equal(tiles[1], torch.full((3, 8, 8), (255 / 255 - 0.5) / 0.5))
    assert -1 < tiles[2].mean() < 1
    assert tiles[3].mean(dim=(1, 2)).tolist() == [1, -1, -1]


def test_greedy_whatever_the_checkpoint_recommends(folders, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in folders["llava"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {
        "do_sample": True,
        "temperature": 9.0,
        "num_beams": 3,
        "repetition_penalty": 5.0,
        "max_length": 3,
    }
    (folder / "generation_config.json").write_text(json.dumps(settings))
    fancy, plain = (HfCaptioner(str(path), max_new_tokens=6) for path in (folder, folders["llava"]))
    assert fancy.caption(pictures()) == plain.caption(pictures())
