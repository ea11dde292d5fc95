from __future__ import annotations

import io
import struct
import tarfile
import zipfile

import pytest
from tests.understand.corpus import chunk, encode, noise, oriented, pictures, png

from captionary.understand import polyglot
from captionary.understand.media import MediaError, decode
from captionary.understand.polyglot import end_of, is_also

HTML = b"<html><body><script>alert(1)</script></body></html>"
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF"


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("run.js", "alert(1)" * 20)
    return buffer.getvalue()


def commented(jpeg: bytes, comment: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[2:]


def refused(data: bytes) -> str:
    with pytest.raises(MediaError) as caught:
        decode(data)
    assert caught.value.reason == "polyglot"
    return caught.value.detail


@pytest.mark.parametrize("name", sorted(set(pictures()) - {"tga rle"}))  # whose signature is its end
@pytest.mark.parametrize("kind", ["zip", "html", "php", "xhtml"])
def test_another_file_after_any_image(name, kind):
    tails = {"zip": archive(), "html": HTML, "php": b"<?php system('id'); ?>", "xhtml": b"<!DOCTYPE html><p>"}
    refused(pictures()[name] + tails[kind])


@pytest.mark.parametrize(
    "tail",
    [PDF, b"\n" + PDF, b"<svg onload=alert(1)>", b"<img src=x onerror=alert(1)>", b"Rar!\x1a\x07\0" + bytes(20),
     b"7z\xbc\xaf\x27\x1c" + bytes(20), b"\x7fELF\2\1\1" + bytes(20), b"MZ\x90\0" + bytes(20), b"\0\0\n#!/bin/sh\nid",
     b"\x1f\x8b\x08" + bytes(20), b"%!PS-Adobe-3.0", b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(30)],
)  # fmt: skip
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "AVIF", "JPEG2000", "ICO"])
def test_another_file_after_an_image_with_an_end(image_format, tail):
    data = encode(noise(32, 32), image_format)
    assert end_of(data, image_format) == len(data)
    assert decode(data).mode == "RGB"
    found = refused(data + bytes(1024) + tail)  # beyond the reach of the rule for the first bytes
    assert f"in {len(tail) + 1024:,} bytes after its end" in found or tail.startswith(b"<svg")
    refused(data + tail)


def test_inside_of_comments_and_metadata():
    jpeg = encode(noise(), "JPEG")
    for comment in (
        HTML,
        b"<SCRIPT src=//x>",
        b"<?php echo 1;",
        PDF,
        archive(),
        b"<svg xmlns='http://x' onload=y>",
    ):
        refused(commented(jpeg, comment))
    refused(png(4, 4, chunk(b"tEXt", b"Comment\0" + HTML), pixels=bytes(52)))
    refused(encode(noise(), "GIF", comment=HTML))
    exif = oriented(1)
    exif[0x010E] = "<script>alert(1)</script>"
    for image_format in ("JPEG", "PNG", "WEBP", "TIFF"):
        refused(encode(noise(), image_format, exif=exif))


def test_scripts_by_their_first_bytes():
    gif = encode(noise(), "GIF")
    refused(gif[:6] + b"/*" + gif[8:] + b"*/=1;alert(1)")
    refused(gif[:6] + b"='" + gif[8:] + b"';alert(1)")
    jpeg = encode(noise(), "JPEG")
    padded = b"\xff\xe0\x2f\x2a" + b"JFIF\0\1\1\0\0\1\0\1\0\0".ljust(0x2F2A - 2, b"\0")  # ÿØÿà/* …
    assert decode(jpeg[:2] + padded + jpeg[20:]).size == (24, 16)  # so long a header alone is odd, no script
    refused(jpeg[:2] + padded + jpeg[20:] + b"*/=alert(1)")
    webp = encode(noise(), "WEBP")
    refused(webp[:4] + b"/*\0\0" + webp[8:].ljust(0x2A2F) + b"*/=alert(1);/*")


def test_archives_around_an_image():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        made.addfile(tarfile.TarInfo("a.js"))
    bmp = encode(noise(40, 40), "BMP")
    refused(bmp[:257] + buffer.getvalue()[257:265] + bmp[265:])
    refused(encode(noise(120, 120), "BMP")[:0x8001] + b"CD001" + bytes(20_000))


@pytest.mark.parametrize(
    "tail",
    [
        b"\0",
        b"\r\n",
        bytes(5000),
        b"\xff\xd9" * 3,
        b"SEFT and other makers' notes",
        b"ftypmp42 a short film, as of motion photos" + bytes(range(256)) * 40,
        encode(noise(seed=3), "JPEG"),  # a preview, a second view, a gain map
        b"PK, not an archive; a < b, PK\x05\x06" + bytes(30),
        b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF/></x:xmpmeta>",
    ],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_honest_trailing_bytes_are_no_reason(image_format, tail):
    assert decode(encode(noise(), image_format) + tail).size == (24, 16)


def test_xmp_and_plain_comments_are_no_reason():
    xmp = b"<?xpacket begin='' id='W5M0'?><x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF></rdf:RDF></x:xmpmeta>"
    for image_format in ("JPEG", "PNG", "WEBP"):
        assert decode(encode(noise(), image_format, xmp=xmp)).size == (24, 16)
    assert decode(commented(encode(noise(), "JPEG"), b"a < b, <3, 5/* stars */ = good")).size == (24, 16)


@pytest.mark.parametrize("name", sorted(pictures()))
def test_where_an_image_ends(name):
    data = pictures()[name]
    kinds = {
        "jpeg": "JPEG",
        "png": "PNG",
        "apng": "PNG",
        "gif": "GIF",
        "webp": "WEBP",
        "bmp": "BMP",
        "ico": "ICO",
    }
    kinds |= {"avif": "AVIF", "heif": "HEIF", "jp2": "JPEG2000", "j2k": "JPEG2000"}
    image_format = kinds.get(name.replace(",", " ").split()[0])
    if image_format is None:
        assert end_of(data, "TIFF") is None
        return
    assert end_of(data, image_format) == len(data)
    assert end_of(data[:-3], image_format) in (None, len(data) - 3)
    assert is_also(data, image_format) is None


def test_parts_are_counted(monkeypatch):
    monkeypatch.setattr(polyglot, "_MOST_PARTS", 100)
    assert end_of(png(4, 4), "PNG") is not None
    with pytest.raises(ValueError, match="more than 100 parts"):
        end_of(png(4, 4, chunk(b"tEXt", b"a\0b") * 20), "PNG")
