-- Takes entries out of one stream: those older than a time before its newest, but none that a reader needs.
-- A reader needs what is pending for its group, and all behind the last entry that was delivered to it.
--
-- KEYS  1 the stream   2.. for each reader the stream it reads
-- ARGV  1 how much is kept, in ms of the stream's own time   2.. the readers' groups
-- Returns how many entries are gone.

local function milliseconds(id)
  return tonumber(string.match(id, '^%d+'))
end

local function needed_ms(key, group) -- from when on a reader needs entries; 0: all
  local groups = redis.pcall('XINFO', 'GROUPS', key)
  for _, info in ipairs(groups.err and {} or groups) do
    local field = {}
    for i = 1, #info, 2 do field[info[i]] = info[i + 1] end
    if field['name'] == group then
      if field['pending'] > 0 then return milliseconds(redis.call('XPENDING', key, group)[2]) end
      return milliseconds(field['last-delivered-id'])
    end
  end
  return 0
end

local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not newest then return 0 end
local kept_ms = milliseconds(newest[1]) - tonumber(ARGV[1])
for i = 2, #KEYS do kept_ms = math.min(kept_ms, needed_ms(KEYS[i], ARGV[i])) end
if kept_ms <= 0 then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f', kept_ms))
