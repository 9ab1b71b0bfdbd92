"""The parameters of a PostgreSQL URL. Pure.

Providers print URLs for libpq. asyncpg sends a parameter that it does not know to the server as a run-time setting,
which the server refuses with an unspecific error.
Source: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

EXPECTED = "expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE"

# Those that asyncpg interprets, and the run-time settings that libpq has parameters for.
_SUPPORTED = frozenset(
    "dbname gsslib host krbsrvname options passfile password port service sslcert sslcrl sslkey sslmode sslnegotiation "
    "sslpassword sslrootcert ssl_max_protocol_version ssl_min_protocol_version target_session_attrs user".split()
)
# Those that change nothing here: every step has the deadline of DATABASE_TIMEOUT_S, which also finds dead connections.
_IGNORED = frozenset(
    "application_name client_encoding connect_timeout fallback_application_name keepalives keepalives_count "
    "keepalives_idle keepalives_interval load_balance_hosts sslcompression sslsni tcp_user_timeout".split()
)
# Those that change nothing if their value leaves libpq the choice.
_OPTIONAL = {"channel_binding": ("prefer", "disable"), "gssencmode": ("prefer", "disable")}


def supported(url: str) -> str:
    """`url` without the parameters that have no effect.

    Raises ValueError, whose message repeats no part of `url` but the name of a parameter, for an unknown parameter and
    for a text that is no URL.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # Its message may repeat the password.
        raise ValueError(EXPECTED) from None
    if not parts.query:
        return url
    kept = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in _SUPPORTED:
            kept.append((name, value))
        elif name in _OPTIONAL and value not in _OPTIONAL[name]:
            raise ValueError(f"the parameter {name} may only be {' or '.join(_OPTIONAL[name])}")
        elif name not in _IGNORED and name not in _OPTIONAL:
            raise ValueError(f"the parameter {name[:40]!r} is not one of libpq; remove it{_REMEDIES.get(name, '')}")
    return urlunsplit(parts._replace(query=urlencode(kept)))


_REMEDIES = {"pgbouncer": " and set DATABASE_STATEMENT_CACHE_SIZE=0"}
