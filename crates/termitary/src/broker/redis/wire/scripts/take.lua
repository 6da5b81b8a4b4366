-- Takes these entries for a consumer where they have been idle for so long still.
-- Returns the entries, and how many were pending and are not on the stream any more.
-- KEYS: stream. ARGV: group, consumer, least idle time in ms, ids...
local group, consumer, idle = ARGV[1], ARGV[2], tonumber(ARGV[3])
local taken, gone = {}, 0
for i = 4, #ARGV do
  local held = redis.pcall('XPENDING', KEYS[1], group, ARGV[i], ARGV[i], 1)
  if held.err then return held end
  if held[1] and held[1][3] >= idle then
    local entry = redis.call('XCLAIM', KEYS[1], group, consumer, idle, ARGV[i])[1]
    if entry then
      taken[#taken + 1] = entry
    else
      -- Servers before 7.0 keep it pending.
      redis.call('XACK', KEYS[1], group, ARGV[i])
      gone = gone + 1
    end
  end
end
return { taken, gone }
