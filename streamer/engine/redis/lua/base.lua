-- What every operation has: the root of all keys, the time, the limits, and small readers.
local P, C, SUM, now, ARGV, HEARD, ENDED_JOBS, PLACES
local OPS, ROOTS = {}, {}

local function call(...) return redis.call(...) end

-- Names of keys are made when the root is known, which hardly ever changes.
local function on_root(assign) ROOTS[#ROOTS + 1] = assign end

on_root(function() SUM = P .. 'sum' end)

local function num(value) return tonumber(value or '0') or 0 end
local function exact(value) return string.format('%.17g', value) end
-- A sum with -0, which a script can make, is an error to the server.
local function plus(key, field, by) return call('HINCRBY', key, field, by + 0) end
local function add(field, by) return plus(SUM, field, by) end
local function ring(channel, message) call('SPUBLISH', P .. channel, message) end

-- Add to a counter in a hash, which has no fields with 0.
local function count(key, field, by)
  local left = plus(key, field, by)
  if left == 0 then call('HDEL', key, field) end
  return left
end

-- The arguments from number `from` on.
local function rest(from)
  local found = {}
  for i = from, #ARGV do found[#found + 1] = ARGV[i] end
  return found
end
