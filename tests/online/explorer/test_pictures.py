import io
import os
import re

import numpy as np
import pytest
from PIL import Image
from tests.online.service.small_service import picture

from captionary.online.explorer.pictures import _BYTES, Pictures
from captionary.online.items import ItemRecord
from captionary.online.spool import Spool
from captionary.understand.media import LIMITS

GREY = (128, 128, 124)
MP4 = b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(100)
WAV = b"RIFF\x24\0\0\0WAVEfmt " + bytes(28)


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "media").mkdir()
    return Pictures(Spool(tmp_path / "spool"), tmp_path / "media", LIMITS)


def of(*media, digest=""):
    return ItemRecord(item_id=1, status="ok", media=media, media_digest=digest)


def shown(pictures, record, place=0, size="small"):
    content = pictures.jpeg(record, place, size)
    assert len(content) <= _BYTES[size]
    image = Image.open(io.BytesIO(content))
    assert image.format == "JPEG"
    return image


def test_what_is_shown_is_made_anew_and_small(pictures):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (900, 1200, 3), np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, "PNG", pnginfo=None)
    data = buffer.getvalue()
    name = pictures.spool.put(data)
    for size in ("small", "large"):
        image = shown(pictures, of(name), size=size)
        assert max(image.size) <= 960
    with_text = Image.new("RGB", (40, 30), "red")
    exif = with_text.getexif()
    exif[0x010E] = "secret place"
    buffer = io.BytesIO()
    with_text.save(buffer, "JPEG", exif=exif)
    content = pictures.jpeg(of(pictures.spool.put(buffer.getvalue())), 0, "small")
    assert b"secret place" not in content


@pytest.mark.parametrize(
    "name",
    [
        "../outside.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "https://example.com/a.png",
        "link.png",
        "absent.png",
        "script.svg",
        "00/" + "0" * 32,
        "a\0b",
    ],
)
def test_what_pages_may_not_show_is_grey(pictures, tmp_path, name):
    (tmp_path / "outside.png").write_bytes(picture("red"))
    (tmp_path / "media" / "link.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "media" / "script.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>")
    image = shown(pictures, of(name))
    assert np.allclose(image.getpixel((5, 5)), GREY, atol=4)


def test_a_picture_of_the_catalogue(pictures, tmp_path):
    (tmp_path / "media" / "a").mkdir()
    (tmp_path / "media" / "a" / "1.png").write_bytes(picture("red"))
    assert shown(pictures, of("a/1.png")).getpixel((5, 5))[0] > 200
    unset = Pictures(pictures.spool, None, LIMITS)
    assert np.allclose(shown(unset, of("a/1.png")).getpixel((5, 5)), GREY, atol=4)


@pytest.mark.parametrize(
    ("name", "content", "medium"),
    [
        ("clip.mp4", MP4, ("video", "MP4")),
        ("a.b/clip.WebM", b"\x1a\x45\xdf\xa3", ("video", "WEBM")),
        ("sound.wav", WAV, ("sound", "WAV")),
        ("clip", MP4, ("video", "")),
        ("clip.<b>", MP4, ("video", "")),
        ("clip.of the day", MP4, ("video", "")),
        ("photo.mp4", picture("red"), ("picture", "")),  # its content says what it is
        ("page.svg", b"<svg/>", ("picture", "")),
        ("empty.mp4", b"", ("picture", "")),
    ],
)
def test_what_a_medium_is(pictures, name, content, medium):
    path = pictures.media / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert pictures.medium(of("other.png", name), 1) == medium
    if medium[0] != "picture":  # nobody kept the name of an upload
        assert pictures.medium(of(pictures.spool.put(content)), 0) == (medium[0], "")


def test_a_medium_that_cannot_be_looked_at_counts_as_a_picture(pictures, tmp_path):
    (tmp_path / "outside.mp4").write_bytes(MP4)
    os.mkfifo(pictures.media / "pipe.mp4")
    for name in (
        "../outside.mp4",
        "gone.mp4",
        "pipe.mp4",
        ".",
        "00/" + "0" * 32,
        "https://example.com/a.mp4",
    ):
        assert pictures.medium(of(name), 0) == ("picture", "")
    (pictures.media / "gone.mp4").write_bytes(MP4)  # it has come since
    assert pictures.medium(of("gone.mp4", digest="1"), 0) == ("video", "MP4")
    (pictures.media / "gone.mp4").write_bytes(picture("red"))
    assert pictures.medium(of("gone.mp4", digest="2"), 0) == ("picture", "")


def test_a_video_has_a_tile_with_a_name(start):
    site = start()
    site.upload(2003, 'a "dog" runs', data=MP4)
    page = site.get("/explore/item?id=2003").text
    assert '<span class="tile video" role="img" aria-label="Video: a &#34;dog&#34; runs">' in page
    assert "picture?item=2003" not in page
    assert re.search(r'<span class="tile video">\s*<svg [^>]*aria-hidden="true"', site.get("/explore").text)


def test_addresses_name_content_and_never_a_file(site):
    record = site.services.store.item(2001)
    page = site.get("/explore/item?id=2001").text
    assert record.media[0] not in page
    path = f"/explore/picture?item=2001&n=0&size=small&v={record.media_digest}"
    assert path.replace("&", "&amp;") in site.get("/explore").text
    answer = site.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.content[:3] == b"\xff\xd8\xff"
    for other in (path[:-1] + "0", path.replace("n=0", "n=1"), path.replace("2001", "1001")):
        assert site.get(other).status_code == 404
    assert site.get(path.replace("small", "huge")).status_code == 400


def test_memory_is_bounded(pictures, monkeypatch):
    monkeypatch.setattr("captionary.online.explorer.pictures._KEPT_BYTES", 3000)
    for colour in range(20):
        name = pictures.spool.put(picture((colour * 12, 0, 0)))
        pictures.jpeg(of(name), 0, "small")
    assert pictures._bytes <= 3000
    assert pictures._bytes == sum(map(len, pictures._kept.values()))
