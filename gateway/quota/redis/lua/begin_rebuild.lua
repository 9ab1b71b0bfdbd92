-- Begins a rebuild of a tenant's counters.
--
-- ARGV  1 clock  2 tenant id  3 token  4 ms after which an abandoned rebuild expires
--       5 ms during which a new epoch rebuilds nothing, so that lost holds and entries are resubmitted before the count
-- Reply {'begun', ms, entry as JSON, ...}: the tenant's events that wait for the ledger
--       {'ready'}: the counters are valid   {'busy'}: the epoch is not open, or another rebuild is in progress

local now = clock()
if is_ready(now) then
  return {'ready'}
end
local _, left_ms = epoch(now, tonumber(ARGV[5]))
if left_ms > 0 then
  return {'busy'}
end
if not redis.call('SET', REBUILD, ARGV[3], 'NX', 'PX', ARGV[4]) then
  return {'busy'}
end
local reply = {'begun', now}
for _, event in ipairs(redis.call('XRANGE', EVENTS, '-', '+')) do
  local fields = {}
  for i = 1, #event[2], 2 do
    fields[event[2][i]] = event[2][i + 1]
  end
  if fields.t == ARGV[2] and fields.e then
    table.insert(reply, fields.e)
  end
end
return reply
