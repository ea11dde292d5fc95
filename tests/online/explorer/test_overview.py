import dataclasses
import re
import time
from collections import Counter

import pytest

from captionary.online.explorer.overview import glimpses, users_from


def test_users_are_listed_page_by_page_each_once(site):
    services = site.services
    everybody = services.store.user_ids()
    assert len(everybody) >= 2
    listed, after = [], ""
    while True:
        page = users_from(services, "", after, 0, 1)
        listed += page.users
        if not page.after:
            break
        after = page.after
    assert listed == everybody
    assert users_from(services, everybody[1], "", 0, 1).users == (everybody[1],)
    assert users_from(services, "u1x", "", 0, 1).users == (next(one for one in everybody if one > "u1x"),)
    shown = re.findall(
        r'<th scope="row"><a href="/explore/user\?id=([^"]+)"', site.get("/explore/users").text
    )
    assert shown == everybody[:20]


def test_a_store_without_order_is_not_scanned(site, monkeypatch):
    services = site.services
    config = dataclasses.replace(services.config, store="redis://127.0.0.1:1/0")
    monkeypatch.setattr(services, "config", config)
    monkeypatch.setattr(services.store.engine, "scan", None)
    first = users_from(services, "", "", 0, 3)
    assert (len(first.users), first.offset, first.known) == (3, 3, True)
    second = users_from(services, "", "", first.offset, 3)
    assert not set(first.users) & set(second.users)
    page = site.get("/explore/users").text
    assert "Users whom the ranker knows" in page
    assert "offset=20" in page


def test_a_glimpse_is_what_weighs_most_over_all_event_types(site):
    ((user, words),) = glimpses(site.services, ["u1"], 2)
    totals = Counter()
    for one in site.services.store.profile("u1", time.time_ns() // 1000).values():
        for token, weight in zip(one.token_ids.tolist(), one.weights.tolist(), strict=True):
            totals[site.services.words.word(token)] += weight * one.mass
    assert user == "u1"
    assert [totals[word] for word in words] == pytest.approx(
        sorted(totals.values(), reverse=True)[:2], rel=1e-3
    )
    assert glimpses(site.services, ["nobody"]) == [("nobody", [])]
