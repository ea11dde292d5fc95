"""Sizes of rankers that others have published, for what depends on a ranker's size."""

from __future__ import annotations

from typing import Any

__all__ = ["PUBLISHED"]

PUBLISHED: dict[str, dict[str, Any]] = {
    "DLRM for Criteo Kaggle": {
        "interaction": "dot",
        "embedding_dim": 16,
        "bottom": (512, 256, 64),
        "top": (512, 256),
    },
    "DLRM of MLPerf": {
        "interaction": "dot",
        "embedding_dim": 128,
        "bottom": (512, 256),
        "top": (1024, 1024, 512, 256),
    },
}
"""Of DLRM's authors' script for Criteo Kaggle (facebookresearch/dlrm: bench/dlrm_s_criteo_kaggle.sh) and of MLPerf
Training's DLRM: fields of `captionary.rank.settings.RankerConfig`."""
