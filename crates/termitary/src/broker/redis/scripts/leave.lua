-- Forgets a consumer, unless it holds entries: they would be forgotten too.
-- KEYS: stream. ARGV: group, consumer.
local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if held.err or #held > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
