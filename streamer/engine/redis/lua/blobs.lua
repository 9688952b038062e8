-- Blobs: records, and bytes in a list of pieces unless a store has them, counted as the disk space that
-- they take in a file.
local PAGE, ENTRY = 4096, 4096

local BEXP, EVICTABLE, EVICTABLE_OF, GARBAGE

on_root(function()
  BEXP, EVICTABLE, EVICTABLE_OF = P .. 'blob-times', P .. 'evictable', P .. 'evictable-of:'
  GARBAGE = P .. 'blob-garbage'
end)

local function blob_key(id) return P .. 'blob:' .. id end

local function blob_freed(id)
  local key = blob_key(id)
  local f = call('HMGET', key, 'tenant_hash', 'charged', 'outside')
  if not f[1] then return end
  if f[3] == '1' then call('ZADD', GARBAGE, exact(now), id) end
  add('blob_bytes', -num(f[2]))
  add('blobs', -1)
  count(P .. 'blob-bytes', f[1], -num(f[2]))
  count(P .. 'blob-numbers', f[1], -1)
  call('UNLINK', key, P .. 'pieces:' .. id)
  call('ZREM', BEXP, id)
  call('ZREM', EVICTABLE, id)
  call('ZREM', EVICTABLE_OF .. f[1], id)
end

-- Delete a blob; one that a job holds stays until the job is over.
local function blob_dropped(id)
  local key = blob_key(id)
  if call('EXISTS', key) == 0 then return end
  call('ZREM', BEXP, id)
  if num(call('HGET', key, 'holds')) > 0 then
    call('HSET', key, 'deleted', 1)
    call('ZREM', EVICTABLE, id)
    call('ZREM', EVICTABLE_OF .. call('HGET', key, 'tenant_hash'), id)
  else
    blob_freed(id)
  end
end

local function blobs_expire(most)
  for _, id in ipairs(call('ZRANGEBYSCORE', BEXP, '-inf', exact(now), 'LIMIT', 0, most)) do
    blob_dropped(id)
  end
end

-- Whether there is a committed blob that is not deleted and has not expired.
local function blob_there(id)
  local f = call('HMGET', blob_key(id), 'sha256', 'deleted', 'expires')
  if not f[1] or f[2] then return false end
  return not (f[3] and f[3] ~= '' and tonumber(f[3]) <= now)
end

local function blob_held(id)
  if num(call('HGET', blob_key(id), 'holds')) == 0 and not blob_there(id) then return false end
  call('HINCRBY', blob_key(id), 'holds', 1)
  return true
end

local function blob_released(id)
  local key = blob_key(id)
  if call('EXISTS', key) == 0 then return end
  if call('HINCRBY', key, 'holds', -1) <= 0 and call('HGET', key, 'deleted') then
    blob_freed(id)
  end
end

-- It belongs to the record of a job now, and goes with that.
local function blob_adopted(id)
  if blob_there(id) then
    call('HSET', blob_key(id), 'expires', '')
    call('ZREM', BEXP, id)
  end
end

-- The counts if this is too much, and whether it is only for its tenant; else nil.
local function blobs_full(th, number, size)
  local own, all = num(call('HGET', P .. 'blob-numbers', th)), num(call('HGET', SUM, 'blobs'))
  local own_bytes = num(call('HGET', P .. 'blob-bytes', th))
  local all_bytes = num(call('HGET', SUM, 'blob_bytes'))
  local counts = {'full', own, all, own_bytes, all_bytes, number, size}
  if C.blobs_of_one and own + number > C.blobs_of_one then return counts, true end
  if all + number > C.blobs then return counts, false end
  if C.blob_bytes_of_one and own_bytes + size > C.blob_bytes_of_one then return counts, true end
  if all_bytes + size > C.blob_bytes then return counts, false end
end

-- Delete the next blob that gives way, of one tenant or of all; whether there was one.
local function blob_evicted(set)
  for _, id in ipairs(call('ZRANGE', set, 0, 99)) do
    if num(call('HGET', blob_key(id), 'holds')) == 0 then
      blob_dropped(id)
      return true
    end
  end
end

-- Count so many blobs and bytes more; else the counts.
local function blobs_admit(th, number, size)
  local full, own = blobs_full(th, number, size)
  if full then
    blobs_expire(1000)
    full, own = blobs_full(th, number, size)
  end
  while full and blob_evicted(own and EVICTABLE_OF .. th or EVICTABLE) do
    full, own = blobs_full(th, number, size)
  end
  if full then return full end
  add('blobs', number)
  add('blob_bytes', size)
  if number > 0 then count(P .. 'blob-numbers', th, number) end
  count(P .. 'blob-bytes', th, size)
end

-- Let one go last that gives way, as it is being read.
local function blob_touched(id)
  if call('ZSCORE', EVICTABLE, id) then
    local turn = add('eviction', 1)
    call('ZADD', EVICTABLE, turn, id)
    call('ZADD', EVICTABLE_OF .. call('HGET', blob_key(id), 'tenant_hash'), turn, id)
  end
end

function OPS.blob_create()
  local id, th, tenant, kind, keep, outside = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
  if call('EXISTS', blob_key(id)) == 1 then return {'ok'} end
  local refused = blobs_admit(th, 1, ENTRY)
  if refused then return refused end
  call('HSET', blob_key(id), 'tenant_hash', th, 'tenant', tenant, 'kind', kind, 'keep', keep,
    'charged', ENTRY, 'bytes', 0, 'outside', outside)
  -- What a writer has left that is no more.
  call('ZADD', BEXP, exact(now + C.writer_s), id)
  return {'ok'}
end

-- Count bytes, and keep them unless a store does.
function OPS.blob_write()
  local id, at, more, data = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
  local f = call('HMGET', blob_key(id), 'bytes', 'charged', 'tenant_hash')
  if not f[1] then return {'gone'} end
  if num(f[1]) ~= at then return {'ok'} end
  local size = at + more
  local charged = ENTRY + math.ceil(size / PAGE) * PAGE
  if charged > num(f[2]) then
    local refused = blobs_admit(f[3], 0, charged - num(f[2]))
    if refused then return refused end
  end
  if data ~= '' then call('RPUSH', P .. 'pieces:' .. id, data) end
  call('HSET', blob_key(id), 'bytes', size, 'charged', charged)
  call('ZADD', BEXP, exact(now + C.writer_s), id)
  return {'ok'}
end

function OPS.blob_commit()
  local id, sha256 = ARGV[4], ARGV[5]
  local key = blob_key(id)
  local f = call('HMGET', key, 'keep', 'sha256')
  if not f[1] then return {'gone'} end
  if f[2] then return {'ok'} end
  local expires = ''
  call('ZREM', BEXP, id)
  if f[1] ~= '' then
    expires = exact(now + tonumber(f[1]))
    call('ZADD', BEXP, expires, id)
  end
  call('HSET', key, 'sha256', sha256, 'created', exact(now), 'expires', expires)
  return {'ok'}
end

function OPS.blob_find()
  if not blob_there(ARGV[4]) then
    return {}
  end
  return call('HMGET', blob_key(ARGV[4]), 'bytes', 'sha256', 'tenant', 'kind', 'created', 'expires')
end

-- Some pieces of a blob, which need not be there for who has no job that holds it.
function OPS.blob_read()
  local id = ARGV[4]
  if not blob_there(id) and num(call('HGET', blob_key(id), 'holds')) == 0 then return {'gone'} end
  blob_touched(id)
  local f = call('HMGET', blob_key(id), 'outside', 'bytes', 'sha256')
  return {'ok', f[1] or '', f[2], f[3], unpack(call('LRANGE', P .. 'pieces:' .. id, ARGV[5], ARGV[6]))}
end

function OPS.blob_evictable()
  local id = ARGV[4]
  if blob_there(id) then
    call('ZADD', EVICTABLE, 0, id)
    blob_touched(id)
  end
end

function OPS.blob_delete() blob_dropped(ARGV[4]) end

function OPS.blob_used()
  blobs_expire(1000)
  if ARGV[4] == '' then return num(call('HGET', SUM, 'blob_bytes')) end
  return num(call('HGET', P .. 'blob-bytes', ARGV[4]))
end

-- The name of the engine's space in the store, which is the given one if there was none.
function OPS.blob_space()
  if ARGV[4] ~= '' then call('HSETNX', SUM, 'blob_space', ARGV[4]) end
  return call('HGET', SUM, 'blob_space') or ''
end

-- Some blobs whose bytes are to be deleted; another node is told of them only if that takes long.
function OPS.blob_garbage()
  local ids = call('ZRANGEBYSCORE', GARBAGE, '-inf', exact(now), 'LIMIT', 0, ARGV[4])
  for _, id in ipairs(ids) do call('ZADD', GARBAGE, exact(now + C.garbage_s), id) end
  return ids
end

function OPS.blob_swept()
  for _, id in ipairs(rest(4)) do call('ZREM', GARBAGE, id) end
end

-- Whether it is time to look for what has no record, and this is the node to do it. Not at once, for the
-- case that the state of the server is brought back.
function OPS.blob_look()
  local last = call('HGET', SUM, 'blob_looked')
  if last and now - tonumber(last) < tonumber(ARGV[4]) then return 0 end
  call('HSET', SUM, 'blob_looked', exact(now))
  return last and 1 or 0
end

-- Those of some blobs that have no record.
function OPS.blob_unknown()
  local unknown = {}
  for _, id in ipairs(rest(4)) do
    if call('EXISTS', blob_key(id)) == 0 then unknown[#unknown + 1] = id end
  end
  return unknown
end
