-- Appends insert rows and do no work for the chain. A later step seals the rows of finished transactions into links, in
-- the order of `seq`.
DROP TRIGGER audit_log_begin_link ON gateway.audit_log;
DROP TRIGGER audit_log_join_link ON gateway.audit_log;
DROP TRIGGER audit_log_end_link ON gateway.audit_log;
DROP FUNCTION gateway.begin_audit_link(), gateway.join_audit_link(), gateway.end_audit_link(),
    gateway.prune_audit_chain(timestamptz), gateway.audit_digest(bigint);
DROP TABLE gateway.audit_chain;

-- CASE fixes the order of evaluation: a transaction has its id before it takes a number. The step that seals depends on
-- this. Existing rows get a number too and are sealed like new ones.
CREATE SEQUENCE gateway.audit_log_seq;
ALTER TABLE gateway.audit_log
    DROP COLUMN link,
    ADD COLUMN seq bigint NOT NULL
        DEFAULT CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('gateway.audit_log_seq') END;
ALTER SEQUENCE gateway.audit_log_seq OWNED BY gateway.audit_log.seq;
CREATE INDEX audit_log_seq_ts ON gateway.audit_log (seq, ts);
COMMENT ON COLUMN gateway.audit_log.seq IS 'The position of the row in the audit chain. Numbers may be missing.';
COMMENT ON COLUMN gateway.api_keys.last_used_at IS 'Written at most once a minute per key.';

CREATE TABLE gateway.audit_chain (
    link       bigint PRIMARY KEY,
    first_seq  bigint NOT NULL,
    last_seq   bigint NOT NULL CHECK (last_seq >= first_seq),
    first_ts   timestamptz NOT NULL,
    last_ts    timestamptz NOT NULL,
    rows       bigint NOT NULL CHECK (rows > 0),
    rows_total bigint NOT NULL,
    sealed_at  timestamptz NOT NULL,
    digest     bytea NOT NULL,
    previous   bytea NOT NULL,
    hash       bytea NOT NULL
);
COMMENT ON TABLE gateway.audit_chain IS 'The audit chain. A link seals the rows from first_seq to last_seq. Retention deletes the oldest links when none of their rows are left.';
COMMENT ON COLUMN gateway.audit_chain.first_seq IS 'One more than last_seq of the previous link; 1 for the first link.';
COMMENT ON COLUMN gateway.audit_chain.rows_total IS 'The rows of this link and of all links before it.';
COMMENT ON COLUMN gateway.audit_chain.digest IS 'SHA-256 of the SHA-256 of each row, in the order of seq.';
COMMENT ON COLUMN gateway.audit_chain.hash IS 'SHA-256 of the other columns, one per line; previous is the hash of the link before, empty for the first.';

-- Returns the count and the digest of the rows with these numbers and times. The times prune partitions. The digest does
-- not cover columns that a later revision adds.
CREATE FUNCTION gateway.audit_digest(from_seq bigint, until_seq bigint, from_ts timestamptz, until_ts timestamptz)
    RETURNS TABLE (rows bigint, digest bytea) LANGUAGE sql STABLE AS $$
    SELECT count(*), sha256(string_agg(sha256(convert_to(ROW(
        seq, request_id, extract(epoch FROM ts), tenant_id, tenant, key_id, key_prefix, client_ip, method, path, surface,
        model, backend, status, code, outcome, stream, input_tokens, output_tokens, usage_source, reserved_tokens, ttft_ms,
        duration_ms, request_bytes, response_bytes, user_agent
    )::text, 'UTF8')), '' ORDER BY seq, request_id COLLATE "C", ts))
    FROM gateway.audit_log WHERE seq BETWEEN from_seq AND until_seq AND ts BETWEEN from_ts AND until_ts
$$;

-- Seals the next rows up to the number `until_seq` into one link of at most `rows_max` rows, and returns how many it
-- sealed. Returns null while a transaction with an id below `horizon` runs. The caller reads `until_seq` from the sequence
-- first and takes `horizon` as a new id afterwards, so every row up to `until_seq` has an id below `horizon`: when these
-- transactions have ended, no such row can appear any more.
--
-- Returns 0 without a new row, while another process seals, and within `pause` of the last link unless `rows_max` rows
-- may wait.
CREATE FUNCTION gateway.seal_audit_log(until_seq bigint, horizon xid8, rows_max integer, pause interval)
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

-- Deletes the oldest links that end before `kept_since` and have no rows any more, and returns how many. The last link
-- stays, because the next one continues it.
CREATE FUNCTION gateway.prune_audit_chain(kept_since timestamptz) RETURNS bigint LANGUAGE sql AS $$
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
