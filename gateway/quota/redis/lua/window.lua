-- The rate windows of a tenant and of its keys. The tests' `window.py` does the same.
--
-- A window is a hash. Per second it has a bucket, `<s>` = requests, tokens and youngest, the time in ms of the youngest request.
-- `sums` is requests, tokens, oldest and last: the sums of all buckets, a second before which there is none, and the time in ms of
-- the youngest request of all. Redis finds a field of a small hash by comparing all before it, so there are few fields. The numbers
-- are packed as doubles, which need no conversion from and to text.

local WINDOW_MS, WINDOW_TTL_MS = 60000, 180000
local NEVER = -1
local BUCKET, SUMS = '<ddd', '<dddd'

local function read_bucket(text)
  if not text then
    return 0, 0, 0
  end
  return struct.unpack(BUCKET, text)
end

local function bucket_text(requests, tokens, youngest)
  return struct.pack(BUCKET, requests, tokens, youngest)
end

local function read_sums(text)
  if not text then
    return 0, 0, nil, 0
  end
  return struct.unpack(SUMS, text)
end

local function sums_text(requests, tokens, oldest, last)
  return struct.pack(SUMS, requests, tokens, oldest, last)
end

local function load_window(key, now)
  local second = quotient(now, 1000)
  local found = redis.call('HMGET', key, 'sums', integer(second))
  local requests, tokens, oldest, last = read_sums(found[1])
  if last == 0 or now - last >= WINDOW_MS or last - now > WINDOW_MS then
    return {key = key, second = second, requests = 0, tokens = 0, last = 0, n = 0, t = 0, stale = last ~= 0}
  end
  local n, t = read_bucket(found[2])
  return {key = key, second = second, requests = requests, tokens = tokens, oldest = oldest, last = last, n = n, t = t}
end

local function bucket(window, second)
  return read_bucket(redis.call('HGET', window.key, integer(second)))
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
      redis.call('HDEL', window.key, integer(second))
      window.requests, window.tokens = window.requests - n, window.tokens - t
    end
    second = second + 1
  end
  if second ~= window.oldest then
    window.oldest = second
    redis.call('HSET', window.key, 'sums', sums_text(window.requests, window.tokens, second, window.last))
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
  if second ~= window.second then
    n, t = bucket(window, second)
  end
  window.requests, window.tokens, window.last = window.requests + requests, window.tokens + tokens, at
  redis.call('HSET', window.key, 'sums', sums_text(window.requests, window.tokens, window.oldest or second, at),
    integer(second), bucket_text(n + requests, t + tokens, at))
  -- Once a second is enough, because the window lives longer than its buckets.
  if n == 0 then
    redis.call('PEXPIRE', window.key, WINDOW_TTL_MS)
  end
end

-- Changes a bucket of a window, if it is still there.
local function adjust(window, second, requests, tokens)
  local name = integer(second)
  local found = redis.call('HMGET', window, name, 'sums')
  if found[1] then
    local n, t, youngest = read_bucket(found[1])
    local requests_sum, tokens_sum, oldest, last = read_sums(found[2])
    local n_new, t_new = math.max(0, n + requests), math.max(0, t + tokens)
    redis.call('HSET', window, name, bucket_text(n_new, t_new, youngest), 'sums',
      sums_text(requests_sum + n_new - n, tokens_sum + t_new - t, oldest, last))
  end
end

