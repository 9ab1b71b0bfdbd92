-- Extends the deadlines of holds of one shard and stores their progress. A hold that Redis has lost is re-established
-- without any check, because its request is running.
--
-- KEYS  the four of the shard, with a queue the first eleven of `queue.lua`, then of each request HELD and FINISHED
-- ARGV  1 clock  2 lease in ms, then of each request: its id, the input and output tokens and bytes so far, and the text
--       of the hold, which is read only when Redis has lost the hold; with a queue also its replica ('' for none), tenant id,
--       key id, weight, tokens so far, the three times of learning.lua, and '1' when that replica is known to answer. Then with a queue: the lease of a slot in ms, and the two of `open_queue`
-- Reply for each request 1, or 0 when it is finished

local QUEUE_KEYS = 11
local SHARD_KEYS, REQUEST_KEYS, REQUEST_ARGUMENTS, LAST_ARGUMENTS = 4, 2, 5, 0
-- Without a queue there are 2 keys for 5 arguments of each request, with one there are 2 for 14.
local queued = (#KEYS - SHARD_KEYS) * REQUEST_ARGUMENTS ~= (#ARGV - 2) * REQUEST_KEYS
if queued then
  SHARD_KEYS, REQUEST_KEYS, REQUEST_ARGUMENTS, LAST_ARGUMENTS = SHARD_KEYS + QUEUE_KEYS, 2, 14, 3
  open_queue(5, ARGV[#ARGV - 1], ARGV[#ARGV])
  -- The next key is one of a request. FINISHED has the part of ENDED.
  ENDED = nil
end

local function renew(deadline, request_id, input, output, bytes, sealed)
  local held = redis.call('HGET', HOLDS, request_id)
  if not held and redis.call('EXISTS', FINISHED) == 1 then
    return 0
  end
  local text = held or sealed
  local hold, grant_at = read_hold(text)
  if not held then
    drop_stale_held()
    add_hold(hold)
  end
  hold['in'], hold.out, hold.bytes = tonumber(input), tonumber(output), tonumber(bytes)
  store_hold(request_id, hold, string.sub(text, grant_at), deadline)
  return 1
end

local now, replies = clock(), {}
local deadline = now + tonumber(ARGV[2])
for index = 0, (#ARGV - 2 - LAST_ARGUMENTS) / REQUEST_ARGUMENTS - 1 do
  local key, argument = SHARD_KEYS + REQUEST_KEYS * index, 2 + REQUEST_ARGUMENTS * index
  -- The functions of `shared.lua` use these two keys.
  HELD, FINISHED = KEYS[key + 1], KEYS[key + 2]
  replies[index + 1] = renew(deadline, unpack(ARGV, argument + 1, argument + 5))
  if queued and replies[index + 1] == 1 and ARGV[argument + 6] ~= '' then
    turns().renew_slot(now, now + tonumber(ARGV[#ARGV - 2]), ARGV[argument + 1], unpack(ARGV, argument + 6, argument + 14))
  end
end
if queued and any_waits() then
  advance(now)
end
return replies
