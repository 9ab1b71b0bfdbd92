-- The places of requests. Extends the leases of those that are known.
--
-- ARGV  1 clock  2, 3 see open_queue  4... request ids
-- Reply for each request its place as in enter.lua, or {'unknown'}

open_queue(1, ARGV[2], ARGV[3])
local now, places = clock(), {}
for i = 4, #ARGV do
  turns().extend(ARGV[i], now + TICKET_LEASE_MS)
end
advance(now)
for i = 4, #ARGV do
  places[i - 3] = turns().known_place(ARGV[i]) or {'unknown'}
end
return places
