"""How the slots of a replica are learnt. Pure. Model of `learning.lua`, which has the reasons."""

from __future__ import annotations

from dataclasses import dataclass, field

BACKOFF_MIN_MS, BACKOFF_MAX_MS, CHECK_MS, VERDICT_MS, MISSES_MIN = 1000, 60_000, 60_000, 15_000, 8
ARRIVAL_MS = 500


@dataclass(slots=True)
class Observed:
    """The latest time at which a request still ran, that of its first token, and whether it may have been overtaken."""

    seen_ms: int = 0
    first_ms: int | None = None
    is_young: bool = False
    has_ended: bool = False


@dataclass(slots=True)
class Trial:
    """A request that is observed, and those that ran when it began."""

    request_id: str
    is_probe: bool
    older: dict[str, Observed]
    own: Observed = field(default_factory=Observed)
    until_ms: int = 0

    def verdict(self) -> bool | None:
        """Whether all of them ran at one instant; None while a report is missing."""
        token_ms = self.own.first_ms
        if token_ms is None:
            return None
        young = [each for each in self.older.values() if each.is_young]
        if any(each.has_ended and each.first_ms is None for each in young):
            return False
        instant_ms = max([token_ms, *(each.first_ms for each in young if each.first_ms is not None)])
        concerned = [*self.older.values(), *([self.own] if instant_ms > token_ms else [])]
        missing = [each for each in concerned if each.seen_ms <= instant_ms]
        if any(each.has_ended for each in missing):
            return False
        return None if missing or any(each.first_ms is None for each in young) else True


@dataclass(slots=True)
class Learning:
    """What is learnt about one replica; times in ms of the store's clock."""

    slots: int = 1
    failed: int = 0
    missed: int = 0
    backoff_ms: int = BACKOFF_MIN_MS
    probe_at_ms: int = 0
    check_at_ms: int = 0
    trial: Trial | None = field(default=None)

    def is_due(self, now_ms: int, running: int) -> bool:
        """Whether a trial may begin with the request that is granted next, beside `running` others."""
        self._judge(now_ms)
        if self.trial:
            return False
        is_probe = running == self.slots and now_ms >= self.probe_at_ms
        return is_probe or (running == self.slots - 1 and self.slots > 1 and now_ms >= self.check_at_ms)

    def postpone(self, now_ms: int) -> None:
        """No trial may begin, because another model runs at the replica."""
        self.probe_at_ms = max(self.probe_at_ms, now_ms + BACKOFF_MIN_MS)
        self.check_at_ms = max(self.check_at_ms, now_ms + BACKOFF_MIN_MS)

    def begin(self, request_id: str, running: int, older: dict[str, Observed]) -> None:
        """A trial begins."""
        self.trial = Trial(request_id, running == self.slots, older)

    def observe(self, now_ms: int, request_id: str, seen_ms: int, first_ms: int | None, *, has_ended: bool) -> None:
        """Notes what is known about a request."""
        trial = self.trial
        if trial is None:
            return
        each = trial.own if trial.request_id == request_id else trial.older.get(request_id)
        if each is None:
            return
        if each is trial.own and first_ms is not None and each.first_ms is None:
            trial.until_ms = now_ms + VERDICT_MS
        each.seen_ms, each.first_ms, each.has_ended = seen_ms, first_ms, has_ended
        if trial.own.has_ended and trial.own.first_ms is None:
            self._conclude(now_ms, proven=None)
        else:
            self._judge(now_ms)

    def _judge(self, now_ms: int) -> None:
        trial = self.trial
        if trial is None or trial.own.first_ms is None:
            return
        verdict = trial.verdict()
        if verdict is not None or now_ms >= trial.until_ms:
            self._conclude(now_ms, proven=verdict is True)

    def _conclude(self, now_ms: int, *, proven: bool | None) -> None:
        is_probe, self.trial = self.trial is not None and self.trial.is_probe, None
        if proven:
            self.failed = self.missed = 0
            self.backoff_ms, self.check_at_ms = BACKOFF_MIN_MS, now_ms + CHECK_MS
            self.slots += is_probe
        elif not is_probe:
            self.missed += proven is False
            if self.missed >= max(MISSES_MIN, 4 * self.slots):
                self.missed, self.backoff_ms = 0, BACKOFF_MIN_MS
                self.slots = max(1, self.slots - 1)
        elif proven is None:
            self.probe_at_ms = now_ms + BACKOFF_MIN_MS
        else:
            self.failed += 1
            if self.failed >= self.slots:
                self.failed, self.probe_at_ms = 0, now_ms + self.backoff_ms
                self.backoff_ms = min(BACKOFF_MAX_MS, 2 * self.backoff_ms)
