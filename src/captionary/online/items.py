"""What the online store knows of an item besides the ranker's rows."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from captionary.online.packing import Id

__all__ = ["ItemRecord", "pack_item", "unpack_item"]


class ItemRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """An item as it is served; a new one at each upload and each forgetting."""

    item_id: Id
    status: str
    """`ok`: it has a caption and its tokens count; `failed`: see `reason`. Ids alone rank a failed item."""
    tokens: bytes = b""
    """int32, little-endian; see `token_ids`."""
    caption: str = ""
    """As the captioner gave it: text from strangers' pictures, to be escaped where it is shown."""
    normalized: str = ""
    """What was tokenised."""
    title: str | None = None
    columns: dict[str, str | int | float | bool | None] = {}
    media: tuple[str, ...] = ()
    """Names in the spool, or entries of the catalogue."""
    media_digest: str = ""
    """Of the first of them."""
    captioner: str = ""
    """Fingerprint."""
    reason: str = ""
    """Why there is no caption: a slug of `docs/captions.md`."""
    detail: str = ""
    received_at: int = 0
    """When the service took the upload, microseconds since 1970."""
    visible_at: int = 0
    """When the record, and the rows with it, became visible to the ranking path, microseconds."""
    position: int = 0
    """Of the upload in the log; 0: from a catalogue."""
    revision: int = 0
    """How often the item's tokens were set before."""
    sequence: int = 0
    """The update that wrote it."""
    vector: bytes = b""
    """float32 [D], of the captioner's encoder; empty: none."""

    @property
    def token_ids(self) -> npt.NDArray[np.int32]:
        """int32 [n]; none where the status is failed."""
        return np.frombuffer(self.tokens, "<i4").astype(np.int32, copy=False)

    @property
    def visual(self) -> npt.NDArray[np.float32] | None:
        """float32 [D], or None."""
        return np.frombuffer(self.vector, "<f4").astype(np.float32, copy=False) if self.vector else None

    @property
    def latency_seconds(self) -> float | None:
        """From upload to visible; None for an item that was not uploaded."""
        return (self.visible_at - self.received_at) / 1e6 if self.received_at else None


_decode = msgspec.msgpack.Decoder(ItemRecord).decode


def pack_item(record: ItemRecord) -> bytes:
    """The record as bytes."""
    return msgspec.msgpack.encode(record)


def unpack_item(data: bytes) -> ItemRecord:
    """What `pack_item` wrote."""
    return _decode(data)
