-- Rates: when the last ones of each were taken, the newest first; an entry is a time and a token.
local MOST_RATES = 100000

local function rate_key(kind, name) return P .. 'rate:' .. kind .. ':' .. name end
local function time_of(entry) return tonumber(string.match(entry, '^%S+')) end

local function rate_forgotten(all, kind, name)
  call('ZREM', all, name)
  call('UNLINK', rate_key(kind, name))
end

function OPS.rate_take()
  local kind, name, token = ARGV[4], ARGV[5], ARGV[6]
  local most, window = tonumber(ARGV[7]), tonumber(ARGV[8])
  local key, all = rate_key(kind, name), P .. 'rates:' .. kind
  -- The answer may have been lost.
  for _, entry in ipairs(call('LRANGE', key, 0, 15)) do
    if string.match(entry, '%S+$') == token then return 1 end
  end
  local oldest = call('LINDEX', key, most - 1)
  if oldest and now - time_of(oldest) < window then return 0 end
  call('LPUSH', key, exact(now) .. ' ' .. token)
  call('LTRIM', key, 0, most - 1)
  call('EXPIRE', key, window)
  call('ZADD', all, exact(now + window), name)
  if call('TTL', all) < window then call('EXPIRE', all, window) end
  for _, over in ipairs(call('ZRANGEBYSCORE', all, '-inf', exact(now), 'LIMIT', 0, 2)) do
    rate_forgotten(all, kind, over)
  end
  if call('ZCARD', all) > MOST_RATES then
    rate_forgotten(all, kind, call('ZRANGE', all, 0, 0)[1])
  end
  return 1
end

-- How many were taken in a window, and how long ago the first of them was.
function OPS.rate_used()
  local key, window = rate_key(ARGV[4], ARGV[5]), tonumber(ARGV[6])
  local function age_of(place) return now - time_of(call('LINDEX', key, place)) end
  local number, above = 0, call('LLEN', key)
  while number < above do
    local middle = math.floor((number + above) / 2)
    if age_of(middle) < window then number = middle + 1 else above = middle end
  end
  return {number, exact(number > 0 and age_of(number - 1) or 0)}
end
