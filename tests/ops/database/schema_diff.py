"""The parts of a schema that a migration removes from code of the previous version.

Pure, except for reading the catalog of PostgreSQL.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg


@dataclass(frozen=True)
class Column:
    """The properties of a column that a statement of an older version depends on."""

    type: str
    nullable: bool
    has_default: bool


@dataclass(frozen=True)
class Constraint:
    """A constraint and the columns it covers."""

    definition: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Schema:
    """Every part of the schema `gateway` that a statement may depend on. `labels` are those of enum types."""

    columns: dict[tuple[str, str], Column]
    constraints: dict[tuple[str, str], Constraint]
    functions: frozenset[str]
    labels: frozenset[tuple[str, str]]


async def read_schema(connection: asyncpg.Connection) -> Schema:
    """Reads the current schema without partitions."""
    columns = await connection.fetch(
        """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) AS type, NOT a.attnotnull AS nullable,
               a.atthasdef OR a.attidentity <> '' AS has_default
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'gateway'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
            AND a.attnum > 0 AND NOT a.attisdropped AND c.relname <> 'alembic_version'
        """
    )
    constraints = await connection.fetch(
        """
        SELECT c.relname, k.conname, pg_get_constraintdef(k.oid) AS definition,
               ARRAY(SELECT attname::text FROM pg_attribute
                   WHERE attrelid = c.oid AND attnum = ANY (k.conkey)) AS columns
        FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
        WHERE c.relnamespace = 'gateway'::regnamespace AND NOT c.relispartition AND k.contype <> 'n'
        """
    )
    functions = await connection.fetch(
        "SELECT oid::regprocedure::text AS name FROM pg_proc WHERE pronamespace = 'gateway'::regnamespace"
    )
    labels = await connection.fetch(
        """
        SELECT t.typname, e.enumlabel FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid
        WHERE t.typnamespace = 'gateway'::regnamespace
        """
    )
    return Schema(
        {(row["relname"], row["attname"]): Column(row["type"], row["nullable"], row["has_default"]) for row in columns},
        {
            (row["relname"], row["conname"]): Constraint(row["definition"], tuple(sorted(row["columns"])))
            for row in constraints
            if row["relname"] != "alembic_version"
        },
        frozenset(row["name"] for row in functions),
        frozenset((row["typname"], row["enumlabel"]) for row in labels),
    )


def contractions(before: Schema, after: Schema) -> set[str]:
    """Returns what breaks statements written for `before` in `after`. A step that only expands returns nothing."""
    found = {f"function {name} was dropped" for name in before.functions - after.functions}
    found |= {f"{kind} lost the label {label}" for kind, label in before.labels - after.labels}
    for (table, name), old in before.columns.items():
        new = after.columns.get((table, name))
        if new is None:
            found.add(f"{table}.{name} was dropped")
        elif new.type != old.type:
            found.add(f"{table}.{name} changed from {old.type} to {new.type}")
        elif (old.nullable or old.has_default) and not (new.nullable or new.has_default):
            found.add(f"{table}.{name} requires a value")
    tables = {table for table, _ in before.columns}
    for (table, name), added in after.columns.items():
        if table in tables and (table, name) not in before.columns and not (added.nullable or added.has_default):
            found.add(f"{table}.{name} requires a value")
    for (table, name), constraint in after.constraints.items():
        # A constraint on a column that only the new version fills does not affect the old one.
        is_old = all((table, column) in before.columns for column in constraint.columns)
        if is_old and before.constraints.get((table, name)) != constraint:
            found.add(f"{table} has the new constraint {name}")
    return found
