"""Passwords and signatures in URLs are for servers, and for nobody who reads what is printed."""

import pytest

from parakeet_ft import urls
from parakeet_ft.errors import UserError, exit_on_user_error
from parakeet_ft.run.directory import hide_secrets
from parakeet_ft.settings.manifests import as_given, weighted

SIGNED = "https://bucket.s3.amazonaws.com/m.jsonl?X-Amz-Credential=AKIA%2Fx&X-Amz-Signature=5ec2e7"


@pytest.fixture(autouse=True)
def nothing_taken(monkeypatch):
    monkeypatch.setenv(urls.TAKEN, "{}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see http://ann:pw@host/a.", "see http://***@host/a."),
        ("http://ann:p@w@host/a", "http://***@host/a"),
        ("['data.train=https://ann:p%40w@host:80/a']", "['data.train=https://***@host:80/a']"),
        ("https://h/a?token=abc&v=2", "https://h/a?token=***&v=2"),
        ("https://h/a?sv=1&sig=a%2Fb'", "https://h/a?sv=1&sig=***'"),
        (
            SIGNED,
            "https://bucket.s3.amazonaws.com/m.jsonl?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        ("https://host/b@c?page=3", "https://host/b@c?page=3"),
        ("ann@host.org, a=b@c", "ann@host.org, a=b@c"),
    ],
)
def test_a_text_is_shown_without_what_is_secret_in_it(text, expected):
    assert urls.masked(text) == expected


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://ann:p%40w@host:80/shards/", "http://host:80/shards/"),
        (SIGNED, "https://bucket.s3.amazonaws.com/m.jsonl"),
        ("https://host/a.jsonl?version=3", "https://host/a.jsonl?version=3"),
        ("s3://bucket/a b.jsonl", "s3://bucket/a b.jsonl"),
        ("C:/a@b.jsonl", "C:/a@b.jsonl"),
    ],
)
def test_a_server_is_asked_with_what_a_name_is_shown_without(given, shown):
    assert urls.without_secrets(given) == shown
    assert urls.with_secrets(shown) == given
    assert urls.without_secrets(shown) == shown
    assert urls.with_secrets("http://other/x") == "http://other/x"


def test_what_lies_below_a_url_is_asked_for_with_its_login():
    urls.without_secrets("http://ann:pw@host/shards")
    assert urls.with_secrets("http://host/shards/audio_0.tar") == (
        "http://ann:pw@host/shards/audio_0.tar"
    )


def test_settings_hold_no_secret():
    named = weighted([{"manifest": "http://ann:pw@host/a", "weight": 2}, SIGNED])
    assert "pw" not in str(as_given(named)) and "5ec2e7" not in str(named)


def test_errors_and_what_hydra_keeps_show_no_secret(tmp_path, capsys):
    with pytest.raises(SystemExit), exit_on_user_error():
        raise UserError("Cannot read http://ann:pw@host/a.")
    assert capsys.readouterr().err == "error: Cannot read http://***@host/a.\n"
    (tmp_path / ".hydra").mkdir()
    record = tmp_path / ".hydra" / "overrides.yaml"
    record.write_text("- data.train=http://ann:pw@host/a\n")
    hide_secrets(tmp_path)
    assert record.read_text() == "- data.train=http://***@host/a\n"
