DROP TABLE gateway.audit_log, gateway.prompt_log, gateway.revocations, gateway.budget_usage, gateway.key_limits,
    gateway.api_keys, gateway.tenant_limits, gateway.tenants;
DROP FUNCTION gateway.ensure_audit_partitions(integer), gateway.drop_audit_partitions(timestamptz),
    gateway.refuse_change(), gateway.complete_revocation(), gateway.notify_key_revoked(),
    gateway.notify_policy_changed();
DROP TYPE gateway.tenant_status, gateway.key_status, gateway.budget_subject, gateway.budget_period,
    gateway.outcome, gateway.usage_source;
