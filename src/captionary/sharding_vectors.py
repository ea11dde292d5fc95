"""The dense vectors of a run that shards carry beside the visual one, projected as earlier shards did or anew.

sentence       of items         the caption's sentence embedding, whitened over the shards' training items
profile_text   of impressions   what a language model said of the user before, whitened over their impressions
word2vec       of tokens        no field of its own: where the token table starts
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captionary.errors import bad_value, nearest
from captionary.rank.shard_schema import VectorColumn
from captionary.rank.shards import Shards, projection_path
from captionary.represent.text_profiles import rows_as_of
from captionary.represent.vectors import TokenVectors, Whitening
from captionary.rivals import read_token_vectors
from captionary.settings import RunConfig
from captionary.stages import fingerprint, read_stage

__all__ = [
    "VECTORS",
    "RunVectors",
    "TextOf",
    "as_lists",
    "chosen_vectors",
    "earlier_projection",
    "named_projection",
    "run_vectors",
    "token_start",
]

VECTORS = ("sentence", "profile_text", "word2vec")
"""What `--vectors` may name."""

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


class TextOf(NamedTuple):
    """Which of P profiles in words an impression has."""

    profiles: pa.Table
    """`user_id`, `as_of`, `text`, [P]."""

    def rows(self, impressions: pa.Table) -> npt.NDArray[np.int64]:
        """The profile of each impression as of then, P for none."""
        ids = self.profiles["user_id"]
        users = pc.unique(impressions["user_id"]).cast(ids.type)
        # of the users at hand alone: there may be many more of others
        kept = np.flatnonzero(pc.is_in(ids, value_set=users).to_numpy())
        found = rows_as_of(self.profiles.take(kept), impressions["user_id"], impressions["timestamp"])
        return np.append(kept, len(self.profiles))[found]


class RunVectors(NamedTuple):
    """One of the vectors, ready to be written."""

    column: VectorColumn
    values: Floats
    """[I, d] of items; [P + 1, d] of profiles in words, the last for none."""
    whitening: Whitening
    """How they were made of the encoder's."""
    text: TextOf | None = None
    """Which of them an impression has; None for those of items."""

    def save(self, folder: Path, name: str) -> None:
        """Keep the projection in a folder of shards, for those of tomorrow and for serving."""
        path = projection_path(folder, name)
        path.parent.mkdir(exist_ok=True)
        np.savez(path, mean=self.whitening.mean, components=self.whitening.components)


def chosen_vectors(config: RunConfig, asked: Sequence[str] | None, like: Shards | None) -> tuple[str, ...]:
    """Names in the order of `VECTORS`; not asked for, those of the earlier shards.

    Raises:
        CaptionaryError: a name that is none, or that the run was not made with.
    """
    if asked is None:
        asked = tuple(like.schema.vectors) if like is not None else ()
    for name in asked:
        if name not in VECTORS:
            raise bad_value("vectors", name, nearest(name, VECTORS), where=f"run {config.name}")
        if not (config.folder / "tokens" / name).is_dir():
            todo = f"add {name} to `evidence: {{rivals: […]}}` of the config, see docs/vectors.md"
            raise bad_value(
                "vectors", name, "what the run was made with", where=f"run {config.name}", todo=todo
            )
    return tuple(name for name in VECTORS if name in asked)


def run_vectors(
    config: RunConfig, name: str, known: Flags, impressions: Iterable[pa.Table], like: Shards | None
) -> RunVectors:
    """Read vectors of the tokens stage and project them: as the earlier shards did, or by their own variance.

    Args:
        config: of the run.
        name: sentence or profile_text.
        known: bool [I], items of the training impressions that are written.
        impressions: user_id and timestamp of these, in parts; read for profile_text alone.
        like: earlier shards; where they have no such vectors, a projection is fitted.

    Raises:
        CaptionaryError: nothing to fit on, or another encoder or width than the earlier shards'.
    """
    folder = config.folder / "tokens" / name
    stage = read_stage(config.folder / "tokens")
    facts: dict[str, Any] = stage.facts.get("rivals", {}).get(name, {}) if stage is not None else {}
    encoder = str(facts.get("model", ""))
    with np.load(folder / "vectors.npz", allow_pickle=False) as stored:
        vectors, present = stored["vectors"].astype(np.float32), stored["present"]
    text = TextOf(pq.read_table(folder / "profiles.parquet")) if name == "profile_text" else None
    whitening = earlier_projection(like, name, vectors.shape[1], encoder) if like is not None else None
    if whitening is None:
        fitted = np.flatnonzero(known & present) if text is None else _seen(text, impressions, present)
        if not len(fitted):
            todo = "write profiles as of moments within training (--moments)" if text is not None else None
            rule = "a vector at least that training has"
            raise bad_value(f"vectors {name}", 0, rule, where=str(folder), todo=todo)
        whitening = Whitening.fit(vectors[fitted], config.vectors.sentence_dimensions)
    column = VectorColumn(
        width=whitening.components.shape[1],
        of="item" if text is None else "impression",
        encoder=encoder,
        projection=named_projection(whitening),
    )
    return RunVectors(column, whitening.apply(vectors, present), whitening, text)


def earlier_projection(like: Shards, name: str, width: int, encoder: str = "") -> Whitening | None:
    """The projection of earlier shards, by default of the visual vectors; None where they have no such vectors.

    Raises:
        CaptionaryError: it is of vectors of another encoder or another width.
    """
    if name and name not in like.schema.vectors:
        return None
    whitening = like.projection(name)
    if whitening is None:
        return None
    said = f"vectors {name}" if name else "visual vectors"
    todo = "embed with that encoder, or make shards without --like and train anew"
    before = like.schema.vectors[name].encoder if name else like.schema.encoder
    # shards of earlier versions do not say whose the visual vectors are
    if encoder != before and (name or (encoder and before)):
        rule = f"{before or 'unknown'}, as in {like.root}"
        raise bad_value(f"encoder of {said}", encoder or "unknown", rule, todo=todo)
    if width != len(whitening.mean):
        rule = f"{len(whitening.mean)}, as in {like.root}"
        raise bad_value(f"width of the encoder's {said}", width, rule, todo=todo)
    return whitening


def named_projection(whitening: Whitening) -> str:
    """Digest of a projection."""
    return fingerprint(parts=[part.tolist() for part in whitening])


def token_start(config: RunConfig, letter: str, *, tokens: bool) -> tuple[TokenVectors, str]:
    """(where the table of a tokenizer's tokens may start from, digest of these numbers).

    Raises:
        CaptionaryError: shards without tokens, or of a tokenizer whose tokens have no vectors.
    """
    folder = config.folder / "tokens"
    if not tokens or not (folder / "word2vec" / f"{letter}.npz").exists():
        known = sorted(path.stem for path in (folder / "word2vec").glob("*.npz"))
        rule = "left out with these tokens"
        where = f"run {config.name} has learnt them for tokenizer {', '.join(known)}"
        raise bad_value("vectors", "word2vec", rule, where=where)
    found = read_token_vectors(folder, letter)
    digest = hashlib.blake2b(found.vectors.tobytes() + found.known.tobytes(), digest_size=12)
    return found, digest.hexdigest()


def as_lists(values: Floats) -> pa.FixedSizeListArray:
    """Vectors [N, d] as an Arrow array of N lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _seen(text: TextOf, impressions: Iterable[pa.Table], present: Flags) -> npt.NDArray[np.int64]:
    """The profiles in words that training impressions have."""
    met = np.zeros(len(present), bool)
    for table in impressions:
        met[text.rows(table)] = True
    return np.flatnonzero(met & present)
