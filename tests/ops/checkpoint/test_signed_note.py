from __future__ import annotations

import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.errors import SettingsError
from ops.checkpoint import checkpoint, key_file
from ops.checkpoint.signed_note import NoteRefused, PrivateKey, PublicKey
from ops.database.audit_chain import ChainHead

# The example of Go's golang.org/x/mod/sumdb/note.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
GO_NOTE = f"{GO_TEXT}\n\u2014 PeterNeumann {GO_SIGNATURE}\n"

HEAD = ChainHead(7, "ab" * 32, 1234, datetime(2026, 5, 17, 12, 0, 0, 123456, tzinfo=UTC))


def test_a_note_of_another_implementation_is_verified() -> None:
    key = PublicKey.from_text(GO_KEY)
    assert key.verified_text(GO_NOTE) == GO_TEXT
    assert key.text == GO_KEY


def test_a_signed_note_is_verified_with_the_public_key_alone() -> None:
    key = PrivateKey.from_text(PrivateKey.generate("example.com/a").secret_text)
    note = key.sign("one\n\ntwo\n")
    assert PublicKey.from_text(key.public.text).verified_text(note) == "one\n\ntwo\n"
    # The encoded key itself may have a "+".
    assert key.secret_text.split("+", 4)[-1] not in repr(key)


def test_signatures_of_other_keys_are_ignored() -> None:
    key = PublicKey.from_text(GO_KEY)
    other = PrivateKey.generate("PeterNeumann").sign(GO_TEXT)
    assert key.verified_text(GO_NOTE + other.rpartition("\n\n")[2]) == GO_TEXT


@pytest.mark.parametrize(
    "note",
    [
        "",
        GO_TEXT,
        GO_NOTE.rstrip("\n"),
        GO_NOTE.replace("answer", "Answer"),
        GO_NOTE.replace("PeterNeumann", "PeterNewmann"),
        GO_NOTE.replace("x08go/", "x08gp/"),
        GO_NOTE.replace("wJnAM=", "wJnAQ="),
        GO_NOTE + "\u2014 PeterNeumann x08go/ZJ\n",
        GO_NOTE + "no signature\n",
        GO_NOTE + "\u2014 PeterNeumann !\n",
        PrivateKey.generate("PeterNeumann").sign(GO_TEXT),
    ],
)
def test_any_other_note_is_refused(note: str) -> None:
    with pytest.raises(NoteRefused):
        PublicKey.from_text(GO_KEY).verified_text(note)


@pytest.mark.parametrize(
    "text", ["", "a+b", GO_KEY.replace("c74", "c75"), GO_KEY.replace("ARpc", "AhpC"), GO_KEY[:-4], GO_KEY + "\n+"]
)
def test_a_damaged_key_is_refused(text: str) -> None:
    with pytest.raises(NoteRefused):
        PublicKey.from_text(text)
    with pytest.raises(NoteRefused):
        PrivateKey.from_text(f"PRIVATE+KEY+{text}")


def test_a_checkpoint_has_the_values_of_the_link() -> None:
    key = PrivateKey.generate(checkpoint.ORIGIN)
    note = checkpoint.signed(HEAD, key)
    root = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    assert note.splitlines()[:5] == ["neuronetz-gateway/audit-chain", "0", root, "link 7", f"hash {'ab' * 32}"]
    assert checkpoint.opened(note, key.public) == HEAD
    assert checkpoint.opened(checkpoint.signed(replace(HEAD, link=8), key), key.public) != HEAD


def test_a_checkpoint_without_a_tree_is_read() -> None:
    key = PrivateKey.generate(checkpoint.ORIGIN)
    text = f"{checkpoint.ORIGIN}\nlink 7\nhash {'ab' * 32}\nrows 1234\nsealed {HEAD.sealed_at.isoformat()}\n"
    assert checkpoint.opened(key.sign(text), key.public) == HEAD


def test_the_last_complete_note_of_a_file_is_found() -> None:
    key = PrivateKey.generate(checkpoint.ORIGIN)
    notes = [checkpoint.signed(replace(HEAD, link=link), key) for link in (1, 2, 3)]
    assert checkpoint.last_of("\n".join(notes)) == notes[2]
    assert checkpoint.last_of("\n".join([*notes, notes[0][:-60].rpartition("\n")[0]])) == notes[2]
    assert checkpoint.last_of("\n".join([notes[0][:-60], *notes[1:]])) == notes[2]
    assert checkpoint.last_of("x") == "x"


@pytest.mark.parametrize(
    "text", ["x\n", "link 7\n", f"{checkpoint.ORIGIN}\nlink 0\nhash {'ab' * 32}\nrows 1\nsealed x\n"]
)
def test_a_note_that_is_no_checkpoint_is_refused(text: str) -> None:
    key = PrivateKey.generate("k")
    with pytest.raises(NoteRefused):
        checkpoint.opened(key.sign(text), key.public)


def test_a_new_key_file_is_private_and_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(SettingsError, match="--new-key"):
        key_file.read(path)
    created = key_file.read_or_create(path, "k")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key_file.read(path).secret_text == key_file.read_or_create(path, "other").secret_text == created.secret_text


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key_file.read_or_create(path, "k")
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        key_file.read(path)
