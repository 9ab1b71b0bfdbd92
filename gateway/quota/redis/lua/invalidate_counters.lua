-- Marks a tenant's counters as invalid and voids a rebuild in progress, because both may differ from the ledger. The next
-- admission rebuilds the counters.
--
-- ARGV  1 clock

redis.call('DEL', REBUILD)
return redis.call('HDEL', COUNTERS, 'ready')
