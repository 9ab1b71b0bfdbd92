-- What the scripts share. It is put before each of them.
--
-- KEYS, the same for every script; those about a tenant are given the first seven, those about a shard the first four.
-- All of them carry the shard's hash tag, so they lie in one slot.
--   1 HOLDS      hash    request id -> hold as JSON
--   2 DEADLINES  zset    request id by the millisecond at which its hold expires
--   3 EVENTS     stream  ledger events; fields: t tenant id or '', e entry as JSON
--   4 EPOCH      hash    run id of the Redis process, and `since` when (ms) it has been running with what it knows
--   5 COUNTERS   hash    of one tenant and its keys, see below
--   6 REBUILD    string  token of the rebuild of COUNTERS that is under way
--   7 CALIBRATION  hash  of one tenant: per model, how its input compares with what was estimated, see calibration.lua
--   8 TENANT_WINDOW, 9 KEY_WINDOW  hash  see admit.lua
--  10 FINISHED   string  how a request id ended, while that is remembered: 'settled', 'recorded' or 'released'
--
-- COUNTERS: the subject S is 't' for the tenant or 'k<id>' for a key, the period P is 'day:2025-11-21',
-- 'month:2025-11' or 'total'. A field that is not there is 0, but only while `ready` is there too.
--   ready     run id of the Redis process that the counters were built under
--   day       the last day they were looked at
--   used:S:P  tokens of settled requests    held:S:P  tokens of live holds    live:S  live holds
--
-- A hold: attempt (the token of the admission call), tenant, key, at (ms), day, month, input, cap, grant (the sealed JSON
-- text), in, out, bytes; and model, estimate (of the input before it was corrected) and second, which are absent when it
-- was re-established: its windows are gone.
--
-- ARGV[1] is the time in milliseconds, '0' for Redis' own clock; only tests give another.

local HOLDS, DEADLINES, EVENTS, EPOCH, COUNTERS, REBUILD, CALIBRATION, TENANT_WINDOW, KEY_WINDOW, FINISHED = unpack(KEYS)

local function clock()
  if ARGV[1] ~= '0' then
    return tonumber(ARGV[1])
  end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function run_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
end

-- The epoch's name, and how many ms are left of the first `restore_ms` of it. A new one begins when Redis was restarted,
-- was replaced or lost its data: whoever sees its name change tells Redis again what it may have lost.
local function epoch(now, restore_ms)
  local state, run = redis.call('HMGET', EPOCH, 'run', 'since'), run_id()
  local since = tonumber(state[2])
  if state[1] ~= run then
    since = now
    redis.call('HSET', EPOCH, 'run', run, 'since', since)
  end
  local left_ms = now < since and 0 or math.max(0, since + restore_ms - now)
  return string.format('%s:%.0f', run, since), left_ms
end

local DAY_MS = 86400000

local function quotient(a, b)
  return math.floor(a / b)
end

-- The day number since 1970-01-01, and its year, month and day: Howard Hinnant's civil_from_days.
local function calendar(ms)
  local days = quotient(ms, DAY_MS)
  local z = days + 719468
  local era = quotient(z, 146097)
  local doe = z - era * 146097
  local yoe = quotient(
    doe - quotient(doe, 1460) + quotient(doe, 36524) - quotient(doe, 146096), 365)
  local doy = doe - (365 * yoe + quotient(yoe, 4) - quotient(yoe, 100))
  local shifted = quotient(5 * doy + 2, 153)
  local day = doy - quotient(153 * shifted + 2, 5) + 1
  local month = shifted < 10 and shifted + 3 or shifted - 9
  return days, yoe + era * 400 + (month <= 2 and 1 or 0), month, day
end

-- Counters of another run are not trusted: Redis restarted or a replica took over, and what was lost is unknown. Nor are
-- they when the clock went back over midnight: those of that day may be pruned.
local function is_ready(now)
  local state = redis.call('HMGET', COUNTERS, 'ready', 'day')
  return state[1] and state[1] == run_id() and state[2] <= string.format('%04d-%02d-%02d', select(2, calendar(now)))
end

local function subjects(hold)
  return {'t', 'k' .. hold.key}
end

local function periods(hold)
  return {'day:' .. hold.day, 'month:' .. hold.month, 'total'}
end

local function add(field, amount)
  if amount ~= 0 and redis.call('HINCRBY', COUNTERS, field, amount) == 0 then
    redis.call('HDEL', COUNTERS, field)
  end
end

local function add_tokens(kind, hold, amount)
  for _, subject in ipairs(subjects(hold)) do
    for _, period in ipairs(periods(hold)) do
      add(kind .. ':' .. subject .. ':' .. period, amount)
    end
  end
end

-- Adds (sign 1) or takes away (-1) what a hold holds.
local function take(hold, sign)
  add_tokens('held', hold, sign * (hold.input + hold.cap))
  for _, subject in ipairs(subjects(hold)) do
    add('live:' .. subject, sign)
  end
end

local function adjust(window, second, requests, tokens)
  local counts = redis.call('HMGET', window, second .. ':n', second .. ':t', 'requests', 'tokens')
  if counts[1] then
    local n, t = tonumber(counts[1]), tonumber(counts[2])
    local n_new, t_new = math.max(0, n + requests), math.max(0, t + tokens)
    redis.call('HSET', window, second .. ':n', n_new, second .. ':t', t_new,
      'requests', tonumber(counts[3]) + n_new - n, 'tokens', tonumber(counts[4]) + t_new - t)
  end
end

-- Takes a hold away and corrects its bucket in both windows by `requests` and to `tokens`.
local function free(request_id, hold, requests, tokens)
  redis.call('HDEL', HOLDS, request_id)
  redis.call('ZREM', DEADLINES, request_id)
  if redis.call('HEXISTS', COUNTERS, 'ready') == 1 then
    take(hold, -1)
  end
  if hold.second then
    adjust(TENANT_WINDOW, hold.second, requests, tokens - hold.input - hold.cap)
    adjust(KEY_WINDOW, hold.second, requests, tokens - hold.input - hold.cap)
  end
end

