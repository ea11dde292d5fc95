import html
import re

import pytest
from markupsafe import escape
from tests.online.explorer.conftest import SCRIPT

from captionary.online.keyvalue import StoreUnavailableError

PAGES = (
    *(
        "/explore",
        "/explore/feed",
        "/explore/feed?user=u1",
        "/explore/feed?user=nobody&task=like&captions=off",
    ),
    *("/explore/users", "/explore/users?start=u2", "/explore/user?id=u1", "/explore/user?id=never-seen"),
    *(
        "/explore/user/erase?id=u1&event=like&token=1",
        "/explore/user/erase?id=u1",
        "/explore/user/forget?id=u1",
    ),
    *("/explore/items", "/explore/items?word=dog", "/explore/items?word=absent", "/explore/item?id=2001"),
    *("/explore/item?id=1003", "/explore/experiments", "/explore/ingest"),
)


def text_of(answer):
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.text)))


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_whole_and_safe(site, path):
    answer = site.get(path)
    assert answer.status_code == 200, answer.text
    page = answer.text
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["Cache-Control"] == "no-store"
    # What the policy would forbid, and what a screen reader goes by.
    assert not re.search(r"<[a-z][^>]*\s(style|on[a-z]+)=", page.replace("&#34; onerror=", ""))
    assert re.findall(r"<script([^>]*)>", page) == [
        found for found in re.findall(r"<script([^>]*)>", page) if 'src="/explore/assets/' in found
    ]
    assert not re.search(r'(src|href|action)="(?!/|#)', page)
    assert page.count("<h1") == 1
    assert len(re.findall(r"<(main|header|footer)[ >]", page)) == 3
    assert '<html lang="en">' in page
    assert 'class="skip" href="#main"' in page
    for name in re.findall(r'aria-labelledby="([^"]+)"', page):
        assert f'id="{name}"' in page
    named = re.findall(r'<(?:input|select)(?![^>]*type="(?:hidden|checkbox)")[^>]* id="([^"]+)"', page)
    assert all(f'for="{name}"' in page for name in named)
    assert len(re.findall(r"<th[ >]", page)) == len(re.findall(r"<th [^>]*scope=", page))
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    # A POST form of the pages always carries its token.
    for form in re.findall(r'<form[^>]*method="post".*?</form>', page, re.S):
        assert 'name="_csrf_token" value="' in form


def test_a_caption_with_a_script_is_shown_and_not_run(site):
    for path in ("/explore/item?id=2001", "/explore/items", "/explore"):
        page = site.get(path).text
        assert SCRIPT not in page
        assert str(escape(SCRIPT)) in page
        assert "onerror='alert" not in page
    assert "<script>alert" not in site.get("/explore/items?word=%3Cscript%3Ealert(1)%3C/script%3E").text
    assert "<b>x</b>" not in site.get("/explore/user?id=%3Cb%3Ex%3C/b%3E").text


def test_a_feed_is_shown_under_each_arm(site):
    page = site.get("/explore/feed?user=u1").text
    columns = re.findall(r'<h2 id="column-\d">(.*?)</h2>.*?<p class="small about">(.*?)</p>', page, re.S)
    assert [name for name, _ in columns] == ["ids", "captions"]
    assert "what this user gets" in columns[1][1]  # u1 is forced into the treatment
    assert "what this user gets" not in columns[0][1]
    assert "reads no words of the user" in columns[0][1]
    assert "captions: treatment" in columns[1][1]
    first, second = (
        re.findall(r'<span class="place">(\d+)</span> <a href="/explore/item\?id=(\d+)"', column)
        for column in page.split('id="column-2"')
    )
    assert [place for place, _ in first] == [str(n) for n in range(1, 11)]
    assert first != second
    answer = site.services.ranking.rank  # the same scores as the service's own
    request = {"user": "u1", "items": [int(item) for _, item in second]}
    from captionary.online.service.types import RankRequest

    again = answer(RankRequest(**request), ranker="captions")
    assert again.order == list(range(10))
    assert "Words that met" in page
    off = site.get("/explore/feed?user=u1&captions=off").text
    assert "a &lt;script" not in off
    assert "Words that met" not in off


def test_looking_logs_no_exposure(site):
    before = list((site.served.folder / "exposures").iterdir())
    site.get("/explore/feed?user=u2")
    site.get("/explore/user?id=u2")
    assert list((site.served.folder / "exposures").iterdir()) == before


def test_a_service_with_one_ranker_shows_what_words_do(start):
    site = start(names=("captions",))
    page = site.get("/explore/feed?user=u1").text
    assert "captions, without the user&#39;s words" in page


def test_an_item_page_says_where_its_words_came_from(site):
    said = text_of(site.get("/explore/item?id=2001"))
    assert "dog sofa tokenizer tiny" in said
    assert "Came by upload" in said
    assert re.search(
        r"Visible to ranking \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, (9\d\d ms|\d\.\d s) after", said
    )
    assert "likeness" in said
    answer = site.get("/explore/item?id=77777")
    assert (answer.status_code, "Not here" in answer.text) == (404, True)


def test_a_user_page_has_words_by_event_type_over_time(site):
    page = site.get("/explore/user?id=u1").text
    lists = site.services.store.profile("u1", 2**62 // 2**10)
    assert {event for event, one in lists.items() if len(one.token_ids)} == {"like", "share"}
    for event in ("like", "share"):
        section = page.split(f">{event} <span")[1].split("</section>")[0]
        shown = re.findall(r'<a class="w\d" href="[^"]+">(.*?)</a>', section)
        expected = site.services.words.words(
            site.services.store.profile("u1", 2**61 // 2**9)[event].token_ids
        )
        assert {html.unescape(word) for word in shown} == set(expected)
        assert section.count('<svg class="spark"') == len(shown)
    assert "captions: treatment (forced)" in text_of(site.get("/explore/user?id=u1"))


def test_what_a_key_may_decides_what_is_shown(site, reader):
    page = site.get("/explore/user?id=u1", reader).text
    assert "<button name=" not in page
    assert "scope <code>erase</code>" in page
    for path in ("/explore/user/forget?id=u1", "/explore/user/erase?id=u1"):
        answer = site.get(path, reader)
        assert answer.status_code == 403
        assert "Not allowed" in answer.text
    ranks = site.key("rank")
    assert site.get("/explore", ranks).status_code == 403


def test_without_a_key_a_browser_logs_in_and_out(start):
    site = start()
    answer = site.client.get("/explore/users", follow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login?next=/explore/users")
    key = site.key("read", "erase", name="<Ann>")["Authorization"].removeprefix("Bearer ")
    token = re.search(r'name="_csrf_token" value="([^"]+)"', site.client.get("/login").text)[1]
    fields = {"key": key, "next": "/explore/users", "_csrf_token": token}
    page = site.client.post("/login", data=fields)
    assert page.url.path == "/explore/users"
    assert "&lt;Ann&gt;" in page.text
    token = re.search(r'name="_csrf_token" value="([^"]+)"', page.text)[1]
    site.client.post("/logout", data={"_csrf_token": token})
    assert site.client.get("/explore", follow_redirects=False).status_code == 303


@pytest.mark.parametrize(
    ("path", "status", "part"),
    [
        ("/explore/feed?user=u1&task=lik", 400, "task"),
        ("/explore/item?id=abc", 400, "item id == abc"),
        ("/explore/item", 400, "id"),
        ("/explore/user?id=" + "x" * 300, 400, "id"),
        ("/explore/ingest?topic=none", 400, "topic == none"),
        ("/explore/user/erase?id=u1&event=none", 400, "event type"),
        ("/explore/picture?item=2001&v=other", 404, "picture"),
        ("/explore/assets/../pages.py", 404, ""),
        ("/explore/assets/layout.html.j2", 404, "file"),
    ],
)
def test_mistakes_are_pages(site, path, status, part):
    answer = site.get(path)
    assert answer.status_code == status, answer.text
    assert part in answer.text
    assert "Traceback" not in answer.text


def test_a_store_that_is_away_is_said_without_its_address(site, monkeypatch):
    def away(*_, **__):
        raise StoreUnavailableError("store == redis://secret-host, must be there")

    monkeypatch.setattr(site.services.store.engine, "read", away)
    answer = site.get("/explore/user?id=u1")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert "secret-host" not in answer.text


def test_a_fault_is_a_page_without_its_reason(site, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("the inner workings")

    monkeypatch.setattr(site.services.store, "items", broken)
    answer = site.get("/explore/items")
    assert answer.status_code == 500
    assert "inner workings" not in answer.text


def test_pages_stay_out_of_the_interface_document(site):
    said = site.client.get("/schema/openapi.json").json()
    assert not [path for path in said["paths"] if path.startswith("/explore")]


def test_files_of_the_pages_are_named_by_their_content(site):
    page = site.client.get("/login").text + site.get("/explore/ingest").text
    for path in re.findall(r'"(/explore/assets/[^"]+)"', page):
        answer = site.client.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
