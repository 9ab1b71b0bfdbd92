-- Takes events out of the stream for good, so that its length is the number of those that wait.
--
-- ARGV  1 clock  2 consumer group  3... event ids
-- Reply: how many may have been lost: no consumer has them any more, and they are no younger than the epoch. Others that
-- nobody has were acknowledged before. An id that nobody was given may be that of another event, and stays.

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
