-- How a slot of a replica is granted.
local granting = lazily(function()

local function add_slot(request_id, slot, deadline)
  store_slot(request_id, slot)
  redis.call('ZADD', LEASES, integer(deadline), request_id)
  count_running(slot.replica, 1, 'reap_at', first_deadline(deadline))
end

-- The candidate of the pool whose slot a request takes, nil when there is none: one with a free slot, or else one that may get one
-- request more to learn its slots. `older` is that of a trial, which then begins with the request. No trial begins with one that moves.
local function free_replica(now, pool)
  local candidates, best, full = capacity().candidates_of(pool), nil, {}
  local model, are_all_suspended = candidates[1], capacity().are_all_suspended(now, candidates)
  for i = 2, #candidates do
    local name, rank = unpack(candidates[i])
    local each = {name = name, rank = rank, running = number('running:' .. name)}
    each.slots, each.is_learnt = capacity().slots_of(name)
    local is_usable = are_all_suspended or not capacity().is_suspended(now, name)
    if is_usable and each.running < each.slots then
      if not best or each.rank < best.rank
        or (each.rank == best.rank and each.running * best.slots < best.running * each.slots) then
        best = each
      end
    elseif is_usable and model and each.is_learnt and each.running == each.slots then
      full[#full + 1] = each
    end
  end
  if best then
    if model and best.is_learnt and best.slots > 1 and best.running == best.slots - 1 then
      best.older = learning().plan_trial(now, best.name, model, best.slots, best.running)
    end
    return best
  end
  for _, each in ipairs(full) do
    each.older = learning().plan_trial(now, each.name, model, each.slots, each.running)
    if each.older then
      return each
    end
  end
end

-- Sets the counters of a request's tenant and key to these values; `...` are further fields and values.
local function set_counters(request, of_tenant, of_key, ...)
  redis.call('HSET', VIRTUAL, string.format('t%d', request.tenant), integer(of_tenant),
    string.format('k%d', request.key), integer(of_key), ...)
end

-- Grants a slot of a replica that `free_replica` returned. `of_tenant` and `of_key` are the counters of a new request.
local function grant(now, request_id, ticket, replica, waited, of_tenant, of_key)
  local slot = {
    replica = replica.name, tenant = ticket.tenant, key = ticket.key, weight = ticket.weight, charged = ticket.charged,
    arrived = ticket.arrived, waited = waited, attempt = ticket.attempt,
  }
  local model = capacity().candidates_of(ticket.pool)[1]
  -- The times of the meter began before a request moved, so they prove nothing.
  if replica.is_learnt and model then
    -- A ticket that gets its turn is not on its way before its owner has noticed; see `pick_up`.
    slot.auto, slot.model = true, model
    slot.at = of_tenant and now or nil
  end
  if replica.older then
    learning().begin_trial(replica.name, request_id, replica.running == replica.slots, replica.older)
  end
  local tokens = math.max(ticket.input, ticket.charged)
  if of_tenant then
    local amount = price(slot, tokens)
    set_counters(slot, of_tenant + amount, of_key + amount, 'latest', integer(slot.tenant),
      string.format('latest:%d', slot.tenant), integer(slot.key))
  else
    charge(slot, tokens)
    redis.call('HSET', VIRTUAL, 'latest', integer(slot.tenant), string.format('latest:%d', slot.tenant),
      integer(slot.key))
  end
  add_slot(request_id, slot, now + TICKET_LEASE_MS)
  return {'turn', slot.replica, slot.arrived, slot.waited}
end

return {
  add_slot = add_slot, free_replica = free_replica, set_counters = set_counters, grant = grant,
}
end)

