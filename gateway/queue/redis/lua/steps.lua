-- The steps of a request through the queue, for scripts that decide on more than the queue too.
--
-- `ticket` is the ticket of a call, whose `arrived` is 0 for now. `rules` has wait_max (ms), tickets_max, bytes_max and
-- ended_ttl (ms for which the id is remembered, in scripts with ENDED). A place is a reply of enter.lua.

local function has_timed_out(now, arrived, rules)
  return now >= arrived + rules.wait_max
end

local function time_out(rules)
  if ENDED then
    redis.call('SET', ENDED, '1', 'PX', rules.ended_ttl)
  end
  return {'timeout', retry_after()}
end

local function is_full(ticket, rules)
  local prefix = string.format('%.0f\t', ticket.tenant)
  return redis.call('ZLEXCOUNT', WAITING, '[' .. prefix, '(' .. prefix .. '\255') >= rules.tickets_max
    or tonumber(redis.call('HGET', BYTES, ticket.tenant) or 0) + ticket.bytes > rules.bytes_max
end

local function wait(now, request_id, ticket, rules)
  local promoted_at = ticket.arrived + math.floor(rules.wait_max / 2)
  if ticket.class == 1 and now < promoted_at then
    redis.call('ZADD', PROMOTIONS, promoted_at, request_id)
  else
    ticket.class = 0
  end
  add_ticket(now, request_id, ticket)
end

-- The place of a request that is unknown.
local function take_place(now, request_id, ticket, rules, can_grant, waits)
  local is_new = ticket.arrived == 0
  if is_new then
    ticket.arrived = now
  end
  if has_timed_out(now, ticket.arrived, rules) then
    return time_out(rules)
  end
  local replica = can_grant and free_replica(now, ticket.pool)
  if not replica and is_new and is_full(ticket, rules) then
    return {'full', retry_after()}
  end
  local of_tenant, of_key = lifted(ticket.tenant, ticket.key, waits and any_waits())
  if replica then
    return grant(now, request_id, ticket, replica, math.max(0, now - ticket.arrived), of_tenant, of_key)
  end
  set_counters(ticket, of_tenant, of_key)
  wait(now, request_id, ticket, rules)
  return {'waiting', ticket.arrived}
end

-- The place of a request that arrives for the first time.
local function arrive(now, request_id, ticket, rules)
  return take_place(now, request_id, ticket, rules, advance(now))
end

-- Notes that the owner of a request has noticed its turn.
local function pick_up(now, request_id)
  local slot = load(SLOTS, request_id)
  if slot and slot.auto and not slot.at then
    slot.at = now
    redis.call('HSET', SLOTS, request_id, cjson.encode(slot))
  end
end

-- The place of a request that arrives, or that is known already.
local function enter(now, request_id, ticket, rules)
  if is_ended() then
    return {'ended'}
  end
  local can_grant, waits = advance(now)
  local known = load(TICKETS, request_id)
  if known and has_timed_out(now, known.arrived, rules) then
    remove_ticket(request_id, known)
    reset_if_idle(any_waits())
    return time_out(rules)
  end
  extend(request_id, now + TICKET_LEASE_MS)
  pick_up(now, request_id)
  return known_place(request_id) or take_place(now, request_id, ticket, rules, can_grant, waits)
end

-- Removes the slot or the ticket of a request, and returns the slot and the ticket, of which at most one exists.
local function take(request_id)
  local slot = load(SLOTS, request_id)
  if slot then
    remove_slot(request_id, slot)
    return slot, nil
  end
  local ticket = load(TICKETS, request_id)
  if ticket then
    remove_ticket(request_id, ticket)
  end
  return nil, ticket
end

-- The place of a request after it has left its present one.
local function move(now, request_id, ticket, rules)
  if is_ended() then
    return {'ended'}
  end
  local slot, known = take(request_id)
  local left = slot or known
  if not left then
    return enter(now, request_id, ticket, rules)
  end
  ticket.charged, ticket.arrived = left.charged, left.arrived
  wait(now, request_id, ticket, rules)
  advance(now)
  return known_place(request_id)
end

-- Ends a request, which is not ended. Returns whether it was known. `first` and `duration` are the times of its first token and
-- of its end, see learning.lua, -1 when they are unknown.
local function leave(now, request_id, tokens, first, duration)
  -- Redis accepts these deletions, and all that follows them, even when it is out of memory.
  local slot, ticket = take(request_id)
  local request = slot or ticket
  if slot and slot.auto then
    observe(now, slot.replica, request_id, slot, duration >= 0 and first or -1, math.max(0, duration), duration, true)
  end
  local waits = any_waits()
  if not reset_if_idle(waits) and (slot or (ticket and ticket.charged > 0)) then
    charge(request, tokens)
  end
  if waits then
    advance(now)
  end
  return request and true or false
end

-- Ends a request, and remembers its id.
local function finish(now, request_id, tokens, first, duration, ended_ttl)
  if is_ended() then
    return false
  end
  local was_known = leave(now, request_id, tokens, first, duration)
  redis.call('SET', ENDED, '1', 'PX', ended_ttl)
  return was_known
end

-- Extends the lease of a running request to `deadline`, charges its tokens and notes its times, see learning.lua. Re-establishes a
-- slot that Redis has lost. Returns 1, or 0 when the request is ended.
local function renew_slot(now, deadline, request_id, replica, tenant, key, weight, tokens, first, last, age)
  local slot = load(SLOTS, request_id)
  if slot then
    charge(slot, tonumber(tokens))
    local has_moved = slot.replica ~= replica
    if slot.auto and has_moved then
      observe(now, slot.replica, request_id, slot, -1, 0, 0, true)
    elseif slot.auto then
      observe(now, replica, request_id, slot, tonumber(first), tonumber(last), tonumber(age), false)
    end
    if has_moved then
      count_running(slot.replica, -1)
      count_running(replica, 1)
      -- It did not wait for a slot there, and proves nothing about that replica.
      slot.replica, slot.auto, slot.at, slot.model, slot.seen, slot.first = replica, nil, nil, nil, nil, nil
    end
    redis.call('HSET', SLOTS, request_id, cjson.encode(slot))
  elseif is_ended() then
    return 0
  elseif redis.call('HEXISTS', TICKETS, request_id) == 0 then
    add_slot(request_id, {
      replica = replica, tenant = tonumber(tenant), key = tonumber(key), weight = tonumber(weight),
      charged = tonumber(tokens), arrived = now, waited = 0,
    }, deadline)
  end
  extend(request_id, deadline)
  return 1
end
