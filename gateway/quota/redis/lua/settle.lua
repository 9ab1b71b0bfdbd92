-- Replaces a hold by the actual usage, and appends the ledger event. At most once per request id. Envoy's report
-- that a request failed does not end it: after a loss of data it may be submitted again before the settlement.
--
-- ARGV  1 clock  2 request id  3 tenant id  4 key id  5 tokens used  6 day of the admission  7 entry as JSON
--       8 ms for which the id is remembered  9 '1': only if the hold has expired  10 input tokens if counted, else -1
--       11 ms from the admission to the first token and 12 to the end, -1 when unknown  13, 14 with a queue, see `leave_queue`
-- Reply 1, or 0 when nothing changed

local request_id, tokens = ARGV[2], tonumber(ARGV[5])

if ARGV[9] == '1' then
  local deadline = redis.call('ZSCORE', DEADLINES, request_id)
  if not deadline or tonumber(deadline) > clock() then
    return 0
  end
end
local ended = redis.call('GET', FINISHED)
if ended and ended ~= 'reported' then
  return 0
end

-- Redis accepts this first write even when it is out of memory, because settling frees memory. It also voids a rebuild
-- that has read the events before this one.
redis.call('DEL', REBUILD)
local held = redis.call('HGET', HOLDS, request_id)
if held then
  local hold = read_hold(held)
  end_hold(request_id, hold, 0, tokens)
  local counted = tonumber(ARGV[10])
  if hold.estimate and counted >= 0 then
    learn(hold.model, hold.estimate, counted)
  end
end
if tokens > 0 then
  local fields = fields_of(tonumber(ARGV[4]), ARGV[6]).used
  local values = redis.call('HMGET', COUNTERS, unpack(fields))
  if values[7] then
    use_tokens(fields, values, tokens)
  end
end
redis.call('SET', FINISHED, 'settled', 'PX', ARGV[8])
redis.call('XADD', EVENTS, '*', 't', ARGV[3], 'e', ARGV[7])
leave_queue(request_id, tokens, tonumber(ARGV[11]), tonumber(ARGV[12]))
return 1
