"""`python -m tests.fuzz [TARGET…] --seconds N`: searches for inputs that break a claim, for N seconds in total.

With atheris, code coverage guides the search. Where atheris has no wheel, the inputs are random mutations of the
recorded ones, and the output states this. An input that breaks a claim is written to build/fuzz. Every run of the tests
repeats the inputs in tests/fuzz/corpus/TARGET.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import random
import subprocess
import sys
import time
from pathlib import Path

FINDINGS_DIR = Path("build/fuzz")
TARGET_NAMES = ("requests", "shaped-requests", "answers", "http2")
# Fragments that are significant to the parsers and that random bytes rarely contain.
WORDS = (
    b'"model":"m"', b'"Model"', b'"stream":', b'"\xc5\xbftream"', b'"options":{', b'"num_predict":', b"null", b"true",
    b"-1", b"1e308", b"\xff", b'"tools":[{"type":', b'"Type"', b'"web_search"', b"\\u006d",
    b'"stream_options":{"include_usage":',
    b'"max_tokens":', b"{", b"}", b"[", b"]", b",", b"\n", b"\n\n", b"data: ", b"data: [DONE]\n\n", b'"error":',
    b'"done":true', b'"eval_count":', b'"usage":{', b'"keep_alive":', b"\xef\xbb\xbf",
)  # fmt: skip


def main() -> int:
    """Returns the exit code: 0 if every claim held."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGET_NAMES))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--here", action="store_true", help="run one target in this process")
    given = parser.parse_args()
    names = given.targets or list(TARGET_NAMES)
    if unknown := set(names) - set(TARGET_NAMES):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    FINDINGS_DIR.mkdir(parents=True, exist_ok=True)
    share_s = max(1, given.seconds // len(names))
    if given.here:
        search = search_guided if importlib.util.find_spec("atheris") else search_randomly
        return search(names[0], share_s)
    # libFuzzer exits its process, so each target runs in a separate one.
    commands = [[sys.executable, "-m", "tests.fuzz", name, "--seconds", str(share_s), "--here"] for name in names]
    return max([subprocess.run(command, check=False).returncode for command in commands])


def search_guided(name: str, seconds: int) -> int:
    """Searches with atheris, which exits the process, with its own exit code if it found something."""
    import atheris

    with atheris.instrument_imports(include=["authz", "gateway", "meter", "tests.fuzz"]):
        from tests.fuzz import targets

    inputs_dir = FINDINGS_DIR / f"{name}-inputs"
    inputs_dir.mkdir(exist_ok=True)
    for seed in targets.seeds(name):
        (inputs_dir / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    words = FINDINGS_DIR / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in WORDS))
    _print(f"{name}: {seconds} s with atheris")
    atheris.Setup(
        [
            sys.argv[0], str(inputs_dir), f"-max_total_time={seconds}", f"-max_len={targets.BYTES_MAX[name]}",
            f"-dict={words}", f"-artifact_prefix={FINDINGS_DIR}/{name}-", "-verbosity=0", "-len_control=0",
            "-print_final_stats=1",
        ],
        targets.TARGETS[name],
    )  # fmt: skip
    atheris.Fuzz()
    return 0


def _escaped(word: bytes) -> str:
    """`word` in the format of libFuzzer's dictionary."""
    return "".join(f"\\x{byte:02x}" for byte in word)


def search_randomly(name: str, seconds: int) -> int:
    """Tries random mutations of the recorded inputs. Writes an input that breaks a claim, then raises its error."""
    from tests.fuzz import targets

    _print(f"{name}: {seconds} s with random inputs, because atheris is not installed")
    seeds = [*targets.seeds(name), b""]
    rng = random.Random(0)  # noqa: S311
    deadline = time.monotonic() + seconds
    tried = 0
    while time.monotonic() < deadline:
        data = _mutated(rng, rng.choice(seeds), rng.choice(seeds))
        try:
            targets.TARGETS[name](data)
        except Exception:
            finding = FINDINGS_DIR / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
            finding.write_bytes(data)
            _print(f"{name}: broken by {finding}")
            raise
        tried += 1
    _print(f"{name}: {tried} inputs, every claim held")
    return 0


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _mutated(rng: random.Random, data: bytes, other: bytes) -> bytes:
    for _ in range(rng.randint(0, 4)):
        start, end = sorted(rng.randint(0, len(data)) for _ in range(2))
        end = min(end, start + rng.choice([0, 1, 8, 64, 512]))
        source = rng.choice([rng.choice(WORDS), other[start:end], rng.randbytes(rng.randint(0, 4))])
        data = data[:start] + source + data[end:]
    return data


if __name__ == "__main__":
    sys.exit(main())
