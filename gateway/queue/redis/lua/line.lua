-- The tickets and their order. The tests' `order.py` does the same.
local line = lazily(function()

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

-- The lowest counter of `others`, nil when there are none.
local function least_of(kind, others)
  local least
  for _, other in ipairs(others) do
    least = math.min(least or math.huge, virtual_tokens(kind .. other))
  end
  return least
end

-- The counter of a new request's tenant or key, see `lifted`. `own_prefix` is that of its tickets, `all_prefix` that of all that
-- compete.
local function lift(kind, subject, own, own_prefix, all_prefix, latest)
  if first_member(WAITING, own_prefix) then
    return tonumber(own or 0)
  end
  local least = least_of(kind, distinct(WAITING, all_prefix))
  return least and math.max(tonumber(own or 0), least) or lifted_to_latest(kind, subject, own, latest)
end

local function lifted_among_waiting(tenant, key, of_tenant, of_key, latest_tenant, latest_key)
  local prefix = tenant .. '\t'
  return lift('t', tenant, of_tenant, prefix, '', latest_tenant),
    lift('k', key, of_key, prefix .. key .. '\t', prefix, latest_key)
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

local function add_ticket(now, request_id, ticket)
  store_ticket(request_id, ticket)
  redis.call('ZADD', LINE, 0, line_member(request_id, ticket))
  redis.call('ZADD', WAITING, 0, waiting_member(request_id, ticket))
  redis.call('HINCRBY', POOLS, ticket.pool, 1)
  redis.call('HINCRBY', BYTES, ticket.tenant, ticket.bytes)
  redis.call('ZADD', LEASES, now + TICKET_LEASE_MS, request_id)
  set_fields('tickets', number('tickets') + 1, 'reap_at', first_deadline(now + TICKET_LEASE_MS))
end

local function remove_ticket(request_id, ticket)
  redis.call('HDEL', TICKETS, request_id)
  set_fields('tickets', number('tickets') - 1)
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

-- The time in ms that a request has spent as a ticket, also before it moved.
local function waited_by(now, ticket)
  return (ticket.waited or 0) + math.max(0, now - (ticket.since or ticket.arrived))
end

-- Grants a slot to the next ticket that waits for a replica with a free slot. Returns false when there is none.
-- `pace` is the time between two grants, smoothed as in RFC 6298.
local function grant_next(now)
  local pools, replicas = {}, {}
  for _, pool in ipairs(redis.call('HKEYS', POOLS)) do
    replicas[pool] = granting().free_replica(now, pool)
    if replicas[pool] then
      table.insert(pools, pool)
    end
  end
  if #pools == 0 then
    return false
  end
  local request_id = next_ticket(pools)
  local ticket = load_ticket(request_id)
  local gap = math.min(GAP_MAX_MS, math.max(0, now - math.max(number('granted_at'), ticket.arrived)))
  local pace = tonumber(field('pace') or PACE_MS)
  set_fields('granted_at', now, 'pace', pace + math.floor((gap - pace) / 8))
  remove_ticket(request_id, ticket)
  granting().grant(now, request_id, ticket, replicas[ticket.pool], waited_by(now, ticket))
  redis.call('PUBLISH', 'nz:queue:' .. ticket.owner, request_id)
  return true
end

-- Removes slots and tickets whose leases have expired.
local function reap(now)
  local expired = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, SLICE)
  for _, request_id in ipairs(expired) do
    local slot = load_slot(request_id)
    if slot then
      remove_slot(request_id, slot)
      if slot.auto then
        learning().observe(now, slot.replica, request_id, slot, -1, 0, 0, true)
      end
    else
      remove_ticket(request_id, load_ticket(request_id))
    end
  end
  local first = redis.call('ZRANGEBYSCORE', LEASES, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  set_fields('reap_at', tonumber(first[2]) or now + TICKET_LEASE_MS)
  if #expired > 0 then
    reset_if_idle(any_waits())
  end
end

local function promote(now)
  for _, request_id in ipairs(redis.call('ZRANGEBYSCORE', PROMOTIONS, '-inf', now, 'LIMIT', 0, SLICE)) do
    local ticket = load_ticket(request_id)
    redis.call('ZREM', PROMOTIONS, request_id)
    redis.call('ZREM', LINE, line_member(request_id, ticket))
    ticket.class = 0
    redis.call('ZADD', LINE, 0, line_member(request_id, ticket))
    store_ticket(request_id, ticket)
  end
end

-- The time in s after which all present tickets have been granted at the current pace.
local function retry_after()
  local pace = tonumber(field('pace') or PACE_MS)
  return math.max(1, math.ceil(number('tickets') * pace / 1000))
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

return {
  remove_ticket = remove_ticket, grant_next = grant_next, reap = reap, promote = promote, retry_after = retry_after,
  time_out = time_out, is_full = is_full, wait = wait, waited_by = waited_by, lifted_among_waiting = lifted_among_waiting,
}
end)

