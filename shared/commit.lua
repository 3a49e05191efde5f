-- One atomic step of a stage: check everything, then write the outputs, the state and the mark, and
-- acknowledge the input. Lua does not roll back, so nothing is written before the last check has passed.
--
-- KEYS  1 lease   2 marks (hash: stream -> last input done)   3 state   4 counter   5 input stream
--       6.. one stream for each output
-- ARGV  1 lease token   2 group   3 state ('' = leave)   4 counter value ('' = none)   5 n inputs, then
--       their ids; n outputs, then for each: id ('*' = any), n of fields and values, the fields and values
-- Returns {status, detail...}: OK with the outputs' ids, LEASE, DUPLICATE, ORDER, COUNTER, CONFLICT.

local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function not_above(a, b) -- whether id a <= id b
  local a_ms, a_seq = parts(a)
  local b_ms, b_seq = parts(b)
  return a_ms < b_ms or (a_ms == b_ms and a_seq <= b_seq)
end

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'LEASE', redis.call('GET', KEYS[1]) or ''} end

local group, state, counter = ARGV[2], ARGV[3], ARGV[4]
local at = 5
local input_count = tonumber(ARGV[at])
local inputs = {}
for i = 1, input_count do inputs[i] = ARGV[at + i] end
at = at + input_count + 1

if input_count > 0 then
  local mark = redis.call('HGET', KEYS[2], KEYS[5])
  if mark and not_above(inputs[1], mark) then
    if not not_above(inputs[input_count], mark) then return {'CONFLICT', KEYS[5], inputs[1]} end
    redis.call('XACK', KEYS[5], group, unpack(inputs))
    return {'DUPLICATE', mark}
  end
  local oldest = redis.call('XPENDING', KEYS[5], group, '-', '+', 1)
  if not oldest[1] or oldest[1][1] ~= inputs[1] then return {'ORDER', oldest[1] and oldest[1][1] or ''} end
end
if counter ~= '' then
  local stored = tonumber(redis.call('GET', KEYS[4]) or '0')
  if stored + 1 ~= tonumber(counter) then return {'COUNTER', tostring(stored)} end
end

local output_count = tonumber(ARGV[at])
at = at + 1
local outputs, last = {}, {}
for i = 1, output_count do
  local key, id, first = KEYS[5 + i], ARGV[at], at + 2
  at = first + tonumber(ARGV[at + 1])
  local write = true
  if id ~= '*' then
    if not last[key] then
      local kind = redis.call('TYPE', key).ok
      if kind ~= 'stream' and kind ~= 'none' then return {'CONFLICT', key, kind} end
      local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)
      last[key] = newest[1] and newest[1][1] or '0-0'
    end
    if not_above(id, last[key]) then
      local there = redis.call('XRANGE', key, id, id)[1]
      if not there or table.concat(there[2], '\0') ~= table.concat(ARGV, '\0', first, at - 1) then
        return {'CONFLICT', key, id}
      end
      write = false -- an identical entry counts as written
    else
      last[key] = id
    end
  end
  outputs[i] = {key, id, first, at - 1, write}
end

local result = {'OK'}
for i, output in ipairs(outputs) do
  result[i + 1] = output[2]
  local key, id, first, end_, write = unpack(output)
  if write then result[i + 1] = redis.call('XADD', key, id, unpack(ARGV, first, end_)) end
end
if counter ~= '' then redis.call('SET', KEYS[4], counter) end
if state ~= '' then redis.call('SET', KEYS[3], state) end
if input_count > 0 then
  redis.call('HSET', KEYS[2], KEYS[5], inputs[input_count])
  redis.call('XACK', KEYS[5], group, unpack(inputs))
end
return result
