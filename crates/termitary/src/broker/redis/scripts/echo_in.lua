-- Whether a message heard on a plain channel is our own (1) or another's (0).
-- KEYS: echo counter.
local count = tonumber(redis.call('GET', KEYS[1]) or '0')
if count <= 0 then return 0 end
if count == 1 then redis.call('DEL', KEYS[1]) else redis.call('DECR', KEYS[1]) end
return 1
