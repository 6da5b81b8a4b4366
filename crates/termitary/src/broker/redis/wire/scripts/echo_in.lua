-- Whether a message heard on a plain channel is our own (1) or another's (0).
-- Asked again about the same message, it returns the same.
-- KEYS: echo counter, this message's mark. ARGV: how long the mark stays, in ms.
if redis.call('EXISTS', KEYS[2]) == 1 then return 1 end
local count = tonumber(redis.call('GET', KEYS[1]) or '0')
if count <= 0 then return 0 end
-- First a write that a server out of memory allows: it then allows the rest.
redis.call('PEXPIRE', KEYS[1], ARGV[1])
if count == 1 then redis.call('DEL', KEYS[1]) else redis.call('DECR', KEYS[1]) end
redis.call('SET', KEYS[2], 1, 'PX', ARGV[1])
return 1
