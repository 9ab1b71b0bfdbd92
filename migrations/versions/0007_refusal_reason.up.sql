ALTER TABLE gateway.audit_log ADD COLUMN reason text;
COMMENT ON COLUMN gateway.audit_log.reason IS 'Why a key was refused; only operators see it.';
COMMENT ON COLUMN gateway.audit_log.tenant IS 'The name the tenant had then; null when no secret matched.';
COMMENT ON COLUMN gateway.audit_log.key_prefix IS 'Of the key; without a tenant, as it was presented.';

-- The digest of a row without a reason does not change, so existing links stay valid.
CREATE OR REPLACE FUNCTION gateway.audit_digest(from_seq bigint, until_seq bigint, from_ts timestamptz, until_ts timestamptz)
    RETURNS TABLE (rows bigint, digest bytea) LANGUAGE sql STABLE AS $$
    SELECT count(*), sha256(string_agg(sha256(convert_to(ROW(
        seq, request_id, extract(epoch FROM ts), tenant_id, tenant, key_id, key_prefix, client_ip, method, path, surface,
        model, backend, status, code, outcome, stream, input_tokens, output_tokens, usage_source, reserved_tokens, ttft_ms,
        duration_ms, request_bytes, response_bytes, user_agent
    )::text || coalesce(E'\n' || reason, ''), 'UTF8')), '' ORDER BY seq, request_id COLLATE "C", ts))
    FROM gateway.audit_log WHERE seq BETWEEN from_seq AND until_seq AND ts BETWEEN from_ts AND until_ts
$$;
