-- Takes or keeps the bridge for one process; 'release' gives it back.
-- KEYS: lock. ARGV: process, ms, 'hold' or 'release'.
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
if ARGV[3] == 'release' then
  if owner then redis.call('DEL', KEYS[1]) end
  return 0
end
-- Kept without SET, which a server out of memory refuses.
if owner then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
