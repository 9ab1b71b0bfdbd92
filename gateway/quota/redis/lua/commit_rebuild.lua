-- Ends a rebuild: adds the last slice of the sums that are used to STAGED, and installs the tenant's counters from it.
--
-- ARGV  1 clock  2 token  3 day of the rebuild  4 number of all sums  5... field and value of each sum of the slice
-- Reply 1, or 0 when the rebuild was voided in the meantime

if redis.call('GET', REBUILD) ~= rebuild_of(ARGV[2]) then
  return 0
end
if #ARGV > 4 then
  redis.call('HSET', STAGED, unpack(ARGV, 5))
end
local sums = redis.call('HLEN', STAGED)
if sums ~= tonumber(ARGV[4]) then
  return 0
end
redis.call('UNLINK', COUNTERS)
if sums > 0 then
  redis.call('RENAME', STAGED, COUNTERS)
  redis.call('PERSIST', COUNTERS)
end
redis.call('HSET', COUNTERS, 'ready', run_id() .. LAYOUT, 'day', ARGV[3])
redis.call('DEL', REBUILD)
return 1
