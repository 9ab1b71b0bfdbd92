-- The tables of the FastAPI design.
CREATE TABLE api_keys (id bigint PRIMARY KEY, tenant_id bigint, prefix text UNIQUE, hash text);
CREATE TABLE audit_log (
    request_id uuid PRIMARY KEY, tenant_id bigint, key_id bigint, model text, status int,
    input_tokens int, output_tokens int, started_at timestamptz, duration_ms float8
);
CREATE TABLE budget_usage (key_id bigint PRIMARY KEY, tokens bigint);
