-- The state of the queue: slots, tickets, leases and grants. The tests' `queue.py` does the same.

local TICKET_LEASE_MS, RESTORE_MS
-- Leases and promotions that one call handles. The next call handles the rest.
local SLICE = 100
-- The pace before the first grant, and the longest gap between two grants that counts.
local PACE_MS, GAP_MAX_MS = 1000, 60000

-- Every script calls this first. `first` is the index of STATE in KEYS. `ticket_lease_ms` is the lease of a ticket, and of a
-- granted slot until its first renewal. No slot is granted for `restore_ms` after a loss of data.
local function open_queue(first, ticket_lease_ms, restore_ms)
  STATE, REPLICAS, RUNNING, SLOTS, TICKETS, LEASES, LINE, WAITING, POOLS, VIRTUAL, PROMOTIONS, BYTES, LEARNING,
    ENDED = unpack(KEYS, first)
  TICKET_LEASE_MS, RESTORE_MS = tonumber(ticket_lease_ms), tonumber(restore_ms)
end

-- Whether slots are granted. They are not while running requests are re-established, after Redis lost data or may have.
local function is_open(now)
  local state, run = redis.call('HMGET', STATE, 'run', 'since'), run_id()
  local since = tonumber(state[2])
  if state[1] ~= run then
    since = now
    redis.call('HSET', STATE, 'run', run, 'since', since)
  end
  return now < since or now >= since + RESTORE_MS
end

-- Extends the lease of a request that is known. Does nothing for any other.
local function extend(request_id, deadline)
  redis.call('ZADD', LEASES, 'XX', 'GT', deadline, request_id)
end

local function add_ticket(now, request_id, ticket)
  redis.call('HSET', TICKETS, request_id, cjson.encode(ticket))
  redis.call('ZADD', LINE, 0, line_member(request_id, ticket))
  redis.call('ZADD', WAITING, 0, waiting_member(request_id, ticket))
  redis.call('HINCRBY', POOLS, ticket.pool, 1)
  redis.call('HINCRBY', BYTES, ticket.tenant, ticket.bytes)
  redis.call('ZADD', LEASES, now + TICKET_LEASE_MS, request_id)
end

local function remove_ticket(request_id, ticket)
  redis.call('HDEL', TICKETS, request_id)
  redis.call('ZREM', LINE, line_member(request_id, ticket))
  redis.call('ZREM', WAITING, waiting_member(request_id, ticket))
  redis.call('ZREM', PROMOTIONS, request_id)
  redis.call('ZREM', LEASES, request_id)
  if redis.call('HINCRBY', POOLS, ticket.pool, -1) == 0 then
    redis.call('HDEL', POOLS, ticket.pool)
  end
  if redis.call('HINCRBY', BYTES, ticket.tenant, 0 - ticket.bytes) == 0 then
    redis.call('HDEL', BYTES, ticket.tenant)
  end
end

local function count_running(replica, change)
  if redis.call('HINCRBY', RUNNING, replica, change) == 0 then
    redis.call('HDEL', RUNNING, replica)
  end
end

local function add_slot(request_id, slot, deadline)
  redis.call('HSET', SLOTS, request_id, cjson.encode(slot))
  redis.call('ZADD', LEASES, deadline, request_id)
  count_running(slot.replica, 1)
end

local function remove_slot(request_id, slot)
  redis.call('HDEL', SLOTS, request_id)
  redis.call('ZREM', LEASES, request_id)
  count_running(slot.replica, -1)
end

local function load(key, request_id)
  local text = redis.call('HGET', key, request_id)
  return text and cjson.decode(text)
end

-- A script of the quota has no ENDED: it rejects ended requests before.
local function is_ended()
  return ENDED and redis.call('EXISTS', ENDED) == 1
end

local function any_waits()
  return redis.call('HLEN', TICKETS) > 0
end

-- All counters start again at 0 when no request runs or waits. Returns whether that is so.
local function reset_if_idle(waits)
  local is_idle = not waits and redis.call('HLEN', SLOTS) == 0
  if is_idle then
    redis.call('DEL', VIRTUAL)
  end
  return is_idle
end

-- Sets the slots of the candidates of a pool, from a JSON list in their order, in which 0 is `auto`. A number that is known stays
-- unless the request is new and `overrides` it. A learnt number stays until one is given.
local function use_slots(pool, slots, overrides)
  local numbers, candidates, names = cjson.decode(slots), cjson.decode(pool), {}
  for i = 2, #candidates do
    names[i - 1] = candidates[i][1]
  end
  local known = slots_values(names)
  for i, name in ipairs(names) do
    local is_learnt = select(2, slots_of(known[i]))
    if numbers[i] == 0 and not is_learnt and (overrides or not known[i]) then
      redis.call('HDEL', LEARNING, name)
      set_learnt(name, 1)
    elseif numbers[i] ~= 0 and (not known[i] or (overrides and known[i] ~= tostring(numbers[i]))) then
      set_slots(name, numbers[i])
    end
  end
end

-- The candidate of the pool whose slot a request takes, nil when there is none: one with a free slot, or else one that may get one
-- request more to learn its slots. `older` is that of a trial, which then begins with the request.
local function free_replica(now, pool)
  local names, candidates = {}, cjson.decode(pool)
  for i = 2, #candidates do
    names[i - 1] = candidates[i][1]
  end
  local slots, running = slots_values(names), redis.call('HMGET', RUNNING, unpack(names))
  local best, full = nil, {}
  for i, name in ipairs(names) do
    local each = {name = name, rank = candidates[i + 1][2], running = tonumber(running[i] or 0)}
    each.slots, each.is_learnt = slots_of(slots[i])
    if each.running < each.slots then
      if not best or each.rank < best.rank
        or (each.rank == best.rank and each.running * best.slots < best.running * each.slots) then
        best = each
      end
    elseif each.is_learnt and each.running == each.slots then
      full[#full + 1] = each
    end
  end
  if best then
    if best.is_learnt and best.slots > 1 and best.running == best.slots - 1 then
      best.older = plan_trial(now, best.name, candidates[1], best.slots, best.running)
    end
    return best
  end
  for _, each in ipairs(full) do
    each.older = plan_trial(now, each.name, candidates[1], each.slots, each.running)
    if each.older then
      return each
    end
  end
end

-- Grants a slot of a replica that `free_replica` returned. `of_tenant` and `of_key` are the counters of a new request.
local function grant(now, request_id, ticket, replica, waited, of_tenant, of_key)
  local slot = {
    replica = replica.name, tenant = ticket.tenant, key = ticket.key, weight = ticket.weight, charged = ticket.charged,
    arrived = ticket.arrived, waited = waited,
  }
  if replica.is_learnt then
    -- A ticket that gets its turn is not on its way before its owner has noticed; see `pick_up`.
    slot.auto, slot.model = true, cjson.decode(ticket.pool)[1]
    slot.at = of_tenant and now or nil
  end
  if replica.older then
    begin_trial(replica.name, request_id, replica.running == replica.slots, replica.older)
  end
  local tokens = math.max(ticket.input, ticket.charged)
  if of_tenant then
    local amount = price(slot, tokens)
    set_counters(slot, of_tenant + amount, of_key + amount, 'latest', slot.tenant, 'latest:' .. slot.tenant, slot.key)
  else
    charge(slot, tokens)
    redis.call('HSET', VIRTUAL, 'latest', slot.tenant, 'latest:' .. slot.tenant, slot.key)
  end
  add_slot(request_id, slot, now + TICKET_LEASE_MS)
  return {'turn', slot.replica, slot.arrived, slot.waited}
end

-- Grants a slot to the next ticket that waits for a replica with a free slot. Returns false when there is none.
-- `pace` is the time between two grants, smoothed as in RFC 6298.
local function grant_next(now)
  local pools, replicas = {}, {}
  for _, pool in ipairs(redis.call('HKEYS', POOLS)) do
    replicas[pool] = free_replica(now, pool)
    if replicas[pool] then
      table.insert(pools, pool)
    end
  end
  if #pools == 0 then
    return false
  end
  local request_id = next_ticket(pools)
  local ticket = load(TICKETS, request_id)
  local state = redis.call('HMGET', STATE, 'granted_at', 'pace')
  local gap = math.min(GAP_MAX_MS, math.max(0, now - math.max(tonumber(state[1] or 0), ticket.arrived)))
  local pace = tonumber(state[2] or PACE_MS)
  redis.call('HSET', STATE, 'granted_at', now, 'pace', pace + math.floor((gap - pace) / 8))
  remove_ticket(request_id, ticket)
  grant(now, request_id, ticket, replicas[ticket.pool], math.max(0, now - ticket.arrived))
  redis.call('PUBLISH', 'nz:queue:' .. ticket.owner, request_id)
  return true
end

local function reap(now)
  local expired = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, SLICE)
  for _, request_id in ipairs(expired) do
    local slot = load(SLOTS, request_id)
    if slot then
      remove_slot(request_id, slot)
      if slot.auto then
        observe(now, slot.replica, request_id, slot, -1, 0, 0, true)
      end
    else
      remove_ticket(request_id, load(TICKETS, request_id))
    end
  end
  if #expired > 0 then
    reset_if_idle(any_waits())
  end
end

local function promote(now)
  for _, request_id in ipairs(redis.call('ZRANGEBYSCORE', PROMOTIONS, '-inf', now, 'LIMIT', 0, SLICE)) do
    local ticket = load(TICKETS, request_id)
    redis.call('ZREM', PROMOTIONS, request_id)
    redis.call('ZREM', LINE, line_member(request_id, ticket))
    ticket.class = 0
    redis.call('ZADD', LINE, 0, line_member(request_id, ticket))
    redis.call('HSET', TICKETS, request_id, cjson.encode(ticket))
  end
end

-- Removes what has expired, and grants every free slot that a ticket waits for. So the queue needs no other process for that.
-- Returns whether slots are granted, and whether tickets waited.
local function advance(now)
  local waits = any_waits()
  if waits then
    promote(now)
  end
  if not is_open(now) then
    return false, waits
  end
  reap(now)
  while waits and grant_next(now) do
  end
  return true, waits
end

-- The time in s after which all present tickets have been granted at the current pace.
local function retry_after()
  local pace = tonumber(redis.call('HGET', STATE, 'pace') or PACE_MS)
  return math.max(1, math.ceil(redis.call('HLEN', TICKETS) * pace / 1000))
end

-- The place of a request that is known, nil for any other.
local function known_place(request_id)
  local slot = load(SLOTS, request_id)
  if slot then
    return {'turn', slot.replica, slot.arrived, slot.waited}
  end
  local ticket = load(TICKETS, request_id)
  return ticket and {'waiting', ticket.arrived} or nil
end
