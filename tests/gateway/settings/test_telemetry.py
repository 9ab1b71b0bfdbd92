import pytest

from gateway.errors import SettingsError
from gateway.settings import load
from gateway.settings.telemetry import read_pairs


def test_pairs_have_percent_encoded_values() -> None:
    assert read_pairs(" a=1, b=x%2Cy%3D ,c=d=e,") == {"a": "1", "b": "x,y=", "c": "d=e"}


@pytest.mark.parametrize("headers", ["secret", "=secret", "a b=secret", "a=secret%0A", "a="])
def test_an_invalid_header_stops_the_start_without_its_value(monkeypatch: pytest.MonkeyPatch, headers: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
    with pytest.raises(SettingsError) as raised:
        load()
    assert "OTEL_EXPORTER_OTLP_HEADERS" in str(raised.value)
    assert "secret" not in str(raised.value)
