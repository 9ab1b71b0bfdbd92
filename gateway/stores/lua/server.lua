-- What every script needs of its server. `library.py` puts this file in front of all others.
--
-- The files of functions run once, a script runs at each call. A local variable of a file of functions has its value for all
-- later calls, unless `at_start` sets it.

-- A function finds its own variables faster than global ones.
local redis, cjson, struct, math, string, table, ipairs, pairs, select, tonumber, tostring, unpack =
  redis, cjson, struct, math, string, table, ipairs, pairs, select, tonumber, tostring, unpack

local function quotient(a, b)
  return math.floor(a / b)
end

-- The text of an integer. Redis and Lua themselves write a number like a fraction, which costs several times as much.
local function integer(number)
  return string.format('%d', number)
end

-- Those of this call. ARGV[1] is the time in milliseconds, '0' for Redis' own clock. Only tests pass another value.
local KEYS, ARGV

local starts = {}

-- Calls `start` at the beginning of each call, and now if a call is in progress.
local function at_start(start)
  starts[#starts + 1] = start
  if KEYS then
    start()
  end
end

local known_time_ms

at_start(function()
  known_time_ms = nil
end)

-- The same for the whole script.
local function clock()
  if not known_time_ms and ARGV[1] ~= '0' then
    known_time_ms = tonumber(ARGV[1])
  elseif not known_time_ms then
    local time = redis.call('TIME')
    known_time_ms = tonumber(time[1]) * 1000 + quotient(tonumber(time[2]), 1000)
  end
  return known_time_ms
end

local known_run_id

-- Another value means that Redis was restarted or replaced, so that some writes may be lost. A process has one for its life, and
-- so has what the functions have stored in their variables.
local function run_id()
  if not known_run_id then
    local info = redis.call('INFO', 'server')
    known_run_id = string.match(info, '^%w+', select(2, string.find(info, 'run_id:', 1, true)) + 1)
  end
  return known_run_id
end

-- What JSON texts contain that many calls have, for at most TEXTS_MAX of them. The caller does not change it.
local TEXTS_MAX = 2000
local known_texts, texts_count = {}, 0

local function decoded(text)
  local known = known_texts[text]
  if not known then
    if texts_count == TEXTS_MAX then
      known_texts, texts_count = {}, 0
    end
    known = cjson.decode(text)
    known_texts[text], texts_count = known, texts_count + 1
  end
  return known
end

-- A part of the functions that few calls use. `create` makes them when the part is used first, and returns them.
local function lazily(create)
  local functions
  return function()
    functions = functions or create()
    return functions
  end
end

