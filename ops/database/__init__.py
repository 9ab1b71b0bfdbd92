"""PostgreSQL as operators use it: migrations, roles, tenants and keys, reports, retention, the audit chain."""
