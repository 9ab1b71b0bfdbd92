-- What an admission does besides its checks.

-- Fields of COUNTERS that one admission checks. A request adds fewer.
local PRUNE_SLICE = 100

local PLACES = {full = 'queue_full', timeout = 'queue_timeout'}

local function days_in(year, month)
  if month == 2 then
    return (year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)) and 29 or 28
  end
  return (month == 4 or month == 6 or month == 9 or month == 11) and 30 or 31
end

local known_day

-- The day and the month of `now`, and the periods with the times (ms) at which they end.
local function day_of(now)
  local days = quotient(now, DAY_MS)
  if not known_day or known_day.days ~= days then
    local _, year, month, day = calendar(now)
    known_day = {
      days = days, day = string.format('%04d-%02d-%02d', year, month, day), month = string.format('%04d-%02d', year, month),
      periods = {
        {name = 'day', resets = (days + 1) * DAY_MS},
        {name = 'month', resets = (days - day + 1 + days_in(year, month)) * DAY_MS},
        {name = 'total', resets = NEVER},
      },
    }
  end
  return known_day
end

-- Deletes the usage of past periods in the next slice of COUNTERS. A new day begins a pass over all slices, unless a pass is
-- unfinished. Until then past periods take memory, but nothing reads them.
local function prune(today, day_of_counters, cursor)
  cursor = cursor or (day_of_counters ~= today.day and '0')
  if not cursor then
    return
  end
  local scanned = redis.call('HSCAN', COUNTERS, cursor, 'COUNT', PRUNE_SLICE)
  for i = 1, #scanned[2], 2 do
    local kind, date = string.match(scanned[2][i], '^used:%w+:(%w+):([%d-]+)$')
    if (kind == 'day' and date < today.day) or (kind == 'month' and date < today.month) then
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
  local decision = string.format(',"admitted_at_ms":%d,"input_estimate":%d,"output_cap":%d', at, input, cap)
  if replica then
    decision = decision .. string.format(',"replica":"%s","queued_ms":%d', replica, queued)
  end
  return string.sub(draft, 1, -2) .. decision .. '}'
end

-- The place of the request in the queue, as in enter.lua. A slot is granted at once, or waited for. `caller` and `bounds` as in
-- admit.lua.
local function take_turn(now, request_id, input, caller, bounds)
  local pool, arrived = ARGV[11], tonumber(ARGV[15])
  open_queue(REQUEST_KEYS_COUNT + 1, bounds.ticket_lease_ms, bounds.restore_ms)
  -- The numbers of a request that arrives are those of the newest catalog. One that waits has older numbers, which are used when
  -- Redis has lost its data.
  capacity().use_slots(pool, ARGV[12], arrived == 0)
  local ticket = {
    pool = pool, tenant = caller.tenant, key = caller.key, weight = caller.weight, class = caller.class, input = input,
    bytes = tonumber(ARGV[14]), owner = ARGV[13], arrived = arrived, charged = 0,
  }
  local step = arrived == 0 and arrivals().arrive or turns().enter
  return step(now, request_id, ticket, bounds)
end

