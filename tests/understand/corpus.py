"""Hostile media files, made the same way every time, and a child process in which a reader meets them.

    seeds (small, every format) ──mutations──▶ files ──▶ child: memory, time and crash limits ──▶ one verdict a file

`survive` takes any importable function of bytes: pictures, video and sound are fuzzed by the same harness.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import time
import wave
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, features

from captionary.understand.refusals import MediaError

GIB = 1 << 30


class Verdict(NamedTuple):
    """What became of one file."""

    name: str
    outcome: str
    """ok, the reason of a MediaError, another exception's type and text, hang, crash (signal), or memory."""
    seconds: float


def noise(width: int = 24, height: int = 16, mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, image_format, **options)  # a copy: saving leaves settings behind in the image
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """Of PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes, pixels: bytes = b"") -> bytes:
    """An RGB PNG that states a size, whatever it holds."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + chunk(b"IEND", b"")


def box(kind: bytes, *bodies: bytes) -> bytes:
    """Of MP4, AVIF and HEIF."""
    body = b"".join(bodies)
    return struct.pack(">I", 8 + len(body)) + kind + body


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def pictures() -> dict[str, bytes]:
    """Small images of every format that is read here, by name."""
    rgb, grey = noise(), noise(mode="L")
    same_size = [noise(seed=seed) for seed in (1, 2)]
    made = {
        "jpeg": encode(rgb, "JPEG"),
        "jpeg progressive, exif": encode(rgb, "JPEG", progressive=True, exif=oriented(6), comment=b"words"),
        "jpeg cmyk": encode(rgb.convert("CMYK"), "JPEG"),
        "mpo": encode(rgb, "MPO", save_all=True, append_images=[noise(seed=1)]),
        "png": encode(rgb, "PNG", exif=oriented(5)),
        "png palette": encode(rgb.convert("P"), "PNG", transparency=3),
        "png deep": encode(Image.fromarray(np.arange(24 * 16, dtype=np.uint16).reshape(16, 24) * 99), "PNG"),
        "apng": encode(rgb, "PNG", save_all=True, append_images=same_size, duration=50),
        "gif": encode(rgb, "GIF", comment=b"words"),
        "gif animated": encode(rgb, "GIF", save_all=True, append_images=same_size, duration=50, loop=0),
        "webp": encode(rgb, "WEBP", exif=oriented(3)),
        "webp lossless": encode(noise(mode="RGBA"), "WEBP", lossless=True),
        "webp animated": encode(rgb, "WEBP", save_all=True, append_images=same_size),
        "bmp": encode(rgb, "BMP"),
        "bmp palette": encode(rgb.convert("P"), "BMP"),
        "tiff": encode(rgb, "TIFF"),
        "tiff lzw": encode(rgb, "TIFF", compression="tiff_lzw"),
        "tiff deflate": encode(grey, "TIFF", compression="tiff_adobe_deflate", exif=oriented(8)),
        "tiff jpeg": encode(rgb, "TIFF", compression="jpeg"),
        "tiff fax": encode(rgb.convert("1"), "TIFF", compression="group4"),
        "tiff pages": encode(rgb, "TIFF", save_all=True, append_images=[noise(12, 30, seed=2)]),
        "tiff float": encode(
            Image.fromarray(np.linspace(0, 1, 24 * 16, dtype=np.float32).reshape(16, 24)), "TIFF"
        ),
        "ico": encode(noise(32, 32, "RGBA"), "ICO", sizes=[(16, 16), (32, 32)]),
        "ico bmp": encode(noise(16, 16, "RGBA"), "ICO", sizes=[(16, 16)], bitmap_format="bmp"),
        "ppm": encode(rgb, "PPM"),
        "pbm": encode(rgb.convert("1"), "PPM"),
        "ppm plain": b"P3 # words\n4 2 255\n" + b" ".join(str(i * 10 % 256).encode() for i in range(24)),
        "ppm odd range": b"P6 4 2 100\n" + bytes(range(24)),
        "sgi": encode(rgb, "SGI"),
        "pcx": encode(rgb, "PCX"),
        "dds": encode(noise(mode="RGBA"), "DDS"),
        "tga rle": encode(rgb, "TGA", compression="tga_rle"),
    }
    if "qoi" in {kind.lower() for kind in Image.SAVE}:
        made["qoi"] = encode(rgb, "QOI")
    if features.check("jpg_2000"):
        made["jp2"] = encode(rgb, "JPEG2000")
        made["j2k"] = encode(grey, "JPEG2000", no_jp2=True)
    if features.check("avif"):
        made["avif"] = encode(rgb, "AVIF", exif=oriented(6))
        made["avif animated"] = encode(rgb, "AVIF", save_all=True, append_images=same_size)
    try:
        from pillow_heif import from_pillow
    except ImportError:
        return made
    buffer = io.BytesIO()
    from_pillow(noise(64, 64)).save(buffer, quality=50)
    made["heif"] = buffer.getvalue()
    return made


def recordings() -> dict[str, bytes]:
    """The beginnings of films and sounds, which a reader of pictures refuses and a reader of signals reads."""
    tone = (np.sin(np.arange(800) / 5) * 9000).astype("<i2").tobytes()
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(tone)
    movie_header = box(
        b"mvhd", bytes(12), struct.pack(">II", 1000, 40), struct.pack(">I", 0x10000), bytes(76)
    )
    film = box(b"ftyp", b"isom\0\0\2\0isomavc1mp41") + box(b"moov", movie_header) + box(b"mdat", bytes(64))
    stream = (
        struct.pack(">HH", 4096, 4096)
        + bytes(6)
        + (8000 << 44 | 15 << 36 | 800).to_bytes(8, "big")
        + bytes(16)
    )
    flac = b"fLaC" + b"\x80" + len(stream).to_bytes(3, "big") + stream + b"\xff\xf8\x19\x08" + tone[:64]
    return {
        "wav": buffer.getvalue(),
        "mp4": film,
        "mov": film.replace(b"isom\0\0\2\0", b"qt  \0\0\2\0", 1),
        "flac": flac,
        "ogg": b"OggS\0\2" + bytes(20) + b"\x01\x1e\x01vorbis" + bytes(23),
        "mkv": b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1B\xf2\x81\4B\xf3\x81\x08B\x82\x84webm" + bytes(40),
        "avi": b"RIFF\x80\0\0\0AVI LIST" + bytes(100),
    }


def documents() -> dict[str, bytes]:
    """What is no media at all."""
    return {
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'><rect/></svg>",
        "svg, utf-16": "<svg xmlns='http://www.w3.org/2000/svg'/>".encode("utf-16"),
        "xml": b"\xef\xbb\xbf<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'aaaa'>]><svg>&a;</svg>",
        "html": b"\n <!DOCTYPE html><script>alert(1)</script>",
        "php": b"<?php system('id'); ?>",
        "pdf": b"%PDF-1.7\n1 0 obj<</JS(app.alert(1))>>endobj\ntrailer<<>>",
        "pdf, late": b"junk\n" * 100 + b"%PDF-1.4\n",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%id) (w) file",
        "eps, dos": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, 100) + bytes(24) + b"%!PS-Adobe-3.0",
        "wmf": b"\xd7\xcd\xc6\x9a" + bytes(40),
        "emf": b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(40),
        "psd": encode_psd(),
        "rtf": b"{\\rtf1 words}",
        "ole": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(40),
        "elf": b"\x7fELF\2\1\1" + bytes(40),
        "exe": b"MZ\x90\0" + bytes(60),
        "shell": b"#!/bin/sh\nid\n",
        "swf": b"CWS\x0a" + bytes(40),
    }


def encode_psd() -> bytes:
    header = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 4, 4, 8, 3)
    return header + bytes(12) + b"\0\0" + bytes(48)


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that ask for much memory, time or work."""
    yield "png, stated", png(50_000, 50_000)
    yield "png, largest side", png(2**31 - 1, 2**31 - 1)
    yield "png, at the limit", encode(Image.new("1", (7070, 7070)), "PNG")
    zeros = zlib.compress(bytes(20_000_000), 9)
    yield "png, text", png(4, 4, chunk(b"zTXt", b"a\0\0" + zeros), pixels=bytes(52))
    yield "png, profile", png(4, 4, chunk(b"iCCP", b"a\0\0" + zeros), pixels=bytes(52))
    yield "png, pixels of a larger one", png(4, 4, pixels=bytes(10_000_000))
    yield "png, chunks", png(4, 4, chunk(b"tEXt", b"a\0b") * 150_000, pixels=bytes(52))
    yield (
        "gif, stated",
        b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(3) + b",".ljust(10, b"\0") + b";",
    )
    small = encode(noise(), "GIF")
    yield "gif, frame beyond the screen", small.replace(b"\x18\0\x10\0", b"\xff\xff\xff\xff")
    yield "gif, comments", small[:13] + b"!\xfe" + b"\1a" * 1_200_000 + b"\0" + small[13:]
    yield (
        "gif, frames",
        encode(noise(), "GIF", save_all=True, append_images=[noise(seed=i) for i in range(1, 99)]),
    )
    yield (
        "bmp, stated",
        b"BM" + bytes(8) + struct.pack("<IIiiHHIIiiII", 54, 40, 60_000, 60_000, 1, 24, *[0] * 6),
    )
    rle = struct.pack("<IIiiHHIIiiII", 1078, 40, 7000, 7000, 1, 8, 1, 0, 0, 0, 256, 0)
    yield (
        "bmp, runs",
        b"BM" + struct.pack("<II", 400_000, 0) + rle + bytes(1024) + b"\xff\1" * 196_000 + b"\0\1",
    )
    tags = [
        (256, 4, 1, 60_000),
        (257, 4, 1, 60_000),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
    ]
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    yield "tiff, stated", b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + directory + bytes(4)
    yield (
        "tiff, endless directories",
        b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + directory + b"\x08\0\0\0",
    )
    many = struct.pack("<HHII", 273, 4, 2**31, 8)
    yield "tiff, values", b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + many + bytes(4)
    yield (
        "bigtiff, tags",
        b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**40) + struct.pack("<HHQQ", 1, 1, 1, 0) * 60_000,
    )
    canvas = b"\x10\0\0\0" + (16_383).to_bytes(3, "little") * 2
    yield (
        "webp, canvas",
        b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + canvas + bytes(8),
    )
    jpeg = encode(noise(), "JPEG")
    at = jpeg.index(b"\xff\xc0") + 5
    yield "jpeg, stated", jpeg[:at] + b"\xff\xdc\xff\xdc" + jpeg[at + 4 :]
    yield "jpeg, near the limit", jpeg[:at] + struct.pack(">HH", 7000, 7000) + jpeg[at + 4 :]
    progressive = encode(Image.new("L", (1024, 1024)), "JPEG", progressive=True)
    start = progressive.rindex(b"\xff\xda")
    scan = progressive[start : progressive.rindex(b"\xff\xd9")]
    yield "jpeg, scans", progressive[:start] + scan * 5000 + b"\xff\xd9"
    yield "jpeg, segments", jpeg[:2] + b"\xff\xfe\0\2" * 400_000 + jpeg[2:]
    inner = png(30_000, 30_000)
    yield "ico, png", struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    dib = struct.pack("<IiiHHIIiiII", 40, 30_000, 60_000, 1, 32, 0, 0, 0, 0, 0, 0)
    yield "ico, bmp", struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(dib), 22) + dib
    yield "ppm, stated", b"P6 60000 60000 255\n"
    yield "ppm, plain", b"P1 7000 7000\n" + b"1" * 500_000
    yield "ppm, odd range", b"P5 5000 5000 100\n" + bytes(25_000_000)
    yield "ppm, digits", b"P3 " + b"1" * 3_000_000
    yield "qoi, runs", b"qoif" + struct.pack(">II", 7000, 7000) + b"\3\0" + b"\xfd" * 800_000
    yield "sgi, stated", struct.pack(">hBBHHHH", 474, 1, 1, 3, 65_535, 65_535, 3) + bytes(600)
    yield "pcx, stated", b"\n\5\1\x08" + struct.pack("<HHHH", 0, 0, 65_534, 65_534) + bytes(200)
    dds = (
        b"DDS "
        + struct.pack("<IIII", 124, 0x1007, 60_000, 60_000)
        + bytes(56)
        + struct.pack("<II4s", 32, 4, b"DXT1")
    )
    yield "dds, stated", dds + bytes(100)
    yield (
        "tga, stated",
        struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, 65_535, 65_535, 24, 0)
        + bytes(99)
        + b"TRUEVISION-XFILE.\0",
    )
    for name, data in pictures().items():
        if name in ("jp2", "j2k"):
            at = data.index(b"\xff\x4f\xff\x51") + 8
            yield f"{name}, stated", data[:at] + struct.pack(">II", 2**31, 2**31) + data[at + 8 :]
            yield f"{name}, tiles", data[:at] + struct.pack(">6I", 6000, 6000, 0, 0, 1, 1) + data[at + 24 :]
            yield (
                f"{name}, near the limit",
                data[:at] + struct.pack(">6I", 3500, 3500, 0, 0, 3500, 3500) + data[at + 24 :],
            )
            yield f"{name}, components", data[:at] + data[at : at + 32] + b"\x40\0" + data[at + 34 :]
        elif name in ("avif", "heif"):
            at = data.index(b"ispe") + 8
            for side in (16_000, 7000, 2**31):
                yield f"{name}, {side}", data[:at] + struct.pack(">II", side, side) + data[at + 8 :]


def mutate(data: bytes, other: bytes, kind: int, rng: np.random.Generator) -> bytes:
    """One of eight ways to break a file; headers are where decoders go wrong, so half of them are broken there."""
    broken = bytearray(data)
    reach = len(broken) if rng.random() < 0.5 else min(len(broken), 160)

    def place(width: int = 1) -> int:
        return int(rng.integers(0, max(1, reach - width)))

    if kind == 0:  # bits
        for _ in range(int(rng.integers(1, 12))):
            broken[place()] ^= 1 << int(rng.integers(0, 8))
    elif kind == 1:  # bytes of the kind that matters
        for _ in range(int(rng.integers(1, 8))):
            broken[place()] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF]))
    elif kind == 2:  # the end is missing
        del broken[int(rng.integers(1, len(broken))) :]
    elif kind == 3:  # a length that is not so
        width = int(rng.choice([1, 2, 4, 8]))
        limit = 256**width
        value = int(
            rng.choice(
                np.array([0, 1, limit - 1, limit // 2, limit // 2 - 1, len(data), limit // 256], object)
            )
        )
        order = "big" if rng.random() < 0.5 else "little"
        at = place(width)
        broken[at : at + width] = (value % limit).to_bytes(width, order)
    elif kind == 4:  # the middle of one file in another
        at, start = place(), int(rng.integers(0, len(other)))
        broken[at : at + int(rng.integers(0, 40))] = other[start : start + int(rng.integers(1, 200))]
    elif kind == 5:  # the header of one, the body of another
        cut = int(rng.integers(4, 64))
        broken[:] = data[:cut] + other[cut:]
    elif kind == 6:  # a piece is gone, or there twice
        at, length = place(), int(rng.integers(1, 64))
        piece = bytes(broken[at : at + length])
        broken[at : at + length] = b"" if rng.random() < 0.5 else piece * int(rng.integers(2, 50))
    else:  # noise
        at, length = place(), int(rng.integers(1, 64))
        broken[at : at + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
    return bytes(broken)


def hostile(seeds: dict[str, bytes], rounds: int = 3, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """8 × `rounds` mutations of every seed, named so that a failure can be made again."""
    names = sorted(seeds)
    for index, name in enumerate(names):
        for number in range(8 * rounds):
            rng = np.random.default_rng([seed, index, number])
            other = names[int(rng.integers(0, len(names)))]
            yield f"{name} #{number}", mutate(seeds[name], seeds[other], number % 8, rng)


def survive(
    target: Callable[[bytes], object],
    files: list[tuple[str, bytes]],
    folder: Path,
    *,
    warm: Iterable[bytes] = (),
    seconds: float = 5.0,
    memory: int = GIB,
) -> list[Verdict]:
    """Hand every file to `target` in a child process; a file that ends the child is named, and the rest go on.

    Args:
        target: importable by its module's name. It may raise MediaError and nothing else.
        files: (name, content).
        folder: scratch.
        warm: whole files that make `target` load its libraries, before the limit of memory is drawn.
        seconds: of the processor for one file; by the clock, six times that, for other work runs beside tests.
        memory: bytes, resident, of the child in all.
    """
    work = folder / "files.pickle"
    work.write_bytes(pickle.dumps((target, files, [*warm], seconds, memory)))
    environment = {
        **os.environ,
        "MALLOC_ARENA_MAX": "1",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    verdicts: list[Verdict] = []
    while len(verdicts) < len(files):
        child = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, str(work), str(len(verdicts))],
            capture_output=True,
            env=environment,
            check=False,
        )
        verdicts += [Verdict(*json.loads(line)) for line in child.stdout.splitlines()]
        if child.returncode == 0:
            continue
        if child.returncode > 0:
            raise RuntimeError(child.stderr.decode(errors="replace")[-2000:])
        ended = signal.Signals(-child.returncode)
        outcome = "hang" if ended in (signal.SIGPROF, signal.SIGALRM) else f"crash ({ended.name})"
        verdicts.append(Verdict(files[len(verdicts)][0], outcome, seconds))
    return verdicts


def _child(work: str, start: str) -> None:
    target, files, warm, seconds, memory = pickle.loads(Path(work).read_bytes())
    for data in warm:
        _meet(target, data)
    pages, resident = (int(field) for field in Path("/proc/self/statm").read_text().split()[:2])
    reserved = (
        pages - resident
    ) * resource.getpagesize()  # mapped, never touched: libraries, stacks of threads
    resource.setrlimit(resource.RLIMIT_AS, (reserved + memory, reserved + memory))
    for name, data in files[int(start) :]:
        signal.setitimer(signal.ITIMER_PROF, seconds)  # no handler: it ends the process, even one stuck in C
        signal.setitimer(signal.ITIMER_REAL, 6 * seconds)
        began = time.process_time()
        outcome = _meet(target, data)
        took = time.process_time() - began
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if _peak() > memory or outcome == "out_of_memory":
            outcome = "memory"
        os.write(1, json.dumps([name, outcome, round(took, 4)]).encode() + b"\n")


def _peak() -> int:
    """Most bytes resident since this process began; ru_maxrss counts its parent's from before it as well."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def _meet(target: Callable[[bytes], object], data: bytes) -> str:
    try:
        target(data)
    except MediaError as error:
        return error.reason
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    return "ok"


if __name__ == "__main__":
    _child(*sys.argv[1:])
