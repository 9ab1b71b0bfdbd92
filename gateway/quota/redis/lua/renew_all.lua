-- Extends the deadlines of holds of one shard and stores their progress. A hold that Redis has lost is re-established
-- without any check, because its request is running.
--
-- KEYS  the four of the shard, then HELD and FINISHED of each request
-- ARGV  1 clock  2 lease in ms, then of each request: its id, the input and output tokens and bytes so far, and the hold
--       as JSON, which is decoded only when Redis has lost the hold
-- Reply for each request 1, or 0 when it is finished

local SHARD_KEYS, REQUEST_KEYS, REQUEST_ARGUMENTS = 4, 2, 5

local function renew(deadline, request_id, input, output, bytes, sealed)
  local held = redis.call('HGET', HOLDS, request_id)
  if not held and redis.call('EXISTS', FINISHED) == 1 then
    return 0
  end
  local hold = cjson.decode(held or sealed)
  if not held then
    drop_stale_held()
    add_hold(hold)
  end
  hold['in'], hold.out, hold.bytes = tonumber(input), tonumber(output), tonumber(bytes)
  redis.call('HSET', HOLDS, request_id, cjson.encode(hold))
  redis.call('ZADD', DEADLINES, deadline, request_id)
  return 1
end

local deadline, replies = clock() + tonumber(ARGV[2]), {}
for index = 0, (#ARGV - 2) / REQUEST_ARGUMENTS - 1 do
  local key, argument = SHARD_KEYS + REQUEST_KEYS * index, 2 + REQUEST_ARGUMENTS * index
  -- The functions of `shared.lua` use these two keys.
  HELD, FINISHED = KEYS[key + 1], KEYS[key + 2]
  replies[index + 1] = renew(deadline, unpack(ARGV, argument + 1, argument + REQUEST_ARGUMENTS))
end
return replies
