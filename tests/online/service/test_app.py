import sys
import types

import pytest
from litestar import MediaType, Router, get

from captionary.online.service.app import create_app
from captionary.online.service.types import RankRequest


def test_the_document_describes_every_route_with_examples(served):
    said = served.client.get("/schema/openapi.json").json()
    operations = {
        (method, path): operation
        for path, methods in said["paths"].items()
        for method, operation in methods.items()
    }
    assert set(operations) == {
        ("post", "/rank"),
        ("post", "/events"),
        ("post", "/items"),
        ("get", "/items/{item}"),
        ("delete", "/items/{item}"),
        ("get", "/users/{user}/profile"),
        ("post", "/users/{user}/profile/{verb}"),
        ("delete", "/users/{user}"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/metrics"),
    }
    for key, operation in operations.items():
        assert operation["summary"], key
        assert operation["description"], key
    for path in ("/rank", "/events", "/items", "/users/{user}/profile/{verb}"):
        body = operations["post", path]["requestBody"]["content"]
        assert body["application/json"]["examples"], path
    assert "multipart/form-data" in operations["post", "/items"]["requestBody"]["content"]
    assert said["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert operations["post", "/rank"]["security"] == [{"key": []}]
    ranked = said["components"]["schemas"]["RankRequest"]
    assert ranked["properties"]["items"]["maxItems"] == 1000
    assert set(ranked["properties"]) == set(RankRequest.__struct_fields__)


def test_examples_are_answered(served):
    said = served.client.get("/schema/openapi.json").json()
    for path, status in (("/rank", 200), ("/events", 202)):
        body = said["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        for example in body["examples"].values():
            answer = served.client.post(path, json=example["value"], headers=served.admin)
            assert answer.status_code == status, answer.text


def test_pages_are_mounted_where_they_are_installed(served, monkeypatch):
    seen = []

    def router(services):
        seen.append(services)

        @get("/hello", media_type=MediaType.HTML)
        async def hello() -> str:
            return "<h1>Hello</h1>"

        return Router("/", route_handlers=[hello], opt={"needs": "read", "pages": True})

    module = types.ModuleType("captionary.online.explorer")
    module.router = router
    module.__spec__ = types.SimpleNamespace(name=module.__name__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    from litestar.testing import TestClient

    with TestClient(create_app(served.services, close=False)) as client:
        assert seen == [served.services]
        sent = client.get("/hello?user=u1", follow_redirects=False)
        assert (sent.status_code, sent.headers["Location"]) == (303, "/login?next=/hello%3Fuser%3Du1")
        key = served.services.keys.check(served.admin["Authorization"].removeprefix("Bearer "))
        client.cookies.set("captionary_session", served.services.sessions.cookie(key))
        page = client.get("/hello")
        assert page.text == "<h1>Hello</h1>"
        assert "script-src 'self'" in page.headers["Content-Security-Policy"]


def test_schemathesis_finds_no_500(served):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis makes the requests")
    from hypothesis import HealthCheck, Phase, given, seed, settings

    schema = schemathesis.openapi.from_asgi("/schema/openapi.json", create_app(served.services, close=False))
    examples = 0

    for found in schema.get_all_operations():
        operation = found.ok()

        @seed(7)
        @settings(
            max_examples=5,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def call(case):
            nonlocal examples
            examples += 1
            answer = case.call(headers=served.admin)
            assert answer.status_code < 500, (case.method, case.path, case.body, answer.text)
            if answer.status_code >= 400:
                assert set(answer.json()) == {"status", "reason", "detail"}

        call()
    assert examples > 40
