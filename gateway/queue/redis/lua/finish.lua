-- Ends a request, as a ticket or with a slot.
--
-- ARGV  1..3 see queue.lua  4 request id  5 its input and output tokens  6 ms for which the id is remembered
-- Reply 1, or 0 when the request was unknown

if is_ended() then
  return 0
end
local now, request_id = clock(), ARGV[4]
local slot, ticket = load(SLOTS, request_id), load(TICKETS, request_id)
local request = slot or ticket
if request and (slot or ticket.charged > 0) then
  charge(request, tonumber(ARGV[5]))
end
if slot then
  remove_slot(request_id, slot)
elseif ticket then
  remove_ticket(request_id, ticket)
end
redis.call('SET', ENDED, '1', 'PX', ARGV[6])
reset_if_idle()
advance(now)
return request and 1 or 0
