-- The holds whose deadline has passed, oldest first.
--
-- ARGV  1 clock  2 maximum number of holds
-- Reply {request id, text of the hold, ...}

local reply = {}
for _, request_id in ipairs(redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', clock(), 'LIMIT', 0, ARGV[2])) do
  table.insert(reply, request_id)
  table.insert(reply, redis.call('HGET', HOLDS, request_id))
end
return reply
