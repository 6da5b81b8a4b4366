-- Ends entries that this consumer still holds. XACK asks nobody who they are,
-- so the owner is compared here. Returns 1 or 0 per entry, or only how many
-- were held: where all were, and where it is not known of each.
-- KEYS: stream, counter. ARGV: group, consumer, 'delete' or 'keep', 'count' or 'quiet', ids in order...
local group, consumer = ARGV[1], ARGV[2]

local function finish(ids, first)
  local ended = 0
  for from = first, #ids, 1000 do
    local to = math.min(from + 999, #ids)
    ended = ended + redis.call('XACK', KEYS[1], group, unpack(ids, from, to))
    if ARGV[3] == 'delete' then redis.call('XDEL', KEYS[1], unpack(ids, from, to)) end
  end
  if ARGV[4] == 'count' and ended > 0 then redis.call('INCRBY', KEYS[2], ended) end
  return ended
end

-- Not there is a reply; anything else says nothing about the entries.
local function fails(answer)
  return answer.err and string.sub(answer.err, 1, 7) ~= 'NOGROUP' and not string.find(answer.err, 'no such key', 1, true)
end

-- Where nobody else holds anything, what is held is this consumer's: asking for
-- each entry would take as long as all the rest.
local all = redis.pcall('XPENDING', KEYS[1], group)
if fails(all) then return all end
local holders = all[4] or {}
if #holders == 1 and holders[1][1] == consumer then return finish(ARGV, 5) end

local mine = redis.pcall('XPENDING', KEYS[1], group, ARGV[5], ARGV[#ARGV], 100000, consumer)
if fails(mine) then return mine end
if mine.err then mine = {} end
local owned = {}
for _, entry in ipairs(mine) do owned[entry[1]] = true end
local answers, held = {}, {}
for i = 5, #ARGV do
  local id = ARGV[i]
  answers[i - 4] = owned[id] and 1 or 0
  if owned[id] then held[#held + 1] = id end
  owned[id] = nil
end
finish(held, 1)
if #held == #answers then return #held end
return answers
