"""The text of a checkpoint (https://c2sp.org/tlog-checkpoint): the Merkle tree and the last link of the audit chain."""

from __future__ import annotations

import base64
import re
from datetime import datetime

from ops.checkpoint.signed_note import NoteRefused, PrivateKey, PublicKey
from ops.database.audit_chain import ChainHead
from ops.merkle.tree import EMPTY_ROOT

ORIGIN = "neuronetz-gateway/audit-chain"
"""The first line of every checkpoint, and the name of new keys."""

# Checkpoints of releases without a tree have no lines of it.
_TEXT = re.compile(
    re.escape(ORIGIN)
    + r"\n(?:(?P<size>0|[1-9]\d{0,17})\n(?P<root>[A-Za-z0-9+/]{43}=)\n)?"
    + r"link (?P<link>[1-9]\d{0,17})\nhash (?P<hash>[0-9a-f]{64})\nrows (?P<rows>\d{1,18})\nsealed (?P<sealed>\S+)\n",
    re.ASCII,
)
_NOTES = re.compile(rf"^{re.escape(ORIGIN)}\n(?:[^\n]+\n)+\n(?:\u2014 [^\n]+\n)+", re.MULTILINE)


def signed(head: ChainHead, key: PrivateKey) -> str:
    """Returns the checkpoint of `head` as a signed note."""
    lines = (
        ORIGIN,
        str(head.tree_size),
        base64.b64encode(head.tree_root).decode(),
        f"link {head.link}",
        f"hash {head.hash}",
        f"rows {head.rows_total}",
        f"sealed {head.sealed_at.isoformat()}",
    )
    return key.sign("".join(f"{line}\n" for line in lines))


def opened(note: str, key: PublicKey) -> ChainHead:
    """Returns the link of a checkpoint. Raises NoteRefused if `key` did not sign it or the text is no checkpoint."""
    return parsed(key.verified_text(note))


def parsed(text: str) -> ChainHead:
    """Returns the link of the text of a checkpoint, whose signature is not checked. Raises NoteRefused."""
    match = _TEXT.fullmatch(text)
    try:
        sealed_at = datetime.fromisoformat(match["sealed"]) if match else None
    except ValueError:
        sealed_at = None
    if match is None or sealed_at is None:
        raise NoteRefused("the note is not a checkpoint of an audit chain")
    size, root = (int(match["size"]), base64.b64decode(match["root"])) if match["size"] else (0, EMPTY_ROOT)
    return ChainHead(int(match["link"]), match["hash"], int(match["rows"]), sealed_at, size, root)


def last_of(text: str) -> str:
    """Returns the last complete note of a file that `control` appends to, or the text itself if it has none."""
    notes = _NOTES.findall(text)
    return notes[-1] if notes else text
