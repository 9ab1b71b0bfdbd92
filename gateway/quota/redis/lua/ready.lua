-- Whether a tenant has valid counters.
--
-- ARGV  1 clock
-- Reply the time in ms, or 0 when there are no valid counters

local now = clock()
if not is_ready(now) or not counts_all_holds() then
  return 0
end
drop_stale_held()
return now
