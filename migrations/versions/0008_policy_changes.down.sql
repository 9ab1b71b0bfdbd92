DROP TRIGGER tenants_record ON gateway.tenants;
DROP TRIGGER tenants_record_truncate ON gateway.tenants;
DROP TRIGGER tenant_limits_record ON gateway.tenant_limits;
DROP TRIGGER tenant_limits_record_truncate ON gateway.tenant_limits;
DROP TRIGGER api_keys_record ON gateway.api_keys;
DROP TRIGGER api_keys_record_truncate ON gateway.api_keys;
DROP TRIGGER key_limits_record ON gateway.key_limits;
DROP TRIGGER key_limits_record_truncate ON gateway.key_limits;
-- Links with changes cannot be verified without them. A new chain seals all audit rows from the first one.
DELETE FROM gateway.audit_chain;
DROP FUNCTION gateway.unrecorded_changes();
DROP TABLE gateway.policy_changes;
DROP FUNCTION gateway.record_policy_change(), gateway.recorded_columns(jsonb), gateway.changes_digest(bigint, bigint);
ALTER TABLE gateway.audit_chain
    DROP COLUMN changes,
    DROP COLUMN changes_digest,
    ADD CHECK (rows > 0);
COMMENT ON COLUMN gateway.audit_chain.digest IS 'SHA-256 of the SHA-256 of each row, in the order of seq.';
COMMENT ON COLUMN gateway.audit_chain.hash IS 'SHA-256 of the other columns, one per line; previous is the hash of the link before, empty for the first.';

CREATE OR REPLACE FUNCTION gateway.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'gateway.audit_log is append-only' USING ERRCODE = 'insufficient_privilege';
END $$;
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
        SELECT seq, ts FROM gateway.audit_log WHERE seq > after_seq AND seq <= until_seq ORDER BY seq LIMIT rows_max
    ) next;
    IF sealed.last_seq IS NULL THEN
        RETURN 0;
    END IF;
    sealed.link := coalesce(before.link, 0) + 1;
    sealed.first_seq := after_seq + 1;
    sealed.sealed_at := clock_timestamp();
    sealed.previous := coalesce(before.hash, '');
    SELECT d.rows, d.digest INTO sealed.rows, sealed.digest
        FROM gateway.audit_digest(sealed.first_seq, sealed.last_seq, sealed.first_ts, sealed.last_ts) d;
    sealed.rows_total := coalesce(before.rows_total, 0) + sealed.rows;
    sealed.hash := sha256(convert_to(concat_ws(E'\n',
        sealed.link, sealed.first_seq, sealed.last_seq, (extract(epoch FROM sealed.first_ts) * 1000000)::bigint,
        (extract(epoch FROM sealed.last_ts) * 1000000)::bigint, sealed.rows, sealed.rows_total,
        (extract(epoch FROM sealed.sealed_at) * 1000000)::bigint, encode(sealed.digest, 'hex'),
        encode(sealed.previous, 'hex')), 'UTF8'));
    INSERT INTO gateway.audit_chain SELECT sealed.*;
    RETURN sealed.rows;
END $$;
CREATE OR REPLACE FUNCTION gateway.prune_audit_chain(kept_since timestamptz) RETURNS bigint LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM gateway.audit_chain WHERE link < (
            SELECT coalesce(
                min(c.link) FILTER (WHERE c.last_ts >= kept_since OR EXISTS (
                    SELECT FROM gateway.audit_log a
                    WHERE a.seq BETWEEN c.first_seq AND c.last_seq AND a.ts BETWEEN c.first_ts AND c.last_ts)),
                max(c.link))
            FROM gateway.audit_chain c)
        RETURNING 1
    )
    SELECT count(*) FROM gone
$$;
