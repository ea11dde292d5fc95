"""Which kind of file bytes are, by their content alone, and the decoder for it.

Pillow reads more formats than are listed here. Left out are those without a signature, those that are documents,
programs or source text (EPS would start Ghostscript), and containers of nothing a catalogue holds.
"""

from __future__ import annotations

import importlib
import re
import struct

from PIL.ImageFile import ImageFile

from captionary.understand.refusals import MediaError

__all__ = ["FORMATS", "icon_size", "jpeg2000_size", "plugin", "sniff"]

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"GIF8[79]a", "GIF"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"BM.{12}[\x0c-\x80]\0\0\0", "BMP"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51\0", "JPEG2000"),
    (rb"\0\0\x01\0[^\0]\0", "ICO"),
    (rb"P[1-6][ \t\r\n#]", "PPM"),
    (rb"qoif.{8}[\x03\x04][\0\x01]", "QOI"),
    (rb"\x01\xda[\0\x01][\x01\x02]\0[\x01-\x03]", "SGI"),
    (rb"\n[\0\x02\x03\x05]\x01[\x01\x02\x04\x08]", "PCX"),
    (rb"DDS \x7c\0\0\0", "DDS"),
)
_DOCUMENT, _OTHER = "scriptable", "not_an_image"
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (rb".{0,1019}%PDF-", _DOCUMENT, "a PDF"),
    (rb"(\xef\xbb\xbf|\x04)?\s*%!|\xc5\xd0\xd3\xc6", _DOCUMENT, "PostScript"),
    (rb"(?i)(\xef\xbb\xbf)?\s*<([?!/a-z])", _DOCUMENT, "SVG, XML or HTML"),
    (rb"\xff\xfe(\s\0)*<\0|\xfe\xff(\0\s)*\0<", _DOCUMENT, "SVG, XML or HTML"),
    (rb"\xd7\xcd\xc6\x9a|\x01\0\x09\0\0\x03|\x01\0\0\0.{36} EMF", _DOCUMENT, "a Windows metafile"),
    (rb"8BPS|gimp xcf|AT&TFORM|\xd0\xcf\x11\xe0|\{\\rtf|[FCZ]WS[\x01-\x40]", _DOCUMENT, "a document"),
    (rb"#!|MZ|\x7fELF|\0asm|\xca\xfe\xba\xbe|[\xce\xcf]\xfa\xed\xfe", _DOCUMENT, "a program"),
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", _OTHER, "a ZIP archive"),
    (
        rb"Rar!\x1a\x07|7z\xbc\xaf\x27\x1c|\x1f\x8b\x08|BZh[1-9]|\xfd7zXZ\0|\x28\xb5\x2f\xfd",
        _OTHER,
        "an archive",
    ),
    (rb"....ftyp", _OTHER, "a video (MP4 or QuickTime)"),
    (rb"\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01[\xb3\xba]|FLV\x01", _OTHER, "a video"),
    (rb"RIFF....WAVE|fLaC|OggS|ID3|\xff[\xf2-\xfb]", _OTHER, "sound"),
    (rb"[\t\r\n\x20-\x7e\x80-\xff]+$", _OTHER, "text"),
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"}
)

_PLUGINS: dict[str, tuple[str, ...]] = {
    "JPEG": ("PIL.JpegImagePlugin:JpegImageFile",),
    "PNG": ("PIL.PngImagePlugin:PngImageFile",),
    "GIF": ("PIL.GifImagePlugin:GifImageFile",),
    "WEBP": ("PIL.WebPImagePlugin:WebPImageFile",),
    "BMP": ("PIL.BmpImagePlugin:BmpImageFile",),
    "TIFF": ("PIL.TiffImagePlugin:TiffImageFile",),
    "AVIF": ("PIL.AvifImagePlugin:AvifImageFile", "pillow_avif.AvifImagePlugin:AvifImageFile"),
    "HEIF": ("pillow_heif.as_plugin:HeifImageFile",),
    "JPEG2000": ("PIL.Jpeg2KImagePlugin:Jpeg2KImageFile",),
    "ICO": ("PIL.IcoImagePlugin:IcoImageFile",),
    "PPM": ("PIL.PpmImagePlugin:PpmImageFile",),
    "QOI": ("PIL.QoiImagePlugin:QoiImageFile",),
    "SGI": ("PIL.SgiImagePlugin:SgiImageFile",),
    "PCX": ("PIL.PcxImagePlugin:PcxImageFile",),
    "TGA": ("PIL.TgaImagePlugin:TgaImageFile",),
    "DDS": ("PIL.DdsImagePlugin:DdsImageFile",),
}
FORMATS = tuple(_PLUGINS)
"""Every format that is read, where its decoder is installed."""


def sniff(data: bytes, name: str) -> str:
    """One of FORMATS.

    Raises:
        MediaError: `empty_file`, `scriptable` or `not_an_image`.
    """
    if not data:
        raise MediaError("empty_file", name)
    head = data[:1024]
    if head[4:8] == b"ftyp" and (image_format := _of_brands(data)):
        return image_format
    for pattern, image_format in _SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return image_format
    if data[-18:] == b"TRUEVISION-XFILE.\0":  # a TGA of before 1989 has no signature at all
        return "TGA"
    for pattern, reason, what in _FOREIGN:
        if re.match(pattern, head, re.DOTALL):
            raise MediaError(reason, name, f"the content is {what}")
    raise MediaError("not_an_image", name)


def plugin(image_format: str, name: str) -> type[ImageFile]:
    """The class of Pillow, or of a plug-in, that reads this format and nothing else.

    Not Image.open: that tries every format that anybody registered, and prints a warning about each bomb.

    Raises:
        MediaError: `no_decoder`.
    """
    for place in _PLUGINS[image_format]:
        module, _, attribute = place.partition(":")
        try:
            found = importlib.import_module(module)
        except ImportError:
            continue
        if getattr(found, "SUPPORTED", True):
            decoder: type[ImageFile] = getattr(found, attribute)
            return decoder
    raise MediaError("no_decoder", name, f"the content is {image_format}")


def _of_brands(data: bytes) -> str | None:
    """AVIF and HEIF are one container with MP4; the brands in its first box tell them apart."""
    length = min(max(16, int.from_bytes(data[:4], "big")), 512, len(data))
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, length - 3, 4))]
    if brands[0] not in _AVIF_BRANDS | _HEIF_BRANDS:
        return None
    return "AVIF" if _AVIF_BRANDS & set(brands) and brands[0][:2] != b"he" else "HEIF"


def icon_size(data: bytes) -> tuple[int, int]:
    """Width and height of the picture inside an ICO that Pillow would decode.

    The icon's directory states sizes up to 256 × 256; what it points to is a PNG or BMP of any size.

    Raises:
        ValueError, struct.error: no such picture.
    """
    count = int.from_bytes(data[4:6], "little")
    entries = [struct.unpack_from("<BBBBHHII", data, 6 + 16 * i) for i in range(count)]
    sizes = [(0, 0)]
    for *_, offset in entries:  # all of them: which one is decoded is Pillow's choice
        if data[offset : offset + 8] == b"\x89PNG\r\n\x1a\n":
            sizes.append(struct.unpack_from(">II", data, offset + 16))
        else:
            width, height = struct.unpack_from("<ii", data, offset + 4)
            sizes.append((abs(width), abs(height) // 2))
    return max(sizes, key=lambda size: size[0] * size[1])


def jpeg2000_size(data: bytes) -> tuple[int, int, int]:
    """Width, height and components of a JPEG 2000 codestream, which may not be those of the box around it.

    Raises:
        ValueError, struct.error: there is no codestream.
    """
    at = data.index(b"\xff\x4f\xff\x51") + 8
    right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">6I", data, at)
    (components,) = struct.unpack_from(">H", data, at + 32)
    width, height = max(0, right - left), max(0, bottom - top)
    if not (0 < components <= 5 and tile_width and tile_height):
        raise ValueError(f"{components} components")
    tiles = -(-width // tile_width) * -(-height // tile_height)
    if tiles > 65_535 or (tile_width * tile_height < 256 and tiles > 1024):
        raise ValueError(f"{tiles:,} tiles")
    return width, height, components
