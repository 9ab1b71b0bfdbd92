"""What happens to a row of the prompt log before it is stored: redaction, then encryption."""

from __future__ import annotations

from dataclasses import replace

from gateway.record.encrypted_transcript import TranscriptEncryptor
from gateway.settings import Settings
from meter.prompt_log.bodies import change_texts
from meter.prompt_log.redaction import Redactor
from meter.prompt_log.store import PromptRecord
from meter.prompt_log.writer import Protect


def protection(settings: Settings) -> Protect | None:
    """The function for the settings, None when rows are stored as they are.

    Raises SettingsError when the public key cannot be read.
    """
    redactor = Redactor(settings.prompt_log_redact) if settings.prompt_log_redact else None
    encryptor = (
        TranscriptEncryptor(settings.prompt_log_public_key_file) if settings.prompt_log_public_key_file else None
    )
    if redactor is None and encryptor is None:
        return None

    def protect(record: PromptRecord) -> PromptRecord:
        request, response = record.request, record.response
        if redactor:
            request, response = (change_texts(each, redactor.redact) for each in (request, response))
        if encryptor:
            request, response = encryptor.encrypt(record.request_id, request, response), ""
        return replace(record, request=request, response=response)

    return protect
