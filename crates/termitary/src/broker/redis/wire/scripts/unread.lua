-- Removes what is older than a while from a stream that has no group at all,
-- and the stream when nothing is left.
-- KEYS: stream. ARGV: the while in ms.
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err or #groups > 0 then return 0 end
local time = redis.call('TIME')
local low = string.format('%d-0', time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(ARGV[1]))
local removed
if redis.call('XLEN', KEYS[1]) <= 1000 then
  removed = redis.call('XTRIM', KEYS[1], 'MINID', low)
else
  -- Whole nodes only: cheap however much there is.
  removed = redis.call('XTRIM', KEYS[1], 'MINID', '~', low, 'LIMIT', 0)
end
if redis.call('XLEN', KEYS[1]) == 0 then redis.call('DEL', KEYS[1]) end
return removed
