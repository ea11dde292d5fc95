"""`POST /items`, `GET /items/{id}`, `DELETE /items/{id}`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Router, delete, get, post
from litestar.datastructures import UploadFile
from litestar.exceptions import ClientException, HTTPException, NotFoundException
from litestar.openapi.spec import (
    Example,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)
from litestar.params import HeaderParameter, PathParameter, QueryParameter

from captionary.online.decisions import forget_item
from captionary.online.log import MEDIA
from captionary.online.packing import Id, id_bytes
from captionary.online.service.problems import PROBLEMS
from captionary.online.service.routes_events import idempotency_key
from captionary.online.service.services import Services
from captionary.online.service.types import Item, ItemUpload, Queued, Removed
from captionary.online.service.uploads import Uploads

__all__ = ["item_routes"]

_TEXT = {"min_length": 1, "max_length": 200}


def _body() -> RequestBody:
    """Two ways to say the same: a form with files, or JSON with URIs."""
    text, strings = Schema(type=OpenAPIType.STRING), Schema(type=OpenAPIType.OBJECT)
    files = Schema(type=OpenAPIType.STRING, format="binary")  # type: ignore[arg-type]
    form = Schema(
        type=OpenAPIType.OBJECT,
        required=["item", "media"],
        properties={"item": text, "media": files, "title": text, "columns": Schema(type=OpenAPIType.STRING)},
    )
    uris = Schema(
        type=OpenAPIType.OBJECT,
        required=["item", "media"],
        properties={
            "item": Schema(one_of=[Schema(type=OpenAPIType.INTEGER), text]),
            "media": Schema(type=OpenAPIType.ARRAY, items=text, min_items=1),
            "title": text,
            "columns": strings,
        },
    )
    example = {"item": 1003, "media": ["https://images.example.com/1003.jpg"], "title": "Red sofa"}
    return RequestBody(
        required=True,
        content={
            "multipart/form-data": OpenAPIMediaType(schema=form),
            "application/json": OpenAPIMediaType(schema=uris, examples={"uri": Example(value=example)}),
        },
    )


@dataclass
class _UploadOperation(Operation):
    def __post_init__(self) -> None:
        self.request_body = _body()


def item_routes(services: Services) -> Router:
    """The routes for items."""
    uploads = Uploads(services.config.uploads, services.spool, services.log, services.telemetry)

    def known(item: Id, position: int | None) -> Item | None:
        record = services.store.item(item)
        if position is not None and (record is None or record.position < position):
            waiting = _waiting(services, item, position)
            if waiting is not None:
                return waiting
        if record is None:
            return None
        return Item(
            item=record.item_id,
            status=record.status,
            visible_at=_moment(record.visible_at),
            received_at=_moment(record.received_at),
            title=record.title,
            caption=record.caption,
            tokens=services.words.words(record.token_ids.tolist()),
            media=list(record.media),
            captioner=record.captioner,
            reason=record.reason,
            detail=record.detail,
            revision=record.revision,
        )

    def upload(asked: ItemUpload | _Form, key: str) -> Queued:
        services.rankers.check_items([asked.item])
        id_bytes(asked.item)
        contents = asked.files if isinstance(asked, _Form) else uploads.fetched(asked.media)
        position, names = uploads.take(
            asked.item, contents, title=asked.title, columns=asked.columns, key=key
        )
        return Queued(item=asked.item, position=position, media=names)

    def forget(item: Id) -> Removed:
        # First what waits; then what is there, and what a worker has in its hands is passed over.
        entries = services.log.erase(MEDIA, id_bytes(item))
        found = forget_item(services.store, item, services.log.last(MEDIA))
        return Removed(found=found, log_entries=entries)

    @post(
        "/items",
        opt={"needs": "items", "pool": "write"},
        status_code=202,
        summary="Take an item's media",
        tags=["ingest"],
        operation_id="items",
        operation_class=_UploadOperation,
        request_max_body_size=services.config.uploads.max_bytes + (64 << 10),
        responses=PROBLEMS,
    )
    async def items(
        request: Request[Any, Any, Any],
        batch: Annotated[str | None, HeaderParameter(name="Idempotency-Key", max_length=100)] = None,
    ) -> Queued:
        """Take media of an item, as files or from allowed addresses. When this answers they are on disk, and will be
        captioned: ask `GET /items/{id}?position=…` when. A later upload of the item replaces an earlier one.
        """
        asked = await _asked(request, services)
        key = idempotency_key(request.auth.name, None, batch, 0)
        return await services.writes.run(upload, asked, key)

    @get(
        "/items/{item:str}",
        opt={"needs": "read", "pool": "write"},
        summary="What is known of an item",
        tags=["items"],
        operation_id="item",
        responses=PROBLEMS,
        raises=[NotFoundException],
    )
    async def one(
        item: Annotated[str, PathParameter(**_TEXT)],
        position: Annotated[
            int | None, QueryParameter(ge=1, le=2**63 - 1, description="What POST /items answered.")
        ] = None,
    ) -> Item:
        """Its status, caption and tokens, and since when the ranking path has them."""
        found = await services.writes.run(known, services.item_id(item), position)
        if found is None:
            raise NotFoundException(f"item == {item[:200]}, must be one with a record")
        return found

    @delete(
        "/items/{item:str}",
        opt={"needs": "erase", "pool": "write"},
        status_code=200,
        summary="Delete an item",
        tags=["items"],
        operation_id="delete_item",
        responses=PROBLEMS,
    )
    async def gone(item: Annotated[str, PathParameter(**_TEXT)]) -> Removed:
        """Delete an item, its rows, and every event on it from the profiles."""
        return await services.writes.run(forget, services.item_id(item))

    return Router("/", route_handlers=[items, one, gone])


class _Form(msgspec.Struct, frozen=True, kw_only=True):
    """A multipart upload."""

    item: Id
    files: list[bytes]
    title: str | None
    columns: dict[str, Any]


async def _asked(request: Request[Any, Any, Any], services: Services) -> ItemUpload | _Form:
    kind = request.content_type[0]
    if kind == "application/json":
        try:
            return msgspec.json.decode(await request.body(), type=ItemUpload)
        except msgspec.DecodeError as error:
            raise ClientException(str(error)) from None
    if kind != "multipart/form-data":
        detail = f"Content-Type == {kind[:100] or 'none'}, must be multipart/form-data or application/json"
        raise HTTPException(detail, status_code=415)
    try:
        form = await request.form()
    except HTTPException:
        raise
    except Exception as error:  # the parser raises its own errors, and ValueError, on a body that is no form
        raise ClientException(
            f"form == unreadable ({type(error).__name__}), must be multipart/form-data"
        ) from None
    said: dict[str, str] = {}
    files = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) and name == "media":
            files.append(await value.read())
        elif isinstance(value, str) and name in ("item", "title", "columns") and name not in said:
            said[name] = value
        else:
            raise ClientException(
                f"field == {name[:100]!r}, must be item, title, columns (once), or media (a file)"
            )
    if "item" not in said:
        raise ClientException("item == (absent), must be given")
    # The same rules as for JSON: those of `ItemUpload`.
    try:
        columns = msgspec.json.decode(said.get("columns") or "{}")
        checked = msgspec.convert(
            {
                "item": services.item_id(said["item"]),
                "media": ["-"],
                "title": said.get("title"),
                "columns": columns,
            },
            ItemUpload,
        )
    except msgspec.DecodeError as error:
        raise ClientException(str(error)) from None
    return _Form(item=checked.item, files=files, title=checked.title, columns=checked.columns)


def _waiting(services: Services, item: Id, position: int) -> Item | None:
    """An upload that has no record yet: given up, or on its way."""
    letters = services.log.dead(MEDIA, after=position - 1, most=1)
    if letters and letters[0].entry.position == position:
        letter = letters[0]
        if letter.entry.subject == id_bytes(item):
            return Item(item=item, status="failed", reason=letter.reason, detail=letter.detail)
        return None
    if services.log.floor(MEDIA) < position <= services.log.last(MEDIA):
        return Item(item=item, status="queued")
    return None


def _moment(micros: int) -> datetime | None:
    return datetime.fromtimestamp(micros / 1e6, UTC) if micros else None
