"""show-prompts reads the prompt log of one request or one key."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.record.encrypted_transcript import TranscriptEncryptor
from gateway.settings import load
from gateway.stores.postgres import Database
from meter.prompt_log.store import PromptLog, PromptRecord
from tests.gateway.record.test_encrypted_transcript import write_key
from tests.ops.cli.conftest import Operator

NOW = datetime.now(UTC)


async def _log(
    operator: Operator,
    request_id: str,
    prefix: str,
    response: str,
    expires_at: datetime,
    encryptor: TranscriptEncryptor | None,
) -> None:
    database = Database(load(operator.env_file))
    row = await database.fetchrow("SELECT tenant_id, account_id FROM gateway.api_keys WHERE prefix = $1", prefix)
    assert row is not None
    at = NOW - timedelta(minutes=5)
    texts = (encryptor.encrypt(request_id, '{"q":1}', response), "") if encryptor else ('{"q":1}', response)
    record = PromptRecord(request_id, at, row["tenant_id"], row["account_id"], "m", *texts, expires_at)
    await PromptLog(database).append([record])
    await database.close()


def log(
    operator: Operator,
    request_id: str,
    prefix: str,
    response: str = "Hello",
    expires_at: datetime | None = None,
    encryptor: TranscriptEncryptor | None = None,
) -> None:
    asyncio.run(_log(operator, request_id, prefix, response, expires_at or NOW + timedelta(days=30), encryptor))


@pytest.fixture
def prefixes(operator: Operator) -> tuple[str, str]:
    """Two keys of one tenant."""
    operator.does("create-tenant", "--name", "acme")
    options = ("create-key", "--tenant", "acme", "--log-prompts", "--name")
    return operator.reads(*options, "laptop")["prefix"], operator.reads(*options, "phone")["prefix"]


def test_prompts_of_a_request_or_a_key_are_shown(operator: Operator, prefixes: tuple[str, str]) -> None:
    for request_id, prefix in zip(("a", "b"), prefixes, strict=True):
        log(operator, request_id, prefix)
    (shown,) = operator.reads("show-prompts", "--request-id", "a")
    columns = "request_id ts tenant prefix model request response expires_at encrypted_to".split()
    assert list(shown) == columns
    assert (shown["tenant"], shown["prefix"], shown["request"], shown["response"]) == (
        "acme", prefixes[0], '{"q":1}', "Hello",
    )  # fmt: skip
    (other,) = operator.reads("show-prompts", "--tenant", "acme", "--prefix", "phone")
    assert other["request_id"] == "b"
    assert operator.reads("show-prompts", "--prefix", prefixes[0], "--since", "1m") == []


def test_the_prompts_of_an_account_stay_with_its_new_key(operator: Operator, prefixes: tuple[str, str]) -> None:
    log(operator, "a", prefixes[0])
    new = operator.reads("rotate-key", "--prefix", prefixes[0])["prefix"]
    for prefix in (prefixes[0], new):
        (shown,) = operator.reads("show-prompts", "--prefix", prefix)
        assert (shown["request_id"], shown["prefix"]) == ("a", new)


def test_an_expired_prompt_is_not_shown_before_it_is_deleted(operator: Operator, prefixes: tuple[str, str]) -> None:
    log(operator, "a", prefixes[0], expires_at=NOW)
    assert operator.reads("show-prompts", "--request-id", "a") == []
    assert "--log-prompts" in operator.does("show-prompts", "--request-id", "a")


def test_a_long_text_is_cut_and_control_characters_are_visible(operator: Operator, prefixes: tuple[str, str]) -> None:
    log(operator, "a", prefixes[0], response="\x1b[31m\n" + "x" * 2100)
    cut, full = (operator.does("show-prompts", "--request-id", "a", *option) for option in ((), ("--full",)))
    assert "\\x1b[31m\n" in cut
    assert "… 106 more characters; --full shows them" in cut
    assert "x" * 2100 in full
    assert "\x1b" not in cut + full


def test_a_request_or_a_key_must_be_named(operator: Operator) -> None:
    assert "--request-id, or --prefix" in operator.misuses("show-prompts")


def test_encrypted_rows_need_their_key_and_rows_in_clear_text_none(
    operator: Operator, prefixes: tuple[str, str], tmp_path: Path
) -> None:
    files = [write_key(tmp_path, name) for name in ("old", "new")]
    encryptors = [TranscriptEncryptor(public) for _, public in files]
    log(operator, "plain", prefixes[0])
    for request_id, encryptor in zip(("old", "new"), encryptors, strict=True):
        log(operator, request_id, prefixes[0], f"answer {request_id}", encryptor=encryptor)

    def shown(*names: str) -> dict[str, tuple[str | None, str | None]]:
        options = [option for name in names for option in ("--key-file", str(tmp_path / f"{name}.key"))]
        rows = operator.reads("show-prompts", "--prefix", prefixes[0], *options)
        return {row["request_id"]: (row["response"], row["encrypted_to"]) for row in rows}

    old, new = (encryptor.key_id for encryptor in encryptors)
    assert shown() == {"plain": ("Hello", None), "old": (None, old), "new": (None, new)}
    assert shown("new") == {"plain": ("Hello", None), "old": (None, old), "new": ("answer new", None)}
    assert shown("new", "old")["old"] == ("answer old", None)
    assert f"encrypted to the key {old}; --key-file" in operator.does("show-prompts", "--request-id", "old")
    assert "X25519" in operator.fails("show-prompts", "--request-id", "old", "--key-file", str(tmp_path / "old.pub"))
