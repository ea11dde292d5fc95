"""Templates and what all pages share: who looks, what they may do, addresses, numbers and moments as words."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import jinja2
from litestar import MediaType, Request, Response

from captionary import __version__
from captionary.evidence.formats import count, interval, percent, share
from captionary.evidence.palette import palette
from captionary.online.explorer.charts import share_bar
from captionary.online.explorer.pictures import Pictures
from captionary.online.items import ItemRecord
from captionary.online.service.keys import LOCAL, ApiKey
from captionary.online.service.routes_login import csrf_token

if TYPE_CHECKING:
    from captionary.online.service.services import Services

__all__ = ["Pages", "asset", "link", "picture_link", "when"]

_TEMPLATES = Path(__file__).parent / "templates"
_ASSETS = {
    "explorer.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


class Pages:
    """Renders pages; for any number of threads.

    Args:
        services: of the running service.
        pictures: that tell what each medium is.
    """

    def __init__(self, services: Services, pictures: Pictures) -> None:
        self.services = services
        self._environment = _environment()
        self._environment.globals["medium"] = pictures.medium

    async def page(self, request: Request[Any, Any, Any], template: str, **values: Any) -> Response[str]:
        """A page as an answer, rendered in a thread: the event loop is everybody's, ranking requests' too.

        Args:
            request: whose key decides which forms are shown.
            template: its name.
            values: of the template.
        """
        return await self.services.read(lambda: self.rendered(request, template, **values))

    def rendered(
        self, request: Request[Any, Any, Any], template: str, *, status: int = 200, **values: Any
    ) -> Response[str]:
        """`page`, here and now."""
        auth = request.scope.get("auth")
        key = auth if isinstance(auth, ApiKey) else None
        text = self._environment.get_template(template).render(
            token=csrf_token(request),
            may=lambda scope: key is not None and key.allows(scope),
            session=key is not None and key is not LOCAL,
            key_name="" if key is None else key.name,
            version=__version__,
            here=request.url.path,
            status=status,
            **values,
        )
        return Response(text, media_type=MediaType.HTML, status_code=status)


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,  # captions, titles, ids and reasons are data, whatever they contain
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": percent,
        "count": count,
        "interval": interval,
        "when": when,
        "seconds": seconds,
        "part": _part,
    }
    made.globals |= {"link": link, "picture": picture_link, "asset": asset, "bar": share_bar}
    return made


def link(page: str, **query: Any) -> str:
    """The address of a page; what is None or "" is left out, a list is repeated."""
    parts: list[tuple[str, str]] = []
    for name, value in query.items():
        values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        parts += [(name, str(one)) for one in values if one is not None and one != ""]
    path = f"/explore/{page}" if page else "/explore"
    return f"{path}?{urlencode(parts)}" if parts else path


def picture_link(record: ItemRecord, place: int = 0, size: str = "small") -> str:
    """The address of a picture; another content has another address."""
    return link("picture", item=record.item_id, n=place, size=size, v=Pictures.key(record, place))


def asset(name: str) -> str:
    """The address of a file of the pages, with a digest of its content."""
    return f"/explore/assets/{name}?v={hashlib.blake2b(content_of(name)[0], digest_size=6).hexdigest()}"


@functools.cache
def content_of(name: str) -> tuple[bytes, str]:
    """(content, media type) of a file of the pages.

    Raises:
        KeyError: there is none of that name.
    """
    kind = _ASSETS[name]
    content = (_TEMPLATES / name).read_bytes()
    # In one file: a second sheet would be a second request, and an @import one more after that.
    return palette().encode() + content if name.endswith(".css") else content, kind


def when(value: int | datetime | str | None) -> str:
    """A moment in UTC, to the second: of microseconds since 1970, a datetime or ISO 8601; a dash for none."""
    if not value:
        return "–"
    if isinstance(value, int):
        value = datetime.fromtimestamp(value // 1_000_000, UTC)
    elif isinstance(value, str):
        value = datetime.fromisoformat(value)
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def seconds(value: float | None) -> str:
    """A duration as people say it: ``80 ms``, ``1.4 s``, ``12 min``, ``3.1 h``, ``4.0 days``."""
    if value is None:
        return "–"
    for limit, size, unit, digits in (
        (1, 1e-3, "ms", 0),
        (100, 1, "s", 1),
        (5400, 60, "min", 0),
        (172_800, 3600, "h", 1),
    ):
        if value < limit:
            return f"{value / size:.{digits}f} {unit}"
    return f"{value / 86_400:.1f} days"


def _part(value: float) -> str:
    """A share of 1, as ``12 %``."""
    return share(value, 1)
