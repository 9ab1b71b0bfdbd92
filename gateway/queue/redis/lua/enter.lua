-- Takes a slot for a request, or makes it a ticket; with `move`, after its present slot or ticket is given up.
--
-- ARGV  1..3 see queue.lua  4 request id  5 pool  6 slots of its candidates, a JSON list  7 tenant id  8 key id  9 weight
--       10 class: 0 or 1  11 input tokens  12 bytes of the body  13 owner  14 time of arrival in ms, 0 for now
--       15 maximum wait in ms  16 maximum of tickets and 17 of their bytes, of one tenant
--       18 ms for which the id is remembered  19 '1' to move
-- Reply {'turn', replica, time of arrival in ms, waited ms}   {'waiting', time of arrival in ms}
--       {'full', retry after in s}   {'timeout', retry after in s}   {'ended'}

local now, request_id, wait_max = clock(), ARGV[4], tonumber(ARGV[15])
local ticket = {
  pool = ARGV[5], tenant = tonumber(ARGV[7]), key = tonumber(ARGV[8]), weight = tonumber(ARGV[9]),
  class = tonumber(ARGV[10]), input = tonumber(ARGV[11]), bytes = tonumber(ARGV[12]), owner = ARGV[13],
  arrived = tonumber(ARGV[14]), charged = 0,
}
local is_new = ticket.arrived == 0
if is_new then
  ticket.arrived = now
end

local function learn_slots()
  local slots = cjson.decode(ARGV[6])
  for i, candidate in ipairs(cjson.decode(ticket.pool)) do
    redis.call('HSETNX', REPLICAS, candidate[1], slots[i])
  end
end

local function wait()
  local promoted_at = ticket.arrived + math.floor(wait_max / 2)
  if ticket.class == 1 and now < promoted_at then
    redis.call('ZADD', PROMOTIONS, promoted_at, request_id)
  else
    ticket.class = 0
  end
  add_ticket(now, request_id, ticket)
end

local function has_timed_out(arrived)
  return now >= arrived + wait_max
end

local function time_out()
  redis.call('SET', ENDED, '1', 'PX', ARGV[18])
  return {'timeout', retry_after()}
end

local function is_full()
  local prefix = string.format('%.0f\t', ticket.tenant)
  return redis.call('ZLEXCOUNT', WAITING, '[' .. prefix, '(' .. prefix .. '\255') >= tonumber(ARGV[16])
    or tonumber(redis.call('HGET', BYTES, ticket.tenant) or 0) + ticket.bytes > tonumber(ARGV[17])
end

local function enter()
  local can_grant = advance(now)
  local known = load(TICKETS, request_id)
  if known and has_timed_out(known.arrived) then
    remove_ticket(request_id, known)
    reset_if_idle()
    return time_out()
  end
  extend(request_id, now + TICKET_LEASE_MS)
  local place = known_place(request_id)
  if place then
    return place
  end
  if has_timed_out(ticket.arrived) then
    return time_out()
  end
  local replica = can_grant and free_replica(ticket.pool)
  if not replica and is_new and is_full() then
    return {'full', retry_after()}
  end
  lift_both(ticket.tenant, ticket.key)
  if replica then
    grant(now, request_id, ticket, replica, math.max(0, now - ticket.arrived))
  else
    wait()
  end
  return known_place(request_id)
end

if is_ended() then
  return {'ended'}
end
learn_slots()
local slot = ARGV[19] == '1' and load(SLOTS, request_id)
local known = ARGV[19] == '1' and load(TICKETS, request_id)
if not slot and not known then
  return enter()
end
if slot then
  remove_slot(request_id, slot)
else
  remove_ticket(request_id, known)
end
ticket.charged, ticket.arrived = (slot or known).charged, (slot or known).arrived
wait()
advance(now)
return known_place(request_id)
