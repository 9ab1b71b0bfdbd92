-- No column of this table can refuse an entry: the entry is one text, and nothing else in it comes from outside.
CREATE TABLE gateway.ledger_rejects (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rejected_at timestamptz NOT NULL DEFAULT now(),
    request_id  text NOT NULL,
    reason      text NOT NULL,
    entry       text NOT NULL
);
-- An entry that is delivered again is set aside once.
CREATE UNIQUE INDEX ledger_rejects_entry ON gateway.ledger_rejects (request_id, md5(entry));
CREATE INDEX ledger_rejects_rejected_at ON gateway.ledger_rejects (rejected_at);
COMMENT ON TABLE gateway.ledger_rejects IS 'Ledger entries that audit_log refused, for an operator to look at. Their usage is in budget_usage.';
COMMENT ON COLUMN gateway.ledger_rejects.entry IS 'The entry as JSON, as it was in the event stream.';
