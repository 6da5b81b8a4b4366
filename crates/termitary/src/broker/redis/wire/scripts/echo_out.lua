-- Publishes on a plain channel and remembers that it was us.
-- KEYS: echo counter. ARGV: channel, message, how long to remember, in ms.
redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return redis.call('PUBLISH', ARGV[1], ARGV[2])
