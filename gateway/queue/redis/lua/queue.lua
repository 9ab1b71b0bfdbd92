-- The state of the queue, and the parts of it that every script may need. The port has the rules, the tests' `queue.py` and
-- `order.py` do the same. Each script has this file and those of `gateway.queue.redis.queue.STEPS` in front.
--
-- Most requests find a free slot and no ticket, and need few functions. Redis runs the whole text at each call, and the creation
-- of a function costs almost as much as a command. So most of the other files create their functions `lazily`.
--
-- KEYS, the same for every script, see `open_queue`. All have the hash tag of shard 0, so they are in one slot of a cluster.
--   1 STATE       hash    what a request with a free slot needs in one read and one write:
--                         `run` and `since`, see `is_open`; `granted_at` (ms) and `pace` (ms per grant), see `grant_next`
--                         `slots:<replica>`    number of slots, or `auto:` and the number, see learning.lua
--                         `suspended:<replica>`  ms before which it is unavailable
--                         `running:<replica>`  number of slots in use; `running` is their sum
--                         `tickets`            number of tickets
--                         `reap_at`            ms before which no lease expires; absent until there is a first one
--   2 SLOTS       hash    request id -> slot, see below
--   3 TICKETS     hash    request id -> ticket as JSON
--   4 LEASES      zset    request id by the millisecond at which its slot or ticket expires
--   5 LINE        zset    tickets by pool, class, tenant, key, arrival and request id; all scores are 0
--   6 WAITING     zset    tickets by tenant, key and request id; all scores are 0
--   7 POOLS       hash    pool -> number of its tickets
--   8 VIRTUAL     hash    virtual tokens: `t<tenant>`, `k<key>`; and who got the latest slot: `latest` (tenant),
--                         `latest:<tenant>` (key)
--   9 PROMOTIONS  zset    batch ticket by the millisecond at which it is promoted
--  10 BYTES       hash    tenant -> bytes of the bodies of its tickets
--  11 LEARNING    hash    replica whose slots are `auto` -> what is learnt about them as JSON, see learning.lua
--  12 ENDED       string  exists while the request that the script is about is remembered as ended; absent in some scripts
--
-- A pool is a JSON list: the model, then the candidates, each {replica, rank}. Tickets with the same model and candidates are in
-- the same pool. One of requests that move has false in place of the model.
-- A ticket is a JSON object: pool, class (0 interactive, 1 batch), tenant, key, weight, input (tokens), bytes, owner, arrived
-- (ms) and charged (tokens, not 0 only after a move). A slot has replica, tenant, key, weight, charged, arrived and waited
-- (ms), separated by tabs, and then a JSON object or nothing. Both have attempt, the number of the latest attempt that moved, absent
-- before. The ticket of a request that moved has waited (ms, before) and since (ms, when this wait began). The object of a slot has
-- answers when its request is being answered. That of a learnt replica has auto, model, at (ms, when its owner knew of it), and
-- seen and first, see learning.lua.
-- Members of the sorted sets have their fields separated by tabs. A JSON text has none.

local STATE, SLOTS, TICKETS, LEASES, LINE, WAITING, POOLS, VIRTUAL, PROMOTIONS, BYTES, LEARNING, ENDED

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
  STATE, SLOTS, TICKETS, LEASES, LINE, WAITING, POOLS, VIRTUAL, PROMOTIONS, BYTES, LEARNING, ENDED = unpack(KEYS, first)
  TICKET_LEASE_MS, RESTORE_MS = tonumber(ticket_lease_ms), tonumber(restore_ms)
end

local function load_ticket(request_id)
  local text = redis.call('HGET', TICKETS, request_id)
  return text and cjson.decode(text)
end

local function store_ticket(request_id, ticket)
  redis.call('HSET', TICKETS, request_id, cjson.encode(ticket))
end

local function read_slot(text)
  local replica, tenant, key, weight, charged, arrived, waited, more =
    string.match(text, '^([^\t]*)\t(%d+)\t(%d+)\t(%d+)\t(%d+)\t(%d+)\t(%d+)\t(.*)$')
  local slot = more == '' and {} or cjson.decode(more)
  slot.replica, slot.tenant, slot.key, slot.weight = replica, tonumber(tenant), tonumber(key), tonumber(weight)
  slot.charged, slot.arrived, slot.waited = tonumber(charged), tonumber(arrived), tonumber(waited)
  return slot
end

local function load_slot(request_id)
  local text = redis.call('HGET', SLOTS, request_id)
  return text and read_slot(text)
end

local function store_slot(request_id, slot)
  local more = ''
  if slot.attempt or slot.answers or slot.auto then
    more = cjson.encode({
      attempt = slot.attempt, answers = slot.answers, auto = slot.auto, model = slot.model, at = slot.at, seen = slot.seen,
      first = slot.first,
    })
  end
  redis.call('HSET', SLOTS, request_id, string.format('%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s', slot.replica, slot.tenant, slot.key,
    slot.weight, slot.charged, slot.arrived, slot.waited, more))
end

-- A script of the quota has no ENDED: it rejects ended requests before.
local function is_ended()
  return ENDED and redis.call('EXISTS', ENDED) == 1
end

-- The fields of STATE that this call has read or written.
local known_fields = {}

at_start(function()
  -- The same table, so that it does not grow each time.
  for name in pairs(known_fields) do
    known_fields[name] = nil
  end
end)

local function read_fields(names)
  for i, value in ipairs(redis.call('HMGET', STATE, unpack(names))) do
    known_fields[names[i]] = value
  end
end

-- A field of STATE, false when it is absent.
local function field(name)
  if known_fields[name] == nil then
    read_fields({name})
  end
  return known_fields[name]
end

local function number(name)
  return tonumber(field(name) or 0)
end

-- Sets fields of STATE: each is followed by its value.
local function set_fields(...)
  redis.call('HSET', STATE, ...)
  local changes = {...}
  for i = 1, #changes, 2 do
    known_fields[changes[i]] = changes[i + 1]
  end
end

local function any_waits()
  return number('tickets') > 0
end

-- All counters start again at 0 when no request runs or waits. Returns whether that is so.
local function reset_if_idle(waits)
  local is_idle = not waits and number('running') == 0
  if is_idle then
    redis.call('DEL', VIRTUAL)
  end
  return is_idle
end

-- `...` are further fields of STATE and their values.
local function count_running(replica, change, ...)
  local of_replica = 'running:' .. replica
  set_fields(of_replica, integer(number(of_replica) + change), 'running', integer(number('running') + change), ...)
end

-- The value of `reap_at` when a lease is added.
local function first_deadline(deadline)
  return integer(math.min(deadline, tonumber(field('reap_at') or deadline)))
end

-- Reads all that the end of a request needs of STATE in one call.
local function remove_slot(request_id, slot)
  local of_replica = 'running:' .. slot.replica
  redis.call('HDEL', SLOTS, request_id)
  redis.call('ZREM', LEASES, request_id)
  if known_fields[of_replica] == nil then
    read_fields({of_replica, 'running', 'tickets'})
  end
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
    redis.call('HINCRBY', VIRTUAL, string.format('t%d', request.tenant), integer(amount))
    redis.call('HINCRBY', VIRTUAL, string.format('k%d', request.key), integer(amount))
  end
end

-- The counter of a new request's tenant or key, lifted to that of the one that got the latest slot.
local function lifted_to_latest(kind, subject, own, latest)
  own = tonumber(own or 0)
  return latest and latest ~= subject and math.max(own, virtual_tokens(kind .. latest)) or own
end

