import logging

import pytest

from captionary.online.service.redaction import Redaction, redacted, watch_logs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("key cap_0123456789ab_abc-DEF_123 came", "key cap_0123456789ab_*** came"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("redis://user:pa:ss@host:6379/0 is away", "redis://***@host:6379/0 is away"),
        ("rediss://:p@host", "rediss://***@host"),
        ("Cookie: captionary_session=a.1.b; x=1", "Cookie: captionary_session=***; x=1"),
        (
            "GET https://s3.example/a.png?X-Amz-Signature=abc&b=1",
            "GET https://s3.example/a.png?X-Amz-Signature=***&b=1",
        ),
        ("nothing of the kind: a@b.c, 3/4", "nothing of the kind: a@b.c, 3/4"),
    ],
)
def test_secrets_are_blotted_out(text, expected):
    assert redacted(text) == expected


def test_arguments_and_exceptions_too():
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "no %s", ("cap_0123456789ab_secret",), None)
    assert Redaction().filter(record)
    assert record.getMessage() == "no cap_0123456789ab_***"
    try:
        raise ValueError("redis://u:secret@h")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", (), (type(error), error, None))
    Redaction().filter(record)
    assert "ValueError: redis://***@h" in logging.Formatter().format(record)
    assert "secret" not in logging.Formatter().format(record)


def test_of_every_logger(capsys):
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        watch_logs()
        logging.getLogger("some.library").warning("cap_0123456789ab_secret")
        logging.getLogger("captionary.service").info("said")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    shown = capsys.readouterr().err
    assert "cap_0123456789ab_***" in shown
    assert "said" in shown
    assert "secret" not in shown


def test_no_request_leaves_its_key_in_a_log(served, caplog, monkeypatch):
    secret = served.admin["Authorization"].removeprefix("Bearer ")
    caplog.set_level(logging.DEBUG)

    def broken(*_, **__):
        raise RuntimeError("inside")

    served.client.post("/rank", json={"items": [1003]}, headers=served.admin)
    served.client.post("/rank", json={"items": "x"}, headers=served.admin)
    served.client.get(f"/items/{secret}", headers=served.admin)
    served.client.post("/login", data={"key": secret})
    monkeypatch.setattr(served.services.ranking, "encoded", broken)
    answer = served.client.post("/rank?key=" + secret, json={"items": [1003]}, headers=served.admin)
    assert answer.status_code == 500
    assert "inside" not in answer.text
    ours = [
        record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))
    ]  # the client's own
    assert any("RuntimeError: inside" in logging.Formatter().format(record) for record in ours)
    for record in ours:
        assert secret not in logging.Formatter().format(record)
