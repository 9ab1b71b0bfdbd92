-- Adds a slice of the sums that are used to STAGED. `commit_rebuild` adds the last slice, for most tenants the only one.
--
-- ARGV  1 clock  2 token  3 ms after which an abandoned rebuild expires  4... field and value of each sum
-- Reply 1, or 0 when the rebuild was voided in the meantime

if redis.call('GET', REBUILD) ~= rebuild_of(ARGV[2]) then
  return 0
end
redis.call('HSET', STAGED, unpack(ARGV, 4))
redis.call('PEXPIRE', STAGED, ARGV[3])
return 1
