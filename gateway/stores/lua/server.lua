-- What every script needs of its server. `scripts.py` prepends this file to each script.
--
-- ARGV[1] is the time in milliseconds, '0' for Redis' own clock. Only tests pass another value.

local known_time_ms

-- The same for the whole script.
local function clock()
  if not known_time_ms and ARGV[1] ~= '0' then
    known_time_ms = tonumber(ARGV[1])
  elseif not known_time_ms then
    local time = redis.call('TIME')
    known_time_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  end
  return known_time_ms
end

local known_run_id

-- Another value means that Redis was restarted or replaced, so that some writes may be lost.
local function run_id()
  if not known_run_id then
    local info = redis.call('INFO', 'server')
    known_run_id = string.match(info, '^%w+', select(2, string.find(info, 'run_id:', 1, true)) + 1)
  end
  return known_run_id
end


-- A part of a script that few calls use. `create` makes its functions when the part is used first, and returns them.
local function lazily(create)
  local functions
  return function()
    functions = functions or create()
    return functions
  end
end

