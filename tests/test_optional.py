import pytest
from tests.optional import optional


def test_what_is_missing_is_skipped_for_a_reason_unless_it_is_required(monkeypatch):
    monkeypatch.delenv("CAPTIONARY_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="there is no such thing"):
        optional("no_such_module", reason="there is no such thing")
    monkeypatch.setenv("CAPTIONARY_REQUIRE", "torchrec,no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        optional("no_such_module", reason="there is no such thing")
    assert optional("json", reason="it is always there").dumps([]) == "[]"
