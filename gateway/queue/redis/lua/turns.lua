-- The steps of requests that have a slot or a ticket.
local turns = lazily(function()

-- Extends the lease of a request that is known. Does nothing for any other.
local function extend(request_id, deadline)
  redis.call('ZADD', LEASES, 'XX', 'GT', deadline, request_id)
end

-- The place of a request that is known, nil for any other.
local function known_place(request_id)
  local slot = load_slot(request_id)
  if slot then
    return {'turn', slot.replica, slot.arrived, slot.waited}
  end
  local ticket = load_ticket(request_id)
  return ticket and {'waiting', ticket.arrived} or nil
end

-- Notes that the owner of a request has noticed its turn.
local function pick_up(now, request_id)
  local slot = load_slot(request_id)
  if slot and slot.auto and not slot.at then
    slot.at = now
    store_slot(request_id, slot)
  end
end

-- The place of a request that arrives, or that is known already.
local function enter(now, request_id, ticket, rules)
  if is_ended() then
    return {'ended'}
  end
  local can_grant, waits = advance(now)
  local known = load_ticket(request_id)
  if known and arrivals().has_timed_out(now, known.arrived, rules) then
    line().remove_ticket(request_id, known)
    reset_if_idle(any_waits())
    return line().time_out(rules)
  end
  extend(request_id, now + TICKET_LEASE_MS)
  pick_up(now, request_id)
  return known_place(request_id) or arrivals().take_place(now, request_id, ticket, rules, can_grant, waits)
end

-- The place of a request whose attempt `attempt` is at `replica`, after it failed where it had its slot. It leaves its place only
-- when `replica` is another one whose slots are known. A repeated call changes nothing more, and neither does one about an earlier
-- attempt or about a request that is being answered. A request that is unknown stays unknown. A slot is leased for `slot_lease`,
-- because the meter of the request renews it no sooner than before. All waits of a request together last at most `wait_max`.
local function move(now, request_id, replica, attempt, slot_lease, wait_max)
  local slot, ticket = load_slot(request_id), load_ticket(request_id)
  local left = slot or ticket
  if is_ended() or not left then
    return {'ended'}
  end
  if left.answers or attempt < (left.attempt or 1) then
    return known_place(request_id)
  end
  -- A pool without a model is of requests that move.
  local pool = cjson.encode({false, {replica, 0}})
  if left.replica ~= replica and left.pool ~= pool and field('slots:' .. replica) then
    if slot and slot.auto then
      learning().observe(now, slot.replica, request_id, slot, -1, 0, 0, true)
    end
    take(request_id)
    line().wait(now, request_id, {
      pool = pool, class = 0, tenant = left.tenant, key = left.key, weight = left.weight,
      input = left.input or left.charged, bytes = left.bytes or 0, owner = left.owner or '', arrived = left.arrived,
      charged = left.charged, attempt = attempt, since = now, waited = slot and slot.waited or line().waited_by(now, ticket),
    }, {wait_max = 0})
  elseif attempt ~= left.attempt then
    left.attempt = attempt
    local store = slot and store_slot or store_ticket
    store(request_id, left)
  end
  extend(request_id, now + TICKET_LEASE_MS)
  advance(now)
  if redis.call('HEXISTS', SLOTS, request_id) == 1 then
    extend(request_id, now + slot_lease)
    return known_place(request_id)
  end
  -- The ticket stays until the request ends, so that a repeated call gets the same reply.
  if line().waited_by(now, load_ticket(request_id)) >= wait_max then
    return {'timeout', line().retry_after()}
  end
  return known_place(request_id)
end

-- Ends a request, and remembers its id.
local function finish(request_id, tokens, first, duration, ended_ttl)
  if is_ended() then
    return false
  end
  local was_known = leave(request_id, tokens, first, duration)
  redis.call('SET', ENDED, '1', 'PX', ended_ttl)
  return was_known
end

-- Extends the lease of a running request to `deadline`, charges its tokens and notes its times, see learning.lua. Re-establishes a
-- slot that Redis has lost, and gives one to a ticket that is being answered. `answers` is '1' when `replica` is known to answer,
-- else '0'. Returns 1, or 0 when the request is ended.
local function renew_slot(now, deadline, request_id, replica, tenant, key, weight, tokens, first, last, age, answers)
  local slot = load_slot(request_id)
  if slot then
    charge(slot, tonumber(tokens))
    local has_moved = answers == '1' and slot.replica ~= replica
    if slot.auto and has_moved then
      learning().observe(now, slot.replica, request_id, slot, -1, 0, 0, true)
    elseif slot.auto then
      learning().observe(now, slot.replica, request_id, slot, tonumber(first), tonumber(last), tonumber(age), false)
    end
    if has_moved then
      count_running(slot.replica, -1)
      count_running(replica, 1)
      -- It did not wait for a slot there, and proves nothing about that replica.
      slot.replica, slot.auto, slot.at, slot.model, slot.seen, slot.first = replica, nil, nil, nil, nil, nil
    end
    slot.answers = slot.answers or answers == '1' or nil
    store_slot(request_id, slot)
  elseif is_ended() then
    return 0
  elseif redis.call('HEXISTS', TICKETS, request_id) == 0 then
    granting().add_slot(request_id, {
      replica = replica, tenant = tonumber(tenant), key = tonumber(key), weight = tonumber(weight),
      charged = tonumber(tokens), arrived = now, waited = 0, answers = answers == '1' or nil,
    }, deadline)
  elseif answers == '1' then
    -- It runs before its turn, because `move` did not reply.
    local _, ticket = take(request_id)
    charge(ticket, tonumber(tokens))
    granting().add_slot(request_id, {
      replica = replica, tenant = ticket.tenant, key = ticket.key, weight = ticket.weight, charged = ticket.charged,
      arrived = ticket.arrived, waited = line().waited_by(now, ticket), attempt = ticket.attempt, answers = true,
    }, deadline)
  end
  extend(request_id, deadline)
  return 1
end

return {
  extend = extend, known_place = known_place, enter = enter, move = move, finish = finish, renew_slot = renew_slot,
}
end)

