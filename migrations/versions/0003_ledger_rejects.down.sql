DROP TABLE gateway.ledger_rejects;
