-- Makes all checks and reserves everything, or reserves nothing. The tests' `decision.py` and `window.py` do the same.
--
-- ARGV  1 clock  2 request id  3 idempotency token  4 tenant id  5 key id  6 estimated input tokens
--       7 requested output tokens  8 lease in ms  9 backlog_max  10 draft of the grant  11 model
--       12..17 key: rpm, tpm, concurrent, budgets of day, month and total (-1 for none)  18..23 tenant: the same
--       24 running_max  25 '1': the count of the input is a sample for the calibration
--       with a queue: 26 pool  27 slots of its candidates  28 weight  29 class  30 bytes of the body  31 owner  32 time of
--       arrival in ms, 0 for now  33 maximum wait in ms  34 maximum of tickets and 35 of their bytes  36, 37 see `leave_queue`
-- Reply {status, admitted at in ms, input tokens held, output cap, retry after in s or -1,
--        requests limit, remaining, tokens limit, remaining, period of the budget or '', remaining,
--        s until both windows are empty, replica or '', ms in the queue}
--       status: 'admitted', 'waiting', or the code of the denial
--       {'rebuild'}: there are no valid counters   {'used'}: the request id was used before

local now = clock()
local request_id, idempotency_token = ARGV[2], ARGV[3]
local model, estimate, requested = ARGV[11], tonumber(ARGV[6]), tonumber(ARGV[7])
local input = corrected(model, estimate)

local today = day_of(now)
local fields = fields_of(tonumber(ARGV[5]), today.day, today.month)
local known_used = redis.call('HMGET', COUNTERS, unpack(fields.used))
local is_counted, running, generation = counts_all_holds()
if not is_valid(known_used[7], known_used[8], today.day) or not is_counted then
  return {'rebuild'}
end
local held = redis.call('HGET', HOLDS, request_id)
local hold = held and cjson.decode(held)
if (hold and hold.idempotency_token ~= idempotency_token) or redis.call('EXISTS', FINISHED) == 1 then
  return {'used'}
end

-- Redis refuses this first write when it is out of memory, so that an admission is never half done.
redis.call('HSET', COUNTERS, 'day', today.day)
prune(today, known_used[8], known_used[9])
local known_held = redis.call('HMGET', HELD, unpack(fields.held))
if known_held[9] ~= generation then
  renew_held(generation)
  known_held = {}
end

local key_window, tenant_window = load_window(KEY_WINDOW, now), load_window(TENANT_WINDOW, now)
-- The time of the windows never goes back.
local at = math.max(now, key_window.last, tenant_window.last)
drop(key_window, at)
drop(tenant_window, at)
local both = {
  load_subject(key_window, known_held[8], 12, 4, today.periods, known_used, known_held),
  load_subject(tenant_window, known_held[7], 18, 1, today.periods, known_used, known_held),
}

if hold and not hold.parked then
  -- The same call was carried out before, and its reply was lost with the connection.
  return answer(both, now, 'admitted', hold.at, hold.input, hold.cap, NEVER, hold.replica, hold.queued)
end

-- A request that arrives is checked before it takes a place. One that waits is checked when it is its turn.
local parked, place, status, cap, retry = hold, nil, 'admitted', 0, NEVER
if not parked then
  status, cap, retry = decide(both, now, running, input, requested, false)
end
if status == 'admitted' and has_queue() then
  place = take_turn(now, request_id, input)
  if PLACES[place[1]] then
    status, retry = PLACES[place[1]], place[2]
  elseif place[1] == 'waiting' then
    if parked then
      redis.call('ZADD', DEADLINES, integer(now + tonumber(ARGV[8])), request_id)
      return answer(both, now, 'waiting', parked.at, 0, 0, NEVER, '', place[2])
    end
    status, input, cap = 'waiting', 0, 0
  end
end
local replica, queued
if place and place[1] == 'turn' then
  replica, queued = place[2], place[4]
  if parked then
    status, cap, retry = decide(both, now, running, input, requested, true)
  end
end
if status ~= 'admitted' and status ~= 'waiting' then
  if replica then
    leave_queue(request_id, 0)
  end
  return answer(both, now, status, 0, 0, 0, retry)
end

if parked then
  remove_hold(parked)
end
hold = {
  idempotency_token = idempotency_token, tenant = tonumber(ARGV[4]), key = tonumber(ARGV[5]), at = now, day = today.day,
  month = today.month, second = quotient(at, 1000), arrived = parked and parked.second, model = model,
  estimate = ARGV[25] == '1' and status == 'admitted' and estimate or nil, input = input, cap = cap,
  grant = seal(ARGV[10], now, input, cap, replica, queued), ['in'] = 0, out = 0, bytes = 0,
  parked = status == 'waiting' or nil, replica = replica, queued = queued,
}
-- The values that were read before still include a parked hold.
if parked then
  add_hold(hold)
else
  add_hold(hold, known_held)
end
redis.call('HSET', HOLDS, request_id, cjson.encode(hold))
redis.call('ZADD', DEADLINES, integer(now + tonumber(ARGV[8])), request_id)
for _, each in ipairs(both) do
  count(each.window, at, parked and 0 or 1, input + cap)
  for _, budget in ipairs(each.budgets) do
    budget.left = budget.left - input - cap
  end
end
return answer(both, now, status, now, input, cap, NEVER, replica, queued or (place and place[2]))
