"""The role that authz and meter log in as. It has the privileges that serving requests needs, and no others.

Each migration grants its privileges again, in the same transaction, so they always match the schema. Partitions of the
audit log need no grants: PostgreSQL checks the table that a statement names, which is the parent.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from gateway.errors import GatewayError
from gateway.ledger.store import COLUMNS
from ops.database.role_password import quoted, with_password

# During a rolling upgrade, workers of the previous version log in as the same role. A privilege that only they need
# stays until no supported version uses it, like a column in a migration.
_GRANTS = (
    "USAGE ON SCHEMA gateway",
    "SELECT ON gateway.tenants, gateway.tenant_limits, gateway.api_keys, gateway.key_limits",
    "SELECT (account_id, public_key) ON gateway.identities",
    # authz hashes a key again when the cost parameters of Argon2id have changed.
    "UPDATE (hash, last_used_at) ON gateway.api_keys",
    "SELECT (prefix, revoked_at) ON gateway.revocations",
    # Every column but `seq`, whose default takes the next number of the sequence.
    f"SELECT, INSERT ({', '.join(COLUMNS)}) ON gateway.audit_log",
    "USAGE ON SEQUENCE gateway.audit_log_seq",
    "SELECT (request_id), INSERT (request_id, reason, entry) ON gateway.ledger_rejects",
    "SELECT, INSERT, UPDATE (input_tokens, output_tokens, requests) ON gateway.budget_usage",
    # It may check that a prompt is stored, but not read it.
    "SELECT (request_id, ts), INSERT ON gateway.prompt_log",
)


class ServiceRoleRefused(GatewayError):
    """The role of DATABASE_SERVICE_ROLE does not exist or has excess privileges. The database is unchanged."""


def provide(connection: Connection, role: str, password: str | None) -> None:
    """Grants the role its privileges and revokes all others in our schema, in the transaction of `connection`.

    With a password, the role is created if it does not exist, and gets that password; the login of `connection` needs
    CREATEROLE for this. Otherwise owning the tables is enough. Raises ServiceRoleRefused.
    """
    exists = connection.execute(_ROLE_EXISTS, {"role": role}).scalar() is True
    if password is not None:
        connection.exec_driver_sql(with_password(role, password, exists=exists))
    elif not exists:
        raise ServiceRoleRefused(
            f"DATABASE_SERVICE_ROLE: there is no role {role}; create it with CREATE ROLE … LOGIN, "
            "or set DATABASE_SERVICE_PASSWORD to have it created"
        )
    if connection.execute(_PUBLIC_SCHEMA_IS_OPEN).scalar():
        connection.exec_driver_sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    for statement in statements(role):
        connection.exec_driver_sql(statement)
    if excess := connection.execute(_EXCESS, {"role": role}).scalars().first():
        raise ServiceRoleRefused(f"DATABASE_SERVICE_ROLE: {role} {excess}; revoke that, or name another role")


def statements(role: str) -> list[str]:
    """Returns the statements that leave `role` with exactly these privileges in our schema. Pure.

    The owner of the tables executes them.
    """
    name = quoted(role)
    everything = ("SCHEMA gateway", *(f"ALL {kind} IN SCHEMA gateway" for kind in ("TABLES", "SEQUENCES", "ROUTINES")))
    return [
        *(f"REVOKE ALL ON {each} FROM {name}" for each in everything),
        *(f"GRANT {each} TO {name}" for each in _GRANTS),
    ]


_ROLE_EXISTS = text("SELECT true FROM pg_roles WHERE rolname = :role")

# In databases created before PostgreSQL 15 every login may create tables and functions in the schema `public`.
_PUBLIC_SCHEMA_IS_OPEN = text("""
SELECT true FROM pg_namespace WHERE nspname = 'public' AND has_schema_privilege('public', oid, 'CREATE')
    AND pg_has_role(nspowner, 'USAGE')
""")

# Excess privileges of the role itself or inherited from another role or PUBLIC; the statements above revoke none of
# these.
_EXCESS = text("""
SELECT right_name FROM pg_roles r, LATERAL (VALUES
    ('is a superuser', r.rolsuper),
    ('may create roles', r.rolcreaterole),
    ('may create databases', r.rolcreatedb),
    ('may replicate', r.rolreplication),
    ('has the privileges of the tables'' owner',
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
