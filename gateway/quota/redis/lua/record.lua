-- Ends a denied request: voids the hold that its admission may have taken, and appends its event. Once per request id.
-- One that is denied without a tenant leaves a hold alone: its admission came through, so it ends like any other. So does
-- one of another tenant, whose hold it cannot be.
--
-- ARGV  1 clock  2 request id  3 tenant id or ''  4 entry as JSON  5 how many events and holds there may be
--       6 ms for which the id is remembered
-- Reply 1, or 0 when there are so many already

local request_id = ARGV[2]
local ended = redis.call('GET', FINISHED)
local held = redis.call('HGET', HOLDS, request_id)
local hold = held and cjson.decode(held)
if ended == 'settled' or ended == 'recorded' or (hold and hold.tenant ~= tonumber(ARGV[3])) then
  return 1
end
if redis.call('XLEN', EVENTS) + redis.call('HLEN', HOLDS) - (held and 1 or 0) >= tonumber(ARGV[5]) then
  return 0
end
redis.call('XADD', EVENTS, '*', 't', ARGV[3], 'e', ARGV[4])
redis.call('SET', FINISHED, 'recorded', 'PX', ARGV[6])
if hold then
  free(request_id, hold, -1, 0)
end
return 1
