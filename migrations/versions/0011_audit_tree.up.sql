-- A Merkle tree (RFC 9162 section 2.1) over all sealed rows, those of audit_log and policy_changes together, in the order of
-- `seq`. A leaf is the text of a row that the digests of the chain cover. The tree begins with the first link after this
-- revision; the links before it have none.
ALTER TABLE gateway.audit_chain ADD COLUMN tree_size bigint, ADD COLUMN tree_peaks bytea;
COMMENT ON COLUMN gateway.audit_chain.tree_size IS 'The leaves of the Merkle tree after this link; null for links before there was a tree.';
COMMENT ON COLUMN gateway.audit_chain.tree_peaks IS 'The roots of the perfect subtrees of the tree after this link, the largest first, 32 bytes each.';
COMMENT ON COLUMN gateway.audit_chain.hash IS 'SHA-256 of the other columns, one per line, those of changes only if there are any, and those of the tree only if it has one; previous is the hash of the link before, empty for the first.';

CREATE TABLE gateway.audit_tree (
    index bigint PRIMARY KEY,
    hash  bytea NOT NULL
);
COMMENT ON TABLE gateway.audit_tree IS 'The nodes of the Merkle tree over 256 leaves each, from index * 256. Retention does not remove them.';

CREATE TABLE gateway.audit_checkpoint (
    singleton     boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    made_at       timestamptz,
    note          text,
    claimed_until timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO gateway.audit_checkpoint DEFAULT VALUES;
COMMENT ON TABLE gateway.audit_checkpoint IS 'A copy of the last signed checkpoint. A process of control claims it while it delivers the next one.';

-- The texts that the chain covers, of the rows with these numbers and times. A later revision that adds a column to the text
-- leaves the texts of rows without a value of it as they are.
CREATE FUNCTION gateway.audit_texts(from_seq bigint, until_seq bigint, from_ts timestamptz, until_ts timestamptz)
    RETURNS TABLE (seq bigint, request_id text, ts timestamptz, content text) LANGUAGE sql STABLE AS $$
    SELECT a.seq, a.request_id, a.ts, ROW(
        seq, request_id, extract(epoch FROM ts), tenant_id, tenant, key_id, key_prefix, client_ip, method, path, surface,
        model, backend, status, code, outcome, stream, input_tokens, output_tokens, usage_source, reserved_tokens, ttft_ms,
        duration_ms, request_bytes, response_bytes, user_agent
    )::text || coalesce(E'\n' || reason, '') || coalesce(E'\nqueued ' || queued_ms, '')
    FROM gateway.audit_log a WHERE seq BETWEEN from_seq AND until_seq AND ts BETWEEN from_ts AND until_ts
$$;

CREATE FUNCTION gateway.changes_texts(from_seq bigint, until_seq bigint)
    RETURNS TABLE (seq bigint, content text) LANGUAGE sql STABLE AS $$
    SELECT c.seq, ROW(
        seq, extract(epoch FROM ts), command, os_user, host, database_role, client_addr, action, relation, row_id, tenant_id,
        tenant, key_prefix, before, after
    )::text
    FROM gateway.policy_changes c WHERE seq BETWEEN from_seq AND until_seq
$$;

CREATE OR REPLACE FUNCTION gateway.audit_digest(from_seq bigint, until_seq bigint, from_ts timestamptz, until_ts timestamptz)
    RETURNS TABLE (rows bigint, digest bytea) LANGUAGE sql STABLE AS $$
    SELECT count(*), sha256(string_agg(sha256(convert_to(content, 'UTF8')), '' ORDER BY seq, request_id COLLATE "C", ts))
    FROM gateway.audit_texts(from_seq, until_seq, from_ts, until_ts)
$$;

CREATE OR REPLACE FUNCTION gateway.changes_digest(from_seq bigint, until_seq bigint)
    RETURNS TABLE (rows bigint, digest bytea) LANGUAGE sql STABLE AS $$
    SELECT count(*), sha256(string_agg(sha256(convert_to(content, 'UTF8')), '' ORDER BY seq))
    FROM gateway.changes_texts(from_seq, until_seq)
$$;

CREATE FUNCTION gateway.audit_leaves(from_seq bigint, until_seq bigint, from_ts timestamptz, until_ts timestamptz)
    RETURNS bytea[] LANGUAGE sql STABLE AS $$
    SELECT array_agg(sha256('\x00'::bytea || convert_to(content, 'UTF8')) ORDER BY seq) FROM (
        SELECT seq, content FROM gateway.audit_texts(from_seq, until_seq, from_ts, until_ts)
        UNION ALL
        SELECT seq, content FROM gateway.changes_texts(from_seq, until_seq)
    ) texts
$$;

CREATE OR REPLACE FUNCTION gateway.seal_audit_log(until_seq bigint, horizon xid8, rows_max integer, pause interval)
    RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    before gateway.audit_chain;
    after_seq bigint;
    sealed gateway.audit_chain;
    leaf bytea;
    node bytea;
    level integer;
    peaks bytea[];
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
    -- A compact range: slot n + 1 of `peaks` has the perfect subtree of 2^n rows that bit n of the size stands for.
    sealed.tree_size := coalesce(before.tree_size, 0);
    IF sealed.tree_size = 0 THEN
        DELETE FROM gateway.audit_tree;
    END IF;
    FOR n IN 0..62 LOOP
        IF sealed.tree_size >> n & 1 = 1 THEN
            peaks[n + 1] := substring(before.tree_peaks FROM 32 * bit_count((sealed.tree_size >> n + 1)::bit(64))::integer + 1 FOR 32);
        END IF;
    END LOOP;
    FOREACH leaf IN ARRAY
        gateway.audit_leaves(sealed.first_seq, sealed.last_seq, sealed.first_ts, sealed.last_ts)
    LOOP
        node := leaf;
        level := 0;
        WHILE sealed.tree_size >> level & 1 = 1 LOOP
            level := level + 1;
            node := sha256('\x01'::bytea || peaks[level] || node);
            IF level = 8 THEN
                INSERT INTO gateway.audit_tree VALUES (sealed.tree_size >> 8, node);
            END IF;
        END LOOP;
        peaks[level + 1] := node;
        sealed.tree_size := sealed.tree_size + 1;
    END LOOP;
    sealed.tree_peaks := '';
    FOR n IN REVERSE 62..0 LOOP
        IF sealed.tree_size >> n & 1 = 1 THEN
            sealed.tree_peaks := sealed.tree_peaks || peaks[n + 1];
        END IF;
    END LOOP;
    sealed.hash := sha256(convert_to(concat_ws(E'\n',
        sealed.link, sealed.first_seq, sealed.last_seq, (extract(epoch FROM sealed.first_ts) * 1000000)::bigint,
        (extract(epoch FROM sealed.last_ts) * 1000000)::bigint, sealed.rows, sealed.rows_total,
        (extract(epoch FROM sealed.sealed_at) * 1000000)::bigint, encode(sealed.digest, 'hex'),
        encode(sealed.previous, 'hex'), CASE WHEN sealed.changes > 0 THEN sealed.changes END,
        encode(sealed.changes_digest, 'hex'), sealed.tree_size, encode(sealed.tree_peaks, 'hex')), 'UTF8'));
    INSERT INTO gateway.audit_chain SELECT sealed.*;
    RETURN sealed.rows + sealed.changes;
END $$;
