ALTER TABLE gateway.tenant_limits ADD COLUMN weight integer CHECK (weight BETWEEN 1 AND 100);
COMMENT ON COLUMN gateway.tenant_limits.weight IS 'The share of the slots while tenants wait for them; null is 1.';

CREATE TYPE gateway.key_priority AS ENUM ('interactive', 'batch');
ALTER TABLE gateway.api_keys ADD COLUMN priority gateway.key_priority NOT NULL DEFAULT 'interactive';
COMMENT ON COLUMN gateway.api_keys.priority IS 'The class in the queue: interactive requests come before those of batch keys.';

CREATE TRIGGER api_keys_priority_notify AFTER UPDATE OF priority ON gateway.api_keys
    FOR EACH ROW EXECUTE FUNCTION gateway.notify_policy_changed();

ALTER TABLE gateway.audit_log ADD COLUMN queued_ms bigint;
COMMENT ON COLUMN gateway.audit_log.queued_ms IS 'Milliseconds in the queue; null when the request did not wait.';

-- The digest of a row that did not wait does not change, so existing links stay valid.
CREATE OR REPLACE FUNCTION gateway.audit_digest(from_seq bigint, until_seq bigint, from_ts timestamptz, until_ts timestamptz)
    RETURNS TABLE (rows bigint, digest bytea) LANGUAGE sql STABLE AS $$
    SELECT count(*), sha256(string_agg(sha256(convert_to(ROW(
        seq, request_id, extract(epoch FROM ts), tenant_id, tenant, key_id, key_prefix, client_ip, method, path, surface,
        model, backend, status, code, outcome, stream, input_tokens, output_tokens, usage_source, reserved_tokens, ttft_ms,
        duration_ms, request_bytes, response_bytes, user_agent
    )::text || coalesce(E'\n' || reason, '') || coalesce(E'\nqueued ' || queued_ms, ''), 'UTF8')), '' ORDER BY seq, request_id COLLATE "C", ts))
    FROM gateway.audit_log WHERE seq BETWEEN from_seq AND until_seq AND ts BETWEEN from_ts AND until_ts
$$;
