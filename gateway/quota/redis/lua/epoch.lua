-- The current epoch, see shared.lua.
--
-- ARGV  1 clock  2 ms during which a new epoch admits nothing
-- Reply {name, ms that are left of these}

local name, left_ms = epoch(clock(), tonumber(ARGV[2]))
return {name, left_ms}
