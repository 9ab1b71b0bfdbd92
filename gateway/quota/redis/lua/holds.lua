-- The holds, and what they hold. The tests' `counters.py` does the same.

-- Whether HELD includes every hold of the shard. `counted:3` in EPOCH is the number of holds that it includes. Scripts of other
-- layouts add and delete holds without HELD, so the two numbers differ after a process of such a layout did so. Nothing is
-- admitted then until no hold is left, and HELD begins empty, in the next generation.
-- Also returns the number of holds and the generation.
local function counts_all_holds()
  local holds, state = redis.call('HLEN', HOLDS), redis.call('HMGET', EPOCH, 'counted:3', 'generation')
  local counted, generation = tonumber(state[1] or 0), state[2]
  if holds == 0 and counted ~= 0 then
    redis.call('HSET', EPOCH, 'counted:3', 0)
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

local function read_share(text)
  if not text then
    return 0, 0
  end
  local requests, tokens = string.match(text, '^(%d+):(%d+)$')
  return tonumber(requests), tonumber(tokens)
end

-- The requests in flight, and the tokens that they hold in each of the three periods, from a field of HELD for today.
local function begin_sums(text)
  local requests, tokens = read_share(text)
  return {requests = requests, tokens = {tokens, tokens, tokens}}
end

local function add_to_sums(sums, text, is_of_month)
  local requests, tokens = read_share(text)
  sums.requests, sums.tokens[3] = sums.requests + requests, sums.tokens[3] + tokens
  if is_of_month then
    sums.tokens[2] = sums.tokens[2] + tokens
  end
end

-- The sums of the tenant and of a key, whose values of `fields_of` on this day are `values`. Holds of other days are those of
-- requests that run over midnight.
local function held_sums(values, key, day)
  local of_tenant, of_key, days = begin_sums(values[1]), begin_sums(values[2]), values[3]
  if days and days ~= day then
    for other in string.gmatch(days, '%S+') do
      if other ~= day then
        local found = redis.call('HMGET', HELD, unpack(fields_of(key, other).held, 1, 2))
        local is_of_month = string.sub(other, 1, 7) == string.sub(day, 1, 7)
        add_to_sums(of_tenant, found[1], is_of_month)
        add_to_sums(of_key, found[2], is_of_month)
      end
    end
  end
  return of_tenant, of_key
end

-- The list of days without one, nil when none is left.
local function without_day(days, day)
  local left = {}
  for other in string.gmatch(days, '%S+') do
    if other ~= day then
      left[#left + 1] = other
    end
  end
  return #left > 0 and table.concat(left, ' ') or nil
end

local function add_share(text, requests, tokens)
  local requests_before, tokens_before = read_share(text)
  return string.format('%d:%d', requests_before + requests, tokens_before + tokens)
end

-- `values` are the present ones of `fields_of`, if they are known.
local function add_to_held(hold, values)
  local fields, tokens = fields_of(hold.key, hold.day).held, hold.input + hold.cap
  values = values or redis.call('HMGET', HELD, unpack(fields))
  local of_tenant, of_key = add_share(values[1], 1, tokens), add_share(values[2], 1, tokens)
  if values[1] then
    redis.call('HSET', HELD, fields[1], of_tenant, fields[2], of_key)
  else
    local days = values[3] and values[3] .. ' ' .. hold.day or hold.day
    redis.call('HSET', HELD, fields[1], of_tenant, fields[2], of_key, 'days', days)
  end
end

local function remove_from_held(hold)
  local fields, tokens = fields_of(hold.key, hold.day).held, hold.input + hold.cap
  local values = redis.call('HMGET', HELD, unpack(fields, 1, 3))
  local of_tenant, of_key = read_share(values[1]), read_share(values[2])
  if of_tenant <= 1 then
    local days = without_day(values[3] or '', hold.day)
    if days then
      redis.call('HSET', HELD, 'days', days)
      redis.call('HDEL', HELD, fields[1], fields[2])
    else
      redis.call('HDEL', HELD, fields[1], fields[2], 'days')
    end
  elseif of_key <= 1 then
    redis.call('HSET', HELD, fields[1], add_share(values[1], -1, -tokens))
    redis.call('HDEL', HELD, fields[2])
  else
    redis.call('HSET', HELD, fields[1], add_share(values[1], -1, -tokens), fields[2], add_share(values[2], -1, -tokens))
  end
end

-- Adds a hold to HELD, which must not be stale. The caller stores the hold.
local function add_hold(hold, values)
  add_to_held(hold, values)
  redis.call('HINCRBY', EPOCH, 'counted:3', 1)
  hold.counted = true
end

local function remove_hold(hold)
  if hold.counted then
    remove_from_held(hold)
    redis.call('HINCRBY', EPOCH, 'counted:3', -1)
  end
end

-- The hold that a text of HOLDS has, and the position in the text at which its grant begins, with the line break before it.
-- Holds of layout 2 have their grant in the object, and no second line.
local function read_hold(text)
  local grant_at = string.find(text, '\n', 1, true) or #text + 1
  return cjson.decode(string.sub(text, 1, grant_at - 1)), grant_at
end

-- `grant` has the line break before it.
local function store_hold(request_id, hold, grant, deadline)
  redis.call('HSET', HOLDS, request_id, cjson.encode(hold) .. grant)
  redis.call('ZADD', DEADLINES, integer(deadline), request_id)
end

-- Stores Envoy's denial of a request with its hold, whose text is `held`. Nothing else remembers it when the hold is released.
local function keep_report(request_id, held, entry)
  local hold, grant_at = read_hold(held)
  hold.report = entry
  redis.call('HSET', HOLDS, request_id, cjson.encode(hold) .. string.sub(held, grant_at))
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

