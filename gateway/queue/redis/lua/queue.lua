-- The state of the queue, and the parts of it that every script may need. The port has the rules, the tests' `queue.py` and
-- `order.py` do the same. Each script has this file and those of `gateway.queue.redis.queue.STEPS` in front.
--
-- Most requests find a free slot and no ticket, and need few functions. Redis runs the whole text at each call, and a
-- function that is created costs about as much as a command. So the other files create their functions `lazily`.
--
-- KEYS, the same for every script, see `open_queue`. All have the hash tag of shard 0, so they are in one slot of a cluster.
--   1 STATE       hash    `run` and `since`, see `is_open`; `granted_at` (ms) and `pace` (ms per grant), see `grant_next`
--   2 REPLICAS    hash    replica -> number of slots, or `auto:` and the number, see learning.lua
--   3 RUNNING     hash    replica -> number of slots in use
--   4 SLOTS       hash    request id -> slot as JSON
--   5 TICKETS     hash    request id -> ticket as JSON
--   6 LEASES      zset    request id by the millisecond at which its slot or ticket expires
--   7 LINE        zset    tickets by pool, class, tenant, key, arrival and request id; all scores are 0
--   8 WAITING     zset    tickets by tenant, key and request id; all scores are 0
--   9 POOLS       hash    pool -> number of its tickets
--  10 VIRTUAL     hash    virtual tokens: `t<tenant>`, `k<key>`; and who got the latest slot: `latest` (tenant),
--                         `latest:<tenant>` (key)
--  11 PROMOTIONS  zset    batch ticket by the millisecond at which it is promoted
--  12 BYTES       hash    tenant -> bytes of the bodies of its tickets
--  13 LEARNING    hash    replica whose slots are `auto` -> what is learnt about them as JSON, see learning.lua
--  14 ENDED       string  exists while the request that the script is about is remembered as ended; absent in some scripts
--
-- A pool is a JSON list: the model, then the candidates, each {replica, rank}. Tickets with the same model and candidates are in
-- the same pool.
-- A ticket is a JSON object: pool, class (0 interactive, 1 batch), tenant, key, weight, input (tokens), bytes, owner, arrived
-- (ms) and charged (tokens, not 0 only after a move). A slot has replica, tenant, key, weight, charged, arrived and waited
-- (ms). That of a learnt replica has auto, model, at (ms, when its owner knew of it), and seen and first, see learning.lua.
-- Members of the sorted sets have their fields separated by tabs. A JSON text has none.

local STATE, REPLICAS, RUNNING, SLOTS, TICKETS, LEASES, LINE, WAITING, POOLS, VIRTUAL, PROMOTIONS, BYTES, LEARNING, ENDED

-- Virtual tokens are integers in thousandths.
local SCALE = 1000

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

local function count_running(replica, change)
  if redis.call('HINCRBY', RUNNING, replica, change) == 0 then
    redis.call('HDEL', RUNNING, replica)
  end
end

local function remove_slot(request_id, slot)
  redis.call('HDEL', SLOTS, request_id)
  redis.call('ZREM', LEASES, request_id)
  count_running(slot.replica, -1)
end

local function virtual_tokens(subject)
  return tonumber(redis.call('HGET', VIRTUAL, subject) or 0)
end

-- Notes that `tokens` are charged for a request in place of those before, and returns the virtual tokens to add. A request
-- costs at least one token, so that no tenant is always the next.
local function price(request, tokens)
  tokens = math.max(1, tokens)
  local amount = math.floor(tokens * SCALE / request.weight) - math.floor(request.charged * SCALE / request.weight)
  request.charged = tokens
  return amount
end

local function charge(request, tokens)
  local amount = price(request, tokens)
  if amount ~= 0 then
    redis.call('HINCRBY', VIRTUAL, 't' .. request.tenant, amount)
    redis.call('HINCRBY', VIRTUAL, 'k' .. request.key, amount)
  end
end

