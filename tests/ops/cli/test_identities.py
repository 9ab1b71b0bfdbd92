"""add-identity and remove-identity, and what other commands show of identities."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ops.cli.conftest import Operator
from tests.ssh_identity import OllamaIdentity

KEY = ("--tenant", "acme", "--prefix", "laptop")


@pytest.fixture
def prefix(operator: Operator) -> str:
    """The prefix of the key `laptop` of the tenant `acme`."""
    operator.does("create-tenant", "--name", "acme")
    prefix: str = operator.reads("create-key", "--tenant", "acme", "--name", "laptop")["prefix"]
    return prefix


def identities(operator: Operator) -> dict[str, list[str]]:
    """The fingerprints of each key by its prefix, as list-keys shows them."""
    return {key["prefix"]: key["identities"] for key in operator.reads("list-keys")}


def test_an_identity_is_added_from_a_file_and_from_its_line_and_removed(
    operator: Operator, prefix: str, tmp_path: Path
) -> None:
    first, second = OllamaIdentity().public, OllamaIdentity(comment="").public
    file = tmp_path / "id_ed25519.pub"
    file.write_text(first.line + "\n")
    added = operator.does("add-identity", *KEY, "--public-key", str(file))
    assert added == f"{first.fingerprint} is now an identity of the key {prefix}\n"
    document = operator.reads("add-identity", "--prefix", prefix, "--public-key", second.line)
    assert document == {"prefix": prefix, "fingerprint": second.fingerprint, "comment": ""}
    assert identities(operator) == {prefix: [first.fingerprint, second.fingerprint]}
    assert first.fingerprint in operator.does("list-keys", "--wide")
    again = operator.does("add-identity", *KEY, "--public-key", first.line)
    assert again == f"{first.fingerprint} was already an identity of the key {prefix}\n"
    removed = operator.does("remove-identity", *KEY, "--public-key", str(file))
    assert removed == f"{first.fingerprint} is no longer an identity of the key {prefix}\n"
    assert identities(operator) == {prefix: [second.fingerprint]}
    assert "has no identity" in operator.fails("remove-identity", *KEY, "--public-key", first.line)


def test_an_identity_belongs_to_one_account(operator: Operator, prefix: str) -> None:
    operator.does("create-key", "--tenant", "acme", "--name", "phone")
    line = OllamaIdentity().public.line
    operator.does("add-identity", *KEY, "--public-key", line)
    other = ("--tenant", "acme", "--prefix", "phone", "--public-key", line)
    assert f"belongs to the key {prefix} of acme" in operator.fails("add-identity", *other)
    assert "has no identity" in operator.fails("remove-identity", *other)


def test_a_rotated_key_passes_its_identities_to_its_successor_and_a_revoked_one_gets_none(
    operator: Operator, prefix: str
) -> None:
    key = OllamaIdentity().public
    operator.does("add-identity", *KEY, "--public-key", key.line)
    successor = operator.reads("rotate-key", *KEY)["prefix"]
    assert identities(operator) == {prefix: [], successor: [key.fingerprint]}
    assert "revoked or replaced" in operator.fails("add-identity", "--prefix", prefix, "--public-key", key.line)
    operator.does("revoke-key", "--prefix", successor, "--yes")
    assert "revoked or replaced" in operator.fails("add-identity", "--prefix", successor, "--public-key", key.line)
    operator.does("remove-identity", "--prefix", successor, "--public-key", key.line)
    assert "no key with the prefix" in operator.fails(
        "add-identity", "--prefix", "nz_000000000", "--public-key", key.line
    )


@pytest.mark.parametrize("command", ["add-identity", "remove-identity"])
def test_anything_but_an_ed25519_key_is_wrong_usage_and_is_not_repeated(
    operator: Operator, prefix: str, tmp_path: Path, command: str
) -> None:
    private = tmp_path / "id_ed25519"
    private.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for value, problem in (
        (str(private), "private key"),
        (str(tmp_path / "absent.pub"), "cannot read the file"),
        (str(binary), "not text"),
        ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAA", "ssh-ed25519"),
        (OllamaIdentity().public.line[:-20], "not the base64"),
    ):
        error = operator.misuses(command, *KEY, "--public-key", value)
        assert problem in error
        assert "c2VjcmV0" not in error


def test_changes_of_identities_are_shown_with_their_fingerprint(operator: Operator, prefix: str) -> None:
    key = OllamaIdentity().public
    operator.does("add-identity", *KEY, "--public-key", key.line)
    operator.does("remove-identity", *KEY, "--public-key", key.line)
    added, removed = operator.reads("show-changes")[-2:]
    assert (added["command"], added["action"], added["tenant"], added["prefix"]) == (
        "add-identity", "insert", "acme", prefix,
    )  # fmt: skip
    assert (removed["command"], removed["action"]) == ("remove-identity", "delete")
    assert added["after"]["fingerprint"] == removed["before"]["fingerprint"] == key.fingerprint
    text = operator.does("show-changes", "--wide")
    assert f"fingerprint {key.fingerprint}" in " ".join(text.split())


def test_export_and_apply_carry_identities(operator: Operator, prefix: str, tmp_path: Path) -> None:
    first, second, third = (OllamaIdentity(comment=name).public for name in ("one", "two", ""))
    for each in (first, second):
        operator.does("add-identity", *KEY, "--public-key", each.line)
    exported = operator.does("export")
    assert first.line in exported
    file = tmp_path / "policies.yaml"
    file.write_text(exported)
    assert operator.does("apply", "-f", str(file), "--yes") == "nothing differs\n"
    # The first one stays with another comment, the second one moves to another key, and the third one is new.
    file.write_text(
        "version: 1\ntenants:\n- name: acme\n  keys:\n"
        f"  - name: phone\n    identities:\n    - {second.line}\n"
        f"  - name: laptop\n    identities:\n    - {first.line} renamed\n    - {third.line}\n"
    )
    operator.does("apply", "-f", str(file), "--yes")
    keys = {key["name"]: key["identities"] for key in operator.reads("list-keys")}
    assert keys == {"laptop": [first.fingerprint, third.fingerprint], "phone": [second.fingerprint]}
    assert "one renamed" in operator.does("export")
    file.write_text("version: 1\ntenants:\n- name: acme\n  keys:\n  - name: laptop\n")
    operator.does("apply", "-f", str(file), "--yes")
    keys = {key["name"]: key["identities"] for key in operator.reads("list-keys")}
    assert keys == {"laptop": [], "phone": [second.fingerprint]}


def test_a_policy_file_with_a_wrong_or_repeated_identity_is_refused(
    operator: Operator, prefix: str, tmp_path: Path
) -> None:
    line = OllamaIdentity().public.line
    file = tmp_path / "policies.yaml"
    start = "version: 1\ntenants:\n- name: acme\n  keys:\n  - name: laptop\n    identities:\n"
    file.write_text(f"{start}    - ssh-rsa AAAA\n")
    assert "identities.0: expected a key of the type ssh-ed25519" in operator.fails("apply", "-f", str(file))
    file.write_text(f"{start}    - {line}\n  - name: phone\n    identities:\n    - {line} again\n")
    assert "two identities have the fingerprint SHA256:" in operator.fails("apply", "-f", str(file))
