-- A tenant's counters as they are.
--
-- ARGV  1 clock
-- Reply {ms, field, value, ...}, or {} when they are not there

local now = clock()
if not is_ready(now) then
  return {}
end
local reply = redis.call('HGETALL', COUNTERS)
table.insert(reply, 1, now)
return reply
