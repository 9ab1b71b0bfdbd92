-- The numbers of slots of replicas.
local capacity = lazily(function()

-- The number of slots of a replica, and whether it is learnt.
local function slots_of(replica)
  local value = field('slots:' .. replica) or 0
  local learnt = string.match(value, '^auto:(%d+)$')
  return tonumber(learnt or value), learnt ~= nil
end

local function set_slots(replica, value)
  set_fields('slots:' .. replica, value)
end

local function set_learnt(replica, slots)
  set_slots(replica, 'auto:' .. slots)
end

local candidates_read

at_start(function()
  candidates_read = {}
end)

-- The model and the candidates of a pool, whose fields of STATE are read in one call with those that every request needs.
local function candidates_of(pool)
  local candidates = decoded(pool)
  if not candidates_read[pool] then
    local names = {'run', 'since', 'tickets', 'running', 'reap_at'}
    for i = 2, #candidates do
      local name = candidates[i][1]
      names[#names + 1], names[#names + 2], names[#names + 3] = 'slots:' .. name, 'running:' .. name, 'suspended:' .. name
    end
    read_fields(names)
    candidates_read[pool] = true
  end
  return candidates
end

local function suspend(replica, until_ms)
  set_fields('suspended:' .. replica, until_ms)
end

local function is_suspended(now, replica)
  return now < number('suspended:' .. replica)
end

-- Whether each candidate of a pool is suspended. Its requests are granted slots nevertheless, and fail at once.
local function are_all_suspended(now, candidates)
  for i = 2, #candidates do
    if not is_suspended(now, candidates[i][1]) then
      return false
    end
  end
  return true
end

-- Sets the slots of the candidates of a pool, from a JSON list in their order, in which 0 is `auto`. A number that is known stays
-- unless the request is new and `overrides` it. A learnt number stays until one is given.
local function use_slots(pool, slots, overrides)
  local candidates = candidates_of(pool)
  for i, given in ipairs(decoded(slots)) do
    local replica = candidates[i + 1][1]
    local known, is_learnt = slots_of(replica)
    local is_known = field('slots:' .. replica)
    if given == 0 and not is_learnt and (overrides or not is_known) then
      redis.call('HDEL', LEARNING, replica)
      set_learnt(replica, 1)
    elseif given ~= 0 and (not is_known or (overrides and (is_learnt or known ~= given))) then
      set_slots(replica, given)
    end
  end
end

return {
  slots_of = slots_of, set_slots = set_slots, set_learnt = set_learnt, candidates_of = candidates_of,
  use_slots = use_slots, suspend = suspend, is_suspended = is_suspended, are_all_suspended = are_all_suspended,
}
end)

