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
  tenant, key = string.format('%.0f', tenant), string.format('%.0f', key)
  local found = redis.call('HMGET', VIRTUAL, 't' .. tenant, 'k' .. key, 'latest', 'latest:' .. tenant)
  local prefix = tenant .. '\t'
  local function lift(kind, subject, own, own_prefix, all_prefix, latest)
    own = tonumber(own or 0)
    if any_waits and line().first_member(WAITING, own_prefix) then
      return own
    end
    local least = any_waits and line().least_of(kind, line().distinct(WAITING, all_prefix))
    if not least and latest and latest ~= subject then
      least = virtual_tokens(kind .. latest)
    end
    return math.max(own, least or 0)
  end
  return lift('t', tenant, found[1], prefix, '', found[3]), lift('k', key, found[2], prefix .. key .. '\t', prefix, found[4])
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

