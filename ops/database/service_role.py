"""The role that authz and meter log in as: PostgreSQL lets it do what the way of a request needs, and nothing else.

Its rights are given anew by each migration, in the same transaction, so they always fit the schema. Partitions of the
audit log have none of their own: PostgreSQL asks about the table that a statement names, and that is the parent.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from sqlalchemy import Connection, text

from gateway.errors import GatewayError
from gateway.ledger.store import COLUMNS

# What PostgreSQL itself takes by default.
_SCRAM_ITERATIONS = 4096

# While workers are replaced, those of the version before log in as the same role: what only they need stays, as in a
# migration, until nothing in use knows it any more.
_GRANTS = (
    "USAGE ON SCHEMA gateway",
    "SELECT ON gateway.tenants, gateway.tenant_limits, gateway.api_keys, gateway.key_limits",
    # A key's hash is made anew when the costs of Argon2id have changed.
    "UPDATE (hash, last_used_at) ON gateway.api_keys",
    "SELECT (prefix, revoked_at) ON gateway.revocations",
    # Everything but `link`, which a trigger decides. Another reads the rows back, for the digest of their link.
    f"SELECT, INSERT ({', '.join(COLUMNS)}) ON gateway.audit_log",
    "SELECT (link, hash), INSERT (link, rows, first_ts, last_ts, digest, previous, hash) ON gateway.audit_chain",
    "SELECT, INSERT, UPDATE (input_tokens, output_tokens, requests) ON gateway.budget_usage",
    # Of a prompt it may ask whether it is there.
    "SELECT (request_id, ts), INSERT ON gateway.prompt_log",
)


class ServiceRoleRefused(GatewayError):
    """The role of DATABASE_SERVICE_ROLE is not there, or may do more than it needs; nothing was changed."""


def provide(connection: Connection, role: str, password: str | None) -> None:
    """Gives the role its rights and takes all others in our schema, within the transaction of `connection`.

    With a password the role is made if it is not there, and that becomes its password; the login of `connection` needs
    CREATEROLE for that, and else only the tables. Raises ServiceRoleRefused.
    """
    exists = connection.execute(_FIND, {"role": role}).scalar() is True
    if password is not None:
        connection.exec_driver_sql(with_password(role, password, exists=exists))
    elif not exists:
        raise ServiceRoleRefused(
            f"DATABASE_SERVICE_ROLE: there is no role {role}; make it with CREATE ROLE … LOGIN, "
            "or set DATABASE_SERVICE_PASSWORD and it is made"
        )
    if connection.execute(_OPEN_TO_ALL).scalar():
        connection.exec_driver_sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    for statement in statements(role):
        connection.exec_driver_sql(statement)
    if excess := connection.execute(_EXCESS, {"role": role}).scalars().first():
        raise ServiceRoleRefused(f"DATABASE_SERVICE_ROLE: {role} {excess}; take that from it, or name another role")


def statements(role: str) -> list[str]:
    """What the owner of the tables executes to give `role` these rights in our schema and no others. Pure."""
    name = quoted(role)
    everything = ("SCHEMA gateway", *(f"ALL {kind} IN SCHEMA gateway" for kind in ("TABLES", "SEQUENCES", "ROUTINES")))
    return [
        *(f"REVOKE ALL ON {each} FROM {name}" for each in everything),
        *(f"GRANT {each} TO {name}" for each in _GRANTS),
    ]


def with_password(role: str, password: str, *, exists: bool) -> str:
    """The statement that makes a role which can log in with a password, or changes one that `exists`. Pure."""
    return f"{'ALTER' if exists else 'CREATE'} ROLE {quoted(role)} LOGIN PASSWORD '{scram_verifier(password)}'"


def quoted(name: str) -> str:
    """The name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def scram_verifier(password: str) -> str:
    """What PostgreSQL keeps of a password in normal form (RFC 5802); sent instead of it, as statements get logged."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt_64, stored_64, server_64 = (base64.b64encode(each).decode() for each in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{salt_64}${stored_64}:{server_64}"


_FIND = text("SELECT true FROM pg_roles WHERE rolname = :role")

# Databases from before PostgreSQL 15 let every login make tables and functions in this schema.
_OPEN_TO_ALL = text("""
SELECT true FROM pg_namespace WHERE nspname = 'public' AND has_schema_privilege('public', oid, 'CREATE')
    AND pg_has_role(nspowner, 'USAGE')
""")

# What the role may do besides, by itself or through another role or PUBLIC, of which nothing is revoked.
_EXCESS = text("""
SELECT right_name FROM pg_roles r, LATERAL (VALUES
    ('is a superuser', r.rolsuper),
    ('may create roles', r.rolcreaterole),
    ('may create databases', r.rolcreatedb),
    ('may replicate', r.rolreplication),
    ('has the rights of the tables'' owner',
        (SELECT pg_has_role(r.oid, nspowner, 'MEMBER') FROM pg_namespace WHERE nspname = 'gateway')),
    ('may read or write files of the server or run programs there',
        (SELECT bool_or(pg_has_role(r.oid, oid, 'MEMBER')) FROM pg_roles
            WHERE rolname IN ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program'))),
    ('may change the audit log', has_any_column_privilege(r.oid, 'gateway.audit_log', 'UPDATE')
        OR has_table_privilege(r.oid, 'gateway.audit_log', 'DELETE, TRUNCATE')),
    ('may create schemas', has_database_privilege(r.oid, current_database(), 'CREATE'))
) AS found (right_name, has) WHERE rolname = :role AND has
UNION ALL
SELECT format('may create objects in the schema %s', nspname) FROM pg_namespace, pg_roles r
WHERE rolname = :role AND has_schema_privilege(r.oid, pg_namespace.oid, 'CREATE')
""")
