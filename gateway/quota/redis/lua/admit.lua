-- Makes all checks and reserves everything, or reserves nothing. The tests' `decision.py` and `window.py` do the same.
--
-- ARGV  1 clock  2 request id  3 idempotency token  4 caller  5 bounds  6 model  7 estimated input tokens
--       8 requested output tokens  9 draft of the grant  10 '1': the count of the input is a sample for the calibration
--       with a queue: 11 pool  12 slots of its candidates  13 owner  14 bytes of the body  15 time of arrival in ms,
--       0 for now
--       Two are JSON objects that many requests have, see `decoded`:
--       caller  tenant, key, and of_tenant and of_key, each with rpm, tpm, concurrent, and budgets of day, month and total (-1 for
--               none); with a queue also weight and class
--       bounds  hold_lease_ms, backlog_max, running_max; with a queue also wait_max (ms), tickets_max, bytes_max, and ticket_lease_ms and
--               restore_ms, see `open_queue`
-- Reply {status, admitted at in ms, input tokens held, output cap, retry after in s or -1,
--        requests limit, remaining, tokens limit, remaining, period of the budget or '', remaining,
--        s until both windows are empty, replica or '', ms in the queue}
--       status: 'admitted', 'waiting', or the code of the denial
--       {'rebuild'}: there are no valid counters   {'used'}: the request id was used before

local now = clock()
local request_id, idempotency_token, caller, bounds = ARGV[2], ARGV[3], decoded(ARGV[4]), decoded(ARGV[5])
local model, estimate, requested = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local input = corrected(model, estimate)

local today = day_of(now)
local fields, names = fields_of(caller.key, today.day), {'ready', 'day', 'prune'}
local of_key = begin_subject(caller.of_key, fields.used, 4, today.periods, names)
local of_tenant = begin_subject(caller.of_tenant, fields.used, 1, today.periods, names)
local used = redis.call('HMGET', COUNTERS, unpack(names))
local is_counted, running, generation = counts_all_holds()
if not is_valid(used[1], used[2], today.day) or not is_counted then
  return {'rebuild'}
end
local held = redis.call('HGET', HOLDS, request_id)
local hold = held and read_hold(held)
if (hold and hold.idempotency_token ~= idempotency_token) or redis.call('EXISTS', FINISHED) == 1 then
  return {'used'}
end

-- Redis refuses this first write when it is out of memory, so that an admission is never half done.
redis.call('HSET', COUNTERS, 'day', today.day)
prune(today, used[2], used[3])
local known_held = redis.call('HMGET', HELD, unpack(fields.held))
if known_held[4] ~= generation then
  renew_held(generation)
  known_held = {}
end

local key_window, tenant_window = load_window(KEY_WINDOW, now), load_window(TENANT_WINDOW, now)
-- The time of the windows never goes back.
local at = math.max(now, key_window.last, tenant_window.last)
drop(key_window, at)
drop(tenant_window, at)
local held_by_tenant, held_by_key = held_sums(known_held, caller.key, today.day)
load_subject(of_key, key_window, used, held_by_key)
load_subject(of_tenant, tenant_window, used, held_by_tenant)
local both = {of_key, of_tenant}

if hold and not hold.parked then
  -- The same call was carried out before, and its reply was lost with the connection.
  return answer(both, now, 'admitted', hold.at, hold.input, hold.cap, NEVER, hold.replica, hold.queued)
end

-- A request that arrives is checked before it takes a place. One that waits is checked when it is its turn.
local deadline = now + bounds.hold_lease_ms
local parked, place, status, cap, retry = hold, nil, 'admitted', 0, NEVER
if not parked then
  status, cap, retry = decide(both, bounds, now, running, input, requested, false)
end
if status == 'admitted' and has_queue() then
  place = take_turn(now, request_id, input, caller, bounds)
  if PLACES[place[1]] then
    status, retry = PLACES[place[1]], place[2]
  elseif place[1] == 'waiting' then
    if parked then
      redis.call('ZADD', DEADLINES, integer(deadline), request_id)
      return answer(both, now, 'waiting', parked.at, 0, 0, NEVER, '', place[2])
    end
    status, input, cap = 'waiting', 0, 0
  end
end
local replica, queued
if place and place[1] == 'turn' then
  replica, queued = place[2], place[4]
  if parked then
    status, cap, retry = decide(both, bounds, now, running, input, requested, true)
  end
end
if status ~= 'admitted' and status ~= 'waiting' then
  if replica then
    leave(request_id, 0, -1, -1)
  end
  return answer(both, now, status, 0, 0, 0, retry)
end

if parked then
  remove_hold(parked)
end
hold = {
  idempotency_token = idempotency_token, tenant = caller.tenant, key = caller.key, at = now, day = today.day,
  second = quotient(at, 1000), arrived = parked and parked.second, model = model,
  estimate = ARGV[10] == '1' and status == 'admitted' and estimate or nil, input = input, cap = cap,
  parked = status == 'waiting' or nil, replica = replica, queued = queued,
}
-- The values that were read before still include a parked hold.
if parked then
  add_hold(hold)
else
  add_hold(hold, known_held)
end
store_hold(request_id, hold, '\n' .. seal(ARGV[9], now, input, cap, replica, queued), deadline)
for _, each in ipairs(both) do
  count(each.window, at, parked and 0 or 1, input + cap)
  for _, budget in ipairs(each.budgets) do
    budget.left = budget.left - input - cap
  end
end
return answer(both, now, status, now, input, cap, NEVER, replica, queued or (place and place[2]))
