-- Removes entries that every group has finished and that are older than a grace
-- (readers of the history still want the newest). Never by length. Every group
-- there is: one that the caller does not know may be of a subscription that was
-- registered a moment ago. One that the caller knows and Redis does not has lost
-- its place: then nothing goes.
-- KEYS: stream. ARGV: grace in ms, groups... Returns the groups it did not name, and
-- whether an id is more than a minute ahead: all later ids follow it, so none gets old.
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
if info.err then return { {}, 0 } end
local known = {}
for i = 2, #ARGV do known[ARGV[i]] = true end
local strangers = {}
local last = {}
for _, fields in ipairs(info) do
  local name, delivered
  for i = 1, #fields, 2 do
    if fields[i] == 'name' then name = fields[i + 1] end
    if fields[i] == 'last-delivered-id' then delivered = fields[i + 1] end
  end
  last[name] = delivered
  if not known[name] then strangers[#strangers + 1] = name end
end
for name in pairs(known) do
  if not last[name] then return { strangers, 0 } end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local low, ahead = string.format('%d-0', now - tonumber(ARGV[1])), 0
for name, delivered in pairs(last) do
  local ms, seq = parts(delivered)
  if ms > now + 60000 then ahead = 1 end
  local pending = redis.call('XPENDING', KEYS[1], name)
  if pending[1] > 0 then
    if less(pending[2], low) then low = pending[2] end
  elseif ms < now then
    local safe = string.format('%d-%d', ms, seq + 1)
    if less(safe, low) then low = safe end
  end
end
if redis.call('XLEN', KEYS[1]) <= 1000 then
  redis.call('XTRIM', KEYS[1], 'MINID', low)
else
  -- Whole nodes only: cheap however much there is.
  redis.call('XTRIM', KEYS[1], 'MINID', '~', low, 'LIMIT', 0)
end
return { strangers, ahead }
