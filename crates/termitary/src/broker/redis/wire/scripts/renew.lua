-- Sets back the idle time of entries that this consumer still holds. Returns
-- per entry: 1 renewed, 0 another's or finished; -1 where the whole group is gone.
-- KEYS: stream. ARGV: group, consumer, ids...
local group, consumer = ARGV[1], ARGV[2]
local answers = {}
for i = 3, #ARGV do
  local entry = redis.pcall('XPENDING', KEYS[1], group, ARGV[i], ARGV[i], 1)
  if entry.err then
    answers[i - 2] = -1
  elseif entry[1] and entry[1][2] == consumer then
    redis.call('XCLAIM', KEYS[1], group, consumer, 0, ARGV[i], 'JUSTID')
    answers[i - 2] = 1
  else
    answers[i - 2] = 0
  end
end
return answers
