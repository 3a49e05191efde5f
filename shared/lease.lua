-- Take or keep the lease of a service. Epochs only rise; a token is `<epoch>:<owner>`.
-- KEYS 1 lease   2 epoch        ARGV 1 token held ('' = none)   2 owner   3 time to live in ms
-- Returns the token that is now ours, or '' while somebody else holds the lease.
local holder = redis.call('GET', KEYS[1])
if ARGV[1] ~= '' then
  local epoch = string.match(ARGV[1], '^(%d+):')
  -- a lease that ran out while nobody took it (the server was away) is still ours
  if holder == ARGV[1] or (not holder and redis.call('GET', KEYS[2]) == epoch) then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
    return ARGV[1]
  end
  return ''
end
if holder then return '' end
local token = redis.call('INCR', KEYS[2]) .. ':' .. ARGV[2]
redis.call('SET', KEYS[1], token, 'PX', ARGV[3])
return token
