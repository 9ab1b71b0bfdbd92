-- How a request gets a slot or becomes a ticket.
--
-- `ticket` is the ticket of a call, whose `arrived` is 0 for now. `rules` has wait_max (ms), tickets_max, bytes_max and
-- ended_ttl (ms for which the id is remembered, in scripts with ENDED). A place is a reply of enter.lua.
local arrivals = lazily(function()

local function has_timed_out(now, arrived, rules)
  return now >= arrived + rules.wait_max
end

-- The counters of the tenant and the key of a new request. Each that has no ticket is lifted to the lowest counter of those that
-- wait, or else to that of the one that got the latest slot. `any_waits` is whether there are tickets.
local function lifted(tenant, key, any_waits)
  tenant, key = integer(tenant), integer(key)
  local of_tenant, of_key, latest_tenant, latest_key =
    unpack(redis.call('HMGET', VIRTUAL, 't' .. tenant, 'k' .. key, 'latest', 'latest:' .. tenant))
  if any_waits then
    return line().lifted_among_waiting(tenant, key, of_tenant, of_key, latest_tenant, latest_key)
  end
  return lifted_to_latest('t', tenant, of_tenant, latest_tenant), lifted_to_latest('k', key, of_key, latest_key)
end

-- The place of a request that is unknown.
local function take_place(now, request_id, ticket, rules, can_grant, waits)
  local is_new = ticket.arrived == 0
  if is_new then
    ticket.arrived = now
  end
  if has_timed_out(now, ticket.arrived, rules) then
    return line().time_out(rules)
  end
  local replica = can_grant and granting().free_replica(now, ticket.pool)
  if not replica and is_new and line().is_full(ticket, rules) then
    return {'full', line().retry_after()}
  end
  local of_tenant, of_key = lifted(ticket.tenant, ticket.key, waits and any_waits())
  if replica then
    return granting().grant(now, request_id, ticket, replica, math.max(0, now - ticket.arrived), of_tenant, of_key)
  end
  granting().set_counters(ticket, of_tenant, of_key)
  line().wait(now, request_id, ticket, rules)
  return {'waiting', ticket.arrived}
end

-- The place of a request that arrives for the first time.
local function arrive(now, request_id, ticket, rules)
  return take_place(now, request_id, ticket, rules, advance(now))
end

return {has_timed_out = has_timed_out, take_place = take_place, arrive = arrive}
end)

