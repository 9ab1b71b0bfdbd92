-- What every script needs of its server. `scripts.py` prepends this file to each script.
--
-- ARGV[1] is the time in milliseconds, '0' for Redis' own clock. Only tests pass another value.

local function clock()
  if ARGV[1] ~= '0' then
    return tonumber(ARGV[1])
  end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local known_run_id

-- Another value means that Redis was restarted or replaced, so that some writes may be lost.
local function run_id()
  known_run_id = known_run_id or string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
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

