ALTER TABLE gateway.tenant_limits
    ADD COLUMN max_output integer CHECK (max_output > 0),
    ADD COLUMN max_body integer CHECK (max_body >= 1024);
ALTER TABLE gateway.key_limits
    ADD COLUMN max_output integer CHECK (max_output > 0),
    ADD COLUMN max_body integer CHECK (max_body >= 1024);
COMMENT ON COLUMN gateway.tenant_limits.max_output IS 'Output tokens per request; null is MAX_NUM_PREDICT.';
COMMENT ON COLUMN gateway.tenant_limits.max_body IS 'Bytes of a request''s body; null is MAX_REQUEST_BODY_BYTES.';
