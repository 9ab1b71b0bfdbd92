-- Voids a hold: no usage, and no event unless Envoy has reported a denial meanwhile. The id is remembered for a while, so that
-- an admission or a renewal that arrives after the release takes no hold.
--
-- ARGV  1 clock  2 request id  3 ms for which the id is remembered  4, 5 with a queue, see `leave_queue`
-- Reply 1, or 0 when there was no hold

if redis.call('EXISTS', FINISHED) == 1 then
  return 0
end
local held = redis.call('HGET', HOLDS, ARGV[2])
local hold = held and read_hold(held)
if hold then
  end_hold(ARGV[2], hold, -1, 0)
end
local report = hold and hold.report
if report then
  redis.call('XADD', EVENTS, '*', 't', '', 'e', report)
end
redis.call('SET', FINISHED, report and 'recorded' or 'released', 'PX', ARGV[3])
leave_queue(ARGV[2], 0)
return hold and 1 or 0
