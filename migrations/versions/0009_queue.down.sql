-- The digests of rows that waited cannot be computed without the column. A new chain seals all rows from the first one.
DELETE FROM gateway.audit_chain;
CREATE OR REPLACE FUNCTION gateway.audit_digest(from_seq bigint, until_seq bigint, from_ts timestamptz, until_ts timestamptz)
    RETURNS TABLE (rows bigint, digest bytea) LANGUAGE sql STABLE AS $$
    SELECT count(*), sha256(string_agg(sha256(convert_to(ROW(
        seq, request_id, extract(epoch FROM ts), tenant_id, tenant, key_id, key_prefix, client_ip, method, path, surface,
        model, backend, status, code, outcome, stream, input_tokens, output_tokens, usage_source, reserved_tokens, ttft_ms,
        duration_ms, request_bytes, response_bytes, user_agent
    )::text || coalesce(E'\n' || reason, ''), 'UTF8')), '' ORDER BY seq, request_id COLLATE "C", ts))
    FROM gateway.audit_log WHERE seq BETWEEN from_seq AND until_seq AND ts BETWEEN from_ts AND until_ts
$$;
ALTER TABLE gateway.audit_log DROP COLUMN queued_ms;
DROP TRIGGER api_keys_priority_notify ON gateway.api_keys;
ALTER TABLE gateway.api_keys DROP COLUMN priority;
DROP TYPE gateway.key_priority;
ALTER TABLE gateway.tenant_limits DROP COLUMN weight;
