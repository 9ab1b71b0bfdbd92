-- Gives a request that is tried at another replica a slot there, or makes it a ticket for one.
--
-- ARGV  1 clock  2, 3 see open_queue  4 request id  5 replica  6 number of the attempt  7 lease of a slot in ms
--       8 maximum of all waits in ms
-- Reply as that of enter.lua, without full

open_queue(1, ARGV[2], ARGV[3])
return turns().move(clock(), ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]))
