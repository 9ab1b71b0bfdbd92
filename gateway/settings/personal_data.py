"""The kinds of data that the prompt log can redact."""

from __future__ import annotations

from enum import StrEnum


class PersonalData(StrEnum):
    """A kind of data, as `PROMPT_LOG_REDACT` names it. The members are in the order in which redaction prefers them."""

    KEY = "key"
    EMAIL = "email"
    IBAN = "iban"
    CARD = "card"
    PHONE = "phone"
