"""What `hf:` reads: where the model lies, what it is asked, and its fingerprint, without loading a weight.

ID or folder ──model_folder──▶ folder ──folder_digest──▶ changes with any byte that is read ──┐
                                 └─────hf_prompt───────▶ the prompt's text ─────────────────┴──▶ fingerprint
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from captionary.errors import bad_value
from captionary.publish import atomic_file
from captionary.understand.media import MediaError, MediaLimits, digest
from captionary.understand.prompts import Prompt, load

__all__ = ["file_digest", "folder_digest", "hf_fingerprint", "hf_prompt", "model_folder"]

_DECODING = "greedy-1"
"""Raise the number when a change of code may change a caption."""
_UNASKED = ("blip", "blip-2")
"""Trained to caption, not to follow: without a prompt of the user's they get none."""
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
READ = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja", "*.tiktoken")
"""What of a folder `transformers` may read; cards, pictures and other frameworks' weights do not count."""
_OTHER = ("*.msgpack", "*.h5", "*.onnx", "*.gguf", "onnx/*", "*.pt", "*.pth", ".*", "runs/*")
_BIG = 16 * 1024 * 1024
"""Bytes from which on a digest is remembered: hashing runs at about 1 GB/s."""
_WHOLE = MediaLimits(max_bytes=1 << 62)


def model_folder(name: str, base: Path = Path()) -> Path:
    """The local folder of a model: `name` itself (relative to `base`), or the Hub's snapshot of it.

    A snapshot that is on this machine is used as it is; else it is downloaded (not with HF_HUB_OFFLINE=1).
    ``ID@REVISION`` names a branch, tag or commit.

    Raises:
        CaptionaryError: neither a folder nor an id that the Hub gives.
    """
    folder = base / Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise bad_value("hf", name, "a folder with config.json, as save_pretrained writes")
        return folder.resolve()
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise bad_value("hf", name, "a folder that exists, or a Hub id such as Salesforce/blip2-opt-2.7b")
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")
    found = None
    for local in (True, False):
        try:
            found = snapshot_download(
                repo, revision=revision or None, local_files_only=local, allow_patterns=list(READ),
                ignore_patterns=list(_OTHER),
            )  # fmt: skip
            break
        except Exception as error:  # of several libraries: no such model, gated, offline, no network
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    if found is None:
        todo = "download it (`hf download ID`), or name a local folder"
        raise bad_value("hf", name, "a folder or a model that the Hub gives", where=said, todo=todo)
    return Path(found)


def hf_prompt(folder: Path, prompt: str, base: Path = Path()) -> Prompt:
    """The prompt that a model gets: the named one, else `caption`, or none for a model that needs none."""
    try:
        family = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        raise bad_value("model", str(folder), "a folder with a valid config.json") from None
    if not prompt and family in _UNASKED:
        return Prompt("", "")
    return load(prompt or "caption", base)


def hf_fingerprint(name: str, prompt: str, max_new_tokens: int, base: Path = Path()) -> str:
    """Names a model by the bytes of its files, its prompt's text and how it decodes; nothing is loaded."""
    folder = model_folder(name, base)
    asked = hf_prompt(folder, prompt, base).text
    said = json.dumps([folder_digest(folder), asked, max_new_tokens, _DECODING])
    return "hf-" + hashlib.blake2b(said.encode(), digest_size=12).hexdigest()


def folder_digest(folder: Path) -> str:
    """One digest over the names and contents of all files in `folder` that a model may be read from.

    Raises:
        CaptionaryError: a file cannot be read, or there is none.
    """
    names = sorted({path for pattern in READ for path in folder.rglob(pattern) if path.is_file()})
    kept = [p for p in names if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if not kept:
        raise bad_value("model", str(folder), "a folder with a model's files")
    said = [[path.relative_to(folder).as_posix(), file_digest(path)] for path in kept]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """`media.digest` of a file of any size; of a big one it is remembered by path, size and time of change.

    Raises:
        CaptionaryError: the file cannot be read.
    """
    try:
        stat = path.stat()
        if stat.st_size < _BIG:
            return digest(path, _WHOLE)
        memory = _memory()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        known = _remembered(memory)
        if key not in known:
            known[key] = digest(path, _WHOLE)
            _remember(memory, known)
        return known[key]
    except (OSError, MediaError) as error:
        said = error.detail or error.reason if isinstance(error, MediaError) else str(error.strerror)
        raise bad_value("model file", str(path), "a readable file", where=said) from None


def _memory() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "captionary" / "digests.json"


def _remembered(memory: Path) -> dict[str, str]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        return {str(key): str(value) for key, value in known.items()}
    except (OSError, ValueError, AttributeError):  # absent or damaged: it is but a shortcut
        return {}


def _remember(memory: Path, known: dict[str, str]) -> None:
    try:
        with atomic_file(memory) as file:
            file.write(json.dumps(dict(list(known.items())[-10_000:])).encode())
    except OSError:
        pass  # a read-only home: the next run hashes again
