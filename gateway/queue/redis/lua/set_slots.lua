-- Sets the number of slots of replicas.
--
-- ARGV  1 clock  2, 3 see open_queue  4... replica and number of slots, of each replica

open_queue(1, ARGV[2], ARGV[3])
for i = 4, #ARGV, 2 do
  capacity().set_slots(ARGV[i], ARGV[i + 1])
end
advance(clock())
return 1
