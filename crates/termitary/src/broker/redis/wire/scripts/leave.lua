-- Forgets consumers, but none that holds entries: they would be forgotten too.
-- KEYS: stream. ARGV: group, consumer, and so on.
for i = 1, #ARGV, 2 do
  local held = redis.pcall('XPENDING', KEYS[1], ARGV[i], '-', '+', 1, ARGV[i + 1])
  if not held.err and #held == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
