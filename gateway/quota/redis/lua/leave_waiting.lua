-- Frees the places of requests whose callers left while they waited. Their holds stay until they are settled.
--
-- KEYS  the four of the shard, then the first eleven of `queue.lua`
-- ARGV  1 clock  2, 3 see `open_queue`  4... request ids
-- Reply 1

open_queue(5, ARGV[2], ARGV[3])
for i = 4, #ARGV do
  remove(ARGV[i], 0, -1, -1)
end
if any_waits() then
  advance(clock())
end
return 1
