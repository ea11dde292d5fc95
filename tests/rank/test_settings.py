import subprocess
import sys

import pytest

from captionary.config import from_mapping
from captionary.errors import CaptionaryError
from captionary.rank.settings import RankerConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("embedding_dim", 0),
        ("top", ()),
        ("top", (64, 0)),
        ("bottom", (-1,)),
        ("epochs", 0),
        ("dense_lr", 0.0),
        ("embedding_lr", float("nan")),
        ("cooldown", 1.5),
        ("unseen_share", 1.0),
        ("dropout", -0.1),
        ("embedding_decay", -1.0),
        ("interaction", "cross"),
        ("cross_layers", 0),
        ("cross_rank", -1),
        ("towers", "moe"),
        ("experts", 0),
        ("task_experts", -1),
        ("expert_levels", 0),
        ("token_pooling", "attention"),
        ("profile_pooling", "max"),
        ("id_min_rows", 0),
        ("id_hash_rows", -1),
        ("category_min_rows", 0),
        ("category_hash_rows", -1),
    ],
)
def test_a_value_out_of_range_is_named(key, value):
    with pytest.raises(CaptionaryError, match=f"^{key} == .*must be "):
        RankerConfig(**{key: value})


def test_reads_from_plain_values():
    assert from_mapping(RankerConfig, {"top": [64, 32], "dense_lr": 1}, where="x").top == (64, 32)


def test_settings_and_features_do_not_load_torch():
    code = "import sys, captionary.rank.settings, captionary.rank.features; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
