-- Deletes events from the stream, so that its length is the number of events that wait for the ledger.
--
-- ARGV  1 clock  2 consumer group  3... event ids
-- Reply: how many of the events Redis may have lost: they are not pending for any consumer, and no younger than the epoch.
-- An event that is not pending and is younger was acknowledged before. An id that is not pending is never deleted, because
-- after a loss another event may have it.

local state = redis.call('HMGET', EPOCH, 'run', 'since')
local since = state[1] == run_id() and tonumber(state[2]) or math.huge
local lost = 0
for i = 3, #ARGV do
  if redis.call('XACK', EVENTS, ARGV[2], ARGV[i]) == 1 then
    redis.call('XDEL', EVENTS, ARGV[i])
  elseif tonumber(string.match(ARGV[i], '^%d+')) <= since then
    lost = lost + 1
  end
end
return lost
