-- Extends the leases of running requests and charges their tokens. A slot that Redis has lost is re-established without any
-- check, because its request is running. For the same reason, the slot of a request that runs at another replica follows it.
--
-- KEYS  after the first eleven, ENDED of each request
-- ARGV  1 clock  2, 3 see open_queue  4 lease in ms, then of each request: its id, replica, tenant id, key id, weight, tokens,
--       the three times of learning.lua: first, last and age, and '1' when the replica is known to answer, else '0'
-- Reply for each request 1, or 0 when it is ended

open_queue(1, ARGV[2], ARGV[3])

local QUEUE_KEYS, REQUEST_ARGUMENTS = 11, 10

local now, replies = clock(), {}
local deadline = now + tonumber(ARGV[4])
for index = 0, (#ARGV - 4) / REQUEST_ARGUMENTS - 1 do
  local argument = 4 + REQUEST_ARGUMENTS * index
  ENDED = KEYS[QUEUE_KEYS + 1 + index]
  replies[index + 1] = turns().renew_slot(now, deadline, unpack(ARGV, argument + 1, argument + REQUEST_ARGUMENTS))
end
if any_waits() then
  advance(now)
end
return replies
