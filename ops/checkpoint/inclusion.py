"""The proof that a row is in the log of a signed checkpoint, as the JSON file that verify_proof.py reads."""

from __future__ import annotations

import base64
import json

from ops.database.audit_tree import Inclusion


def proof_json(inclusion: Inclusion, checkpoint: str) -> str:
    """Returns one JSON object. `path` is a string of hashes in base64, 44 characters each."""
    members = {
        "row": inclusion.row,
        "index": inclusion.index,
        "path": "".join(base64.b64encode(each).decode() for each in inclusion.path),
        "checkpoint": checkpoint,
    }
    return json.dumps(members, ensure_ascii=False, indent=0) + "\n"
