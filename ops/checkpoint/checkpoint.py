"""The text of a checkpoint: the last link of the audit chain when it was exported, one value per line."""

from __future__ import annotations

import re
from datetime import datetime

from ops.checkpoint.signed_note import NoteRefused, PrivateKey, PublicKey
from ops.database.audit_chain import ChainHead

ORIGIN = "neuronetz-gateway/audit-chain"
"""The first line of every checkpoint, and the name of new keys."""

_TEXT = re.compile(
    re.escape(ORIGIN)
    + r"\nlink (?P<link>[1-9]\d{0,17})\nhash (?P<hash>[0-9a-f]{64})\nrows (?P<rows>\d{1,18})\nsealed (?P<sealed>\S+)\n",
    re.ASCII,
)


def signed(head: ChainHead, key: PrivateKey) -> str:
    """Returns the checkpoint of `head` as a signed note."""
    lines = (
        ORIGIN,
        f"link {head.link}",
        f"hash {head.hash}",
        f"rows {head.rows_total}",
        f"sealed {head.sealed_at.isoformat()}",
    )
    return key.sign("".join(f"{line}\n" for line in lines))


def opened(note: str, key: PublicKey) -> ChainHead:
    """Returns the link of a checkpoint. Raises NoteRefused if `key` did not sign it or the text is no checkpoint."""
    match = _TEXT.fullmatch(key.verified_text(note))
    try:
        sealed_at = datetime.fromisoformat(match["sealed"]) if match else None
    except ValueError:
        sealed_at = None
    if match is None or sealed_at is None:
        raise NoteRefused("the note is not a checkpoint of an audit chain")
    return ChainHead(int(match["link"]), match["hash"], int(match["rows"]), sealed_at)
