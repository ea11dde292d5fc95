import asyncio
import re
import time

import pytest
from tests.online.service.small_service import make_key

from captionary.online.keyvalue import StoreUnavailableError
from captionary.online.service.app import create_app
from captionary.online.service.keys import SCOPES
from captionary.online.service.routes_login import local_path
from captionary.online.service.settings import LimitsConfig

CALLS = {
    "rank": [("POST", "/rank", {"items": [1003]})],
    "events": [("POST", "/events", {"events": [{"user": "u5", "item": 1003, "event": "like"}]})],
    "items": [("POST", "/items", {"item": 2001, "media": ["https://example.com/x"]})],
    "read": [("GET", "/items/1003", None), ("GET", "/users/u1/profile", None), ("GET", "/metrics", None)],
    "erase": [
        ("POST", "/users/u8/profile/mute", {"word": "dog"}),
        ("DELETE", "/users/u9", None),
        ("DELETE", "/items/999", None),
    ],
}


def test_each_scope_opens_its_own_doors_alone(start):
    served = start()
    for scope in CALLS:
        key = make_key(served.folder, scope)
        served.services.keys._refresh(force=True)
        for needs, calls in CALLS.items():
            for method, path, body in calls:
                status = served.client.request(method, path, json=body, headers=key).status_code
                assert (status == 403) == (needs != scope), (scope, method, path, status)
                assert status < 500


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer x"}, {"Authorization": "Basic YTpi"}])
def test_without_a_key_only_what_is_open(served, header):
    for method, path, body in [call for calls in CALLS.values() for call in calls]:
        answer = served.client.request(method, path, json=body, headers=header)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    for path in ("/healthz", "/readyz", "/schema/openapi.json", "/login"):
        assert served.client.get(path, headers=header).status_code == 200
    assert served.client.get("/nothing").status_code == 404


def test_every_handler_names_its_scope(served):
    app = create_app(served.services, close=False)
    for route in app.routes:
        for handler in getattr(route, "route_handlers", [getattr(route, "route_handler", None)]):
            if handler is not None and handler.http_methods != {"OPTIONS"}:
                assert handler.opt.get("needs") in ("open", *SCOPES), route.path
                assert handler.opt.get("exclude_from_csrf") or handler.opt.get("pages"), route.path


def test_a_rate_is_kept(start):
    served = start()
    slow = make_key(served.folder, "read", per_second=0.01, burst=2)
    served.services.keys._refresh(force=True)
    found = [served.client.get("/items/1003", headers=slow) for _ in range(3)]
    assert [answer.status_code for answer in found] == [200, 200, 429]
    assert 90 <= int(found[2].headers["Retry-After"]) <= 101
    assert found[2].json()["reason"] == "rate"


def test_too_much_is_answered_at_once_with_when_to_come_back(start):
    served = start(limits=LimitsConfig(threads=1, waiting=0))
    with served.services.ranks.place():
        answer = served.client.post("/rank", json={"items": [1003]}, headers=served.admin)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.json()["reason"] == "rank_full"
    assert served.client.post("/rank", json={"items": [1003]}, headers=served.admin).status_code == 200
    metrics = served.client.get("/metrics", headers=served.admin).text
    assert 'captionary_refused_total{reason="rank_full"} 1.0' in metrics


def test_bodies_have_a_size(served):
    body = b'{"items": [' + b"1," * (1 << 20) + b"1]}"
    assert served.client.post("/rank", content=body, headers=served.admin).status_code == 413

    def pieces():
        for _ in range(40):
            yield bytes(100_000)

    assert served.client.post("/rank", content=pieces(), headers=served.admin).status_code == 413
    assert served.services.ranks.inside == 0


def test_a_body_that_dribbles_in_is_given_up(start):
    served = start(limits=LimitsConfig(read_seconds=0.05))
    sent = []

    async def receive():
        await asyncio.sleep(0.03)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(name.lower().encode(), value.encode()) for name, value in served.admin.items()]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/rank",
        "raw_path": b"/rank",
        "query_string": b"",
        "headers": [*headers, (b"content-type", b"application/json"), (b"host", b"x")],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("x", 80),
        "client": ("y", 1),
        "root_path": "",
        "state": {},
    }
    asyncio.run(asyncio.wait_for(create_app(served.services, close=False)(scope, receive, send), 5))
    assert sent[0]["status"] == 408
    assert served.services.ranks.inside == 0


def test_ready_says_which_part_is_away_and_not_where_it_lies(start, monkeypatch):
    served = start()
    assert served.client.get("/readyz").json() == {
        "ready": True,
        "parts": {"rankers": "ok", "store": "ok", "log": "ok"},
    }
    served.services._ready = (0.0, {})

    def down(*_):
        raise StoreUnavailableError("redis == redis.internal.example:6379, must be there")

    monkeypatch.setattr(served.services.store.engine, "read", down)
    answer = served.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["store"].startswith("not ok")
    assert "internal" not in answer.text
    monkeypatch.undo()
    served.services._ready = (0.0, {})
    served.services.draining = True
    answer = served.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["Connection"] == "close"
    assert served.client.post("/rank", json={"items": [1003]}, headers=served.admin).status_code == 200
    assert served.client.get("/healthz").status_code == 200


def token_of(page):
    return re.search(r'name="_csrf_token" value="([0-9a-f]+)"', page.text)[1]


def test_a_session_is_begun_with_a_key_a_token_and_a_cookie(start):
    served = start()
    key = served.admin["Authorization"].removeprefix("Bearer ")
    page = served.client.get("/login?next=/items")
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    form = {"key": key, "next": "/items"}
    assert served.client.post("/login", data=form).status_code == 403  # no token
    assert served.client.post("/login", data=form | {"_csrf_token": "0" * 128}).status_code == 403
    form["_csrf_token"] = token_of(page)
    wrong = served.client.post("/login", data=form | {"key": key[:-1] + "x"})
    assert wrong.status_code == 401
    assert key[:-1] not in wrong.text
    right = served.client.post("/login", data=form, follow_redirects=False)
    assert right.status_code == 303
    assert right.headers["Location"] == "/items"
    cookie = right.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert key not in cookie
    # the interface takes no cookies: another site could make a browser send them
    assert served.client.get("/items/1003").status_code == 401


def test_sessions_are_signed_and_end(start, monkeypatch):
    served = start()
    sessions = served.services.sessions
    key = served.services.keys.check(served.admin["Authorization"].removeprefix("Bearer "))
    cookie = sessions.cookie(key)
    assert sessions.check(cookie) == key
    number, until, signature = cookie.split(".")
    for forged in (
        f"{number}.{int(until) + 1}.{signature}",
        f"{'0' * 12}.{until}.{signature}",
        "",
        None,
        "a.b.c",
    ):
        assert sessions.check(forged) is None
    monkeypatch.setattr(time, "time", lambda: int(until) + 1.0)
    assert sessions.check(cookie) is None
    monkeypatch.undo()
    served.services.keys._keys.clear()
    assert sessions.check(cookie) is None


@pytest.mark.parametrize(
    "elsewhere",
    ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/a\nb", ""],
)
def test_a_login_leads_nowhere_else(elsewhere):
    assert local_path(elsewhere) == "/"
    assert local_path("/users/u1?event=like") == "/users/u1?event=like"


def test_without_keys_other_names_of_this_machine_are_refused(start):
    served = start(open_to_all=True)
    for host, status in (
        ("localhost:8750", 200),
        ("[::1]:8750", 200),
        ("127.0.0.1", 200),
        ("evil.example", 400),
    ):
        answer = served.client.post("/rank", json={"items": [1003]}, headers={"Host": host})
        assert answer.status_code == status, host
    assert served.client.get("/healthz", headers={"Host": "10.1.2.3:8750"}).status_code == 200
