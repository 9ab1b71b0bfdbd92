-- Sets the number of slots of replicas.
--
-- ARGV  1..3 see queue.lua  4... replica and number of slots, of each replica

redis.call('HSET', REPLICAS, unpack(ARGV, 4))
advance(clock())
return 1
