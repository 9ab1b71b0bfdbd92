-- Has a tenant's counters rebuilt: what they are, and what a rebuild under way has read, may not be what the ledger says.
--
-- ARGV  1 clock

redis.call('DEL', REBUILD)
return redis.call('HDEL', COUNTERS, 'ready')
