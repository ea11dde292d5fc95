"""Both training stages end to end: exact continuation, accumulation, several processes, the command."""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file
from tests.understand.tiny_mmllm import SIZES, VISION, WORDS, clip_folder, llama_folder, tiny_tokenizer
from torch import Tensor

from captionary.commands.pretrain import pretrain as command
from captionary.errors import CaptionaryError
from captionary.understand.mmllm import MultimodalLLM
from captionary.understand.pretrain import pretrain
from captionary.understand.pretrain_data import Batches
from captionary.understand.pretrain_recipe import RECIPES, PretrainConfig, load_recipe
from captionary.understand.pretrain_step import learning_rate
from captionary.understand.training_data import CaptionSet, photos
from captionary.understand.vision import VisionTower

pytest.importorskip("accelerate", reason="training over devices is the extra `train`")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs with captions, and Hugging Face folders of an encoder and a decoder."""
    made = tmp_path_factory.mktemp("pretrain")
    (made / "photos" / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (made / "photos" / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "caption", "split"))
        for i, line in enumerate(WORDS * 2):
            pixels = rng.integers(0, 255, (28, 28, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(made / "photos" / "images" / f"{i:02}.png")
            table.writerow((f"{i:02}.png", f"{line} {i}", "train" if i < 12 else "val"))
    clip_folder(made / "clip")
    llama_folder(made / "llama")
    return made


def recipe(folder: Path, out: Path, **other: Any) -> dict[str, Any]:
    return {
        "stage": "representation", "out": str(out), "model": SIZES, "encoder": str(folder / "clip"),
        "data": {"photos": str(folder / "photos"), "held_out": 0}, "batch_size": 4, "steps": 4, "warmup": 2,
        "learning_rate": 1e-2, "precision": "float32", "device": "cpu", "log_steps": 1, "checkpoint_steps": 2,
    } | other  # fmt: skip


def config(folder: Path, out: Path, **other: Any) -> PretrainConfig:
    path = folder / f"{out.name}.json.yaml"
    path.write_text(json.dumps(recipe(folder, out, **other)))
    return load_recipe(str(path))


def second(folder: Path) -> dict[str, Any]:
    return {"stage": "generative", "decoder": str(folder / "llama")}


def trained(out: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(out / "checkpoint.pt", weights_only=True)["weights"]
    return weights


def gradients(out: Path) -> list[Tensor]:
    """Of the first step, from AdamW's first moment; weights would hide a wrong scale, to which AdamW is blind."""
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert state["step"] == 1
    return [each["exp_avg"] / (1 - 0.9) for each in state["optimizer"]["state"].values()]


def assert_same_gradients(a: Path, b: Path) -> None:
    for one, other in zip(gradients(a), gradients(b), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_an_epoch_shows_every_picture_once(folder: Path) -> None:
    views = [photos(folder / "photos", "train", view=view) for view in range(2)]
    batches = Batches(
        [views], tiny_tokenizer(), VisionTower(VISION), pictures=5, captions=1, longest=9, seed=3
    )
    rows = [batches.rows(step) for step in range(5)]
    first, other = np.concatenate(rows[:2]), np.concatenate(rows[2:4])
    assert len(set(first[:, 2])) == len(set(other[:, 2])) == 10  # 12 pictures, 5 a step: two are left out
    assert set(first[:, 1]) == {0}
    assert set(other[:, 1]) == {1}  # the second epoch is of the second view
    assert (batches.rows(1) == rows[1]).all()  # an earlier step can be done again
    batches.close()


@pytest.mark.parametrize("stage", ["representation", "generative"])
def test_a_killed_run_goes_on_as_if_it_had_not_been(folder: Path, tmp_path: Path, stage: str) -> None:
    """With dropout, drawn negatives and two micro-batches; killed in the middle of step 3 of 4."""
    other = {"dropout": 0.2, "batch_size": 2, "accumulate": 2} | (
        second(folder) if stage == "generative" else {}
    )
    pretrain(config(folder, tmp_path / "whole", **other))
    data = photos(folder / "photos", "train")
    opened = []

    def picture(row: int) -> Image.Image:
        opened.append(row)
        if len(opened) == 14:
            raise KeyboardInterrupt
        return data.picture(row)

    broken = config(folder, tmp_path / "killed", **other)
    with pytest.raises(KeyboardInterrupt):
        pretrain(broken, [[CaptionSet(data.name, data.rows, picture, data.captions)]])
    assert torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)["step"] == 2
    assert not (tmp_path / "killed" / "model").exists()
    pretrain(broken)
    torch.testing.assert_close(trained(tmp_path / "killed"), trained(tmp_path / "whole"), atol=0, rtol=0)
    logged = (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in logged] == [1, 2, 3, 4]


def test_micro_batches_add_up_to_a_batch(folder: Path, tmp_path: Path) -> None:
    """Two times two pictures, whose captions differ in length, are four pictures."""
    exact = {"dropout": 0.0, "clip": 1e9, "steps": 1} | second(folder)
    pretrain(config(folder, tmp_path / "whole", **exact))
    pretrain(config(folder, tmp_path / "parts", batch_size=2, accumulate=2, **exact))
    assert_same_gradients(tmp_path / "whole", tmp_path / "parts")


def test_a_frozen_decoder_and_encoder_stay_as_they_are(folder: Path, tmp_path: Path) -> None:
    """Both stages, in bf16 with activations computed again; what is frozen is that of the folders."""
    first = pretrain(config(folder, tmp_path / "first", precision="bf16", gradient_checkpointing=True))
    assert set(first.losses) == {"contrastive", "matching", "generation"}
    low = {"precision": "bf16", "freeze_decoder": True, "encoder": None, "start": str(first.folder)}
    data = {"photos": str(folder / "photos"), "held_out": 4}
    both = second(folder) | low | {"gradient_checkpointing": True, "data": data}
    ended = pretrain(config(folder, tmp_path / "second", **both))
    assert not any(name.startswith(("decoder.", "encoder.")) for name in trained(tmp_path / "second"))
    saved = load_file(ended.folder / "model.safetensors")
    for name, weight in load_file(folder / "llama" / "model.safetensors").items():
        torch.testing.assert_close(saved[f"decoder.{name}"], weight.bfloat16(), msg=name)
    before = load_file(first.folder / "model.safetensors")
    assert (saved["query"] != before["query"]).any()
    tower = "encoder.tower.embeddings.class_embedding"
    assert (saved[tower] == before[tower]).all()
    assert 0 < ended.held_out["photographs: nats per token"] < 20
    captioner = MultimodalLLM.load(ended.folder)
    assert len(captioner.describe([Image.new("RGB", (28, 28))], 4)) == 1
    assert "| generative |" in (ended.folder / "MODEL_CARD.md").read_text()


_WORKER = """
import sys
from captionary.understand.pretrain import pretrain
from captionary.understand.pretrain_recipe import load_recipe
for name in sys.argv[1:]:
    pretrain(load_recipe(name))
"""


def test_two_processes_are_one_with_twice_the_batch(folder: Path, tmp_path: Path) -> None:
    """Contrastive learning over both processes' pairs included; drawn negatives apart, which differ by process."""
    stages: dict[str, dict[str, Any]] = {"first": {"matching": 0.0}, "second": second(folder)}
    paths = []
    for name, other in stages.items():
        exact = {"dropout": 0.0, "clip": 1e9, "steps": 1} | other
        pretrain(config(folder, tmp_path / f"one-{name}", batch_size=4, **exact))
        config(folder, tmp_path / f"two-{name}", batch_size=2, **exact)
        paths.append(str(folder / f"two-{name}.json.yaml"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    shared["PYTHONPATH"] = os.pathsep.join(sys.path)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, *paths],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said[-2000:]
    for name in stages:
        assert_same_gradients(tmp_path / f"two-{name}", tmp_path / f"one-{name}")
        moved = 1e-2 / 2  # AdamW's first step, at the rate of a half warm-up
        one, two = trained(tmp_path / f"one-{name}"), trained(tmp_path / f"two-{name}")
        far = torch.cat([(one[key] - two[key]).abs().flatten() for key in one])
        assert far.mean() < moved / 100


def test_a_checkpoint_of_another_recipe_is_refused(folder: Path, tmp_path: Path) -> None:
    pretrain(config(folder, tmp_path / "run", steps=2))
    with pytest.raises(CaptionaryError, match=r"learning_rate == 0\.02, must be as in the checkpoint: 0\.01"):
        pretrain(config(folder, tmp_path / "run", steps=2, learning_rate=2e-2))
    with pytest.raises(CaptionaryError, match="pictures a step == 8"):
        pretrain(config(folder, tmp_path / "run", steps=2, batch_size=8))
    with pytest.raises(CaptionaryError, match="at most the 12 pictures"):
        pretrain(config(folder, tmp_path / "large", batch_size=20))


def test_the_command_runs_a_recipe(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe(folder, tmp_path / "elsewhere")))
    given = ["--out", str(tmp_path / "here"), "--steps", "1", "--scenes", "0"]
    result = CliRunner().invoke(command, [str(path), *given], catch_exceptions=False)
    assert result.exit_code == 0
    assert "steps: 1" in result.output
    assert (tmp_path / "here" / "model" / "model.safetensors").exists()
    result = CliRunner().invoke(command, ["stage3"])
    assert isinstance(result.exception, CaptionaryError)
    assert "did you mean that?" in str(result.exception)


def test_shipped_recipes_load() -> None:
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    assert names == ["stage1", "stage1-llama2-1.5b", "stage2", "stage2-llama2-1.5b"]
    for name in names:
        loaded = load_recipe(name, data={"photos": "somewhere"})
        assert loaded.stage == ("representation" if "stage1" in name else "generative")
        assert loaded.preset == ("llama2-1.5b" if "llama2" in name else "builtin")


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"steps": 0}, "steps == 0"),
        ({"stpes": 3}, "steps"),
        ({"data": {}}, "photos, scenes or both"),
        ({"decoder": "x"}, "absent where stage == representation"),
        ({"stage": "generative", "freeze_decoder": True}, "must be false where neither decoder nor start"),
        ({"contrastive": 0.0, "matching": 0.0, "generation": 0.0}, "contrastive"),
        ({"precision": "fp8"}, "precision"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_recipes_refuse(folder: Path, tmp_path: Path, other: dict[str, Any], match: str) -> None:
    with pytest.raises(CaptionaryError, match=match):
        config(folder, tmp_path / "run", **other)


def test_a_vision_transformer_does_not_learn(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CaptionaryError, match=r"encoder_rate == 0\.1, must be 0 for a Vision Transformer"):
        pretrain(config(folder, tmp_path / "run", encoder_rate=0.1))


def test_the_rate_warms_up_and_falls_to_its_least(folder: Path, tmp_path: Path) -> None:
    made = config(folder, tmp_path / "run", steps=102, warmup=2, learning_rate=1.0, least_rate=0.1)
    assert learning_rate(0, made) == pytest.approx(1 / 2)
    assert learning_rate(2, made) == pytest.approx(1.0)
    assert learning_rate(52, made) == pytest.approx(0.1 + 0.9 / 2)
    assert learning_rate(102, made) == pytest.approx(0.1)
