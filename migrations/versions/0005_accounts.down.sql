INSERT INTO gateway.key_limits
    (key_id, rpm, tpm, concurrent, budget_day, budget_month, budget_total, allow_all_models, allowed_models)
SELECT k.id, l.rpm, l.tpm, l.concurrent, l.budget_day, l.budget_month, l.budget_total, l.allow_all_models, l.allowed_models
FROM gateway.api_keys k JOIN gateway.key_limits l ON l.key_id = k.account_id
WHERE k.account_id <> k.id
ON CONFLICT (key_id) DO UPDATE SET (rpm, tpm, concurrent, budget_day, budget_month, budget_total, allow_all_models, allowed_models)
    = (excluded.rpm, excluded.tpm, excluded.concurrent, excluded.budget_day, excluded.budget_month, excluded.budget_total,
       excluded.allow_all_models, excluded.allowed_models);

SET CONSTRAINTS ALL IMMEDIATE;
DROP TRIGGER api_keys_complete ON gateway.api_keys;
DROP FUNCTION gateway.complete_key();
ALTER TABLE gateway.api_keys DROP COLUMN account_id;
COMMENT ON COLUMN gateway.budget_usage.subject_id IS 'tenants.id or api_keys.id.';
COMMENT ON COLUMN gateway.audit_log.key_id IS NULL;
