-- The places of requests that wait in the queue. Extends the leases of their holds and tickets.
--
-- KEYS  the four of the shard, then the first eleven of `queue.lua`
-- ARGV  1 clock  2 lease of a hold in ms  3, 4 see `open_queue`  5... request ids
-- Reply for each request its place as in enter.lua, or {'unknown'}

open_queue(5, ARGV[3], ARGV[4])
local now, places = clock(), {}
for i = 5, #ARGV do
  redis.call('ZADD', DEADLINES, 'XX', 'GT', now + tonumber(ARGV[2]), ARGV[i])
  turns().extend(ARGV[i], now + TICKET_LEASE_MS)
end
advance(now)
for i = 5, #ARGV do
  places[i - 4] = turns().known_place(ARGV[i]) or {'unknown'}
end
return places
