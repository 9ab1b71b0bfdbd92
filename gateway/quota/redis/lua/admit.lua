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
--
-- A window is a hash. Per second it has `<s>:n` (requests), `<s>:t` (tokens) and `<s>:m` (time in ms of the youngest
-- request). It also has the sums `requests` and `tokens`, `oldest` (no earlier second has a bucket) and `last` (time in ms
-- of the youngest request of all).

local WINDOW_MS, WINDOW_TTL_MS = 60000, 180000
local NEVER = -1
-- Fields of COUNTERS that one admission checks. A request adds fewer.
local PRUNE_SLICE = 100

local now = clock()
local request_id, idempotency_token = ARGV[2], ARGV[3]
local model, estimate, requested = ARGV[11], tonumber(ARGV[6]), tonumber(ARGV[7])
local input = corrected(model, estimate)

local function days_in(year, month)
  if month == 2 then
    return (year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)) and 29 or 28
  end
  return (month == 4 or month == 6 or month == 9 or month == 11) and 30 or 31
end

local today, year, month, day = calendar(now)
local this_day = string.format('%04d-%02d-%02d', year, month, day)
local this_month = string.format('%04d-%02d', year, month)
local PERIODS = {
  {name = 'day', resets = (today + 1) * DAY_MS},
  {name = 'month', resets = (today - day + 1 + days_in(year, month)) * DAY_MS},
  {name = 'total', resets = NEVER},
}
-- A hold of this request, and the fields that it counts in: those of the tenant, then those of the key.
local scope = {key = ARGV[5], day = this_day, month = this_month}
local USED_FIELDS, HELD_FIELDS = token_fields('used', scope), held_fields(scope)
local known_used, known_held

local this_second = quotient(now, 1000)

-- `n` and `t` are those of the present second.
local function load_window(key)
  local n, t = this_second .. ':n', this_second .. ':t'
  local found = redis.call('HMGET', key, 'requests', 'tokens', 'oldest', 'last', n, t)
  local last = tonumber(found[4] or 0)
  if last == 0 or now - last >= WINDOW_MS or last - now > WINDOW_MS then
    return {key = key, requests = 0, tokens = 0, last = 0, n = 0, t = 0, stale = last ~= 0}
  end
  return {
    key = key, requests = tonumber(found[1]), tokens = tonumber(found[2]), oldest = tonumber(found[3]), last = last,
    n = tonumber(found[5] or 0), t = tonumber(found[6] or 0),
  }
end

local function bucket(window, second)
  local found = redis.call('HMGET', window.key, second .. ':n', second .. ':t', second .. ':m')
  return tonumber(found[1] or 0), tonumber(found[2] or 0), tonumber(found[3] or 0)
end

-- Drops the buckets that have left the window at `at` (ms).
local function drop(window, at)
  if window.stale then
    redis.call('DEL', window.key)
  end
  if not window.oldest then
    return
  end
  local second = window.oldest
  while second * 1000 + WINDOW_MS <= at do
    local n, t, youngest = bucket(window, second)
    if youngest + WINDOW_MS > at then
      break
    end
    if youngest > 0 then
      redis.call('HDEL', window.key, second .. ':n', second .. ':t', second .. ':m')
      window.requests, window.tokens = window.requests - n, window.tokens - t
    end
    second = second + 1
  end
  if second ~= window.oldest then
    window.oldest = second
    redis.call('HSET', window.key, 'oldest', second, 'requests', window.requests, 'tokens', window.tokens)
  end
end

-- The time (ms) at which the window falls to these maxima if nothing is added.
local function free_at(window, requests_max, tokens_max)
  if requests_max < 0 or tokens_max < 0 then
    return NEVER
  end
  local requests, tokens, at = window.requests, window.tokens, 0
  local second = window.oldest
  while requests > requests_max or tokens > tokens_max do
    local n, t, youngest = bucket(window, second)
    if youngest > 0 then
      requests, tokens, at = requests - n, tokens - t, youngest + WINDOW_MS
    end
    second = second + 1
  end
  return at
end

local function count(window, at, requests, tokens)
  local second, n, t = quotient(at, 1000), window.n, window.t
  if second ~= this_second then
    n, t = bucket(window, second)
  end
  window.requests, window.tokens, window.last = window.requests + requests, window.tokens + tokens, at
  redis.call('HSET', window.key, second .. ':n', n + requests, second .. ':t', t + tokens, second .. ':m', at, 'last', at,
    'oldest', window.oldest or second, 'requests', window.requests, 'tokens', window.tokens)
  -- Once a second is enough, because the window lives longer than its buckets.
  if n == 0 then
    redis.call('PEXPIRE', window.key, WINDOW_TTL_MS)
  end
end

-- `first_argument` is the first of its limits, `first_field` of its tokens in USED_FIELDS and HELD_FIELDS.
local function load_subject(window, in_flight, first_argument, first_field)
  local subject = {
    window = window, in_flight = tonumber(in_flight or 0), budgets = {},
    rpm = tonumber(ARGV[first_argument]), tpm = tonumber(ARGV[first_argument + 1]),
    concurrent = tonumber(ARGV[first_argument + 2]),
  }
  for i, period in ipairs(PERIODS) do
    local limit = tonumber(ARGV[first_argument + 2 + i])
    if limit >= 0 then
      local used, held = tonumber(known_used[first_field + i - 1] or 0), tonumber(known_held[first_field + i - 1] or 0)
      table.insert(subject.budgets, {period = period, limit = limit, used = used, left = limit - used - held})
    end
  end
  return subject
end

-- The reply. The limits are those with the least remaining: of key and tenant, and of all budgets.
local function answer(both, status, at, input_held, cap, retry_after, replica, queued)
  local by_requests, by_tokens, budget, resets = both[1], both[1], nil, now
  for _, each in ipairs(both) do
    if each.rpm - each.window.requests < by_requests.rpm - by_requests.window.requests then
      by_requests = each
    end
    if each.tpm - each.window.tokens < by_tokens.tpm - by_tokens.window.tokens then
      by_tokens = each
    end
    if each.window.last > 0 then
      resets = math.max(resets, each.window.last + WINDOW_MS)
    end
    for _, candidate in ipairs(each.budgets) do
      if not budget or candidate.left < budget.left then
        budget = candidate
      end
    end
  end
  return {
    status, at, input_held, cap, retry_after,
    by_requests.rpm, math.max(0, by_requests.rpm - by_requests.window.requests),
    by_tokens.tpm, math.max(0, by_tokens.tpm - by_tokens.window.tokens),
    budget and budget.period.name or '', budget and math.max(0, budget.left) or 0,
    math.ceil((resets - now) / 1000), replica or '', queued or 0,
  }
end

-- `running` is the number of holds. `is_counted` means that the request waited, so that its arrival has passed the checks of
-- requests and is counted.
local function decide(both, running, is_counted)
  local denials, denied, latest, known = {}, false, now, true
  local function deny(code, passes_at)
    denials[code], denied = true, true
    known = known and passes_at ~= NEVER
    latest = math.max(latest, passes_at)
  end

  if not is_counted and redis.call('XLEN', EVENTS) >= tonumber(ARGV[9]) then
    deny('audit_backlog', NEVER)
  end
  if not is_counted and running >= tonumber(ARGV[24]) then
    deny('unavailable', NEVER)
  end
  local least, most = input + math.min(requested, 1), requested
  for _, each in ipairs(both) do
    if not is_counted and each.window.requests + 1 > each.rpm then
      deny('rate_limit_exceeded', free_at(each.window, each.rpm - 1, each.window.tokens))
    end
    if not is_counted and each.in_flight + 1 > each.concurrent then
      deny('concurrency_exceeded', NEVER)
    end
    most = math.min(most, each.tpm - input)
  end
  local cap = most
  for _, each in ipairs(both) do
    for _, budget in ipairs(each.budgets) do
      cap = math.min(cap, budget.left - input)
      if budget.limit - budget.used < least then
        deny('budget_exhausted', budget.limit >= least and budget.period.resets or NEVER)
      elseif budget.left < least then
        deny('budget_reserved', NEVER)
      end
    end
  end
  if input + most < least then
    deny('token_rate_exceeded', NEVER)
  else
    local fits = true
    for _, each in ipairs(both) do
      fits = fits and each.window.tokens + input + cap <= each.tpm
    end
    -- A request that is denied for another reason is checked with the most output that it can get: a budget that
    -- shortens it now may have been reset by the time of the retry.
    if denied or not fits then
      for _, each in ipairs(both) do
        if each.window.tokens + input + most > each.tpm then
          deny('token_rate_exceeded', free_at(each.window, each.window.requests, each.tpm - input - most))
        end
      end
    end
  end

  if not denied then
    return 'admitted', cap, NEVER
  end
  local retry_after = known and math.max(1, math.ceil((latest - now) / 1000)) or NEVER
  for _, code in ipairs({'audit_backlog', 'unavailable', 'rate_limit_exceeded', 'concurrency_exceeded',
    'budget_exhausted', 'budget_reserved', 'token_rate_exceeded'}) do
    if denials[code] then
      return code, 0, retry_after
    end
  end
end

-- Deletes the usage of past periods in the next slice of COUNTERS. A new day begins a pass over all slices, unless a pass is
-- unfinished. Until then past periods take memory, but nothing reads them.
local function prune(day_of_counters, cursor)
  cursor = cursor or (day_of_counters ~= this_day and '0')
  if not cursor then
    return
  end
  local scanned = redis.call('HSCAN', COUNTERS, cursor, 'COUNT', PRUNE_SLICE)
  for i = 1, #scanned[2], 2 do
    local kind, date = string.match(scanned[2][i], '^used:%w+:(%w+):([%d-]+)$')
    if (kind == 'day' and date < this_day) or (kind == 'month' and date < this_month) then
      redis.call('HDEL', COUNTERS, scanned[2][i])
    end
  end
  if scanned[1] == '0' then
    redis.call('HDEL', COUNTERS, 'prune')
  else
    redis.call('HSET', COUNTERS, 'prune', scanned[1])
  end
end

-- The grant with this decision appended; `gateway.record.grant.seal` does the same.
local function seal(draft, at, input, cap, replica, queued)
  local decision = string.format(',"admitted_at_ms":%.0f,"input_estimate":%.0f,"output_cap":%.0f', at, input, cap)
  if replica then
    decision = decision .. string.format(',"replica":"%s","queued_ms":%.0f', replica, queued)
  end
  return string.sub(draft, 1, -2) .. decision .. '}'
end

-- The place of the request in the queue, as in enter.lua. A slot is granted at once, or waited for.
local function take_turn()
  local is_new = ARGV[32] == '0'
  open_queue(REQUEST_KEYS_COUNT + 1, ARGV[36], ARGV[37])
  -- The numbers of a request that arrives are those of the newest catalog. One that waits has older numbers, which are used when
  -- Redis has lost its data.
  capacity().use_slots(ARGV[26], ARGV[27], is_new)
  local ticket = {
    pool = ARGV[26], tenant = tonumber(ARGV[4]), key = tonumber(ARGV[5]), weight = tonumber(ARGV[28]),
    class = tonumber(ARGV[29]), input = input, bytes = tonumber(ARGV[30]), owner = ARGV[31], arrived = tonumber(ARGV[32]),
    charged = 0,
  }
  local step = is_new and arrivals().arrive or turns().enter
  return step(now, request_id, ticket, {
    wait_max = tonumber(ARGV[33]), tickets_max = tonumber(ARGV[34]), bytes_max = tonumber(ARGV[35]),
  })
end

local PLACES = {full = 'queue_full', timeout = 'queue_timeout'}

USED_FIELDS[7], USED_FIELDS[8], USED_FIELDS[9] = 'ready', 'day', 'prune'
known_used = redis.call('HMGET', COUNTERS, unpack(USED_FIELDS))
local is_counted, running, generation = counts_all_holds()
if not is_valid(known_used[7], known_used[8], this_day) or not is_counted then
  return {'rebuild'}
end
local held = redis.call('HGET', HOLDS, request_id)
local hold = held and cjson.decode(held)
if (hold and hold.idempotency_token ~= idempotency_token) or redis.call('EXISTS', FINISHED) == 1 then
  return {'used'}
end

-- Redis refuses this first write when it is out of memory, so that an admission is never half done.
redis.call('HSET', COUNTERS, 'day', this_day)
prune(known_used[8], known_used[9])
HELD_FIELDS[9] = 'generation'
known_held = redis.call('HMGET', HELD, unpack(HELD_FIELDS))
if known_held[9] ~= generation then
  renew_held(generation)
  known_held = {}
end

local key_window, tenant_window = load_window(KEY_WINDOW), load_window(TENANT_WINDOW)
-- The time of the windows never goes back.
local at = math.max(now, key_window.last, tenant_window.last)
drop(key_window, at)
drop(tenant_window, at)
local both = {load_subject(key_window, known_held[8], 12, 4), load_subject(tenant_window, known_held[7], 18, 1)}

if hold and not hold.parked then
  -- The same call was carried out before, and its reply was lost with the connection.
  return answer(both, 'admitted', hold.at, hold.input, hold.cap, NEVER, hold.replica, hold.queued)
end

-- A request that arrives is checked before it takes a place. One that waits is checked when it is its turn.
local parked, place, status, cap, retry = hold, nil, 'admitted', 0, NEVER
if not parked then
  status, cap, retry = decide(both, running, false)
end
if status == 'admitted' and has_queue() then
  place = take_turn()
  if PLACES[place[1]] then
    status, retry = PLACES[place[1]], place[2]
  elseif place[1] == 'waiting' then
    if parked then
      redis.call('ZADD', DEADLINES, now + tonumber(ARGV[8]), request_id)
      return answer(both, 'waiting', parked.at, 0, 0, NEVER, '', place[2])
    end
    status, input, cap = 'waiting', 0, 0
  end
end
local replica, queued
if place and place[1] == 'turn' then
  replica, queued = place[2], place[4]
  if parked then
    status, cap, retry = decide(both, running, true)
  end
end
if status ~= 'admitted' and status ~= 'waiting' then
  if replica then
    leave_queue(request_id, 0)
  end
  return answer(both, status, 0, 0, 0, retry)
end

if parked then
  remove_hold(parked)
end
hold = {
  idempotency_token = idempotency_token, tenant = tonumber(ARGV[4]), key = tonumber(ARGV[5]), at = now, day = this_day,
  month = this_month, second = quotient(at, 1000), arrived = parked and parked.second, model = model,
  estimate = ARGV[25] == '1' and status == 'admitted' and estimate or nil, input = input, cap = cap,
  grant = seal(ARGV[10], now, input, cap, replica, queued), ['in'] = 0, out = 0, bytes = 0,
  parked = status == 'waiting' or nil, replica = replica, queued = queued,
}
-- The values that were read before still include a parked hold.
if parked then
  add_hold(hold)
else
  add_hold(hold, HELD_FIELDS, known_held)
end
redis.call('HSET', HOLDS, request_id, cjson.encode(hold))
redis.call('ZADD', DEADLINES, now + tonumber(ARGV[8]), request_id)
for _, each in ipairs(both) do
  count(each.window, at, parked and 0 or 1, input + cap)
  for _, budget in ipairs(each.budgets) do
    budget.left = budget.left - input - cap
  end
end
return answer(both, status, now, input, cap, NEVER, replica, queued or (place and place[2]))
