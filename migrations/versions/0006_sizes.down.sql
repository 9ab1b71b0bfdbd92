ALTER TABLE gateway.tenant_limits DROP COLUMN max_output, DROP COLUMN max_body;
ALTER TABLE gateway.key_limits DROP COLUMN max_output, DROP COLUMN max_body;
