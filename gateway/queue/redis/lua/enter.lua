-- Takes a slot for a request, or makes it a ticket.
--
-- ARGV  1 clock  2, 3 see open_queue  4 request id  5 pool  6 slots of its candidates, a JSON list (0 for auto)  7 tenant id  8 key id
--       9 weight  10 class: 0 or 1  11 input tokens  12 bytes of the body  13 owner  14 time of arrival in ms, 0 for now
--       15 maximum wait in ms  16 maximum of tickets and 17 of their bytes, of one tenant
--       18 ms for which the id is remembered
-- Reply {'turn', replica, time of arrival in ms, waited ms}   {'waiting', time of arrival in ms}
--       {'full', retry after in s}   {'timeout', retry after in s}   {'ended'}

open_queue(1, ARGV[2], ARGV[3])
capacity().use_slots(ARGV[5], ARGV[6], false)
local ticket = {
  pool = ARGV[5], tenant = tonumber(ARGV[7]), key = tonumber(ARGV[8]), weight = tonumber(ARGV[9]),
  class = tonumber(ARGV[10]), input = tonumber(ARGV[11]), bytes = tonumber(ARGV[12]), owner = ARGV[13],
  arrived = tonumber(ARGV[14]), charged = 0,
}
local rules = {
  wait_max = tonumber(ARGV[15]), tickets_max = tonumber(ARGV[16]), bytes_max = tonumber(ARGV[17]), ended_ttl = ARGV[18],
}
return turns().enter(clock(), ARGV[4], ticket, rules)
