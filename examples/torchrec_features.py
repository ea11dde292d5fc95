"""Captionary's token features as the inputs of a TorchRec model: python torchrec_features.py EXPORT"""

import sys
from pathlib import Path

from torchrec import EmbeddingBagCollection, EmbeddingBagConfig

from captionary.interchange.torchrec import read_export, to_keyed_jagged

export = read_export(Path(sys.argv[1]))
size = {"embedding_dim": 16, "num_embeddings": export.vocabulary_size}
table = EmbeddingBagConfig(name="tokens", feature_names=export.keys, **size)  # one table: one vocabulary
model = EmbeddingBagCollection(tables=[table], is_weighted=True)
users = [export.user_ids[0].as_py()] * len(export.item_ids)  # one user, every item
pooled = model(to_keyed_jagged(export.features(users, export.item_ids)))
