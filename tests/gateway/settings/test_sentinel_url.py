from __future__ import annotations

import pytest

from gateway.settings.sentinel_url import SentinelUrl, is_sentinel_url, parse


def test_a_whole_url_is_read_part_by_part() -> None:
    url = "rediss+sentinel://gate%40way:p%3Aw@a.example:1234,[::1]:5678,b.example/main/3?sentinel_password=other"
    assert parse(url) == SentinelUrl(
        sentinels=(("a.example", 1234), ("::1", 5678), ("b.example", 26379)),
        service="main",
        db=3,
        tls=True,
        username="gate@way",
        password="p:w",
        sentinel_password="other",
    )


def test_omitted_parts_have_defaults() -> None:
    assert parse("redis+sentinel://[::1]/main") == SentinelUrl((("::1", 26379),), "main", 0, tls=False)


def test_no_password_is_in_a_representation() -> None:
    assert "s3cret" not in repr(parse("redis+sentinel://:s3cret@h/main?sentinel_password=s3cret2"))


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "unix:///run/redis.sock"])
def test_other_urls_are_not_sentinel_urls(url: str) -> None:
    assert not is_sentinel_url(url)


@pytest.mark.parametrize(
    "rest", ["h", "h/", "/main", "h,/main", "h:0/main", "h:x/main", "h/main/x", "h/main/1/2", "h/main?db=1", "h/main#x"]
)
def test_anything_else_is_refused_with_what_is_expected(rest: str) -> None:
    with pytest.raises(ValueError, match=r"^expected redis\+sentinel://"):
        parse(f"redis+sentinel://{rest}")
