-- Whose deliveries this server carries: of the ledger that came first. Returns its id.
-- KEYS: owner. ARGV: the id of the ledger that asks.
local owner = redis.call('GET', KEYS[1])
if owner then return owner end
-- First a write that a server out of memory allows: it then allows the rest.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
