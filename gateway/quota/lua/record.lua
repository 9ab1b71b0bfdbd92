-- Appends the event of a denied request, which has no hold.
--
-- ARGV  1 clock  2 tenant id or ''  3 entry as JSON  4 how many events and holds there may be
-- Reply 1, or 0 when there are so many already

if redis.call('XLEN', EVENTS) + redis.call('HLEN', HOLDS) >= tonumber(ARGV[4]) then
  return 0
end
redis.call('XADD', EVENTS, '*', 't', ARGV[2], 'e', ARGV[3])
return 1
