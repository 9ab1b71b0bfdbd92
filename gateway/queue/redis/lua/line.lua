-- The order of the tickets, and the virtual tokens that it depends on. The port has the rules, the tests' `order.py` does
-- the same. Each script has this file, `queue.lua` and `steps.lua` in front.
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

-- The first member with `prefix`, or after `after` if that is given.
local function first_member(key, prefix, after)
  local from = after and '(' .. after or '[' .. prefix
  return redis.call('ZRANGEBYLEX', key, from, '(' .. prefix .. '\255', 'LIMIT', 0, 1)[1]
end

-- The different values of the field after `prefix`. It reads one member for each of them.
local function distinct(key, prefix)
  local values, member = {}, first_member(key, prefix)
  while member do
    local value = string.match(member, '^[^\t]*', #prefix + 1)
    table.insert(values, value)
    member = first_member(key, prefix, prefix .. value .. '\t\255')
  end
  return values
end

local function line_member(request_id, ticket)
  return string.format('%s\t%d\t%.0f\t%.0f\t%015.0f\t%s',
    ticket.pool, ticket.class, ticket.tenant, ticket.key, ticket.arrived, request_id)
end

local function waiting_member(request_id, ticket)
  return string.format('%.0f\t%.0f\t%s', ticket.tenant, ticket.key, request_id)
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

-- The lowest counter of `others`, nil when there are none.
local function least_of(kind, others)
  local least
  for _, other in ipairs(others) do
    least = math.min(least or math.huge, virtual_tokens(kind .. other))
  end
  return least
end

-- The counters of the tenant and the key of a new request. Each that has no ticket is lifted to the lowest counter of those that
-- wait, or else to that of the one that got the latest slot. `any_waits` is whether there are tickets.
local function lifted(tenant, key, any_waits)
  tenant, key = string.format('%.0f', tenant), string.format('%.0f', key)
  local found = redis.call('HMGET', VIRTUAL, 't' .. tenant, 'k' .. key, 'latest', 'latest:' .. tenant)
  local prefix = tenant .. '\t'
  local function lift(kind, subject, own, own_prefix, all_prefix, latest)
    own = tonumber(own or 0)
    if any_waits and first_member(WAITING, own_prefix) then
      return own
    end
    local least = any_waits and least_of(kind, distinct(WAITING, all_prefix))
    if not least and latest and latest ~= subject then
      least = virtual_tokens(kind .. latest)
    end
    return math.max(own, least or 0)
  end
  return lift('t', tenant, found[1], prefix, '', found[3]), lift('k', key, found[2], prefix .. key .. '\t', prefix, found[4])
end

-- Sets the counters of a request's tenant and key to these values; `...` are further fields and values.
local function set_counters(request, of_tenant, of_key, ...)
  redis.call('HSET', VIRTUAL, 't' .. request.tenant, string.format('%.0f', of_tenant), 'k' .. request.key,
    string.format('%.0f', of_key), ...)
end

-- Whether the list `a` is less than `b`, which has the same length: the first elements that differ decide.
local function is_less(a, b)
  for i = 1, #a do
    if a[i] ~= b[i] then
      return a[i] < b[i]
    end
  end
  return false
end

-- The first ticket of a tenant in one class of the pools: {arrival, request id}.
local function first_of_tenant(pools, class, tenant)
  local latest, best = redis.call('HGET', VIRTUAL, 'latest:' .. tenant), nil
  for _, pool in ipairs(pools) do
    local prefix = pool .. '\t' .. class .. '\t' .. tenant .. '\t'
    for _, key in ipairs(distinct(LINE, prefix)) do
      local arrived, request_id = string.match(first_member(LINE, prefix .. key .. '\t'), '^(%d+)\t(.*)', #prefix + #key + 2)
      local candidate = {virtual_tokens('k' .. key), key == latest and 1 or 0, tonumber(arrived), request_id}
      if not best or is_less(candidate, best) then
        best = candidate
      end
    end
  end
  return best[3], best[4]
end

-- The request id of the next ticket of the pools, of which at least one has a ticket.
local function next_ticket(pools)
  local latest = redis.call('HGET', VIRTUAL, 'latest')
  for class = 0, 1 do
    local least, tenants = math.huge, {}
    for _, pool in ipairs(pools) do
      for _, tenant in ipairs(distinct(LINE, pool .. '\t' .. class .. '\t')) do
        local tokens = virtual_tokens('t' .. tenant)
        if tokens < least then
          least, tenants = tokens, {}
        end
        if tokens == least then
          tenants[tenant] = true
        end
      end
    end
    local best
    for tenant in pairs(tenants) do
      local candidate = {tenant == latest and 1 or 0, first_of_tenant(pools, class, tenant)}
      if not best or is_less(candidate, best) then
        best = candidate
      end
    end
    if best then
      return best[3]
    end
  end
end
