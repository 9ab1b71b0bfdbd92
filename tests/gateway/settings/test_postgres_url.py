"""URLs as providers of PostgreSQL print them."""

from __future__ import annotations

import pytest

from gateway.settings.postgres_url import supported

BASE = "postgresql://u:p%40ss@db.example:5432/gateway"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("", ""),
        ("?sslmode=require&channel_binding=prefer", "?sslmode=require"),
        ("?connect_timeout=10&keepalives_idle=30&keepalives=1&application_name=x", ""),
        ("?host=%2Frun%2Fpg&user=a%26b", "?host=%2Frun%2Fpg&user=a%26b"),
        ("?options=-c%20search_path%3Da", "?options=-c+search_path%3Da"),
        ("?gssencmode=disable&tcp_user_timeout=1&target_session_attrs=read-write", "?target_session_attrs=read-write"),
    ],
)
def test_parameters_of_libpq_are_accepted(given: str, taken: str) -> None:
    assert supported(BASE + given) == BASE + taken


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("channel_binding=require", "channel_binding may only be prefer or disable"),
        ("pgbouncer=true", "'pgbouncer' is not one of libpq; remove it and set DATABASE_STATEMENT_CACHE_SIZE=0"),
        ("schema=s3cret", "'schema' is not one of libpq"),
        ("=s3cret", "'' is not one of libpq"),
    ],
)
def test_other_parameters_are_refused_by_name_and_without_their_value(query: str, message: str) -> None:
    with pytest.raises(ValueError, match="parameter") as refused:
        supported(f"{BASE}?sslmode=require&{query}")
    assert message in str(refused.value)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("rest", ["u:s3cret@[/db", "u:s3cret@h:99999/db", "u:s3cret@h:x/db", "u:s3cret\u2100@h/db"])
def test_a_text_that_is_no_url_is_refused_without_its_password(rest: str) -> None:
    with pytest.raises(ValueError, match="expected postgresql://USER") as refused:
        supported(f"postgresql://{rest}")
    assert "s3cret" not in str(refused.value)
