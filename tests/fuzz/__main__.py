"""`python -m tests.fuzz [TARGET…] --seconds N`: looks for inputs that break a claim, for N seconds in all.

With atheris the search is guided by the code that an input reaches. Where atheris has no wheel, the same claims are
tried with inputs made from the recorded ones by chance, and that is said. What breaks a claim is kept in build/fuzz;
moved to tests/fuzz/corpus/TARGET, it is tried by every run of the tests.
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

FOUND = Path("build/fuzz")
TARGET_NAMES = ("requests", "shaped-requests", "answers")
# Pieces that matter to the readers and that chance alone would take long to hit upon.
WORDS = (
    b'"model":"m"', b'"Model"', b'"stream":', b'"\xc5\xbftream"', b'"options":{', b'"num_predict":', b"null", b"true",
    b"-1", b"1e308", b"\xff", b'"tools":[{"type":', b'"Type"', b'"web_search"', b"\\u006d",
    b'"stream_options":{"include_usage":',
    b'"max_tokens":', b"{", b"}", b"[", b"]", b",", b"\n", b"\n\n", b"data: ", b"data: [DONE]\n\n", b'"error":',
    b'"done":true', b'"eval_count":', b'"usage":{', b'"keep_alive":', b"\xef\xbb\xbf",
)  # fmt: skip


def main() -> int:
    """The exit code: 0 when every claim held."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGET_NAMES))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--here", action="store_true", help="run one target in this process")
    given = parser.parse_args()
    names = given.targets or list(TARGET_NAMES)
    if unknown := set(names) - set(TARGET_NAMES):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    FOUND.mkdir(parents=True, exist_ok=True)
    share_s = max(1, given.seconds // len(names))
    if given.here:
        return guided(names[0], share_s) if importlib.util.find_spec("atheris") else by_chance(names[0], share_s)
    # libFuzzer ends the process it runs in, so each target has one of its own.
    commands = [[sys.executable, "-m", "tests.fuzz", name, "--seconds", str(share_s), "--here"] for name in names]
    return max([subprocess.run(command, check=False).returncode for command in commands])


def guided(name: str, seconds: int) -> int:
    """Lets atheris look; it ends the process, with an exit code of its own when it found something."""
    import atheris

    with atheris.instrument_imports(include=["authz", "gateway", "meter", "tests.fuzz"]):
        from tests.fuzz import targets

    begun_with = FOUND / f"{name}-inputs"
    begun_with.mkdir(exist_ok=True)
    for seed in targets.seeds(name):
        (begun_with / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    words = FOUND / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in WORDS))
    _say(f"{name}: {seconds} s with atheris")
    atheris.Setup(
        [
            sys.argv[0], str(begun_with), f"-max_total_time={seconds}", f"-max_len={targets.BYTES_MAX[name]}",
            f"-dict={words}", f"-artifact_prefix={FOUND}/{name}-", "-verbosity=0", "-len_control=0",
            "-print_final_stats=1",
        ],
        targets.TARGETS[name],
    )  # fmt: skip
    atheris.Fuzz()
    return 0


def _escaped(word: bytes) -> str:
    """As a line of libFuzzer's dictionary has it."""
    return "".join(f"\\x{byte:02x}" for byte in word)


def by_chance(name: str, seconds: int) -> int:
    """Tries recorded inputs, changed by chance. Raises what the claim raises, once the input is kept."""
    from tests.fuzz import targets

    _say(f"{name}: {seconds} s by chance, because atheris is not installed here")
    seeds = [*targets.seeds(name), b""]
    chance = random.Random(0)  # noqa: S311
    until = time.monotonic() + seconds
    tried = 0
    while time.monotonic() < until:
        data = _mutated(chance, chance.choice(seeds), chance.choice(seeds))
        try:
            targets.TARGETS[name](data)
        except Exception:
            kept = FOUND / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
            kept.write_bytes(data)
            _say(f"{name}: broken by {kept}")
            raise
        tried += 1
    _say(f"{name}: {tried} inputs, every claim held")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _mutated(chance: random.Random, data: bytes, other: bytes) -> bytes:
    for _ in range(chance.randint(0, 4)):
        start, end = sorted(chance.randint(0, len(data)) for _ in range(2))
        end = min(end, start + chance.choice([0, 1, 8, 64, 512]))
        source = chance.choice([chance.choice(WORDS), other[start:end], chance.randbytes(chance.randint(0, 4))])
        data = data[:start] + source + data[end:]
    return data


if __name__ == "__main__":
    sys.exit(main())
