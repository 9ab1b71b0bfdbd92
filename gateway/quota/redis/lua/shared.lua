-- The functions that the scripts share. `gateway.stores.scripts` prepends this file to each script.
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
--  10 TENANT_WINDOW, 11 KEY_WINDOW  hash  see admit.lua
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
-- `arrived`, the second of the bucket that counts the request, `replica` and `queued` (ms).

local HOLDS, DEADLINES, EVENTS, EPOCH, COUNTERS, REBUILD, CALIBRATION, HELD, STAGED, TENANT_WINDOW, KEY_WINDOW, FINISHED =
  unpack(KEYS)

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
local function token_fields(kind, hold)
  local tenant, key = kind .. ':t:', kind .. ':k' .. hold.key .. ':'
  local day, month = 'day:' .. hold.day, 'month:' .. hold.month
  return {tenant .. day, tenant .. month, tenant .. 'total', key .. day, key .. month, key .. 'total'}
end

-- Adds `amount` to fields `first` to `last` of a list, whose present values are `values`. Fields that become 0 are deleted.
-- `changes` gets the fields to set, each followed by its value, and `zeros` those to delete.
local function add(fields, values, first, last, amount, changes, zeros)
  if amount == 0 then
    return
  end
  for i = first, last do
    local sum = tonumber(values[i] or 0) + amount
    if sum == 0 then
      zeros[#zeros + 1] = fields[i]
    else
      changes[#changes + 1], changes[#changes + 2] = fields[i], sum
    end
  end
end

local function apply(key, changes, zeros)
  if #changes > 0 then
    redis.call('HSET', key, unpack(changes))
  end
  if #zeros > 0 then
    redis.call('HDEL', key, unpack(zeros))
  end
end

-- The fields of HELD that a hold counts in.
local function held_fields(hold)
  local fields = token_fields('held', hold)
  fields[7], fields[8] = 'in_flight:t', 'in_flight:k' .. hold.key
  return fields
end

-- `values` are the present ones of `fields`, if they are known.
local function count_hold(hold, sign, fields, values)
  fields = fields or held_fields(hold)
  values = values or redis.call('HMGET', HELD, unpack(fields))
  local changes, zeros = {}, {}
  add(fields, values, 1, 6, sign * (hold.input + hold.cap), changes, zeros)
  add(fields, values, 7, 8, sign, changes, zeros)
  apply(HELD, changes, zeros)
  redis.call('HINCRBY', EPOCH, 'counted', sign)
end

-- Adds the tokens of a hold, and the hold itself, to HELD, which must not be stale. The caller stores the hold.
local function add_hold(hold, fields, values)
  count_hold(hold, 1, fields, values)
  hold.counted = true
end

local function remove_hold(hold)
  if hold.counted then
    count_hold(hold, -1)
  end
end

-- Changes a bucket of a window, if it is still there.
local function adjust(window, second, requests, tokens)
  local counts = redis.call('HMGET', window, second .. ':n', second .. ':t', 'requests', 'tokens')
  if counts[1] then
    local n, t = tonumber(counts[1]), tonumber(counts[2])
    local n_new, t_new = math.max(0, n + requests), math.max(0, t + tokens)
    redis.call('HSET', window, second .. ':n', n_new, second .. ':t', t_new,
      'requests', tonumber(counts[3]) + n_new - n, 'tokens', tonumber(counts[4]) + t_new - t)
  end
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
