"""The life of one exchange as a table: which triggers are possible in each phase, and which phase follows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Phase(StrEnum):
    """How far a request has come.

    OPEN: its record is open and no backend has been contacted. FORWARDED: its body is on the way to a backend.
    ANSWERING: a backend's answer passes to the caller. LOCAL_REPLY: Envoy answers in place of a backend. CUT: the meter
    ended it; whatever else a backend sends is refused, and Envoy then closes both sides. ENDED: the backend's answer
    is complete, or its stream has ended; nothing that follows reaches the caller. CLOSED: Envoy has closed its stream
    to the meter.
    """

    OPEN = "open"
    FORWARDED = "forwarded"
    ANSWERING = "answering"
    LOCAL_REPLY = "local_reply"
    CUT = "cut"
    ENDED = "ended"
    CLOSED = "closed"


class Trigger(StrEnum):
    """What moves a request on, or is refused.

    FORWARD: its body arrives, to go to a backend. ANSWER: a backend's response headers arrive. LOCAL_REPLY: Envoy's own
    response headers arrive. CHUNK, END: a piece of the response body arrives, and the last one or the
    one that completes the answer. CUT: the piece was one
    that the caller must not get. LEASE_LOST: another process settled or released the hold, so nothing that follows
    would be accounted. CLOSE: Envoy closes its stream.
    """

    FORWARD = "forward"
    ANSWER = "answer"
    LOCAL_REPLY = "local_reply"
    CHUNK = "chunk"
    END = "end"
    CUT = "cut"
    LEASE_LOST = "lease_lost"
    CLOSE = "close"


class OutOfOrder(Exception):
    """A trigger is impossible in this phase. The stream to Envoy fails, and Envoy then cuts both sides."""


# A trigger that is missing from a phase is impossible there. One that changes nothing keeps the phase.
TRANSITIONS: Mapping[Phase, Mapping[Trigger, Phase]] = {
    Phase.OPEN: {
        Trigger.FORWARD: Phase.FORWARDED,
        Trigger.LOCAL_REPLY: Phase.LOCAL_REPLY,
        Trigger.LEASE_LOST: Phase.CUT,
        Trigger.CLOSE: Phase.CLOSED,
    },
    Phase.FORWARDED: {
        Trigger.ANSWER: Phase.ANSWERING,
        Trigger.LOCAL_REPLY: Phase.LOCAL_REPLY,
        Trigger.LEASE_LOST: Phase.CUT,
        Trigger.CLOSE: Phase.CLOSED,
    },
    # Envoy never replaces an answer that has begun by its own reply: it resets the stream.
    Phase.ANSWERING: {
        Trigger.CHUNK: Phase.ANSWERING,
        Trigger.END: Phase.ENDED,
        Trigger.CUT: Phase.CUT,
        Trigger.LEASE_LOST: Phase.CUT,
        Trigger.CLOSE: Phase.CLOSED,
    },
    Phase.LOCAL_REPLY: {
        Trigger.CHUNK: Phase.LOCAL_REPLY,
        Trigger.END: Phase.LOCAL_REPLY,
        Trigger.LEASE_LOST: Phase.LOCAL_REPLY,
        Trigger.CLOSE: Phase.CLOSED,
    },
    # Envoy may report more of an answer until it has closed both sides. Its own reply passes.
    Phase.CUT: {
        Trigger.FORWARD: Phase.CUT,
        Trigger.ANSWER: Phase.CUT,
        Trigger.LOCAL_REPLY: Phase.LOCAL_REPLY,
        Trigger.CHUNK: Phase.CUT,
        Trigger.END: Phase.CUT,
        Trigger.LEASE_LOST: Phase.CUT,
        Trigger.CLOSE: Phase.CLOSED,
    },
    # A backend may close its stream in a later message than the one with the frame that ends the answer.
    Phase.ENDED: {
        Trigger.CHUNK: Phase.ENDED,
        Trigger.END: Phase.ENDED,
        Trigger.LEASE_LOST: Phase.ENDED,
        Trigger.CLOSE: Phase.CLOSED,
    },
    Phase.CLOSED: {
        Trigger.LEASE_LOST: Phase.CLOSED,
    },
}


def following(phase: Phase, trigger: Trigger) -> Phase:
    """The phase after `trigger`. Raises OutOfOrder for a trigger that is impossible in `phase`."""
    try:
        return TRANSITIONS[phase][trigger]
    except KeyError:
        raise OutOfOrder(f"{trigger} is impossible in phase {phase}") from None
