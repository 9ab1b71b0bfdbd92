-- Ends a denied request: voids the hold that its admission may have taken, and appends its event. At most once per request
-- id. A denial without a tenant voids no hold and appends nothing while there is one: the admission succeeded, so that
-- request is settled, and the hold keeps the denial in case it is released instead. A denial of another tenant than the hold's
-- does nothing.
--
-- ARGV  1 clock  2 request id  3 tenant id or ''  4 entry as JSON  5 maximum of waiting events
--       6 ms for which the id is remembered  7, 8 with a queue, see `leave_queue`
-- Reply 1, or 0 when that maximum is reached

local request_id = ARGV[2]
local ended = redis.call('GET', FINISHED)
local held = redis.call('HGET', HOLDS, request_id)
local hold = held and read_hold(held)
if ended == 'settled' or ended == 'recorded' or ended == 'reported' then
  return 1
end
if hold and hold.tenant ~= tonumber(ARGV[3]) then
  if ARGV[3] == '' then
    keep_report(request_id, held, ARGV[4])
  end
  return 1
end
if redis.call('XLEN', EVENTS) >= tonumber(ARGV[5]) then
  return 0
end
redis.call('XADD', EVENTS, '*', 't', ARGV[3], 'e', ARGV[4])
redis.call('SET', FINISHED, ARGV[3] == '' and 'reported' or 'recorded', 'PX', ARGV[6])
if hold then
  end_hold(request_id, hold, -1, 0)
  leave_queue(request_id, 0)
end
return 1
