-- Suspends replicas, which are unavailable.
--
-- ARGV  1 clock  2, 3 see open_queue  4 ms for which they get no request  5... replicas

open_queue(1, ARGV[2], ARGV[3])
local now = clock()
for i = 5, #ARGV do
  capacity().suspend(ARGV[i], now + tonumber(ARGV[4]))
end
advance(now)
return 1
