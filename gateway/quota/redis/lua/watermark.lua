-- How far the events of the shard have left the stream. An event leaves it when it is acknowledged, delivered in order or not.
--
-- ARGV  1 clock
-- Reply {name of the epoch, id of the oldest event that waits or '', id of the youngest event that was appended}

local name = epoch(clock(), 0)
if redis.call('EXISTS', EVENTS) == 0 then
  return {name, '', '0-0'}
end
local info, last = redis.call('XINFO', 'STREAM', EVENTS), '0-0'
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then
    last = info[i + 1]
  end
end
local oldest = redis.call('XRANGE', EVENTS, '-', '+', 'COUNT', 1)[1]
return {name, oldest and oldest[1] or '', last}
