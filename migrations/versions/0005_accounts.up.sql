-- The account of a key is the id of the key that it began with. Rotation makes another key of the same account.
-- Until this revision rotation copied the policy of a key, so the last key of such a chain has the one that applies.
ALTER TABLE gateway.api_keys ADD COLUMN account_id bigint REFERENCES gateway.api_keys DEFERRABLE INITIALLY DEFERRED;

WITH RECURSIVE chain AS (
    SELECT id AS member, id AS last, replaced_by FROM gateway.api_keys
    UNION ALL
    SELECT chain.member, k.id, k.replaced_by FROM chain JOIN gateway.api_keys k ON k.id = chain.replaced_by
)
UPDATE gateway.api_keys k SET account_id = chain.last
FROM chain WHERE chain.member = k.id AND chain.replaced_by IS NULL;

-- PostgreSQL alters no table with pending checks.
SET CONSTRAINTS ALL IMMEDIATE;
ALTER TABLE gateway.api_keys ADD CONSTRAINT api_keys_have_accounts CHECK (account_id IS NOT NULL);
CREATE INDEX api_keys_account ON gateway.api_keys (account_id);
COMMENT ON COLUMN gateway.api_keys.account_id IS 'The key whose row in key_limits applies, and whose id the counters and the ledger use.';
COMMENT ON COLUMN gateway.budget_usage.subject_id IS 'tenants.id or api_keys.account_id.';
COMMENT ON COLUMN gateway.audit_log.key_id IS 'The account of the key; key_prefix names the key itself.';

-- A key without an account, as an earlier release inserts it, is an account.
CREATE FUNCTION gateway.complete_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.account_id := coalesce(NEW.account_id, NEW.id);
    RETURN NEW;
END $$;
CREATE TRIGGER api_keys_complete BEFORE INSERT ON gateway.api_keys
    FOR EACH ROW EXECUTE FUNCTION gateway.complete_key();
