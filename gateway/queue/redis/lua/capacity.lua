-- The numbers of slots of replicas.
local capacity = lazily(function()

-- The fields of REPLICAS that this call has read or written.
local known_values = {}

-- The number of slots in a field of REPLICAS, and whether it is learnt.
local function slots_of(value)
  local learnt = string.match(value or '', '^auto:(%d+)$')
  return tonumber(learnt or value or 0), learnt ~= nil
end

local function set_slots(replica, value)
  redis.call('HSET', REPLICAS, replica, value)
  known_values[replica] = tostring(value)
end

local function set_learnt(replica, slots)
  set_slots(replica, 'auto:' .. slots)
end

-- The fields of REPLICAS, each a text or false.
local function slots_values(names)
  local values = {}
  for i, name in ipairs(names) do
    if known_values[name] == nil then
      for j, value in ipairs(redis.call('HMGET', REPLICAS, unpack(names))) do
        known_values[names[j]] = value
      end
    end
    values[i] = known_values[name]
  end
  return values
end

-- Sets the slots of the candidates of a pool, from a JSON list in their order, in which 0 is `auto`. A number that is known stays
-- unless the request is new and `overrides` it. A learnt number stays until one is given.
local function use_slots(pool, slots, overrides)
  local numbers, candidates, names = cjson.decode(slots), cjson.decode(pool), {}
  for i = 2, #candidates do
    names[i - 1] = candidates[i][1]
  end
  local known = slots_values(names)
  for i, name in ipairs(names) do
    local is_learnt = select(2, slots_of(known[i]))
    if numbers[i] == 0 and not is_learnt and (overrides or not known[i]) then
      redis.call('HDEL', LEARNING, name)
      set_learnt(name, 1)
    elseif numbers[i] ~= 0 and (not known[i] or (overrides and known[i] ~= tostring(numbers[i]))) then
      set_slots(name, numbers[i])
    end
  end
end

return {
  slots_of = slots_of, set_slots = set_slots, set_learnt = set_learnt, slots_values = slots_values, use_slots = use_slots,
}
end)

