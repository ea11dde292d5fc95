"""What the OpenAPI document says beside what follows from the types: examples of bodies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from litestar.openapi.spec import Example, OpenAPIMediaType, Operation, RequestBody

__all__ = ["with_examples"]


def with_examples(examples: Sequence[Example]) -> type[Operation]:
    """An operation whose JSON body has examples."""

    @dataclass
    class Exemplified(Operation):
        def __post_init__(self) -> None:
            if isinstance(self.request_body, RequestBody):
                media = self.request_body.content.get("application/json", OpenAPIMediaType())
                media.examples = {f"example{place}": example for place, example in enumerate(examples)}

    return Exemplified
