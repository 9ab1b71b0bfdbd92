DROP TABLE gateway.identities;
DROP FUNCTION gateway.notify_identity_changed();
COMMENT ON COLUMN gateway.policy_changes.row_id IS 'tenants.id, tenant_limits.tenant_id, api_keys.id or key_limits.key_id.';

CREATE OR REPLACE FUNCTION gateway.record_policy_change() RETURNS trigger
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

CREATE OR REPLACE FUNCTION gateway.unrecorded_changes() RETURNS TABLE (relation text, row_id bigint)
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
