-- The counters of a tenant.
--
-- ARGV  1 clock
-- Reply {ms, field, value, ...}, or {} when there are no valid ones

local now = clock()
if not is_ready(now) then
  return {}
end
local reply = redis.call('HGETALL', COUNTERS)
table.insert(reply, 1, now)
return reply
