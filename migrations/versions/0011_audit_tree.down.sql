-- Links with a tree cannot be verified without it. A new chain seals all rows from the first one.
DELETE FROM gateway.audit_chain;
CREATE OR REPLACE FUNCTION gateway.audit_digest(from_seq bigint, until_seq bigint, from_ts timestamptz, until_ts timestamptz)
    RETURNS TABLE (rows bigint, digest bytea) LANGUAGE sql STABLE AS $$
    SELECT count(*), sha256(string_agg(sha256(convert_to(ROW(
        seq, request_id, extract(epoch FROM ts), tenant_id, tenant, key_id, key_prefix, client_ip, method, path, surface,
        model, backend, status, code, outcome, stream, input_tokens, output_tokens, usage_source, reserved_tokens, ttft_ms,
        duration_ms, request_bytes, response_bytes, user_agent
    )::text || coalesce(E'\n' || reason, '') || coalesce(E'\nqueued ' || queued_ms, ''), 'UTF8')), '' ORDER BY seq, request_id COLLATE "C", ts))
    FROM gateway.audit_log WHERE seq BETWEEN from_seq AND until_seq AND ts BETWEEN from_ts AND until_ts
$$;

CREATE OR REPLACE FUNCTION gateway.changes_digest(from_seq bigint, until_seq bigint)
    RETURNS TABLE (rows bigint, digest bytea) LANGUAGE sql STABLE AS $$
    SELECT count(*), sha256(string_agg(sha256(convert_to(ROW(
        seq, extract(epoch FROM ts), command, os_user, host, database_role, client_addr, action, relation, row_id, tenant_id,
        tenant, key_prefix, before, after
    )::text, 'UTF8')), '' ORDER BY seq))
    FROM gateway.policy_changes WHERE seq BETWEEN from_seq AND until_seq
$$;

CREATE OR REPLACE FUNCTION gateway.seal_audit_log(until_seq bigint, horizon xid8, rows_max integer, pause interval)
    RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    before gateway.audit_chain;
    after_seq bigint;
    sealed gateway.audit_chain;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('gateway.audit_chain', 0)) THEN
        RETURN 0;
    END IF;
    SELECT * INTO before FROM gateway.audit_chain ORDER BY link DESC LIMIT 1;
    after_seq := coalesce(before.last_seq, 0);
    IF until_seq - after_seq < rows_max AND before.sealed_at > clock_timestamp() - pause THEN
        RETURN 0;
    END IF;
    IF pg_snapshot_xmin(pg_current_snapshot()) < horizon THEN
        RETURN NULL;
    END IF;
    SELECT max(seq), min(ts), max(ts) INTO sealed.last_seq, sealed.first_ts, sealed.last_ts FROM (
        (SELECT seq, ts FROM gateway.audit_log WHERE seq > after_seq AND seq <= until_seq ORDER BY seq LIMIT rows_max)
        UNION ALL
        (SELECT seq, ts FROM gateway.policy_changes WHERE seq > after_seq AND seq <= until_seq ORDER BY seq LIMIT rows_max)
        ORDER BY seq LIMIT rows_max
    ) next;
    IF sealed.last_seq IS NULL THEN
        RETURN 0;
    END IF;
    sealed.link := coalesce(before.link, 0) + 1;
    sealed.first_seq := after_seq + 1;
    sealed.sealed_at := clock_timestamp();
    sealed.previous := coalesce(before.hash, '');
    SELECT d.rows, coalesce(d.digest, '') INTO sealed.rows, sealed.digest
        FROM gateway.audit_digest(sealed.first_seq, sealed.last_seq, sealed.first_ts, sealed.last_ts) d;
    SELECT d.rows, d.digest INTO sealed.changes, sealed.changes_digest
        FROM gateway.changes_digest(sealed.first_seq, sealed.last_seq) d;
    sealed.rows_total := coalesce(before.rows_total, 0) + sealed.rows;
    sealed.hash := sha256(convert_to(concat_ws(E'\n',
        sealed.link, sealed.first_seq, sealed.last_seq, (extract(epoch FROM sealed.first_ts) * 1000000)::bigint,
        (extract(epoch FROM sealed.last_ts) * 1000000)::bigint, sealed.rows, sealed.rows_total,
        (extract(epoch FROM sealed.sealed_at) * 1000000)::bigint, encode(sealed.digest, 'hex'),
        encode(sealed.previous, 'hex'), CASE WHEN sealed.changes > 0 THEN sealed.changes END,
        encode(sealed.changes_digest, 'hex')), 'UTF8'));
    INSERT INTO gateway.audit_chain SELECT sealed.*;
    RETURN sealed.rows + sealed.changes;
END $$;

DROP FUNCTION gateway.audit_leaves(bigint, bigint, timestamptz, timestamptz),
    gateway.audit_texts(bigint, bigint, timestamptz, timestamptz), gateway.changes_texts(bigint, bigint);
DROP TABLE gateway.audit_tree, gateway.audit_checkpoint;
ALTER TABLE gateway.audit_chain DROP COLUMN tree_size, DROP COLUMN tree_peaks;
COMMENT ON COLUMN gateway.audit_chain.hash IS 'SHA-256 of the other columns, one per line, the last two only if there are changes; previous is the hash of the link before, empty for the first.';
