-- Voids a hold: no usage, no event. The id is remembered for a while, so that an admission or a renewal that arrives after
-- the release takes no hold.
--
-- ARGV  1 clock  2 request id  3 ms for which the id is remembered  4, 5 with a queue, see `leave_queue`
-- Reply 1, or 0 when there was no hold

if redis.call('EXISTS', FINISHED) == 1 then
  return 0
end
local held = redis.call('HGET', HOLDS, ARGV[2])
if held then
  end_hold(ARGV[2], cjson.decode(held), -1, 0)
end
redis.call('SET', FINISHED, 'released', 'PX', ARGV[3])
leave_queue(ARGV[2], 0)
return held and 1 or 0
