"""The addresses of the pages. Each reads what it shows in a thread of the service's pool, and works without script.

What changes something is a POST with a CSRF token, and answers with the page to see it on (303).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from litestar import MediaType, Request, Response, Router, get, post
from litestar.enums import RequestEncodingType
from litestar.exceptions import HTTPException, NotFoundException
from litestar.params import Body, FromQuery, PathParameter, QueryParameter
from litestar.response import Redirect

from captionary.errors import CaptionaryError, bad_value
from captionary.online.explorer import freshness, interests
from captionary.online.explorer.catalogue import Catalogue
from captionary.online.explorer.feed import Feeds, ids_of
from captionary.online.explorer.mistakes import handlers
from captionary.online.explorer.overview import glimpses, overview, users_from
from captionary.online.explorer.pages import Pages, content_of, link
from captionary.online.explorer.pictures import Pictures, Size
from captionary.online.explorer.trials import trials
from captionary.online.governance import EVERY
from captionary.online.packing import Id
from captionary.online.service.services import Services
from captionary.understand.media import MediaLimits

__all__ = ["explorer_routes"]

Form = Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)]
Text = Annotated[str, QueryParameter(max_length=200)]
Named = Annotated[str, QueryParameter(name="id", min_length=1, max_length=200)]
Place = Annotated[int, QueryParameter(ge=0, le=2**53)]
_READ = {"needs": "read"}
_ITEMS = 24
_USERS = 20
_STRIP = 8
_DEED = re.compile(r"(mute|unmute|more|less|plain|erase):(-1|[0-9]{1,9})")


def explorer_routes(services: Services) -> Router:
    """All pages of a service."""
    uploads = services.config.uploads
    pictures = Pictures(
        services.spool,
        services.config.media,
        MediaLimits(max_bytes=uploads.max_bytes, max_pixels=uploads.max_pixels),
    )
    pages, catalogue = Pages(services, pictures), Catalogue(services)
    feeds = Feeds(services, catalogue)
    captions = freshness.Captions(services.config.captions)

    @get("/", opt=_READ)
    async def home() -> Redirect:
        return Redirect("/explore", status_code=303)

    @get("/explore", opt=_READ)
    async def start(request: Request[Any, Any, Any]) -> Response[str]:
        return await pages.page(
            request, "home.html.j2", seen=await services.read(overview, services, catalogue)
        )

    @get("/explore/feed", opt=_READ)
    async def feed(
        request: Request[Any, Any, Any],
        user: Text = "",
        task: Text = "",
        draw: Place = 0,
        captions: FromQuery[Literal["on", "off"]] = "on",
    ) -> Response[str]:
        found = None
        if user:
            found = await services.read(
                lambda: feeds.feed(services.user_id(user), task=task, seed=draw, why=captions == "on")
            )
        return await pages.page(
            request,
            "feed.html.j2",
            feed=found,
            tasks=services.rankers.tasks,
            task=task,
            draw=draw,
            captions=captions == "on",
        )

    @get("/explore/users", opt=_READ)
    async def users(
        request: Request[Any, Any, Any], start: Text = "", after: Text = "", offset: Place = 0
    ) -> Response[str]:
        found = await services.read(users_from, services, "" if after else start, after, offset, _USERS)
        known = await services.read(glimpses, services, found.users)
        return await pages.page(request, "users.html.j2", found=found, known=known, start=start)

    @get("/explore/user", opt=_READ)
    async def user(
        request: Request[Any, Any, Any],
        number: Named,
        done: Text = "",
        word: Text = "",
        was: Annotated[list[str] | None, QueryParameter(max_items=_STRIP)] = None,
    ) -> Response[str]:
        def look() -> dict[str, Any]:
            who = services.user_id(number)
            before = ids_of(services, was or [])
            old = [record for record in services.store.items(before) if record is not None]
            return {
                "person": interests.person(services, who),
                "strip": feeds.moved(who, before, _STRIP),
                "old": old,
                "by": feeds.ranker_of(who),
            }

        # A link from elsewhere must not make the page say what it likes: a word is one of the tokenizer's.
        known = not word or word in services.words.vocabulary
        said = _DONE.get(done, "").replace("{word}", word or "everything") if known else ""
        found = await services.read(look)
        return await pages.page(
            request, "user.html.j2", said=said, types=services.store.config.event_types, **found
        )

    @post("/explore/user", opt={"needs": "erase"})
    async def change(data: Form) -> Redirect:
        who = services.user_id(data.get("id", ""))
        if data.get("do") == "nothing":
            return Redirect(link("user", id=who), status_code=303)
        event = EVERY if data.get("everywhere") else data.get("event", EVERY)
        if chosen := data.get("word", "").strip():
            deed, token = data.get("deed", ""), services.words.token(chosen)
        elif matched := _DEED.fullmatch(data.get("do", "")):
            deed, token = matched[1], int(matched[2])
        else:
            raise bad_value("what to do", data.get("do", "(absent)")[:100], "a word, and what to do with it")
        if token < 0 and deed != "erase":
            raise bad_value("word", "(absent)", "given")

        def work() -> list[Id]:
            before = [record.item_id for record in feeds.own(who, _STRIP)]
            interests.decide(services, who, deed, event, token)
            return before

        before = await services.read(work)
        shown = services.words.word(token) if token >= 0 else ""
        return Redirect(f"{link('user', id=who, done=deed, word=shown, was=before)}#done", status_code=303)

    @get("/explore/user/erase", opt={"needs": "erase"})
    async def erase(
        request: Request[Any, Any, Any], number: Named, event: Text = EVERY, token: FromQuery[int] = -1
    ) -> Response[str]:
        who = services.user_id(number)
        if event not in (*services.store.config.event_types, EVERY):
            raise bad_value("event type", event, "one that has profiles")
        shown = services.words.word(token) if token >= 0 else ""
        return await pages.page(request, "erase.html.j2", user=who, event=event, word=shown, deed_token=token)

    @get("/explore/user/forget", opt={"needs": "erase"})
    async def forgetting(request: Request[Any, Any, Any], number: Named) -> Response[str]:
        return await pages.page(request, "forget.html.j2", user=services.user_id(number), gone=None)

    @post("/explore/user/forget", opt={"needs": "erase"}, status_code=200)
    async def forget(request: Request[Any, Any, Any], data: Form) -> Response[str]:
        who = services.user_id(data.get("id", ""))
        if data.get("sure") != "yes":
            raise bad_value("sure", data.get("sure", "(absent)")[:100], "ticked")
        gone = await services.read(services.erasures.forget, who)
        return await pages.page(request, "forget.html.j2", user=who, gone=gone)

    @get("/explore/items", opt=_READ)
    async def items(request: Request[Any, Any, Any], word: Text = "", offset: Place = 0) -> Response[str]:
        def look() -> dict[str, Any]:
            if not word:
                return {
                    "records": catalogue.page(offset, _ITEMS),
                    "total": len(catalogue),
                    "newest": catalogue.newest(6) if not offset else [],
                }
            records, total = catalogue.with_word(services.words.token(word), offset, _ITEMS)
            return {"records": records, "total": total, "newest": []}

        problem = ""
        found: dict[str, Any] = {"records": [], "total": 0, "newest": []}
        try:
            found = await services.read(look)
        except CaptionaryError as error:
            if not word or getattr(error, "retry_after", None) is not None:
                raise
            problem = str(error)
        return await pages.page(
            request, "items.html.j2", word=word, offset=offset, most=_ITEMS, problem=problem, **found
        )

    @get("/explore/item", opt=_READ)
    async def item(request: Request[Any, Any, Any], number: Named) -> Response[str]:
        def look() -> dict[str, Any] | None:
            record = services.store.item(services.item_id(number))
            if record is None:
                return None
            tokens = list(dict.fromkeys(record.token_ids.tolist()))
            near = catalogue.nearest(record, 12)
            return {
                "record": record,
                "words": services.words.words(tokens),
                "near": [(one, services.words.words(one.shared)) for one in near],
                "tokenizer": services.words.name,
                "said": captions.said(record.captioner, record.media_digest),
            }

        found = await services.read(look)
        if found is None:
            raise NotFoundException(f"item == {number}, must be one with a record")
        return await pages.page(request, "item.html.j2", **found)

    @get("/explore/picture", opt=_READ, media_type="image/jpeg")
    async def picture(
        id_: Annotated[str, QueryParameter(name="item", max_length=200)],
        n: Place = 0,
        size: FromQuery[Size] = "small",
        v: Text = "",
    ) -> Response[bytes]:
        def make() -> bytes | None:
            record = services.store.item(services.item_id(id_))
            if record is None or n >= len(record.media) or Pictures.key(record, n) != v:
                return None
            return pictures.jpeg(record, n, size)

        made = await services.read(make)
        if made is None:
            raise NotFoundException("picture == none, must be one of an item")
        # An address names one content, so it may be kept; not for long, as items can be forgotten.
        headers = {"Cache-Control": "private, max-age=600", "Content-Disposition": "inline"}
        return Response(made, media_type="image/jpeg", headers=headers)

    @get("/explore/experiments", opt=_READ)
    async def experiments(request: Request[Any, Any, Any]) -> Response[str]:
        found = await services.read(trials, services)
        return await pages.page(
            request,
            "experiments.html.j2",
            trials=found,
            trouble=services.trials.trouble,
            default=services.config.default,
        )

    @get("/explore/ingest", opt=_READ)
    async def ingest(
        request: Request[Any, Any, Any],
        topic: Text = "",
        after: Place = 0,
        done: FromQuery[int | None] = None,
    ) -> Response[str]:
        seen = await services.read(freshness.ingest_view, services, topic, after)
        known = await services.read(captions.look)
        ready = await services.status.run(services.readiness)
        return await pages.page(request, "ingest.html.j2", seen=seen, captions=known, ready=ready, done=done)

    @post("/explore/ingest", opt={"needs": "admin"})
    async def replay(data: Form) -> Redirect:
        position = data.get("position", "")
        if position and not (position.isascii() and position.isdigit() and len(position) < 19):
            raise bad_value("position", position[:100], "a number")
        done = await services.read(
            freshness.replay, services, data.get("topic", ""), int(position) if position else None
        )
        return Redirect(link("ingest", done=done), status_code=303)

    @get("/explore/assets/{name:str}", opt={"needs": "open"}, media_type=MediaType.TEXT)
    async def assets(name: Annotated[str, PathParameter(max_length=50)], v: Text = "") -> Response[bytes]:
        try:
            content, kind = content_of(name)
        except KeyError:
            raise HTTPException("file == none of the pages", status_code=404) from None
        headers = {"Cache-Control": "public, max-age=31536000, immutable" if v else "public, max-age=600"}
        return Response(content, media_type=kind, headers=headers)

    return Router(
        "/",
        route_handlers=[
            *(home, start, feed, users, user, change, erase, forgetting, forget),
            *(items, item, picture, experiments, ingest, replay, assets),
        ],
        opt={"pages": True},
        include_in_schema=False,
        exception_handlers=handlers(services, pages),
    )


_DONE = {
    "mute": "“{word}” is muted: it no longer counts, and can be unmuted below.",
    "unmute": "“{word}” counts again.",
    "more": "“{word}” counts twice as much.",
    "less": "“{word}” counts half as much.",
    "plain": "“{word}” counts as it did before.",
    "erase": "Erased: {word}. Only new events can bring it back.",
}
