-- Begins a rebuild of a tenant's counters.
--
-- ARGV  1 clock  2 token  3 ms after which an abandoned rebuild expires
--       4 ms during which a new epoch rebuilds nothing, so that lost holds and entries are resubmitted before the count
-- Reply {'begun', ms, name of the epoch}   {'ready'}: the counters are valid
--       {'busy'}: the epoch is not open, a hold of another layout is left, or another rebuild is in progress

local now = clock()
if not counts_all_holds() then
  return {'busy'}
end
if is_ready(now) then
  return {'ready'}
end
local name, left_ms = epoch(now, tonumber(ARGV[4]))
if left_ms > 0 then
  return {'busy'}
end
if not redis.call('SET', REBUILD, rebuild_of(ARGV[2]), 'NX', 'PX', ARGV[3]) then
  return {'busy'}
end
redis.call('UNLINK', STAGED)
return {'begun', now, name}
