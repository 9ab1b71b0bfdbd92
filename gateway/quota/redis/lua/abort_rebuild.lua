-- Ends a rebuild that failed, so that another can begin. Does nothing when another has begun already.
--
-- ARGV  1 clock  2 token

if redis.call('GET', REBUILD) == rebuild_of(ARGV[2]) then
  redis.call('DEL', REBUILD)
  redis.call('UNLINK', STAGED)
end
return 1
