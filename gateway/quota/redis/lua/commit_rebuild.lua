-- Ends a rebuild: installs the tenant's counters and adds its holds to them.
--
-- ARGV  1 clock  2 tenant id  3 token  4 day of the snapshot  5... field and value of each sum that is used
-- Reply 1, or 0 when the rebuild was voided in the meantime

if redis.call('GET', REBUILD) ~= ARGV[3] then
  return 0
end
redis.call('DEL', COUNTERS)
for i = 5, #ARGV, 2 do
  redis.call('HSET', COUNTERS, ARGV[i], ARGV[i + 1])
end
for _, held in ipairs(redis.call('HVALS', HOLDS)) do
  local hold = cjson.decode(held)
  if hold.tenant == tonumber(ARGV[2]) then
    add_hold(hold)
  end
end
redis.call('HSET', COUNTERS, 'ready', run_id(), 'day', ARGV[4])
redis.call('DEL', REBUILD)
return 1
