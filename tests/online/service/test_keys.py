import os
import stat
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from captionary.commands.serve import keys
from captionary.errors import CaptionaryError
from captionary.online.service.keys import KeyFile, KeyRing, new_key


def saved(tmp_path, *made):
    KeyFile(keys=made).write(tmp_path / "keys.json")
    return KeyRing(tmp_path / "keys.json")


def test_a_key_is_known_by_its_secret_alone(tmp_path):
    key, secret = new_key("feed", ["rank", "events"])
    other, wrong = new_key("feed", ["rank"])
    ring = saved(tmp_path, key, other)
    assert ring.check(secret) == key
    assert ring.check(wrong) == other
    mixed = secret[:17] + wrong[17:]
    for text in (mixed, secret[:-1], secret + "A", secret.upper(), key.id, "", "cap_", "x" * 10_000, "é"):
        assert ring.check(text) is None


def test_the_file_holds_no_secret_and_is_its_owners(tmp_path):
    key, secret = new_key("feed", ["rank"])
    saved(tmp_path, key)
    text = (tmp_path / "keys.json").read_text()
    assert secret not in text
    assert secret.rpartition("_")[2] not in text
    assert stat.S_IMODE(os.stat(tmp_path / "keys.json").st_mode) == 0o600


def test_equal_secrets_would_have_unequal_hashes():
    hashes = {new_key("feed", ["rank"])[0].digest for _ in range(5)}
    salts = {new_key("feed", ["rank"])[0].salt for _ in range(5)}
    assert len(hashes) == len(salts) == 5


def test_scopes():
    key, _ = new_key("feed", ["read", "rank"])
    assert key.scopes == ("rank", "read")
    assert [scope for scope in ("rank", "read", "erase", "admin") if key.allows(scope)] == ["rank", "read"]
    assert new_key("ops", ["admin"])[0].allows("erase")


def test_a_key_ends(tmp_path):
    key, secret = new_key("feed", ["rank"], expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert saved(tmp_path, key).check(secret) is None


def test_changes_of_the_file_are_seen_and_a_broken_one_is_not(tmp_path, monkeypatch):
    key, secret = new_key("feed", ["rank"])
    ring = saved(tmp_path, key)
    (tmp_path / "keys.json").write_text("{")
    monkeypatch.setattr(ring, "_looked", -10.0)
    assert ring.check(secret) == key
    KeyFile().write(tmp_path / "keys.json")
    assert ring.check(secret) == key  # not looked at again within the second
    monkeypatch.setattr(ring, "_looked", -10.0)
    assert ring.check(secret) is None
    (tmp_path / "keys.json").write_text('{"format": 2}')
    with pytest.raises(CaptionaryError, match="a file of `captionary keys`"):
        KeyRing(tmp_path / "keys.json")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"scopes": ["ranks"]}, "did you mean that"),
        ({"scopes": []}, "one at least"),
        ({"name": ""}, "printable"),
        ({"per_second": 0.0}, "> 0 requests"),
        ({"burst": 0.5}, ">= 1"),
    ],
)
def test_mistakes(change, part):
    with pytest.raises(CaptionaryError, match=part):
        new_key(**({"name": "feed", "scopes": ["rank"]} | change))


def test_the_verb_makes_lists_and_revokes(tmp_path):
    file = ["--file", str(tmp_path / "deep" / "keys.json")]
    made = CliRunner().invoke(keys, ["new", "feed", "--scopes", "rank, events", "--days", "30", *file])
    assert made.exit_code == 0, made.output
    secret = made.stdout.strip()
    key = KeyRing(tmp_path / "deep" / "keys.json").check(secret)
    assert key is not None
    assert (key.name, key.scopes, key.per_second) == ("feed", ("rank", "events"), 100)
    CliRunner().invoke(keys, ["new", "ops", "--scopes", "admin", "--rate", "0", *file])
    listed = CliRunner().invoke(keys, ["list", *file]).output
    assert "feed  rank,events  100/s  until 2" in listed
    assert "ops  admin  any rate  until revoked" in listed
    assert secret not in listed
    assert CliRunner().invoke(keys, ["revoke", key.id, *file]).exit_code == 0
    assert KeyRing(tmp_path / "deep" / "keys.json").check(secret) is None
    assert isinstance(CliRunner().invoke(keys, ["revoke", key.id, *file]).exception, CaptionaryError)
