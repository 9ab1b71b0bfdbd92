-- Rows are written by triggers alone, so a change by SQL leaves one too. A command states what it is with the settings
-- `gateway.command`, `gateway.os_user` and `gateway.host` of its transaction.
CREATE TABLE gateway.policy_changes (
    seq           bigint PRIMARY KEY
                  DEFAULT CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('gateway.audit_log_seq') END,
    ts            timestamptz NOT NULL DEFAULT clock_timestamp(),
    command       text,
    os_user       text,
    host          text,
    database_role text NOT NULL,
    client_addr   inet,
    action        text NOT NULL CHECK (action IN ('insert', 'update', 'delete', 'truncate', 'baseline')),
    relation      text NOT NULL,
    row_id        bigint,
    tenant_id     bigint,
    tenant        text,
    key_prefix    text,
    before        jsonb,
    after         jsonb
);
CREATE INDEX policy_changes_row ON gateway.policy_changes (relation, row_id, seq);
CREATE INDEX policy_changes_ts ON gateway.policy_changes (ts);
COMMENT ON TABLE gateway.policy_changes IS 'Every change of a tenant, a key, or a policy. Append-only, never pruned, sealed by the audit chain. Never holds a secret or a hash.';
COMMENT ON COLUMN gateway.policy_changes.seq IS 'The position in the audit chain, from the same sequence as audit_log.seq.';
COMMENT ON COLUMN gateway.policy_changes.command IS 'The command of the gateway; null when the change was made by SQL.';
COMMENT ON COLUMN gateway.policy_changes.database_role IS 'The login, before any SET ROLE.';
COMMENT ON COLUMN gateway.policy_changes.action IS 'baseline: the row existed when this table was created.';
COMMENT ON COLUMN gateway.policy_changes.row_id IS 'tenants.id, tenant_limits.tenant_id, api_keys.id or key_limits.key_id.';
COMMENT ON COLUMN gateway.policy_changes.before IS 'The whole row without hash and last_used_at. A changed hash is the member secret_changed of after.';

-- Columns that are not recorded: a secret, and a time that is no policy.
CREATE FUNCTION gateway.recorded_columns(changed jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT changed - 'hash' - 'last_used_at'
$$;

-- It belongs to the owner of the tables, so that a role which may change a policy cannot write, change or omit its row.
-- JSON has times in the zone of the session, which is fixed so that equal rows are equal texts.
CREATE FUNCTION gateway.record_policy_change() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    change gateway.policy_changes;
    changed jsonb;
    known record;
BEGIN
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        change.before := gateway.recorded_columns(to_jsonb(OLD));
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        change.after := gateway.recorded_columns(to_jsonb(NEW));
    END IF;
    IF TG_OP = 'UPDATE' AND to_jsonb(OLD) ->> 'hash' IS DISTINCT FROM to_jsonb(NEW) ->> 'hash' THEN
        change.after := change.after || '{"secret_changed": true}';
    END IF;
    IF TG_OP = 'UPDATE' AND change.before = change.after THEN
        RETURN NULL;
    END IF;
    changed := coalesce(change.after, change.before);
    change.row_id := coalesce(changed ->> 'id', changed ->> 'key_id', changed ->> 'tenant_id')::bigint;
    change.key_prefix := changed ->> 'prefix';
    change.tenant_id := CASE TG_TABLE_NAME WHEN 'tenants' THEN changed ->> 'id' ELSE changed ->> 'tenant_id' END;
    IF TG_TABLE_NAME = 'key_limits' THEN
        -- The key of a deleted row may be deleted too, and then its last change names it.
        SELECT c.tenant_id, c.key_prefix INTO known FROM gateway.policy_changes c
            WHERE c.relation = 'api_keys' AND c.row_id = change.row_id ORDER BY c.seq DESC LIMIT 1;
        change.tenant_id := known.tenant_id;
        change.key_prefix := known.key_prefix;
    END IF;
    change.tenant := coalesce(
        CASE TG_TABLE_NAME WHEN 'tenants' THEN changed ->> 'name' END,
        (SELECT t.name FROM gateway.tenants t WHERE t.id = change.tenant_id),
        (SELECT c.tenant FROM gateway.policy_changes c
            WHERE c.relation = 'tenants' AND c.row_id = change.tenant_id ORDER BY c.seq DESC LIMIT 1));
    INSERT INTO gateway.policy_changes (command, os_user, host, database_role, client_addr, action, relation, row_id,
        tenant_id, tenant, key_prefix, before, after)
    VALUES (nullif(current_setting('gateway.command', true), ''), nullif(current_setting('gateway.os_user', true), ''),
        nullif(current_setting('gateway.host', true), ''), session_user, inet_client_addr(), lower(TG_OP), TG_TABLE_NAME,
        change.row_id, change.tenant_id, change.tenant, change.key_prefix, change.before, change.after);
    RETURN NULL;
END $$;

-- One function for all: an existing row of the audit log and of the changes.
CREATE OR REPLACE FUNCTION gateway.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'gateway.% is append-only', CASE TG_TABLE_NAME WHEN 'policy_changes' THEN 'policy_changes'
        ELSE 'audit_log' END USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER policy_changes_append_only BEFORE UPDATE OR DELETE ON gateway.policy_changes
    FOR EACH ROW EXECUTE FUNCTION gateway.refuse_change();
CREATE TRIGGER policy_changes_no_truncate BEFORE TRUNCATE ON gateway.policy_changes
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.refuse_change();

CREATE TRIGGER tenants_record AFTER INSERT OR UPDATE OR DELETE ON gateway.tenants
    FOR EACH ROW EXECUTE FUNCTION gateway.record_policy_change();
CREATE TRIGGER tenants_record_truncate AFTER TRUNCATE ON gateway.tenants
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.record_policy_change();
CREATE TRIGGER tenant_limits_record AFTER INSERT OR UPDATE OR DELETE ON gateway.tenant_limits
    FOR EACH ROW EXECUTE FUNCTION gateway.record_policy_change();
CREATE TRIGGER tenant_limits_record_truncate AFTER TRUNCATE ON gateway.tenant_limits
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.record_policy_change();
CREATE TRIGGER api_keys_record AFTER INSERT OR UPDATE OR DELETE ON gateway.api_keys
    FOR EACH ROW EXECUTE FUNCTION gateway.record_policy_change();
CREATE TRIGGER api_keys_record_truncate AFTER TRUNCATE ON gateway.api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.record_policy_change();
CREATE TRIGGER key_limits_record AFTER INSERT OR UPDATE OR DELETE ON gateway.key_limits
    FOR EACH ROW EXECUTE FUNCTION gateway.record_policy_change();
CREATE TRIGGER key_limits_record_truncate AFTER TRUNCATE ON gateway.key_limits
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.record_policy_change();

-- The policies of the past begin with the rows that exist now.
INSERT INTO gateway.policy_changes (database_role, action, relation, row_id, tenant_id, tenant, key_prefix, after)
SELECT session_user, 'baseline', existing.* FROM (
    SELECT 'tenants', id, id, name, NULL, to_jsonb(t) FROM gateway.tenants t
    UNION ALL
    SELECT 'tenant_limits', tenant_id, tenant_id, t.name, NULL, to_jsonb(l)
        FROM gateway.tenant_limits l JOIN gateway.tenants t ON t.id = tenant_id
    UNION ALL
    SELECT 'api_keys', k.id, tenant_id, t.name, prefix, gateway.recorded_columns(to_jsonb(k))
        FROM gateway.api_keys k JOIN gateway.tenants t ON t.id = tenant_id
    UNION ALL
    SELECT 'key_limits', key_id, k.tenant_id, t.name, k.prefix, to_jsonb(l)
        FROM gateway.key_limits l JOIN gateway.api_keys k ON k.id = key_id JOIN gateway.tenants t ON t.id = k.tenant_id
) existing;

-- A link seals the audit rows and the changes with its numbers. Each has a digest, because retention removes only the
-- former. Links without changes have the same hash as those of revision 0004.
ALTER TABLE gateway.audit_chain
    DROP CONSTRAINT audit_chain_rows_check,
    ADD COLUMN changes bigint NOT NULL DEFAULT 0,
    ADD COLUMN changes_digest bytea,
    ADD CHECK (rows + changes > 0);
COMMENT ON COLUMN gateway.audit_chain.digest IS 'SHA-256 of the SHA-256 of each row, in the order of seq; empty without rows.';
COMMENT ON COLUMN gateway.audit_chain.changes IS 'The rows of policy_changes that the link seals.';
COMMENT ON COLUMN gateway.audit_chain.changes_digest IS 'As digest, of these rows; null without any.';
COMMENT ON COLUMN gateway.audit_chain.hash IS 'SHA-256 of the other columns, one per line, the last two only if there are changes; previous is the hash of the link before, empty for the first.';

-- The rows of the four tables that differ from what was last recorded of them, as a change that fires no trigger leaves
-- them. A column that only one of the two has was added or dropped by a later revision.
CREATE FUNCTION gateway.unrecorded_changes() RETURNS TABLE (relation text, row_id bigint)
    LANGUAGE sql STABLE SET timezone = 'UTC' AS $$
    WITH stored AS (
        SELECT 'tenants' AS relation, id AS row_id, to_jsonb(t) AS columns FROM gateway.tenants t
        UNION ALL SELECT 'tenant_limits', tenant_id, to_jsonb(l) FROM gateway.tenant_limits l
        UNION ALL SELECT 'api_keys', id, gateway.recorded_columns(to_jsonb(k)) FROM gateway.api_keys k
        UNION ALL SELECT 'key_limits', key_id, to_jsonb(l) FROM gateway.key_limits l
    ), emptied AS (
        SELECT c.relation, max(seq) AS seq FROM gateway.policy_changes c WHERE action = 'truncate' GROUP BY c.relation
    ), recorded AS (
        SELECT DISTINCT ON (c.relation, c.row_id) c.relation, c.row_id, c.after
        FROM gateway.policy_changes c LEFT JOIN emptied ON emptied.relation = c.relation
        WHERE c.row_id IS NOT NULL AND c.seq > coalesce(emptied.seq, 0)
        ORDER BY c.relation, c.row_id, c.seq DESC
    )
    SELECT relation, row_id FROM stored FULL JOIN recorded USING (relation, row_id)
    WHERE (columns IS NULL) <> (after IS NULL) OR EXISTS (
        SELECT FROM jsonb_each(after) WHERE columns ? key AND columns -> key IS DISTINCT FROM value)
    ORDER BY relation, row_id
$$;

CREATE FUNCTION gateway.changes_digest(from_seq bigint, until_seq bigint)
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

-- A link with changes stays, and so do all later ones.
CREATE OR REPLACE FUNCTION gateway.prune_audit_chain(kept_since timestamptz) RETURNS bigint LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM gateway.audit_chain WHERE link < (
            SELECT coalesce(
                min(c.link) FILTER (WHERE c.changes > 0 OR c.last_ts >= kept_since OR EXISTS (
                    SELECT FROM gateway.audit_log a
                    WHERE a.seq BETWEEN c.first_seq AND c.last_seq AND a.ts BETWEEN c.first_ts AND c.last_ts)),
                max(c.link))
            FROM gateway.audit_chain c)
        RETURNING 1
    )
    SELECT count(*) FROM gone
$$;
