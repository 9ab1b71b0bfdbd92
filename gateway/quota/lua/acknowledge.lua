-- Takes events out of the stream for good, so that its length is the number of those that wait.
--
-- ARGV  1 clock  2 consumer group  3... event ids
-- Reply: how many there were

local ids = {unpack(ARGV, 3)}
redis.call('XACK', EVENTS, ARGV[2], unpack(ids))
return redis.call('XDEL', EVENTS, unpack(ids))
