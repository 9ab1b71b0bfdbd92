-- Extends the deadline of a hold and stores its progress. A hold that Redis has lost is re-established without any check,
-- because its request is running.
--
-- ARGV  1 clock  2 request id  3 tenant id  4 key id  5 lease in ms  6 input and 7 output tokens and 8 bytes so far
--       9 admitted at in ms  10 day and 11 month of the admission  12 input tokens held  13 output cap  14 grant
-- Reply 1, or 0 when the request is finished

local request_id = ARGV[2]
local held = redis.call('HGET', HOLDS, request_id)
local hold
if held then
  hold = cjson.decode(held)
elseif redis.call('EXISTS', FINISHED) == 1 then
  return 0
else
  hold = {
    idempotency_token = '', tenant = tonumber(ARGV[3]), key = tonumber(ARGV[4]), at = tonumber(ARGV[9]),
    day = ARGV[10], month = ARGV[11], input = tonumber(ARGV[12]), cap = tonumber(ARGV[13]), grant = ARGV[14],
  }
  if redis.call('HEXISTS', COUNTERS, 'ready') == 1 then
    add_hold(hold)
  end
end
hold['in'], hold.out, hold.bytes = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
redis.call('HSET', HOLDS, request_id, cjson.encode(hold))
redis.call('ZADD', DEADLINES, clock() + tonumber(ARGV[5]), request_id)
return 1
