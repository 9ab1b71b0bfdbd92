-- The functions that the scripts share.
--
-- KEYS, the same for every script except `renew_all.lua`. A script about a tenant gets the first nine, one about a shard
-- the first four. All keys have the shard's hash tag, so they are in one slot.
--   1 HOLDS      hash    request id -> hold as JSON
--   2 DEADLINES  zset    request id by the millisecond at which its hold expires
--   3 EVENTS     stream  ledger events; fields: t tenant id or '', e entry as JSON
--   4 EPOCH      hash    `run`, the run id of the Redis process, `since`, the time (ms) at which the epoch began, and `began`,
--                        the same in µs of Redis' own clock; `counted` and `generation`, see `counts_all_holds`
--   5 COUNTERS   hash    of one tenant and its keys, see below
--   6 REBUILD    string  the rebuild of COUNTERS that is in progress, see `rebuild_of`
--   7 CALIBRATION  hash  of one tenant: per model, the ratio of counted to estimated input, see calibration.lua
--   8 HELD       hash    of one tenant and its keys, see below
--   9 STAGED     hash    the fields of COUNTERS that a rebuild has written so far
--  10 TENANT_WINDOW, 11 KEY_WINDOW  hash  see window.lua
--  12 FINISHED   string  how a request ended, for as long as its id is remembered: 'settled', 'recorded' (denied),
--                                 'reported' (denied, of an unknown tenant) or 'released'
--
-- COUNTERS and HELD: the subject S is 't' for the tenant or 'k<id>' for a key, the period P is 'day:2025-11-21',
-- 'month:2025-11' or 'total'. A missing field counts as 0, in COUNTERS only while `ready` is present.
-- COUNTERS is rebuilt from the ledger. HELD is not: each script that adds or deletes a hold changes both in one step.
--   COUNTERS  ready        run id of the Redis process under which the counters were built, and LAYOUT
--             day          day of the last admission or rebuild
--             prune        cursor in COUNTERS up to which past periods are deleted, while that is not finished
--             used:S:P     tokens of settled requests
--   HELD      generation   see `counts_all_holds`; a missing one is the first
--             held:S:P     tokens of requests in flight
--             in_flight:S  number of requests in flight
--
-- A hold is a JSON object: idempotency_token (of the admission call), tenant, key, at (ms), day, month, input, cap, grant
-- (the sealed JSON text), counted (true if HELD includes it), and the progress: in, out, bytes. It also has model, estimate
-- (of the input before its correction) and second (of its window buckets), unless a renewal re-established it: its window
-- buckets are lost then. A request that waits in the queue has `parked`, and holds no tokens. After its turn the hold has
-- `arrived`, the second of the bucket that counts the request, `replica` and `queued` (ms). `report` is the entry of Envoy's
-- denial, as JSON: it is the row of a request that is released.

local HOLDS, DEADLINES, EVENTS, EPOCH, COUNTERS, REBUILD, CALIBRATION, HELD, STAGED, TENANT_WINDOW, KEY_WINDOW, FINISHED

at_start(function()
  HOLDS, DEADLINES, EVENTS, EPOCH, COUNTERS, REBUILD, CALIBRATION, HELD, STAGED, TENANT_WINDOW, KEY_WINDOW, FINISHED =
    unpack(KEYS)
end)

-- The name of the epoch, and how many ms are left of its first `restore_ms`. A new epoch begins when Redis was restarted or
-- replaced or lost its data. A process that sees the name change resubmits its holds and unconfirmed entries.
local function epoch(now, restore_ms)
  local state, run = redis.call('HMGET', EPOCH, 'run', 'since', 'began'), run_id()
  local since, began = tonumber(state[2]), state[3]
  if state[1] ~= run then
    local time = redis.call('TIME')
    since, began = now, string.format('%s%06d', time[1], time[2])
    redis.call('HSET', EPOCH, 'run', run, 'since', since, 'began', began)
  end
  local left_ms = now < since and 0 or math.max(0, since + restore_ms - now)
  -- Two epochs that begin in one millisecond are two: what a process has read in one is lost in the other.
  return run .. ':' .. (began or since), left_ms
end

local DAY_MS = 86400000

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

-- The layout of the data. Counters of another layout are not valid.
local LAYOUT = ':2'

-- Whether counters with these fields `ready` and `day` are valid on `today`. Counters of another run are not: Redis restarted
-- or a replica took over, so some writes may be lost. Counters are not valid either after the clock went back over midnight:
-- those of the earlier day may be pruned.
local function is_valid(ready, day, today)
  return ready and ready == run_id() .. LAYOUT and day <= today
end

local function is_ready(now)
  local state = redis.call('HMGET', COUNTERS, 'ready', 'day')
  return is_valid(state[1], state[2], string.format('%04d-%02d-%02d', select(2, calendar(now))))
end

-- Whether HELD includes every hold of the shard. `counted` in EPOCH is the number of holds that it includes. Scripts of
-- layout 1 add and delete holds without HELD, so the two numbers differ after a process of that layout did so. Nothing is
-- admitted then until no hold is left, and HELD begins empty, in the next generation.
-- Also returns the number of holds and the generation.
local function counts_all_holds()
  local holds, state = redis.call('HLEN', HOLDS), redis.call('HMGET', EPOCH, 'counted', 'generation')
  local counted, generation = tonumber(state[1] or 0), state[2]
  if holds == 0 and counted ~= 0 then
    redis.call('HSET', EPOCH, 'counted', 0)
    generation = tostring(redis.call('HINCRBY', EPOCH, 'generation', 1))
    return true, holds, generation
  end
  return holds == counted, holds, generation
end

-- Begins HELD in this generation, without the fields of an earlier one.
local function renew_held(generation)
  redis.call('UNLINK', HELD)
  if generation then
    redis.call('HSET', HELD, 'generation', generation)
  end
end

-- Deletes HELD of an earlier generation.
local function drop_stale_held()
  local generation = redis.call('HGET', EPOCH, 'generation')
  if generation ~= redis.call('HGET', HELD, 'generation') then
    renew_held(generation)
  end
end

-- The value of REBUILD during the rebuild with this token. A rebuild that began before Redis was restarted is void, because Redis may have lost a part of it.
local function rebuild_of(token)
  return token .. ':' .. run_id()
end

-- The fields of a hash with the tokens of the tenant and of a key, in the periods of a hold.
local function token_fields(kind, key, day, month)
  local of_tenant, of_key = kind .. ':t:', string.format('%s:k%d:', kind, key)
  return {
    of_tenant .. 'day:' .. day, of_tenant .. 'month:' .. month, of_tenant .. 'total',
    of_key .. 'day:' .. day, of_key .. 'month:' .. month, of_key .. 'total',
  }
end

-- By day and key, for at most FIELDS_MAX of them.
local FIELDS_MAX = 500
local known_names, names_count = {}, 0

-- The fields in which a request of a key counts on a day of a month: `used` of COUNTERS and `held` of HELD, and after them
-- those that an admission also reads.
local function fields_of(key, day, month)
  local of_day = known_names[day]
  local fields = of_day and of_day[key]
  if not fields then
    if names_count == FIELDS_MAX then
      known_names, names_count = {}, 0
    end
    fields = {used = token_fields('used', key, day, month), held = token_fields('held', key, day, month)}
    local used, held = fields.used, fields.held
    used[7], used[8], used[9] = 'ready', 'day', 'prune'
    held[7], held[8], held[9] = 'in_flight:t', string.format('in_flight:k%d', key), 'generation'
    known_names[day] = known_names[day] or {}
    known_names[day][key], names_count = fields, names_count + 1
  end
  return fields
end

-- Used again by each change, so that they do not grow each time.
local changes, zeros = {}, {}

-- Changes fields of a hash, whose present values are `values`: adds `tokens` to the first six, and `requests` to two more. Fields
-- that become 0 are deleted.
local function change(key, fields, values, tokens, requests)
  local changes_count, zeros_count = 0, 0
  for i = tokens == 0 and 7 or 1, requests == 0 and 6 or 8 do
    local sum = tonumber(values[i] or 0) + (i <= 6 and tokens or requests)
    if sum == 0 then
      zeros_count = zeros_count + 1
      zeros[zeros_count] = fields[i]
    else
      changes[changes_count + 1], changes[changes_count + 2] = fields[i], integer(sum)
      changes_count = changes_count + 2
    end
  end
  if changes_count > 0 then
    redis.call('HSET', key, unpack(changes, 1, changes_count))
  end
  if zeros_count > 0 then
    redis.call('HDEL', key, unpack(zeros, 1, zeros_count))
  end
end

-- `values` are the present ones of the fields of HELD, if they are known.
local function count_hold(hold, sign, values)
  local fields = fields_of(hold.key, hold.day, hold.month).held
  values = values or redis.call('HMGET', HELD, unpack(fields))
  change(HELD, fields, values, sign * (hold.input + hold.cap), sign)
  redis.call('HINCRBY', EPOCH, 'counted', integer(sign))
end

-- Adds the tokens of a hold, and the hold itself, to HELD, which must not be stale. The caller stores the hold.
local function add_hold(hold, values)
  count_hold(hold, 1, values)
  hold.counted = true
end

local function remove_hold(hold)
  if hold.counted then
    count_hold(hold, -1)
  end
end

-- Stores Envoy's denial of a request with its hold. Nothing else remembers it when the hold is released.
local function keep_report(request_id, hold, entry)
  hold.report = entry
  redis.call('HSET', HOLDS, request_id, cjson.encode(hold))
end

-- Deletes a hold. Changes the number of requests in its bucket of both windows by `requests`, and its tokens to `tokens`.
local function end_hold(request_id, hold, requests, tokens)
  redis.call('HDEL', HOLDS, request_id)
  redis.call('ZREM', DEADLINES, request_id)
  remove_hold(hold)
  for _, window in ipairs(hold.second and {TENANT_WINDOW, KEY_WINDOW} or {}) do
    if hold.arrived then
      adjust(window, hold.arrived, requests, 0)
    end
    adjust(window, hold.second, hold.arrived and 0 or requests, tokens - hold.input - hold.cap)
  end
end

-- A script about a request has the keys of the queue after its own, when the gateway has a queue; see `queue.lua`. ENDED is not
-- among them, because FINISHED has its part. Its last two arguments are then those of `open_queue`.
local REQUEST_KEYS_COUNT = 12

local function has_queue()
  return #KEYS > REQUEST_KEYS_COUNT
end

-- Frees the slot or the ticket of a request that ends, and grants the slot to the next ticket. `first` and `duration` are ms until
-- the first token and until the end, -1 when they are unknown.
local function leave_queue(request_id, tokens, first, duration)
  if has_queue() then
    open_queue(REQUEST_KEYS_COUNT + 1, ARGV[#ARGV - 1], ARGV[#ARGV])
    leave(request_id, tokens, first or -1, duration or -1)
  end
end
