DROP TRIGGER audit_log_begin_link ON gateway.audit_log;
DROP TRIGGER audit_log_join_link ON gateway.audit_log;
DROP TRIGGER audit_log_end_link ON gateway.audit_log;
DROP FUNCTION gateway.begin_audit_link(), gateway.join_audit_link(), gateway.end_audit_link(),
    gateway.prune_audit_chain(timestamptz), gateway.audit_digest(bigint);
ALTER TABLE gateway.audit_log DROP COLUMN link;
DROP TABLE gateway.audit_chain;
