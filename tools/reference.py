"""Write docs/configuration.md from the config dataclasses: every key, its type, default and meaning.

    python tools/reference.py

A test fails when the page is not what this writes, so a setting cannot be missing from the docs.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "configuration.md"
SECTIONS = (
    ("", "settings.py", "RunConfig"),
    ("data", "settings.py", "DataConfig"),
    ("data.world", "world/settings.py", "WorldConfig"),
    ("captioner", "understand/captioner.py", "CaptionerConfig"),
    ("captioner.endpoint", "understand/endpoint.py", "EndpointConfig"),
    ("media", "understand/media_settings.py", "MediaConfig"),
    ("media.remote", "understand/remote.py", "RemoteConfig"),
    ("signals", "understand/signals/settings.py", "SignalsConfig"),
    ("signals.limits", "understand/signals/settings.py", "StreamLimits"),
    ("gate", "understand/gate_settings.py", "GateConfig"),
    ("tokenizers.LETTER", "represent/tokenizers.py", "TokenizerConfig"),
    ("profiles", "represent/profiles.py", "ProfileConfig"),
    ("vectors", "rivals.py", "VectorsConfig"),
    ("vectors.semantic", "represent/semantic_ids.py", "SemanticIdConfig"),
    ("vectors.word2vec", "represent/word2vec.py", "Word2VecConfig"),
    ("engine", "settings.py", "EngineConfig"),
    ("ranker", "rank/settings.py", "RankerConfig"),
    ("evidence", "settings.py", "EvidenceConfig"),
)
HEAD = """# Configuration of a run

`captionary run CONFIG.yaml` reads one YAML file; every key but `name` and `data` has a default. An unknown key, a missing one
or a value of another type is refused before anything is done, with the nearest known name. The smallest config:

```yaml
name: mine
data: {path: path/to/dataset}   # relative to this file
```

`configs/` holds those of the demo and of the public data sets. This page is written by `python tools/reference.py`.
"""


def fields(file: str, name: str) -> list[tuple[str, str, str, str]]:
    """(key, type, default, meaning) of each field of a dataclass, from its source."""
    tree = ast.parse((ROOT / "src" / "captionary" / file).read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    rows = []
    for node, after in zip(found.body, [*found.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        said = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            said = " ".join(str(after.value.value).split())
        default = "required" if node.value is None else f"`{_default(node.value)}`"
        rows.append((node.target.id, ast.unparse(node.annotation), default, said))
    return rows


def _default(value: ast.expr) -> str:
    if isinstance(value, ast.Call) and value.keywords and value.keywords[0].arg == "default_factory":
        made = value.keywords[0].value
        return ast.unparse(made.body) if isinstance(made, ast.Lambda) else f"{ast.unparse(made)}()"
    return ast.unparse(value)


def page() -> str:
    """The text of docs/configuration.md."""
    parts = [HEAD]
    for key, file, name in SECTIONS:
        parts += [
            f"\n## {f'`{key}`' if key else 'The run'}\n",
            "| key | type | default | meaning |",
            "|---|---|---|---|",
        ]
        for row in fields(file, name):
            cells = [f"`{row[0]}`", f"`{row[1]}`", row[2], row[3]]
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
