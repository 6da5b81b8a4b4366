-- Ends entries that this consumer still holds. XACK asks nobody who they are,
-- so the owner is compared here. Answers 1 or 0 per entry; where all were held,
-- which is nearly always, only their number.
-- KEYS: stream, counter. ARGV: group, consumer, 'delete' or 'keep', 'count' or 'quiet', ids in order...
local group, consumer = ARGV[1], ARGV[2]
local answers, held = {}, {}
local mine = redis.pcall('XPENDING', KEYS[1], group, ARGV[5], ARGV[#ARGV], 100000, consumer)
if mine.err then
  -- Not there is an answer; anything else says nothing about the entries.
  if string.sub(mine.err, 1, 7) ~= 'NOGROUP' and not string.find(mine.err, 'no such key', 1, true) then return mine end
  for i = 5, #ARGV do answers[i - 4] = 0 end
  return answers
end
-- Both are in the order of their ids.
local count, at = #ARGV - 4, 1
local all = count <= 1000
for i = 5, all and #ARGV or 0 do
  while mine[at] and mine[at][1] ~= ARGV[i] do at = at + 1 end
  if not mine[at] then
    all = false
    break
  end
  at = at + 1
end
if all then
  redis.call('XACK', KEYS[1], group, unpack(ARGV, 5))
  if ARGV[3] == 'delete' then redis.call('XDEL', KEYS[1], unpack(ARGV, 5)) end
  if ARGV[4] == 'count' then redis.call('INCRBY', KEYS[2], count) end
  return count
end
local owned = {}
for _, entry in ipairs(mine) do owned[entry[1]] = true end
for i = 5, #ARGV do
  if owned[ARGV[i]] then
    held[#held + 1] = ARGV[i]
    owned[ARGV[i]] = nil
    answers[i - 4] = 1
  else
    answers[i - 4] = 0
  end
end
for from = 1, #held, 1000 do
  local to = math.min(from + 999, #held)
  redis.call('XACK', KEYS[1], group, unpack(held, from, to))
  if ARGV[3] == 'delete' then redis.call('XDEL', KEYS[1], unpack(held, from, to)) end
end
if ARGV[4] == 'count' and #held > 0 then redis.call('INCRBY', KEYS[2], #held) end
return answers
