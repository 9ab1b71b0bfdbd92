-- Whether a denial of a request, whose tenant is unknown, has no place in the ledger now: the request has a row already, or
-- it has a hold in this shard, which keeps the denial. `record.lua` does the same in the shard of the denial.
--
-- ARGV  1 clock  2 request id  3 entry as JSON
-- Reply 1 or 0

local ended = redis.call('GET', FINISHED)
if ended == 'settled' or ended == 'recorded' or ended == 'reported' then
  return 1
end
local held = redis.call('HGET', HOLDS, ARGV[2])
if held then
  keep_report(ARGV[2], held, ARGV[3])
end
return held and 1 or 0
