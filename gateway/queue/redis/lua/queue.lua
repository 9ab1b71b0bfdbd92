-- The state of the queue: slots, tickets, leases and grants. The tests' `queue.py` does the same.

local TICKET_LEASE_MS, RESTORE_MS
-- Leases and promotions that one call handles. The next call handles the rest.
local SLICE = 100
-- The pace before the first grant, and the longest gap between two grants that counts.
local PACE_MS, GAP_MAX_MS = 1000, 60000

-- Every script calls this first. `first` is the index of STATE in KEYS. `ticket_lease_ms` is the lease of a ticket, and of a
-- granted slot until its first renewal. No slot is granted for `restore_ms` after a loss of data.
local function open_queue(first, ticket_lease_ms, restore_ms)
  STATE, REPLICAS, RUNNING, SLOTS, TICKETS, LEASES, LINE, WAITING, POOLS, VIRTUAL, PROMOTIONS, BYTES, ENDED =
    unpack(KEYS, first)
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

local function is_ended()
  return redis.call('EXISTS', ENDED) == 1
end

-- All counters start again at 0 when no request runs or waits.
local function reset_if_idle()
  if redis.call('HLEN', SLOTS) == 0 and redis.call('HLEN', TICKETS) == 0 then
    redis.call('DEL', VIRTUAL)
  end
end

-- Sets the slots of the candidates whose number is unknown, from a JSON list in their order.
local function learn_slots(pool, slots)
  local numbers = cjson.decode(slots)
  for i, candidate in ipairs(cjson.decode(pool)) do
    redis.call('HSETNX', REPLICAS, candidate[1], numbers[i])
  end
end

-- The replica of the pool whose slot a request takes, nil when none has a free slot.
local function free_replica(pool)
  local names, candidates = {}, cjson.decode(pool)
  for i, candidate in ipairs(candidates) do
    names[i] = candidate[1]
  end
  local slots, running = redis.call('HMGET', REPLICAS, unpack(names)), redis.call('HMGET', RUNNING, unpack(names))
  local best
  for i, candidate in ipairs(candidates) do
    local each = {name = names[i], rank = candidate[2], slots = tonumber(slots[i] or 0), running = tonumber(running[i] or 0)}
    if each.running < each.slots and (not best or each.rank < best.rank
      or (each.rank == best.rank and each.running * best.slots < best.running * each.slots)) then
      best = each
    end
  end
  return best and best.name
end

local function grant(now, request_id, ticket, replica, waited)
  local slot = {
    replica = replica, tenant = ticket.tenant, key = ticket.key, weight = ticket.weight, charged = ticket.charged,
    arrived = ticket.arrived, waited = waited,
  }
  charge(slot, math.max(ticket.input, ticket.charged))
  redis.call('HSET', VIRTUAL, 'latest', ticket.tenant, 'latest:' .. ticket.tenant, ticket.key)
  add_slot(request_id, slot, now + TICKET_LEASE_MS)
end

-- Grants a slot to the next ticket that waits for a replica with a free slot. Returns false when there is none.
-- `pace` is the time between two grants, smoothed as in RFC 6298.
local function grant_next(now)
  local pools, replicas = {}, {}
  for _, pool in ipairs(redis.call('HKEYS', POOLS)) do
    replicas[pool] = free_replica(pool)
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
    else
      remove_ticket(request_id, load(TICKETS, request_id))
    end
  end
  if #expired > 0 then
    reset_if_idle()
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

-- Every script calls this: it removes what has expired, and grants every free slot that a ticket waits for. So the queue
-- needs no other process for that. Returns whether slots are granted.
local function advance(now)
  promote(now)
  if not is_open(now) then
    return false
  end
  reap(now)
  while grant_next(now) do
  end
  return true
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
