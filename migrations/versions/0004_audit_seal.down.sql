-- The revision then creates the chain of revision 0002 anew.
DROP FUNCTION gateway.seal_audit_log(bigint, xid8, integer, interval), gateway.prune_audit_chain(timestamptz),
    gateway.audit_digest(bigint, bigint, timestamptz, timestamptz);
ALTER TABLE gateway.audit_log DROP COLUMN seq;
DROP TABLE gateway.audit_chain;
