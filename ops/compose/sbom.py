"""The bill of materials of the image: every pinned package, as CycloneDX (https://cyclonedx.org/docs/1.5/json/).

`python -m ops.compose.sbom requirements-image.lock` reads the packages from the lock file and their licences from the
installed distributions. The same lock file always gives the same document, so that documents can be compared.
"""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from gateway import __version__

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^ ;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def pins(lock: str) -> list[tuple[str, str, list[str]]]:
    """Returns name, version and SHA-256 hashes of each package of a lock file, in its order."""
    found: list[tuple[str, str, list[str]]] = []
    for line in lock.splitlines():
        if pin := _PIN.match(line):
            found.append((pin[1], pin[2], []))
        elif (hashed := _HASH.search(line)) and found:
            found[-1][2].append(hashed[1])
    return found


def document(lock: str) -> dict[str, Any]:
    """Returns the CycloneDX document of a lock file."""
    gateway = {"type": "application", "bom-ref": "neuronetz-gateway", "name": "neuronetz-gateway"}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {**gateway, "version": __version__, "licenses": [{"expression": "Apache-2.0"}]}},
        "components": [_component(*pin) for pin in pins(lock)],
    }


def _component(name: str, version: str, hashes: list[str]) -> dict[str, Any]:
    purl = f"pkg:pypi/{name}@{version}"
    # A component's `hashes` are those of a single file. The lock has the hashes of all files of a package, of which one
    # is installed.
    properties = [{"name": "pypi:file:sha256", "value": value} for value in hashes]
    component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return {**component, **_licences(name), "properties": properties}


def _licences(name: str) -> dict[str, Any]:
    try:
        about = metadata.metadata(name).json
    except metadata.PackageNotFoundError:
        return {}  # The package is pinned for another platform.
    if expression := about.get("license_expression"):
        return {"licenses": [{"expression": expression}]}
    classified = [each.rpartition(" :: ")[2] for each in about.get("classifier", ()) if each.startswith("License :: ")]
    stated = classified or [text for text in [str(about.get("license", "")).strip()] if text and "\n" not in text]
    return {"licenses": [{"license": {"name": text}} for text in stated]} if stated else {}


if __name__ == "__main__":
    json.dump(document(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.stdout, indent=1)
