"""The operators' side of PostgreSQL: migrations, roles, tenants and keys, reports, retention, the audit chain."""
