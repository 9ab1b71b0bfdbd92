-- The rows of one INSERT form a link. Its digest covers the rows, and its hash covers the digest and the previous hash.
-- Changing, removing or inserting a row or a link therefore invalidates all later hashes.
CREATE TABLE gateway.audit_chain (
    link       bigint PRIMARY KEY,
    rows       bigint NOT NULL CHECK (rows > 0),
    first_ts   timestamptz NOT NULL,
    last_ts    timestamptz NOT NULL,
    digest     bytea NOT NULL,
    previous   bytea NOT NULL,
    hash       bytea NOT NULL,
    chained_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE gateway.audit_chain IS 'The audit chain, made by triggers of audit_log. Retention takes links away whose rows are all gone.';
COMMENT ON COLUMN gateway.audit_chain.hash IS 'SHA-256 of previous, digest and the number of the link; previous is the hash of the link before, empty for the first.';

ALTER TABLE gateway.audit_log ADD COLUMN link bigint;
CREATE INDEX audit_log_link ON gateway.audit_log (link);
COMMENT ON COLUMN gateway.audit_log.link IS 'The row''s link in audit_chain; null for rows from before there was a chain.';

-- Returns the count, the time range and the digest of the rows that a link has now. The digest is the SHA-256 of their
-- texts in order, one line each. It does not cover columns that a later revision adds.
CREATE FUNCTION gateway.audit_digest(number bigint)
    RETURNS TABLE (rows bigint, first_ts timestamptz, last_ts timestamptz, digest bytea) LANGUAGE sql STABLE AS $$
    SELECT count(*), min(ts), max(ts), sha256(convert_to(string_agg(ROW(
        request_id, extract(epoch FROM ts), tenant_id, tenant, key_id, key_prefix, client_ip, method, path, surface, model,
        backend, status, code, outcome, stream, input_tokens, output_tokens, usage_source, reserved_tokens, ttft_ms,
        duration_ms, request_bytes, response_bytes, user_agent
    )::text, E'\n' ORDER BY request_id, ts), 'UTF8'))
    FROM gateway.audit_log WHERE link = number
$$;

-- Links are created one at a time: an inserting transaction holds the lock until it ends.
CREATE FUNCTION gateway.begin_audit_link() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('gateway.audit_chain', 0));
    PERFORM set_config('gateway.audit_link', (coalesce(max(link), 0) + 1)::text, true) FROM gateway.audit_chain;
    RETURN NULL;
END $$;

-- A row that already has a link is being moved by ensure_audit_partitions.
CREATE FUNCTION gateway.join_audit_link() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.link := coalesce(NEW.link, current_setting('gateway.audit_link')::bigint);
    RETURN NEW;
END $$;

CREATE FUNCTION gateway.end_audit_link() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    number bigint := current_setting('gateway.audit_link');
    before bytea := coalesce((SELECT hash FROM gateway.audit_chain ORDER BY link DESC LIMIT 1), '');
BEGIN
    INSERT INTO gateway.audit_chain (link, rows, first_ts, last_ts, digest, previous, hash)
        SELECT number, d.rows, d.first_ts, d.last_ts, d.digest, before, sha256(before || d.digest || int8send(number))
        FROM gateway.audit_digest(number) d WHERE d.rows > 0;
    RETURN NULL;
END $$;

CREATE TRIGGER audit_log_begin_link BEFORE INSERT ON gateway.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.begin_audit_link();
CREATE TRIGGER audit_log_join_link BEFORE INSERT ON gateway.audit_log
    FOR EACH ROW EXECUTE FUNCTION gateway.join_audit_link();
CREATE TRIGGER audit_log_end_link AFTER INSERT ON gateway.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.end_audit_link();

-- Deletes the links that have no rows any more, and returns how many.
CREATE FUNCTION gateway.prune_audit_chain(kept_since timestamptz) RETURNS bigint LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM gateway.audit_chain c
        WHERE last_ts < kept_since AND NOT EXISTS (SELECT FROM gateway.audit_log a WHERE a.link = c.link)
        RETURNING 1
    )
    SELECT count(*) FROM gone
$$;
