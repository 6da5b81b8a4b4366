-- Removes entries that every registered group has finished and that are older
-- than a grace (readers of the history still want the newest). Never by length.
-- KEYS: stream. ARGV: grace in ms, groups...
local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local function less(a, b)
  local ams, aseq = parts(a)
  local bms, bseq = parts(b)
  return ams < bms or (ams == bms and aseq < bseq)
end
local info = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if info.err then return 0 end
local last = {}
for _, fields in ipairs(info) do
  local name, delivered
  for i = 1, #fields, 2 do
    if fields[i] == 'name' then name = fields[i + 1] end
    if fields[i] == 'last-delivered-id' then delivered = fields[i + 1] end
  end
  last[name] = delivered
end
local time = redis.call('TIME')
local low = string.format('%d-0', time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(ARGV[1]))
for i = 2, #ARGV do
  local delivered = last[ARGV[i]]
  if not delivered then return -1 end
  local ms, seq = parts(delivered)
  local safe = string.format('%d-%d', ms, seq + 1)
  local pending = redis.call('XPENDING', KEYS[1], ARGV[i])
  if pending[1] > 0 then safe = pending[2] end
  if less(safe, low) then low = safe end
end
if redis.call('XLEN', KEYS[1]) <= 1000 then
  return redis.call('XTRIM', KEYS[1], 'MINID', low)
end
-- Whole nodes only: cheap however much there is.
return redis.call('XTRIM', KEYS[1], 'MINID', '~', low, 'LIMIT', 0)
