-- Ends entries that this consumer still holds. XACK asks nobody who they are,
-- so the owner is compared here. Answers 1 or 0 per entry; where all were held,
-- which is nearly always, only their number.
-- KEYS: stream, counter. ARGV: group, consumer, 'delete' or 'keep', 'count' or 'quiet', ids in order...
local group, consumer = ARGV[1], ARGV[2]
local mine = redis.pcall('XPENDING', KEYS[1], group, ARGV[5], ARGV[#ARGV], 100000, consumer)
if mine.err then
  -- Not there is an answer; anything else says nothing about the entries.
  if string.sub(mine.err, 1, 7) ~= 'NOGROUP' and not string.find(mine.err, 'no such key', 1, true) then return mine end
  mine = {}
end
-- Both are in the order of their ids: where all are held, one walk tells.
local count, held, at = #ARGV - 4, {}, 1
for i = 5, #ARGV do
  while mine[at] and mine[at][1] ~= ARGV[i] do at = at + 1 end
  if not mine[at] then break end
  held[i - 4] = ARGV[i]
  at = at + 1
end
local answers = count
if #held < count then
  local owned = {}
  for _, entry in ipairs(mine) do owned[entry[1]] = true end
  answers, held = {}, {}
  for i = 5, #ARGV do
    if owned[ARGV[i]] then
      held[#held + 1] = ARGV[i]
      owned[ARGV[i]] = nil
      answers[i - 4] = 1
    else
      answers[i - 4] = 0
    end
  end
end
for from = 1, #held, 1000 do
  local to = math.min(from + 999, #held)
  redis.call('XACK', KEYS[1], group, unpack(held, from, to))
  if ARGV[3] == 'delete' then redis.call('XDEL', KEYS[1], unpack(held, from, to)) end
end
if ARGV[4] == 'count' and #held > 0 then redis.call('INCRBY', KEYS[2], #held) end
return answers
