-- Whether a denial of a request, whose tenant is unknown, has no place in the ledger: the request has a hold in this shard,
-- or has a row already. `record.lua` checks the same in the shard of the denial.
--
-- ARGV  1 clock  2 request id
-- Reply 1 or 0

local ended = redis.call('GET', FINISHED)
if ended == 'settled' or ended == 'recorded' or ended == 'reported' then
  return 1
end
return redis.call('HEXISTS', HOLDS, ARGV[2])
