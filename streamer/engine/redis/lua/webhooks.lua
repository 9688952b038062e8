-- Webhooks: to whom the end of a job is told, until it is told. Tenants take turns, and of each its
-- places; of a tenant and of a place only so many are claimed at a time.
local HOOK, HOOKS_OF, HOOKS_DUE, HOOKS_CLAIMED, HOOKS_AT_ONCE, HOOK_TENANTS = {}

on_root(function()
  HOOKS_OF, HOOKS_DUE, HOOKS_CLAIMED = P .. 'hooks-of', P .. 'hooks-due', P .. 'hooks-claimed'
  HOOKS_AT_ONCE, HOOK_TENANTS = P .. 'hooks-at-once', P .. 'hook-tenants'
end)

function HOOK.key(id) return P .. 'hook:' .. id end
function HOOK.line(line) return P .. 'hook-line:' .. line end
function HOOK.ring(th) return P .. 'hook-ring:' .. th end
function HOOK.at_once(what) return num(call('HGET', HOOKS_AT_ONCE, what)) end

-- The counts, if one more of this size does not fit.
function HOOK.full(th, size)
  local f = call('HMGET', SUM, 'hooks', 'hook_bytes')
  local all, bytes, own = num(f[1]), num(f[2]), num(call('HGET', HOOKS_OF, th))
  if all >= C.hooks or bytes + size > C.hook_bytes or (C.hooks_of_one and own >= C.hooks_of_one) then
    return {'hooks_full', all, own, bytes}
  end
end

function HOOK.counted(th, number, size)
  add('hooks', number)
  add('hook_bytes', size)
  count(HOOKS_OF, th, number)
end

function HOOK.show(id, ...)
  if call('EXISTS', job_key(id)) == 1 then
    call('HSET', job_key(id), 'hook', cmsgpack.pack({...}))
  end
end

-- Give a line its turn, if it has something and may have more claimed; and its tenant.
function HOOK.offer(th, line)
  if call('EXISTS', HOOK.line(line)) == 1 and HOOK.at_once(line) < C.hooks_of_place
    and not call('ZSCORE', HOOK.ring(th), line) then
    call('ZADD', HOOK.ring(th), add('hook_turn', 1), line)
  end
  if call('EXISTS', HOOK.ring(th)) == 1 and not call('ZSCORE', HOOK_TENANTS, th)
    and not (C.hooks_at_once_of_one and HOOK.at_once(th) >= C.hooks_at_once_of_one) then
    call('ZADD', HOOK_TENANTS, add('hook_turn', 1), th)
  end
end

function HOOK.ready(id, th, line)
  call('ZADD', HOOK.line(line), add('hook_turn', 1), id)
  HOOK.offer(th, line)
end

-- What is claimed no longer is.
function HOOK.given_back(id, th, line)
  call('HDEL', HOOK.key(id), 'token')
  call('ZREM', HOOKS_CLAIMED, id)
  count(HOOKS_AT_ONCE, line, -1)
  count(HOOKS_AT_ONCE, th, -1)
  HOOK.offer(th, line)
end

-- Let have their turns which are due, and which their holders have lost.
function HOOK.look()
  for _, id in ipairs(call('ZRANGEBYSCORE', HOOKS_DUE, '-inf', exact(now), 'LIMIT', 0, 1000)) do
    local f = call('HMGET', HOOK.key(id), 'th', 'line')
    call('ZREM', HOOKS_DUE, id)
    HOOK.ready(id, f[1], f[2])
  end
  for _, id in ipairs(call('ZRANGEBYSCORE', HOOKS_CLAIMED, '-inf', exact(now), 'LIMIT', 0, 1000)) do
    local f = call('HMGET', HOOK.key(id), 'th', 'line')
    HOOK.given_back(id, f[1], f[2])
    HOOK.ready(id, f[1], f[2])
  end
end

function HOOK.next()
  local th = call('ZRANGE', HOOK_TENANTS, 0, 0)[1]
  if not th then return nil end
  local line = call('ZPOPMIN', HOOK.ring(th))[1]
  local id = call('ZPOPMIN', HOOK.line(line))[1]
  count(HOOKS_AT_ONCE, line, 1)
  count(HOOKS_AT_ONCE, th, 1)
  call('ZREM', HOOK_TENANTS, th)
  HOOK.offer(th, line)
  return id
end

-- The job has ended with an event of this kind; `view` is what is told of it.
function HOOK.begin(id, th, packed, kind, view)
  local url, line, events, size, most = unpack(cmsgpack.unpack(packed))
  if not string.find(events, ' ' .. kind .. ' ', 1, true) then
    HOOK.counted(th, -1, -size)
    HOOK.show(id, 'unwanted', 0)
    return
  end
  if #view[#view] > most then view[#view - 1], view[#view] = false, false end
  call('HSET', HOOK.key(id), 'url', url, 'th', th, 'line', line, 'size', size, 'attempts', 0,
    'view', cmsgpack.pack(view))
  HOOK.show(id, 'pending', 0, false, exact(now))
  HOOK.ready(id, th, line)
  ring('hooks', '')
end

-- With `abandoned` it is no attempt, and only if nobody has claimed otherwise for so many seconds.
function OPS.hook_claim()
  local free, abandoned, claimed = tonumber(ARGV[4]), ARGV[6] ~= '' and tonumber(ARGV[6]), {}
  local last = call('HGET', SUM, 'hooks_claimed_at')
  if not abandoned or not last then
    call('HSET', SUM, 'hooks_claimed_at', exact(now))
    last = now
  end
  if abandoned and now - tonumber(last) < abandoned then return {claimed, false} end
  HOOK.look()
  while #claimed < free do
    local id = HOOK.next()
    if not id then break end
    local key, token = HOOK.key(id), add('hook_token', 1) .. '.' .. ARGV[5]
    local attempts = plus(key, 'attempts', abandoned and 0 or 1)
    call('HSET', key, 'token', token)
    call('ZADD', HOOKS_CLAIMED, exact(now + C.hook_lease_s), id)
    local f = call('HMGET', key, 'url', 'view')
    claimed[#claimed + 1] = {token, attempts, f[1], cmsgpack.unpack(f[2])}
  end
  local soonest
  for _, set in ipairs({HOOKS_DUE, HOOKS_CLAIMED}) do
    local first = call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]
    if first then soonest = math.min(soonest or math.huge, tonumber(first)) end
  end
  return {claimed, soonest and exact(math.max(soonest - now, 0)) or false}
end

-- Tell what became of an attempt; with a pause another is made after it.
function OPS.hook_told()
  local id, token, state, message, pause = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
  local key = HOOK.key(id)
  local f = call('HMGET', key, 'token', 'th', 'line', 'size', 'attempts')
  if f[1] ~= token then return 0 end
  HOOK.given_back(id, f[2], f[3])
  ring('hooks', '')
  local said = message ~= '' and message
  if pause ~= '' then
    local at = exact(now + tonumber(pause))
    call('ZADD', HOOKS_DUE, at, id)
    HOOK.show(id, state, num(f[5]), said, at)
  else
    call('UNLINK', key)
    HOOK.counted(f[2], -1, -num(f[4]))
    HOOK.show(id, state, num(f[5]), said)
  end
  return 1
end
