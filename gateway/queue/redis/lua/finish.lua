-- Ends a request, as a ticket or with a slot.
--
-- ARGV  1 clock  2, 3 see open_queue  4 request id  5 its input and output tokens
--       6 ms until its first token and 7 until its end, see learning.lua; -1 when unknown  8 ms for which the id is remembered
-- Reply 1, or 0 when the request was unknown

open_queue(1, ARGV[2], ARGV[3])
return turns().finish(ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]) and 1 or 0
