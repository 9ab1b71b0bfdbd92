-- The functions that the scripts share.
--
-- KEYS, the same for every script except `renew_all.lua`. A script about a tenant gets the first nine, one about a shard
-- the first four. All keys have the shard's hash tag, so they are in one slot.
--   1 HOLDS      hash    request id -> hold as JSON, and its grant, see below
--   2 DEADLINES  zset    request id by the millisecond at which its hold expires
--   3 EVENTS     stream  ledger events; fields: t tenant id or '', e entry as JSON
--   4 EPOCH      hash    `run`, the run id of the Redis process, `since`, the time (ms) at which the epoch began, and `began`,
--                        the same in µs of Redis' own clock; `counted:3` and `generation`, see `counts_all_holds`
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
--             S:2025-11-21  'requests:tokens': the requests in flight that were admitted on this day, and the tokens they hold
--             days         the days for which the tenant has such a field, separated by spaces
--
-- A hold is a JSON object in one line: idempotency_token (of the admission call), tenant, key, at (ms), day, input, cap, counted
-- (true if HELD includes it), and once it is renewed its progress: in, out, bytes. It also has model, estimate (of the input before
-- its correction) and second (of its window buckets), unless a renewal re-established it: its window buckets are lost then. A
-- request that waits in the queue has `parked`, and holds no tokens. After its turn the hold has `arrived`, the second of the
-- bucket that counts the request, `replica` and `queued` (ms). `report` is the entry of Envoy's denial, as JSON: it is the row of
-- a request that is released. The sealed grant is the second line, because most scripts that read a hold do not need its grant.

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

-- The value of REBUILD during the rebuild with this token. A rebuild that began before Redis was restarted is void, because Redis may have lost a part of it.
local function rebuild_of(token)
  return token .. ':' .. run_id()
end

-- By day and key, for at most FIELDS_MAX of them.
local FIELDS_MAX = 2000
local known_fields_of, fields_count = {}, 0

local function make_fields(key, day)
  local month, of_key = string.sub(day, 1, 7), string.format('k%d:', key)
  return {
    used = {
      'used:t:day:' .. day, 'used:t:month:' .. month, 'used:t:total',
      'used:' .. of_key .. 'day:' .. day, 'used:' .. of_key .. 'month:' .. month, 'used:' .. of_key .. 'total', 'ready',
    },
    held = {'t:' .. day, of_key .. day, 'days', 'generation'},
  }
end

-- The fields in which a request of a key counts that was admitted on a day. `used`: six of COUNTERS, and `ready`. `held`: two of
-- HELD, and `days` and `generation`.
local function fields_of(key, day)
  local of_day = known_fields_of[day]
  local fields = of_day and of_day[key]
  if not fields then
    if fields_count == FIELDS_MAX then
      known_fields_of, fields_count = {}, 0
    end
    fields = make_fields(key, day)
    known_fields_of[day] = known_fields_of[day] or {}
    known_fields_of[day][key], fields_count = fields, fields_count + 1
  end
  return fields
end

-- Adds `tokens` to the first six fields of COUNTERS, whose present values are `values`.
local function use_tokens(fields, values, tokens)
  local changes = {}
  for i = 1, 6 do
    changes[2 * i - 1], changes[2 * i] = fields[i], integer(tonumber(values[i] or 0) + tokens)
  end
  redis.call('HSET', COUNTERS, unpack(changes))
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
